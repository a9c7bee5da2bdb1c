/* JPEG (ITU-T T.81): Huffman codes and the scans that bring the coefficients, sequential (annex F) and progressive (G). */
#include "tw_jpeg.h"

#include <string.h>

#define MOST_SCANS 500 /* none needs as many; each may cost the time of the whole image */

typedef struct scan {
    tw_jpeg *j;
    tw_bytes in;      /* up to the next marker, or the end of the file */
    uint64_t held;    /* bits, the next one on top of `count` */
    uint32_t count, missing;
    uint32_t low, high, from, to; /* successive approximation: point transforms; the band of coefficients */
    uint32_t end_run; /* blocks whose band has ended */
    uint32_t component_count;
    tw_jpeg_component *components[4];
} scan;

bool tw_jpeg_codes_read(tw_jpeg_codes *codes, tw_bytes *b)
{
    uint32_t total = 0;
    int32_t code = 0;
    memset(codes, 0, sizeof *codes);
    for (uint32_t n = 1; n <= 16; n++, code <<= 1) {
        codes->first[n] = code;
        codes->count[n] = (int32_t)tw_u8(b);
        codes->place[n] = total;
        total += (uint32_t)codes->count[n];
        code += codes->count[n];
        if (code > 1 << n || total > 256) {
            return false;
        }
    }
    for (uint32_t i = 0; i < total; i++) {
        codes->values[i] = (unsigned char)tw_u8(b);
    }
    for (uint32_t n = 1; n <= TW_JPEG_FAST_BITS; n++) {
        const uint32_t shift = TW_JPEG_FAST_BITS - n;
        for (uint32_t k = 0; k < (uint32_t)codes->count[n]; k++) {
            const uint32_t start = ((uint32_t)codes->first[n] + k) << shift;
            for (uint32_t i = 0; i < 1u << shift; i++) {
                codes->fast[start + i] = (uint16_t)(codes->values[codes->place[n] + k] << 4 | n);
            }
        }
    }
    codes->is_set = !b->ran_out;
    return codes->is_set;
}

/* Bits behind the end of the data are 0, and counted. */
static void fill(scan *s)
{
    while (s->count <= 48) {
        uint64_t byte = 0;
        if (s->in.at < s->in.end && (s->in.at[0] != 0xFF || (s->in.at + 1 < s->in.end && s->in.at[1] == 0))) {
            byte = *s->in.at;
            s->in.at += byte == 0xFF ? 2 : 1;
        } else {
            s->missing += s->missing < 1u << 30 ? 8 : 0;
        }
        s->held = s->held << 8 | byte;
        s->count += 8;
    }
}

static uint32_t bits(scan *s, uint32_t n)
{
    if (s->count < n) {
        fill(s);
    }
    s->count -= n;
    return (uint32_t)(s->held >> s->count & ((1u << n) - 1));
}

static bool ran_out(const scan *s)
{
    return s->missing > s->count;
}

/* The next value; 0 and `missing` for a code that there is not. */
static uint32_t value_of(scan *s, const tw_jpeg_codes *codes)
{
    if (s->count < 16) {
        fill(s);
    }
    const uint32_t ahead = (uint32_t)(s->held >> (s->count - 16) & 0xFFFF);
    const uint16_t found = codes->fast[ahead >> (16 - TW_JPEG_FAST_BITS)];
    if (found) {
        s->count -= found & 15;
        return found >> 4;
    }
    for (uint32_t n = TW_JPEG_FAST_BITS + 1; n <= 16; n++) {
        const int32_t code = (int32_t)(ahead >> (16 - n));
        if (code - codes->first[n] < codes->count[n] && code >= codes->first[n]) {
            s->count -= n;
            return codes->values[codes->place[n] + (uint32_t)(code - codes->first[n])];
        }
    }
    s->missing = 1u << 30;
    return 0;
}

/* A number of n bits whose first bit is its sign (table F.1). */
static int32_t extended(scan *s, uint32_t n)
{
    const int32_t v = (int32_t)bits(s, n);
    return n && v < 1 << (n - 1) ? v - (1 << n) + 1 : v;
}

