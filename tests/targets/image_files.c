/* Decodes many image files in one process, for tests of the decoders alone, also under sanitizers.
 *
 * Standard input: for each file u32 size, u32 largest height, u32 largest width, u32 order of colours, the bytes.  Standard
 * output: for each i32 status, u32 height, u32 width, and the pixels, dense, or u32 length and the message. */
#include "tw_image.h"

#include <stdio.h>
#include <stdlib.h>

void tw_image_decode(void *runtime, unsigned char *out, int64_t *height, int64_t *width, const unsigned char *data,
                     int64_t size, int64_t most_height, int64_t most_width, int64_t order, int64_t fixed);

static void write_u32(uint32_t value)
{
    (void)fwrite(&value, sizeof value, 1, stdout);
}

int main(void)
{
    static tw_team team;
    uint32_t head[4];
    if (tw_run_support.start(&team)) {
        return 1;
    }
    while (fread(head, sizeof head, 1, stdin) == 1) {
        const uint32_t channels = head[3] == 2 ? 1 : 3;
        unsigned char *data = malloc(head[0] ? head[0] : 1), *out = malloc((size_t)head[1] * head[2] * channels);
        char message[512] = "";
        int64_t height = 0, width = 0;
        if (!data || !out || fread(data, 1, head[0], stdin) != head[0]) {
            return 2;
        }
        tw_run_support.begin(&team);
        tw_image_decode(&team, out, &height, &width, data, head[0], head[1], head[2], head[3], 0);
        const int32_t status = tw_run_support.end(&team, message, sizeof message);
        write_u32((uint32_t)status);
        write_u32((uint32_t)height);
        write_u32((uint32_t)width);
        for (int64_t y = 0; !status && y < height; y++) {
            (void)fwrite(out + y * head[2] * channels, channels, (size_t)width, stdout);
        }
        if (status) {
            uint32_t length = 0;
            while (message[length]) {
                length++;
            }
            write_u32(length);
            (void)fwrite(message, 1, length, stdout);
        }
        free(out);
        free(data);
    }
    tw_run_support.stop(&team);
    return 0;
}
