"""Helper functions that C-like text may use: the same in every dialect, where C's own operators mean something else.

DEVICE stands for what makes a function callable from a kernel.
"""

from __future__ import annotations

ARITHMETIC: dict[str, str] = {
    "vec": """
// N elements that are read and written by one access, or by several of 16 bytes.
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) vec { T v[N]; };
""",
    "minimum": """
// The smaller one; a if b is NaN, NaN if a is.
template <class T> DEVICE T minimum(T a, T b) { return b < a ? b : a; }
""",
    "maximum": """
// The larger one; a if b is NaN, NaN if a is.
template <class T> DEVICE T maximum(T a, T b) { return a < b ? b : a; }
""",
    "wrap_add": """
// Sums that wrap around, for every integer type.
template <class T> DEVICE T wrap_add(T a, T b) { return (T)((unsigned long long)a + (unsigned long long)b); }
""",
    "wrap_sub": """
// Differences that wrap around.
template <class T> DEVICE T wrap_sub(T a, T b) { return (T)((unsigned long long)a - (unsigned long long)b); }
""",
    "wrap_mul": """
// Products that wrap around.
template <class T> DEVICE T wrap_mul(T a, T b) { return (T)((unsigned long long)a * (unsigned long long)b); }
""",
    "wrap_abs": """
// The absolute value; the lowest number stays what it is.
template <class T> DEVICE T wrap_abs(T a) { return a < 0 ? (T)(0ull - (unsigned long long)a) : a; }
""",
    "trunc_div": """
// Quotients rounded towards zero; by zero it gives zero, by -1 it wraps around.
template <class T> DEVICE T trunc_div(T a, T b)
{
    if (b == 0) return 0;
    if ((T)-1 < (T)0 && b == (T)-1) return (T)(0ull - (unsigned long long)a);
    return (T)(a / b);
}
""",
    "trunc_mod": """
// The rest of trunc_div: it has the sign of the dividend; zero for a zero divisor.
template <class T> DEVICE T trunc_mod(T a, T b)
{
    if (b == 0 || ((T)-1 < (T)0 && b == (T)-1)) return 0;
    return (T)(a % b);
}
""",
    "floor_div": """
// Quotients rounded towards minus infinity; by zero it gives zero.
template <class T> DEVICE T floor_div(T a, T b)
{
    const T rest = trunc_mod<T>(a, b), quotient = trunc_div<T>(a, b);
    return rest != 0 && (rest < (T)1) != (b < (T)1) ? (T)(quotient - 1) : quotient;
}
""",
    "floor_mod": """
// The rest of floor_div: it has the sign of the divisor; zero for a zero divisor.
template <class T> DEVICE T floor_mod(T a, T b)
{
    const T rest = trunc_mod<T>(a, b);
    return rest != 0 && (rest < (T)1) != (b < (T)1) ? (T)(rest + b) : rest;
}
""",
    "float_mod": """
// The rest with the sign of the divisor.
DEVICE float float_mod(float a, float b)
{
    const float rest = fmodf(a, b);
    return rest == 0.0f ? copysignf(0.0f, b) : (rest < 0.0f) != (b < 0.0f) ? rest + b : rest;
}
DEVICE double float_mod(double a, double b)
{
    const double rest = fmod(a, b);
    return rest == 0.0 ? copysign(0.0, b) : (rest < 0.0) != (b < 0.0) ? rest + b : rest;
}
""",
    "shift_left": """
// By the width or more: zero.
template <class T> DEVICE T shift_left(T a, T b)
{
    return (unsigned long long)b < 8 * sizeof(T) ? (T)((unsigned long long)a << (int)b) : (T)0;
}
""",
    "shift_right": """
// By the width or more: zero, or all copies of the sign.
template <class T> DEVICE T shift_right(T a, T b)
{
    const bool inside = (unsigned long long)b < 8 * sizeof(T);
    return inside ? (T)(a >> (int)b) : (T)-1 < (T)0 ? (T)(a >> (8 * (int)sizeof(T) - 1)) : (T)0;
}
""",
    "to_integer": """
// Truncates; what does not fit becomes the nearest integer that does, NaN becomes zero.
template <class T, class F> DEVICE T to_integer(F x)
{
    const bool is_signed = (T)-1 < (T)0;
    const int bits = 8 * (int)sizeof(T) - (is_signed ? 1 : 0);
    const T most = (T)(bits == 64 ? ~0ull : (1ull << bits) - 1);
    const T least = is_signed ? (T)(-1 - most) : (T)0;
    const F above = (F)(1ull << (bits - 1)) * (F)2;  // the first number that does not fit
    if (!(x == x)) return 0;
    if (x >= above) return most;
    if (x <= (F)least) return least;
    return (T)x;
}
""",
    "integer_power": """
// Integer powers that wrap around; a negative exponent gives the truncated quotient.
template <class T> DEVICE T integer_power(T a, T b)
{
    if (b < (T)1 && b != 0) return a == (T)1 ? (T)1 : a == (T)-1 ? (b & 1 ? (T)-1 : (T)1) : (T)0;
    unsigned long long power = 1, base = (unsigned long long)a, left = (unsigned long long)b;
    for (; left; left >>= 1, base *= base) {
        if (left & 1) power *= base;
    }
    return (T)power;
}
""",
    "bits_as": """
// The same bits as another type of the same size.
template <class To, class From> DEVICE To bits_as(From x)
{
    static_assert(sizeof(To) == sizeof(From), "the sizes differ");
    union { From from; To to; } both;
    both.from = x;
    return both.to;
}
""",
}

INTEGER_TYPES: dict[str, str] = {
    "i64": "long long", "i32": "int", "i16": "short", "i8": "signed char", "u64": "unsigned long long", "u32": "unsigned",
    "u16": "unsigned short", "u8": "unsigned char", "bool": "bool",
}
