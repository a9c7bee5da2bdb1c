"""Conversions between element types in LLVM text.

Floats to integers truncate and saturate, NaN gives 0; anything to bool compares with zero.  f16 and bf16 are held in
integer registers and convert to and from f32, rounding to nearest even: with the processor's instruction where it has
one, else by integer arithmetic, never by a call of a run-time library.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir.expr import Bin, Cast, Const, Expr, Splat, Type, Un
from ..ir.types import DTYPES, is_float, is_integer
from .llvm_text import Printer, constant, llvm_type, suffix, zero

HALVES = ("f16", "bf16")


def range_of(e: Expr) -> tuple[float, float] | None:
    """Bounds of a float expression where they are sure, which excludes NaN: a clamp shows if the bound is the first
    operand, as in min(hi, max(lo, x)); None if unknown."""
    match e:
        case Const() if e.value == e.value:
            return e.value, e.value
        case Splat():
            return range_of(e.a)
        case Cast() if e.a.type.dtype in _SHORT_RANGES:
            return _SHORT_RANGES[e.a.type.dtype]
        case Un() if e.op in _ROUNDINGS:
            inner = range_of(e.a)
            return inner and (_rounded(e.op, inner[0]), _rounded(e.op, inner[1]))
        case Bin() if e.op in ("min", "max") and is_float(e.type.dtype):
            return _clamped(e)
    return None


def _rounded(op: str, bound: float) -> float:
    return bound if math.isinf(bound) else float(_ROUNDINGS[op](bound))


def _clamped(e: Bin) -> tuple[float, float] | None:
    """min and max are NaN only if the first operand is."""
    first, second = range_of(e.a), range_of(e.b) or (-math.inf, math.inf)
    pick = min if e.op == "min" else max
    return first and (pick(first[0], second[0]), pick(first[1], second[1]))


_ROUNDINGS = {"rint": round, "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc}
_SHORT_RANGES = {"i8": (-128.0, 127.0), "u8": (0.0, 255.0), "i16": (-32768.0, 32767.0), "u16": (0.0, 65535.0),
                 "bool": (0.0, 1.0)}


def convert(p: Printer, a: str, src: Type, dst: Type, bounds: tuple[float, float] | None = None) -> str:
    """The operand `a` of type src as type dst.  bounds: of its value, where they are known."""
    if src.dtype == dst.dtype:
        return a
    if bounds and DTYPES[src.dtype].kind == "f" and _fits(bounds, "i32"):
        i32 = Type("i32", src.lanes)
        if _fits(bounds, dst.dtype):  # one plain instruction, and the rest is exact
            return convert(p, _instruction(p, "fptosi", a, src, i32), i32, dst)
    f32 = Type("f32", src.lanes)
    if src.dtype in HALVES:
        wide = _HALF_TO_F32[src.dtype](p, a, src.lanes)
        return convert(p, wide, f32, dst)
    if dst.dtype in HALVES:
        # f64 to bf16 is rounded twice, as ml_dtypes does it.
        odd = (src.dtype, dst.dtype) == ("f64", "f16")
        single = _to_odd_f32(p, a, src.lanes) if odd else convert(p, a, src, f32)
        return _F32_TO_HALF[dst.dtype](p, single, src.lanes)
    return _CONVERT[DTYPES[src.dtype].kind, DTYPES[dst.dtype].kind](p, a, src, dst)


def _fits(bounds: tuple[float, float], dtype: str) -> bool:
    """Whether every value in these bounds, truncated, is a value of an integer type."""
    if not is_integer(dtype):
        return False
    low, high = _integer_range(dtype)
    return low - 1 < bounds[0] and bounds[1] < high + 1


def _instruction(p: Printer, op: str, a: str, src: Type, dst: Type) -> str:
    return p.pure(f"{op} {llvm_type(src)} {a} to {llvm_type(dst)}", a)


def _float_to_float(p: Printer, a: str, src: Type, dst: Type) -> str:
    return _instruction(p, "fpext" if DTYPES[dst.dtype].size > DTYPES[src.dtype].size else "fptrunc", a, src, dst)


def _float_to_int(p: Printer, a: str, src: Type, dst: Type) -> str:
    """Saturating.  LLVM's intrinsic for that is good, except for vectors on x86, which it takes apart."""
    sign = "s" if DTYPES[dst.dtype].kind == "i" else "u"
    if src.lanes == 1 or p.machine.arch != "x86_64":
        return p.intrinsic(f"llvm.fpto{sign}i.sat.{suffix(dst)}.{suffix(src)}", dst, [(llvm_type(src), a)])
    low, high = _integer_range(dst.dtype)
    most = _largest_float(src.dtype, high)
    inside = _clamp_ordered(p, a, src, low, most)
    short = DTYPES[dst.dtype].size < 4
    whole = dst._replace(dtype="i32") if short else dst
    result = _instruction(p, "fptosi" if short else f"fpto{sign}i", inside, src, whole)
    result = _int_to_int(p, result, whole, dst)
    if most == high:
        return result
    over = p.pure(f"fcmp oge {llvm_type(src)} {a}, {constant(high + 1, src)}", a)
    return _select(p, over, dst, constant(high, dst), result)


