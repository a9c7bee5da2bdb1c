/* JPEG 2000 (ITU-T T.800): the arithmetic decoder (annex C) and the passes over the bit planes of a code block (annex D). */
#include "tw_j2k.h"

#include <string.h>

#define MOST_PLANES 30

enum { SIGNS = 9, REFINE = 14, RUN = 17, UNIFORM = 18, CONTEXTS };
enum { SIGNIFICANT = 1, VISITED = 2, REFINED = 4, NEGATIVE = 8 };

/* Probabilities of the less probable symbol, and the states behind it (table C.2): the next one after the more probable
 * symbol, after the other one, and whether that exchanges them. */
typedef struct state {
    uint16_t probability;
    unsigned char more, less, exchange;
} state;

static const state states[47] = {
    { 0x5601, 1, 1, 1 },   { 0x3401, 2, 6, 0 },   { 0x1801, 3, 9, 0 },   { 0x0AC1, 4, 12, 0 },  { 0x0521, 5, 29, 0 },
    { 0x0221, 38, 33, 0 }, { 0x5601, 7, 6, 1 },   { 0x5401, 8, 14, 0 },  { 0x4801, 9, 14, 0 },  { 0x3801, 10, 14, 0 },
    { 0x3001, 11, 17, 0 }, { 0x2401, 12, 18, 0 }, { 0x1C01, 13, 20, 0 }, { 0x1601, 29, 21, 0 }, { 0x5601, 15, 14, 1 },
    { 0x5401, 16, 14, 0 }, { 0x5101, 17, 15, 0 }, { 0x4801, 18, 16, 0 }, { 0x3801, 19, 17, 0 }, { 0x3401, 20, 18, 0 },
    { 0x3001, 21, 19, 0 }, { 0x2801, 22, 19, 0 }, { 0x2401, 23, 20, 0 }, { 0x2201, 24, 21, 0 }, { 0x1C01, 25, 22, 0 },
    { 0x1801, 26, 23, 0 }, { 0x1601, 27, 24, 0 }, { 0x1401, 28, 25, 0 }, { 0x1201, 29, 26, 0 }, { 0x1101, 30, 27, 0 },
    { 0x0AC1, 31, 28, 0 }, { 0x09C1, 32, 29, 0 }, { 0x08A1, 33, 30, 0 }, { 0x0521, 34, 31, 0 }, { 0x0441, 35, 32, 0 },
    { 0x02A1, 36, 33, 0 }, { 0x0221, 37, 34, 0 }, { 0x0141, 38, 35, 0 }, { 0x0111, 39, 36, 0 }, { 0x0085, 40, 37, 0 },
    { 0x0049, 41, 38, 0 }, { 0x0025, 42, 39, 0 }, { 0x0015, 43, 40, 0 }, { 0x0009, 44, 41, 0 }, { 0x0005, 45, 42, 0 },
    { 0x0001, 45, 43, 0 }, { 0x5601, 46, 46, 0 } };

typedef struct coder {
    const unsigned char *at, *end; /* of a segment: behind it are ones */
    uint32_t a, c, ct;             /* the registers of annex C; raw bits: c is the byte, ct what is left of it */
    bool raw;
    unsigned char index[CONTEXTS], symbol[CONTEXTS];
    /* the block */
    unsigned char *flags;          /* with a border of one */
    size_t flag_stride, stride;
    int32_t *out;
    uint32_t width, height, kind, style;
    int32_t one;                   /* the bit of this plane, in halves */
} coder;

static void byte_in(coder *k)
{
    const uint32_t byte = k->at < k->end ? *k->at : 0xFF, next = k->at + 1 < k->end ? k->at[1] : 0xFF;
    if (byte == 0xFF && next > 0x8F) {
        k->c += 0xFF00;
        k->ct = 8;
        return;
    }
    k->at++;
    k->c += byte == 0xFF ? next << 9 : next << 8;
    k->ct = byte == 0xFF ? 7 : 8;
}

static void start(coder *k, const unsigned char *data, size_t size, bool raw)
{
    k->at = data;
    k->end = data + size;
    k->raw = raw;
    k->c = k->ct = 0;
    if (!raw) {
        k->c = (size ? (uint32_t)*data : 0xFF) << 16;
        byte_in(k);
        k->c <<= 7;
        k->ct -= 7;
        k->a = 0x8000;
    }
}

static void reset(coder *k)
{
    memset(k->index, 0, sizeof k->index);
    memset(k->symbol, 0, sizeof k->symbol);
    k->index[0] = 4;
    k->index[RUN] = 3;
    k->index[UNIFORM] = 46;
}

