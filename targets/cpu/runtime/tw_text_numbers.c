/* Numbers as text and text as numbers. */
#include "tw_text.h"

#include <ctype.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The element types in the order of ir/types.py. */
enum { F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL };

static double half_value(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
                        : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                       : ldexp(fraction, -24);
    return bits >> 15 ? -size : size;
}

/* Rounded to the nearest, ties to even. */
static uint16_t half_bits(double value)
{
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const double size = fabs(value);
    if (isnan(value)) {
        return 0x7E00;
    }
    if (size >= 65520) {
        return (uint16_t)(sign | 0x7C00);
    }
    int exponent = -24;
    if (size > 0) {
        (void)frexp(size, &exponent);
    }
    const int shift = exponent < -13 ? -24 : exponent - 11; /* of the last bit */
    const uint32_t whole = (uint32_t)nearbyint(ldexp(size, -shift));
    return (uint16_t)(sign | (shift == -24 ? whole : ((uint32_t)(shift + 24) << 10) + whole));
}

static double bfloat_value(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static uint16_t bfloat_bits(double value)
{
    const float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    if (isnan(value)) {
        return 0x7FC0;
    }
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static double read_float(const void *x, int64_t i, int64_t type)
{
    switch (type) {
    case F64: return ((const double *)x)[i];
    case F32: return ((const float *)x)[i];
    case F16: return half_value(((const uint16_t *)x)[i]);
    default: return bfloat_value(((const uint16_t *)x)[i]);
    }
}

static double rounded(double value, int64_t type)
{
    switch (type) {
    case F64: return value;
    case F32: return (float)value;
    case F16: return half_value(half_bits(value));
    default: return bfloat_value(bfloat_bits(value));
    }
}

/* The shortest decimals that read back as the same number of its type: "1.5", "0.0001", "1e-05", "1e+16". */
static void write_float(char *out, size_t room, double value, int64_t type)
{
    if (isnan(value) || isinf(value)) {
        (void)snprintf(out, room, "%s", isnan(value) ? "nan" : value < 0 ? "-inf" : "inf");
        return;
    }
    char text[40];
    for (int digits = 0; digits < 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*e", digits, value);
        if (rounded(strtod(text, NULL), type) == value) {
            break;
        }
    }
    char digits[24];
    int count = 0;
    const char *at = text + (text[0] == '-');
    for (; *at != 'e'; at++) {
        if (isdigit((unsigned char)*at)) {
            digits[count++] = *at;
        }
    }
    const int exponent = (int)strtol(at + 1, NULL, 10);
    while (count > 1 && digits[count - 1] == '0') {
        count--;
    }
    char *o = out;
    if (text[0] == '-') {
        *o++ = '-';
    }
    if (count == 1 && digits[0] == '0') {
        (void)snprintf(o, 8, "0.0");
    } else if (exponent < -4 || exponent >= 16) {
        (void)snprintf(o, room - 1, "%c%s%.*se%+03d", digits[0], count > 1 ? "." : "", count - 1, digits + 1, exponent);
    } else if (exponent < 0) {
        (void)snprintf(o, room - 1, "0.%.*s%.*s", -exponent - 1, "0000", count, digits);
    } else if (count <= exponent + 1) {
        (void)snprintf(o, room - 1, "%.*s%.*s.0", count, digits, exponent + 1 - count, "0000000000000000");
    } else {
        (void)snprintf(o, room - 1, "%.*s.%.*s", exponent + 1, digits, count - exponent - 1, digits + exponent + 1);
    }
}

static void write_element(char *out, size_t room, const void *x, int64_t i, int64_t type)
{
    switch (type) {
    case I64: (void)snprintf(out, room, "%lld", (long long)((const int64_t *)x)[i]); break;
    case I32: (void)snprintf(out, room, "%d", (int)((const int32_t *)x)[i]); break;
    case I16: (void)snprintf(out, room, "%d", ((const int16_t *)x)[i]); break;
    case I8: (void)snprintf(out, room, "%d", ((const int8_t *)x)[i]); break;
    case U64: (void)snprintf(out, room, "%llu", (unsigned long long)((const uint64_t *)x)[i]); break;
    case U32: (void)snprintf(out, room, "%u", (unsigned)((const uint32_t *)x)[i]); break;
    case U16: (void)snprintf(out, room, "%u", ((const uint16_t *)x)[i]); break;
    case U8: (void)snprintf(out, room, "%u", ((const uint8_t *)x)[i]); break;
    case BOOL: (void)snprintf(out, room, "%s", ((const uint8_t *)x)[i] ? "True" : "False"); break;
    default: write_float(out, room, read_float(x, i, type), type);
    }
}

void tw_text_format(void *runtime, tw_string *out, const void *x, int64_t count, int64_t type)
{
    for (int64_t i = 0; i < count; i++) {
        char text[64];
        write_element(text, sizeof text, x, i, type);
        out[i] = tw_text_copy(runtime, text, strlen(text));
    }
}

/* --- reading -------------------------------------------------------------------------------------------------------- */

/* Whether text is decimals with an optional exponent, inf, infinity or nan, as Python's float takes them. */
static bool is_number(const char *s, size_t length)
{
    size_t i = 0, digits = 0;
    if (i < length && (s[i] == '+' || s[i] == '-')) {
        i++;
    }
    static const char *const words[] = { "inf", "infinity", "nan" };
    for (size_t w = 0; w < 3; w++) {
        size_t k = 0;
        while (i + k < length && words[w][k] && tolower((unsigned char)s[i + k]) == words[w][k]) {
            k++;
        }
        if (!words[w][k] && i + k == length) {
            return true;
        }
    }
    for (; i < length && isdigit((unsigned char)s[i]); i++) {
        digits++;
    }
    if (i < length && s[i] == '.') {
        for (i++; i < length && isdigit((unsigned char)s[i]); i++) {
            digits++;
        }
    }
    if (!digits || i == length) {
        return digits > 0;
    }
    if (s[i] != 'e' && s[i] != 'E') {
        return false;
    }
    i += i + 1 < length && (s[i + 1] == '+' || s[i + 1] == '-') ? 2 : 1;
    const size_t start = i;
    while (i < length && isdigit((unsigned char)s[i])) {
        i++;
    }
    return i > start && i == length;
}

/* Decimals with signs alone, modulo 2**64; false for anything else. */
static bool read_whole(const char *s, size_t length, uint64_t *value)
{
    size_t i = length && (s[0] == '+' || s[0] == '-') ? 1 : 0;
    uint64_t total = 0;
    if (i == length) {
        return false;
    }
    for (; i < length; i++) {
        if (!isdigit((unsigned char)s[i])) {
            return false;
        }
        total = total * 10 + (uint64_t)(s[i] - '0');
    }
    *value = s[0] == '-' ? 0 - total : total;
    return true;
}

/* The value of what `is_number` accepts; strtod expects the decimal point of the process's language. */
static double read_decimal(void *runtime, const char *s, size_t length)
{
    const char *const point = localeconv()->decimal_point;
    const size_t width = strlen(point);
    char *copy = tw_support_room(runtime, length + width + 1);
    if (!copy) {
        return 0;
    }
    char *o = copy;
    for (size_t i = 0; i < length; i++) {
        if (s[i] == '.') {
            memcpy(o, point, width);
            o += width;
        } else {
            *o++ = s[i];
        }
    }
    *o = '\0';
    return strtod(copy, NULL);
}

/* The whole part modulo 2**64, as a cast of a number of this size gives it. */
static uint64_t whole_part(double value)
{
    if (!isfinite(value)) {
        return (uint64_t)1 << 63;
    }
    const double rest = fmod(trunc(value), 18446744073709551616.0);
    return rest < 0 ? 0 - (uint64_t)-rest : (uint64_t)rest;
}

void tw_text_parse(void *runtime, void *out, const tw_string *x, int64_t count, int64_t type)
{
    for (int64_t i = 0; i < count; i++) {
        const char *s = x[i];
        size_t length = strlen(s);
        while (length && isspace((unsigned char)s[length - 1])) {
            length--;
        }
        while (length && isspace((unsigned char)*s)) {
            s++;
            length--;
        }
        double value = 0;
        uint64_t whole = 0;
        if (!is_number(s, length)) {
            tw_text_fail(runtime, TW_WRONG_VALUE, "text that is not a number", x[i]);
        } else {
            value = read_decimal(runtime, s, length);
            if (!read_whole(s, length, &whole)) {
                whole = whole_part(value);
            }
        }
        switch (type) {
        case F64: ((double *)out)[i] = value; break;
        case F32: ((float *)out)[i] = (float)value; break;
        case F16: ((uint16_t *)out)[i] = half_bits(value); break;
        case BF16: ((uint16_t *)out)[i] = bfloat_bits(value); break;
        case I64:
        case U64: ((uint64_t *)out)[i] = whole; break;
        case I32:
        case U32: ((uint32_t *)out)[i] = (uint32_t)whole; break;
        case I16:
        case U16: ((uint16_t *)out)[i] = (uint16_t)whole; break;
        case I8:
        case U8: ((uint8_t *)out)[i] = (uint8_t)whole; break;
        default: ((uint8_t *)out)[i] = value != 0;
        }
    }
}
