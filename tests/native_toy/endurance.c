/* A real compiled model for a long time: runs, instances and threads without growth, and what happens with one instance in
 * many threads.  Arguments: number of runs, number of instances.  Prints "ok", or the line that failed. */
#define _GNU_SOURCE
#include "digits.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPECT(condition)                                                        \
    do {                                                                         \
        if (!(condition)) {                                                      \
            printf("line %d: %s\n", __LINE__, #condition);                       \
            exit(1);                                                             \
        }                                                                        \
    } while (0)
#define MANY 64
#define SLACK 16 /* pages: the system counts them in batches; a byte lost in each run is more */

static float pixels[1024], expected[64];
static uint64_t input_bytes, output_bytes;

static long resident_pages(void)
{
    long total, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    EXPECT(file && fscanf(file, "%ld %ld", &total, &resident) == 2 && fclose(file) == 0);
    return resident;
}

static int entries(const char *folder)
{
    int count = 0;
    DIR *open = opendir(folder);
    EXPECT(open);
    while (readdir(open)) {
        count++;
    }
    (void)closedir(open);
    return count;
}

static digits_model *created(int32_t threads)
{
    tw_options options = TW_OPTIONS_INIT;
    options.threads = threads;
    digits_model *model;
    EXPECT(digits_create(&options, &model) == TW_OK);
    return model;
}

static int32_t run(digits_model *model, float *scores)
{
    const void *in[] = { pixels };
    void *out[] = { scores };
    return digits_run(model, in, out);
}

static bool right(const float *scores)
{
    return memcmp(scores, expected, output_bytes) == 0;
}

static void *own_instance(void *argument)
{
    digits_model *model = created(1 + *(int *)argument % 2);
    for (int i = 0; i < 50; i++) {
        float scores[64] = { 0 };
        EXPECT(run(model, scores) == TW_OK && right(scores));
    }
    EXPECT(digits_destroy(model) == TW_OK);
    return NULL;
}

static digits_model *contested;
static atomic_int refused, served;

static void *one_instance(void *argument)
{
    (void)argument;
    while (atomic_load(&served) < 2000) {
        float scores[64] = { 0 };
        const int32_t status = run(contested, scores);
        EXPECT(status == TW_BUSY || (status == TW_OK && right(scores)));
        atomic_fetch_add(status == TW_OK ? &served : &refused, 1);
    }
    return NULL;
}

static void in_threads(int count, void *(*body)(void *))
{
    pthread_t threads[MANY];
    int numbers[MANY];
    for (int i = 0; i < count; i++) {
        numbers[i] = i;
        EXPECT(pthread_create(&threads[i], NULL, body, &numbers[i]) == 0);
    }
    for (int i = 0; i < count; i++) {
        EXPECT(pthread_join(threads[i], NULL) == 0);
    }
}

int main(int count, char **words)
{
    EXPECT(count == 3 && digits_input_count() == 1 && digits_output_count() == 1);
    const long runs = atol(words[1]), instances = atol(words[2]);
    input_bytes = digits_input_info(0)->bytes;
    output_bytes = digits_output_info(0)->bytes;
    EXPECT(input_bytes <= sizeof pixels && output_bytes <= sizeof expected);
    for (size_t i = 0; i < input_bytes / sizeof(float); i++) {
        pixels[i] = (float)(i % 17) / 16.0f;
    }
    digits_model *model = created(1);
    EXPECT(run(model, expected) == TW_OK);

    float scores[64];
    for (int i = 0; i < 1000; i++) {
        EXPECT(run(model, scores) == TW_OK);
    }
    const int files = entries("/proc/self/fd"), tasks = entries("/proc/self/task");
    const long before = resident_pages();
    for (long i = 0; i < runs; i++) {
        memset(scores, 0, sizeof scores);
        EXPECT(run(model, scores) == TW_OK);
        EXPECT(i % 1000 || right(scores));
    }
    EXPECT(right(scores));
    EXPECT(resident_pages() <= before + SLACK && entries("/proc/self/fd") == files && entries("/proc/self/task") == tasks);

    for (int i = 0; i < 50; i++) {
        EXPECT(digits_destroy(created(2)) == TW_OK);
    }
    const long settled = resident_pages();
    for (long i = 0; i < instances; i++) {
        digits_model *other = created(1 + (int32_t)(i % 3));
        EXPECT(run(other, scores) == TW_OK && right(scores));
        EXPECT(digits_destroy(other) == TW_OK);
    }
    EXPECT(resident_pages() <= settled + SLACK && entries("/proc/self/fd") == files && entries("/proc/self/task") == tasks);

    in_threads(MANY, own_instance);
    contested = model;
    in_threads(8, one_instance);
    EXPECT(entries("/proc/self/task") == tasks && digits_destroy(model) == TW_OK);
    (void)fprintf(stderr, "%d runs served, %d refused\n", atomic_load(&served), atomic_load(&refused));
    puts("ok");
    return 0;
}
