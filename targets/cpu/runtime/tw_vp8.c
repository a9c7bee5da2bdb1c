/* VP8 key frames (RFC 6386): the header of the frame (section 9), the order of work, and colours. */
#include "tw_vp8.h"

#include <string.h>

#include "tw_vp8_tables.h"

#define LENIENT 2 /* bytes that may be missing: an encoder may leave out the last ones */

bool tw_vp8_bit(tw_vp8_bits *b, uint32_t probability)
{
    while (b->bits < 0) {
        uint64_t byte = 0;
        if (b->in.at < b->in.end) {
            byte = *b->in.at++;
        } else {
            b->missing += b->missing < 1u << 30;
        }
        b->value = b->value << 8 | byte;
        b->bits += 8;
    }
    const uint32_t split = 1 + ((b->range - 1) * probability >> 8);
    const bool bit = b->value >= (uint64_t)split << b->bits;
    if (bit) {
        b->value -= (uint64_t)split << b->bits;
        b->range -= split;
    } else {
        b->range = split;
    }
    while (b->range < 128) {
        b->range <<= 1;
        b->bits--;
    }
    return bit;
}

static tw_vp8_bits start(tw_bytes in)
{
    return (tw_vp8_bits){ .in = in, .bits = -8, .range = 255 };
}

static uint32_t number(tw_vp8_bits *b, uint32_t count)
{
    uint32_t v = 0;
    while (count--) {
        v = v << 1 | tw_vp8_bit(b, 128);
    }
    return v;
}

static int32_t signed_number(tw_vp8_bits *b, uint32_t count)
{
    const int32_t v = (int32_t)number(b, count);
    return tw_vp8_bit(b, 128) ? -v : v;
}

/* A number that may be left out, then it is 0. */
static int32_t optional(tw_vp8_bits *b, uint32_t count)
{
    return tw_vp8_bit(b, 128) ? signed_number(b, count) : 0;
}

static void read_segments(tw_vp8 *v)
{
    tw_vp8_bits *b = &v->header;
    v->has_segments = number(b, 1);
    if (!v->has_segments) {
        return;
    }
    v->reads_segments = number(b, 1);
    if (number(b, 1)) {
        v->absolute = number(b, 1);
        for (int i = 0; i < 4; i++) {
            v->segment_quantizer[i] = optional(b, 7);
        }
        for (int i = 0; i < 4; i++) {
            v->segment_level[i] = optional(b, 6);
        }
    }
    for (int i = 0; i < 3; i++) {
        v->segment_probabilities[i] = (unsigned char)(v->reads_segments && number(b, 1) ? number(b, 8) : 255);
    }
}

static void read_filter(tw_vp8 *v)
{
    tw_vp8_bits *b = &v->header;
    v->simple_filter = number(b, 1);
    v->level = (int32_t)number(b, 6);
    v->sharpness = (int32_t)number(b, 3);
    v->has_deltas = number(b, 1);
    if (!v->has_deltas || !number(b, 1)) {
        return;
    }
    for (int i = 0; i < 8; i++) { /* of four reference frames, then of four modes: a key frame has the first of each */
        const bool given = number(b, 1);
        const int32_t delta = given ? signed_number(b, 6) : 0;
        if (given && i % 4 == 0) {
            *(i ? &v->mode_delta : &v->reference_delta) = delta;
        }
    }
}

static int32_t clamped(int32_t v, int32_t most)
{
    return v < 0 ? 0 : v > most ? most : v;
}

