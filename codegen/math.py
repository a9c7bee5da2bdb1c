"""Vector mathematics as expressions, and the rewriting of what a machine lacks.

exp, log, erf, tanh, sigmoid and pow of f32 are polynomials on any number of lanes.  Their coefficients are minimax fits of
relative error over the reduced range, made in f64 and rounded once.  Largest errors over all f32, in units in the last
place, with and without a fused multiply-add:

    exp 1.1, exp2 2.2, log 1.1, erf 1.4, tanh 1.9, sigmoid 2.4, pow 0.6

infinities, NaN, subnormal arguments and results included.  x sigmoid(x) and GELU by erf are one function each, made for few
operations: SiLU 3 units above -1, (2 + |x|) 1e-7 of the result below; GELU 5 units above -1, 1e-6 of the result above -3,
5e-6 above -5, 1e-9 absolute below.

Every other function, and f64, is a call of libm per lane.  f16 and bf16 are computed in f32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

from ..ir.expr import (
    Bin,
    Call,
    Const,
    Expr,
    Fma,
    HReduce,
    Splat,
    Type,
    Un,
    binary,
    call,
    cast,
    const,
    fma,
    select,
    unary,
)
from ..ir.kernel import Kernel, map_block
from ..ir.traverse import children, rebuild, rewrite
from .machine import Machine
from .math_power import power

Scale = Callable[[Expr, Expr], Expr]

# ln 2 in two parts; the first has few bits, so that its product with an exponent is exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_LOG2_E = 1.4426950408889634
_MAGIC = 12582912.0  # 1.5 * 2^23: adding it leaves the integer part in the low bits
_SQRT_HALF = 0x3F3504F3  # bits of sqrt(1/2)

# (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2
_EXP = (4.999999335e-01, 1.666651913e-01, 4.166840572e-02, 8.368898680e-03, 1.381422176e-03)
# (2^r - 1) / r on |r| <= 1/2
_EXP2 = (6.931470037e-01, 2.402224243e-01, 5.550733581e-02, 9.671512991e-03, 1.326472731e-03)
# (log(1 + f) - f + f^2 / 2) / f^3 on sqrt(1/2) <= 1 + f <= sqrt(2)
_LOG = (3.333333171e-01, -2.500082104e-01, 2.000122687e-01, -1.662335730e-01, 1.420175823e-01, -1.316018306e-01,
        1.276157564e-01, -7.634493026e-02)
# erf(x) / x - 1 in x^2 for |x| <= 0.93, and -log(1 - erf(t)) for 0.92 <= t <= 4
_ERF_SMALL = (1.283791477e-01, -3.761248110e-01, 1.128168254e-01, -2.676171986e-02, 4.985940584e-03, -5.953741612e-04)
_ERF_LARGE = (1.956749367e-04, 1.127675629e+00, 6.371822420e-01, 1.039316018e-01, -2.222692288e-02, 3.043218070e-03,
              -1.959373109e-04)
_ERF_SPLIT = 0.921875
# (tanh(x) - x) / x^3 in x^2 for |x| <= 0.55
_TANH = (-3.333331756e-01, 1.333258614e-01, -5.385230980e-02, 2.107167869e-02, -6.274239093e-03)
_TANH_SPLIT = 0.55
# log2 of the normal distribution function at -t for 0 <= t <= 6, weighted by the function down to 1e-4; beyond 6 it falls fast
# enough that 2 to it vanishes before 14.5
_LOG2_NORMAL = (-9.999999404e-01, -1.151105881e+00, -4.592090249e-01, -5.247105286e-02, 6.980644539e-03,
                -1.769884693e-05, -2.767479746e-04, 7.750643272e-05, -1.152211826e-05, 9.506127867e-07, -3.420136352e-08)


def _horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The polynomial with these coefficients, lowest first."""
    value: Expr = const(coefficients[-1], x.type.dtype)
    for c in reversed(coefficients[:-1]):
        value = fma(value, x, const(c, x.type.dtype))
    return value


def _bits(x: Expr) -> Expr:
    return call("bitcast", x, dtype="i32")


def _float(i: Expr) -> Expr:
    return call("bitcast", i, dtype="f32")


def _bits_of(value: float) -> int:
    return struct.unpack("<i", struct.pack("<f", value))[0]


def scale_by_instruction(a: Expr, n: Expr) -> Expr:
    """a * 2**n."""
    return call("scalef", a, n)


def scale_by_bits(a: Expr, n: Expr) -> Expr:
    """a * 2**n for whole n in -252..252, in two steps so that subnormal results are rounded once."""
    whole = _bits(n + _MAGIC) - _bits_of(_MAGIC)
    half = binary("shr", whole, 1)
    for part in (half, whole - half):
        a = a * _float(binary("shl", part + 127, 23))
    return a


