/* WebP, lossless (RFC 9649, section 6): bits and prefix codes. */
#include "tw_webp_codes.h"

#include <string.h>

#define FAST_BITS 8

static void fill(tw_webp_reader *r)
{
    while (r->count <= 48) {
        uint64_t byte = 0;
        if (r->in.at < r->in.end) {
            byte = *r->in.at++;
        } else {
            r->missing += r->missing < 1u << 30 ? 8 : 0;
        }
        r->held |= byte << r->count;
        r->count += 8;
    }
}

uint32_t tw_webp_bits(tw_webp_reader *r, uint32_t n)
{
    if (r->count < n) {
        fill(r);
    }
    const uint32_t value = (uint32_t)(r->held & ((1ull << n) - 1));
    r->held >>= n;
    r->count -= n;
    return value;
}

bool tw_webp_fine(const tw_webp_reader *r)
{
    return r->missing <= r->count && !r->image->failed;
}

bool tw_webp_damaged(tw_webp_reader *r)
{
    return tw_image_fail(r->image, "the compressed data is damaged or ends too early");
}

static void make_fast(tw_webp_codes *c)
{
    uint32_t code = 0, place = 0;
    for (uint32_t n = 1; n <= FAST_BITS; n++, code <<= 1) {
        for (uint32_t k = 0; k < c->counts[n]; k++, code++, place++) {
            uint32_t reversed = 0;
            for (uint32_t bit = 0; bit < n; bit++) {
                reversed |= (code >> bit & 1) << (n - 1 - bit);
            }
            for (uint32_t at = reversed; at < 1u << FAST_BITS; at += 1u << n) {
                c->fast[at] = (uint16_t)(c->symbols[place] << 4 | n);
            }
        }
    }
}

bool tw_webp_make_codes(tw_webp_reader *r, tw_webp_codes *c, const unsigned char *lengths, uint32_t count, bool quick)
{
    uint16_t next[TW_WEBP_MOST_BITS + 2] = { 0 };
    memset(c, 0, sizeof *c);
    for (uint32_t i = 0; i < count; i++) {
        c->counts[lengths[i]]++;
    }
    const uint32_t used = count - c->counts[0];
    c->counts[0] = 0;
    int32_t open = 1;
    for (uint32_t n = 1; n <= TW_WEBP_MOST_BITS; n++) {
        open = 2 * open - c->counts[n];
        if (open < 0) {
            return tw_webp_damaged(r);
        }
        next[n + 1] = (uint16_t)(next[n] + c->counts[n]);
    }
    if (!used || (open && used > 1)) {
        return tw_webp_damaged(r);
    }
    c->symbols = tw_image_room(r->image, used, sizeof *c->symbols);
    if (!c->symbols) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (lengths[i]) {
            c->symbols[next[lengths[i]]++] = (uint16_t)i;
        }
    }
    c->single = used == 1;
    if (quick && !c->single) {
        c->fast = tw_image_room(r->image, 1u << FAST_BITS, sizeof *c->fast);
        if (!c->fast) {
            return false;
        }
        make_fast(c);
    }
    return true;
}

uint32_t tw_webp_symbol(tw_webp_reader *r, const tw_webp_codes *c)
{
    if (c->single) {
        return c->symbols[0];
    }
    if (r->count < TW_WEBP_MOST_BITS) {
        fill(r);
    }
    const uint16_t found = c->fast ? c->fast[r->held & ((1u << FAST_BITS) - 1)] : 0;
    if (found) {
        r->held >>= found & 15;
        r->count -= found & 15;
        return found >> 4;
    }
    int32_t code = 0, first = 0, place = 0;
    for (uint32_t n = 1; n <= TW_WEBP_MOST_BITS; n++) {
        code |= (int32_t)(r->held >> (n - 1) & 1);
        const int32_t count = c->counts[n];
        if (code - first < count) {
            r->held >>= n;
            r->count -= n;
            return c->symbols[place + code - first];
        }
        place += count;
        first = (first + count) << 1;
        code <<= 1;
    }
    r->missing = 1u << 30;
    return 0;
}
