/* JPEG 2000 (ITU-T T.800): what the parts of its decoder share.  Names of sizes are those of the standard where it has some:
 * x0, y0, x1, y1 are a rectangle without its right and lower border. */
#ifndef TW_J2K_H
#define TW_J2K_H

#include "tw_image.h"

#define TW_J2K_LEVELS 32
#define TW_J2K_COMPONENTS 4
#define TW_J2K_BANDS (3 * TW_J2K_LEVELS + 1)

enum { TW_J2K_BYPASS = 1, TW_J2K_RESET = 2, TW_J2K_TERMINATE = 4, TW_J2K_CAUSAL = 8, TW_J2K_SYMBOLS = 32 }; /* block styles */

typedef struct tw_j2k_rectangle {
    int64_t x0, y0, x1, y1;
} tw_j2k_rectangle;

/* How a component is coded: COD or COC, and QCD or QCC. */
typedef struct tw_j2k_coding {
    uint32_t levels, block_width, block_height, style; /* sizes as powers of 2 */
    bool reversible;
    uint32_t precinct_width[TW_J2K_LEVELS + 1], precinct_height[TW_J2K_LEVELS + 1];
    uint32_t quantization, guard_bits; /* quantization: 0 none, 1 derived, 2 for each band */
    uint32_t exponent[TW_J2K_BANDS], mantissa[TW_J2K_BANDS];
} tw_j2k_coding;

/* What a tile may say otherwise than the file. */
typedef struct tw_j2k_parameters {
    uint32_t order, layers, transform, markers; /* markers: 1 before packets (SOP), 2 behind their headers (EPH) */
    tw_j2k_coding coding[TW_J2K_COMPONENTS];
    bool own_coding[TW_J2K_COMPONENTS], own_quantization[TW_J2K_COMPONENTS]; /* COC and QCC come before COD and QCD */
} tw_j2k_parameters;

/* Bytes of a code block from one packet. */
typedef struct tw_j2k_chunk {
    struct tw_j2k_chunk *next;
    const unsigned char *data;
    uint32_t size, passes, segment;
} tw_j2k_chunk;

typedef struct tw_j2k_block {
    tw_j2k_rectangle at; /* in the band */
    bool included;
    uint32_t planes;     /* bit planes that are coded */
    uint32_t length_bits, passes, segment, segment_passes, segment_most;
    tw_j2k_chunk *first, *last, *announced; /* announced: those of a header whose bytes come behind it */
} tw_j2k_block;

/* Numbers of the nodes of a quad tree over code blocks (B.10.2). */
typedef struct tw_j2k_node {
    struct tw_j2k_node *parent;
    uint32_t value, low;
    bool known;
} tw_j2k_node;

typedef struct tw_j2k_precinct {
    uint32_t across, down;
    tw_j2k_block *blocks;
    tw_j2k_node *inclusion, *planes; /* leaves first */
} tw_j2k_precinct;

typedef struct tw_j2k_band {
    tw_j2k_rectangle at;
    uint32_t kind;       /* 0 LL, 1 HL, 2 LH, 3 HH */
    uint32_t planes;     /* the most bit planes that a coefficient may have */
    float step;
    tw_j2k_precinct *precincts;
} tw_j2k_band;

typedef struct tw_j2k_resolution {
    tw_j2k_rectangle at;
    uint32_t precincts_across, precincts_down, band_count;
    tw_j2k_band bands[3];
} tw_j2k_resolution;

typedef struct tw_j2k_component {
    tw_j2k_rectangle at;
    const tw_j2k_coding *coding;
    tw_j2k_resolution *resolutions;
    int32_t *whole;      /* coefficients, then samples: one of these two, in rows of x1 - x0 */
    float *real;
    uint32_t *done;      /* layers of each precinct that were read, by resolution: at first[r] */
    uint32_t first[TW_J2K_LEVELS + 1];
} tw_j2k_component;

typedef struct tw_j2k_tile {
    tw_image *image;
    tw_j2k_rectangle at;
    tw_j2k_parameters parameters;
    uint64_t *work;      /* that reading packets took, in all tiles */
    uint32_t count;      /* of components */
    tw_j2k_component components[TW_J2K_COMPONENTS];
} tw_j2k_tile;

typedef struct tw_j2k_size {
    uint32_t dx, dy, bits; /* distance of samples */
    bool is_signed;
} tw_j2k_size;

/* Markers between the header of a tile and its packets, and the packets. */
typedef struct tw_j2k_part {
    struct tw_j2k_part *next;
    tw_bytes markers, packets;
} tw_j2k_part;

typedef struct tw_j2k_decoder {
    tw_image *image;
    tw_bytes stream;
    tw_j2k_rectangle at, tile; /* the image, and the first tile, on the grid of reference */
    uint32_t count, across, down, ycc;
    tw_j2k_size sizes[TW_J2K_COMPONENTS];
    tw_j2k_parameters parameters;
    tw_j2k_part **first, **last;      /* of each tile */
    unsigned char *samples[TW_J2K_COMPONENTS]; /* of the whole image, in 8 bits */
    tw_j2k_rectangle areas[TW_J2K_COMPONENTS];
    uint64_t work;
} tw_j2k_decoder;

/* Always false: a header is damaged. */
bool tw_j2k_damaged(tw_j2k_decoder *d);
/* The codestream of the first box of it, and the colours that a header names. */
bool tw_j2k_find_stream(tw_j2k_decoder *d);
/* Reads markers up to `stop`; leaves b behind it. */
bool tw_j2k_read_markers(tw_j2k_decoder *d, tw_j2k_parameters *p, tw_bytes *b, uint32_t stop);
/* Finds the parts of all tiles; b is behind the first marker of one. */
bool tw_j2k_find_parts(tw_j2k_decoder *d, tw_bytes b);
/* Makes what a tile consists of.  sizes: of the components; bytes: of the tile's packets, of which each needs one. */
bool tw_j2k_make_tile(tw_j2k_tile *t, const tw_j2k_size *sizes, size_t bytes);
/* Reads the packets of a tile in the order of its progression. */
bool tw_j2k_read_packets(tw_j2k_tile *t, const tw_j2k_size *sizes, tw_bytes in);
/* One packet; false: there are no more bytes. */
bool tw_j2k_read_packet(tw_j2k_tile *t, tw_j2k_resolution *r, uint32_t precinct, uint32_t layer, uint32_t style, tw_bytes *in);
/* Decodes a block into the coefficients: whole numbers in halves. */
bool tw_j2k_decode_block(tw_image *image, const tw_j2k_block *b, uint32_t kind, uint32_t style, int32_t *out, size_t stride);
/* Inverse wavelet transforms of a component in place; line: room for its longer side. */
void tw_j2k_synthesize(tw_j2k_component *c, void *line);

static inline int64_t tw_j2k_up(int64_t v, uint32_t shift) /* v / 2^shift, rounded up */
{
    return (v + ((int64_t)1 << shift) - 1) >> shift;
}

#endif
