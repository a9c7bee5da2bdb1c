/* VP8 key frames (RFC 6386): the modes of macroblocks (sections 8, 10, 11) and their coefficients (13, 14.1). */
#include "tw_vp8.h"

#include "tw_vp8_tables.h"

/* Modes of blocks of 4 x 4 are numbered as in the tables: DC, TM, VE, HE, LD, RD, VR, VL, HD, HU. */
static unsigned char read_block_mode(tw_vp8_bits *b, const unsigned char p[9])
{
    static const signed char tree[18] = { 0, 2, -1, 4, -2, 6, 8, 12, -3, 10, -5, -6, -4, 14, -7, 16, -8, -9 };
    int i = 0;
    do {
        i = tree[i + tw_vp8_bit(b, p[i / 2])];
    } while (i > 0);
    return (unsigned char)-i;
}

void tw_vp8_read_modes(tw_vp8 *v, tw_vp8_macroblock *m, uint32_t x)
{
    static const unsigned char as_block[4] = { 0, 2, 3, 1 }; /* DC, vertical, horizontal, motion */
    tw_vp8_bits *b = &v->header;
    unsigned char *above = v->modes_above + 4 * (size_t)x, *left = v->modes_left;
    if (v->reads_segments) {
        const bool high = tw_vp8_bit(b, v->segment_probabilities[0]);
        m->segment = (unsigned char)(2 * high + tw_vp8_bit(b, v->segment_probabilities[1 + high]));
    }
    m->skipped = v->may_skip && tw_vp8_bit(b, v->skip_probability);
    if (!tw_vp8_bit(b, 145)) {
        m->mode = TW_VP8_BLOCKS;
        for (int i = 0; i < 16; i++) {
            const unsigned char mode = read_block_mode(b, tw_vp8_block_modes[above[i % 4]][left[i / 4]]);
            m->modes[i] = above[i % 4] = left[i / 4] = mode;
        }
    } else {
        const bool second = tw_vp8_bit(b, 156);
        const bool third = tw_vp8_bit(b, second ? 128 : 163);
        m->mode = (unsigned char)(second ? (third ? TW_VP8_MOTION : TW_VP8_HORIZONTAL) : third ? TW_VP8_VERTICAL : TW_VP8_DC);
        for (int i = 0; i < 4; i++) {
            above[i] = left[i] = as_block[m->mode];
        }
    }
    m->chroma_mode = TW_VP8_DC;
    if (tw_vp8_bit(b, 142)) {
        m->chroma_mode = TW_VP8_VERTICAL;
        if (tw_vp8_bit(b, 114)) {
            m->chroma_mode = tw_vp8_bit(b, 183) ? TW_VP8_MOTION : TW_VP8_HORIZONTAL;
        }
    }
}

/* A value of 5 or more: its category, then bits of their own probabilities. */
static int32_t read_large(tw_vp8_bits *b, const unsigned char *p)
{
    static const unsigned char more[6][12] = {
        { 159 }, { 165, 145 }, { 173, 148, 140 }, { 176, 155, 140, 135 }, { 180, 157, 141, 134, 130 },
        { 254, 254, 243, 230, 196, 177, 153, 140, 133, 130, 129 } };
    int category;
    if (!tw_vp8_bit(b, p[6])) {
        category = tw_vp8_bit(b, p[7]);
    } else {
        const bool high = tw_vp8_bit(b, p[8]);
        category = 2 + 2 * high + tw_vp8_bit(b, p[9 + high]);
    }
    static const int32_t least[6] = { 5, 7, 11, 19, 35, 67 };
    int32_t extra = 0;
    for (const unsigned char *at = more[category]; *at; at++) {
        extra = 2 * extra + tw_vp8_bit(b, *at);
    }
    return least[category] + extra;
}

