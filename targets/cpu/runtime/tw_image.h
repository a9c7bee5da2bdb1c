/* Image files in models: what decoders share.
 *
 * A decoder reads hostile bytes: it takes them by the readers below, which give zeros behind the end and note it, and it asks
 * `tw_image_begin` before it allocates anything that depends on the size of the image.  The first failure is the one that is
 * told; after it, a decoder returns false as soon as it can.
 */
#ifndef TW_IMAGE_H
#define TW_IMAGE_H

#include "tw_support.h"

/* What is left of a part of a file. */
typedef struct tw_bytes {
    const unsigned char *at, *end;
    bool ran_out; /* more was read than there is */
} tw_bytes;

typedef struct tw_image {
    void *runtime;
    const char *format;      /* for messages */
    const unsigned char *data;
    size_t size;             /* of the file */
    int64_t most_width, most_height;
    bool fixed_width, fixed_height; /* the image must have the largest */
    bool failed;
    uint32_t width, height, channels; /* 1 (grey) or 3 (red, green, blue) */
    unsigned char *pixels;            /* height x width x channels, written by the decoder */
} tw_image;

/* The formats; each true, or false and the image has failed. */
bool tw_bmp_decode(tw_image *image);
bool tw_pnm_decode(tw_image *image);
bool tw_png_decode(tw_image *image);
bool tw_jpeg_decode(tw_image *image);
bool tw_tiff_decode(tw_image *image);
bool tw_webp_decode(tw_image *image);
bool tw_jpeg2000_decode(tw_image *image);

/* Fails with a message: what is wrong with the file.  Always false. */
bool tw_image_fail(tw_image *image, const char *what);
/* Takes the size of the image and makes `pixels`, zeroed; false, and fails, for one that is empty, or not of a
 * size that it may have. */
bool tw_image_begin(tw_image *image, uint64_t width, uint64_t height, uint32_t channels);
/* Zeroed memory for count elements of `size` bytes; NULL, and fails, when there is none. */
void *tw_image_room(tw_image *image, uint64_t count, size_t size);

/* One colour of a pixel that is printed with ink (0 none, 255 all) beside black. */
unsigned char tw_image_printed(int32_t ink, int32_t black);

/* Inflates a zlib stream (RFC 1950, 1951) of `size` bytes into out; fails when it is damaged or gives less than `room` bytes.
 * What it has beyond them is ignored. */
bool tw_inflate(tw_image *image, const unsigned char *data, size_t size, unsigned char *out, size_t room);

static inline uint32_t tw_u8(tw_bytes *b)
{
    if (b->at < b->end) {
        return *b->at++;
    }
    b->ran_out = true;
    return 0;
}

static inline uint32_t tw_u16be(tw_bytes *b)
{
    const uint32_t high = tw_u8(b);
    return high << 8 | tw_u8(b);
}

static inline uint32_t tw_u32be(tw_bytes *b)
{
    const uint32_t high = tw_u16be(b);
    return high << 16 | tw_u16be(b);
}

static inline uint32_t tw_u16le(tw_bytes *b)
{
    const uint32_t low = tw_u8(b);
    return tw_u8(b) << 8 | low;
}

static inline uint32_t tw_u32le(tw_bytes *b)
{
    const uint32_t low = tw_u16le(b);
    return tw_u16le(b) << 16 | low;
}

static inline size_t tw_left(const tw_bytes *b)
{
    return (size_t)(b->end - b->at);
}

static inline void tw_skip(tw_bytes *b, size_t count)
{
    if (count > tw_left(b)) {
        b->ran_out = true;
        count = tw_left(b);
    }
    b->at += count;
}

static inline unsigned char tw_byte_of(int32_t v)
{
    return (unsigned char)(v < 0 ? 0 : v > 255 ? 255 : v);
}

#endif
