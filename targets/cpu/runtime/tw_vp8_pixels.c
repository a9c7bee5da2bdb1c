/* VP8 key frames (RFC 6386): prediction from neighbours (section 12) and the inverse transform (14.4). */
#include "tw_vp8.h"

#include <string.h>

enum { ABOVE = 127, LEFT = 129 }; /* what lies outside of the image */

/* The pixels around a square: corner, up to 20 above, up to 16 to the left. */
typedef struct border {
    unsigned char corner, above[20], left[16];
} border;

static int32_t scaled_up(int32_t v)
{
    return v + (int32_t)((int64_t)v * 20091 >> 16); /* sqrt(2) cos(pi / 8) */
}

static int32_t scaled(int32_t v)
{
    return (int32_t)((int64_t)v * 35468 >> 16); /* sqrt(2) sin(pi / 8) */
}

static void add_block(const int16_t *in, unsigned char *out, size_t stride)
{
    int32_t work[16];
    for (int i = 0; i < 4; i++) {
        const int32_t a = in[i] + in[8 + i], b = in[i] - in[8 + i];
        const int32_t c = scaled(in[4 + i]) - scaled_up(in[12 + i]), d = scaled_up(in[4 + i]) + scaled(in[12 + i]);
        work[i] = a + d;
        work[4 + i] = b + c;
        work[8 + i] = b - c;
        work[12 + i] = a - d;
    }
    for (int i = 0; i < 4; i++, out += stride) {
        const int32_t *w = work + 4 * i, a = w[0] + w[2] + 4, b = w[0] - w[2] + 4;
        const int32_t c = scaled(w[1]) - scaled_up(w[3]), d = scaled_up(w[1]) + scaled(w[3]);
        out[0] = tw_byte_of(out[0] + ((a + d) >> 3));
        out[1] = tw_byte_of(out[1] + ((b + c) >> 3));
        out[2] = tw_byte_of(out[2] + ((b - c) >> 3));
        out[3] = tw_byte_of(out[3] + ((a - d) >> 3));
    }
}

static void read_border(border *e, const unsigned char *at, size_t stride, uint32_t size, uint32_t x, uint32_t y)
{
    for (uint32_t i = 0; i < size; i++) {
        e->above[i] = y ? at[i - stride] : ABOVE;
        e->left[i] = x ? at[i * stride - 1] : LEFT;
    }
    e->corner = y ? (x ? at[-1 - (ptrdiff_t)stride] : LEFT) : ABOVE;
}

static void predict_motion(const border *e, uint32_t size, unsigned char *at, size_t stride)
{
    for (uint32_t y = 0; y < size; y++) {
        for (uint32_t x = 0; x < size; x++) {
            at[y * stride + x] = tw_byte_of(e->left[y] + e->above[x] - e->corner);
        }
    }
}

/* The mean of the borders that lie in the image, 128 without one. */
static unsigned char mean_of(const border *e, uint32_t size, uint32_t x, uint32_t y)
{
    uint32_t sum = 0, count = 0;
    for (uint32_t i = 0; i < size; i++) {
        sum += (y ? e->above[i] : 0u) + (x ? e->left[i] : 0u);
        count += (y ? 1u : 0u) + (x ? 1u : 0u);
    }
    return (unsigned char)(count ? (sum + count / 2) / count : 128);
}

static void predict_square(uint32_t mode, unsigned char *at, size_t stride, uint32_t size, uint32_t x, uint32_t y)
{
    border e;
    read_border(&e, at, stride, size, x, y);
    if (mode == TW_VP8_MOTION) {
        predict_motion(&e, size, at, stride);
        return;
    }
    const unsigned char mean = mean_of(&e, size, x, y);
    for (uint32_t i = 0; i < size; i++) {
        if (mode == TW_VP8_VERTICAL) {
            memcpy(at + i * stride, e.above, size);
        } else {
            memset(at + i * stride, mode == TW_VP8_HORIZONTAL ? e.left[i] : mean, size);
        }
    }
}

/* A block of 4 x 4 as lines along a direction: each row of `lines` says which of the smoothed border pixels a pixel is.
 * The border runs from the lower left over the corner (4) to the upper right (12).  Two pixels are smoothed as their mean (number
 * n for border pixels n and n + 1), three with weights 1, 2, 1 (number 16 + n around pixel n). */
static const unsigned char lines[6][16] = {
    { 22, 23, 24, 25, 23, 24, 25, 26, 24, 25, 26, 27, 25, 26, 27, 28 }, /* LD: from the upper right, 45 degrees */
    { 20, 21, 22, 23, 19, 20, 21, 22, 18, 19, 20, 21, 17, 18, 19, 20 }, /* RD: from the upper left */
    { 4, 5, 6, 7, 20, 21, 22, 23, 19, 4, 5, 6, 18, 20, 21, 22 },        /* VR: steeper */
    { 5, 6, 7, 8, 22, 23, 24, 25, 6, 7, 8, 26, 23, 24, 25, 27 },        /* VL */
    { 3, 20, 21, 22, 2, 19, 3, 20, 1, 18, 2, 19, 0, 17, 1, 18 },        /* HD: flatter */
    { 2, 18, 1, 17, 1, 17, 0, 16, 0, 16, 13, 13, 13, 13, 13, 13 },      /* HU: from the lower left; 13: the lowest pixel */
};

