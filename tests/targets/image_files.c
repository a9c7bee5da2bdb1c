/* Decodes many image files in one process, for tests of the decoders alone, also under sanitizers.
 *
 * Memory is one allocation for each request, so that a sanitizer sees the end of everything.
 *
 * Standard input: for each file u32 size, u32 largest height, u32 largest width, u32 order of colours, the bytes.  Standard
 * output: for each i32 status, u32 height, u32 width, and the pixels, dense, or u32 length and the message. */
#include "tw_image.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tw_image_decode(void *runtime, unsigned char *out, int64_t *height, int64_t *width, const unsigned char *data,
                     int64_t size, int64_t most_height, int64_t most_width, int64_t order, int64_t fixed);

typedef struct room {
    struct room *before;
    max_align_t bytes[];
} room;

static room *rooms;
static int32_t status;
static char message[512];

void *tw_support_room(void *runtime, size_t bytes)
{
    (void)runtime;
    room *made = bytes < (size_t)1 << 40 ? malloc(sizeof(room) + bytes) : NULL;
    if (!made) {
        status = TW_NO_MEMORY;
        return NULL;
    }
    made->before = rooms;
    rooms = made;
    return made->bytes;
}

tw_support_mark tw_support_here(void *runtime)
{
    (void)runtime;
    return (tw_support_mark){ rooms, 0 };
}

void tw_support_back(void *runtime, tw_support_mark mark)
{
    (void)runtime;
    while (rooms != mark.block) {
        room *before = rooms->before;
        free(rooms);
        rooms = before;
    }
}

void tw_support_fail(void *runtime, int32_t code, const char *format, ...)
{
    (void)runtime;
    if (!status) {
        va_list values;
        va_start(values, format);
        (void)vsnprintf(message, sizeof message, format, values);
        va_end(values);
        status = code;
    }
}

static void write_u32(uint32_t value)
{
    (void)fwrite(&value, sizeof value, 1, stdout);
}

int main(void)
{
    uint32_t head[4];
    while (fread(head, sizeof head, 1, stdin) == 1) {
        const uint32_t channels = head[3] == 2 ? 1 : 3;
        unsigned char *data = malloc(head[0] ? head[0] : 1), *out = malloc((size_t)head[1] * head[2] * channels);
        int64_t height = 0, width = 0;
        if (!data || !out || fread(data, 1, head[0], stdin) != head[0]) {
            return 2;
        }
        status = 0;
        tw_image_decode(NULL, out, &height, &width, data, head[0], head[1], head[2], head[3], 0);
        tw_support_back(NULL, (tw_support_mark){ NULL, 0 });
        write_u32((uint32_t)status);
        write_u32((uint32_t)height);
        write_u32((uint32_t)width);
        for (int64_t y = 0; !status && y < height; y++) {
            (void)fwrite(out + y * head[2] * channels, channels, (size_t)width, stdout);
        }
        if (status) {
            write_u32((uint32_t)strlen(message));
            (void)fwrite(message, 1, strlen(message), stdout);
        }
        free(out);
        free(data);
    }
    return 0;
}
