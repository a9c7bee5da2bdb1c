"""Operators that write elements at positions read from data: a copy, a barrier, then the updates.

Updates of one position are applied in the order of the indices, on every target: the loops are shared out over rows
that cannot meet.  A negative index counts from the end; an update whose index is outside of the data is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..dims import multiply_dims, split_index
from ..expr import Expr, all_of, as_expr, binary, cast, const, load, select
from ..kernel import Barrier, Block, Buffer, For, If, Kernel, axis, nest, store
from ..types import DTYPES, Dim, TensorType
from .arithmetic import arithmetic_dtype, widen
from .base import Op
from .elementwise import BINARY
from .operands import require, require_axis, require_count, require_index

REDUCTIONS = ("none", "add", "mul", "min", "max")


def _require_reduction(op: ScatterElements | ScatterND, types: Sequence[TensorType]) -> None:
    require_count(op, types, 3)
    data, indices, updates = types
    require(op.reduction in REDUCTIONS, op, "unknown reduction {!r}, expected one of {}", op.reduction, REDUCTIONS)
    require_index(op, "indices", indices)
    require(data.dtype == updates.dtype, op, "data {} and updates {} differ in element type", data, updates)
    require(op.reduction == "none" or data.dtype != "bool", op, "cannot {} bools", op.reduction)


def _combine(reduction: str, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    if reduction == "none":
        return new
    with np.errstate(all="ignore"):
        return BINARY[reduction].numpy(widen(old), widen(new)).astype(old.dtype)


def _update(reduction: str, out: Buffer, index: Sequence[Expr], new: Expr) -> Block:
    """One update of an element in place."""
    if reduction != "none":
        wide = arithmetic_dtype(out.dtype)
        new = BINARY[reduction].expr(cast(load(out, *index), wide), cast(new, wide))
    return (store(out, tuple(index), cast(new, out.dtype)),)


def _position(indices: Buffer, at: Sequence[Expr], extent: Dim) -> tuple[Expr, Expr]:
    """An index read from data, and whether it lies in 0..extent-1."""
    i = cast(load(indices, *at), "i64")
    if DTYPES[indices.dtype].kind == "i":
        i = select(binary("lt", i, 0), i + as_expr(extent), i)
    return i, binary("and", binary("le", 0, i), binary("lt", i, as_expr(extent)))


def _copy(out: Buffer, data: Buffer) -> Block:
    flat = axis("copied", multiply_dims(out.shape))
    index = split_index(out.shape, flat)
    return (For(flat, (store(out, tuple(index), load(data, *index)),), "parallel"), Barrier("pool"))


@dataclass(frozen=True)
class ScatterElements(Op):
    """data, indices and updates of one rank: out[indices[i, j, k], j, k] = updates[i, j, k] for axis 0, or combined
    with what is there; the rest of out is data."""

    axis: int
    reduction: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _require_reduction(self, types)
        data, indices, updates = types
        require_axis(self, self.axis, data)
        require(indices.shape == updates.shape, self, "indices {} and updates {} differ in shape", indices, updates)
        require(indices.rank == data.rank, self, "indices {} must have the rank of {}", indices, data)
        for d, (n, m) in enumerate(zip(data.shape, indices.shape, strict=True)):
            larger = d != self.axis and isinstance(n, int) and isinstance(m, int) and m > n
            require(not larger, self, "indices {} are larger than {} in dimension {}", indices, data, d)
        return (data,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        data, indices, updates = arrays
        out = data.copy()
        rows = np.moveaxis(out, self.axis, 0)
        extent = data.shape[self.axis]
        here = [np.asarray(h) for h in np.indices(np.moveaxis(indices, self.axis, 0).shape[1:])]
        for i, new in zip(np.moveaxis(indices, self.axis, 0), np.moveaxis(updates, self.axis, 0), strict=True):
            i = np.where(i < 0, i + extent, i).astype(np.int64)
            inside = (i >= 0) & (i < extent)
            at = (i[inside], *(h[inside] for h in here))
            rows[at] = _combine(self.reduction, rows[at], new[inside])
        return (out,)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        """Parallel over everything but the axis: rows along the axis do not meet."""
        (out,), (data, indices, updates) = outs, ins
        others = [n for d, n in enumerate(indices.shape) if d != self.axis]
        row = axis("row", multiply_dims(others))
        along = axis("along", indices.shape[self.axis])
        here = split_index(others, row)
        at = [*here[: self.axis], along, *here[self.axis :]]
        i, inside = _position(indices, at, data.shape[self.axis])
        target = [i if d == self.axis else e for d, e in enumerate(at)]
        update = If(inside, _update(self.reduction, out, target, load(updates, *at)))
        body = (*_copy(out, data), For(row, (For(along, (update,)),), "parallel"))
        return Kernel("scatter_elements", (*outs, *ins), body)


@dataclass(frozen=True)
class ScatterND(Op):
    """data, indices [*rows, k], updates [*rows, *data.shape[k:]]: out[indices[row]] = updates[row], or combined with
    what is there; the rest of out is data."""

    reduction: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _require_reduction(self, types)
        data, indices, updates = types
        require(indices.rank >= 1, self, "indices must have at least one dimension, got {}", indices)
        k = indices.shape[-1]
        require(isinstance(k, int) and k <= data.rank, self, "indices {} do not fit {}", indices, data)
        wanted = TensorType(data.dtype, (*indices.shape[:-1], *data.shape[k:]))  # type: ignore[misc]
        require(updates == wanted, self, "expected updates {}, got {}", wanted, updates)
        return (data,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        data, indices, updates = arrays
        out = data.copy()
        sizes = data.shape[: indices.shape[-1]]
        for row in np.ndindex(*indices.shape[:-1]):
            at = tuple(int(i) + n * (i < 0) for i, n in zip(indices[row], sizes, strict=True))
            if all(0 <= i < n for i, n in zip(at, sizes, strict=True)):
                out[at] = _combine(self.reduction, out[at], updates[row])
        return (out,)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        """Parallel over the elements of a slice: rows may meet, elements of one slice do not."""
        (out,), (data, indices, updates) = outs, ins
        k = int(indices.shape[-1])  # type: ignore[arg-type]
        rows = tuple(axis(f"row{n}", d) for n, d in enumerate(indices.shape[:-1]))
        element = axis("element", multiply_dims(data.shape[k:]))
        rest = split_index(data.shape[k:], element)
        found = [_position(indices, (*rows, const(j)), data.shape[j]) for j in range(k)]
        update = _update(self.reduction, out, [i for i, _ in found] + rest, load(updates, *rows, *rest))
        guarded = If(all_of(inside for _, inside in found), update)
        body = (*_copy(out, data), For(element, nest(rows, (guarded,)), "parallel"))
        return Kernel("scatter_nd", (*outs, *ins), body)