static void predict_lines(const unsigned char *line, const border *e, unsigned char *at, size_t stride)
{
    unsigned char edge[13], smooth[32] = { 0 };
    for (int i = 0; i < 4; i++) {
        edge[i] = e->left[3 - i];
    }
    edge[4] = e->corner;
    memcpy(edge + 5, e->above, 8);
    for (int i = 0; i < 13; i++) {
        const int32_t before = edge[i ? i - 1 : 0], behind = edge[i < 12 ? i + 1 : 12];
        smooth[16 + i] = (unsigned char)((before + 2 * edge[i] + behind + 2) >> 2);
        if (i < 12) {
            smooth[i] = (unsigned char)((edge[i] + behind + 1) >> 1);
        }
    }
    smooth[13] = edge[0];
    for (size_t i = 0; i < 16; i++) {
        at[i / 4 * stride + i % 4] = smooth[line[i]];
    }
}

static int32_t weighted(int32_t a, int32_t b, int32_t c)
{
    return (a + 2 * b + c + 2) >> 2;
}

static void predict_block(uint32_t mode, const border *e, unsigned char *at, size_t stride)
{
    uint32_t sum = 4;
    if (mode == 1) {
        predict_motion(e, 4, at, stride);
        return;
    }
    if (mode >= 4) {
        predict_lines(lines[mode - 4], e, at, stride);
        return;
    }
    for (int i = 0; i < 4; i++) {
        sum += e->above[i] + e->left[i];
    }
    for (size_t i = 0; i < 4; i++) {
        for (size_t k = 0; k < 4; k++) {
            const int32_t vertical = weighted(k ? e->above[k - 1] : e->corner, e->above[k], e->above[k + 1]);
            const int32_t flat = weighted(i ? e->left[i - 1] : e->corner, e->left[i], e->left[i < 3 ? i + 1 : 3]);
            at[i * stride + k] = (unsigned char)(mode == 0 ? (int32_t)(sum >> 3) : mode == 2 ? vertical : flat);
        }
    }
}

/* Blocks in the last column see the row above the macroblock to their upper right, whatever their row. */
static void reconstruct_blocks(tw_vp8 *v, const tw_vp8_macroblock *m, uint32_t x, uint32_t y, int16_t coefficients[24][16])
{
    const size_t stride = v->strides[0];
    unsigned char *const square = v->planes[0] + (size_t)y * 16 * stride + (size_t)x * 16;
    unsigned char right[4];
    for (size_t i = 0; i < 4; i++) {
        right[i] = !y ? ABOVE : square[(x + 1 < v->across ? 16 + i : 15) - stride];
    }
    for (uint32_t i = 0; i < 16; i++) {
        const uint32_t column = i % 4, row = i / 4;
        unsigned char *at = square + row * 4 * stride + column * 4;
        border e;
        read_border(&e, at, stride, 4, x + column, y + row);
        if (column == 3) {
            memcpy(e.above + 4, right, 4);
        } else if (y + row) {
            memcpy(e.above + 4, at + 4 - stride, 4);
        } else {
            memset(e.above + 4, ABOVE, 4);
        }
        predict_block(m->modes[i], &e, at, stride);
        add_block(coefficients[i], at, stride);
    }
}

void tw_vp8_reconstruct(tw_vp8 *v, const tw_vp8_macroblock *m, uint32_t x, uint32_t y, int16_t coefficients[24][16])
{
    if (m->mode == TW_VP8_BLOCKS) {
        reconstruct_blocks(v, m, x, y, coefficients);
    } else {
        unsigned char *at = v->planes[0] + (size_t)y * 16 * v->strides[0] + (size_t)x * 16;
        predict_square(m->mode, at, v->strides[0], 16, x, y);
        for (uint32_t i = 0; i < 16; i++) {
            add_block(coefficients[i], at + i / 4 * 4 * v->strides[0] + i % 4 * 4, v->strides[0]);
        }
    }
    for (uint32_t plane = 1; plane < 3; plane++) {
        const size_t stride = v->strides[plane];
        unsigned char *at = v->planes[plane] + (size_t)y * 8 * stride + (size_t)x * 8;
        predict_square(m->chroma_mode, at, stride, 8, x, y);
        for (uint32_t i = 0; i < 4; i++) {
            add_block(coefficients[12 + 4 * plane + i], at + i / 2 * 4 * stride + i % 2 * 4, stride);
        }
    }
}
