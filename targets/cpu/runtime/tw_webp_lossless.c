/* WebP, lossless (RFC 9649, section 3): prefix codes, backward references, a cache of colours, four transforms. */
#include "tw_webp.h"
#include "tw_webp_codes.h"

#include <string.h>

#define FEW_GROUPS 256 /* of codes: more of them have no tables for speed */
#define DEEPEST 2      /* images within an image: of transforms and of codes, which have none themselves */

enum { GREEN, RED, BLUE, ALPHA, DISTANCE, KINDS };
enum { PREDICTOR, COLOUR, SUBTRACT_GREEN, INDEXING };

typedef struct transform {
    uint32_t kind, bits, width; /* width: of the image before it */
    uint32_t *data;
} transform;

/* The lengths of the codes of an alphabet, themselves in codes. */
static bool read_lengths(tw_webp_reader *r, unsigned char *lengths, uint32_t size)
{
    static const unsigned char order[19] = { 17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    unsigned char own[19] = { 0 };
    tw_webp_codes c;
    const uint32_t count = tw_webp_bits(r, 4) + 4;
    for (uint32_t i = 0; i < count; i++) {
        own[order[i]] = (unsigned char)tw_webp_bits(r, 3);
    }
    if (!tw_webp_make_codes(r, &c, own, 19, false)) {
        return false;
    }
    uint32_t left = size;
    if (tw_webp_bits(r, 1)) {
        const uint32_t wide = 2 + 2 * tw_webp_bits(r, 3);
        left = 2 + tw_webp_bits(r, wide);
    }
    unsigned char last = 8;
    for (uint32_t i = 0; i < size && left; left--) {
        const uint32_t v = tw_webp_symbol(r, &c);
        if (!tw_webp_fine(r)) {
            return tw_webp_damaged(r);
        }
        if (v < 16) {
            lengths[i++] = (unsigned char)v;
            last = v ? (unsigned char)v : last;
            continue;
        }
        const uint32_t times = v == 16 ? 3 + tw_webp_bits(r, 2) : v == 17 ? 3 + tw_webp_bits(r, 3) : 11 + tw_webp_bits(r, 7);
        if (times > size - i) {
            return tw_webp_damaged(r);
        }
        memset(lengths + i, v == 16 ? last : 0, times);
        i += times;
    }
    return true;
}

static bool read_codes(tw_webp_reader *r, tw_webp_codes *c, uint32_t size, bool quick)
{
    unsigned char lengths[256 + 24 + 2048] = { 0 };
    if (tw_webp_bits(r, 1)) {
        const bool two = tw_webp_bits(r, 1), wide = tw_webp_bits(r, 1);
        const uint32_t first = tw_webp_bits(r, wide ? 8 : 1), second = two ? tw_webp_bits(r, 8) : first;
        if (first >= size || second >= size) {
            return tw_webp_damaged(r);
        }
        lengths[first] = lengths[second] = 1;
    } else if (!read_lengths(r, lengths, size)) {
        return false;
    }
    return tw_webp_make_codes(r, c, lengths, size, quick);
}

static uint32_t parts_of(uint32_t size, uint32_t bits_of_part)
{
    return (size + (1u << bits_of_part) - 1) >> bits_of_part;
}

/* A number behind its prefix (section 5.2.2). */
static uint32_t number(tw_webp_reader *r, uint32_t prefix)
{
    if (prefix < 4) {
        return prefix + 1;
    }
    const uint32_t more = (prefix - 2) >> 1;
    return ((2 + (prefix & 1)) << more) + tw_webp_bits(r, more) + 1;
}

/* How far back a code leads: the first 120 are places around the pixel, by their distance. */
static uint32_t distance_of(uint32_t code, uint32_t width)
{
    static const signed char places[120][2] = { /* columns to the left, rows up */
        { 0, 1 }, { 1, 0 }, { 1, 1 }, { -1, 1 }, { 0, 2 }, { 2, 0 }, { 1, 2 }, { -1, 2 }, { 2, 1 }, { -2, 1 }, { 2, 2 },
        { -2, 2 }, { 0, 3 }, { 3, 0 }, { 1, 3 }, { -1, 3 }, { 3, 1 }, { -3, 1 }, { 2, 3 }, { -2, 3 }, { 3, 2 }, { -3, 2 },
        { 0, 4 }, { 4, 0 }, { 1, 4 }, { -1, 4 }, { 4, 1 }, { -4, 1 }, { 3, 3 }, { -3, 3 }, { 2, 4 }, { -2, 4 }, { 4, 2 },
        { -4, 2 }, { 0, 5 }, { 3, 4 }, { -3, 4 }, { 4, 3 }, { -4, 3 }, { 5, 0 }, { 1, 5 }, { -1, 5 }, { 5, 1 }, { -5, 1 },
        { 2, 5 }, { -2, 5 }, { 5, 2 }, { -5, 2 }, { 4, 4 }, { -4, 4 }, { 3, 5 }, { -3, 5 }, { 5, 3 }, { -5, 3 }, { 0, 6 },
        { 6, 0 }, { 1, 6 }, { -1, 6 }, { 6, 1 }, { -6, 1 }, { 2, 6 }, { -2, 6 }, { 6, 2 }, { -6, 2 }, { 4, 5 }, { -4, 5 },
        { 5, 4 }, { -5, 4 }, { 3, 6 }, { -3, 6 }, { 6, 3 }, { -6, 3 }, { 0, 7 }, { 7, 0 }, { 1, 7 }, { -1, 7 }, { 5, 5 },
        { -5, 5 }, { 7, 1 }, { -7, 1 }, { 4, 6 }, { -4, 6 }, { 6, 4 }, { -6, 4 }, { 2, 7 }, { -2, 7 }, { 7, 2 }, { -7, 2 },
        { 3, 7 }, { -3, 7 }, { 7, 3 }, { -7, 3 }, { 5, 6 }, { -5, 6 }, { 6, 5 }, { -6, 5 }, { 8, 0 }, { 4, 7 }, { -4, 7 },
        { 7, 4 }, { -7, 4 }, { 8, 1 }, { 8, 2 }, { 6, 6 }, { -6, 6 }, { 8, 3 }, { 5, 7 }, { -5, 7 }, { 7, 5 }, { -7, 5 },
        { 8, 4 }, { 6, 7 }, { -6, 7 }, { 7, 6 }, { -7, 6 }, { 8, 5 }, { 7, 7 }, { -7, 7 }, { 8, 6 }, { 8, 7 },
    };
    if (code > 120) {
        return code - 120;
    }
    const int64_t back = places[code - 1][1] * (int64_t)width + places[code - 1][0];
    return back < 1 ? 1 : (uint32_t)back;
}

typedef struct groups {
    uint32_t bits, across, count; /* of parts of the image with codes of their own */
    uint32_t *map;
    tw_webp_codes (*codes)[KINDS];
} groups;

static bool read_image(tw_webp_reader *r, uint32_t *out, uint32_t width, uint32_t height, uint32_t depth);

static bool read_groups(tw_webp_reader *r, groups *g, uint32_t width, uint32_t height, uint32_t cache_bits, bool may_split)
{
    g->count = 1;
    if (may_split && tw_webp_bits(r, 1)) {
        g->bits = tw_webp_bits(r, 3) + 2;
        g->across = parts_of(width, g->bits);
        const uint32_t down = parts_of(height, g->bits);
        g->map = tw_image_room(r->image, (uint64_t)g->across * down, sizeof *g->map);
        if (!g->map || !read_image(r, g->map, g->across, down, DEEPEST)) {
            return false;
        }
        for (size_t i = 0; i < (size_t)g->across * down; i++) {
            g->map[i] = g->map[i] >> 8 & 0xFFFF;
            g->count = g->map[i] >= g->count ? g->map[i] + 1 : g->count;
        }
    }
    g->codes = tw_image_room(r->image, g->count, sizeof *g->codes);
    if (!g->codes) {
        return false;
    }
    for (uint32_t i = 0; i < g->count; i++) {
        for (uint32_t kind = 0; kind < KINDS; kind++) {
            const uint32_t cached = cache_bits ? 1u << cache_bits : 0;
            const uint32_t size = kind == GREEN ? 256 + 24 + cached : kind == DISTANCE ? 40 : 256;
            if (!read_codes(r, &g->codes[i][kind], size, g->count <= FEW_GROUPS) || !tw_webp_fine(r)) {
                return tw_webp_damaged(r);
            }
        }
    }
    return true;
}

/* Pixels (alpha, red, green, blue from the upper bits) of an image whose transforms are read already. */
static bool read_pixels(tw_webp_reader *r, uint32_t *out, uint32_t width, uint32_t height, bool may_split)
{
    groups g = { 0 };
    const bool cached = tw_webp_bits(r, 1);
    const uint32_t cache_bits = cached ? tw_webp_bits(r, 4) : 0;
    if (cache_bits > 11 || (cached && !cache_bits) || !tw_webp_fine(r)) {
        return tw_webp_damaged(r);
    }
    uint32_t *cache = tw_image_room(r->image, 1u << cache_bits, sizeof *cache);
    if (!cache || !read_groups(r, &g, width, height, cache_bits, may_split)) {
        return false;
    }
    const size_t total = (size_t)width * height;
    uint32_t x = 0, y = 0;
    for (size_t i = 0; i < total;) {
        const uint32_t group = g.map ? g.map[(size_t)(y >> g.bits) * g.across + (x >> g.bits)] : 0;
        const tw_webp_codes *c = g.codes[group];
        const uint32_t green = tw_webp_symbol(r, &c[GREEN]);
        size_t made = 1;
        if (green < 256) {
            const uint32_t red = tw_webp_symbol(r, &c[RED]), blue = tw_webp_symbol(r, &c[BLUE]), alpha = tw_webp_symbol(r, &c[ALPHA]);
            out[i] = alpha << 24 | red << 16 | green << 8 | blue;
        } else if (green < 256 + 24) {
            const uint32_t length = number(r, green - 256), code = number(r, tw_webp_symbol(r, &c[DISTANCE]));
            const uint32_t back = distance_of(code, width);
            if (back > i || length > total - i) {
                return tw_webp_damaged(r);
            }
            for (made = 0; made < length; made++) {
                out[i + made] = out[i + made - back];
            }
        } else {
            out[i] = cache[green - 280];
        }
        if (!tw_webp_fine(r)) {
            return tw_webp_damaged(r);
        }
        for (size_t k = 0; cache_bits && k < made; k++) {
            cache[0x1E35A7BDu * out[i + k] >> (32 - cache_bits)] = out[i + k];
        }
        i += made;
        x += (uint32_t)made;
        y += x / width;
        x %= width;
    }
    return true;
}

static bool read_image(tw_webp_reader *r, uint32_t *out, uint32_t width, uint32_t height, uint32_t depth)
{
    return read_pixels(r, out, width, height, depth < DEEPEST);
}

/* Reads a transform; *width becomes that of the image it is applied to. */
static bool read_transform(tw_webp_reader *r, transform *t, uint32_t *width, uint32_t height)
{
    t->width = *width;
    if (t->kind == SUBTRACT_GREEN) {
        return true;
    }
    if (t->kind != INDEXING) {
        t->bits = tw_webp_bits(r, 3) + 2;
        const uint32_t across = parts_of(*width, t->bits), down = parts_of(height, t->bits);
        t->data = tw_image_room(r->image, (uint64_t)across * down, sizeof *t->data);
        return t->data && read_image(r, t->data, across, down, DEEPEST);
    }
    const uint32_t count = tw_webp_bits(r, 8) + 1;
    t->data = tw_image_room(r->image, 256, sizeof *t->data); /* what is not in the palette is 0 */
    if (!t->data || !read_image(r, t->data, count, 1, DEEPEST)) {
        return false;
    }
    for (uint32_t i = 1; i < count; i++) {
        t->data[i] = tw_webp_add(t->data[i], t->data[i - 1]);
    }
    t->bits = count <= 2 ? 3 : count <= 4 ? 2 : count <= 16 ? 1 : 0;
    *width = parts_of(*width, t->bits);
    return true;
}

bool tw_webp_lossless(tw_image *image, tw_bytes in)
{
    tw_webp_reader r = { .image = image, .in = in };
    transform transforms[4] = { { 0 } };
    uint32_t count = 0, seen = 0;
    const uint32_t magic = tw_webp_bits(&r, 8), width = tw_webp_bits(&r, 14) + 1, height = tw_webp_bits(&r, 14) + 1;
    (void)tw_webp_bits(&r, 1); /* whether alpha is used */
    if (magic != 0x2F || tw_webp_bits(&r, 3) || !tw_webp_fine(&r)) {
        return tw_image_fail(image, "the header of the lossless image is damaged");
    }
    if (!tw_image_begin(image, width, height, 3)) {
        return false;
    }
    uint32_t inner = width;
    while (tw_webp_bits(&r, 1)) {
        transform *t = &transforms[count++];
        t->kind = tw_webp_bits(&r, 2);
        if (seen >> t->kind & 1 || !read_transform(&r, t, &inner, height)) {
            return tw_webp_damaged(&r);
        }
        seen |= 1u << t->kind;
    }
    uint32_t *pixels = tw_image_room(image, (uint64_t)width * height, sizeof *pixels);
    if (!pixels || !read_image(&r, pixels, inner, height, 0)) {
        return false;
    }
    while (count--) {
        const transform *t = &transforms[count];
        tw_webp_undo(t->kind, pixels, t->width, height, t->bits, t->data);
    }
    for (size_t i = 0; i < (size_t)width * height; i++) {
        for (int c = 0; c < 3; c++) {
            image->pixels[3 * i + (size_t)c] = (unsigned char)(pixels[i] >> (16 - 8 * c));
        }
    }
    return true;
}
