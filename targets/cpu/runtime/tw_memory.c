/* Workspace from the system, and weights mapped from a file: read-only pages that all processes share. */
#define _GNU_SOURCE
#include "tw_runtime.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_PAGE ((uint64_t)2 << 20)
#define HUGE_FROM_BYTES ((uint64_t)4 << 20)
#define MAPPED_AT_ONCE ((uint64_t)1 << 30)
#define POPULATE_READ 22 /* MADV_POPULATE_READ, which older headers lack */

void *tw_map_workspace(uint64_t bytes)
{
    const bool huge = bytes >= HUGE_FROM_BYTES;
    const uint64_t slack = huge ? HUGE_PAGE : 0;
    if (bytes == 0 || bytes > SIZE_MAX - slack) {
        return NULL;
    }
    void *map = mmap(NULL, (size_t)(bytes + slack), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        return NULL;
    }
    if (!huge) {
        return map;
    }
    /* Cut the map to a start at a huge page and give the rest back, in whole pages. */
    const uintptr_t at = (uintptr_t)map, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t start = (at + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    const uintptr_t end = (start + bytes + page - 1) & ~(page - 1);
    const uintptr_t mapped_end = (at + bytes + slack + page - 1) & ~(page - 1);
    if (start > at) {
        (void)munmap(map, start - at);
    }
    if (mapped_end > end) {
        (void)munmap((void *)end, mapped_end - end);
    }
#ifdef MADV_HUGEPAGE
    (void)madvise((void *)start, (size_t)bytes, MADV_HUGEPAGE);
#endif
    return (void *)start;
}

void *tw_grow_workspace(void *old, uint64_t old_bytes, uint64_t bytes)
{
    void *made = tw_map_workspace(bytes);
    if (made) {
        tw_unmap(old, old_bytes);
    } else if (old && bytes <= SIZE_MAX) {
        made = mremap(old, (size_t)old_bytes, (size_t)bytes, MREMAP_MAYMOVE); /* needs no room for both */
        made = made == MAP_FAILED ? NULL : made;
    }
    return made;
}

void tw_unmap(const void *address, uint64_t bytes)
{
    if (address) {
        (void)munmap((void *)(uintptr_t)address, (size_t)bytes);
    }
}

/* Pages are read ahead; and mapped all at once, where that is not gigabytes: a fault for every few of them takes six times as
 * long (180 MB: 2 ms instead of 12). Kernels before Linux 5.14 refuse to, and faults do it then. */
void tw_will_need(const void *address, uint64_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t start = (uintptr_t)address & ~(page - 1);
    const size_t length = (size_t)((uintptr_t)address + bytes - start);
    (void)madvise((void *)start, length, MADV_WILLNEED);
    if (bytes <= MAPPED_AT_ONCE) {
        (void)madvise((void *)start, length, POPULATE_READ);
    }
}

/* The weights file beside the library that this function is part of. */
static bool beside_library(const char *name, char *path, size_t room)
{
    static const char anchor = 0;
    Dl_info info;
    if (!dladdr(&anchor, &info) || !info.dli_fname) {
        return false;
    }
    const char *slash = strrchr(info.dli_fname, '/');
    const int folder = slash ? (int)(slash - info.dli_fname) + 1 : 0;
    const int length = snprintf(path, room, "%.*s%s", folder, info.dli_fname, name);
    return length > 0 && (size_t)length < room;
}

static int32_t io_error(const char *what, const char *path, char *message, size_t room)
{
    (void)snprintf(message, room, "weights file %s: %s: %s", path, what, strerror(errno));
    return TW_IO;
}

int32_t tw_map_weights(const tw_descriptor *descriptor, const char *path, const unsigned char **out, uint64_t *mapped,
                       char *message, size_t room)
{
    char found[4096];
    if (!path) {
        if (!beside_library(descriptor->weights_name, found, sizeof found)) {
            (void)snprintf(message, room, "weights file %s: the folder of the library is unknown; give weights_path",
                           descriptor->weights_name);
            return TW_IO;
        }
        path = found;
    }
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return io_error("cannot open", path, message, room);
    }
    struct stat status;
    const uint64_t expected = descriptor->constant_bytes + TW_WEIGHTS_ID_BYTES;
    if (fstat(file, &status) != 0) {
        const int32_t failure = io_error("cannot stat", path, message, room);
        (void)close(file);
        return failure;
    }
    if (status.st_size < 0 || (uint64_t)status.st_size != expected) {
        (void)close(file);
        (void)snprintf(message, room, "weights file %s: expected %llu bytes, got %lld; ship the one made with the library",
                       path, (unsigned long long)expected, (long long)status.st_size);
        return TW_WRONG_WEIGHTS;
    }
    void *map = mmap(NULL, (size_t)expected, PROT_READ, MAP_PRIVATE, file, 0);
    (void)close(file);
    if (map == MAP_FAILED) {
        return io_error("cannot map", path, message, room);
    }
    if (memcmp((unsigned char *)map + descriptor->constant_bytes, descriptor->weights_id, TW_WEIGHTS_ID_BYTES) != 0) {
        tw_unmap(map, expected);
        (void)snprintf(message, room, "weights file %s: made for another library; ship the one made with this", path);
        return TW_WRONG_WEIGHTS;
    }
    *out = map;
    *mapped = expected;
    return TW_OK;
}