def _integer_range(dtype: str) -> tuple[int, int]:
    bits = 8 * DTYPES[dtype].size
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if DTYPES[dtype].kind == "i" else (0, 2**bits - 1)


def _largest_float(dtype: str, high: int) -> float:
    """The largest value of a float type that is not above an integer of ones."""
    made = DTYPES[dtype].numpy.type
    near = made(high)
    return float(near if int(near) <= high else np.nextafter(near, made(0)))


def _clamp_ordered(p: Printer, a: str, t: Type, low: float, high: float) -> str:
    """The value within bounds, 0 for NaN."""
    kind = llvm_type(t)
    if low:
        a = _select(p, p.pure(f"fcmp ord {kind} {a}, {a}", a), t, a, zero(t))
    for predicate, bound in (("ogt", low), ("olt", high)):  # the first of these makes NaN 0 if low is 0
        edge = constant(bound, t)
        a = _select(p, p.pure(f"fcmp {predicate} {kind} {a}, {edge}", a), t, a, edge)
    return a


def _select(p: Printer, cond: str, t: Type, a: str, b: str) -> str:
    bits, kind = llvm_type(t._replace(dtype="bool")), llvm_type(t)
    return p.pure(f"select {bits} {cond}, {kind} {a}, {kind} {b}", cond, a, b)


def _float_to_bool(p: Printer, a: str, src: Type, dst: Type) -> str:
    return p.pure(f"fcmp une {llvm_type(src)} {a}, {zero(src)}", a)


def _int_to_int(p: Printer, a: str, src: Type, dst: Type) -> str:
    have, want = DTYPES[src.dtype].size, DTYPES[dst.dtype].size
    if have == want:
        return a
    extend = "sext" if DTYPES[src.dtype].kind == "i" else "zext"
    return _instruction(p, extend if want > have else "trunc", a, src, dst)


def _int_to_bool(p: Printer, a: str, src: Type, dst: Type) -> str:
    return p.pure(f"icmp ne {llvm_type(src)} {a}, {zero(src)}", a)


_CONVERT = {
    ("f", "f"): _float_to_float,
    ("f", "i"): _float_to_int,
    ("f", "u"): _float_to_int,
    ("f", "b"): _float_to_bool,
    ("i", "f"): lambda p, a, src, dst: _instruction(p, "sitofp", a, src, dst),
    ("u", "f"): lambda p, a, src, dst: _instruction(p, "uitofp", a, src, dst),
    ("b", "f"): lambda p, a, src, dst: _instruction(p, "uitofp", a, src, dst),
    ("i", "i"): _int_to_int, ("i", "u"): _int_to_int, ("u", "i"): _int_to_int, ("u", "u"): _int_to_int,
    ("i", "b"): _int_to_bool, ("u", "b"): _int_to_bool,
    ("b", "i"): lambda p, a, src, dst: _instruction(p, "zext", a, src, dst),
    ("b", "u"): lambda p, a, src, dst: _instruction(p, "zext", a, src, dst),
}


# ---- half precision ----------------------------------------------------------------------------------------------


class _Bits:
    """Short names for integer and f32 instructions on a number of lanes; plain ints are i32 constants."""

    def __init__(self, p: Printer, lanes: int) -> None:
        self.p = p
        self.i32, self.i16, self.f32 = (Type(d, lanes) for d in ("i32", "i16", "f32"))

    def op(self, name: str, a: str, b: str | int) -> str:
        b = constant(b, self.i32) if isinstance(b, int) else b
        return self.p.pure(f"{name} {llvm_type(self.i32)} {a}, {b}", a, b)

    def test(self, predicate: str, a: str, b: int) -> str:
        return self.op(f"icmp {predicate}", a, b)

    def select(self, cond: str, a: str, b: str) -> str:
        return _select(self.p, cond, self.i32, a, b)

    def bits(self, a: str) -> str:
        return _instruction(self.p, "bitcast", a, self.f32, self.i32)

    def float(self, a: str) -> str:
        return _instruction(self.p, "bitcast", a, self.i32, self.f32)

    def arithmetic(self, name: str, a: str, b: float) -> str:
        return self.p.pure(f"{name} {llvm_type(self.f32)} {a}, {constant(b, self.f32)}", a)

    def widen(self, a: str) -> str:
        return _instruction(self.p, "zext", a, self.i16, self.i32)

    def narrow(self, a: str) -> str:
        return _instruction(self.p, "trunc", a, self.i32, self.i16)