def _exp_in_range(x: Expr, scale: Scale) -> Expr:
    """e^x for -104 <= x <= 89."""
    n = unary("rint", x * _LOG2_E)
    r = fma(n, const(-_LN2_LOW, "f32"), fma(n, const(-_LN2_HIGH, "f32"), x))
    return scale(fma(_horner(r, _EXP), r * r, r) + 1.0, n)


def exp(x: Expr, scale: Scale) -> Expr:
    """e^x; 0 below -104, infinity above 88.72."""
    return _exp_in_range(binary("min", binary("max", x, -104.0), 89.0), scale)


def exp2(x: Expr, scale: Scale) -> Expr:
    """2^x; 0 below -151, infinity above 128."""
    return _exp2_in_range(binary("min", binary("max", x, -160.0), 129.0), scale)


def _exp2_in_range(x: Expr, scale: Scale) -> Expr:
    """2^x for -160 <= x <= 129, and for any finite x where an instruction scales: what remains of x is exact."""
    n = unary("rint", x)
    r = x - n
    return scale(fma(_horner(r, _EXP2), r, const(1.0, "f32")), n)


def log(x: Expr, scale: Scale) -> Expr:
    """Natural logarithm; NaN below 0, -infinity at 0."""
    tiny = binary("lt", x, 2.0**-126)
    i = _bits(select(tiny, x * 2.0**23, x)) - _SQRT_HALF
    exponent = cast(binary("shr", i, 23), "f32") - select(tiny, const(23.0, "f32"), const(0.0, "f32"))
    f = _float(binary("and", i, 0x7FFFFF) + _SQRT_HALF) - 1.0
    square = f * f
    y = fma(exponent, const(_LN2_LOW, "f32"), square * f * _horner(f, _LOG))
    value = fma(exponent, const(_LN2_HIGH, "f32"), f + fma(const(-0.5, "f32"), square, y))
    positive = select(binary("lt", x, float("inf")), value, x)
    edge = select(binary("eq", x, 0.0), const(float("-inf"), "f32"), const(float("nan"), "f32"))
    return select(binary("lt", 0.0, x), positive, edge)


def erf(x: Expr, scale: Scale) -> Expr:
    """The error function; 1 to the last place from 4 on."""
    t = binary("min", unary("abs", x), 4.0)
    large = 1.0 - _exp_in_range(-_horner(t, _ERF_LARGE), scale)
    small = fma(_horner(x * x, _ERF_SMALL), x, x)
    return select(binary("lt", _ERF_SPLIT, t), call("copysign", large, x), small)


def tanh(x: Expr, scale: Scale) -> Expr:
    """Hyperbolic tangent; 1 to the last place from 9.1 on."""
    t = binary("min", unary("abs", x), 10.0)
    large = 1.0 - 2.0 / (_exp_in_range(t + t, scale) + 1.0)
    square = x * x
    small = fma(_horner(square, _TANH) * square, x, x)
    return select(binary("lt", _TANH_SPLIT, t), call("copysign", large, x), small)


def sigmoid(x: Expr, scale: Scale) -> Expr:
    """1 / (1 + e^-x), with e^-|x| so that small results keep their precision."""
    return _logistic(x, _exp_in_range(binary("max", -unary("abs", x), -104.0), scale))


def silu(x: Expr, scale: Scale) -> Expr:
    """x * sigmoid(x) as x / (1 + 2^t): no branch on the sign; -0 below -88.7, where it is smaller than 1e-36."""
    t = binary("max", x * -_LOG2_E, -160.0)
    t = t if scale is scale_by_instruction else binary("min", t, 129.0)
    return x / (_exp2_in_range(t, scale) + 1.0)


def gelu(x: Expr, scale: Scale) -> Expr:
    """x times the normal distribution function of x, as max(x, 0) - |x| N(-|x|): one polynomial for both signs, and small
    results keep their precision."""
    t = binary("min", unary("abs", x), 14.5)
    log2 = _horner(t, _LOG2_NORMAL)  # -1700 at the end, more than shifted bits can express
    log2 = log2 if scale is scale_by_instruction else binary("max", log2, -160.0)
    return fma(-t, _exp2_in_range(log2, scale), binary("max", x, 0.0))


def _logistic(x: Expr, e: Expr) -> Expr:
    return select(binary("le", 0.0, x), const(1.0, x.type.dtype), e) / (e + 1.0)


def _sigmoid64(x: Expr) -> Expr:
    return _logistic(x, call("exp", -unary("abs", x)))


POLYNOMIALS: dict[str, Callable[[Expr, Scale], Expr]] = {
    "exp": exp, "exp2": exp2, "log": log, "erf": erf, "tanh": tanh, "sigmoid": sigmoid,
}


# ---- legalization ------------------------------------------------------------------------------------------------


