/* Inflate: the zlib format (RFC 1950) and the compression of RFC 1951. */
#include "tw_image.h"

#include <string.h>

#define MOST_BITS 15
#define FAST_BITS 9

typedef struct stream {
    tw_bytes in;
    uint64_t held;
    uint32_t count;   /* bits held */
    uint32_t missing; /* bits that were read behind the end */
    unsigned char *out;
    size_t used, room;
} stream;

/* Symbols of canonical Huffman codes, by length and then by value; `fast` holds symbol << 4 | length of short ones. */
typedef struct codes {
    uint16_t counts[MOST_BITS + 1], symbols[288], fast[1 << FAST_BITS];
} codes;

static void fill(stream *s)
{
    while (s->count <= 48) {
        uint64_t byte = 0;
        if (s->in.at < s->in.end) {
            byte = *s->in.at++;
        } else {
            s->missing += 8;
        }
        s->held |= byte << s->count;
        s->count += 8;
    }
}

static uint32_t bits(stream *s, uint32_t n)
{
    if (s->count < n) {
        fill(s);
    }
    const uint32_t value = (uint32_t)(s->held & ((1ull << n) - 1));
    s->held >>= n;
    s->count -= n;
    return value;
}

/* Whether bits were used that are not there. */
static bool ran_out(const stream *s)
{
    return s->missing > s->count;
}

/* Codes from lengths; false if they are over-subscribed, or incomplete with more than one code. */
static bool make_codes(codes *c, const unsigned char *lengths, uint32_t count)
{
    uint16_t next[MOST_BITS + 2] = { 0 };
    memset(c, 0, sizeof *c);
    for (uint32_t i = 0; i < count; i++) {
        c->counts[lengths[i]]++;
    }
    const uint32_t used = count - c->counts[0];
    c->counts[0] = 0;
    int32_t open = 1;
    for (uint32_t n = 1; n <= MOST_BITS; n++) {
        open = 2 * open - c->counts[n];
        if (open < 0) {
            return false;
        }
        next[n + 1] = (uint16_t)(next[n] + c->counts[n]);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (lengths[i]) {
            c->symbols[next[lengths[i]]++] = (uint16_t)i;
        }
    }
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
    return open == 0 || used <= 1;
}

/* The next symbol, -1 for a code that there is not. */
static int32_t symbol(stream *s, const codes *c)
{
    if (s->count < MOST_BITS) {
        fill(s);
    }
    const uint16_t found = c->fast[s->held & ((1u << FAST_BITS) - 1)];
    if (found) {
        s->held >>= found & 15;
        s->count -= found & 15;
        return found >> 4;
    }
    int32_t code = 0, first = 0, place = 0;
    for (uint32_t n = 1; n <= MOST_BITS; n++) {
        code |= (int32_t)(s->held >> (n - 1) & 1);
        const int32_t count = c->counts[n];
        if (code - first < count) {
            s->held >>= n;
            s->count -= n;
            return c->symbols[place + code - first];
        }
        place += count;
        first = (first + count) << 1;
        code <<= 1;
    }
    return -1;
}

static bool stored(stream *s)
{
    (void)bits(s, s->count % 8);
    const uint32_t length = bits(s, 16), check = bits(s, 16);
    if ((length ^ check) != 0xFFFF) {
        return false;
    }
    for (uint32_t i = 0; i < length && s->used < s->room; i++) {
        s->out[s->used++] = (unsigned char)bits(s, 8);
        if (ran_out(s)) {
            return false;
        }
    }
    return true;
}

static bool compressed(stream *s, const codes *literals, const codes *distances)
{
    static const uint16_t length_base[29] = { 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83,
                                              99, 115, 131, 163, 195, 227, 258 };
    static const unsigned char length_bits[29] = { 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5,
                                                   5, 5, 5, 0 };
    while (s->used < s->room) {
        const int32_t code = symbol(s, literals);
        if (code < 0 || ran_out(s)) {
            return false;
        }
        if (code < 256) {
            s->out[s->used++] = (unsigned char)code;
            continue;
        }
        if (code == 256) {
            return true;
        }
        if (code > 285) {
            return false;
        }
        uint32_t length = length_base[code - 257];
        length += bits(s, length_bits[code - 257]);
        const int32_t place = symbol(s, distances);
        if (place < 0 || place > 29) {
            return false;
        }
        const uint32_t more = place < 4 ? 0 : (uint32_t)place / 2 - 1;
        const uint32_t base = place < 4 ? (uint32_t)place + 1 : ((2u + ((uint32_t)place & 1)) << more) + 1;
        const size_t distance = base + bits(s, more);
        if (distance > s->used || ran_out(s)) {
            return false;
        }
        for (; length && s->used < s->room; length--, s->used++) {
            s->out[s->used] = s->out[s->used - distance];
        }
    }
    return true;
}

static bool read_codes(stream *s, codes *literals, codes *distances)
{
    static const unsigned char order[19] = { 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15 };
    unsigned char lengths[320] = { 0 };
    const uint32_t literal_count = bits(s, 5) + 257, distance_count = bits(s, 5) + 1, count = bits(s, 4) + 4;
    if (literal_count > 286 || distance_count > 30) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        lengths[order[i]] = (unsigned char)bits(s, 3);
    }
    if (!make_codes(literals, lengths, 19)) {
        return false;
    }
    memset(lengths, 0, sizeof lengths);
    for (uint32_t i = 0; i < literal_count + distance_count;) {
        const int32_t code = symbol(s, literals);
        if (code < 0 || ran_out(s)) {
            return false;
        }
        if (code < 16) {
            lengths[i++] = (unsigned char)code;
            continue;
        }
        if (code == 16 && i == 0) {
            return false;
        }
        const unsigned char value = code == 16 ? lengths[i - 1] : 0;
        const uint32_t times = code == 16 ? 3 + bits(s, 2) : code == 17 ? 3 + bits(s, 3) : 11 + bits(s, 7);
        if (times > literal_count + distance_count - i) {
            return false;
        }
        memset(lengths + i, value, times);
        i += times;
    }
    return lengths[256] && make_codes(literals, lengths, literal_count) &&
           make_codes(distances, lengths + literal_count, distance_count);
}

static bool fixed_codes(codes *literals, codes *distances)
{
    unsigned char lengths[288];
    memset(lengths, 8, 144);
    memset(lengths + 144, 9, 112);
    memset(lengths + 256, 7, 24);
    memset(lengths + 280, 8, 8);
    const bool made = make_codes(literals, lengths, 288);
    memset(lengths, 5, 32);
    return make_codes(distances, lengths, 32) && made;
}

bool tw_inflate(tw_image *image, const unsigned char *data, size_t size, unsigned char *out, size_t room)
{
    stream s = { .in = { data, data + size, false }, .out = out, .room = room };
    codes literals, distances;
    const uint32_t header = tw_u16be(&s.in);
    if ((header >> 8 & 15) != 8 || header % 31 || header & 0x20) {
        return tw_image_fail(image, "the compressed data has no zlib header");
    }
    bool last = false, fine = true;
    while (fine && !last && s.used < s.room) {
        last = bits(&s, 1);
        switch (bits(&s, 2)) {
        case 0:
            fine = stored(&s);
            break;
        case 1:
            fine = fixed_codes(&literals, &distances) && compressed(&s, &literals, &distances);
            break;
        case 2:
            fine = read_codes(&s, &literals, &distances) && compressed(&s, &literals, &distances);
            break;
        default:
            fine = false;
        }
        fine = fine && !ran_out(&s);
    }
    return (fine && s.used == s.room) || tw_image_fail(image, "the compressed data is damaged or too short");
}
