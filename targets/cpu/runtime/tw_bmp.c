/* Windows bitmaps: headers of OS/2 and of Windows (versions 3 to 5), 1, 2, 4, 8, 16, 24 and 32 bits a pixel, palettes, bit
 * fields, run lengths, both orders of rows. */
#include "tw_image.h"

#include <string.h>

enum { RGB = 0, RLE8 = 1, RLE4 = 2, BITFIELDS = 3, ALPHA_BITFIELDS = 6 };

typedef struct bitmap {
    uint32_t header, bits, compression, colours, offset;
    uint32_t mask[3]; /* red, green, blue */
    bool top_down;
    unsigned char palette[256][3];
} bitmap;

static uint32_t masked(uint32_t v, uint32_t mask)
{
    if (!mask) {
        return 0;
    }
    uint32_t shift = 0;
    while (!(mask >> shift & 1)) {
        shift++;
    }
    const uint32_t most = mask >> shift;
    return (uint32_t)((uint64_t)(v >> shift & most) * 255 / most);
}

static void put(tw_image *image, const bitmap *m, uint32_t x, uint32_t y, uint32_t index)
{
    const uint32_t row = m->top_down ? y : image->height - 1 - y;
    memcpy(image->pixels + ((size_t)row * image->width + x) * 3, m->palette[index & 255], 3);
}

static void read_row(tw_image *image, const bitmap *m, tw_bytes *b, uint32_t y)
{
    const uint32_t row = m->top_down ? y : image->height - 1 - y;
    unsigned char *to = image->pixels + (size_t)row * image->width * 3;
    uint32_t byte = 0, held = 0;
    for (uint32_t x = 0; x < image->width; x++, to += 3) {
        if (m->bits <= 8) {
            if (!held) {
                byte = tw_u8(b);
                held = 8;
            }
            held -= m->bits;
            memcpy(to, m->palette[byte >> held & ((1u << m->bits) - 1)], 3);
        } else if (m->bits == 24) {
            to[2] = (unsigned char)tw_u8(b);
            to[1] = (unsigned char)tw_u8(b);
            to[0] = (unsigned char)tw_u8(b);
        } else {
            const uint32_t v = m->bits == 16 ? tw_u16le(b) : tw_u32le(b);
            for (int c = 0; c < 3; c++) {
                to[c] = (unsigned char)masked(v, m->mask[c]);
            }
        }
    }
}

static bool read_rows(tw_image *image, const bitmap *m, tw_bytes *b)
{
    const uint64_t used = ((uint64_t)image->width * m->bits + 7) / 8, padding = (4 - used % 4) % 4;
    for (uint32_t y = 0; y < image->height; y++) {
        read_row(image, m, b, y);
        if (b->ran_out) {
            return tw_image_fail(image, "the file ends too early");
        }
        if (y + 1 < image->height) {
            tw_skip(b, padding);
        }
    }
    return true;
}

/* Run lengths of 4 or 8 bits a pixel.  What they do not reach has colour 0. */
static bool read_runs(tw_image *image, const bitmap *m, tw_bytes *b)
{
    const bool narrow = m->compression == RLE4;
    uint32_t x = 0, y = 0;
    for (uint64_t i = 0; i < (uint64_t)image->width * image->height; i++) {
        memcpy(image->pixels + 3 * i, m->palette[0], 3);
    }
    while (y < image->height) {
        const uint32_t count = tw_u8(b), second = tw_u8(b);
        if (b->ran_out) {
            return tw_image_fail(image, "the file ends too early");
        }
        if (count) {
            for (uint32_t i = 0; i < count && x < image->width; i++) {
                put(image, m, x++, y, narrow ? second >> (i % 2 ? 0 : 4) & 15 : second);
            }
        } else if (second == 0) {
            x = 0;
            y++;
        } else if (second == 1) {
            return true;
        } else if (second == 2) {
            x += tw_u8(b);
            y += tw_u8(b);
            if (x > image->width) {
                return tw_image_fail(image, "a run leaves the image");
            }
        } else {
            uint32_t byte = 0;
            for (uint32_t i = 0; i < second; i++) {
                byte = narrow && i % 2 ? byte : tw_u8(b);
                if (x < image->width) {
                    put(image, m, x++, y, narrow ? byte >> (i % 2 ? 0 : 4) & 15 : byte);
                }
            }
            if ((narrow ? (second + 1) / 2 : second) % 2) {
                tw_skip(b, 1);
            }
        }
    }
    return true;
}

