/* JPEG (ITU-T T.81): from coefficients to pixels.
 *
 * The standard leaves the rounding open.  Here every step gives what libjpeg and libjpeg-turbo give by default, which is what
 * ONNX's tests expect: the inverse transform of Loeffler, Ligtenberg and Moschytz (1989) with 13 fraction bits in two passes,
 * chroma by linear interpolation between the centres of samples, colours of JFIF with 16 fraction bits. */
#include "tw_jpeg.h"

#include <string.h>

#define FRACTION 13
#define KEPT 2 /* more fraction bits between the passes */

/* One pass over 8 numbers that lie `step` apart, in place; `shift` bits are rounded away. */
static void transform(int32_t *at, size_t step, int shift)
{
    const int64_t half = (int64_t)1 << (shift - 1);
    /* the even part: a rotation by 3 pi / 8, and sums */
    const int64_t r = ((int64_t)at[2 * step] + at[6 * step]) * 4433;
    const int64_t e2 = r - (int64_t)at[6 * step] * 15137, e3 = r + (int64_t)at[2 * step] * 6270;
    const int64_t e0 = ((int64_t)at[0] + at[4 * step]) * (1 << FRACTION), e1 = ((int64_t)at[0] - at[4 * step]) * (1 << FRACTION);
    const int64_t even[4] = { e0 + e3, e1 + e2, e1 - e2, e0 - e3 };
    /* the odd part */
    const int64_t a = at[7 * step], b = at[5 * step], c = at[3 * step], d = at[step];
    const int64_t all = (a + c + b + d) * 9633;
    const int64_t z1 = -(a + d) * 7373, z2 = -(b + c) * 20995, z3 = all - (a + c) * 16069, z4 = all - (b + d) * 3196;
    const int64_t odd[4] = { d * 12299 + z1 + z4, c * 25172 + z2 + z3, b * 16819 + z2 + z4, a * 2446 + z1 + z3 };
    for (size_t i = 0; i < 4; i++) {
        at[i * step] = (int32_t)((even[i] + odd[i] + half) >> shift);
        at[(7 - i) * step] = (int32_t)((even[i] - odd[i] + half) >> shift);
    }
}

static void inverse_block(const int16_t *coefficients, const uint16_t *quantizers, unsigned char *out, size_t stride)
{
    int32_t work[64];
    bool flat = true;
    for (size_t i = 0; i < 64; i++) {
        const int32_t v = coefficients[i] * (int32_t)quantizers[i];
        work[i] = v < -32768 ? -32768 : v > 32767 ? 32767 : v;
        flat = flat && (i == 0 || !v);
    }
    if (flat) {
        const unsigned char v = tw_byte_of(((work[0] * 4 + 16) >> 5) + 128);
        for (size_t y = 0; y < 8; y++) {
            memset(out + y * stride, v, 8);
        }
        return;
    }
    for (size_t x = 0; x < 8; x++) {
        transform(work + x, 8, FRACTION - KEPT);
    }
    for (size_t y = 0; y < 8; y++) {
        transform(work + 8 * y, 1, FRACTION + KEPT + 3);
        for (size_t x = 0; x < 8; x++) {
            out[y * stride + x] = tw_byte_of(work[8 * y + x] + 128);
        }
    }
}

static void inverse(const tw_jpeg *j, tw_jpeg_component *c)
{
    const size_t stride = (size_t)c->blocks_across * 8;
    for (size_t y = 0; y < c->blocks_down; y++) {
        for (size_t x = 0; x < c->blocks_across; x++) {
            inverse_block(c->coefficients + (y * c->blocks_across + x) * 64, j->quantizers[c->table],
                          c->samples + y * 8 * stride + x * 8, stride);
        }
    }
}

/* Twice as many numbers of a row: 3/4 of the nearer one and 1/4 of the other, times `unit` / 4.  bias: what is added before
 * `shift` bits are dropped, at even and at odd places. */
static void widen(const int32_t *in, uint32_t count, unsigned char *out, const int32_t bias[2], int shift)
{
    for (uint32_t x = 0; x < count; x++) {
        const int32_t before = in[x ? x - 1 : 0], behind = in[x + 1 < count ? x + 1 : x];
        out[2 * x] = (unsigned char)((in[x] * 3 + before + bias[0]) >> shift);
        out[2 * x + 1] = (unsigned char)((in[x] * 3 + behind + bias[1]) >> shift);
    }
}

