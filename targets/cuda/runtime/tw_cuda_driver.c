/* The CUDA driver, opened at run time: a library without a GPU beside it still loads, and says what is missing.
 * The environment variable TILEWRIGHT_CUDA_DRIVER names another file than the system finds.
 */
#define _GNU_SOURCE
#include "tw_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = { "libcuda.so.1", "libcuda.so" };

const char *tw_driver_error(const tw_driver *driver, CUresult error, char *text, size_t room)
{
    const char *name = NULL, *meaning = NULL;
    if (driver->error_name(error, &name) != 0 || !name) {
        name = "CUDA error";
    }
    if (driver->error_string(error, &meaning) != 0 || !meaning) {
        meaning = "unknown";
    }
    (void)snprintf(text, room, "%s (%d: %s)", name, error, meaning);
    return text;
}

int32_t tw_driver_open(tw_driver *driver, char *message, size_t room)
{
    memset(driver, 0, sizeof *driver);
    const char *const named = secure_getenv("TILEWRIGHT_CUDA_DRIVER");
    if (named) {
        driver->library = dlopen(named, RTLD_NOW | RTLD_LOCAL);
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !named && !driver->library; i++) {
        driver->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (!driver->library) {
        (void)snprintf(message, room, "the CUDA driver (%.300s) cannot be loaded; run this on a machine with an NVIDIA GPU "
                       "and its driver", named ? named : names[0]);
        return TW_NO_DRIVER;
    }
#define TW_FIND(symbol, name, parameters)                                                                             \
    *(void **)(void *)&driver->name = dlsym(driver->library, #symbol);                                                \
    if (!driver->name) {                                                                                              \
        (void)snprintf(message, room, "the CUDA driver has no %s; install a newer driver (CUDA 12 or later)", #symbol); \
        tw_driver_close(driver);                                                                                      \
        return TW_NO_DRIVER;                                                                                          \
    }
    TW_DRIVER_FUNCTIONS(TW_FIND)
#undef TW_FIND
    const CUresult error = driver->init(0);
    if (error) {
        char text[256];
        (void)snprintf(message, room, "the CUDA driver does not start: %s",
                       tw_driver_error(driver, error, text, sizeof text));
        tw_driver_close(driver);
        return TW_NO_DRIVER;
    }
    return TW_OK;
}

void tw_driver_close(tw_driver *driver)
{
    if (driver->library) {
        (void)dlclose(driver->library);
        driver->library = NULL;
    }
}