static void read_steps(tw_vp8 *v)
{
    tw_vp8_bits *b = &v->header;
    const int32_t base = (int32_t)number(b, 7);
    int32_t deltas[5]; /* luma first, means first, means others, chroma first, chroma others */
    for (int i = 0; i < 5; i++) {
        deltas[i] = optional(b, 4);
    }
    for (int s = 0; s < 4; s++) {
        const int32_t own = v->segment_quantizer[s], q = !v->has_segments ? base : v->absolute ? own : base + own;
        int32_t (*steps)[2] = v->steps[s];
        steps[0][0] = tw_vp8_dc_steps[clamped(q + deltas[0], 127)];
        steps[0][1] = tw_vp8_ac_steps[clamped(q, 127)];
        steps[1][0] = tw_vp8_dc_steps[clamped(q + deltas[1], 127)] * 2;
        steps[1][1] = tw_vp8_ac_steps[clamped(q + deltas[2], 127)] * 155 / 100;
        steps[1][1] = steps[1][1] < 8 ? 8 : steps[1][1];
        steps[2][0] = tw_vp8_dc_steps[clamped(q + deltas[3], 117)];
        steps[2][1] = tw_vp8_ac_steps[clamped(q + deltas[4], 127)];
    }
}

static void read_probabilities(tw_vp8 *v)
{
    tw_vp8_bits *b = &v->header;
    (void)number(b, 1); /* whether they are kept for later frames */
    unsigned char *to = &v->probabilities[0][0][0][0];
    const unsigned char *usual = &tw_vp8_coefficients[0][0][0][0], *update = &tw_vp8_updates[0][0][0][0];
    for (size_t i = 0; i < sizeof v->probabilities; i++) {
        to[i] = tw_vp8_bit(b, update[i]) ? (unsigned char)number(b, 8) : usual[i];
    }
    v->may_skip = number(b, 1);
    v->skip_probability = (unsigned char)(v->may_skip ? number(b, 8) : 0);
}

/* The partitions of coefficients behind the header. */
static bool read_parts(tw_vp8 *v, tw_bytes b)
{
    tw_bytes sizes = b;
    tw_skip(&b, 3 * (size_t)(v->part_count - 1));
    for (uint32_t i = 0; i < v->part_count; i++) {
        size_t size = tw_left(&b);
        if (i + 1 < v->part_count) {
            const uint32_t low = tw_u16le(&sizes), given = low | tw_u8(&sizes) << 16;
            if (given > size) {
                return tw_image_fail(v->image, "the file ends too early");
            }
            size = given;
        }
        v->parts[i] = start((tw_bytes){ b.at, b.at + size, false });
        tw_skip(&b, size);
    }
    return !b.ran_out || tw_image_fail(v->image, "the file ends too early");
}

static bool read_header(tw_vp8 *v, tw_bytes b)
{
    const uint32_t low = tw_u16le(&b), tag = low | tw_u8(&b) << 16, size = tag >> 5;
    const uint32_t first = tw_u16le(&b), magic = first | tw_u8(&b) << 16;
    const uint32_t width = tw_u16le(&b) & 0x3FFF, height = tw_u16le(&b) & 0x3FFF;
    if (b.ran_out || tag & 1 || (tag >> 1 & 7) > 3 || magic != 0x2A019D || size > tw_left(&b)) {
        return tw_image_fail(v->image, "the header of the lossy image is damaged");
    }
    if (!tw_image_begin(v->image, width, height, 3)) {
        return false;
    }
    v->width = width;
    v->height = height;
    v->across = (width + 15) / 16;
    v->down = (height + 15) / 16;
    v->header = start((tw_bytes){ b.at, b.at + size, false });
    tw_skip(&b, size);
    (void)number(&v->header, 2); /* colour space; whether clamping is needed */
    read_segments(v);
    read_filter(v);
    v->part_count = 1u << number(&v->header, 2);
    read_steps(v);
    read_probabilities(v);
    return read_parts(v, b);
}

static bool make_room(tw_vp8 *v)
{
    const uint64_t count = (uint64_t)v->across * v->down;
    for (int i = 0; i < 3; i++) {
        v->strides[i] = (size_t)v->across * (i ? 8 : 16);
        v->planes[i] = tw_image_room(v->image, count * (i ? 64 : 256), 1);
    }
    v->macroblocks = tw_image_room(v->image, count, sizeof *v->macroblocks);
    v->modes_above = tw_image_room(v->image, (uint64_t)v->across * 4, 1);
    v->filled_above = tw_image_room(v->image, v->across, sizeof *v->filled_above);
    return !v->image->failed;
}

