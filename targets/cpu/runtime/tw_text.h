/* Strings in models: what generated code calls, on UTF-8 text.
 *
 * An element is a pointer to UTF-8 text that ends with a zero byte.  Strings that a run makes lie in memory of the instance
 * (tw_support.h).
 */
#ifndef TW_TEXT_H
#define TW_TEXT_H

#include "tw_support.h"

typedef const char *tw_string;

/* Makes the run fail with this status, unless it has failed before; `text` is quoted. */
void tw_text_fail(void *runtime, int32_t status, const char *what, const char *text);
/* A copy of `bytes` bytes; "" when there is no memory. */
tw_string tw_text_copy(void *runtime, const char *text, size_t bytes);

/* The code point at *at, which is moved behind it; a byte that is no UTF-8 is itself. */
int32_t tw_text_next(const unsigned char **at);
/* Writes a code point as UTF-8; the number of bytes. */
size_t tw_text_put(char *out, int32_t code);

#endif
