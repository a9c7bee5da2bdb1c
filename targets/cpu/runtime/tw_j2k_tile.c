/* JPEG 2000 (ITU-T T.800): what a tile consists of (annex B), and the order of its packets (B.12). */
#include "tw_j2k.h"

#include <math.h>

/* Nodes of a tree over width x height leaves, linked to their parents. */
static tw_j2k_node *make_tree(tw_image *image, uint32_t width, uint32_t height)
{
    uint64_t count = 0;
    for (uint32_t w = width, h = height;; w = (w + 1) / 2, h = (h + 1) / 2) {
        count += (uint64_t)w * h;
        if (w * (uint64_t)h <= 1) {
            break;
        }
    }
    tw_j2k_node *nodes = tw_image_room(image, count, sizeof *nodes), *at = nodes;
    for (uint32_t w = width, h = height; nodes && w * (uint64_t)h > 1; w = (w + 1) / 2, h = (h + 1) / 2) {
        tw_j2k_node *above = at + (size_t)w * h;
        for (uint32_t y = 0; y < h; y++) {
            for (uint32_t x = 0; x < w; x++) {
                at[(size_t)y * w + x].parent = above + (size_t)(y / 2) * ((w + 1) / 2) + x / 2;
            }
        }
        at = above;
    }
    return nodes;
}

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t smallest(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static tw_j2k_rectangle common(tw_j2k_rectangle a, tw_j2k_rectangle b)
{
    return (tw_j2k_rectangle){ largest(a.x0, b.x0), largest(a.y0, b.y0), smallest(a.x1, b.x1), smallest(a.y1, b.y1) };
}

/* The code blocks of a band in a precinct, `area` of the band. */
static bool make_precinct(tw_image *image, tw_j2k_precinct *p, tw_j2k_rectangle area, uint32_t width, uint32_t height)
{
    if (area.x1 <= area.x0 || area.y1 <= area.y0) {
        return true;
    }
    const int64_t x0 = area.x0 >> width, y0 = area.y0 >> height;
    p->across = (uint32_t)(tw_j2k_up(area.x1, width) - x0);
    p->down = (uint32_t)(tw_j2k_up(area.y1, height) - y0);
    p->blocks = tw_image_room(image, (uint64_t)p->across * p->down, sizeof *p->blocks);
    p->inclusion = make_tree(image, p->across, p->down);
    p->planes = make_tree(image, p->across, p->down);
    if (image->failed) {
        return false;
    }
    for (uint32_t i = 0; i < p->across * p->down; i++) {
        const int64_t x = (x0 + i % p->across) << width, y = (y0 + i / p->across) << height;
        const tw_j2k_rectangle whole = { x, y, x + ((int64_t)1 << width), y + ((int64_t)1 << height) };
        p->blocks[i].at = common(whole, area);
        p->blocks[i].length_bits = 3;
    }
    return true;
}

static bool make_band(tw_j2k_tile *t, tw_j2k_component *c, uint32_t r, tw_j2k_band *band, const tw_j2k_size *size)
{
    const tw_j2k_coding *coding = c->coding;
    const tw_j2k_resolution *res = &c->resolutions[r];
    const uint32_t level = r ? coding->levels - r + 1 : coding->levels, index = r ? 3 * (r - 1) + band->kind : 0;
    const int64_t right = band->kind & 1 ? (int64_t)1 << (level - 1) : 0, lower = band->kind & 2 ? (int64_t)1 << (level - 1) : 0;
    band->at = (tw_j2k_rectangle){ tw_j2k_up(c->at.x0 - right, level), tw_j2k_up(c->at.y0 - lower, level),
                                   tw_j2k_up(c->at.x1 - right, level), tw_j2k_up(c->at.y1 - lower, level) };
    const uint32_t gain = band->kind == 3 ? 2 : band->kind ? 1 : 0;
    const bool derived = coding->quantization == 1;
    const uint32_t less = derived && r ? r - 1 : 0, given = coding->exponent[derived ? 0 : index];
    const uint32_t exponent = given > less ? given - less : 0;
    band->planes = exponent + coding->guard_bits ? exponent + coding->guard_bits - 1 : 0;
    band->step = coding->reversible ? 1 : ldexpf(1 + (float)coding->mantissa[derived ? 0 : index] / 2048,
                                                 (int)(size->bits + gain) - (int)exponent);
    /* precincts and blocks, in coordinates of the band */
    const uint32_t shift = r ? 1 : 0, pw = coding->precinct_width[r] - shift, ph = coding->precinct_height[r] - shift;
    const uint32_t width = coding->block_width < pw ? coding->block_width : pw;
    const uint32_t height = coding->block_height < ph ? coding->block_height : ph;
    const int64_t left = res->at.x0 >> coding->precinct_width[r], top = res->at.y0 >> coding->precinct_height[r];
    const uint64_t count = (uint64_t)res->precincts_across * res->precincts_down;
    band->precincts = tw_image_room(t->image, count, sizeof *band->precincts);
    for (uint64_t i = 0; band->precincts && i < count; i++) {
        const int64_t x = (left + (int64_t)(i % res->precincts_across)) << pw, y = (top + (int64_t)(i / res->precincts_across)) << ph;
        const tw_j2k_rectangle whole = { x, y, x + ((int64_t)1 << pw), y + ((int64_t)1 << ph) };
        if (!make_precinct(t->image, &band->precincts[i], common(whole, band->at), width, height)) {
            return false;
        }
    }
    return band->precincts != NULL;
}

static bool make_component(tw_j2k_tile *t, tw_j2k_component *c, const tw_j2k_size *size, uint64_t *packets, size_t bytes)
{
    const uint32_t levels = c->coding->levels;
    uint32_t total = 0;
    c->at = (tw_j2k_rectangle){ (t->at.x0 + size->dx - 1) / size->dx, (t->at.y0 + size->dy - 1) / size->dy,
                                (t->at.x1 + size->dx - 1) / size->dx, (t->at.y1 + size->dy - 1) / size->dy };
    c->resolutions = tw_image_room(t->image, levels + 1, sizeof *c->resolutions);
    for (uint32_t r = 0; c->resolutions && r <= levels; r++) {
        tw_j2k_resolution *res = &c->resolutions[r];
        const uint32_t shift = levels - r, pw = c->coding->precinct_width[r], ph = c->coding->precinct_height[r];
        res->at = (tw_j2k_rectangle){ tw_j2k_up(c->at.x0, shift), tw_j2k_up(c->at.y0, shift), tw_j2k_up(c->at.x1, shift),
                                      tw_j2k_up(c->at.y1, shift) };
        if (res->at.x1 > res->at.x0 && res->at.y1 > res->at.y0) {
            res->precincts_across = (uint32_t)(tw_j2k_up(res->at.x1, pw) - (res->at.x0 >> pw));
            res->precincts_down = (uint32_t)(tw_j2k_up(res->at.y1, ph) - (res->at.y0 >> ph));
        }
        *packets += (uint64_t)res->precincts_across * res->precincts_down;
        if (*packets > bytes) {
            return tw_image_fail(t->image, "a tile has more packets than bytes");
        }
        c->first[r] = total;
        total += res->precincts_across * res->precincts_down;
        res->band_count = r ? 3 : 1;
        for (uint32_t i = 0; i < res->band_count; i++) {
            res->bands[i].kind = r ? i + 1 : 0;
            if (!make_band(t, c, r, &res->bands[i], size)) {
                return false;
            }
        }
    }
    const uint64_t samples = (uint64_t)(c->at.x1 - c->at.x0) * (uint64_t)(c->at.y1 - c->at.y0);
    c->done = tw_image_room(t->image, (uint64_t)total + 1, sizeof *c->done);
    c->whole = tw_image_room(t->image, samples + 1, sizeof *c->whole);
    c->real = c->coding->reversible ? NULL : tw_image_room(t->image, samples + 1, sizeof *c->real);
    return !t->image->failed;
}

bool tw_j2k_make_tile(tw_j2k_tile *t, const tw_j2k_size *sizes, size_t bytes)
{
    uint64_t packets = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        t->components[i].coding = &t->parameters.coding[i];
        if (!make_component(t, &t->components[i], &sizes[i], &packets, bytes)) {
            return false;
        }
    }
    return true;
}

