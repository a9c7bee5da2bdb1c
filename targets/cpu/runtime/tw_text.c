/* Strings in models: the operators that move, compare, cut and convert text. */
#include "tw_text.h"

#include <stdlib.h>
#include <string.h>

void tw_text_fail(void *runtime, int32_t status, const char *what, const char *quoted)
{
    tw_support_fail(runtime, status, "run: %s: \"%.100s\"", what, quoted);
}

tw_string tw_text_copy(void *runtime, const char *text, size_t bytes)
{
    char *made = tw_support_room(runtime, bytes + 1);
    if (!made) {
        return "";
    }
    memcpy(made, text, bytes);
    made[bytes] = '\0';
    return made;
}

int32_t tw_text_next(const unsigned char **at)
{
    const unsigned char *s = *at;
    const int more = s[0] >= 0xF0 ? 3 : s[0] >= 0xE0 ? 2 : s[0] >= 0xC0 ? 1 : 0;
    int32_t code = more == 3 ? s[0] & 7 : more == 2 ? s[0] & 15 : more == 1 ? s[0] & 31 : s[0];
    for (int i = 1; i <= more; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            *at = s + 1;
            return s[0];
        }
        code = code << 6 | (s[i] & 63);
    }
    *at = s + 1 + more;
    return code;
}

size_t tw_text_put(char *out, int32_t code)
{
    const uint32_t c = (uint32_t)code;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* --- operators ------------------------------------------------------------------------------------------------------ */

/* Strings that lie one behind the other. */
void tw_text_constants(void *runtime, tw_string *out, const char *texts, int64_t count)
{
    (void)runtime;
    for (int64_t i = 0; i < count; i++) {
        out[i] = texts;
        texts += strlen(texts) + 1;
    }
}

void tw_text_concat(void *runtime, tw_string *out, const tw_string *a, const tw_string *b, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const size_t first = strlen(a[i]), second = strlen(b[i]);
        char *made = tw_support_room(runtime, first + second + 1);
        out[i] = made ? made : "";
        if (made) {
            memcpy(made, a[i], first);
            memcpy(made + first, b[i], second + 1);
        }
    }
}

void tw_text_equal(void *runtime, unsigned char *out, const tw_string *a, const tw_string *b, int64_t count)
{
    (void)runtime;
    for (int64_t i = 0; i < count; i++) {
        out[i] = strcmp(a[i], b[i]) == 0;
    }
}

void tw_text_find(void *runtime, int64_t *out, const tw_string *x, const tw_string *keys, int64_t count, int64_t key_count)
{
    (void)runtime;
    for (int64_t i = 0; i < count; i++) {
        int64_t low = 0, high = key_count;
        while (low < high) {
            const int64_t middle = low + (high - low) / 2;
            if (strcmp(keys[middle], x[i]) < 0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        out[i] = low < key_count && strcmp(keys[low], x[i]) == 0 ? low : -1;
    }
}

static int by_text(const void *a, const void *b)
{
    return strcmp(**(const tw_string *const *)a, **(const tw_string *const *)b);
}

void tw_text_rank(void *runtime, int64_t *out, const tw_string *x, int64_t count)
{
    const tw_string **order = tw_support_room(runtime, (size_t)count * sizeof *order);
    if (!order) {
        memset(out, 0, (size_t)count * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        order[i] = &x[i];
    }
    qsort(order, (size_t)count, sizeof *order, by_text);
    int64_t rank = 0;
    for (int64_t i = 0; i < count; i++) {
        rank += i > 0 && strcmp(*order[i - 1], *order[i]) != 0;
        out[order[i] - x] = rank;
    }
}

/* The row of a table of changed characters, or NULL. */
static const int32_t *changed(const int32_t *table, int64_t rows, int32_t code)
{
    int64_t low = 0, high = rows;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (table[4 * middle] < code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < rows && table[4 * low] == code ? table + 4 * low : NULL;
}

void tw_text_case(void *runtime, tw_string *out, const tw_string *x, const int32_t *table, int64_t count, int64_t rows,
                  int64_t upper)
{
    const char first = upper ? 'a' : 'A', last = upper ? 'z' : 'Z';
    for (int64_t i = 0; i < count; i++) {
        const size_t length = strlen(x[i]);
        char *made = tw_support_room(runtime, 12 * length + 1); /* one byte may become three characters of four bytes */
        out[i] = made ? made : "";
        if (!made) {
            continue;
        }
        const unsigned char *at = (const unsigned char *)x[i];
        while (*at) {
            const unsigned char *const start = at;
            const int32_t code = tw_text_next(&at);
            if (code < 0x80 && *start < 0x80) {
                *made++ = (char)(code >= first && code <= last ? code ^ 32 : code);
                continue;
            }
            const int32_t *row = at - start > 1 ? changed(table, rows, code) : NULL;
            for (int k = 1; row && k < 4 && row[k]; k++) {
                made += tw_text_put(made, row[k]);
            }
            if (!row) {
                memcpy(made, start, (size_t)(at - start));
                made += at - start;
            }
        }
        *made = '\0';
    }
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The next piece of *at, which is moved behind it and its delimiter, to NULL behind the last; NULL when there is none. */
static const char *next_piece(const char **at, const char *delimiter, bool cut, size_t *length)
{
    const char *start = *at;
    if (!start) {
        return NULL;
    }
    if (*delimiter) {
        const char *end = cut ? strstr(start, delimiter) : NULL;
        *length = end ? (size_t)(end - start) : strlen(start);
        *at = end ? end + strlen(delimiter) : NULL;
        return start;
    }
    while (is_space(*start)) {
        start++;
    }
    if (!*start) {
        *at = NULL;
        return NULL;
    }
    const char *end = start;
    if (cut) {
        while (*end && !is_space(*end)) {
            end++;
        }
    } else {
        end = start + strlen(start);
    }
    *length = (size_t)(end - start);
    *at = end;
    return start;
}

void tw_text_pieces(void *runtime, tw_string *pieces, int64_t *counts, const tw_string *x, const tw_string *delimiter,
                    int64_t count, int64_t cuts, int64_t most)
{
    for (int64_t i = 0; i < count; i++) {
        const char *at = x[i], *piece;
        size_t length = 0;
        int64_t found = 0;
        while ((piece = next_piece(&at, *delimiter, cuts < 0 || found < cuts, &length)) != NULL) {
            if (found == most) {
                tw_text_fail(runtime, TW_WRONG_SIZE, "more pieces than the output has room for", x[i]);
                break;
            }
            pieces[i * most + found++] = tw_text_copy(runtime, piece, length);
        }
        counts[i] = found;
        while (found < most) {
            pieces[i * most + found++] = "";
        }
    }
}
