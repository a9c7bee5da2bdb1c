/* A hand-written entry point, as generated code defines it: y = 2 x + w, n = sum of x (as i64) over two barriers.
 * x: f32[4, 8], k: i64 scalar, w: 8 floats at constants + 64; y: f32[4, 8], n: i64 scalar = k + sum. */
#include <stdint.h>

void tw_barrier(void *runtime);
#ifdef PROFILE
void tw_profile_enter(void *runtime, int64_t tid, int64_t step);
void tw_profile_leave(void *runtime, int64_t tid, int64_t step);
#else
#define tw_profile_enter(runtime, tid, step) ((void)0)
#define tw_profile_leave(runtime, tid, step) ((void)0)
#endif

#ifndef SLOW_ITERATIONS
#define SLOW_ITERATIONS 1
#endif

__attribute__((visibility("hidden"))) void tw_main(void *runtime, char *arena, char *scratch, const char *constants,
                                                   void *const *inputs, void *const *outputs, int64_t tid, int64_t nt)
{
    const float *x = inputs[0];
    const int64_t *k = inputs[1];
    float *y = outputs[0];
    int64_t *n = outputs[1];
    const float *w = (const float *)(constants + 64);
    float *doubled = (float *)arena;
    float *partial = (float *)(arena + 128);
    float *row = (float *)scratch;
    for (int64_t repeat = 0; repeat < SLOW_ITERATIONS; repeat++) {
        tw_profile_enter(runtime, tid, 0);
        for (int64_t i = 4 * tid / nt; i < 4 * (tid + 1) / nt; i++) {
            for (int j = 0; j < 8; j++) {
                row[j] = 2.0f * x[8 * i + j];
            }
            float sum = 0.0f;
            for (int j = 0; j < 8; j++) {
                doubled[8 * i + j] = row[j];
                sum += row[j] / 2.0f;
            }
            partial[i] = sum;
        }
        tw_profile_leave(runtime, tid, 0);
        if (nt > 1) {
            tw_barrier(runtime);
        }
        for (int64_t i = 4 * tid / nt; i < 4 * (tid + 1) / nt; i++) {
            for (int j = 0; j < 8; j++) {
                y[8 * i + j] = doubled[8 * (3 - i) + j] + w[j]; /* another thread's row */
            }
        }
        if (tid == 0) {
            *n = *k + (int64_t)(partial[0] + partial[1] + partial[2] + partial[3]);
        }
        if (nt > 1) {
            tw_barrier(runtime);
        }
    }
}
