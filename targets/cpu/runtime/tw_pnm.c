/* Portable any-maps: P1 to P6 (netpbm's pbm, pgm and ppm formats), text and binary, samples of up to 16 bits. */
#include "tw_image.h"

static bool is_space(uint32_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void skip_space(tw_bytes *b)
{
    while (b->at < b->end && (is_space(*b->at) || *b->at == '#')) {
        const bool comment = *b->at == '#';
        while (comment && b->at < b->end && *b->at != '\n' && *b->at != '\r') {
            b->at++;
        }
        if (b->at < b->end && is_space(*b->at)) {
            b->at++;
        }
    }
}

/* A decimal number; ran_out where there is none or it has too many digits. */
static uint32_t number(tw_bytes *b)
{
    uint32_t value = 0, digits = 0;
    skip_space(b);
    while (b->at < b->end && *b->at >= '0' && *b->at <= '9' && digits < 9) {
        value = 10 * value + (*b->at++ - '0');
        digits++;
    }
    b->ran_out |= digits == 0 || (b->at < b->end && !is_space(*b->at) && *b->at != '#');
    return value;
}

static bool read_bits(tw_image *image, tw_bytes *b, bool text)
{
    unsigned char *to = image->pixels;
    for (uint32_t y = 0; y < image->height && !b->ran_out; y++) {
        uint32_t byte = 0;
        for (uint32_t x = 0; x < image->width; x++) {
            uint32_t bit;
            if (text) { /* digits need no space between them */
                skip_space(b);
                bit = tw_u8(b) - '0';
                b->ran_out |= bit > 1;
            } else {
                byte = x % 8 ? byte << 1 : tw_u8(b);
                bit = byte >> 7 & 1;
            }
            *to++ = bit & 1 ? 0 : 255;
        }
    }
    return !b->ran_out || tw_image_fail(image, "the file is damaged or ends too early");
}

static bool read_samples(tw_image *image, tw_bytes *b, bool text, uint32_t largest)
{
    const uint64_t count = (uint64_t)image->width * image->height * image->channels;
    for (uint64_t i = 0; i < count && !b->ran_out; i++) {
        uint32_t v = text ? number(b) : largest > 255 ? tw_u16be(b) : tw_u8(b);
        if (v > largest) {
            if (text) {
                return tw_image_fail(image, "a sample is larger than the largest value of the header");
            }
            v = largest;
        }
        image->pixels[i] = largest == 255 ? (unsigned char)v : (unsigned char)((2 * v * 255 + largest) / (2 * largest));
    }
    return !b->ran_out || tw_image_fail(image, "the file is damaged or ends too early");
}

bool tw_pnm_decode(tw_image *image)
{
    tw_bytes b = { image->data + 1, image->data + image->size, false };
    const uint32_t kind = tw_u8(&b) - '0';
    if (kind < 1 || kind > 6) {
        return tw_image_fail(image, "only P1 to P6 are known");
    }
    const bool text = kind <= 3;
    const uint32_t depth = (kind - 1) % 3; /* bits, grey, colour */
    const uint32_t width = number(&b), height = number(&b), largest = depth ? number(&b) : 1;
    if (b.ran_out || largest < 1 || largest > 65535) {
        return tw_image_fail(image, "the header is damaged");
    }
    if (!text) {
        tw_skip(&b, 1); /* one white space */
    }
    if (!tw_image_begin(image, width, height, depth == 2 ? 3 : 1)) {
        return false;
    }
    return depth ? read_samples(image, &b, text, largest) : read_bits(image, &b, text);
}
