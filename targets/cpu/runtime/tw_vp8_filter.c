/* VP8 key frames (RFC 6386, section 15): the loop filters, which smooth the borders of blocks and macroblocks. */
#include "tw_vp8.h"

#include <stdlib.h>

/* What decides about the pixels of a border. */
typedef struct limits {
    int32_t edge, inside, variance;
} limits;

static int32_t clamped(int32_t v)
{
    return v < -128 ? -128 : v > 127 ? 127 : v;
}

static int32_t signed_of(unsigned char v)
{
    return (int32_t)v - 128;
}

static unsigned char byte_of(int32_t v)
{
    return (unsigned char)(clamped(v) + 128);
}

/* Moves the two pixels beside a border to each other; gives how far.  outer: by the pixels beside them too. */
static int32_t adjust(unsigned char *at, ptrdiff_t step, bool outer)
{
    const int32_t p1 = signed_of(at[-2 * step]), p0 = signed_of(at[-step]), q0 = signed_of(at[0]), q1 = signed_of(at[step]);
    const int32_t a = clamped((outer ? clamped(p1 - q1) : 0) + 3 * (q0 - p0));
    const int32_t down = clamped(a + 4) >> 3, up = clamped(a + 3) >> 3;
    at[0] = byte_of(q0 - down);
    at[-step] = byte_of(p0 + up);
    return down;
}

static bool is_edge(const unsigned char *at, ptrdiff_t step, int32_t limit)
{
    return abs(at[-step] - at[0]) * 2 + abs(at[-2 * step] - at[step]) / 2 <= limit;
}

static bool is_smooth(const unsigned char *at, ptrdiff_t step, const limits *l)
{
    if (!is_edge(at, step, l->edge)) {
        return false;
    }
    for (ptrdiff_t i = -4; i < 3; i++) {
        if (i != -1 && abs(at[i * step] - at[(i + 1) * step]) > l->inside) {
            return false;
        }
    }
    return true;
}

static bool varies(const unsigned char *at, ptrdiff_t step, int32_t threshold)
{
    return abs(at[-2 * step] - at[-step]) > threshold || abs(at[step] - at[0]) > threshold;
}

static void smooth_block(unsigned char *at, ptrdiff_t step, const limits *l)
{
    if (!is_smooth(at, step, l)) {
        return;
    }
    const bool high = varies(at, step, l->variance);
    const int32_t a = (adjust(at, step, high) + 1) >> 1;
    if (!high) {
        at[step] = byte_of(signed_of(at[step]) - a);
        at[-2 * step] = byte_of(signed_of(at[-2 * step]) + a);
    }
}

static void smooth_macroblock(unsigned char *at, ptrdiff_t step, const limits *l)
{
    if (!is_smooth(at, step, l)) {
        return;
    }
    if (varies(at, step, l->variance)) {
        (void)adjust(at, step, true);
        return;
    }
    const int32_t p1 = signed_of(at[-2 * step]), p0 = signed_of(at[-step]), q0 = signed_of(at[0]), q1 = signed_of(at[step]);
    const int32_t w = clamped(clamped(p1 - q1) + 3 * (q0 - p0));
    for (ptrdiff_t i = 0; i < 3; i++) {
        const int32_t a = clamped(((27 - 9 * (int32_t)i) * w + 63) >> 7);
        at[i * step] = byte_of(signed_of(at[i * step]) - a);
        at[(-1 - i) * step] = byte_of(signed_of(at[(-1 - i) * step]) + a);
    }
}

/* A border of `count` pixels; step: across it, along: to the next pixel. */
static void smooth_border(unsigned char *at, ptrdiff_t step, ptrdiff_t along, int count, const limits *l, bool outer)
{
    for (int i = 0; i < count; i++, at += along) {
        if (outer) {
            smooth_macroblock(at, step, l);
        } else {
            smooth_block(at, step, l);
        }
    }
}

static void simple_border(unsigned char *at, ptrdiff_t step, ptrdiff_t along, int32_t limit)
{
    for (int i = 0; i < 16; i++, at += along) {
        if (is_edge(at, step, limit)) {
            (void)adjust(at, step, true);
        }
    }
}

static void filter_simple(unsigned char *at, ptrdiff_t stride, int32_t level, int32_t inside, bool blocks, bool left, bool top)
{
    const int32_t outer = (level + 2) * 2 + inside, inner = level * 2 + inside;
    for (int pass = 0; pass < 2; pass++) {
        const ptrdiff_t step = pass ? stride : 1, along = pass ? 1 : stride;
        if (pass ? top : left) {
            simple_border(at, step, along, outer);
        }
        for (int i = 4; blocks && i < 16; i += 4) {
            simple_border(at + i * step, step, along, inner);
        }
    }
}

static void filter_normal(tw_vp8 *v, uint32_t x, uint32_t y, int32_t level, int32_t inside, bool blocks)
{
    const int32_t variance = level >= 40 ? 2 : level >= 15 ? 1 : 0;
    const limits outer = { (level + 2) * 2 + inside, inside, variance }, inner = { level * 2 + inside, inside, variance };
    for (uint32_t plane = 0; plane < 3; plane++) {
        const int size = plane ? 8 : 16;
        const ptrdiff_t stride = (ptrdiff_t)v->strides[plane];
        unsigned char *at = v->planes[plane] + (size_t)y * (size_t)size * v->strides[plane] + (size_t)x * (size_t)size;
        for (int pass = 0; pass < 2; pass++) {
            const ptrdiff_t step = pass ? stride : 1, along = pass ? 1 : stride;
            if (pass ? y : x) {
                smooth_border(at, step, along, size, &outer, true);
            }
            for (int i = 4; blocks && i < size; i += 4) {
                smooth_border(at + i * step, step, along, size, &inner, false);
            }
        }
    }
}

static int32_t level_of(const tw_vp8 *v, const tw_vp8_macroblock *m)
{
    int32_t level = v->level;
    if (v->has_segments) {
        level = (v->absolute ? 0 : level) + v->segment_level[m->segment];
    }
    level = level < 0 ? 0 : level > 63 ? 63 : level;
    if (v->has_deltas) {
        level += v->reference_delta + (m->mode == TW_VP8_BLOCKS ? v->mode_delta : 0);
    }
    return level < 0 ? 0 : level > 63 ? 63 : level;
}

void tw_vp8_filter(tw_vp8 *v)
{
    if (!v->level) {
        return;
    }
    for (uint32_t y = 0; y < v->down; y++) {
        for (uint32_t x = 0; x < v->across; x++) {
            const tw_vp8_macroblock *m = &v->macroblocks[(size_t)y * v->across + x];
            const int32_t level = level_of(v, m);
            int32_t inside = v->sharpness ? level >> (v->sharpness > 4 ? 2 : 1) : level;
            inside = v->sharpness && inside > 9 - v->sharpness ? 9 - v->sharpness : inside;
            inside = inside < 1 ? 1 : inside;
            const bool blocks = m->has_coefficients || m->mode == TW_VP8_BLOCKS;
            if (!level) {
                continue;
            }
            if (v->simple_filter) {
                unsigned char *at = v->planes[0] + (size_t)y * 16 * v->strides[0] + (size_t)x * 16;
                filter_simple(at, (ptrdiff_t)v->strides[0], level, inside, blocks, x > 0, y > 0);
            } else {
                filter_normal(v, x, y, level, inside, blocks);
            }
        }
    }
}