def _has_half_conversion(p: Printer) -> bool:
    return p.machine.arch == "aarch64" or p.machine.has("f16c")


def _half_type(lanes: int) -> str:
    return "half" if lanes == 1 else f"<{lanes} x half>"


def _f16_to_f32(p: Printer, a: str, lanes: int) -> str:
    b = _Bits(p, lanes)
    if _has_half_conversion(p):
        half = p.pure(f"bitcast {llvm_type(b.i16)} {a} to {_half_type(lanes)}", a)
        return p.pure(f"fpext {_half_type(lanes)} {half} to {llvm_type(b.f32)}", half)
    wide = b.widen(a)
    magnitude = b.op("shl", b.op("and", wide, 0x7FFF), 13)
    # Scaling by 2^112 moves the exponent and makes subnormals normal, exactly.
    scaled = b.bits(b.arithmetic("fmul", b.float(magnitude), 2.0**112))
    special = b.test("uge", magnitude, 0x7C00 << 13)
    finite = b.select(special, b.op("or", magnitude, 0x7F800000), scaled)
    return b.float(b.op("or", finite, b.op("shl", b.op("and", wide, 0x8000), 16)))


def _f32_to_f16(p: Printer, a: str, lanes: int) -> str:
    b = _Bits(p, lanes)
    if _has_half_conversion(p):
        half = p.pure(f"fptrunc {llvm_type(b.f32)} {a} to {_half_type(lanes)}", a)
        return p.pure(f"bitcast {_half_type(lanes)} {half} to {llvm_type(b.i16)}", half)
    whole = b.bits(a)
    sign = b.op("and", whole, 0x80000000)
    magnitude = b.op("xor", whole, sign)
    odd = b.op("and", b.op("lshr", magnitude, 13), 1)
    # Normal results: rebias the exponent and round to nearest even on the bits; a carry reaches the exponent, or inf.
    normal = b.op("lshr", b.op("add", b.op("add", magnitude, 0x100000000 - (112 << 23) + 0xFFF), odd), 13)
    # Subnormal results: adding 0.5 lets the float unit round at the place of the last bit.
    subnormal = b.op("sub", b.bits(b.arithmetic("fadd", b.float(magnitude), 0.5)), 0x3F000000)
    finite = b.select(b.test("ult", magnitude, 0x38800000), subnormal, normal)
    nan = b.test("ugt", magnitude, 0x7F800000)
    special = b.select(nan, constant(0x7E00, b.i32), constant(0x7C00, b.i32))
    result = b.select(b.test("uge", magnitude, 0x47800000), special, finite)
    return b.narrow(b.op("or", result, b.op("lshr", sign, 16)))


def _bf16_to_f32(p: Printer, a: str, lanes: int) -> str:
    b = _Bits(p, lanes)
    return b.float(b.op("shl", b.widen(a), 16))


def _f32_to_bf16(p: Printer, a: str, lanes: int) -> str:
    b = _Bits(p, lanes)
    whole = b.bits(a)
    high = b.op("lshr", whole, 16)
    rounded = b.op("lshr", b.op("add", b.op("add", whole, 0x7FFF), b.op("and", high, 1)), 16)
    nan = p.pure(f"fcmp uno {llvm_type(b.f32)} {a}, {a}", a)
    return b.narrow(b.select(nan, b.op("or", high, 0x40), rounded))


def _to_odd_f32(p: Printer, a: str, lanes: int) -> str:
    """f64 to f32 rounded to odd: rounding that again to a half equals rounding once."""
    f64 = Type("f64", lanes)
    b = _Bits(p, lanes)
    near = _instruction(p, "fptrunc", a, f64, b.f32)
    back = _instruction(p, "fpext", near, b.f32, f64)
    kind, bits = llvm_type(f64), b.bits(near)
    inexact = p.pure(f"fcmp one {kind} {back}, {a}", back, a)
    size, whole = (p.intrinsic(f"llvm.fabs.{suffix(f64)}", f64, [(kind, x)]) for x in (back, a))
    away = p.pure(f"fcmp ogt {kind} {size}, {whole}", size, whole)
    toward = b.op("sub", bits, b.select(away, constant(1, b.i32), constant(0, b.i32)))
    return b.float(b.select(inexact, b.op("or", toward, 1), bits))


_HALF_TO_F32 = {"f16": _f16_to_f32, "bf16": _bf16_to_f32}
_F32_TO_HALF = {"f16": _f32_to_f16, "bf16": _f32_to_bf16}
