// A cuBLASLt for tests: products of matrices in columns, on the device memory of the fake driver, by plain loops.

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr uint64_t TAG = 1ull << 56; // of device addresses
struct Desc {
    int compute, scale, transpose_a, transpose_b;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t ld, batch_stride;
    int32_t batches;
};
struct Result {
    uint64_t algorithm[8];
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};
int handles, objects, products;

float read(const Layout &m, const void *base, int64_t at)
{
    const unsigned char *const p = (const unsigned char *)((uint64_t)base & ~TAG);
    if (m.type == 0) return ((const float *)p)[at];
    const uint16_t bits = ((const uint16_t *)p)[at];
    uint32_t word = (uint32_t)bits << 16; // bf16
    if (m.type == 2) { // f16, no subnormal numbers in these tests
        const uint32_t sign = bits >> 15, exponent = bits >> 10 & 31, fraction = bits & 1023;
        word = sign << 31 | (exponent ? (exponent + 112) << 23 | fraction << 13 : 0);
    }
    float x;
    memcpy(&x, &word, 4);
    return x;
}

} // namespace

extern "C" {
int fake_objects(void) { return objects + handles; }
int fake_products(void) { return products; }

int cublasLtCreate(void **handle)
{
    handles++;
    *handle = &handles;
    return 0;
}
int cublasLtDestroy(void *) { return handles--, 0; }
int cublasLtMatmulDescCreate(void **desc, int compute, int scale)
{
    if ((compute != 68 && compute != 77) || scale != 0) return 7;
    objects++;
    *desc = new Desc{ compute, scale, 0, 0 };
    return 0;
}
int cublasLtMatmulDescDestroy(void *desc) { return delete (Desc *)desc, objects--, 0; }
int cublasLtMatmulDescSetAttribute(void *desc, int attribute, const void *value, size_t bytes)
{
    if (bytes != 4 || (attribute != 3 && attribute != 4)) return 7;
    memcpy(attribute == 3 ? &((Desc *)desc)->transpose_a : &((Desc *)desc)->transpose_b, value, 4);
    return 0;
}
int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t ld)
{
    if (ld < (int64_t)rows || (type != 0 && type != 2 && type != 14)) return 7;
    objects++;
    *layout = new Layout{ type, rows, columns, ld, 0, 1 };
    return 0;
}
int cublasLtMatrixLayoutDestroy(void *layout) { return delete (Layout *)layout, objects--, 0; }
int cublasLtMatrixLayoutSetAttribute(void *layout, int attribute, const void *value, size_t bytes)
{
    Layout *const m = (Layout *)layout;
    if (attribute == 5 && bytes == 4) memcpy(&m->batches, value, 4);
    else if (attribute == 6 && bytes == 8) memcpy(&m->batch_stride, value, 8);
    else return 7;
    return 0;
}
int cublasLtMatmulPreferenceCreate(void **preference)
{
    objects++;
    *preference = &objects;
    return 0;
}
int cublasLtMatmulPreferenceDestroy(void *) { return objects--, 0; }
int cublasLtMatmulPreferenceSetAttribute(void *, int attribute, const void *, size_t bytes) { return attribute != 1 || bytes != 8; }
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int wanted, Result *results, int *found)
{
    memset(results, 0, (size_t)wanted * sizeof *results);
    results->algorithm[0] = 42;
    results->workspace = 1024;
    *found = 1;
    return 0;
}
int cublasLtMatmul(void *, void *desc, const float *alpha, const void *a, void *a_layout, const void *b, void *b_layout,
                   const float *beta, const void *c, void *c_layout, void *d, void *d_layout, const uint64_t *algorithm,
                   void *workspace, size_t workspace_bytes, void *)
{
    const Desc &how = *(Desc *)desc;
    const Layout &x = *(Layout *)a_layout, &y = *(Layout *)b_layout, &z = *(Layout *)d_layout;
    const uint64_t depth = how.transpose_a ? x.rows : x.columns;
    const bool fits = (how.transpose_a ? x.columns : x.rows) == z.rows && (how.transpose_b ? y.rows : y.columns) == z.columns
        && (how.transpose_b ? y.columns : y.rows) == depth && *alpha == 1 && *beta == 0 && c == d && c_layout == d_layout;
    if (!fits || algorithm[0] != 42 || workspace_bytes != 1024 || !((uint64_t)workspace & TAG) || z.type != 0) return 7;
    products++;
    for (int n = 0; n < z.batches; n++) {
        for (uint64_t j = 0; j < z.columns; j++) {
            for (uint64_t i = 0; i < z.rows; i++) {
                double sum = 0;
                for (uint64_t k = 0; k < depth; k++) {
                    const int64_t p = (int64_t)(how.transpose_a ? k + i * (uint64_t)x.ld : i + k * (uint64_t)x.ld);
                    const int64_t q = (int64_t)(how.transpose_b ? j + k * (uint64_t)y.ld : k + j * (uint64_t)y.ld);
                    sum += (double)read(x, a, p + n * x.batch_stride) * (double)read(y, b, q + n * y.batch_stride);
                }
                ((float *)((uint64_t)d & ~TAG))[(int64_t)(i + j * (uint64_t)z.ld) + n * z.batch_stride] = (float)sum;
            }
        }
    }
    return 0;
}
}
