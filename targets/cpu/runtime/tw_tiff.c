/* TIFF 6.0: the first image of a file.  Strips and tiles, planes together or apart, both byte orders, 1 to 16 bits; not
 * compressed, PackBits, LZW or Deflate, with differences of neighbours (predictor 2); grey, colours, palettes, inks. */
#include "tw_tiff.h"

#include <string.h>

enum { WHITE_IS_ZERO = 0, BLACK_IS_ZERO = 1, COLOURS = 2, PALETTE = 3, INKS = 5 };
enum { NONE = 1, LZW = 5, DEFLATE = 8, PACKBITS = 32773, OLD_DEFLATE = 32946 };

typedef struct field {
    uint32_t type, count;
    size_t at; /* of the first value in the file */
} field;

typedef struct tiff {
    tw_image *image;
    bool big; /* byte order */
    uint32_t width, height, bits, samples, compression, photometric, planar, predictor, tiled;
    uint32_t part_width, part_height; /* of a strip or tile */
    uint32_t planes, samples_inside;  /* planes apart, samples of a pixel in one part */
    field offsets, sizes, colours;
    unsigned char palette[256][3];
} tiff;

static uint32_t number(const tiff *t, size_t at, uint32_t bytes)
{
    tw_bytes b = { t->image->data, t->image->data + t->image->size, false };
    tw_skip(&b, at);
    if (bytes == 1) {
        return tw_u8(&b);
    }
    if (bytes == 2) {
        return t->big ? tw_u16be(&b) : tw_u16le(&b);
    }
    return t->big ? tw_u32be(&b) : tw_u32le(&b);
}

static uint32_t size_of(uint32_t type)
{
    return type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0; /* bytes, short and long numbers */
}

static uint32_t value_of(const tiff *t, const field *f, uint32_t index)
{
    const uint32_t size = size_of(f->type);
    return index < f->count ? number(t, f->at + (size_t)index * size, size) : 0;
}

/* A field that must have the same value for all samples. */
static bool same(const tiff *t, const field *f, uint32_t *value)
{
    *value = value_of(t, f, 0);
    for (uint32_t i = 1; i < f->count && i < 16; i++) {
        if (value_of(t, f, i) != *value) {
            return false;
        }
    }
    return true;
}

static bool read_field(tiff *t, uint32_t tag, const field *f)
{
    const uint32_t v = value_of(t, f, 0);
    uint32_t format = 1;
    switch (tag) {
    case 256: t->width = v; return true;
    case 257: t->height = v; return true;
    case 258: return same(t, f, &t->bits) || tw_image_fail(t->image, "samples have different numbers of bits");
    case 259: t->compression = v; return true;
    case 262: t->photometric = v; return true;
    case 266: return v == 1 || tw_image_fail(t->image, "bits of reversed order are not supported");
    case 273: case 324: t->offsets = *f; return true;
    case 277: t->samples = v; return true;
    case 278: t->part_height = v; return true;
    case 279: case 325: t->sizes = *f; return true;
    case 284: t->planar = v; return true;
    case 317: t->predictor = v; return true;
    case 320: t->colours = *f; return true;
    case 322: t->part_width = v; t->tiled = 1; return true;
    case 323: t->part_height = v; return true;
    case 339: return (same(t, f, &format) && format == 1) || tw_image_fail(t->image, "only unsigned samples are supported");
    default: return true;
    }
}