static int32_t dc_of(scan *s, tw_jpeg_component *c)
{
    const uint32_t size = value_of(s, &s->j->dc[c->dc]);
    if (size > 15) {
        s->missing = 1u << 30;
        return 0;
    }
    c->predicted = (int16_t)(c->predicted + extended(s, size));
    return c->predicted;
}

static void sequential_block(scan *s, tw_jpeg_component *c, int16_t *block)
{
    const tw_jpeg_codes *codes = &s->j->ac[c->ac];
    block[0] = (int16_t)dc_of(s, c);
    for (uint32_t k = 1; k < 64; k++) {
        const uint32_t v = value_of(s, codes), size = v & 15, run = v >> 4;
        if (!size && run != 15) {
            return;
        }
        k += run;
        if (size && k < 64) {
            block[tw_jpeg_order[k]] = (int16_t)extended(s, size);
        }
    }
}

static void dc_block(scan *s, tw_jpeg_component *c, int16_t *block)
{
    if (s->high) {
        block[0] = (int16_t)(block[0] | (int32_t)(bits(s, 1) << s->low));
    } else {
        block[0] = (int16_t)(dc_of(s, c) * (1 << s->low));
    }
}

static void ac_block(scan *s, tw_jpeg_component *c, int16_t *block)
{
    if (s->end_run) {
        s->end_run--;
        return;
    }
    for (uint32_t k = s->from; k <= s->to; k++) {
        const uint32_t v = value_of(s, &s->j->ac[c->ac]), size = v & 15, run = v >> 4;
        if (!size && run != 15) {
            s->end_run = (1u << run) - 1 + bits(s, run);
            return;
        }
        k += run;
        if (size && k <= s->to) {
            block[tw_jpeg_order[k]] = (int16_t)(extended(s, size) * (1 << s->low));
        }
    }
}

/* The next bit of a coefficient that is not 0. */
static void correct(scan *s, int16_t *v)
{
    if (bits(s, 1) && !(*v & 1 << s->low)) {
        *v = (int16_t)(*v + (*v < 0 ? -1 : 1) * (1 << s->low));
    }
}

static void ac_refine_block(scan *s, tw_jpeg_component *c, int16_t *block)
{
    uint32_t k = s->from;
    while (!s->end_run && k <= s->to) {
        const uint32_t v = value_of(s, &s->j->ac[c->ac]), size = v & 15;
        uint32_t run = v >> 4;
        int32_t made = 0;
        if (size) {
            made = bits(s, 1) ? 1 << s->low : -(1 << s->low);
        } else if (run != 15) {
            s->end_run = (1u << run) + bits(s, run);
            break;
        }
        for (; k <= s->to; k++) {
            int16_t *at = &block[tw_jpeg_order[k]];
            if (*at) {
                correct(s, at);
            } else if (run-- == 0) {
                *at = (int16_t)made;
                k++;
                break;
            }
        }
        if (ran_out(s)) {
            return;
        }
    }
    if (s->end_run) {
        for (; k <= s->to; k++) {
            int16_t *at = &block[tw_jpeg_order[k]];
            if (*at) {
                correct(s, at);
            }
        }
        s->end_run--;
    }
}

static void one_block(scan *s, tw_jpeg_component *c, uint32_t x, uint32_t y)
{
    int16_t *block = c->coefficients + ((size_t)y * c->blocks_across + x) * 64;
    if (!s->j->progressive) {
        sequential_block(s, c, block);
    } else if (s->from == 0) {
        dc_block(s, c, block);
    } else if (s->high) {
        ac_refine_block(s, c, block);
    } else {
        ac_block(s, c, block);
    }
}

