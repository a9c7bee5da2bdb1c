"""Composites: normalisations, GELU and attention, expanded into the primitive operators.

Half-precision operands are cast to f32 first and the result is cast back, so that no step in between is rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..dims import as_dim
from ..expr import as_expr
from ..types import DTYPES, Dim, TensorType
from .arithmetic import arithmetic_dtype, broadcast_shapes, require_kind, require_same_dtype, widen
from .base import Op
from .contract import MatMul
from .elementwise import Binary, Cast, Select, Unary
from .movement import Iota, Reshape, Slice, Transpose
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


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
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
            return (_softmax(widen(arrays[0]), self.axis).astype(arrays[0].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        a = Arithmetic(b, values[0].type.dtype)
        (x,) = a.wide(*values)
        return a.result(a.softmax(x, self.axis))


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


@dataclass(frozen=True)
class Attention(Op):
    """softmax(scale * q @ k^T + mask) @ v for q[B, H, M, D], k[B, G, S, D], v[B, G, S, E] and an optional mask that is
    added, broadcast to [B, H, M, S]; gives [B, H, M, E].  H is a multiple of G: query head h reads head h // (H / G).
    causal: query i sees the keys j <= i + (S - M), so the last query sees all; symbolic S - M must not be negative."""

    scale: float
    causal: bool

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 3, 4)
        require_same_dtype(self, types)
        q, k, v = types[:3]
        require_kind(self, "the operands", q, "f")
        require(q.rank == k.rank == v.rank == 4, self, "expected 4 dimensions each, got {}, {} and {}", q, k, v)
        (batch, heads, rows, _), groups, keys = q.shape, k.shape[1], k.shape[2]
        fits = k.shape[0] == batch and k.shape[3] == q.shape[3] and v.shape[:3] == k.shape[:3]
        require(fits, self, "q[B, H, M, D] {}, k[B, G, S, D] {} and v[B, G, S, E] {} do not fit", q, k, v)
        known = isinstance(heads, int) and isinstance(groups, int)
        shares = heads == groups or (known and groups > 0 and heads % groups == 0)  # type: ignore[operator]
        require(shares, self, "the {} heads of q must be a multiple of the {} heads of k and v", heads, groups)
        if len(types) == 4:
            scores = (batch, heads, rows, keys)
            fits = broadcast_shapes(self, scores, types[3].shape) == scores
            require(fits, self, "the mask {} does not broadcast to [B, H, M, S] of {} and {}", types[3], q, k)
        return (TensorType(q.dtype, (*q.shape[:3], v.shape[3])),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        q, k, v, *mask = map(widen, arrays)
        repeats = q.shape[1] // k.shape[1] if k.shape[1] else 1
        k, v = np.repeat(k, repeats, axis=1), np.repeat(v, repeats, axis=1)
        with np.errstate(all="ignore"):
            scores = np.einsum("bhmd,bhsd->bhms", q, k) * q.dtype.type(self.scale)
            if mask:
                scores = scores + mask[0]
            if self.causal:
                seen = np.tril(np.ones(scores.shape[-2:], bool), scores.shape[-1] - scores.shape[-2])
                scores = np.where(seen, scores, q.dtype.type(-np.inf))
            return (np.einsum("bhms,bhse->bhme", _softmax(scores, -1), v).astype(arrays[0].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        """Heads that share keys are rows of one product."""
        a = Arithmetic(b, values[0].type.dtype)
        q, k, v, *mask = a.wide(*values)
        batch, heads, rows, depth = q.type.shape
        _, groups, keys, _ = k.type.shape
        shared = heads != groups
        if shared:
            q = b.add(Reshape((batch, groups, self._rows_per_group(heads, groups, rows), depth)), q)
        scores = b.add(MatMul(), q, b.add(Transpose((0, 1, 3, 2)), k))
        if shared:
            scores = b.add(Reshape((batch, heads, rows, keys)), scores)
        scores = a.binary("mul", scores, self.scale)
        if mask:
            scores = a.binary("add", scores, mask[0])
        if self.causal:
            scores = b.add(Select(), self._seen(b, rows, keys), scores, a.scalar(float("-inf")))
        weights = a.softmax(scores, 3)
        if shared:
            weights = b.add(Reshape((batch, groups, self._rows_per_group(heads, groups, rows), keys)), weights)
        y = b.add(MatMul(), weights, v)
        if shared:
            y = b.add(Reshape((batch, heads, rows, v.type.shape[3])), y)
        return a.result(y)

    @staticmethod
    def _rows_per_group(heads: Dim, groups: Dim, rows: Dim) -> Dim:
        return as_dim(as_expr(heads) / as_expr(groups) * rows)

    @staticmethod
    def _seen(b: Builder, rows: Dim, keys: Dim) -> Value:
        """bool[M, S]: whether the query sees the key."""
        behind = as_dim(as_expr(keys) - rows)
        if isinstance(behind, int):
            position = b.add(Binary("add"), b.add(Iota(rows, "i64")), b.constant(np.array(behind, np.int64)))
        else:
            position = b.add(Slice((behind,), (rows,), (1,)), b.add(Iota(keys, "i64")))
        return b.add(Binary("le"), b.add(Iota(keys, "i64")), b.add(Reshape((rows, 1)), position))