static bool read_directory(tiff *t)
{
    const size_t size = t->image->size, at = number(t, 4, 4);
    if (at < 8 || at + 2 > size) {
        return tw_image_fail(t->image, "the directory is missing");
    }
    const uint32_t count = number(t, at, 2);
    for (uint32_t i = 0; i < count; i++) {
        const size_t entry = at + 2 + (size_t)i * 12;
        if (entry + 12 > size) {
            return tw_image_fail(t->image, "the directory ends too early");
        }
        field f = { number(t, entry + 2, 2), number(t, entry + 4, 4), entry + 8 };
        const uint64_t bytes = (uint64_t)f.count * size_of(f.type);
        if (!bytes) {
            continue; /* none of the fields that count here */
        }
        f.at = bytes > 4 ? number(t, entry + 8, 4) : f.at;
        if (f.at > size || bytes > size - f.at) {
            return tw_image_fail(t->image, "a field lies outside of the file");
        }
        if (!read_field(t, number(t, entry, 2), &f)) {
            return false;
        }
    }
    return true;
}

static bool read_palette(tiff *t)
{
    const uint32_t count = 1u << t->bits;
    if (t->colours.count < 3 * count) {
        return tw_image_fail(t->image, "the palette is missing");
    }
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t c = 0; c < 3; c++) {
            t->palette[i][c] = (unsigned char)(value_of(t, &t->colours, c * count + i) >> 8);
        }
    }
    return true;
}

static bool check(tiff *t)
{
    static const unsigned char least[] = { 1, 1, 3, 1, 0, 4 };
    const bool small = t->bits == 1 || t->bits == 2 || t->bits == 4 || t->bits == 8, wide = t->bits == 16;
    if (t->photometric > INKS || !least[t->photometric] || t->samples < least[t->photometric] || t->samples > 16) {
        return tw_image_fail(t->image, "this kind of colours is not supported");
    }
    if (!(small || (wide && t->photometric != PALETTE)) || (t->bits < 8 && t->samples > 1)) {
        return tw_image_fail(t->image, "this number of bits is not supported");
    }
    if ((t->predictor != 1 && t->predictor != 2) || (t->predictor == 2 && t->bits < 8)) {
        return tw_image_fail(t->image, "this predictor is not supported");
    }
    if (t->photometric == PALETTE && !read_palette(t)) {
        return false;
    }
    if (!tw_image_begin(t->image, t->width, t->height, t->photometric <= BLACK_IS_ZERO ? 1 : 3)) {
        return false;
    }
    if (!t->tiled) {
        t->part_width = t->width;
        t->part_height = t->part_height && t->part_height < t->height ? t->part_height : t->height;
    }
    /* parts that reach far beyond the image would cost time without end */
    if (!t->part_width || !t->part_height || t->part_width > t->width + 4096 || t->part_height > t->height + 4096) {
        return tw_image_fail(t->image, "tiles are much larger than the image");
    }
    t->planes = t->planar == 2 ? t->samples : 1;
    t->samples_inside = t->planar == 2 ? 1 : t->samples;
    return true;
}

static bool unpack(tiff *t, uint32_t index, unsigned char *out, size_t room)
{
    const size_t size = t->image->size, at = value_of(t, &t->offsets, index), bytes = value_of(t, &t->sizes, index);
    if (index >= t->offsets.count || index >= t->sizes.count || at > size || bytes > size - at) {
        return tw_image_fail(t->image, "pixels lie outside of the file");
    }
    const unsigned char *data = t->image->data + at;
    const tw_bytes b = { data, data + bytes, false };
    bool fine;
    switch (t->compression) {
    case NONE:
        fine = bytes >= room;
        if (fine) {
            memcpy(out, data, room);
        }
        break;
    case PACKBITS:
        fine = tw_tiff_packbits(b, out, room);
        break;
    case LZW:
        fine = tw_tiff_lzw(b, out, room);
        break;
    case DEFLATE:
    case OLD_DEFLATE:
        return tw_inflate(t->image, data, bytes, out, room);
    default:
        return tw_image_fail(t->image, "this compression is not supported; none, PackBits, LZW and Deflate are");
    }
    return fine || tw_image_fail(t->image, "the pixels are damaged or end too early");
}

