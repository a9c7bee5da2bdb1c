"""Composites: normalisations and GELU, expanded into the primitive operators.

Half-precision operands are cast to f32 first and the result is cast back, so that no step in between is rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..types import DTYPES, TensorType
from .arithmetic import arithmetic_dtype, broadcast_shapes, require_kind, require_same_dtype, widen
from .base import Op
from .elementwise import Binary, Cast, Unary
from .operands import require, require_axis, require_count
from .reduce import Reduce

if TYPE_CHECKING:
    from ..graph import Builder, Value


class Arithmetic:
    """Writes expansions: f32 or f64 values in, operators out."""

    def __init__(self, b: Builder, dtype: str) -> None:
        self.b = b
        self.stored = dtype
        self.dtype = arithmetic_dtype(dtype)

    def wide(self, *values: Value) -> tuple[Value, ...]:
        """The operands in the type that is computed in."""
        return tuple(v if v.type.dtype == self.dtype else self.b.add(Cast(self.dtype), v) for v in values)

    def result(self, value: Value) -> tuple[Value, ...]:
        return (value if self.stored == self.dtype else self.b.add(Cast(self.stored), value),)

    def scalar(self, value: float) -> Value:
        return self.b.constant(np.array(value, DTYPES[self.dtype].numpy))

    def unary(self, fn: str, x: Value) -> Value:
        return self.b.add(Unary(fn), x)

    def binary(self, fn: str, x: Value, y: Value | float) -> Value:
        return self.b.add(Binary(fn), x, self.scalar(y) if isinstance(y, (int, float)) else y)

    def reduce(self, fn: str, x: Value, *axes: int) -> Value:
        return self.b.add(Reduce(fn, axes, True), x)

    def inverse_root(self, x: Value, epsilon: float) -> Value:
        """1 / sqrt(x + epsilon)"""
        return self.unary("reciprocal", self.unary("sqrt", self.binary("add", x, epsilon)))

    def centred(self, x: Value, fn: str, axis: int) -> Value:
        """x minus its maximum or mean along an axis."""
        return self.binary("sub", x, self.reduce(fn, x, axis))

    def softmax(self, x: Value, axis: int) -> Value:
        e = self.unary("exp", self.centred(x, "max", axis))
        return self.binary("div", e, self.reduce("sum", e, axis))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """The NumPy meaning, in the type of x."""
    e = np.exp(x - np.fmax.reduce(x, axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis, keepdims=True)


def _require_float_axis(op: Op, axis: int, types: tuple[TensorType, ...], count: int) -> TensorType:
    require_count(op, types, count)
    require_same_dtype(op, types)
    require_kind(op, "the operands", types[0], "f")
    require_axis(op, axis, types[0])
    for t in types[1:]:
        fits = broadcast_shapes(op, types[0].shape, t.shape) == types[0].shape
        require(fits, op, "{} does not broadcast to {}", t, types[0])
    return types[0]


@dataclass(frozen=True)
class Softmax(Op):
    """exp(x - max) / sum of that, along an axis."""

    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (_require_float_axis(self, self.axis, types, 1),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        with np.errstate(all="ignore"):
            return (softmax(widen(arrays[0]), self.axis).astype(arrays[0].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        a = Arithmetic(b, values[0].type.dtype)
        return a.result(a.softmax(*a.wide(*values), self.axis))


@dataclass(frozen=True)
class LogSoftmax(Op):
    """x - max - log(sum of exp(x - max)), along an axis."""

    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (_require_float_axis(self, self.axis, types, 1),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        with np.errstate(all="ignore"):
            x = widen(arrays[0])
            top = np.fmax.reduce(x, self.axis, keepdims=True, initial=-np.inf)
            total = np.exp(x - top).sum(self.axis, keepdims=True)
            return (((x - top) - np.log(total)).astype(arrays[0].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        a = Arithmetic(b, values[0].type.dtype)
        (x,) = a.wide(*values)
        centred = a.centred(x, "max", self.axis)
        total = a.reduce("sum", a.unary("exp", centred), self.axis)
        return a.result(a.binary("sub", centred, a.unary("log", total)))


@dataclass(frozen=True)
class LayerNorm(Op):
    """x, scale, bias: x brought to mean 0, variance 1 over the dimensions from axis on, times scale, plus bias."""

    axis: int
    epsilon: float

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (_require_float_axis(self, self.axis, types, 3),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, scale, bias = map(widen, arrays)
        axes = tuple(range(self.axis, x.ndim))
        variance = np.var(x, axes, keepdims=True)
        y = (x - np.mean(x, axes, keepdims=True)) / np.sqrt(variance + x.dtype.type(self.epsilon))
        return ((y * scale + bias).astype(arrays[0].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        a = Arithmetic(b, values[0].type.dtype)
        x, scale, bias = a.wide(*values)
        axes = range(self.axis, x.type.rank)
        centred = a.binary("sub", x, a.reduce("mean", x, *axes))
        variance = a.reduce("mean", a.binary("mul", centred, centred), *axes)
        y = a.binary("mul", centred, a.inverse_root(variance, self.epsilon))
        return a.result(a.binary("add", a.binary("mul", y, scale), bias))


@dataclass(frozen=True)
class RmsNorm(Op):
    """x, scale: x divided by the root of its mean square over the dimensions from axis on, times scale."""

    axis: int
    epsilon: float

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (_require_float_axis(self, self.axis, types, 2),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, scale = map(widen, arrays)
        square = np.mean(x * x, tuple(range(self.axis, x.ndim)), keepdims=True)
        return ((x / np.sqrt(square + x.dtype.type(self.epsilon)) * scale).astype(arrays[0].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        a = Arithmetic(b, values[0].type.dtype)
        x, scale = a.wide(*values)
        square = a.reduce("mean", a.binary("mul", x, x), *range(self.axis, x.type.rank))
        return a.result(a.binary("mul", a.binary("mul", x, a.inverse_root(square, self.epsilon)), scale))


@dataclass(frozen=True)
class BatchNorm(Op):
    """x[..., C], scale[C], bias[C], mean[C], var[C]: (x - mean) / sqrt(var + epsilon) * scale + bias."""

    epsilon: float

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x = _require_float_axis(self, types[0].rank - 1 if types else 0, types, 5)
        for t in types[1:]:
            require(t.shape == x.shape[-1:], self, "expected one number per channel of {}, got {}", x, t)
        return (x,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, scale, bias, mean, variance = map(widen, arrays)
        y = (x - mean) / np.sqrt(variance + x.dtype.type(self.epsilon)) * scale + bias
        return (y.astype(arrays[0].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        """As x * factor + offset: both are constants when the statistics are."""
        a = Arithmetic(b, values[0].type.dtype)
        x, scale, bias, mean, variance = a.wide(*values)
        factor = a.binary("mul", scale, a.inverse_root(variance, self.epsilon))
        offset = a.binary("sub", bias, a.binary("mul", mean, factor))
        return a.result(a.binary("add", a.binary("mul", x, factor), offset))


@dataclass(frozen=True)
class Gelu(Op):
    """x times the normal distribution function of x: by erf (approximate "none") or by tanh (approximate "tanh")."""

    approximate: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        known = self.approximate in ("none", "tanh")
        require(known, self, "approximate is {!r}, expected none or tanh", self.approximate)
        require_count(self, types, 1)
        require_kind(self, "the operand", types[0], "f")
        return types

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = widen(arrays[0]).astype(np.float64)
        if self.approximate == "tanh":
            inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            inner = np.array([math.erf(v / math.sqrt(2)) for v in x.ravel().tolist()]).reshape(x.shape)
        return ((x * 0.5 * (1 + inner)).astype(arrays[0].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        a = Arithmetic(b, values[0].type.dtype)
        (x,) = a.wide(*values)
        if self.approximate == "tanh":
            cubic = a.binary("mul", a.binary("mul", a.binary("mul", x, x), x), 0.044715)
            inner = a.unary("tanh", a.binary("mul", a.binary("add", x, cubic), math.sqrt(2 / math.pi)))
        else:
            inner = a.unary("erf", a.binary("mul", x, math.sqrt(0.5)))
        return a.result(a.binary("mul", a.binary("mul", x, 0.5), a.binary("add", inner, 1.0)))
