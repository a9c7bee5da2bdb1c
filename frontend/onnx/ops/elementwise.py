"""Operators on single elements."""

from __future__ import annotations

import math
from functools import reduce

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.types import DTYPES, is_float, is_integer
from ..builder import NarrowTensor, OnnxBuilder
from ..table import Imported, OpFunction, Outputs, onnx_op, takes_narrow
from ..tensors import NARROW, ONNX_OF_DTYPE, dtype_name
from .narrow import narrowed, widened
from .random import dropped

# ONNX operator -> (first opset, function of `Unary`)
UNARY = {
    "Abs": (6, "abs"), "Acos": (7, "acos"), "Acosh": (9, "acosh"), "Asin": (7, "asin"), "Asinh": (9, "asinh"),
    "Atan": (7, "atan"), "Atanh": (9, "atanh"), "BitwiseNot": (18, "bitnot"), "Ceil": (6, "ceil"), "Cos": (7, "cos"),
    "Cosh": (9, "cosh"), "Erf": (9, "erf"), "Exp": (6, "exp"), "Floor": (6, "floor"), "IsNaN": (9, "isnan"),
    "Log": (6, "log"), "Neg": (6, "neg"), "Not": (1, "not"), "Reciprocal": (6, "reciprocal"), "Round": (11, "rint"),
    "Sigmoid": (6, "sigmoid"), "Sign": (9, "sign"), "Sin": (7, "sin"), "Sinh": (9, "sinh"), "Sqrt": (6, "sqrt"),
    "Tan": (7, "tan"), "Tanh": (6, "tanh"),
}  # fmt: skip

# ONNX operator -> (first opset, function of `Binary`)
BINARY = {
    "Add": (7, "add"), "And": (7, "and"), "BitwiseAnd": (18, "bitand"), "BitwiseOr": (18, "bitor"),
    "BitwiseXor": (18, "bitxor"), "Div": (7, "div"), "Greater": (7, "gt"),
    "GreaterOrEqual": (12, "ge"), "Less": (7, "lt"), "LessOrEqual": (12, "le"), "Mul": (7, "mul"), "Or": (7, "or"),
    "Sub": (7, "sub"), "Xor": (7, "xor"),
}  # fmt: skip


def _unary(fn: str) -> OpFunction:
    return lambda b, x: b.unary(fn, x)


def _binary(fn: str) -> OpFunction:
    return lambda b, x, y: b.binary(fn, x, y)


def _fold(fn: str) -> OpFunction:
    return lambda b, *xs: reduce(lambda x, y: b.binary(fn, x, y), xs)


for _name, (_since, _fn) in UNARY.items():
    onnx_op(_name, since=_since)(_unary(_fn))
for _name, (_since, _fn) in BINARY.items():
    onnx_op(_name, since=_since)(_binary(_fn))
for _name, _fn in {"Max": "max", "Min": "min", "Sum": "add"}.items():
    onnx_op(_name, since=6)(_fold(_fn))


@onnx_op("Mean", since=6)
def mean(b: OnnxBuilder, *xs: Value) -> Outputs:
    return b.binary("div", reduce(lambda x, y: b.binary("add", x, y), xs), len(xs))


@onnx_op("Identity", since=1)
@takes_narrow
def identity(b: OnnxBuilder, x: Imported) -> Outputs:
    return x


@onnx_op("Where", since=9)
def where(b: OnnxBuilder, cond: Value, x: Value, y: Value) -> Outputs:
    return b.select(cond, x, y)


@onnx_op("Cast", since=6)
@takes_narrow
def cast(
    b: OnnxBuilder, x: Value | NarrowTensor, *, to: int, saturate: int = 1, round_mode: str = "up"
) -> Outputs:
    """saturate matters for 8-bit floats only, round_mode for powers of two only."""
    number = widened(b, x) if isinstance(x, NarrowTensor) else x
    if to in NARROW:
        return narrowed(b, number, to, bool(saturate), round_mode)
    return b.cast(number, dtype_name(to, "attribute 'to'"))


@onnx_op("CastLike", since=15)
@takes_narrow
def cast_like(
    b: OnnxBuilder, x: Value | NarrowTensor, like: Value | NarrowTensor, *, saturate: int = 1, round_mode: str = "up"
) -> Outputs:
    to = like.code if isinstance(like, NarrowTensor) else ONNX_OF_DTYPE[like.type.dtype]
    return cast(b, x, to=to, saturate=saturate, round_mode=round_mode)