/* Sums of the differences along a row. */
static void undo_differences(const tiff *t, unsigned char *row)
{
    const size_t count = (size_t)t->part_width * t->samples_inside, step = t->samples_inside;
    for (size_t i = step; i < count; i++) {
        if (t->bits == 8) {
            row[i] = (unsigned char)(row[i] + row[i - step]);
            continue;
        }
        unsigned char *at = row + 2 * i, *before = at - 2 * step;
        const int high = t->big ? 0 : 1, low = 1 - high;
        const uint32_t sum = ((uint32_t)at[high] << 8 | at[low]) + ((uint32_t)before[high] << 8 | before[low]);
        at[high] = (unsigned char)(sum >> 8);
        at[low] = (unsigned char)sum;
    }
}

/* Sample number i of a row in 8 bits; palette indices as they are. */
static unsigned char sample(const tiff *t, const unsigned char *row, size_t i)
{
    if (t->bits == 8) {
        return row[i];
    }
    if (t->bits == 16) {
        return row[2 * i + (t->big ? 0 : 1)];
    }
    const uint32_t most = (1u << t->bits) - 1, v = row[i * t->bits / 8] >> (8 - t->bits - i * t->bits % 8) & most;
    return (unsigned char)(t->photometric == PALETTE ? v : v * 255 / most);
}

static void put_row(const tiff *t, const unsigned char *row, uint32_t x0, uint32_t y, uint32_t plane)
{
    const uint32_t channels = t->image->channels;
    for (uint32_t x = x0; x < t->width && x - x0 < t->part_width; x++) {
        unsigned char *to = t->image->pixels + ((size_t)y * t->width + x) * channels;
        const size_t first = (size_t)(x - x0) * t->samples_inside;
        const unsigned char v = sample(t, row, first);
        if (t->photometric <= BLACK_IS_ZERO) {
            if (plane == 0) {
                to[0] = t->photometric == WHITE_IS_ZERO ? (unsigned char)(255 - v) : v;
            }
        } else if (t->photometric == PALETTE) {
            if (plane == 0) {
                memcpy(to, t->palette[v], 3);
            }
        } else if (t->photometric == INKS) {
            const unsigned char black = sample(t, row, first + 3);
            for (uint32_t c = 0; c < 3; c++) {
                to[c] = tw_image_printed(sample(t, row, first + c), black);
            }
        } else if (t->planes > 1) {
            if (plane < 3) {
                to[plane] = v;
            }
        } else {
            for (uint32_t c = 0; c < 3; c++) {
                to[c] = sample(t, row, first + c);
            }
        }
    }
}

bool tw_tiff_decode(tw_image *image)
{
    tiff t = { .image = image, .big = image->data[0] == 'M', .bits = 1, .samples = 1, .compression = NONE, .planar = 1,
               .predictor = 1, .photometric = BLACK_IS_ZERO };
    if (!read_directory(&t) || !check(&t)) {
        return false;
    }
    if (t.photometric == INKS && t.planes > 1) {
        return tw_image_fail(image, "planes of inks are not supported");
    }
    const size_t row_bytes = ((size_t)t.part_width * t.samples_inside * t.bits + 7) / 8;
    unsigned char *part = tw_image_room(image, row_bytes, t.part_height);
    if (!part) {
        return false;
    }
    uint32_t index = 0;
    for (uint32_t plane = 0; plane < t.planes; plane++) {
        for (uint32_t y0 = 0; y0 < t.height; y0 += t.part_height) {
            for (uint32_t x0 = 0; x0 < t.width; x0 += t.part_width, index++) {
                const uint32_t rows = t.height - y0 < t.part_height ? t.height - y0 : t.part_height;
                if (!unpack(&t, index, part, row_bytes * (t.tiled ? t.part_height : rows))) {
                    return false;
                }
                for (uint32_t y = 0; y < rows; y++) {
                    if (t.predictor == 2) {
                        undo_differences(&t, part + y * row_bytes);
                    }
                    put_row(&t, part + y * row_bytes, x0, y0 + y, plane);
                }
            }
        }
    }
    return true;
}
