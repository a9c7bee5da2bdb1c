/* JPEG 2000 (ITU-T T.800): the boxes of a file (annex I) and the markers of the codestream (annex A).
 * Not supported, and refused: palettes, regions of interest, changes of progression, packet headers apart from packets. */
#include "tw_j2k.h"

#include <string.h>

#define TAG(a, b, c, d) ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))
#define ENUMERATED_YCC 18

bool tw_j2k_damaged(tw_j2k_decoder *d)
{
    return tw_image_fail(d->image, "a header is damaged or asks for what is not supported");
}

bool tw_j2k_find_stream(tw_j2k_decoder *d)
{
    tw_bytes b = { d->image->data, d->image->data + d->image->size, false };
    if (b.at[0] == 0xFF) {
        d->stream = b;
        return true;
    }
    for (uint32_t depth = 0; tw_left(&b) >= 8;) {
        const tw_bytes start = b;
        uint64_t length = tw_u32be(&b);
        const uint32_t tag = tw_u32be(&b);
        if (length == 1) {
            length = (uint64_t)tw_u32be(&b) << 32;
            length |= tw_u32be(&b);
        }
        const size_t head = (size_t)(b.at - start.at);
        length = length ? length : tw_left(&start);
        if (b.ran_out || length < head || length > tw_left(&start)) {
            break;
        }
        if (tag == TAG('j', 'p', '2', 'c')) {
            d->stream = (tw_bytes){ b.at, start.at + length, false };
            return true;
        }
        if (tag == TAG('j', 'p', '2', 'h') && !depth++) {
            continue; /* its boxes follow */
        }
        if (tag == TAG('p', 'c', 'l', 'r')) {
            return tw_image_fail(d->image, "palettes are not supported");
        }
        if (tag == TAG('c', 'o', 'l', 'r') && length >= head + 7 && b.at[0] == 1) {
            tw_bytes colour = { b.at + 3, start.at + length, false };
            d->ycc = tw_u32be(&colour) == ENUMERATED_YCC;
        }
        b.at = start.at + length;
    }
    return tw_image_fail(d->image, "the file has no codestream");
}

static bool read_size(tw_j2k_decoder *d, tw_bytes b)
{
    tw_skip(&b, 2);
    d->at.x1 = tw_u32be(&b);
    d->at.y1 = tw_u32be(&b);
    d->at.x0 = tw_u32be(&b);
    d->at.y0 = tw_u32be(&b);
    const int64_t width = tw_u32be(&b), height = tw_u32be(&b);
    d->tile.x0 = tw_u32be(&b);
    d->tile.y0 = tw_u32be(&b);
    d->tile.x1 = d->tile.x0 + width;
    d->tile.y1 = d->tile.y0 + height;
    d->count = tw_u16be(&b);
    const bool first = d->tile.x0 <= d->at.x0 && d->tile.y0 <= d->at.y0 && d->tile.x1 > d->at.x0 && d->tile.y1 > d->at.y0;
    if (b.ran_out || d->image->pixels || d->at.x1 <= d->at.x0 || d->at.y1 <= d->at.y0 || !width || !height || !first) {
        return tw_j2k_damaged(d);
    }
    if (d->count < 1 || d->count > TW_J2K_COMPONENTS) {
        return tw_image_fail(d->image, "only images of 1 to 4 components are supported");
    }
    const uint64_t across = (uint64_t)((d->at.x1 - d->tile.x0 + width - 1) / width);
    const uint64_t down = (uint64_t)((d->at.y1 - d->tile.y0 + height - 1) / height);
    if (!tw_image_begin(d->image, (uint64_t)(d->at.x1 - d->at.x0), (uint64_t)(d->at.y1 - d->at.y0), d->count < 3 ? 1 : 3)) {
        return false;
    }
    if (across * down > 65535) {
        return tw_j2k_damaged(d);
    }
    d->across = (uint32_t)across;
    d->down = (uint32_t)down;
    for (uint32_t i = 0; i < d->count; i++) {
        tw_j2k_size *s = &d->sizes[i];
        const uint32_t depth = tw_u8(&b);
        s->is_signed = depth >> 7;
        s->bits = (depth & 127) + 1;
        s->dx = tw_u8(&b);
        s->dy = tw_u8(&b);
        if (b.ran_out || s->bits > 16 || !s->dx || !s->dy) {
            return tw_j2k_damaged(d);
        }
        d->areas[i] = (tw_j2k_rectangle){ (d->at.x0 + s->dx - 1) / s->dx, (d->at.y0 + s->dy - 1) / s->dy,
                                          (d->at.x1 + s->dx - 1) / s->dx, (d->at.y1 + s->dy - 1) / s->dy };
        const uint64_t size = (uint64_t)(d->areas[i].x1 - d->areas[i].x0) * (uint64_t)(d->areas[i].y1 - d->areas[i].y0);
        d->samples[i] = tw_image_room(d->image, size, 1);
        if (!size) {
            return tw_j2k_damaged(d);
        }
    }
    d->first = tw_image_room(d->image, across * down, sizeof(tw_j2k_part *));
    d->last = tw_image_room(d->image, across * down, sizeof(tw_j2k_part *));
    return !d->image->failed;
}

/* What COD and COC have in common. */
static bool read_coding(tw_j2k_coding *c, tw_bytes *b, bool precincts)
{
    c->levels = tw_u8(b);
    c->block_width = tw_u8(b) + 2;
    c->block_height = tw_u8(b) + 2;
    c->style = tw_u8(b);
    c->reversible = tw_u8(b) == 1;
    const bool sizes = c->block_width <= 10 && c->block_height <= 10 && c->block_width + c->block_height <= 12;
    if (c->levels > TW_J2K_LEVELS || !sizes || c->style > 63) {
        return false;
    }
    for (uint32_t r = 0; r <= c->levels; r++) {
        const uint32_t size = precincts ? tw_u8(b) : 0xFF;
        c->precinct_width[r] = size & 15;
        c->precinct_height[r] = size >> 4;
        if (r && (!(size & 15) || !(size >> 4))) {
            return false;
        }
    }
    return !b->ran_out;
}

