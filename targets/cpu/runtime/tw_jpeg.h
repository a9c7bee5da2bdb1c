/* JPEG (ITU-T T.81): what the parts of its decoder share. */
#ifndef TW_JPEG_H
#define TW_JPEG_H

#include "tw_image.h"

#define TW_JPEG_FAST_BITS 9

/* A Huffman table: canonical codes by length; `fast` holds value << 4 | length of short ones, 0 for others. */
typedef struct tw_jpeg_codes {
    bool is_set;
    int32_t first[17], count[17]; /* by length: the first code, how many */
    uint32_t place[17];           /* and where their values begin */
    unsigned char values[256];
    uint16_t fast[1 << TW_JPEG_FAST_BITS];
} tw_jpeg_codes;

typedef struct tw_jpeg_component {
    uint32_t id, h, v, table;
    uint32_t width, height;               /* in samples */
    uint32_t blocks_across, blocks_down;  /* whole units of all components */
    int16_t *coefficients;                /* blocks of 64, in natural order */
    unsigned char *samples;               /* 8 * blocks_across to a row */
    uint32_t dc, ac;                      /* tables of the scan */
    int32_t predicted;
} tw_jpeg_component;

typedef struct tw_jpeg {
    tw_image *image;
    tw_bytes in;
    uint32_t width, height, count;        /* count: of components; 0 before the frame's header */
    bool progressive, has_jfif, has_adobe;
    uint32_t adobe_transform, restart_interval, h_most, v_most, units_across, units_down;
    uint32_t scans;
    uint16_t quantizers[4][64];           /* in natural order */
    tw_jpeg_codes dc[4], ac[4];
    tw_jpeg_component components[4];
} tw_jpeg;

/* Where the coefficients in the order of the file lie in a block. */
extern const unsigned char tw_jpeg_order[64];

/* Reads a scan, from its header on; leaves `in` at the marker behind it. */
bool tw_jpeg_scan(tw_jpeg *j);
/* Makes a table from the 16 counts and the values at b. */
bool tw_jpeg_codes_read(tw_jpeg_codes *codes, tw_bytes *b);
/* From coefficients to pixels. */
bool tw_jpeg_pixels(tw_jpeg *j);

#endif
