/* Regular expressions: the programs of ir/ops/regex.py on all states of the automaton at once. */
#include "tw_text.h"

#include <string.h>

enum { MATCH, SET, SPLIT, JUMP, CHECK };
enum { BEGIN_TEXT, END_TEXT, BEGIN_LINE, END_LINE, BOUNDARY, NO_BOUNDARY };

/* A list of instructions that are reached, each once: `mark[i]` is the step in which i was reached last. */
typedef struct states {
    const int32_t *code, *ranges;
    int32_t *now, *next, *stack, *mark;
    int64_t count, step;
} states;

static bool is_word(int32_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
}

static bool holds(int32_t assertion, int32_t before, int32_t after)
{
    switch (assertion) {
    case BEGIN_TEXT: return before < 0;
    case END_TEXT: return after < 0;
    case BEGIN_LINE: return before < 0 || before == '\n';
    case END_LINE: return after < 0 || after == '\n';
    case BOUNDARY: return is_word(before) != is_word(after);
    default: return is_word(before) == is_word(after);
    }
}

/* Adds what is reached from an instruction without taking a character to `next`.  The stack has room: every instruction is
 * expanded once, into two at most. */
static void reach(states *s, int32_t start, int32_t before, int32_t after)
{
    int64_t top = 0;
    s->stack[top++] = start;
    while (top) {
        const int32_t i = s->stack[--top];
        if (s->mark[i] == (int32_t)s->step) {
            continue;
        }
        s->mark[i] = (int32_t)s->step;
        const int32_t *instruction = s->code + 3 * (int64_t)i;
        if (instruction[0] == SPLIT) {
            s->stack[top++] = instruction[2];
            s->stack[top++] = instruction[1];
        } else if (instruction[0] == JUMP) {
            s->stack[top++] = instruction[1];
        } else if (instruction[0] == CHECK) {
            if (holds(instruction[1], before, after)) {
                s->stack[top++] = i + 1;
            }
        } else {
            s->next[s->count++] = i;
        }
    }
}

static bool takes(const states *s, const int32_t *instruction, int32_t c)
{
    const int32_t *range = s->ranges + 2 * (int64_t)instruction[1];
    int32_t low = 0, high = instruction[2];
    while (low < high) { /* the first range that ends at c or behind it */
        const int32_t middle = low + (high - low) / 2;
        if (range[2 * (int64_t)middle + 1] < c) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < instruction[2] && range[2 * (int64_t)low] <= c;
}

static bool matches(states *s, const unsigned char *text)
{
    const unsigned char *at = text;
    int32_t before = -1;
    int32_t c = *at ? tw_text_next(&at) : -1;
    s->count = 0;
    s->step++;
    reach(s, 0, before, c);
    while (c >= 0 && s->count) {
        int32_t *const swapped = s->now;
        s->now = s->next;
        s->next = swapped;
        const int64_t reached = s->count;
        before = c;
        c = *at ? tw_text_next(&at) : -1;
        s->count = 0;
        s->step++;
        for (int64_t k = 0; k < reached; k++) {
            const int32_t *instruction = s->code + 3 * (int64_t)s->now[k];
            if (instruction[0] == SET && takes(s, instruction, before)) {
                reach(s, s->now[k] + 1, before, c);
            }
        }
    }
    for (int64_t k = 0; k < s->count; k++) {
        if (s->code[3 * (int64_t)s->next[k]] == MATCH) {
            return c < 0;
        }
    }
    return false;
}

void tw_text_match(void *runtime, unsigned char *out, const tw_string *x, const int32_t *program, int64_t count,
                   int64_t size)
{
    (void)size;
    const int64_t n = program[0];
    int32_t *memory = tw_support_room(runtime, (size_t)(6 * n + 2) * sizeof *memory);
    if (!memory) {
        memset(out, 0, (size_t)count);
        return;
    }
    states s = { program + 1, program + 1 + 3 * n, memory, memory + n, memory + 2 * n, memory + 5 * n + 2, 0, 0 };
    memset(s.mark, 0, (size_t)n * sizeof *s.mark);
    for (int64_t i = 0; i < count; i++) {
        if (s.step > 0x3FFFFFFF - (int64_t)strlen(x[i])) { /* marks are 32 bits wide */
            memset(s.mark, 0, (size_t)n * sizeof *s.mark);
            s.step = 0;
        }
        out[i] = matches(&s, (const unsigned char *)x[i]);
    }
}