static uint32_t decide(coder *k, uint32_t context)
{
    const state *s = &states[k->index[context]];
    uint32_t made = k->symbol[context];
    k->a -= s->probability;
    bool less = false;
    if (k->c >> 16 < s->probability) {
        less = k->a >= s->probability;
        k->a = s->probability;
    } else {
        k->c -= (uint32_t)s->probability << 16;
        if (k->a & 0x8000) {
            return made;
        }
        less = k->a < s->probability;
    }
    if (less) {
        made ^= 1;
        k->symbol[context] ^= s->exchange;
        k->index[context] = s->less;
    } else {
        k->index[context] = s->more;
    }
    do {
        if (!k->ct) {
            byte_in(k);
        }
        k->a <<= 1;
        k->c <<= 1;
        k->ct--;
    } while (!(k->a & 0x8000));
    return made;
}

static uint32_t raw_bit(coder *k)
{
    if (!k->ct) {
        k->ct = k->c == 0xFF ? 7 : 8;
        k->c = k->at < k->end ? *k->at++ : 0xFF;
    }
    k->ct--;
    return k->c >> k->ct & 1;
}

/* The flags of a neighbour; below a stripe there are none where stripes do not look down. */
typedef struct around {
    unsigned char left, right, up, down, corners[4];
} around;

static around look(const coder *k, const unsigned char *f, uint32_t y)
{
    const size_t s = k->flag_stride;
    around n = { f[-1], f[1], *(f - s), f[s], { *(f - s - 1), *(f - s + 1), f[s - 1], f[s + 1] } };
    if (k->style & TW_J2K_CAUSAL && y % 4 == 3) {
        n.down = n.corners[2] = n.corners[3] = 0;
    }
    return n;
}

/* The context of whether a coefficient becomes significant (table D.1). */
static uint32_t zero_context(const coder *k, const around *n)
{
    uint32_t h = (n->left & 1u) + (n->right & 1u), v = (n->up & 1u) + (n->down & 1u);
    const uint32_t d = (n->corners[0] & 1u) + (n->corners[1] & 1u) + (n->corners[2] & 1u) + (n->corners[3] & 1u);
    if (k->kind == 3) {
        const uint32_t both = h + v;
        if (d >= 2) {
            return d >= 3 ? 8 : both ? 7 : 6;
        }
        return d ? 3 + (both > 2 ? 2 : both) : both > 2 ? 2 : both;
    }
    if (k->kind == 1) {
        const uint32_t swapped = h;
        h = v;
        v = swapped;
    }
    if (h) {
        return h == 2 ? 8 : v ? 7 : d ? 6 : 5;
    }
    return v ? 2 + v : d > 2 ? 2 : d;
}

static int32_t sign_of(unsigned char f)
{
    return f & SIGNIFICANT ? (f & NEGATIVE ? -1 : 1) : 0;
}

static uint32_t decode_sign(coder *k, const around *n)
{
    if (k->raw) {
        return raw_bit(k);
    }
    int32_t h = sign_of(n->left) + sign_of(n->right), v = sign_of(n->up) + sign_of(n->down);
    h = h > 1 ? 1 : h < -1 ? -1 : h;
    v = v > 1 ? 1 : v < -1 ? -1 : v;
    const bool flip = h < 0 || (!h && v < 0);
    const int32_t along = flip ? -v : v, context = h ? 3 + along : along; /* table D.3 */
    return decide(k, SIGNS + (uint32_t)context) ^ flip;
}

static void become_significant(coder *k, unsigned char *f, uint32_t x, uint32_t y, const around *n)
{
    const uint32_t negative = decode_sign(k, n);
    *f |= (unsigned char)(SIGNIFICANT | (negative ? NEGATIVE : 0));
    const int32_t v = k->one | k->one >> 1; /* in the middle of what it may be */
    k->out[y * k->stride + x] = negative ? -v : v;
}

static unsigned char *flag_at(const coder *k, uint32_t x, uint32_t y)
{
    return k->flags + (size_t)(y + 1) * k->flag_stride + x + 1;
}

/* Coefficients with a significant neighbour. */
static void significance_pass(coder *k, uint32_t x, uint32_t y)
{
    unsigned char *f = flag_at(k, x, y);
    if (*f & SIGNIFICANT) {
        return;
    }
    const around n = look(k, f, y);
    const uint32_t context = zero_context(k, &n);
    if (!context) {
        return;
    }
    if (k->raw ? raw_bit(k) : decide(k, context)) {
        become_significant(k, f, x, y, &n);
    }
    *f |= VISITED;
}

/* One more bit of those that were significant before this plane. */
static void refinement_pass(coder *k, uint32_t x, uint32_t y)
{
    unsigned char *f = flag_at(k, x, y);
    if ((*f & (SIGNIFICANT | VISITED)) != SIGNIFICANT) {
        return;
    }
    const around n = look(k, f, y);
    const uint32_t context = *f & REFINED ? REFINE + 2 : zero_context(k, &n) ? REFINE + 1 : REFINE;
    const uint32_t bit = k->raw ? raw_bit(k) : decide(k, context);
    int32_t *v = &k->out[y * k->stride + x];
    const int32_t change = bit ? k->one >> 1 : -(k->one >> 1);
    *v += *v < 0 ? -change : change;
    *f |= REFINED;
}

