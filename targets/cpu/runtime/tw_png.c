/* Portable network graphics (ISO/IEC 15948): all colour types and depths, interlaced or not.  Transparency is left out; of
 * 16 bits the upper 8 are taken. */
#include "tw_image.h"

#include <stdlib.h>
#include <string.h>

#define TAG(a, b, c, d) ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

enum { GREY = 0, COLOUR = 2, PALETTE = 3, GREY_ALPHA = 4, COLOUR_ALPHA = 6 };

typedef struct png {
    uint32_t width, height, depth, kind, interlaced;
    uint32_t samples; /* of a pixel */
    bool has_palette;
    unsigned char palette[256][3];
    unsigned char *packed; /* the IDAT chunks, one behind the other */
    size_t packed_size;
} png;

/* The columns and rows of a pass of Adam7: first and step. */
static const unsigned char passes[7][4] = { { 0, 8, 0, 8 }, { 4, 8, 0, 8 }, { 0, 4, 4, 8 }, { 2, 4, 0, 4 },
                                            { 0, 2, 2, 4 }, { 1, 2, 0, 2 }, { 0, 1, 1, 2 } };
static const unsigned char whole[4] = { 0, 1, 0, 1 };

static uint32_t checksum(const unsigned char *at, size_t count)
{
    static const uint32_t nibble[16] = { /* CRC-32 of four bits, polynomial 0xEDB88320 */
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
        0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C, 0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C };
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < count; i++) {
        crc ^= at[i];
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return ~crc;
}

static bool read_header(tw_image *image, png *p, tw_bytes b)
{
    p->width = tw_u32be(&b);
    p->height = tw_u32be(&b);
    p->depth = tw_u8(&b);
    p->kind = tw_u8(&b);
    const uint32_t methods = tw_u16be(&b);
    p->interlaced = tw_u8(&b);
    const uint32_t depths[7] = { 1 | 2 | 4 | 8 | 16, 0, 8 | 16, 1 | 2 | 4 | 8, 8 | 16, 0, 8 | 16 };
    static const unsigned char samples[7] = { 1, 0, 3, 1, 2, 0, 4 };
    const bool power = p->depth && !(p->depth & (p->depth - 1));
    if (b.ran_out || p->kind > 6 || !power || !(depths[p->kind] & p->depth) || methods || p->interlaced > 1) {
        return tw_image_fail(image, "the header is damaged");
    }
    p->samples = samples[p->kind];
    return tw_image_begin(image, p->width, p->height, p->kind == GREY || p->kind == GREY_ALPHA ? 1 : 3);
}

/* Reads the chunks up to the end of the pixels. */
static bool read_chunks(tw_image *image, png *p)
{
    tw_bytes b = { image->data + 8, image->data + image->size, false };
    for (bool first = true;; first = false) {
        const uint32_t length = tw_u32be(&b);
        const unsigned char *named = b.at;
        const uint32_t tag = tw_u32be(&b);
        if (b.ran_out || tw_left(&b) < (size_t)length + 4) {
            return p->packed_size ? true : tw_image_fail(image, "the file ends too early");
        }
        const tw_bytes content = { b.at, b.at + length, false };
        tw_skip(&b, length);
        const bool critical = !(tag >> 29 & 1);
        if (critical && tw_u32be(&b) != checksum(named, (size_t)length + 4)) {
            return tw_image_fail(image, "the checksum of a chunk is wrong");
        }
        if (!critical) {
            tw_skip(&b, 4);
        }
        if (first != (tag == TAG('I', 'H', 'D', 'R'))) {
            return tw_image_fail(image, "the header must be the first chunk");
        }
        if (first && (length != 13 || !read_header(image, p, content))) {
            return tw_image_fail(image, "the header is damaged");
        }
        if (first) {
            p->packed = tw_image_room(image, image->size, 1);
            if (!p->packed) {
                return false;
            }
        }
        if (tag == TAG('P', 'L', 'T', 'E') && length <= 768 && length % 3 == 0) {
            memcpy(p->palette, content.at, length);
            p->has_palette = true;
        } else if (tag == TAG('I', 'D', 'A', 'T') && length) {
            memcpy(p->packed + p->packed_size, content.at, length);
            p->packed_size += length;
        } else if (tag == TAG('I', 'E', 'N', 'D')) {
            return true;
        }
    }
}

