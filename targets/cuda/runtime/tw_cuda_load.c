/* Choosing machine code for the GPU at hand, and loading it. */
#include "tw_cuda.h"

#include <stdio.h>
#include <stdlib.h>

enum { ATTRIBUTE_MAJOR = 75, ATTRIBUTE_MINOR = 76, FUNCTION_MAX_DYNAMIC_SHARED = 8 };

/* The best image for an architecture: machine code of the newest one that it runs, else PTX; NULL if there is none.
 * Machine code runs on the same generation with the same or a higher minor number. */
static const tw_cuda_image *choose(const tw_cuda_image *images, uint32_t count, uint32_t arch)
{
    const tw_cuda_image *best = NULL;
    for (uint32_t i = 0; i < count; i++) {
        const tw_cuda_image *image = &images[i];
        bool fits = image->arch <= arch;
        if (!image->is_ptx) {
            fits = fits && (image->is_exact ? image->arch == arch : image->arch / 10 == arch / 10);
        } else if (image->is_exact) {
            fits = image->arch == arch;
        }
        const bool better = !best || (best->is_ptx && !image->is_ptx)
            || (best->is_ptx == image->is_ptx
                && (image->arch > best->arch || (image->arch == best->arch && image->is_exact)));
        if (fits && better) {
            best = image;
        }
    }
    return best;
}

static int32_t load_functions(tw_cuda_model *model)
{
    const tw_cuda_descriptor *d = model->descriptor;
    for (uint32_t i = 0; i < d->function_count; i++) {
        const tw_cuda_function *f = &d->functions[i];
        CUresult error = model->driver.module_function(&model->functions[i], model->modules[f->module], f->name);
        if (!error && f->dynamic_shared > d->static_shared_limit) {
            error = model->driver.function_attribute(model->functions[i], FUNCTION_MAX_DYNAMIC_SHARED,
                                                     (int)f->dynamic_shared);
        }
        if (error) {
            return tw_cuda_failed(model, f->name, error);
        }
    }
    return TW_OK;
}

int32_t tw_cuda_load(tw_cuda_model *model)
{
    const tw_cuda_descriptor *d = model->descriptor;
    const tw_driver *driver = &model->driver;
    int major = 0, minor = 0;
    CUresult error = driver->device_attribute(&major, ATTRIBUTE_MAJOR, model->device);
    error = error ? error : driver->device_attribute(&minor, ATTRIBUTE_MINOR, model->device);
    if (error) {
        return tw_cuda_failed(model, "compute capability of the GPU", error);
    }
    const uint32_t arch = (uint32_t)(10 * major + minor);
    model->modules = calloc(d->module_count ? d->module_count : 1, sizeof *model->modules);
    model->functions = calloc(d->function_count ? d->function_count : 1, sizeof *model->functions);
    if (!model->modules || !model->functions) {
        (void)snprintf(model->message, sizeof model->message, "no memory for the instance");
        return TW_NO_MEMORY;
    }
    for (uint32_t m = 0; m < d->module_count; m++) {
        const tw_cuda_image *image = choose(d->images + (size_t)m * d->image_count, d->image_count, arch);
        if (!image) {
            char name[128] = "GPU";
            (void)driver->device_name(name, (int)sizeof name, model->device);
            (void)snprintf(model->message, sizeof model->message, "this GPU (%s, sm_%u) cannot run the code, which was "
                           "compiled for %s; compile with --target cuda:sm_%u", name, arch, d->architectures, arch);
            return TW_WRONG_GPU;
        }
        error = driver->module_load(&model->modules[m], image->data);
        if (error) {
            return tw_cuda_failed(model, "loading the kernels", error);
        }
    }
    return load_functions(model);
}