/* Row y of the image of a component, at the full width.  sums: room for a row. */
static void upsampled_row(const tw_jpeg *j, const tw_jpeg_component *c, uint32_t y, unsigned char *out, int32_t *sums)
{
    const uint32_t h = j->h_most / c->h, v = j->v_most / c->v, row = y / v;
    const size_t stride = (size_t)c->blocks_across * 8;
    const unsigned char *near = c->samples + row * stride;
    const bool smooth = c->width > 2;
    const bool both = h == 2 && v == 2 && smooth, across = h == 2 && v == 1 && smooth, down = h == 1 && v == 2;
    const uint32_t other = y % 2 ? (row + 1 < c->height ? row + 1 : row) : (row ? row - 1 : 0);
    const unsigned char *far = c->samples + other * stride;
    if (both) {
        static const int32_t bias[2] = { 8, 7 };
        for (uint32_t x = 0; x < c->width; x++) {
            sums[x] = near[x] * 3 + far[x];
        }
        widen(sums, c->width, out, bias, 4);
    } else if (across) {
        static const int32_t bias[2] = { 1, 2 };
        for (uint32_t x = 0; x < c->width; x++) {
            sums[x] = near[x];
        }
        widen(sums, c->width, out, bias, 2);
    } else if (down) {
        for (uint32_t x = 0; x < c->width; x++) {
            out[x] = (unsigned char)((near[x] * 3 + far[x] + (y % 2 ? 2 : 1)) >> 2);
        }
    } else {
        for (uint32_t x = 0; x < j->width; x++) {
            out[x] = near[x / h];
        }
    }
}

static void to_rgb(int32_t y, int32_t cb, int32_t cr, unsigned char *out)
{
    out[0] = tw_byte_of(y + ((91881 * cr + 32768) >> 16));
    out[1] = tw_byte_of(y + ((-22554 * cb - 46802 * cr + 32768) >> 16));
    out[2] = tw_byte_of(y + ((116130 * cb + 32768) >> 16));
}

/* Whether three components are luma and chroma: by JFIF, Adobe's marker, or what the components are called. */
static bool is_ycc(const tw_jpeg *j)
{
    if (j->has_jfif) {
        return true;
    }
    if (j->has_adobe) {
        return j->adobe_transform != 0;
    }
    const tw_jpeg_component *c = j->components;
    return !(c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B');
}

static void put_row(const tw_jpeg *j, unsigned char *const rows[4], unsigned char *out)
{
    const bool ycc = j->count == 3 ? is_ycc(j) : j->has_adobe && j->adobe_transform == 2;
    for (uint32_t x = 0; x < j->width; x++, out += 3) {
        unsigned char p[3] = { rows[0][x], rows[1][x], rows[2][x] };
        if (ycc) {
            to_rgb(rows[0][x], rows[1][x] - 128, rows[2][x] - 128, p);
        }
        for (int i = 0; i < 3; i++) {
            const int32_t ink = ycc ? p[i] : 255 - p[i]; /* inks are stored inverted, as all programs do since Adobe's */
            out[i] = j->count == 4 ? tw_image_printed(ink, 255 - rows[3][x]) : p[i];
        }
    }
}

bool tw_jpeg_pixels(tw_jpeg *j)
{
    tw_image *image = j->image;
    unsigned char *rows[4] = { NULL };
    uint64_t widest = 0;
    for (uint32_t i = 0; i < j->count; i++) {
        const uint64_t width = (uint64_t)j->components[i].blocks_across * 8 * (j->h_most / j->components[i].h);
        widest = width > widest ? width : widest;
        inverse(j, &j->components[i]);
    }
    int32_t *sums = tw_image_room(image, widest, sizeof *sums);
    for (uint32_t i = 0; i < j->count; i++) {
        rows[i] = tw_image_room(image, widest, 1);
        if (!rows[i] || !sums) {
            return false;
        }
    }
    for (uint32_t y = 0; y < j->height; y++) {
        unsigned char *out = image->pixels + (size_t)y * j->width * image->channels;
        for (uint32_t i = 0; i < j->count; i++) {
            upsampled_row(j, &j->components[i], y, rows[i], sums);
        }
        if (j->count == 1) {
            memcpy(out, rows[0], j->width);
        } else {
            put_row(j, rows, out);
        }
    }
    return true;
}
