/* JPEG 2000 (ITU-T T.800): tiles to pixels: blocks, wavelets, transforms of components (annex G), 8 bits. */
#include "tw_j2k.h"

#include <string.h>

static unsigned char in_8_bits(int32_t v, const tw_j2k_size *s)
{
    const int32_t most = (1 << s->bits) - 1, shifted = v + (1 << (s->bits - 1));
    const int32_t inside = shifted < 0 ? 0 : shifted > most ? most : shifted;
    return (unsigned char)(s->bits >= 8 ? inside >> (s->bits - 8) : inside * 255 / most);
}

static int32_t rounded(float v)
{
    if (!(v > -1e6f && v < 1e6f)) {
        return v > 0 ? 1000000 : -1000000;
    }
    return (int32_t)(v < 0 ? v - 0.5f : v + 0.5f);
}

/* The inverse component transforms (annex G) of three samples. */
static void mix(tw_j2k_component *c, size_t i)
{
    if (c[0].real) {
        const float y = c[0].real[i], b = c[1].real[i], r = c[2].real[i];
        c[0].real[i] = y + 1.402f * r;
        c[1].real[i] = y - 0.344136f * b - 0.714136f * r;
        c[2].real[i] = y + 1.772f * b;
        return;
    }
    const int64_t y = c[0].whole[i], u = c[1].whole[i], v = c[2].whole[i], green = y - ((u + v) >> 2);
    c[0].whole[i] = (int32_t)(uint32_t)(uint64_t)(v + green);
    c[1].whole[i] = (int32_t)(uint32_t)(uint64_t)green;
    c[2].whole[i] = (int32_t)(uint32_t)(uint64_t)(u + green);
}

static int32_t clamped(int32_t v)
{
    return v < -(1 << 20) ? -(1 << 20) : v > 1 << 20 ? 1 << 20 : v;
}

static void give_samples(tw_j2k_decoder *d, const tw_j2k_tile *t, uint32_t index)
{
    const tw_j2k_component *c = &t->components[index];
    const tw_j2k_rectangle all = d->areas[index];
    size_t i = 0;
    for (int64_t y = c->at.y0; y < c->at.y1; y++) {
        unsigned char *to = d->samples[index] + (size_t)(y - all.y0) * (size_t)(all.x1 - all.x0) + (size_t)(c->at.x0 - all.x0);
        for (int64_t x = c->at.x0; x < c->at.x1; x++, i++) {
            *to++ = in_8_bits(clamped(c->real ? rounded(c->real[i]) : c->whole[i]), &d->sizes[index]);
        }
    }
}

/* The blocks of a component, where their bands lie before the transform: the lower ones first. */
static bool decode_component(tw_image *image, tw_j2k_component *c)
{
    const size_t stride = (size_t)(c->at.x1 - c->at.x0);
    for (uint32_t r = 0; r <= c->coding->levels; r++) {
        const tw_j2k_resolution *res = &c->resolutions[r];
        const tw_j2k_rectangle low = r ? c->resolutions[r - 1].at : res->at;
        for (uint32_t n = 0; n < res->band_count; n++) {
            const tw_j2k_band *band = &res->bands[n];
            const size_t right = band->kind & 1 ? (size_t)(low.x1 - low.x0) : 0, lower = band->kind & 2 ? (size_t)(low.y1 - low.y0) : 0;
            for (uint32_t p = 0; p < res->precincts_across * res->precincts_down; p++) {
                const tw_j2k_precinct *precinct = &band->precincts[p];
                for (uint32_t i = 0; i < precinct->across * precinct->down; i++) {
                    const tw_j2k_block *b = &precinct->blocks[i];
                    const size_t x = (size_t)(b->at.x0 - band->at.x0) + right, y = (size_t)(b->at.y0 - band->at.y0) + lower;
                    int32_t *out = c->whole + y * stride + x;
                    if (!tw_j2k_decode_block(image, b, band->kind, c->coding->style, out, stride)) {
                        return false;
                    }
                    for (size_t k = 0; k < (size_t)(b->at.y1 - b->at.y0); k++) {
                        for (size_t m = 0; m < (size_t)(b->at.x1 - b->at.x0); m++) {
                            int32_t *v = &out[k * stride + m];
                            if (c->real) {
                                c->real[(y + k) * stride + x + m] = (float)*v * 0.5f * band->step;
                            } else {
                                *v /= 2;
                            }
                        }
                    }
                }
            }
        }
    }
    return true;
}