static bool read_macroblocks(tw_vp8 *v)
{
    int16_t coefficients[24][16];
    for (uint32_t y = 0; y < v->down; y++) {
        tw_vp8_bits *b = &v->parts[y & (v->part_count - 1)];
        memset(v->modes_left, 0, sizeof v->modes_left);
        memset(v->filled_left, 0, sizeof v->filled_left);
        for (uint32_t x = 0; x < v->across; x++) {
            tw_vp8_macroblock *m = &v->macroblocks[(size_t)y * v->across + x];
            tw_vp8_read_modes(v, m, x);
            memset(coefficients, 0, sizeof coefficients);
            tw_vp8_read_coefficients(v, m, x, b, coefficients);
            tw_vp8_reconstruct(v, m, x, y, coefficients);
        }
        if (v->header.missing > LENIENT || b->missing > LENIENT) {
            return tw_image_fail(v->image, "the compressed data ends too early");
        }
    }
    return true;
}

/* Chroma at the width of luma: between the centres of its samples, in rows and columns; near: the row that is closer. */
static void widen(const unsigned char *near, const unsigned char *far, uint32_t width, unsigned char *out)
{
    out[0] = (unsigned char)((3 * near[0] + far[0] + 2) >> 2);
    const uint32_t pairs = (width - 1) / 2;
    for (uint32_t x = 1; x <= pairs; x++) {
        const int32_t sum = near[x - 1] + near[x] + far[x - 1] + far[x] + 8;
        const int32_t rising = (sum + 2 * (near[x] + far[x - 1])) >> 3, falling = (sum + 2 * (near[x - 1] + far[x])) >> 3;
        out[2 * x - 1] = (unsigned char)((rising + near[x - 1]) >> 1);
        out[2 * x] = (unsigned char)((falling + near[x]) >> 1);
    }
    if (width % 2 == 0) {
        out[width - 1] = (unsigned char)((3 * near[pairs] + far[pairs] + 2) >> 2);
    }
}

static unsigned char from_fraction(int32_t v)
{
    return tw_byte_of(v < 0 ? -1 : v >> 6);
}

/* BT.601 of a limited range; factors in 1/16384, rounded as libwebp does. */
static void to_rgb(int32_t y, int32_t u, int32_t v, unsigned char *out)
{
    const int32_t luma = y * 19077 >> 8;
    out[0] = from_fraction(luma + (v * 26149 >> 8) - 14234);
    out[1] = from_fraction(luma - (u * 6419 >> 8) - (v * 13320 >> 8) + 8708);
    out[2] = from_fraction(luma + (u * 33050 >> 8) - 17685);
}

static bool give_pixels(tw_vp8 *v)
{
    unsigned char *rows[2] = { tw_image_room(v->image, v->width, 1), tw_image_room(v->image, v->width, 1) };
    const uint32_t last = (v->height + 1) / 2 - 1;
    if (!rows[0] || !rows[1]) {
        return false;
    }
    for (uint32_t y = 0; y < v->height; y++) {
        const uint32_t near = y / 2, far = y % 2 ? (near < last ? near + 1 : near) : near ? near - 1 : near;
        for (int i = 0; i < 2; i++) {
            const unsigned char *plane = v->planes[i + 1];
            widen(plane + near * v->strides[i + 1], plane + far * v->strides[i + 1], v->width, rows[i]);
        }
        const unsigned char *luma = v->planes[0] + y * v->strides[0];
        unsigned char *out = v->image->pixels + (size_t)y * v->width * 3;
        for (uint32_t x = 0; x < v->width; x++) {
            to_rgb(luma[x], rows[0][x], rows[1][x], out + 3 * (size_t)x);
        }
    }
    return true;
}

bool tw_vp8_decode(tw_image *image, tw_bytes in)
{
    tw_vp8 *v = tw_image_room(image, 1, sizeof *v);
    if (!v) {
        return false;
    }
    v->image = image;
    if (!read_header(v, in) || !make_room(v) || !read_macroblocks(v)) {
        return false;
    }
    tw_vp8_filter(v);
    return give_pixels(v);
}
