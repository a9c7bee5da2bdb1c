/* WebP, lossless (RFC 9649, section 4): the inverse transforms. */
#include "tw_webp.h"

#include <stdlib.h>

enum { PREDICTOR, COLOUR, SUBTRACT_GREEN, INDEXING };

static uint32_t channel(uint32_t pixel, uint32_t shift)
{
    return pixel >> shift & 255;
}

uint32_t tw_webp_add(uint32_t a, uint32_t b)
{
    const uint32_t even = (a & 0xFF00FF) + (b & 0xFF00FF), odd = (a >> 8 & 0xFF00FF) + (b >> 8 & 0xFF00FF);
    return (even & 0xFF00FF) | (odd & 0xFF00FF) << 8;
}

static uint32_t average(uint32_t a, uint32_t b)
{
    return ((a ^ b) & 0xFEFEFEFE) / 2 + (a & b);
}

/* The neighbour that is closer to left + top - corner. */
static uint32_t select(uint32_t left, uint32_t top, uint32_t corner)
{
    int32_t to_left = 0, to_top = 0;
    for (uint32_t s = 0; s < 32; s += 8) {
        const int32_t l = (int32_t)channel(left, s), t = (int32_t)channel(top, s), c = (int32_t)channel(corner, s);
        to_left += abs(t - c);
        to_top += abs(l - c);
    }
    return to_left < to_top ? left : top;
}

/* a + (b - c) / divisor in every channel, clamped. */
static uint32_t clamped(uint32_t a, uint32_t b, uint32_t c, int32_t divisor)
{
    uint32_t made = 0;
    for (uint32_t s = 0; s < 32; s += 8) {
        const int32_t v = (int32_t)channel(a, s) + ((int32_t)channel(b, s) - (int32_t)channel(c, s)) / divisor;
        made |= (uint32_t)tw_byte_of(v) << s;
    }
    return made;
}

static uint32_t predicted(uint32_t mode, uint32_t left, uint32_t top, uint32_t right, uint32_t corner)
{
    switch (mode) {
    case 1: return left;
    case 2: return top;
    case 3: return right;
    case 4: return corner;
    case 5: return average(average(left, right), top);
    case 6: return average(left, corner);
    case 7: return average(left, top);
    case 8: return average(corner, top);
    case 9: return average(top, right);
    case 10: return average(average(left, corner), average(top, right));
    case 11: return select(left, top, corner);
    case 12: return clamped(left, top, corner, 1);
    case 13: return clamped(average(left, top), average(left, top), corner, 2);
    default: return 0xFF000000;
    }
}

static void undo_prediction(uint32_t *pixels, uint32_t width, uint32_t height, uint32_t bits, const uint32_t *modes)
{
    const size_t across = (width + (1u << bits) - 1) >> bits;
    for (uint32_t y = 0; y < height; y++) {
        uint32_t *row = pixels + (size_t)y * width;
        for (uint32_t x = 0; x < width; x++) {
            uint32_t base = 0xFF000000;
            if (x && y) { /* the pixel to the upper right of the last one is the first of this row */
                const uint32_t *above = row + x - width;
                base = predicted(modes[(y >> bits) * across + (x >> bits)] >> 8 & 15, row[x - 1], above[0], above[1], above[-1]);
            } else if (x || y) {
                base = x ? row[x - 1] : *(row - width);
            }
            row[x] = tw_webp_add(row[x], base);
        }
    }
}

static int32_t signed_byte(uint32_t v)
{
    return v & 128 ? (int32_t)(v & 255) - 256 : (int32_t)(v & 255);
}

/* How much a channel was changed by another one: the product of signed bytes in 1/32. */
static uint32_t change(uint32_t factor, uint32_t by)
{
    return (uint32_t)((signed_byte(factor) * signed_byte(by)) >> 5);
}

static void undo_colours(uint32_t *pixels, uint32_t width, uint32_t height, uint32_t bits, const uint32_t *factors)
{
    const size_t across = (width + (1u << bits) - 1) >> bits;
    for (uint32_t y = 0; y < height; y++) {
        for (uint32_t x = 0; x < width; x++) {
            uint32_t *at = &pixels[(size_t)y * width + x];
            const uint32_t f = factors[(y >> bits) * across + (x >> bits)], green = *at >> 8;
            const uint32_t red = (*at >> 16) + change(f, green);
            const uint32_t blue = *at + change(f >> 8, green) + change(f >> 16, red);
            *at = (*at & 0xFF00FF00) | (red & 255) << 16 | (blue & 255);
        }
    }
}

/* Indices, several of them in the green of a pixel, become colours; from the end, as there are more pixels then. */
static void undo_indexing(uint32_t *pixels, uint32_t width, uint32_t height, uint32_t bits, const uint32_t *palette)
{
    const uint32_t each = 8 >> bits, mask = (1u << bits) - 1;
    const size_t inner = (width + mask) >> bits;
    for (uint32_t y = height; y-- > 0;) {
        for (uint32_t x = width; x-- > 0;) {
            const uint32_t packed = pixels[y * inner + (x >> bits)] >> 8 & 255;
            pixels[(size_t)y * width + x] = palette[packed >> ((x & mask) * each) & ((1u << each) - 1)];
        }
    }
}

void tw_webp_undo(uint32_t kind, uint32_t *pixels, uint32_t width, uint32_t height, uint32_t bits, const uint32_t *data)
{
    switch (kind) {
    case PREDICTOR:
        undo_prediction(pixels, width, height, bits, data);
        break;
    case COLOUR:
        undo_colours(pixels, width, height, bits, data);
        break;
    case INDEXING:
        undo_indexing(pixels, width, height, bits, data);
        break;
    default:
        for (size_t i = 0; i < (size_t)width * height; i++) {
            const uint32_t green = pixels[i] >> 8 & 255;
            pixels[i] = tw_webp_add(pixels[i], green << 16 | green);
        }
    }
}
