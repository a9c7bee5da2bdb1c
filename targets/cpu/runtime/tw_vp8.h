/* VP8 key frames (RFC 6386), the lossy images of WebP: what the parts of the decoder share. */
#ifndef TW_VP8_H
#define TW_VP8_H

#include "tw_webp.h"

/* The boolean entropy decoder (section 7): value < range << bits. */
typedef struct tw_vp8_bits {
    tw_bytes in;
    uint64_t value;
    int32_t bits;
    uint32_t range, missing; /* bytes behind the end */
} tw_vp8_bits;

enum { TW_VP8_DC, TW_VP8_VERTICAL, TW_VP8_HORIZONTAL, TW_VP8_MOTION, TW_VP8_BLOCKS };

/* A macroblock of 16 x 16 pixels. */
typedef struct tw_vp8_macroblock {
    unsigned char segment, mode, chroma_mode; /* mode: TW_VP8_BLOCKS: one for each of its 16 blocks */
    unsigned char modes[16];
    bool skipped, has_coefficients;
} tw_vp8_macroblock;

typedef struct tw_vp8 {
    tw_image *image;
    tw_vp8_bits header, parts[8];
    uint32_t part_count, width, height, across, down; /* in pixels, in macroblocks */
    bool has_segments, reads_segments, absolute, has_deltas, simple_filter, may_skip;
    int32_t segment_quantizer[4], segment_level[4], level, sharpness, reference_delta, mode_delta;
    unsigned char segment_probabilities[3], skip_probability, probabilities[4][8][3][11];
    int32_t steps[4][3][2];           /* by segment: luma, its means, chroma; first coefficient, others */
    tw_vp8_macroblock *macroblocks;
    unsigned char *planes[3];         /* luma and chroma, whole macroblocks */
    size_t strides[3];
    unsigned char *modes_above;       /* of blocks, 4 for each macroblock */
    unsigned char modes_left[4];
    unsigned char (*filled_above)[9]; /* whether blocks have coefficients: 4 luma, 2 + 2 chroma, means */
    unsigned char filled_left[9];
} tw_vp8;

bool tw_vp8_bit(tw_vp8_bits *b, uint32_t probability);
/* The modes of a macroblock. */
void tw_vp8_read_modes(tw_vp8 *v, tw_vp8_macroblock *m, uint32_t x);
/* The coefficients of its 24 blocks, dequantized. */
void tw_vp8_read_coefficients(tw_vp8 *v, tw_vp8_macroblock *m, uint32_t x, tw_vp8_bits *b, int16_t coefficients[24][16]);
/* Predicts the pixels of a macroblock and adds what the coefficients say. */
void tw_vp8_reconstruct(tw_vp8 *v, const tw_vp8_macroblock *m, uint32_t x, uint32_t y, int16_t coefficients[24][16]);
/* Smooths the borders of blocks. */
void tw_vp8_filter(tw_vp8 *v);

#endif