static bool decode_tile(tw_j2k_decoder *d, uint32_t index)
{
    const int64_t width = d->tile.x1 - d->tile.x0, height = d->tile.y1 - d->tile.y0;
    const int64_t x = d->tile.x0 + index % d->across * width, y = d->tile.y0 + index / d->across * height;
    tw_j2k_tile *t = tw_image_room(d->image, 1, sizeof *t);
    if (!t) {
        return false;
    }
    t->image = d->image;
    t->count = d->count;
    t->work = &d->work;
    t->parameters = d->parameters;
    t->at = (tw_j2k_rectangle){ x > d->at.x0 ? x : d->at.x0, y > d->at.y0 ? y : d->at.y0,
                                x + width < d->at.x1 ? x + width : d->at.x1, y + height < d->at.y1 ? y + height : d->at.y1 };
    size_t bytes = 0;
    for (tw_j2k_part *p = d->first[index]; p; p = p->next) {
        p->packets = p->markers;
        if (!tw_j2k_read_markers(d, &t->parameters, &p->packets, 0xFF93)) {
            return false;
        }
        bytes += tw_left(&p->packets);
    }
    unsigned char *joined = tw_image_room(d->image, bytes + 1, 1);
    size_t used = 0;
    for (tw_j2k_part *p = d->first[index]; joined && p; p = p->next) {
        memcpy(joined + used, p->packets.at, tw_left(&p->packets));
        used += tw_left(&p->packets);
    }
    const int64_t longer = t->at.x1 - t->at.x0 > t->at.y1 - t->at.y0 ? t->at.x1 - t->at.x0 : t->at.y1 - t->at.y0;
    void *line = tw_image_room(d->image, (uint64_t)longer + 2, sizeof(float));
    if (!joined || !line || !tw_j2k_make_tile(t, d->sizes, bytes) ||
        !tw_j2k_read_packets(t, d->sizes, (tw_bytes){ joined, joined + bytes, false })) {
        return false;
    }
    for (uint32_t i = 0; i < t->count; i++) {
        if (!decode_component(d->image, &t->components[i])) {
            return false;
        }
        tw_j2k_synthesize(&t->components[i], line);
    }
    tw_j2k_component *c = t->components;
    if (t->parameters.transform && t->count >= 3) {
        for (uint32_t i = 1; i < 3; i++) {
            if (memcmp(&c[i].at, &c[0].at, sizeof c[0].at) != 0 || !c[i].real != !c[0].real) {
                return tw_image_fail(d->image, "components that are transformed together differ in size");
            }
        }
        for (size_t i = 0; i < (size_t)(c->at.x1 - c->at.x0) * (size_t)(c->at.y1 - c->at.y0); i++) {
            mix(c, i);
        }
    }
    for (uint32_t i = 0; i < t->count; i++) {
        give_samples(d, t, i);
    }
    return true;
}

static unsigned char sample(const tw_j2k_decoder *d, uint32_t i, uint32_t x, uint32_t y)
{
    const tw_j2k_rectangle *a = &d->areas[i];
    int64_t column = (d->at.x0 + x) / d->sizes[i].dx - a->x0, row = (d->at.y0 + y) / d->sizes[i].dy - a->y0;
    column = column < 0 ? 0 : column >= a->x1 - a->x0 ? a->x1 - a->x0 - 1 : column;
    row = row < 0 ? 0 : row >= a->y1 - a->y0 ? a->y1 - a->y0 - 1 : row;
    return d->samples[i][(size_t)row * (size_t)(a->x1 - a->x0) + (size_t)column];
}

static void give_pixels(const tw_j2k_decoder *d)
{
    unsigned char *to = d->image->pixels;
    for (uint32_t y = 0; y < d->image->height; y++) {
        for (uint32_t x = 0; x < d->image->width; x++, to += d->image->channels) {
            for (uint32_t i = 0; i < d->image->channels; i++) {
                to[i] = sample(d, i, x, y);
            }
            if (d->ycc && d->image->channels == 3) {
                const float luma = to[0], b = (float)to[1] - 128, r = (float)to[2] - 128;
                to[0] = tw_byte_of(rounded(luma + 1.402f * r));
                to[1] = tw_byte_of(rounded(luma - 0.344f * b - 0.714f * r));
                to[2] = tw_byte_of(rounded(luma + 1.772f * b));
            }
        }
    }
}

bool tw_jpeg2000_decode(tw_image *image)
{
    tw_j2k_decoder *d = tw_image_room(image, 1, sizeof *d);
    if (!d) {
        return false;
    }
    d->image = image;
    if (!tw_j2k_find_stream(d)) {
        return false;
    }
    tw_bytes b = d->stream;
    tw_skip(&b, 2); /* the start of the codestream */
    if (!tw_j2k_read_markers(d, &d->parameters, &b, 0xFF90) || !image->pixels || !d->parameters.layers || !tw_j2k_find_parts(d, b)) {
        return tw_j2k_damaged(d);
    }
    memset(d->parameters.own_coding, 0, sizeof d->parameters.own_coding); /* those of a tile are stronger */
    memset(d->parameters.own_quantization, 0, sizeof d->parameters.own_quantization);
    for (uint32_t i = 0; i < d->across * d->down; i++) {
        if (!d->first[i]) {
            return tw_image_fail(image, "a tile is missing");
        }
        const tw_support_mark mark = tw_support_here(image->runtime);
        if (!decode_tile(d, i)) {
            return false;
        }
        tw_support_back(image->runtime, mark);
    }
    give_pixels(d);
    return true;
}