static unsigned char paeth(int32_t a, int32_t b, int32_t c)
{
    const int32_t pa = abs(b - c), pb = abs(a - c), pc = abs(a + b - 2 * c);
    return (unsigned char)(pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
}

/* Undoes the filter of a row in place; before: the row above, or zeros. */
static bool unfilter(uint32_t filter, unsigned char *row, const unsigned char *before, size_t count, size_t step)
{
    for (size_t i = 0; i < count; i++) {
        const unsigned char left = i >= step ? row[i - step] : 0, corner = i >= step ? before[i - step] : 0;
        switch (filter) {
        case 0:
            return true;
        case 1:
            row[i] = (unsigned char)(row[i] + left);
            break;
        case 2:
            row[i] = (unsigned char)(row[i] + before[i]);
            break;
        case 3:
            row[i] = (unsigned char)(row[i] + (left + before[i]) / 2);
            break;
        case 4:
            row[i] = (unsigned char)(row[i] + paeth(left, before[i], corner));
            break;
        default:
            return false;
        }
    }
    return true;
}

static void put_row(tw_image *image, const png *p, const unsigned char *row, const unsigned char *grid, uint32_t y)
{
    const uint32_t channels = image->channels, most = (1u << (p->depth < 8 ? p->depth : 8)) - 1;
    unsigned char *line = image->pixels + (size_t)y * image->width * channels;
    uint32_t column = 0;
    for (uint32_t x = grid[0]; x < image->width; x += grid[1], column++) {
        unsigned char *to = line + (size_t)x * channels;
        if (p->depth < 8) {
            const size_t bit = (size_t)column * p->depth;
            const uint32_t v = row[bit / 8] >> (8 - p->depth - bit % 8) & most;
            if (p->kind == PALETTE) {
                memcpy(to, p->palette[v], 3);
            } else {
                to[0] = (unsigned char)(v * 255 / most);
            }
            continue;
        }
        const unsigned char *from = row + (size_t)column * p->samples * (p->depth / 8);
        if (p->kind == PALETTE) {
            memcpy(to, p->palette[from[0]], 3);
            continue;
        }
        for (uint32_t c = 0; c < channels; c++) {
            to[c] = from[c * (p->depth / 8)];
        }
    }
}

static size_t extent(uint32_t size, const unsigned char *grid)
{
    return size > grid[0] ? (size - grid[0] + grid[1] - 1) / grid[1] : 0;
}

static size_t row_bytes(const png *p, size_t columns)
{
    return (columns * p->samples * p->depth + 7) / 8;
}

bool tw_png_decode(tw_image *image)
{
    png p;
    memset(&p, 0, sizeof p);
    if (!read_chunks(image, &p)) {
        return false;
    }
    if (p.kind == PALETTE && !p.has_palette) {
        return tw_image_fail(image, "the palette is missing");
    }
    const unsigned char (*grids)[4] = p.interlaced ? passes : &whole;
    const int count = p.interlaced ? 7 : 1;
    uint64_t total = 0;
    for (int i = 0; i < count; i++) {
        const size_t columns = extent(p.width, grids[i]), rows = extent(p.height, grids[i] + 2);
        total += columns ? (uint64_t)rows * (1 + row_bytes(&p, columns)) : 0;
    }
    unsigned char *raw = tw_image_room(image, total, 1);
    unsigned char *zeros = tw_image_room(image, row_bytes(&p, p.width), 1);
    if (!raw || !zeros || !tw_inflate(image, p.packed, p.packed_size, raw, total)) {
        return false;
    }
    const size_t step = p.samples * p.depth < 8 ? 1 : p.samples * p.depth / 8;
    for (int i = 0; i < count; i++) {
        const size_t columns = extent(p.width, grids[i]), bytes = row_bytes(&p, columns);
        const unsigned char *before = zeros;
        for (uint32_t y = grids[i][2]; columns && y < p.height; y += grids[i][3]) {
            const uint32_t filter = *raw++;
            if (!unfilter(filter, raw, before, bytes, step)) {
                return tw_image_fail(image, "a row has an unknown filter");
            }
            put_row(image, &p, raw, grids[i], y);
            before = raw;
            raw += bytes;
        }
    }
    return true;
}