/* Skips to the data behind a restart marker; false if there is none. */
static bool restart(scan *s)
{
    while (tw_left(&s->in) >= 2 && !(s->in.at[0] == 0xFF && s->in.at[1] != 0 && s->in.at[1] != 0xFF)) {
        s->in.at++;
    }
    if (tw_left(&s->in) < 2 || s->in.at[1] < 0xD0 || s->in.at[1] > 0xD7) {
        return false;
    }
    s->in.at += 2;
    s->held = s->count = s->missing = s->end_run = 0;
    for (uint32_t i = 0; i < s->component_count; i++) {
        s->components[i]->predicted = 0;
    }
    return true;
}

/* All units of a scan: blocks of one component, or what belongs together of several. */
static bool read_units(scan *s)
{
    tw_jpeg_component *single = s->component_count == 1 ? s->components[0] : NULL;
    const uint32_t across = single ? (single->width + 7) / 8 : s->j->units_across;
    const uint32_t down = single ? (single->height + 7) / 8 : s->j->units_down;
    uint32_t since = 0;
    for (uint32_t y = 0; y < down; y++) {
        for (uint32_t x = 0; x < across; x++) {
            if (s->j->restart_interval && since == s->j->restart_interval) {
                since = 0;
                if (!restart(s)) {
                    return false;
                }
            }
            since++;
            if (single) {
                one_block(s, single, x, y);
            }
            for (uint32_t i = 0; !single && i < s->component_count; i++) {
                tw_jpeg_component *c = s->components[i];
                for (uint32_t v = 0; v < c->v; v++) {
                    for (uint32_t h = 0; h < c->h; h++) {
                        one_block(s, c, x * c->h + h, y * c->v + v);
                    }
                }
            }
            if (ran_out(s)) {
                return false;
            }
        }
    }
    return true;
}

static bool read_header(scan *s, tw_bytes b)
{
    tw_jpeg *j = s->j;
    s->component_count = tw_u8(&b);
    if (s->component_count < 1 || s->component_count > j->count) {
        return false;
    }
    for (uint32_t i = 0; i < s->component_count; i++) {
        const uint32_t id = tw_u8(&b), tables = tw_u8(&b);
        tw_jpeg_component *found = NULL;
        for (uint32_t k = 0; k < j->count; k++) {
            found = j->components[k].id == id && !found ? &j->components[k] : found;
        }
        for (uint32_t k = 0; k < i; k++) {
            found = s->components[k] == found ? NULL : found;
        }
        if (!found || (tables & 15) > 3 || tables >> 4 > 3) {
            return false;
        }
        found->dc = tables >> 4;
        found->ac = tables & 15;
        found->predicted = 0;
        s->components[i] = found;
    }
    s->from = tw_u8(&b);
    s->to = tw_u8(&b);
    const uint32_t approximation = tw_u8(&b);
    s->high = approximation >> 4;
    s->low = approximation & 15;
    if (!j->progressive) {
        s->from = s->high = s->low = 0;
        s->to = 63;
    }
    const bool band = s->from ? s->from <= s->to && s->to < 64 && s->component_count == 1 : !j->progressive || s->to == 0;
    return !b.ran_out && band && s->low <= 13 && (!s->high || s->high == s->low + 1);
}

static bool has_tables(const scan *s)
{
    for (uint32_t i = 0; i < s->component_count; i++) {
        const bool dc = s->from == 0 && !s->high, ac = s->to > 0;
        if ((dc && !s->j->dc[s->components[i]->dc].is_set) || (ac && !s->j->ac[s->components[i]->ac].is_set)) {
            return false;
        }
    }
    return true;
}

bool tw_jpeg_scan(tw_jpeg *j)
{
    const unsigned char *const start = j->in.at - 2;
    const uint32_t length = (uint32_t)start[0] << 8 | start[1];
    scan s = { .j = j };
    const tw_bytes header = { start + 2, start + length, false };
    if (!j->count || j->scans++ == MOST_SCANS || !read_header(&s, header) || !has_tables(&s)) {
        return tw_image_fail(j->image, "the header of a scan is damaged");
    }
    s.in = (tw_bytes){ start + length, j->in.end, false };
    const bool fine = read_units(&s);
    j->in.at = s.in.at;
    return fine || tw_image_fail(j->image, "the compressed data is damaged or ends too early");
}
