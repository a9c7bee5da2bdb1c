/* Libraries that come and go in one process, and two with the same names in it at once.
 *
 * Arguments: two libraries of a model `net` (embedding.c) with other weights and another run-time support, and how often they are
 * opened and closed.  Prints "ok", or the line that failed. */
#define _GNU_SOURCE
#include "net.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                        \
    do {                                                         \
        if (!(condition)) {                                      \
            printf("line %d: %s\n", __LINE__, #condition);       \
            exit(1);                                             \
        }                                                        \
    } while (0)
#define ROWS 7
#define IN 64
#define OUT 48

typedef struct library {
    void *handle;
    int32_t (*create)(const tw_options *options, net_model **out);
    int32_t (*run)(net_model *model, const tw_tensor *in, size_t count, const tw_tensor *out, size_t results);
    int32_t (*destroy)(net_model *model);
} library;

static library opened(const char *path, int flags)
{
    library l = { dlopen(path, RTLD_NOW | flags), NULL, NULL, NULL };
    EXPECT(l.handle);
    *(void **)&l.create = dlsym(l.handle, "net_create");
    *(void **)&l.run = dlsym(l.handle, "net_run_tensors");
    *(void **)&l.destroy = dlsym(l.handle, "net_destroy");
    EXPECT(l.create && l.run && l.destroy);
    return l;
}

static net_model *created(const library *l, int32_t threads)
{
    tw_options options = TW_OPTIONS_INIT;
    options.threads = threads;
    net_model *model;
    EXPECT(l->create(&options, &model) == TW_OK);
    return model;
}

static void run(const library *l, net_model *model, float *y)
{
    static float x[ROWS * IN];
    static const char *s[ROWS], *t[ROWS];
    for (int i = 0; i < ROWS * IN; i++) {
        x[i] = (float)(i * 7 % 31 - 15) / 8.0f;
        s[i / IN] = "text";
    }
    const int64_t wide[] = { ROWS, IN }, narrow[] = { ROWS, OUT }, texts[] = { ROWS };
    const tw_tensor in[] = { { x, sizeof x, TW_F32, 2, wide }, { (void *)s, sizeof s, TW_STRING, 1, texts } };
    const tw_tensor out[] = { { y, sizeof(float) * ROWS * OUT, TW_F32, 2, narrow }, { (void *)t, sizeof t, TW_STRING, 1, texts } };
    EXPECT(l->run(model, in, 2, out, 2) == TW_OK && strcmp(t[ROWS - 1], "texttext") == 0);
}

static void alone(const char *path, int32_t threads, float *y)
{
    library l = opened(path, RTLD_LOCAL);
    net_model *model = created(&l, threads);
    run(&l, model, y);
    EXPECT(l.destroy(model) == TW_OK && dlclose(l.handle) == 0);
}

static long resident_pages(void)
{
    long total, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    EXPECT(file && fscanf(file, "%ld %ld", &total, &resident) == 2 && fclose(file) == 0);
    return resident;
}

static int lines(const char *path)
{
    int count = 0;
    FILE *file = fopen(path, "r");
    EXPECT(file);
    for (int c; (c = fgetc(file)) != EOF;) {
        count += c == '\n';
    }
    (void)fclose(file);
    return count;
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

int main(int count, char **words)
{
    EXPECT(count == 4);
    static float first[ROWS * OUT], second[ROWS * OUT], y[ROWS * OUT];
    alone(words[1], 2, first);
    alone(words[2], 2, second);
    EXPECT(memcmp(first, second, sizeof first) != 0);
    for (int order = 0; order < 2; order++) { /* both at once, with symbols that all can see */
        library a = opened(words[1 + order], RTLD_GLOBAL), b = opened(words[2 - order], RTLD_GLOBAL);
        net_model *one = created(&a, 3), *other = created(&b, 3);
        for (int i = 0; i < 50; i++) {
            run(&a, one, y);
            EXPECT(memcmp(y, order ? second : first, sizeof y) == 0);
            run(&b, other, y);
            EXPECT(memcmp(y, order ? first : second, sizeof y) == 0);
        }
        EXPECT(a.destroy(one) == TW_OK && b.destroy(other) == TW_OK);
        EXPECT(dlclose(a.handle) == 0 && dlclose(b.handle) == 0);
    }
    const int times = atoi(words[3]), warm = times / 4;
    long resident = 0;
    int maps = 0, files = 0, threads = 0;
    for (int i = 0; i < times; i++) {
        if (i == warm) {
            resident = resident_pages();
            maps = lines("/proc/self/maps");
            files = entries("/proc/self/fd");
            threads = entries("/proc/self/task");
        }
        alone(words[1 + i % 2], 1 + i % 3, y);
        EXPECT(memcmp(y, i % 2 ? second : first, sizeof y) == 0);
    }
    EXPECT(resident_pages() <= resident + 64 && lines("/proc/self/maps") <= maps + 2);
    EXPECT(entries("/proc/self/fd") == files && entries("/proc/self/task") == threads);
    puts("ok");
    return 0;
}
