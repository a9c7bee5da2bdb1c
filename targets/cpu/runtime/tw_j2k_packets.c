/* JPEG 2000 (ITU-T T.800): packets (B.9, B.10): which code blocks have bytes in a layer, how many, and the bytes. */
#include "tw_j2k.h"

#define MOST_WORK ((uint64_t)1 << 28) /* blocks in headers of packets, most of which take no bits */

/* Bits of a packet's header; a byte behind 0xFF has seven. */
typedef struct header {
    tw_bytes *in;
    uint32_t byte, left;
} header;

static uint32_t bit(header *h)
{
    if (!h->left) {
        h->left = h->byte == 0xFF ? 7 : 8;
        h->byte = tw_u8(h->in);
    }
    h->left--;
    return h->byte >> h->left & 1;
}

static uint32_t bits(header *h, uint32_t count)
{
    uint32_t v = 0;
    while (count--) {
        v = v << 1 | bit(h);
    }
    return v;
}

/* Whether the number of a leaf is less than `limit`; it is known then. */
static bool below(header *h, tw_j2k_node *leaf, uint32_t limit)
{
    tw_j2k_node *path[34];
    uint32_t depth = 0, low = 0;
    for (tw_j2k_node *n = leaf; n && depth < 34; n = n->parent) {
        path[depth++] = n;
    }
    while (depth--) {
        tw_j2k_node *n = path[depth];
        n->low = n->low < low ? low : n->low;
        while (!n->known && n->low < limit && !h->in->ran_out) {
            if (bit(h)) {
                n->known = true;
            } else {
                n->low++;
            }
        }
        low = n->low;
    }
    return leaf->known && leaf->low < limit;
}

static uint32_t pass_count(header *h)
{
    if (!bit(h)) {
        return 1;
    }
    if (!bit(h)) {
        return 2;
    }
    uint32_t more = bits(h, 2);
    if (more < 3) {
        return 3 + more;
    }
    more = bits(h, 5);
    return more < 31 ? 6 + more : 37 + bits(h, 7);
}

/* How many passes the next segment of a block may have: those between two terminations of the coder (D.4, D.6). */
static uint32_t most_passes(const tw_j2k_block *b, uint32_t style)
{
    if (style & TW_J2K_TERMINATE) {
        return 1;
    }
    if (style & TW_J2K_BYPASS) {
        return !b->segment_most ? 10 : b->segment_most == 1 || b->segment_most == 10 ? 2 : 1;
    }
    return UINT32_MAX;
}

static uint32_t log2_of(uint32_t v)
{
    uint32_t n = 0;
    while (v >>= 1) {
        n++;
    }
    return n;
}

/* What a packet adds to a block: its chunks, whose bytes come later. */
static bool read_block(tw_image *image, header *h, tw_j2k_block *b, uint32_t style)
{
    uint32_t passes = pass_count(h);
    while (bit(h) && b->length_bits < 32) {
        b->length_bits++;
    }
    if (h->in->ran_out || b->length_bits >= 32) {
        return false;
    }
    while (passes) {
        if (!b->segment_most || b->segment_passes == b->segment_most) {
            b->segment += b->segment_most ? 1 : 0;
            b->segment_most = most_passes(b, style);
            b->segment_passes = 0;
        }
        const uint32_t room = b->segment_most - b->segment_passes, taken = passes < room ? passes : room;
        const uint32_t wide = b->length_bits + log2_of(taken);
        tw_j2k_chunk *chunk = tw_image_room(image, 1, sizeof *chunk);
        if (!chunk || wide > 32) {
            return false;
        }
        chunk->size = bits(h, wide);
        chunk->passes = taken;
        chunk->segment = b->segment;
        *(b->last ? &b->last->next : &b->first) = chunk;
        b->last = chunk;
        b->announced = b->announced ? b->announced : chunk;
        b->segment_passes += taken;
        b->passes += taken;
        passes -= taken;
    }
    return !h->in->ran_out;
}

/* Whether a block has bytes in this layer. */
static bool is_included(header *h, const tw_j2k_band *band, tw_j2k_precinct *p, uint32_t index, uint32_t layer)
{
    tw_j2k_block *b = &p->blocks[index];
    if (b->included) {
        return bit(h);
    }
    if (!below(h, &p->inclusion[index], layer + 1)) {
        return false;
    }
    uint32_t missing = 1;
    while (missing <= band->planes && !below(h, &p->planes[index], missing) && !h->in->ran_out) {
        missing++;
    }
    b->included = true;
    b->planes = band->planes - (missing - 1 < band->planes ? missing - 1 : band->planes);
    return true;
}

static void skip_marker(tw_bytes *in, uint32_t code, size_t size)
{
    if (tw_left(in) >= size && in->at[0] == 0xFF && in->at[1] == code) {
        tw_skip(in, size);
    }
}

/* The bytes of the chunks that a header announced. */
static bool read_bodies(tw_j2k_precinct *p, tw_bytes *in)
{
    for (uint32_t i = 0; i < p->across * p->down; i++) {
        for (tw_j2k_chunk *c = p->blocks[i].announced; c; c = c->next) {
            if (c->size > tw_left(in)) {
                return false;
            }
            c->data = in->at;
            tw_skip(in, c->size);
        }
        p->blocks[i].announced = NULL;
    }
    return true;
}

bool tw_j2k_read_packet(tw_j2k_tile *t, tw_j2k_resolution *r, uint32_t precinct, uint32_t layer, uint32_t style, tw_bytes *in)
{
    if (t->parameters.markers & 1) {
        skip_marker(in, 0x91, 6);
    }
    header h = { .in = in };
    const bool filled = bit(&h);
    for (uint32_t i = 0; filled && i < r->band_count; i++) {
        tw_j2k_precinct *p = &r->bands[i].precincts[precinct];
        const uint32_t count = p->across * p->down;
        *t->work += count;
        if (*t->work > MOST_WORK) {
            return tw_image_fail(t->image, "the image has too many layers of too many blocks");
        }
        for (uint32_t k = 0; k < count; k++) {
            if (is_included(&h, &r->bands[i], p, k, layer) && !read_block(t->image, &h, &p->blocks[k], style)) {
                return false;
            }
        }
        if (in->ran_out) {
            return false;
        }
    }
    if (h.byte == 0xFF && !h.left) { /* a header does not end with 0xFF */
        (void)tw_u8(in);
    }
    if (t->parameters.markers & 2) {
        skip_marker(in, 0x92, 2);
    }
    for (uint32_t i = 0; filled && i < r->band_count; i++) {
        if (!read_bodies(&r->bands[i].precincts[precinct], in)) {
            return false;
        }
    }
    return !in->ran_out;
}
