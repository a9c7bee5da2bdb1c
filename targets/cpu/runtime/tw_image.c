/* Image files in models: which format a file has, and the decoded image as an operator gives it out. */
#include "tw_image.h"

#include <stdio.h>
#include <string.h>

typedef struct format {
    const char *name;
    bool (*decode)(tw_image *image);
    const char *magic;
    size_t offset, length;
} format;

static const format formats[] = {
    { "JPEG", tw_jpeg_decode, "\xFF\xD8\xFF", 0, 3 },
    { "PNG", tw_png_decode, "\x89PNG\r\n\x1A\n", 0, 8 },
    { "WebP", tw_webp_decode, "WEBP", 8, 4 },
    { "TIFF", tw_tiff_decode, "II*\0", 0, 4 },
    { "TIFF", tw_tiff_decode, "MM\0*", 0, 4 },
    { "JPEG 2000", tw_jpeg2000_decode, "\xFF\x4F\xFF\x51", 0, 4 },
    { "JPEG 2000", tw_jpeg2000_decode, "\0\0\0\x0CjP  \r\n\x87\n", 0, 12 },
    { "BMP", tw_bmp_decode, "BM", 0, 2 },
    { "PNM", tw_pnm_decode, "P", 0, 1 },
};

bool tw_image_fail(tw_image *image, const char *what)
{
    if (!image->failed) {
        tw_support_fail(image->runtime, TW_WRONG_VALUE, "run: ImageDecoder: %s: %s", image->format, what);
    }
    image->failed = true;
    return false;
}

void *tw_image_room(tw_image *image, uint64_t count, size_t size)
{
    void *made = NULL;
    if (count > SIZE_MAX / 4 / size) {
        tw_support_fail(image->runtime, TW_NO_MEMORY, "run: ImageDecoder: %s: no memory", image->format);
    } else {
        made = tw_support_room(image->runtime, (size_t)count * size);
    }
    if (!made) {
        image->failed = true;
        return NULL;
    }
    memset(made, 0, (size_t)count * size);
    return made;
}

bool tw_image_begin(tw_image *image, uint64_t width, uint64_t height, uint32_t channels)
{
    if (!width || !height) {
        return tw_image_fail(image, "the image is empty");
    }
    const uint64_t most_width = (uint64_t)image->most_width, most_height = (uint64_t)image->most_height;
    const bool other = (image->fixed_width && width != most_width) || (image->fixed_height && height != most_height);
    if (other || width > most_width || height > most_height) {
        char message[200];
        (void)snprintf(message, sizeof message, "the image has %llu x %llu pixels (width x height), the model was compiled for "
                       "%s%lld x %s%lld", (unsigned long long)width, (unsigned long long)height,
                       image->fixed_width ? "" : "at most ", (long long)most_width,
                       image->fixed_height ? "" : "at most ", (long long)most_height);
        return tw_image_fail(image, message);
    }
    image->width = (uint32_t)width;
    image->height = (uint32_t)height;
    image->channels = channels;
    image->pixels = tw_image_room(image, width * height, channels);
    return image->pixels != NULL;
}

unsigned char tw_image_printed(int32_t ink, int32_t black)
{
    const int32_t light = 255 - black, product = ink * light + 128;
    return tw_byte_of(light - ((product + (product >> 8)) >> 8));
}

static bool decode(tw_image *image)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        const format *f = &formats[i];
        if (image->size >= f->offset + f->length && memcmp(image->data + f->offset, f->magic, f->length) == 0) {
            image->format = f->name;
            return f->decode(image);
        }
    }
    return tw_image_fail(image, "the bytes are no BMP, JPEG, JPEG 2000, PNG, PNM, TIFF or WebP file");
}

/* Luma of ITU-R BT.601 with weights in 1/65536. */
static unsigned char grey_of(const unsigned char *p)
{
    return (unsigned char)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 32768u) >> 16);
}

static void give_out(const tw_image *image, unsigned char *out, int64_t stride, int64_t order)
{
    const uint32_t channels = image->channels, step = order == 2 ? 1 : 3;
    const uint32_t red = order == 1 ? 2 : 0, blue = 2 - red;
    const unsigned char *from = image->pixels;
    for (uint32_t y = 0; y < image->height; y++) {
        unsigned char *to = out + (int64_t)y * stride * step;
        for (uint32_t x = 0; x < image->width; x++, from += channels, to += step) {
            if (step == 1) {
                to[0] = channels == 1 ? from[0] : grey_of(from);
            } else {
                to[red] = from[0];
                to[1] = from[channels == 1 ? 0 : 1];
                to[blue] = from[channels == 1 ? 0 : 2];
            }
        }
    }
}

/* Decodes `size` bytes into out, u8[most_height, most_width, channels], from its upper left corner.  order: 0 red, green, blue;
 * 1 blue, green, red; 2 grey.  fixed: 1 for a height, 2 for a width that must be the largest one. */
void tw_image_decode(void *runtime, unsigned char *out, int64_t *height, int64_t *width, const unsigned char *data,
                     int64_t size, int64_t most_height, int64_t most_width, int64_t order, int64_t fixed)
{
    tw_image image = {
        .runtime = runtime, .format = "file", .data = data, .size = (size_t)size, .most_width = most_width,
        .most_height = most_height, .fixed_width = (fixed & 2) != 0, .fixed_height = (fixed & 1) != 0,
    };
    *height = *width = 0;
    if (!decode(&image)) {
        return;
    }
    *height = image.height;
    *width = image.width;
    give_out(&image, out, most_width, order);
}