static bool read_default_coding(tw_j2k_decoder *d, tw_j2k_parameters *p, tw_bytes b)
{
    const uint32_t style = tw_u8(&b);
    p->markers = style >> 1 & 3;
    p->order = tw_u8(&b);
    p->layers = tw_u16be(&b);
    p->transform = tw_u8(&b);
    tw_j2k_coding c = { 0 };
    if (!read_coding(&c, &b, style & 1) || p->order > 4 || !p->layers) {
        return tw_j2k_damaged(d);
    }
    for (uint32_t i = 0; i < d->count; i++) {
        tw_j2k_coding *to = &p->coding[i];
        if (!p->own_coding[i]) {
            to->levels = c.levels;
            to->block_width = c.block_width;
            to->block_height = c.block_height;
            to->style = c.style;
            to->reversible = c.reversible;
            memcpy(to->precinct_width, c.precinct_width, sizeof c.precinct_width);
            memcpy(to->precinct_height, c.precinct_height, sizeof c.precinct_height);
        }
    }
    return true;
}

static bool read_quantization(tw_j2k_coding *c, tw_bytes b)
{
    const uint32_t style = tw_u8(&b);
    c->quantization = style & 31;
    c->guard_bits = style >> 5;
    if (c->quantization > 2) {
        return false;
    }
    const uint32_t size = c->quantization ? 2 : 1;
    for (uint32_t i = 0; i < TW_J2K_BANDS && tw_left(&b) >= size; i++) {
        const uint32_t v = size == 2 ? tw_u16be(&b) : tw_u8(&b) << 8;
        c->exponent[i] = v >> 11;
        c->mantissa[i] = v & 0x7FF;
    }
    return !b.ran_out;
}

static void copy_quantization(tw_j2k_coding *to, const tw_j2k_coding *from)
{
    to->quantization = from->quantization;
    to->guard_bits = from->guard_bits;
    memcpy(to->exponent, from->exponent, sizeof to->exponent);
    memcpy(to->mantissa, from->mantissa, sizeof to->mantissa);
}

static bool read_marker(tw_j2k_decoder *d, tw_j2k_parameters *p, uint32_t marker, tw_bytes b)
{
    tw_j2k_coding c = { 0 };
    uint32_t i = 0;
    switch (marker) {
    case 0xFF52:
        return read_default_coding(d, p, b);
    case 0xFF53:
        i = tw_u8(&b);
        const uint32_t precincts = tw_u8(&b) & 1;
        if (i >= d->count || !read_coding(&p->coding[i], &b, precincts)) {
            return tw_j2k_damaged(d);
        }
        p->own_coding[i] = true;
        return true;
    case 0xFF5C:
        if (!read_quantization(&c, b)) {
            return tw_j2k_damaged(d);
        }
        for (i = 0; i < d->count; i++) {
            if (!p->own_quantization[i]) {
                copy_quantization(&p->coding[i], &c);
            }
        }
        return true;
    case 0xFF5D:
        i = tw_u8(&b);
        if (i >= d->count || !read_quantization(&c, b)) {
            return tw_j2k_damaged(d);
        }
        copy_quantization(&p->coding[i], &c);
        p->own_quantization[i] = true;
        return true;
    case 0xFF5E:
    case 0xFF5F:
    case 0xFF60:
    case 0xFF61:
        return tw_image_fail(d->image, "regions of interest, changes of progression and packed packet headers are not supported");
    default:
        return true;
    }
}

bool tw_j2k_read_markers(tw_j2k_decoder *d, tw_j2k_parameters *p, tw_bytes *b, uint32_t stop)
{
    for (;;) {
        const uint32_t marker = tw_u16be(b);
        if (marker == stop) {
            return !b->ran_out || tw_j2k_damaged(d);
        }
        const uint32_t length = tw_u16be(b);
        if (b->ran_out || marker < 0xFF00 || length < 2 || length - 2 > tw_left(b)) {
            return tw_j2k_damaged(d);
        }
        const tw_bytes content = { b->at, b->at + length - 2, false };
        tw_skip(b, length - 2);
        if (marker == 0xFF51 ? !read_size(d, content) : !d->image->pixels ? !tw_j2k_damaged(d) : !read_marker(d, p, marker, content)) {
            return false;
        }
    }
}

bool tw_j2k_find_parts(tw_j2k_decoder *d, tw_bytes b)
{
    for (;;) {
        const unsigned char *start = b.at - 2;
        tw_skip(&b, 2);
        const uint32_t tile = tw_u16be(&b), length = tw_u32be(&b);
        tw_skip(&b, 2);
        const unsigned char *end = length ? start + length : b.end;
        if (b.ran_out || tile >= d->across * d->down || (length && (length < 14 || length > (size_t)(b.end - start)))) {
            return tw_j2k_damaged(d);
        }
        tw_j2k_part *made = tw_image_room(d->image, 1, sizeof *made);
        if (!made) {
            return false;
        }
        made->markers = (tw_bytes){ b.at, end, false };
        *(d->last[tile] ? &d->last[tile]->next : &d->first[tile]) = made;
        d->last[tile] = made;
        b.at = end;
        if (tw_left(&b) < 2 || tw_u16be(&b) != 0xFF90) {
            return true; /* the end, or what is none */
        }
    }
}
