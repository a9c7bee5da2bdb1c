/* WebP (RFC 9649): the container.  Of an extended file the image is decoded, transparency is left out; animations are refused. */
#include "tw_webp.h"

#include <string.h>

bool tw_webp_decode(tw_image *image)
{
    tw_bytes b = { image->data + 12, image->data + image->size, false };
    if (memcmp(image->data, "RIFF", 4) != 0) {
        return tw_image_fail(image, "the header is damaged");
    }
    while (tw_left(&b) >= 8) {
        const unsigned char *tag = b.at;
        tw_skip(&b, 4);
        const uint32_t size = tw_u32le(&b);
        if (size > tw_left(&b)) {
            return tw_image_fail(image, "the file ends too early");
        }
        const tw_bytes content = { b.at, b.at + size, false };
        if (memcmp(tag, "VP8L", 4) == 0) {
            return tw_webp_lossless(image, content);
        }
        if (memcmp(tag, "VP8 ", 4) == 0) {
            return tw_vp8_decode(image, content);
        }
        if (memcmp(tag, "ANMF", 4) == 0) {
            return tw_image_fail(image, "animations are not supported");
        }
        tw_skip(&b, size);
        if (size & 1) {
            tw_skip(&b, 1);
        }
    }
    return tw_image_fail(image, "the file has no image");
}