@onnx_op("Pow", since=7)
def power(b: OnnxBuilder, x: Value, y: Value) -> Outputs:
    """The result has x's type.  Integers to a float power are computed in f64."""
    if x.type.dtype == y.type.dtype:
        return b.binary("pow", x, y)
    if is_integer(x.type.dtype) and is_float(y.type.dtype):
        return b.cast(b.binary("pow", b.cast(x, "f64"), b.cast(y, "f64")), x.type.dtype)
    return b.binary("pow", x, b.cast(y, x.type.dtype))


@onnx_op("Mod", since=10)
def mod(b: OnnxBuilder, x: Value, y: Value, *, fmod: int = 0) -> Outputs:
    return b.binary("fmod" if fmod else "mod", x, y)


@onnx_op("BitShift", since=11)
def bit_shift(b: OnnxBuilder, x: Value, y: Value, *, direction: str) -> Outputs:
    if direction not in ("LEFT", "RIGHT"):
        raise ModelError(f"attribute 'direction' must be LEFT or RIGHT, got {direction!r}")
    if not all(DTYPES[v.type.dtype].kind in "iu" for v in (x, y)):
        raise ModelError(f"expected integers, got {x.type} and {y.type}")
    if DTYPES[x.type.dtype].kind == "u":
        return b.binary("shl" if direction == "LEFT" else "shr", x, y)
    return _signed_shift(b, x, y, direction)


def _signed_shift(b: OnnxBuilder, x: Value, y: Value, direction: str) -> Value:
    """To the right the sign is repeated: a negative x is -1 - x, shifted, and back."""
    unsigned = "u" + x.type.dtype[1:]
    count = b.cast(y, unsigned)
    if direction == "LEFT":
        return b.cast(b.binary("shl", b.cast(x, unsigned), count), x.type.dtype)
    negative = b.binary("lt", x, 0)
    magnitude = b.cast(b.select(negative, b.unary("bitnot", x), x), unsigned)
    shifted = b.cast(b.binary("shr", magnitude, count), x.type.dtype)
    return b.select(negative, b.unary("bitnot", shifted), shifted)