/* ---- progressions ---- */

typedef struct cursor {
    tw_j2k_tile *t;
    const tw_j2k_size *sizes;
    tw_bytes in;
    uint32_t levels; /* the most of all components */
} cursor;

/* The next layer of a precinct; false: the bytes are used up, or are wrong. */
static bool next_layer(cursor *k, uint32_t component, uint32_t r, uint32_t precinct)
{
    tw_j2k_component *c = &k->t->components[component];
    uint32_t *done = &c->done[c->first[r] + precinct];
    return tw_j2k_read_packet(k->t, &c->resolutions[r], precinct, (*done)++, c->coding->style, &k->in);
}

/* All precincts of a resolution of a component, one layer of each. */
static bool whole_resolution(cursor *k, uint32_t component, uint32_t r)
{
    const tw_j2k_component *c = &k->t->components[component];
    if (r > c->coding->levels) {
        return true;
    }
    const tw_j2k_resolution *res = &c->resolutions[r];
    for (uint32_t p = 0; p < res->precincts_across * res->precincts_down; p++) {
        if (!next_layer(k, component, r, p)) {
            return false;
        }
    }
    return true;
}

static bool by_layers(cursor *k)
{
    const bool outer = k->t->parameters.order == 0; /* layers, then resolutions, or the other way round */
    const uint32_t layers = k->t->parameters.layers, most = outer ? layers : k->levels + 1, others = outer ? k->levels + 1 : layers;
    for (uint32_t a = 0; a < most; a++) {
        for (uint32_t b = 0; b < others; b++) {
            for (uint32_t c = 0; c < k->t->count; c++) {
                if (!whole_resolution(k, c, outer ? b : a)) {
                    return false;
                }
            }
        }
    }
    return true;
}

