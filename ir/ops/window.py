"""Pooling over windows of x[N, *spatial, C].

Axes of the computation (s spatial dimensions): n, o0..o<s-1>, c; reduction k0..k<s-1>.  Max pooling skips NaN, as the
combiner of a `Compute` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..compute import Compute, acc_var, identity
from ..dims import multiply_dims, split_index
from ..expr import Expr, Var, all_of, as_expr, binary, cast, select
from ..kernel import Alloc, Buffer, For, If, Kernel, axis, nest, store
from ..types import Dim, TensorType, dtype_of, is_float
from .arithmetic import arithmetic_dtype, read, require_kind, widen
from .base import Op
from .operands import require, require_count
from .sliding import Window


@dataclass(frozen=True)
class Pool(Op):
    """fn "max" or "avg" of every window.  Padding does not take part in the maximum; it counts in the average only if
    count_include_pad, and then as zeros."""

    fn: str
    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    count_include_pad: bool

    @property
    def window(self) -> Window:
        return Window(self.kernel_shape, self.strides, self.pads, self.dilations)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(self.fn in ("max", "avg"), self, "unknown function {!r}, expected max or avg", self.fn)
        require_count(self, types, 1)
        (x,) = types
        require_kind(self, f"the operand of {self.fn}", x, "fiu" if self.fn == "max" else "f")
        return (_pooled(self, self.window, x),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = widen(arrays[0])
        window = self.window
        with np.errstate(all="ignore"):
            if self.fn == "max":
                lowest = identity("max", dtype_of(x))
                taps = [tap for _, tap in window.taps(window.padded(x, lowest))]
                return (np.fmax.reduce([np.full_like(taps[0], lowest), *taps]).astype(arrays[0].dtype),)
            total = sum(tap for _, tap in window.taps(window.padded(x, 0)))
            ones = np.ones_like(x) if not self.count_include_pad else np.ones_like(window.padded(x, 0))
            counted = window.padded(ones, 0) if not self.count_include_pad else ones
            count = sum(tap for _, tap in window.taps(counted))
            return (np.asarray(total / count).astype(arrays[0].dtype),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        (x,) = ins
        n, *o, c = axes = _axes(out)
        k = tuple(axis(f"k{d}", size) for d, size in enumerate(self.kernel_shape))
        at, inside = self.window.read_at(x.shape[1:-1], o, k)
        value = read(x, n, *at, c)
        if inside:
            value = select(all_of(inside), value, identity("max", value.type.dtype) if self.fn == "max" else 0)
        if self.fn == "max":
            return Compute(out, axes, value, k, "max")
        count = multiply_dims(self.kernel_shape) if self.count_include_pad else self._valid(x.shape[1:-1], o)
        finish = binary("div", acc_var(value.type.dtype), cast(as_expr(count), value.type.dtype))
        return Compute(out, axes, value, k, "add", finish)

    def _valid(self, spatial: tuple[Dim, ...], o: Sequence[Expr]) -> Dim:
        """How many elements of window o lie inside the input."""
        window, count = self.window, []
        for d, n in enumerate(spatial):
            step, size = self.dilations[d], self.kernel_shape[d]
            start = o[d] * self.strides[d] - window.before[d]
            skipped: Dim = 0
            reached: Dim = size
            if window.before[d]:  # the first k with start + k * step >= 0
                skipped = binary("max", (step - 1 - start) // step, 0)
            if window.may_pass(d, n, start + (size - 1) * step):
                reached = binary("min", (as_expr(n) - start + (step - 1)) // step, size)
            count.append(reached - skipped)
        return multiply_dims(count)


def _axes(out: Buffer) -> tuple[Var, ...]:
    names = ["n", *(f"o{d}" for d in range(len(out.shape) - 2)), "c"]
    return tuple(axis(name, size) for name, size in zip(names, out.shape, strict=True))


def _pooled(op: Op, window: Window, x: TensorType) -> TensorType:
    require(x.rank >= 3, op, "expected x[N, *spatial, C], got {}", x)
    window.require_valid(op, x.shape[1:-1])
    return TensorType(x.dtype, (x.shape[0], *window.output(x.shape[1:-1]), x.shape[-1]))


@dataclass(frozen=True)
class MaxPoolIndices(Op):
    """For every window the i64 position of its (first) maximum in x flattened as [N, C, *spatial]; column_major: with
    the spatial dimensions flattened in reverse order."""

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    column_major: bool

    @property
    def window(self) -> Window:
        return Window(self.kernel_shape, self.strides, self.pads, self.dilations)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        require_kind(self, "the operand", types[0], "fiu")
        return (TensorType("i64", _pooled(self, self.window, types[0]).shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = widen(arrays[0])
        spatial, order = x.shape[1:-1], "F" if self.column_major else "C"
        within = np.arange(int(np.prod(spatial))).reshape(1, *spatial, 1, order=order)  # type: ignore[call-overload]
        values = [tap for _, tap in self.window.taps(self.window.padded(x, 0))]
        places = [tap for _, tap in self.window.taps(self.window.padded(within, -1))]
        best, best_at = values[0], np.broadcast_to(places[0], values[0].shape)
        for value, place in zip(values[1:], places[1:], strict=True):
            better = (place >= 0) & ((best_at < 0) | (value > best) | ((best != best) & (value == value)))
            best, best_at = np.where(better, value, best), np.where(better, place, best_at)
        plane = np.arange(x.shape[0]).reshape(-1, *(1,) * len(spatial), 1) * x.shape[-1] + np.arange(x.shape[-1])
        return (np.where(best_at < 0, -1, best_at + plane * within.size),)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        (out,), (x,) = outs, ins
        spatial = x.shape[1:-1]
        number = axis("window", multiply_dims(out.shape))
        n, *o, c = split_index(out.shape, number)
        k = tuple(axis(f"k{d}", size) for d, size in enumerate(self.kernel_shape))
        at, inside = self.window.read_at(spatial, o, k)
        value = read(x, n, *at, c)
        best = Buffer("best", arithmetic_dtype(x.dtype), (), "register")
        best_at = Buffer("best_at", "i64", (), "register")
        better = binary("or", binary("lt", best_at[()], 0), binary("lt", best[()], value))
        if is_float(value.type.dtype):
            skips = binary("and", binary("ne", best[()], best[()]), binary("eq", value, value))
            better = binary("or", better, skips)
        dims = list(zip(at, spatial, strict=True))
        place: Expr = n * as_expr(x.shape[-1]) + c
        for i, size in reversed(dims) if self.column_major else dims:
            place = place * as_expr(size) + i
        step = If(all_of((*inside, better)), (store(best, (), value), store(best_at, (), place)))
        start = (Alloc(best), Alloc(best_at), store(best, (), 0), store(best_at, (), -1))
        body = (*start, *nest(k, (step,)), store(out, (n, *o, c), best_at[()]))
        return Kernel(self.name.lower(), (*outs, *ins), (For(number, body, "parallel"),))