@onnx_op("IsInf", since=10)
def is_inf(b: OnnxBuilder, x: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Outputs:
    if detect_negative and detect_positive:
        return b.unary("isinf", x)
    if not detect_negative and not detect_positive:
        return b.broadcast(b.scalar(False, "bool"), x.type.shape)
    return b.binary("eq", x, math.inf if detect_positive else -math.inf)


@onnx_op("Clip", since=6)
def clip_by_attributes(b: OnnxBuilder, x: Value, *, min: float = -math.inf, max: float = math.inf) -> Outputs:
    return clip(b, x, b.scalar(min, x.type.dtype), b.scalar(max, x.type.dtype))


@onnx_op("Clip", since=11)
def clip(b: OnnxBuilder, x: Value, min: Value | None = None, max: Value | None = None) -> Outputs:
    """Limits that the element type cannot exceed anyhow are left out."""
    if min is not None and not _is_limit(b, min, "lowest"):
        x = b.binary("max", x, min)
    if max is not None and not _is_limit(b, max, "highest"):
        x = b.binary("min", x, max)
    return x


def _is_limit(b: OnnxBuilder, v: Value, side: str) -> bool:
    array = b.constants.get(v)
    if array is None or array.size != 1 or DTYPES[v.type.dtype].kind != "f":
        return False
    return float(array.reshape(())) == (-math.inf if side == "lowest" else math.inf)


# ---- activations ----


@onnx_op("Relu", since=6)
def relu(b: OnnxBuilder, x: Value) -> Outputs:
    return b.binary("max", x, 0)


@onnx_op("LeakyRelu", since=6)
def leaky_relu(b: OnnxBuilder, x: Value, *, alpha: float = 0.01) -> Outputs:
    return b.select(b.binary("lt", x, 0), b.binary("mul", x, alpha), x)


@onnx_op("PRelu", since=7)
def parametric_relu(b: OnnxBuilder, x: Value, slope: Value) -> Outputs:
    return b.select(b.binary("lt", x, 0), b.binary("mul", x, slope), x)


@onnx_op("ThresholdedRelu", since=10)
def thresholded_relu(b: OnnxBuilder, x: Value, *, alpha: float = 1.0) -> Outputs:
    return b.select(b.binary("gt", x, alpha), x, b.scalar(0, x.type.dtype))


@onnx_op("Elu", since=6)
def elu(b: OnnxBuilder, x: Value, *, alpha: float = 1.0) -> Outputs:
    return b.select(b.binary("lt", x, 0), b.binary("mul", _expm1(b, x), alpha), x)


@onnx_op("Selu", since=6)
def selu(b: OnnxBuilder, x: Value, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Outputs:
    scaled = b.binary("mul", x, gamma)
    return b.select(b.binary("le", x, 0), b.binary("mul", _expm1(b, x), alpha * gamma), scaled)


@onnx_op("Celu", since=12)
def celu(b: OnnxBuilder, x: Value, *, alpha: float = 1.0) -> Outputs:
    negative = b.binary("mul", _expm1(b, b.binary("div", x, alpha)), alpha)
    return b.select(b.binary("lt", x, 0), negative, x)


def _expm1(b: OnnxBuilder, x: Value) -> Value:
    return b.binary("sub", b.unary("exp", x), 1)


@onnx_op("HardSigmoid", since=6)
def hard_sigmoid(b: OnnxBuilder, x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Outputs:
    line = b.binary("add", b.binary("mul", x, alpha), beta)
    return b.binary("min", b.binary("max", line, 0), 1)


@onnx_op("HardSwish", since=14)
def hard_swish(b: OnnxBuilder, x: Value) -> Outputs:
    gate = hard_sigmoid(b, x, alpha=1 / 6, beta=0.5)
    return b.binary("mul", x, gate)  # type: ignore[arg-type]


@onnx_op("Softplus", since=1)
def softplus(b: OnnxBuilder, x: Value) -> Value:
    """log(1 + exp(x)) as max(x, 0) + log(1 + e), e = exp(-|x|): it does not overflow.  log(1 + e) is e * log(u) / (u - 1)
    with u = 1 + e as rounded, and e where u is 1 (Kahan): small results keep their digits."""
    e = b.unary("exp", b.unary("neg", b.unary("abs", x)))
    u = b.binary("add", e, 1)
    exact = b.binary("mul", e, b.binary("div", b.unary("log", u), b.binary("sub", u, 1)))
    log1p = b.select(b.binary("eq", u, 1), e, exact)
    return b.binary("add", b.binary("max", x, 0), log1p)


@onnx_op("Mish", since=18)
def mish(b: OnnxBuilder, x: Value) -> Outputs:
    return b.binary("mul", x, b.unary("tanh", softplus(b, x)))


@onnx_op("Softsign", since=1)
def softsign(b: OnnxBuilder, x: Value) -> Outputs:
    return b.binary("div", x, b.binary("add", b.unary("abs", x), 1))


@onnx_op("Swish", since=24)
def swish(b: OnnxBuilder, x: Value, *, alpha: float = 1.0) -> Outputs:
    return b.binary("mul", x, b.unary("sigmoid", x if alpha == 1 else b.binary("mul", x, alpha)))


@onnx_op("Shrink", since=9)
def shrink(b: OnnxBuilder, x: Value, *, bias: float = 0.0, lambd: float = 0.5) -> Outputs:
    zero = b.scalar(0, x.type.dtype)
    lower = b.select(b.binary("lt", x, -lambd), b.binary("add", x, bias), zero)
    return b.select(b.binary("gt", x, lambd), b.binary("sub", x, bias), lower)


@onnx_op("Dropout", since=7)
def dropout(b: OnnxBuilder, x: Value, *, ratio: float = 0.5) -> Outputs:
    """At inference: x, and a mask that keeps everything, of x's type until opset 10."""
    return x, b.broadcast(b.scalar(1, x.type.dtype), x.type.shape) if len(b.wanted) > 1 else None


@onnx_op("Dropout", since=10)
def dropout_10(b: OnnxBuilder, x: Value, *, ratio: float = 0.5) -> Outputs:
    return x, b.broadcast(b.scalar(True, "bool"), x.type.shape) if len(b.wanted) > 1 else None


@onnx_op("Dropout", since=12)
def dropout_12(
    b: OnnxBuilder, x: Value, ratio: Value | None = None, training: Value | None = None, *, seed: int | None = None
) -> Outputs:
    """Whether it trains must be known while compiling."""
    if training is None or not b.array(training, "training_mode").any():
        return dropout_10(b, x)
    return dropped(b, x, b.scalar(0.5, "f32") if ratio is None else ratio, seed)
