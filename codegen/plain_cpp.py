"""The plain C++17 dialect: any kernel of scalars as a function that a host compiler takes, block and thread loops as loops.

A second interpreter for tests, without anything of CUDA or HLS in it.
"""

from __future__ import annotations

from ..ir.kernel import Kernel
from ..ir.kernel_launch import BINDINGS
from .c_dialect import Dialect, snippet_text, used_snippets
from .c_like import print_kernel
from .c_snippets import ARITHMETIC, INTEGER_TYPES

# Conversions of 16-bit floats, rounding to nearest even; shared with the CUDA emulator.
HALVES = """
struct half_bits { unsigned short bits; };
struct bfloat_bits { unsigned short bits; };
inline float half_to_float(half_bits h)
{
    const unsigned sign = (h.bits & 0x8000u) << 16, exponent = h.bits >> 10 & 31u, fraction = h.bits & 1023u;
    unsigned bits = sign | (exponent + 112u) << 23 | fraction << 13;
    float value;
    if (exponent == 31u) bits = sign | 0x7f800000u | fraction << 13;
    memcpy(&value, &bits, 4);
    return exponent == 0u ? (sign ? -1.0f : 1.0f) * (float)fraction * 5.9604644775390625e-8f : value;
}
inline half_bits double_to_half(double x)
{
    unsigned long long bits;
    memcpy(&bits, &x, 8);
    const unsigned sign = (unsigned)(bits >> 48) & 0x8000u;
    const double size = x < 0 ? -x : x;
    if (x != x) return { (unsigned short)(sign | 0x7e00u) };
    if (size >= 65520.0) return { (unsigned short)(sign | 0x7c00u) };
    int exponent = (int)(bits >> 52 & 2047u) - 1023;
    if (exponent < -14) exponent = -14;
    const double steps = nearbyint(ldexp(size, 10 - exponent));  // in units of the last place, 2^11 after rounding up
    const unsigned whole = (unsigned)steps;
    return { (unsigned short)(sign | (((unsigned)(exponent + 14) << 10) + whole)) };
}
inline half_bits float_to_half(float x) { return double_to_half((double)x); }
inline float bfloat_to_float(bfloat_bits h)
{
    const unsigned bits = (unsigned)h.bits << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline bfloat_bits float_to_bfloat(float x)
{
    unsigned bits;
    memcpy(&bits, &x, 4);
    if (x != x) return { (unsigned short)((bits >> 16 & 0x8000u) | 0x7fc0u) };
    return { (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16) };
}
"""

_HEAD = "#include <math.h>\n#include <string.h>\n"
_CONSTANTS = {
    "INFINITY_F32": "#define INFINITY_F32 __builtin_inff()", "NAN_F32": '#define NAN_F32 __builtin_nanf("")',
    "INFINITY_F64": "#define INFINITY_F64 __builtin_inf()", "NAN_F64": '#define NAN_F64 __builtin_nan("")',
}

PLAIN = Dialect(
    name="plain C++",
    types={**INTEGER_TYPES, "f64": "double", "f32": "float", "f16": "half_bits", "bf16": "bfloat_bits"},
    functions={},
    conversions={
        ("f16", "f32"): "half_to_float({0})", ("f32", "f16"): "float_to_half({0})", ("f64", "f16"): "double_to_half({0})",
        ("bf16", "f32"): "bfloat_to_float({0})", ("f32", "bf16"): "float_to_bfloat({0})",
    },
    spaces={"register": "", "stack": "", "local": ""},
    signature='extern "C" void {name}({parameters})',
    before={kind: f"// {kind}" for kind in ("parallel", *BINDINGS)},
    snippets={"vec": ARITHMETIC["vec"], **_CONSTANTS, **ARITHMETIC},
)


def plain_source(*kernels: Kernel) -> str:
    """A complete C++17 file with one function per kernel, `extern "C" void NAME(pointers..., sizes...)`.

    Iterations of block and thread loops run one after another: kernels with barriers between threads are refused."""
    texts = [print_kernel(k, PLAIN).text for k in kernels]
    helpers = snippet_text(used_snippets("\n".join(texts), PLAIN.snippets), PLAIN)
    return "\n".join([_HEAD, HALVES.strip() + "\n", helpers, *texts])
