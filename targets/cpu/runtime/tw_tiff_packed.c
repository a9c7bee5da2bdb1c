/* TIFF 6.0: the compressions PackBits (section 9) and LZW (section 13). */
#include "tw_tiff.h"

enum { CLEAR = 256, END = 257, MOST_CODES = 4096 };

bool tw_tiff_packbits(tw_bytes b, unsigned char *out, size_t room)
{
    size_t used = 0;
    while (used < room) {
        const uint32_t head = tw_u8(&b);
        if (head == 128) {
            continue;
        }
        const bool run = head > 128;
        const uint32_t count = run ? 257 - head : head + 1, value = run ? tw_u8(&b) : 0;
        for (uint32_t i = 0; i < count && used < room; i++) {
            out[used++] = (unsigned char)(run ? value : tw_u8(&b));
        }
        if (b.ran_out) {
            return false;
        }
    }
    return true;
}

/* A string of the table is another one and a byte behind it. */
typedef struct lzw {
    uint16_t before[MOST_CODES], length[MOST_CODES];
    unsigned char last[MOST_CODES];
} lzw;

/* Writes the string of a code, of which at most `room` bytes. */
static void write_string(const lzw *t, uint32_t code, unsigned char *out, size_t room)
{
    for (uint32_t n = t->length[code]; n-- > 1; code = t->before[code]) {
        if (n < room) {
            out[n] = t->last[code];
        }
    }
    out[0] = t->last[code];
}

bool tw_tiff_lzw(tw_bytes b, unsigned char *out, size_t room)
{
    lzw t;
    uint32_t held = 0, count = 0, width = 9, next = 258, previous = END;
    size_t used = 0;
    for (uint32_t i = 0; i < 256; i++) {
        t.last[i] = (unsigned char)i;
        t.length[i] = 1;
        t.before[i] = 0;
    }
    while (used < room) {
        while (count < width) {
            held = held << 8 | tw_u8(&b);
            count += 8;
        }
        count -= width;
        const uint32_t code = held >> count & ((1u << width) - 1);
        if (b.ran_out || code == END) {
            return false;
        }
        if (code == CLEAR) {
            width = 9;
            next = 258;
            previous = END;
            continue;
        }
        if (code >= next && (code > next || previous == END)) {
            return false;
        }
        if (previous == END && code > 255) {
            return false;
        }
        if (previous != END) {
            /* the new string is the previous one and the first byte of this one, which may be the new one itself */
            uint32_t start = code < next ? code : previous;
            while (t.length[start] > 1) {
                start = t.before[start];
            }
            if (next < MOST_CODES) {
                t.before[next] = (uint16_t)previous;
                t.length[next] = (uint16_t)(t.length[previous] + 1);
                t.last[next] = t.last[start];
                next++;
            } else if (code >= next) {
                return false;
            }
        }
        write_string(&t, code, out + used, room - used);
        used += t.length[code] < room - used ? t.length[code] : room - used;
        previous = code;
        if (next + 1 >= 1u << width && width < 12) { /* the width grows one code early */
            width++;
        }
    }
    return true;
}