/* All others, by columns of four; a column of zeros among zeros takes one decision. */
static void cleanup_column(coder *k, uint32_t x, uint32_t y0)
{
    const uint32_t end = y0 + 4 < k->height ? y0 + 4 : k->height;
    uint32_t y = y0;
    bool found = false;
    if (end - y0 == 4) {
        bool quiet = true;
        for (uint32_t i = y0; i < end && quiet; i++) {
            const unsigned char *f = flag_at(k, x, i);
            const around n = look(k, f, i);
            quiet = !(*f & (SIGNIFICANT | VISITED)) && !zero_context(k, &n);
        }
        if (quiet) {
            if (!decide(k, RUN)) {
                return;
            }
            const uint32_t high = decide(k, UNIFORM);
            y += 2 * high + decide(k, UNIFORM);
            found = true;
        }
    }
    for (; y < end; y++) {
        unsigned char *f = flag_at(k, x, y);
        if (!(*f & (SIGNIFICANT | VISITED))) {
            const around n = look(k, f, y);
            if (found || decide(k, zero_context(k, &n))) {
                become_significant(k, f, x, y, &n);
            }
        }
        found = false;
    }
}

static void run_pass(coder *k, uint32_t kind)
{
    for (uint32_t y0 = 0; y0 < k->height; y0 += 4) {
        for (uint32_t x = 0; x < k->width; x++) {
            if (kind == 2) {
                cleanup_column(k, x, y0);
                continue;
            }
            for (uint32_t y = y0; y < y0 + 4 && y < k->height; y++) {
                if (kind == 0) {
                    significance_pass(k, x, y);
                } else {
                    refinement_pass(k, x, y);
                }
            }
        }
    }
    if (kind == 2) {
        for (size_t i = 0; i < (size_t)(k->height + 2) * k->flag_stride; i++) {
            k->flags[i] &= (unsigned char)~VISITED;
        }
        for (int i = 0; i < 4 && k->style & TW_J2K_SYMBOLS; i++) {
            (void)decide(k, UNIFORM);
        }
    }
}

/* The bytes of a segment, joined; *passes: those of its chunks.  *chunk is moved behind it. */
static size_t join(const tw_j2k_chunk **chunk, unsigned char *joined, uint32_t *passes)
{
    const uint32_t segment = (*chunk)->segment;
    size_t size = 0;
    *passes = 0;
    for (; *chunk && (*chunk)->segment == segment; *chunk = (*chunk)->next) {
        if ((*chunk)->data) {
            memcpy(joined + size, (*chunk)->data, (*chunk)->size);
            size += (*chunk)->size;
        }
        *passes += (*chunk)->passes;
    }
    return size;
}

bool tw_j2k_decode_block(tw_image *image, const tw_j2k_block *b, uint32_t kind, uint32_t style, int32_t *out, size_t stride)
{
    coder k = { .width = (uint32_t)(b->at.x1 - b->at.x0), .height = (uint32_t)(b->at.y1 - b->at.y0), .kind = kind,
                .style = style, .out = out, .stride = stride };
    size_t total = 0;
    for (const tw_j2k_chunk *c = b->first; c; c = c->next) {
        total += c->size;
    }
    if (!b->first || !b->planes) {
        return true;
    }
    if (b->planes > MOST_PLANES) {
        return tw_image_fail(image, "coefficients have more bits than are supported");
    }
    const tw_support_mark mark = tw_support_here(image->runtime);
    k.flag_stride = k.width + 2;
    k.flags = tw_image_room(image, (uint64_t)k.flag_stride * (k.height + 2), 1);
    unsigned char *joined = tw_image_room(image, total + 1, 1);
    if (!k.flags || !joined) {
        return false;
    }
    reset(&k);
    uint32_t plane = b->planes, pass = 2, number = 0; /* the first plane has a cleanup pass only */
    for (const tw_j2k_chunk *c = b->first; c && plane;) {
        uint32_t passes = 0;
        const size_t size = join(&c, joined, &passes);
        const bool raw = style & TW_J2K_BYPASS && number >= 10 && pass != 2;
        start(&k, joined, size, raw);
        for (; passes && plane; passes--, number++) {
            k.one = (int32_t)1 << plane;
            run_pass(&k, pass);
            if (style & TW_J2K_RESET) {
                reset(&k);
            }
            plane -= pass == 2;
            pass = (pass + 1) % 3;
        }
    }
    tw_support_back(image->runtime, mark);
    return true;
}
