/* WebP (RFC 9649): what the parts of its decoder share. */
#ifndef TW_WEBP_H
#define TW_WEBP_H

#include "tw_image.h"

/* The content of a chunk "VP8L". */
bool tw_webp_lossless(tw_image *image, tw_bytes in);
/* The content of a chunk "VP8 ": a key frame of RFC 6386. */
bool tw_vp8_decode(tw_image *image, tw_bytes in);

/* The sum of two pixels, channel by channel, modulo 256. */
uint32_t tw_webp_add(uint32_t a, uint32_t b);
/* Undoes a transform in place.  width: of the image without it; bits: of its blocks, or of indices in a pixel. */
void tw_webp_undo(uint32_t kind, uint32_t *pixels, uint32_t width, uint32_t height, uint32_t bits, const uint32_t *data);

#endif
