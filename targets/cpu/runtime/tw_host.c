/* What this machine offers: instruction sets, and processors that the affinity mask and the cgroup quota grant. */
#define _GNU_SOURCE
#include "tw_runtime.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t saved_state(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) {
        return 0;
    }
    uint32_t low, high;
    __asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

static bool has_feature(const tw_feature *feature)
{
    unsigned r[4] = { 0, 0, 0, 0 };
    if (!__get_cpuid_count(feature->leaf, feature->subleaf, &r[0], &r[1], &r[2], &r[3])) {
        return false;
    }
    const bool present = (r[feature->reg & 3u] >> feature->bit) & 1u;
    return present && (!feature->state || (saved_state() & feature->state) == feature->state);
}
#else
static bool has_feature(const tw_feature *feature)
{
    return (getauxval(feature->leaf) >> feature->bit) & 1u;
}
#endif

const tw_feature *tw_missing_feature(const tw_feature *features, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!has_feature(&features[i])) {
            return &features[i];
        }
    }
    return NULL;
}

int32_t tw_affinity_cpus(void)
{
    /* Larger than cpu_set_t: a mask for 32768 processors, the most that Linux can be built for is 8192. */
    unsigned long mask[32768 / (8 * sizeof(unsigned long))];
    memset(mask, 0, sizeof mask);
    if (sched_getaffinity(0, sizeof mask, (cpu_set_t *)(void *)mask) != 0) {
        const long online = sysconf(_SC_NPROCESSORS_ONLN);
        return online > 0 ? (int32_t)online : 1;
    }
    int32_t count = 0;
    for (size_t i = 0; i < sizeof mask / sizeof mask[0]; i++) {
        count += (int32_t)__builtin_popcountl(mask[i]);
    }
    return count > 0 ? count : 1;
}

/* The start of a small text file; false when it cannot be read. */
static bool read_text(const char *path, char *text, size_t room)
{
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return false;
    }
    const ssize_t got = read(file, text, room - 1);
    (void)close(file);
    text[got > 0 ? got : 0] = '\0';
    return got > 0;
}

/* quota / period rounded up, at least 1; 0 when either is not a positive number ("max", -1). */
static int32_t cpus_of(const char *quota, const char *period)
{
    const long long q = strtoll(quota, NULL, 10), p = strtoll(period, NULL, 10);
    if (q <= 0 || p <= 0) {
        return 0;
    }
    const long long cpus = (q + p - 1) / p;
    return cpus < TW_MAX_THREADS ? (int32_t)cpus : TW_MAX_THREADS;
}

/* The quota of one group: cpu.max (version 2: "quota period") or the two files of version 1. */
static int32_t group_cpus(const char *folder, bool unified)
{
    char path[4352], first[64], second[64];
    if (unified) {
        (void)snprintf(path, sizeof path, "%s/cpu.max", folder);
        if (!read_text(path, first, sizeof first)) {
            return 0;
        }
        const char *space = strchr(first, ' ');
        return space ? cpus_of(first, space) : 0;
    }
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_text(path, first, sizeof first)) {
        return 0;
    }
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    return read_text(path, second, sizeof second) ? cpus_of(first, second) : 0;
}

/* The smallest quota of a group and its parents up to `top`, which is a prefix of `folder`. */
static int32_t smallest_quota(char *folder, size_t top, bool unified)
{
    int32_t least = 0;
    for (;;) {
        const int32_t cpus = group_cpus(folder, unified);
        least = cpus && (!least || cpus < least) ? cpus : least;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < top) {
            return least;
        }
        *slash = '\0';
    }
}

/* Whether a comma-separated list has the entry "cpu". */
static bool lists_cpu(const char *list)
{
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (strncmp(at, "cpu", 3) == 0 && (at[3] == ',' || at[3] == '\0')) {
            return true;
        }
    }
    return false;
}

int32_t tw_cgroup_cpus(const char *root, const char *membership)
{
    char text[8192], folder[4096];
    if (!read_text(membership, text, sizeof text)) {
        return 0;
    }
    int32_t least = 0;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        /* "number:controllers:path"; version 2 is "0::path" */
        char *list = strchr(line, ':');
        char *path = list ? strchr(list + 1, ':') : NULL;
        if (!path) {
            continue;
        }
        *path++ = '\0';
        list++;
        const bool unified = *list == '\0';
        if (!unified && !lists_cpu(list)) {
            continue;
        }
        const char *base = strcmp(path, "/") == 0 ? "" : path;
        const char *mount = unified ? "" : "/cpu";
        const size_t top = strlen(root) + strlen(mount);
        if (snprintf(folder, sizeof folder, "%s%s%s", root, mount, base) < (int)sizeof folder) {
            const int32_t cpus = smallest_quota(folder, top, unified);
            least = cpus && (!least || cpus < least) ? cpus : least;
        }
    }
    return least;
}

int32_t tw_usable_cpus(void)
{
    const int32_t granted = tw_affinity_cpus();
    const int32_t quota = tw_cgroup_cpus("/sys/fs/cgroup", "/proc/self/cgroup");
    const int32_t usable = quota && quota < granted ? quota : granted;
    return usable < TW_MAX_THREADS ? usable : TW_MAX_THREADS;
}
