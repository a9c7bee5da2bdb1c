"""Contractions: matrix products and convolutions.  Half-precision products accumulate in f32, integers wrap.

`to` is the type of the sums of integer products whose operands are narrower, and may differ from each other; empty for
sums in the operands' one type.

Axes of the computations (s spatial dimensions), for code that finds them by position:
- MatMul: axes b0.. (batch), m, n; reduction k.
- Conv, one group: axes n, o0..o<s-1>, oc; reduction k0..k<s-1>, ic.
- Conv, depthwise (groups = C = O): axes n, o0.., oc; reduction k0...
- Conv, other groups: axes n, o0.., g, oc (within the group); reduction k0.., ic (within the group).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..compute import Compute, acc_var
from ..dims import as_dim, multiply_dims
from ..expr import Expr, ExprLike, all_of, as_expr, cast, load, select
from ..kernel import Buffer, axis
from ..types import DTYPES, Dim, TensorType
from .arithmetic import as_dtype, broadcast_index, broadcast_shapes, read, require_kind, require_same_dtype, widen
from .base import Op
from .elementwise import Binary
from .movement import Pad, Reshape, Slice, Transpose
from .operands import require, require_count
from .sliding import Window

if TYPE_CHECKING:
    from ..graph import Builder, Value


@dataclass(frozen=True)
class MatMul(Op):
    """a[..., m, k] times b[..., k, n]; the leading dimensions broadcast."""

    to: str = ""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2)
        a, b = types
        _require_dtypes(self, self.to, types)
        require(a.rank >= 2 and b.rank >= 2, self, "expected at least 2 dimensions, got {} and {}", a, b)
        require(a.shape[-1] == b.shape[-2], self, "the inner dimensions of {} and {} differ", a, b)
        batch = broadcast_shapes(self, a.shape[:-2], b.shape[:-2])
        return (TensorType(self.to or a.dtype, (*batch, a.shape[-2], b.shape[-1])),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b = (as_dtype(x, self.to) if self.to else x for x in arrays)
        with np.errstate(all="ignore"):
            return (np.matmul(widen(a), widen(b)).astype(a.dtype),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        a, b = ins
        batch = tuple(axis(f"b{i}", n) for i, n in enumerate(out.shape[:-2]))
        m, n, k = axis("m", out.shape[-2]), axis("n", out.shape[-1]), axis("k", a.shape[-1])
        left = _read_as(self.to, a, *broadcast_index(a.shape[:-2], batch, out.shape[:-2]), m, k)
        right = _read_as(self.to, b, *broadcast_index(b.shape[:-2], batch, out.shape[:-2]), k, n)
        return Compute(out, (*batch, m, n), left * right, (k,), "add")


def _require_dtypes(op: Op, to: str, types: tuple[TensorType, ...]) -> None:
    """Raises ModelError unless the operands have one type, or with `to` are integers that it is wide enough for (the bias
    has that type itself)."""
    require_kind(op, "the operands", types[0], "iu" if to else "fiu")
    if not to:
        require_same_dtype(op, types)
        return
    require_kind(op, "the operands", types[1], "iu")
    wide = to == "i32" and all(DTYPES[t.dtype].size <= 2 for t in types[:2])
    require(wide, op, "sums in {} need operands of 8 or 16 bits, got {} and {}", to, *types[:2])
    require(all(t.dtype == to for t in types[2:]), op, "the bias must be {}, got {}", to, types[-1])


def _read_as(to: str, buf: Buffer, *idx: ExprLike) -> Expr:
    return cast(load(buf, *idx), to) if to else read(buf, *idx)


def _require_ranks(op: Op, x: TensorType, w: TensorType) -> None:
    fits = x.rank >= 3 and w.rank == x.rank
    require(fits, op, "expected x[N, *spatial, C] and weights of the same rank, got {} and {}", x, w)


def _require_bias(op: Op, types: tuple[TensorType, ...], channels: Dim) -> None:
    """Raises ModelError unless the optional third operand has one element per output channel."""
    if len(types) == 3:
        fits = types[2].shape == (channels,)
        require(fits, op, "the bias must have one element per output channel, {}, got {}", channels, types[2])


def _with_bias(total: np.ndarray, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """The sums plus the optional third operand, rounded to the type of the first."""
    return (total + widen(arrays[2]) if len(arrays) == 3 else total).astype(arrays[0].dtype)


@dataclass(frozen=True)
class Conv(Op):
    """x[N, *spatial, C], w[*kernel, C/groups, O], optional bias[O] -> [N, *output, O].  pads: zeros around x, those at
    the begins, then those at the ends."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int
    to: str = ""

    def window(self, kernel: tuple[Dim, ...]) -> Window:
        return Window(kernel, self.strides, self.pads, self.dilations)  # type: ignore[arg-type]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2, 3)
        x, w = types[:2]
        _require_dtypes(self, self.to, types)
        _require_ranks(self, x, w)
        window = self.window(w.shape[:-2])
        window.require_valid(self, x.shape[1:-1])
        per_group, channels = w.shape[-2:]
        require(isinstance(channels, int) and isinstance(per_group, int), self, "channels must be known, got {}", w)
        fits = self.groups >= 1 and channels % self.groups == 0 and x.shape[-1] == per_group * self.groups
        require(fits, self, "{} groups do not divide the channels of x {} and weights {}", self.groups, x, w)
        _require_bias(self, types, channels)
        return (TensorType(self.to or x.dtype, (x.shape[0], *window.output(x.shape[1:-1]), channels)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        if self.to:
            arrays = tuple(as_dtype(a, self.to) for a in arrays)
        x, w = widen(arrays[0]), widen(arrays[1])
        window = self.window(w.shape[:-2])
        groups, per_group = self.groups, w.shape[-1] // self.groups
        total: np.ndarray | int = 0
        with np.errstate(all="ignore"):
            for k, tap in window.taps(window.padded(x, 0)):
                parts = tap.reshape(*tap.shape[:-1], groups, 1, w.shape[-2])
                weights = np.moveaxis(w[k].reshape(w.shape[-2], groups, per_group), 0, 1)
                total = total + np.matmul(parts, weights)
            shape = (*total.shape[:-3], w.shape[-1])  # type: ignore[union-attr]
            return (_with_bias(total.reshape(shape), arrays),)  # type: ignore[union-attr]

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        x, w = ins[:2]
        n = axis("n", out.shape[0])
        o = tuple(axis(f"o{i}", d) for i, d in enumerate(out.shape[1:-1]))
        k = tuple(axis(f"k{i}", d) for i, d in enumerate(w.shape[:-2]))
        depthwise = self.groups == out.shape[-1] == x.shape[-1] != 1
        ic = axis("ic", w.shape[-2])
        if self.groups == 1 or depthwise:
            oc = axis("oc", out.shape[-1])
            channel: Expr = oc
            source: Expr = oc if depthwise else ic
            axes = (n, *o, oc)
        else:
            g, oc = axis("g", self.groups), axis("oc", out.shape[-1] // self.groups)  # type: ignore[operator]
            channel = g * (out.shape[-1] // self.groups) + oc  # type: ignore[operator]
            source = g * as_expr(w.shape[-2]) + ic
            axes = (n, *o, g, oc)
        at, inside = self.window(w.shape[:-2]).read_at(x.shape[1:-1], o, k)
        value = _read_as(self.to, x, n, *at, source)
        if inside:
            value = select(all_of(inside), value, 0)
        body = value * _read_as(self.to, w, *k, 0 if depthwise else ic, channel)
        finish = acc_var(body.type.dtype) + read(ins[2], channel) if len(ins) == 3 else None
        index = None if channel is oc else (n, *o, channel)
        return Compute(out, axes, body, k if depthwise else (*k, ic), "add", finish, index)


@dataclass(frozen=True)
class ConvTranspose(Op):
    """x[N, *spatial, C], w[*kernel, O/groups, C], optional bias[O] -> [N, *output, O]: the sum over input positions i
    and kernel positions k of x[i] * w[k] at i * stride + k * dilation - pad.  pads cut the result at the begins, then
    at the ends; output_padding makes it longer at the ends."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...]

    def _output(self, spatial: tuple[Dim, ...], kernel: tuple[int, ...]) -> tuple[Dim, ...]:
        rank = len(spatial)
        return tuple(
            as_dim((n - 1) * self.strides[d] + (kernel[d] - 1) * self.dilations[d] + 1 + self.output_padding[d]
                   - self.pads[d] - self.pads[rank + d])
            for d, n in enumerate(spatial)
        )

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2, 3)
        x, w = types[:2]
        require_same_dtype(self, types)
        require_kind(self, "the operands", x, "fiu")
        _require_ranks(self, x, w)
        rank = x.rank - 2
        kernel, (per_group, channels) = w.shape[:-2], w.shape[-2:]
        require(all(isinstance(d, int) for d in w.shape), self, "the sizes of the weights must be known, got {}", w)
        for what, values, count, least in (
            ("strides", self.strides, rank, 1), ("pads", self.pads, 2 * rank, 0),
            ("dilations", self.dilations, rank, 1), ("output_padding", self.output_padding, rank, 0),
        ):
            ok = len(values) == count and min(values) >= least
            require(ok, self, "{} must be {} integers of at least {}, got {}", what, count, least, values)
        fits = self.groups >= 1 and x.shape[-1] == channels and channels % self.groups == 0  # type: ignore[operator]
        require(fits, self, "{} groups do not divide the channels of x {} and weights {}", self.groups, x, w)
        output = self._output(x.shape[1:-1], kernel)  # type: ignore[arg-type]
        for d, n in enumerate(output):
            require(not isinstance(n, int) or n >= 1, self, "spatial dimension {} of the result has size {}", d, n)
        outputs = per_group * self.groups
        _require_bias(self, types, outputs)
        return (TensorType(x.dtype, (x.shape[0], *output, outputs)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w = widen(arrays[0]), widen(arrays[1])
        *kernel, per_group, channels = w.shape
        rank, groups = len(kernel), self.groups
        cut = self._output(x.shape[1:-1], tuple(kernel))
        full = [n + self.pads[d] + self.pads[rank + d] for d, n in enumerate(cut)]
        total = np.zeros((x.shape[0], *full, groups, 1, per_group), x.dtype)  # type: ignore[arg-type]
        parts = x.reshape(*x.shape[:-1], groups, 1, channels // groups)
        with np.errstate(all="ignore"):
            for k in np.ndindex(*kernel):
                rows = zip(k, self.dilations, self.strides, x.shape[1:-1], strict=True)
                place = tuple(slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, s, n in rows)
                weights = w[k].reshape(per_group, groups, channels // groups).transpose(1, 2, 0)
                total[(slice(None), *place)] += np.matmul(parts, weights)
            total = total.reshape(x.shape[0], *full, groups * per_group)  # type: ignore[arg-type]
            kept = tuple(slice(self.pads[d], self.pads[d] + n) for d, n in enumerate(cut))  # type: ignore[operator]
            return (np.ascontiguousarray(_with_bias(total[(slice(None), *kept)], arrays)),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        kernel = values[1].type.static_shape[:-2]
        plain = not any((*self.pads, *self.output_padding)) and set(self.dilations) == {1} and self.groups == 1
        if plain and kernel == self.strides:
            return (self._as_product(b, *values),)
        return (self._as_convolution(b, *values),)

    def _as_product(self, b: Builder, x: Value, w: Value, *bias: Value) -> Value:
        """Windows that do not overlap: one matrix product over channels, then a pixel shuffle."""
        batch, *spatial, channels = x.type.shape
        *kernel, outputs, _ = w.type.static_shape
        rank = len(kernel)
        taps = multiply_dims(kernel) * outputs
        weights = b.add(Transpose((1, 0)), b.add(Reshape((taps, channels)), w))
        rows = b.add(Reshape((multiply_dims((batch, *spatial)), channels)), x)
        y = b.add(MatMul(), rows, weights)
        y = b.add(Reshape((batch, *spatial, *kernel, outputs)), y)
        pairs = [p for d in range(rank) for p in (1 + d, 1 + rank + d)]
        y = b.add(Transpose((0, *pairs, 1 + 2 * rank)), y)
        sizes = [multiply_dims(p) for p in zip(spatial, kernel, strict=True)]
        y = b.add(Reshape((batch, *sizes, outputs)), y)
        return b.add(Binary("add"), y, *bias) if bias else y

    def _as_convolution(self, b: Builder, x: Value, w: Value, *bias: Value) -> Value:
        """A convolution with the mirrored kernel over x with zeros between and around its elements."""
        batch, *spatial, channels = x.type.shape
        *kernel, _, _ = w.type.static_shape
        rank = len(kernel)
        zero = b.constant(np.zeros((), DTYPES[x.type.dtype].numpy))
        if any(s > 1 for s in self.strides):
            x = self._interleave(b, x, zero)
        reach = [(k - 1) * d for k, d in zip(kernel, self.dilations, strict=True)]
        first = [reach[d] - self.pads[d] for d in range(rank)]  # zeros before x (if positive) or elements to cut off
        last = [reach[d] - self.pads[rank + d] + self.output_padding[d] + 1 - self.strides[d] for d in range(rank)]
        before, after = [max(0, n) for n in first], [max(0, n) for n in last]
        if any(before + after):
            x = b.add(Pad((0, *before, 0), (0, *after, 0), "constant"), x, zero)
        if any(n < 0 for n in first + last):
            starts = [max(0, -n) for n in first]
            sizes = [n + r for n, r in zip(self._output(tuple(spatial), tuple(kernel)), reach, strict=True)]
            x = b.add(Slice((0, *starts, 0), (batch, *sizes, channels), (1,) * (rank + 2)), x)
        weights = self._mirrored(b, w)
        return b.add(Conv((1,) * rank, (0,) * (2 * rank), self.dilations, self.groups), x, weights, *bias)

    def _interleave(self, b: Builder, x: Value, zero: Value) -> Value:
        batch, *spatial, channels = x.type.shape
        split = [d for n in spatial for d in (n, 1)]
        x = b.add(Reshape((batch, *split, channels)), x)
        after = [d for s in self.strides for d in (0, s - 1)]
        x = b.add(Pad((0,) * x.type.rank, (0, *after, 0), "constant"), x, zero)
        return b.add(Reshape((batch, *(n * s for n, s in zip(spatial, self.strides, strict=True)), channels)), x)

    def _mirrored(self, b: Builder, w: Value) -> Value:
        """w[*kernel, O/groups, C] as the weights [*kernel, C/groups, O] of a convolution, reversed in space."""
        *kernel, outputs, channels = w.type.static_shape
        rank, groups = len(kernel), self.groups
        starts = (*(k - 1 for k in kernel), 0, 0)
        w = b.add(Slice(starts, w.type.shape, (-1,) * rank + (1, 1)), w)
        w = b.add(Reshape((*kernel, outputs, groups, channels // groups)), w)
        w = b.add(Transpose((*range(rank), rank + 2, rank + 1, rank)), w)
        return b.add(Reshape((*kernel, channels // groups, groups * outputs)), w)
