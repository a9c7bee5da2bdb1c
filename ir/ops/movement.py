"""Operators that move elements without computing on them: every one is an index map from the output to its operands.

Fields are normalised: axes are non-negative, every attribute lists all axes, sizes contain no wildcards.  Sizes and
offsets may be symbolic where the type says `Dim`.  An index read from data counts from the end when it is negative, and
is clamped to the border when it is outside, so that no input makes a kernel read outside of its operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..compute import Compute
from ..dims import add_dims, as_dim, equal_runs, join_index, same_volume, split_index
from ..errors import InternalError
from ..expr import Expr, Type, Var, all_of, as_expr, binary, cast, const, load, select
from ..kernel import Buffer, axis
from ..types import DTYPES, Dim, TensorType
from .base import Op
from .operands import require, require_axis, require_count, require_index, require_scalar

PAD_MODES = ("constant", "reflect", "edge", "wrap")


def output_axes(out: Buffer) -> tuple[Var, ...]:
    """One loop variable per dimension of the output."""
    return tuple(axis(f"d{n}", size) for n, size in enumerate(out.shape))


def clamp(i: Expr, extent: Dim, low: bool = True, high: bool = True) -> Expr:
    """The nearest index of 0..extent-1; low and high say on which sides i may be outside."""
    if low:
        i = binary("max", i, 0)
    return binary("min", i, as_expr(extent) - 1) if high else i


def data_index(buf: Buffer, at: Sequence[Expr], extent: Dim) -> Expr:
    """An index that is read from data: negative values count from the end, others are clamped."""
    i = cast(load(buf, *at), "i64")
    if DTYPES[buf.dtype].kind == "i":
        i = select(binary("lt", i, 0), i + as_expr(extent), i)
    return clamp(i, extent)


def wrap_indices(indices: np.ndarray, extent: int) -> np.ndarray:
    """`data_index` on an array."""
    i = indices.astype(np.int64)
    return np.clip(np.where(i < 0, i + extent, i), 0, extent - 1)


def require_some(op: Gather | GatherElements, x: TensorType, indices: TensorType) -> None:
    empty = x.shape[op.axis] == 0 and 0 not in indices.shape
    require(not empty, op, "cannot pick from the empty axis {} of {}", op.axis, x)


def static(op: Op, dims: Sequence[Dim]) -> tuple[int, ...]:
    if not all(isinstance(d, int) for d in dims):
        raise InternalError(f"{op}: symbolic sizes must be bound before the operator is evaluated")
    return tuple(dims)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reshape(Op):
    """x with the same elements, in row-major order, in another shape."""

    shape: tuple[Dim, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        require(same_volume(x.shape, self.shape) is not False, self, "{} does not fit into {}", x, self.shape)
        return (TensorType(x.dtype, self.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (arrays[0].reshape(static(self, self.shape)),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        """Runs of dimensions with equal products are mapped on their own, so that no division spans two of them."""
        (x,) = ins
        axes = output_axes(out)
        index: list[Expr] = []
        for source, target in equal_runs(x.shape, out.shape):
            run = [axes[d] for d in target]
            if len(source) == len(run) == 1:
                index += run
            else:
                index += split_index([x.shape[d] for d in source], join_index([out.shape[d] for d in target], run))
        return Compute(out, axes, load(x, *index))


@dataclass(frozen=True)
class Transpose(Op):
    """Output dimension d is dimension perm[d] of x."""

    perm: tuple[int, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        require(sorted(self.perm) == list(range(x.rank)), self, "{} does not permute the axes of {}", self.perm, x)
        return (TensorType(x.dtype, tuple(x.shape[p] for p in self.perm)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.asarray(np.transpose(arrays[0], self.perm), order="C"),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        axes = output_axes(out)
        return Compute(out, axes, load(ins[0], *(axes[self.perm.index(d)] for d in range(len(axes)))))


@dataclass(frozen=True)
class Slice(Op):
    """out[i, ...] = x[start + i * step, ...], with start, size and step (not 0, may be negative) for every axis."""

    starts: tuple[Dim, ...]
    sizes: tuple[Dim, ...]
    steps: tuple[int, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        ranks = {len(self.starts), len(self.sizes), len(self.steps)}
        require(ranks == {x.rank}, self, "starts, sizes and steps must list all dimensions of {}, got {}", x, self)
        for n, start, size, step in zip(x.shape, self.starts, self.sizes, self.steps, strict=True):
            require(step != 0, self, "a step is 0")
            last = as_dim(start + (size - 1) * step)
            for i in (start, last) if size != 0 else ():
                outside = isinstance(i, int) and (i < 0 or (isinstance(n, int) and i >= n))
                require(not outside, self, "index {} is outside of a dimension of {} of {} in {}", i, n, x, self)
        return (TensorType(x.dtype, self.sizes),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        rows = zip(static(self, self.starts), static(self, self.sizes), self.steps, strict=True)
        return (x[np.ix_(*(start + np.arange(size) * step for start, size, step in rows))],)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        axes = output_axes(out)
        index = (as_expr(s) + a * k for s, a, k in zip(self.starts, axes, self.steps, strict=True))
        return Compute(out, axes, load(ins[0], *index))


@dataclass(frozen=True)
class Concat(Op):
    """One or more operands joined along an axis."""

    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) > 0, self, "expected at least one operand")
        first = types[0]
        require_axis(self, self.axis, first)
        for t in types[1:]:
            fits = t.dtype == first.dtype and t.rank == first.rank
            fits = fits and all(d == self.axis or t.shape[d] == first.shape[d] for d in range(t.rank))
            require(fits, self, "operands {} and {} differ elsewhere than along axis {}", first, t, self.axis)
        total = add_dims(t.shape[self.axis] for t in types)
        return (TensorType(first.dtype, (*first.shape[: self.axis], total, *first.shape[self.axis + 1 :])),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.concatenate(arrays, self.axis),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        axes = output_axes(out)
        parts = [x for x in ins if x.shape[self.axis] != 0] or list(ins[:1])
        i: Expr = axes[self.axis]
        offset: Expr = as_expr(0)
        pieces: list[tuple[Expr, Expr]] = []
        for n, x in enumerate(parts):
            at = clamp(i - offset, x.shape[self.axis], low=n > 0, high=n < len(parts) - 1)
            offset = offset + as_expr(x.shape[self.axis])
            index = [at if d == self.axis else a for d, a in enumerate(axes)]
            pieces.append((binary("lt", i, offset), load(x, *index)))
        body = pieces[-1][1]
        for here, value in reversed(pieces[:-1]):
            body = select(here, value, body)
        return Compute(out, axes, body)


@dataclass(frozen=True)
class Pad(Op):
    """x with elements added around it.  mode "constant" takes a second operand, the scalar that is added; "edge"
    repeats the border, "reflect" mirrors at the border element, "wrap" continues from the other side."""

    before: tuple[Dim, ...]
    after: tuple[Dim, ...]
    mode: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(self.mode in PAD_MODES, self, "unknown mode {!r}, expected one of {}", self.mode, PAD_MODES)
        require_count(self, types, 2 if self.mode == "constant" else 1)
        x = types[0]
        if self.mode == "constant":
            require_scalar(self, "the value", types[1], x.dtype)
        complete = len(self.before) == len(self.after) == x.rank
        require(complete, self, "expected pads for all dimensions of {}, got {}", x, self)
        for n, b, a in zip(x.shape, self.before, self.after, strict=True):
            negative = any(isinstance(p, int) and p < 0 for p in (a, b))
            require(not negative, self, "pads must not be negative, got {}; use Slice", self)
            require(self.mode == "constant" or n != 0 or a == b == 0, self, "{} has no elements to repeat", x)
        return (TensorType(x.dtype, tuple(add_dims(d) for d in zip(self.before, x.shape, self.after, strict=True))),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0]
        before, after = static(self, self.before), static(self, self.after)
        if self.mode == "constant":
            out = np.full(tuple(b + n + a for b, n, a in zip(before, x.shape, after, strict=True)), arrays[1], x.dtype)
            out[tuple(slice(b, b + n) for b, n in zip(before, x.shape, strict=True))] = x
            return (out,)
        for d, n in enumerate(x.shape):
            positions = np.pad(np.arange(n), (before[d], after[d]), self.mode)  # type: ignore[call-overload]
            x = np.take(x, positions, d)
        return (x,)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        x = ins[0]
        axes = output_axes(out)
        index: list[Expr] = []
        inside: list[Expr] = []
        for a, b, n, after in zip(axes, self.before, x.shape, self.after, strict=True):
            i = a - as_expr(b)
            if self.mode == "constant":
                inside += [binary("le", 0, i)] if b != 0 else []
                inside += [binary("lt", i, as_expr(n))] if after != 0 else []
            index.append(self._source(i, n, b != 0, after != 0))
        if self.mode != "constant":
            return Compute(out, axes, load(x, *index))
        value = load(ins[1])
        if any(n == 0 for n in x.shape):
            return Compute(out, axes, value)
        return Compute(out, axes, select(all_of(inside), load(x, *index), value))

    def _source(self, i: Expr, n: Dim, low: bool, high: bool) -> Expr:
        if not low and not high:
            return i
        if self.mode == "wrap":
            return i % as_expr(n)
        if self.mode != "reflect":
            return clamp(i, n, low, high)
        period = as_dim(2 * n - 2)
        if period == 0:
            return as_expr(0)
        there = i % as_expr(period)
        return binary("min", there, as_expr(period) - there)


@dataclass(frozen=True)
class Broadcast(Op):
    """x repeated to a shape, as NumPy broadcasts: dimensions are aligned at the end, those of size 1 are repeated."""

    shape: tuple[Dim, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        require(x.rank <= len(self.shape), self, "{} has more dimensions than {}", x, self.shape)
        for n, m in zip(x.shape[::-1], self.shape[::-1], strict=False):
            require(n in (1, m), self, "{} cannot be repeated to {}: {} and {} do not fit", x, self.shape, n, m)
        return (TensorType(x.dtype, self.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.asarray(np.broadcast_to(arrays[0], static(self, self.shape)), order="C"),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        (x,) = ins
        axes = output_axes(out)
        aligned = zip(axes[len(axes) - len(x.shape) :], x.shape, out.shape[len(axes) - len(x.shape) :], strict=True)
        return Compute(out, axes, load(x, *(a if n == m else as_expr(0) for a, n, m in aligned)))


@dataclass(frozen=True)
class Gather(Op):
    """x and integer indices of any shape: the slices of x along an axis; the indices' dimensions replace that axis."""

    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2)
        x, indices = types
        require_axis(self, self.axis, x)
        require_index(self, "indices", indices)
        require_some(self, x, indices)
        return (TensorType(x.dtype, x.shape[: self.axis] + indices.shape + x.shape[self.axis + 1 :]),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, indices = arrays
        return (np.take(x, wrap_indices(indices, x.shape[self.axis]), self.axis),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        x, indices = ins
        axes = output_axes(out)
        end = self.axis + len(indices.shape)
        at = data_index(indices, axes[self.axis : end], x.shape[self.axis])
        return Compute(out, axes, load(x, *axes[: self.axis], at, *axes[end:]))


@dataclass(frozen=True)
class GatherElements(Op):
    """x and integer indices of its rank: out[i, j, k] = x[i, indices[i, j, k], k] for axis 1."""

    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2)
        x, indices = types
        require_axis(self, self.axis, x)
        require_index(self, "indices", indices)
        require(x.rank == indices.rank, self, "{} and indices {} must have the same number of dimensions", x, indices)
        for d, (n, m) in enumerate(zip(x.shape, indices.shape, strict=True)):
            larger = d != self.axis and isinstance(n, int) and isinstance(m, int) and m > n
            require(not larger, self, "indices {} are larger than {} in dimension {}", indices, x, d)
        require_some(self, x, indices)
        return (TensorType(x.dtype, indices.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, indices = arrays
        x = x[tuple(slice(None) if d == self.axis else slice(n) for d, n in enumerate(indices.shape))]
        return (np.take_along_axis(x, wrap_indices(indices, x.shape[self.axis]), self.axis),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        x, indices = ins
        axes = output_axes(out)
        at = data_index(indices, axes, x.shape[self.axis])
        return Compute(out, axes, load(x, *(at if d == self.axis else a for d, a in enumerate(axes))))


@dataclass(frozen=True)
class GatherND(Op):
    """x and integer indices [*batch, *rows, k]: the slices x[*batch, i_1, ..., i_k], shape [*batch, *rows, *rest]."""

    batch_dims: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2)
        x, indices = types
        require_index(self, "indices", indices)
        b = self.batch_dims
        require(0 <= b < min(x.rank, indices.rank), self, "{} batch dimensions do not fit {} and {}", b, x, indices)
        require(x.shape[:b] == indices.shape[:b], self, "the first {} sizes of {} and {} differ", b, x, indices)
        k = indices.shape[-1]
        require(isinstance(k, int), self, "the last dimension of {} must be known", indices)
        require(b + k <= x.rank, self, "{} index more dimensions than {} has", indices, x)  # type: ignore[operator]
        return (TensorType(x.dtype, (*indices.shape[:-1], *x.shape[b + k :])),)  # type: ignore[operator]

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, indices = arrays
        b, k = self.batch_dims, indices.shape[-1]
        batch = np.ogrid[tuple(slice(n) for n in x.shape[:b])] if b else []
        rows = indices.ndim - 1
        at = [np.reshape(i, i.shape + (1,) * (rows - b)) for i in batch]
        at += [wrap_indices(indices[..., j], x.shape[b + j]) for j in range(k)]
        if not at:
            return (np.asarray(np.broadcast_to(x, (*indices.shape[:-1], *x.shape)), order="C"),)
        return (x[tuple(np.broadcast_arrays(*at))],)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        x, indices = ins
        axes = output_axes(out)
        b, k, rows = self.batch_dims, indices.shape[-1], len(indices.shape) - 1
        at = [data_index(indices, (*axes[:rows], const(j)), x.shape[b + j]) for j in range(k)]  # type: ignore
        return Compute(out, axes, load(x, *axes[:b], *at, *axes[rows:]))


@dataclass(frozen=True)
class Trilu(Op):
    """x[..., rows, columns] and an i64 scalar k: what lies on or above (upper), or on or below, the k-th diagonal."""

    upper: bool

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2)
        x, k = types
        require(x.rank >= 2, self, "expected at least 2 dimensions, got {}", x)
        require_scalar(self, "k", k, "i64")
        return (x,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, k = arrays
        diagonal = np.arange(x.shape[-1]) - np.arange(x.shape[-2])[:, None]
        keep = diagonal >= k if self.upper else diagonal <= k
        return (np.where(keep, x, np.zeros((), x.dtype)),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        x, k = ins
        axes = output_axes(out)
        diagonal = axes[-1] - axes[-2]
        keep = binary("le", load(k), diagonal) if self.upper else binary("le", diagonal, load(k))
        return Compute(out, axes, select(keep, load(x, *axes), const(0, Type(x.dtype))))


@dataclass(frozen=True)
class Iota(Op):
    """0, 1, ..., size - 1."""

    size: Dim
    dtype: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 0)
        return (TensorType(self.dtype, (self.size,)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.arange(*static(self, (self.size,))).astype(DTYPES[self.dtype].numpy),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        axes = output_axes(out)
        return Compute(out, axes, cast(axes[0], self.dtype))