/* Whether a precinct of the resolution begins at a position, in a direction. */
static bool begins(int64_t at, int64_t start, int64_t low, uint32_t distance, uint32_t shift, uint32_t precinct)
{
    const int64_t unit = (int64_t)distance << (shift + precinct);
    return at % unit == 0 || (at == start && (low << shift) % ((int64_t)1 << (shift + precinct)) != 0);
}

/* The layers of the precinct of a resolution that begins at a position, if one does. */
static bool at_position(cursor *k, int64_t x, int64_t y, uint32_t component, uint32_t r)
{
    tw_j2k_component *c = &k->t->components[component];
    const tw_j2k_coding *coding = c->coding;
    if (r > coding->levels) {
        return true;
    }
    const tw_j2k_resolution *res = &c->resolutions[r];
    const tw_j2k_size *size = &k->sizes[component];
    const uint32_t shift = coding->levels - r, pw = coding->precinct_width[r], ph = coding->precinct_height[r];
    if (!res->precincts_across || !begins(y, k->t->at.y0, res->at.y0, size->dy, shift, ph) ||
        !begins(x, k->t->at.x0, res->at.x0, size->dx, shift, pw)) {
        return true;
    }
    const int64_t column = (tw_j2k_up((x + size->dx - 1) / size->dx, shift) >> pw) - (res->at.x0 >> pw);
    const int64_t row = (tw_j2k_up((y + size->dy - 1) / size->dy, shift) >> ph) - (res->at.y0 >> ph);
    if (column < 0 || row < 0 || column >= res->precincts_across || row >= res->precincts_down) {
        return true;
    }
    const uint32_t precinct = (uint32_t)(row * res->precincts_across + column);
    while (c->done[c->first[r] + precinct] < k->t->parameters.layers) {
        if (!next_layer(k, component, r, precinct)) {
            return false;
        }
    }
    return true;
}

/* The smallest distance of precincts of some components and resolutions. */
static int64_t distance(const cursor *k, uint32_t from, uint32_t to, uint32_t low, uint32_t high, bool across)
{
    int64_t least = (int64_t)1 << 40;
    for (uint32_t i = from; i < to; i++) {
        const tw_j2k_coding *coding = k->t->components[i].coding;
        for (uint32_t r = low; r <= high && r <= coding->levels; r++) {
            const uint32_t size = across ? coding->precinct_width[r] : coding->precinct_height[r];
            const int64_t own = (int64_t)(across ? k->sizes[i].dx : k->sizes[i].dy) << (size + coding->levels - r);
            least = smallest(least, own);
        }
    }
    return least;
}

/* All positions, at each the components from..to and the resolutions low..high. */
static bool by_position(cursor *k, uint32_t from, uint32_t to, uint32_t low, uint32_t high)
{
    const tw_j2k_rectangle at = k->t->at;
    const int64_t dx = distance(k, from, to, low, high, true), dy = distance(k, from, to, low, high, false);
    for (int64_t y = at.y0; y < at.y1; y += dy - y % dy) {
        for (int64_t x = at.x0; x < at.x1; x += dx - x % dx) {
            for (uint32_t c = from; c < to; c++) {
                for (uint32_t r = low; r <= high; r++) {
                    if (!at_position(k, x, y, c, r)) {
                        return false;
                    }
                }
            }
        }
    }
    return true;
}

bool tw_j2k_read_packets(tw_j2k_tile *t, const tw_j2k_size *sizes, tw_bytes in)
{
    cursor k = { .t = t, .sizes = sizes, .in = in };
    for (uint32_t c = 0; c < t->count; c++) {
        k.levels = t->components[c].coding->levels > k.levels ? t->components[c].coding->levels : k.levels;
    }
    bool more = true;
    switch (t->parameters.order) {
    case 0:
    case 1:
        more = by_layers(&k);
        break;
    case 2:
        for (uint32_t r = 0; more && r <= k.levels; r++) {
            more = by_position(&k, 0, t->count, r, r);
        }
        break;
    case 3:
        more = by_position(&k, 0, t->count, 0, k.levels);
        break;
    default:
        for (uint32_t c = 0; more && c < t->count; c++) {
            more = by_position(&k, c, c + 1, 0, k.levels);
        }
    }
    return more || tw_image_fail(t->image, "the packets of a tile are damaged or end too early");
}