def legalize_math(kernel: Kernel, machine: Machine) -> Kernel:
    """The kernel with functions, instructions and half-precision arithmetic that the machine lacks written in
    operations that it has."""
    scale = scale_by_instruction if "scalef" in machine.calls else scale_by_bits
    steps: list[Callable[[Expr], Expr | None]] = [
        widen_half, lambda e: _join_silu(e, scale) or _join_gelu(e, scale), lambda e: _expand_call(e, scale)
    ]
    if not machine.fma:
        steps.append(_split_fma)
    memos: list[dict[Expr, Expr]] = [{} for _ in steps]

    def on_expr(e: Expr) -> Expr:
        for step, memo in zip(steps, memos, strict=True):
            e = rewrite(e, step, memo)
        return e

    return Kernel(kernel.name, kernel.params, map_block(kernel.body, None, on_expr))


def widen_half(e: Expr) -> Expr | None:
    """Arithmetic on f16 and bf16 in f32, rounded to the half after every operation."""
    kids = children(e)
    if not isinstance(e, Un | Bin | Fma | HReduce | Call) or kids[0].type.dtype not in ("f16", "bf16"):
        return None
    if isinstance(e, Call) and e.fn == "bitcast":
        return None
    wide = tuple(cast(k, "f32") for k in kids)
    if isinstance(e, HReduce):
        return cast(HReduce.of(e.op, wide[0], Type("f32")), e.type.dtype)
    if isinstance(e, Call):
        return cast(call(e.fn, *wide), e.type.dtype)
    return cast(rebuild(e, wide), e.type.dtype)


def _join_silu(e: Expr, scale: Scale) -> Expr | None:
    """x * sigmoid(x) as one function."""
    if not (isinstance(e, Bin) and e.op == "mul" and e.type.dtype == "f32"):
        return None
    for x, other in ((e.a, e.b), (e.b, e.a)):
        if isinstance(other, Call) and other.fn == "sigmoid" and other.args[0] is x:
            return silu(x, scale)
    return None


def _join_gelu(e: Expr, scale: Scale) -> Expr | None:
    """k x (1 + erf(x / sqrt(2))) as 2 k times one function."""
    if not (isinstance(e, Bin) and e.op == "mul" and e.type.dtype == "f32"):
        return None
    factors = _factors(e)
    normals = [(f, arg) for f in factors if (arg := _erf_plus_one(f)) is not None]
    numbers = [n for f in factors if (n := _number(f)) is not None]
    others = [f for f in factors if _number(f) is None and all(f is not n for n, _ in normals)]
    if len(normals) != 1 or len(others) != 1 or not _is_scaled(normals[0][1], others[0], math.sqrt(0.5)):
        return None
    factor = 2.0 * math.prod(numbers)
    return gelu(others[0], scale) if factor == 1.0 else gelu(others[0], scale) * factor


def _erf_plus_one(e: Expr) -> Expr | None:
    """The argument of the error function in 1 + erf(argument)."""
    if not (isinstance(e, Bin) and e.op == "add"):
        return None
    for f, one in ((e.a, e.b), (e.b, e.a)):
        if isinstance(f, Call) and f.fn == "erf" and _number(one) == 1.0:
            return f.args[0]
    return None


def _factors(e: Expr) -> list[Expr]:
    if isinstance(e, Bin) and e.op == "mul":
        return [*_factors(e.a), *_factors(e.b)]
    return [e]


def _number(e: Expr) -> float | None:
    e = e.a if isinstance(e, Splat) else e
    return float(e.value) if isinstance(e, Const) else None


def _is_scaled(e: Expr, x: Expr, by: float) -> bool:
    """Whether e is x times a number, to the accuracy of f32."""
    if not (isinstance(e, Bin) and e.op in ("mul", "div")):
        return False
    a, b = (e.a, e.b) if e.a is x or e.op == "div" else (e.b, e.a)
    number = _number(b)
    if a is not x or number is None:
        return False
    return abs((number if e.op == "mul" else 1 / number) - by) < 2e-7 * by


def _expand_call(e: Expr, scale: Scale) -> Expr | None:
    if not isinstance(e, Call):
        return None
    if e.type.dtype == "f32" and e.fn in POLYNOMIALS:
        return POLYNOMIALS[e.fn](e.args[0], scale)
    if e.type.dtype == "f32" and e.fn == "pow":
        return power(*e.args)
    if e.type.dtype == "f64" and e.fn == "sigmoid":
        return _sigmoid64(e.args[0])
    if e.fn == "scalef" and e.type.dtype == "f32" and scale is scale_by_bits:
        n = binary("min", binary("max", unary("floor", e.args[1]), -252.0), 252.0)
        return scale_by_bits(e.args[0], n)
    return None


def _split_fma(e: Expr) -> Expr | None:
    return binary("add", binary("mul", e.a, e.b), e.c) if isinstance(e, Fma) else None