static void read_palette(bitmap *m, tw_bytes b)
{
    const uint32_t most = 1u << m->bits;
    const uint32_t count = m->header == 12 || !m->colours || m->colours > most ? most : m->colours;
    for (uint32_t i = 0; i < count; i++) {
        for (int c = 2; c >= 0; c--) {
            m->palette[i][c] = (unsigned char)tw_u8(&b);
        }
        if (m->header > 12) {
            tw_skip(&b, 1);
        }
    }
}

static bool read_header(tw_image *image, bitmap *m, tw_bytes *b, uint64_t *width, uint64_t *height)
{
    int64_t w, h;
    tw_skip(b, 10);
    m->offset = tw_u32le(b);
    m->header = tw_u32le(b);
    if (m->header == 12) {
        w = tw_u16le(b);
        h = tw_u16le(b);
    } else {
        w = (int32_t)tw_u32le(b);
        h = (int32_t)tw_u32le(b);
    }
    const uint32_t planes = tw_u16le(b);
    m->bits = tw_u16le(b);
    if (m->header >= 40) {
        m->compression = tw_u32le(b);
        tw_skip(b, 12);
        m->colours = tw_u32le(b);
        tw_skip(b, 4);
    } else if (m->header >= 16) {
        tw_skip(b, m->header - 16);
    }
    if (m->bits == 16 || m->bits == 32) {
        static const uint32_t usual[2][3] = { { 0x7C00, 0x03E0, 0x001F }, { 0xFF0000, 0xFF00, 0xFF } };
        memcpy(m->mask, usual[m->bits == 32], sizeof m->mask);
        if (m->compression == BITFIELDS || m->compression == ALPHA_BITFIELDS) {
            for (int c = 0; c < 3; c++) {
                m->mask[c] = tw_u32le(b);
            }
        }
    }
    const bool known = m->bits == 1 || m->bits == 2 || m->bits == 4 || m->bits == 8 || m->bits == 16 || m->bits == 24 ||
                       m->bits == 32;
    if (b->ran_out || (m->header != 12 && m->header < 16) || planes != 1 || w <= 0 || !h) {
        return tw_image_fail(image, "the header is damaged");
    }
    const bool masks = (m->bits == 16 || m->bits == 32) && (m->compression == BITFIELDS || m->compression == ALPHA_BITFIELDS);
    const bool runs = (m->bits == 8 && m->compression == RLE8) || (m->bits == 4 && m->compression == RLE4);
    if (!known || !(m->compression == RGB || masks || runs)) {
        return tw_image_fail(image, "this number of bits or compression is not supported");
    }
    m->top_down = h < 0;
    *width = (uint64_t)w;
    *height = (uint64_t)(h < 0 ? -h : h);
    return true;
}

bool tw_bmp_decode(tw_image *image)
{
    tw_bytes b = { image->data, image->data + image->size, false };
    bitmap m;
    uint64_t width = 0, height = 0;
    memset(&m, 0, sizeof m);
    if (!read_header(image, &m, &b, &width, &height) || !tw_image_begin(image, width, height, 3)) {
        return false;
    }
    if (m.bits <= 8) {
        tw_bytes palette = { image->data, image->data + image->size, false };
        const bool behind = m.header == 40 && (m.compression == BITFIELDS || m.compression == ALPHA_BITFIELDS);
        tw_skip(&palette, (size_t)14 + m.header + (behind ? 12 : 0));
        read_palette(&m, palette);
    }
    if (m.offset > image->size) {
        return tw_image_fail(image, "the pixels lie behind the end of the file");
    }
    b = (tw_bytes){ image->data + m.offset, image->data + image->size, false };
    return m.compression == RLE8 || m.compression == RLE4 ? read_runs(image, &m, &b) : read_rows(image, &m, &b);
}
