"""Elementwise operators, comparisons, casts, and choices."""

from __future__ import annotations

import numpy as np

from fuzz.draw import ALL, BF16, BOOL, CODES, F16, F32, F64, FLOATS, I64, INTS, UINTS, Draw, Refused, Tensor

# Operator -> whether it rounds nothing.
UNARY = {
    "Abs": True, "Neg": True, "Relu": True, "Sign": True, "Not": True, "Identity": True, "BitwiseNot": True,
    "Exp": False, "Sqrt": False, "Log": False, "Reciprocal": False, "Tanh": False, "Sigmoid": False, "Erf": False, "Sin": False,
    "Cos": False, "Tan": False, "Asin": False, "Acos": False, "Atan": False, "Sinh": False, "Cosh": False, "Asinh": False,
    "Acosh": False, "Atanh": False, "Softplus": False, "Softsign": False, "Selu": False, "Elu": False, "LeakyRelu": False,
    "HardSigmoid": False, "HardSwish": False, "Celu": False, "ThresholdedRelu": True, "Gelu": False, "Mish": False,
    "Swish": False, "IsNaN": True, "IsInf": True,
}  # fmt: skip
ROUNDING_TO_WHOLE = ("Floor", "Ceil", "Round")
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Mod", "Max", "Min", "Sum", "Mean")
COMPARING = ("Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual")
LOGICAL = ("And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
_POSITIVE = ("Log", "Sqrt", "Acosh", "Reciprocal")
_SMALL = ("Asin", "Acos", "Atanh")
_ATTRIBUTES = {
    "LeakyRelu": {"alpha": (0.1, 0.5, -0.25)}, "Elu": {"alpha": (1.0, 0.5)}, "Selu": {"alpha": (1.5,), "gamma": (1.25,)},
    "HardSigmoid": {"alpha": (0.25, 0.2), "beta": (0.5,)}, "Celu": {"alpha": (1.0, 2.0)},
    "ThresholdedRelu": {"alpha": (0.5, 1.0)},
    "Gelu": {"approximate": ("none", "tanh")}, "Swish": {"alpha": (1.0, 0.5)},
    "IsInf": {"detect_negative": (0, 1), "detect_positive": (0, 1)},
}  # fmt: skip


def attributes(d: Draw, op: str) -> dict[str, object]:
    return {name: d.pick(values) for name, values in _ATTRIBUTES.get(op, {}).items() if d.chance(0.6)}


def unary(d: Draw, op: str) -> None:
    x = d.value(d.types(op), exact=op == "ThresholdedRelu")
    if op in (*_POSITIVE, *_SMALL):
        x = domain(d, op, x)
    d.node(op, x, exact=UNARY[op], **attributes(d, op))


def domain(d: Draw, op: str, x: Tensor) -> Tensor:
    """x as values that the function is defined and well-conditioned for."""
    if op in _SMALL:
        (x,) = d.node("Tanh", x, keep=False)
        return d.node("Mul", x, d.const(0.75, x.dtype), keep=False)[0]
    (x,) = d.node("Abs", x, exact=True, keep=False)
    return d.node("Add", x, d.const(1.25 if op == "Acosh" else 0.5, x.dtype), exact=True, keep=False)[0]


def whole(d: Draw, op: str) -> None:
    d.node(op, d.value(d.types(op), exact=True), exact=True)


def arithmetic(d: Draw, op: str) -> None:
    x = d.value(d.types(op), exact=op == "Mod")
    if op in ("Max", "Min", "Sum", "Mean") and d.chance(0.4):
        d.node(op, *(d.like(x) if i else x for i in range(d.int(1, 4))), exact=op != "Mean")
        return
    y = d.like(x)
    if op == "Mod" and not y.exact:
        raise Refused("inexact")
    extra = {}
    if op in ("Div", "Mod"):
        y = divisor(d, x)
        extra = {"fmod": 1} if op == "Mod" and (x.dtype in FLOATS or d.chance(0.3)) else {}
    if op == "Pow":
        x, y = power(d, x)
    if op == "PRelu":
        shape = tuple(1 if i != 1 else n for i, n in enumerate(x.shape))
        y = d.operand(d.array(shape if d.opset >= 7 and d.chance(0.5) else (1,) * min(1, x.rank), x.dtype))
    if d.chance(0.3) and op in ("Add", "Sub", "Mul") and y.rank == x.rank:
        x, y = y, x
    d.node(op, x, y, exact=op not in ("Div", "Pow"), **extra)


def divisor(d: Draw, x: Tensor) -> Tensor:
    """No zeros; for floats also away from zero."""
    shape = tuple(1 if d.chance(0.4) else n for n in x.shape)
    y = d.array(shape, x.dtype)
    y[np.abs(y.astype(np.float64)) < 0.3] = 1
    return d.operand(y)


def power(d: Draw, x: Tensor) -> tuple[Tensor, Tensor]:
    if x.dtype in INTS or x.dtype in UINTS:
        return x, d.const(d.int(0, 3), x.dtype)
    exponent = d.pick((2.0, 3.0, 1.0, 0.0, 0.5, -1.0, 1.5))
    if exponent in (2.0, 3.0, 1.0, 0.0) and d.chance(0.7):
        return x, d.const(exponent, x.dtype)
    (x,) = d.node("Abs", x, exact=True, keep=False)
    (x,) = d.node("Add", x, d.const(0.5, x.dtype), exact=True, keep=False)
    return x, d.operand(d.array(x.shape[-1:], x.dtype, 0, 16)) if d.chance(0.3) else d.const(exponent, x.dtype)


def comparing(d: Draw, op: str) -> None:
    x = d.value(d.types(op), exact=True)
    y = d.like(x)
    if not y.exact:
        raise Refused("inexact")
    d.node(op, x, y, exact=True)


def logical(d: Draw, op: str) -> None:
    x = d.value(d.types(op))
    d.node(op, x, d.like(x), exact=True)


def shift(d: Draw, op: str) -> None:
    x = d.value(UINTS)
    y = d.operand(d.array(x.shape[-1:], x.dtype, 0, 8 * x.dtype.itemsize - 1))
    d.node(op, x, y, direction=d.pick(("LEFT", "RIGHT")), exact=True)


def cast(d: Draw, op: str) -> None:
    """To a narrower integer only what fits: the standard leaves the rest open."""
    x = d.value(d.types(op), exact=True)
    to = d.pick([t for t in ALL if t != BF16 or d.opset >= 13])
    if to not in (*FLOATS, BOOL) and x.value.size:
        info, wide = np.iinfo(to), x.value.astype(np.float64)
        if wide.min() < info.min or wide.max() > info.max:
            raise Refused("out of range")
    if op == "CastLike":
        d.node(op, x, d.operand(d.array((1,), to)), exact=True)
    else:
        d.node(op, x, to=CODES[to], exact=True)


def where(d: Draw, op: str) -> None:
    x = d.value(d.types(op, 1))
    condition = d.value((BOOL,), lambda t: t.shape == x.shape) if d.chance(0.5) else d.operand(d.array(x.shape, BOOL))
    d.node(op, condition, x, d.like(x), exact=True)


def clip(d: Draw, op: str) -> None:
    x = d.value(d.types(op))
    low, high = sorted((d.int(-8, 8) / 4, d.int(-8, 8) / 4))
    if x.dtype not in FLOATS:
        low, high = (max(0, int(low)), max(0, int(high))) if x.dtype in UINTS else (int(low), int(high))
    if d.opset < 11:
        if x.dtype in (F32, F64, F16):
            d.node(op, x, min=float(low), max=float(high), exact=True)
        return
    bounds = (d.const(low, x.dtype) if d.chance(0.8) else None, d.const(high, x.dtype) if d.chance(0.8) else None)
    d.node(op, x, *bounds, exact=True)


def dropout(d: Draw, op: str) -> None:
    d.node(op, d.value(d.types(op)), exact=True)


def shrink(d: Draw, op: str) -> None:
    d.node(op, d.value((F32, F64, F16), exact=True), lambd=0.5, bias=d.pick((0.0, 0.25)), exact=True)


def bitcast(d: Draw, op: str) -> None:
    x = d.value((*INTS, *UINTS))
    to = d.pick([t for t in (*INTS, *UINTS) if t.itemsize == x.dtype.itemsize])
    d.node(op, x, to=CODES[to], exact=True)


def normal_input(d: Draw, op: str) -> None:
    """New inputs, so that a graph has several."""
    d.input(d.array(d.shape(), d.pick((F32, F32, F32, F64, F16, I64, BOOL))))


ROWS = {
    **dict.fromkeys(UNARY, unary), **dict.fromkeys(ROUNDING_TO_WHOLE, whole), **dict.fromkeys(ARITHMETIC, arithmetic),
    **dict.fromkeys(COMPARING, comparing), **dict.fromkeys(LOGICAL, logical), "BitShift": shift, "Cast": cast, "CastLike": cast,
    "Where": where, "Clip": clip, "Dropout": dropout, "Shrink": shrink, "BitCast": bitcast,
}  # fmt: skip
__all__ = ["ROWS", "attributes"]
