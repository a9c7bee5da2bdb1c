/* JPEG 2000 (ITU-T T.800, annex F): the inverse wavelet transforms, 5-3 in integers and 9-7 in floats. */
#include "tw_j2k.h"

/* Sums that wrap around: only damaged files reach them. */
static int32_t sum(int64_t v)
{
    return (int32_t)(uint32_t)(uint64_t)v;
}

/* One line of n >= 2 numbers, in place; odd: the first one is of the upper band. */
static void whole_line(int32_t *x, int64_t n, int64_t odd)
{
    for (int64_t i = odd; i < n; i += 2) {
        const int64_t left = x[i > 0 ? i - 1 : i + 1], right = x[i + 1 < n ? i + 1 : i - 1];
        x[i] = sum(x[i] - ((left + right + 2) >> 2));
    }
    for (int64_t i = 1 - odd; i < n; i += 2) {
        const int64_t left = x[i > 0 ? i - 1 : i + 1], right = x[i + 1 < n ? i + 1 : i - 1];
        x[i] = sum(x[i] + ((left + right) >> 1));
    }
}

/* A lifting step: every second number gets the sum of its neighbours times a factor. */
static void lift(float *x, int64_t n, int64_t first, float factor)
{
    for (int64_t i = first; i < n; i += 2) {
        x[i] += factor * (x[i > 0 ? i - 1 : i + 1] + x[i + 1 < n ? i + 1 : i - 1]);
    }
}

static void real_line(float *x, int64_t n, int64_t odd)
{
    const float k = 1.230174104914001f;
    for (int64_t i = 0; i < n; i++) {
        x[i] *= (i + odd) % 2 ? 1 / k : k;
    }
    lift(x, n, odd, -0.443506852043971f);
    lift(x, n, 1 - odd, -0.882911075530934f);
    lift(x, n, odd, 0.052980118572961f);
    lift(x, n, 1 - odd, 1.586134342059924f);
}

/* One line whose numbers lie `step` apart: first those of the lower band, then those of the upper one; they are mixed. */
static void line_of(tw_j2k_component *c, size_t at, size_t step, int64_t from, int64_t to, void *line)
{
    const int64_t n = to - from, odd = from & 1, low = tw_j2k_up(to, 1) - tw_j2k_up(from, 1);
    if (c->real) {
        float *x = line, *data = c->real + at;
        for (int64_t i = 0; i < n; i++) {
            x[i < low ? 2 * i + odd : 2 * (i - low) + 1 - odd] = data[(size_t)i * step];
        }
        if (n > 1) {
            real_line(x, n, odd);
        } else if (odd) {
            x[0] /= 2;
        }
        for (int64_t i = 0; i < n; i++) {
            data[(size_t)i * step] = x[i];
        }
        return;
    }
    int32_t *x = line, *data = c->whole + at;
    for (int64_t i = 0; i < n; i++) {
        x[i < low ? 2 * i + odd : 2 * (i - low) + 1 - odd] = data[(size_t)i * step];
    }
    if (n > 1) {
        whole_line(x, n, odd);
    } else if (odd) {
        x[0] /= 2;
    }
    for (int64_t i = 0; i < n; i++) {
        data[(size_t)i * step] = x[i];
    }
}

void tw_j2k_synthesize(tw_j2k_component *c, void *line)
{
    const size_t stride = (size_t)(c->at.x1 - c->at.x0);
    for (uint32_t r = 1; r <= c->coding->levels; r++) {
        const tw_j2k_rectangle at = c->resolutions[r].at;
        const int64_t width = at.x1 - at.x0, height = at.y1 - at.y0;
        for (int64_t y = 0; width > 0 && y < height; y++) {
            line_of(c, (size_t)y * stride, 1, at.x0, at.x1, line);
        }
        for (int64_t x = 0; height > 0 && x < width; x++) {
            line_of(c, (size_t)x, stride, at.y0, at.y1, line);
        }
    }
}
