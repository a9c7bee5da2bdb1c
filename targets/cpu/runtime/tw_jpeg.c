/* JPEG (ITU-T T.81): markers and tables.  Sequential and progressive frames of 8 bits with Huffman codes. */
#include "tw_jpeg.h"

#include <string.h>

const unsigned char tw_jpeg_order[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

static bool damaged(tw_jpeg *j)
{
    return tw_image_fail(j->image, "a table or header is damaged");
}

static bool read_quantizers(tw_jpeg *j, tw_bytes b)
{
    while (tw_left(&b)) {
        const uint32_t head = tw_u8(&b);
        if ((head & 15) > 3 || head >> 4 > 1) {
            return damaged(j);
        }
        for (int i = 0; i < 64; i++) {
            j->quantizers[head & 15][tw_jpeg_order[i]] = (uint16_t)(head >> 4 ? tw_u16be(&b) : tw_u8(&b));
        }
        if (b.ran_out) {
            return damaged(j);
        }
    }
    return true;
}

static bool read_codes(tw_jpeg *j, tw_bytes b)
{
    while (tw_left(&b)) {
        const uint32_t head = tw_u8(&b);
        if ((head & 15) > 3 || head >> 4 > 1 || !tw_jpeg_codes_read(&(head >> 4 ? j->ac : j->dc)[head & 15], &b)) {
            return damaged(j);
        }
    }
    return true;
}

static uint32_t divided_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static bool make_components(tw_jpeg *j)
{
    j->units_across = divided_up(j->width, 8 * j->h_most);
    j->units_down = divided_up(j->height, 8 * j->v_most);
    for (uint32_t i = 0; i < j->count; i++) {
        tw_jpeg_component *c = &j->components[i];
        c->width = divided_up(j->width * c->h, j->h_most);
        c->height = divided_up(j->height * c->v, j->v_most);
        c->blocks_across = j->units_across * c->h;
        c->blocks_down = j->units_down * c->v;
        const uint64_t blocks = (uint64_t)c->blocks_across * c->blocks_down;
        c->coefficients = tw_image_room(j->image, blocks * 64, sizeof(int16_t));
        c->samples = c->coefficients ? tw_image_room(j->image, blocks * 64, 1) : NULL;
        if (!c->samples) {
            return false;
        }
    }
    return true;
}

static bool read_frame(tw_jpeg *j, tw_bytes b, uint32_t marker)
{
    if (j->count) {
        return tw_image_fail(j->image, "it has more than one frame");
    }
    const uint32_t precision = tw_u8(&b);
    j->height = tw_u16be(&b);
    j->width = tw_u16be(&b);
    j->count = tw_u8(&b);
    j->progressive = marker == 0xC2;
    if (precision != 8) {
        return tw_image_fail(j->image, "only samples of 8 bits are supported");
    }
    if (b.ran_out || (j->count != 1 && j->count != 3 && j->count != 4)) {
        return tw_image_fail(j->image, "expected 1, 3 or 4 components");
    }
    j->h_most = j->v_most = 1;
    for (uint32_t i = 0; i < j->count; i++) {
        tw_jpeg_component *c = &j->components[i];
        c->id = tw_u8(&b);
        const uint32_t factors = tw_u8(&b);
        c->h = factors >> 4;
        c->v = factors & 15;
        c->table = tw_u8(&b);
        if (b.ran_out || c->h < 1 || c->h > 4 || c->v < 1 || c->v > 4 || c->table > 3) {
            return damaged(j);
        }
        j->h_most = c->h > j->h_most ? c->h : j->h_most;
        j->v_most = c->v > j->v_most ? c->v : j->v_most;
    }
    for (uint32_t i = 0; i < j->count; i++) {
        if (j->h_most % j->components[i].h || j->v_most % j->components[i].v) {
            return tw_image_fail(j->image, "the sampling factors of its components do not divide each other");
        }
    }
    if (!tw_image_begin(j->image, j->width, j->height, j->count == 1 ? 1 : 3)) {
        return false;
    }
    return make_components(j);
}

static void read_application(tw_jpeg *j, tw_bytes b, uint32_t marker)
{
    if (marker == 0xE0 && tw_left(&b) >= 5 && memcmp(b.at, "JFIF", 5) == 0) {
        j->has_jfif = true;
    }
    if (marker == 0xEE && tw_left(&b) >= 12 && memcmp(b.at, "Adobe", 5) == 0) {
        j->has_adobe = true;
        j->adobe_transform = b.at[11];
    }
}

static bool read_segment(tw_jpeg *j, tw_bytes b, uint32_t marker)
{
    switch (marker) {
    case 0xDB:
        return read_quantizers(j, b);
    case 0xC4:
        return read_codes(j, b);
    case 0xC0:
    case 0xC1:
    case 0xC2:
        return read_frame(j, b, marker);
    case 0xDD:
        j->restart_interval = tw_u16be(&b);
        return !b.ran_out || damaged(j);
    case 0xC3:
    case 0xC5:
    case 0xC6:
    case 0xC7:
        return tw_image_fail(j->image, "lossless and hierarchical frames are not supported");
    default:
        if (marker >= 0xC9 && marker <= 0xCF) {
            return tw_image_fail(j->image, "arithmetic coding is not supported");
        }
        read_application(j, b, marker);
        return true;
    }
}

/* The next marker; 0 at the end of the file. */
static uint32_t next_marker(tw_bytes *in)
{
    while (tw_left(in) >= 2) {
        if (in->at[0] == 0xFF && in->at[1] != 0 && in->at[1] != 0xFF) {
            const uint32_t marker = in->at[1];
            in->at += 2;
            return marker;
        }
        in->at++;
    }
    return 0;
}

bool tw_jpeg_decode(tw_image *image)
{
    tw_jpeg *j = tw_image_room(image, 1, sizeof *j);
    if (!j) {
        return false;
    }
    j->image = image;
    j->in = (tw_bytes){ image->data + 2, image->data + image->size, false };
    for (uint32_t marker = next_marker(&j->in); marker && marker != 0xD9; marker = next_marker(&j->in)) {
        if (marker == 1 || (marker >= 0xD0 && marker <= 0xD8)) {
            continue;
        }
        const uint32_t length = tw_u16be(&j->in);
        if (j->in.ran_out || length < 2 || length - 2 > tw_left(&j->in)) {
            return tw_image_fail(image, "the file ends too early");
        }
        if (marker == 0xDA) {
            if (!tw_jpeg_scan(j)) {
                return false;
            }
            continue;
        }
        const tw_bytes content = { j->in.at, j->in.at + length - 2, false };
        tw_skip(&j->in, length - 2);
        if (!read_segment(j, content, marker)) {
            return false;
        }
    }
    return j->scans ? tw_jpeg_pixels(j) : tw_image_fail(image, "the file has no image");
}