static int32_t read_value(tw_vp8_bits *b, const unsigned char *p)
{
    if (!tw_vp8_bit(b, p[2])) {
        return 1;
    }
    if (tw_vp8_bit(b, p[3])) {
        return read_large(b, p);
    }
    if (!tw_vp8_bit(b, p[4])) {
        return 2;
    }
    return 3 + tw_vp8_bit(b, p[5]);
}

/* The coefficients of a block from number `first` on; whether there are any. */
static bool read_block(tw_vp8_bits *b, unsigned char probabilities[8][3][11], uint32_t context, uint32_t first,
                       const int32_t steps[2], int16_t *out)
{
    static const unsigned char bands[17] = { 0, 1, 2, 3, 6, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 7, 0 };
    static const unsigned char order[16] = { 0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15 };
    const unsigned char *p = probabilities[bands[first]][context];
    uint32_t n = first;
    while (n < 16 && tw_vp8_bit(b, p[0])) {
        while (!tw_vp8_bit(b, p[1])) { /* zeros, behind which the block cannot end */
            if (++n == 16) {
                return true;
            }
            p = probabilities[bands[n]][0];
        }
        const int32_t value = read_value(b, p), step = steps[n > 0];
        out[order[n]] = (int16_t)((tw_vp8_bit(b, 128) ? -value : value) * step);
        n++;
        p = probabilities[bands[n]][value > 1 ? 2 : 1];
    }
    return n > first;
}

/* The inverse Walsh-Hadamard transform (section 14.3): the first coefficients of the 16 luma blocks. */
static void spread_means(const int16_t in[16], int16_t coefficients[24][16])
{
    int32_t work[16];
    for (int i = 0; i < 4; i++) {
        const int32_t a = in[i] + in[12 + i], b = in[4 + i] + in[8 + i], c = in[4 + i] - in[8 + i], d = in[i] - in[12 + i];
        work[i] = a + b;
        work[4 + i] = c + d;
        work[8 + i] = a - b;
        work[12 + i] = d - c;
    }
    for (int i = 0; i < 4; i++) {
        const int32_t *w = work + 4 * i;
        const int32_t a = w[0] + w[3], b = w[1] + w[2], c = w[1] - w[2], d = w[0] - w[3];
        const int32_t made[4] = { a + b, c + d, a - b, d - c };
        for (int k = 0; k < 4; k++) {
            coefficients[4 * i + k][0] = (int16_t)((made[k] + 3) >> 3);
        }
    }
}

void tw_vp8_read_coefficients(tw_vp8 *v, tw_vp8_macroblock *m, uint32_t x, tw_vp8_bits *b, int16_t coefficients[24][16])
{
    unsigned char *above = v->filled_above[x], *left = v->filled_left;
    const bool has_means = m->mode != TW_VP8_BLOCKS;
    int32_t (*steps)[2] = v->steps[v->has_segments ? m->segment : 0];
    if (m->skipped) {
        for (int i = 0; i < (has_means ? 9 : 8); i++) {
            above[i] = left[i] = 0;
        }
        return;
    }
    bool any = false;
    if (has_means) {
        int16_t means[16] = { 0 };
        above[8] = left[8] = read_block(b, v->probabilities[1], above[8] + left[8], 0, steps[1], means);
        any = above[8];
        spread_means(means, coefficients);
    }
    for (int i = 0; i < 16; i++) {
        unsigned char *up = above + i % 4, *back = left + i / 4;
        *up = *back = read_block(b, v->probabilities[has_means ? 0 : 3], *up + *back, has_means, steps[0], coefficients[i]);
        any = any || *up;
    }
    for (int i = 0; i < 8; i++) {
        unsigned char *up = above + 4 + i / 4 * 2 + i % 2, *back = left + 4 + i / 4 * 2 + i % 4 / 2;
        *up = *back = read_block(b, v->probabilities[2], *up + *back, 0, steps[2], coefficients[16 + i]);
        any = any || *up;
    }
    m->has_coefficients = any;
}
