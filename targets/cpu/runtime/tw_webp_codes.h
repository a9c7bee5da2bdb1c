/* WebP, lossless (RFC 9649): its bits and prefix codes. */
#ifndef TW_WEBP_CODES_H
#define TW_WEBP_CODES_H

#include "tw_image.h"

#define TW_WEBP_MOST_BITS 15

typedef struct tw_webp_reader {
    tw_image *image;
    tw_bytes in;
    uint64_t held;
    uint32_t count, missing;
} tw_webp_reader;

/* Canonical codes: symbols by length and value.  fast: symbol << 4 | length of short ones, or NULL. */
typedef struct tw_webp_codes {
    uint16_t counts[TW_WEBP_MOST_BITS + 1];
    uint16_t *symbols, *fast;
    bool single; /* one symbol, of no bits */
} tw_webp_codes;

/* The next bits, the lowest first; behind the end they are 0, and counted. */
uint32_t tw_webp_bits(tw_webp_reader *r, uint32_t n);
/* Whether all that was read is there. */
bool tw_webp_fine(const tw_webp_reader *r);
/* Always false: the data is damaged. */
bool tw_webp_damaged(tw_webp_reader *r);
/* Codes from lengths, which must be complete, or of one symbol.  quick: with a table for speed. */
bool tw_webp_make_codes(tw_webp_reader *r, tw_webp_codes *c, const unsigned char *lengths, uint32_t count, bool quick);
uint32_t tw_webp_symbol(tw_webp_reader *r, const tw_webp_codes *c);

#endif
