"""The rules of `simplify` for operators that move elements.

    Reshape(Reshape(x)), Transpose(Transpose(x)), Slice(Slice(x)), Pad(Pad(x))  ->  one of each
    Gather(x, 3)  ->  Reshape(Slice[3:4](x))             GatherND(x, all indices in order)  ->  Reshape(x)
    Concat(Slice[0:2](x), Slice[2:5](x), y)  ->  Concat(Slice[0:5](x), y)
    Slice[0:2](Concat(x: [2], y))  ->  x                 MatMul(Reshape(x), w)  ->  Reshape(MatMul(x, w))

Slices, reshapes and concatenations are free or cheap views in the lowering; gathers are not.  Rules are called as those
of `simplify_arithmetic`.
"""

from __future__ import annotations

import numpy as np

from ...ir.dims import add_dims, as_dim
from ...ir.graph import Builder, Value
from ...ir.ops.contract import MatMul
from ...ir.ops.movement import Broadcast, Concat, Gather, GatherND, Pad, Reshape, Slice, Transpose, wrap_indices
from ...ir.ops.reduce import Reduce
from ...ir.types import Dim, TensorType
from .layout import broadcast, moves, reshape, transpose
from .matching import kept_axes, made_by
from .reshape_layout import plan_unmerged
from .simplify_arithmetic import Operands


def normal_reshape(b: Builder, op: Reshape, inputs: Operands, out: TensorType) -> Value | None:
    (x,) = inputs
    return reshape(b, x, op.shape) if x.type.shape == op.shape or made_by(b, x, Reshape) else None


def unmerge(b: Builder, op: Reshape, inputs: Operands, out: TensorType) -> Value | None:
    """Reshape(Transpose(Reshape(x))) where axes are merged, moved together, and split again."""
    moved = made_by(b, inputs[0], Transpose)
    merged = made_by(b, moved[1][0], Reshape) if moved else None
    if moved is None or merged is None:
        return None
    (x,) = merged[1]
    perm = plan_unmerged(x.type.shape, merged[0].shape, moved[0].perm, op.shape)
    return None if perm is None else reshape(b, transpose(b, x, perm), op.shape)


def normal_transpose(b: Builder, op: Transpose, inputs: Operands, out: TensorType) -> Value | None:
    (x,) = inputs
    return transpose(b, x, op.perm) if not moves(x.type.shape, op.perm) or made_by(b, x, Transpose) else None


def normal_broadcast(b: Builder, op: Broadcast, inputs: Operands, out: TensorType) -> Value | None:
    (x,) = inputs
    inner = made_by(b, x, Broadcast)
    if inner is not None:
        return broadcast(b, inner[1][0], op.shape)
    missing = out.rank - x.type.rank
    return broadcast(b, x, op.shape) if (1,) * missing + x.type.shape == op.shape else None


# ---- Slice -------------------------------------------------------------------------------------------------------


def whole_slice(b: Builder, op: Slice, inputs: Operands, out: TensorType) -> Value | None:
    (x,) = inputs
    rows = zip(op.starts, op.sizes, op.steps, x.type.shape, strict=True)
    return x if all(start == 0 and step == 1 and size == n for start, size, step, n in rows) else None


def slice_of_slice(b: Builder, op: Slice, inputs: Operands, out: TensorType) -> Value | None:
    made = made_by(b, inputs[0], Slice)
    if made is None:
        return None
    inner, (x,) = made
    starts = tuple(as_dim(s + t * k) for s, k, t in zip(inner.starts, inner.steps, op.starts, strict=True))
    steps = tuple(k * m for k, m in zip(inner.steps, op.steps, strict=True))
    return b.add(Slice(starts, op.sizes, steps), x)


def slice_of_concat(b: Builder, op: Slice, inputs: Operands, out: TensorType) -> Value | None:
    """A Slice that lies in one part of a Concat is a Slice of that part."""
    made = made_by(b, inputs[0], Concat)
    if made is None:
        return None
    axis, parts = made[0].axis, made[1]
    start, size, step = op.starts[axis], op.sizes[axis], op.steps[axis]
    if not isinstance(start, int) or not isinstance(size, int) or size == 0:
        return None
    first, last = sorted((start, start + (size - 1) * step))
    offset = 0
    for part in parts:
        extent = part.type.shape[axis]
        if not isinstance(extent, int):
            return None
        if offset <= first and last < offset + extent:
            return b.add(Slice(_with(op.starts, axis, start - offset), op.sizes, op.steps), part)
        offset += extent
    return None


def _with(dims: tuple[Dim, ...], axis: int, d: Dim) -> tuple[Dim, ...]:
    return (*dims[:axis], d, *dims[axis + 1 :])


# ---- Concat and Pad ----------------------------------------------------------------------------------------------


def merge_parts(b: Builder, op: Concat, inputs: Operands, out: TensorType) -> Value | None:
    """Empty parts are dropped, neighbouring Slices of one value are joined, a single part is itself."""
    parts: list[Value] = []
    for v in inputs:
        joined = _joined(b, parts[-1], v, op.axis) if parts else None
        if joined is not None:
            parts[-1] = joined
        elif v.type.shape[op.axis] != 0:
            parts.append(v)
    if len(parts) < 2:
        return parts[0] if parts else inputs[0]
    return b.add(op, *parts) if len(parts) < len(inputs) else None


def _joined(b: Builder, left: Value, right: Value, axis: int) -> Value | None:
    m, n = made_by(b, left, Slice), made_by(b, right, Slice)
    if m is None or n is None or m[1] != n[1]:
        return None
    first, second = m[0], n[0]
    step, size = first.steps[axis], first.sizes[axis]
    after = as_dim(first.starts[axis] + size * step)
    if second != Slice(_with(first.starts, axis, after), _with(first.sizes, axis, second.sizes[axis]), first.steps):
        return None
    both = as_dim(size + second.sizes[axis])
    return b.add(Slice(first.starts, _with(first.sizes, axis, both), first.steps), *m[1])


def merge_pads(b: Builder, op: Pad, inputs: Operands, out: TensorType) -> Value | None:
    """Pad by nothing, and Pad of Pad with the same constant."""
    if all(p == 0 for p in (*op.before, *op.after)):
        return inputs[0]
    made = made_by(b, inputs[0], Pad)
    if made is None or op.mode != "constant" or made[0].mode != "constant" or made[1][1] is not inputs[1]:
        return None
    before = tuple(add_dims(p) for p in zip(op.before, made[0].before, strict=True))
    after = tuple(add_dims(p) for p in zip(op.after, made[0].after, strict=True))
    return b.add(Pad(before, after, "constant"), *made[1])


# ---- Gather ------------------------------------------------------------------------------------------------------


def gather_to_slice(b: Builder, op: Gather, inputs: Operands, out: TensorType) -> Value | None:
    """Constant indices that are one number, or numbers at equal distances."""
    x, indices = inputs
    extent, array = x.type.shape[op.axis], b.constants.get(indices)
    if array is None or not isinstance(extent, int) or array.size == 0:
        return None
    at = wrap_indices(array, extent).ravel()
    step = int(at[1] - at[0]) if at.size > 1 else 1
    if step == 0 or np.any(np.diff(at) != step):
        return None
    starts = _with((0,) * x.type.rank, op.axis, int(at[0]))
    steps = (1,) * op.axis + (step,) + (1,) * (x.type.rank - op.axis - 1)
    piece = b.add(Slice(starts, _with(x.type.shape, op.axis, at.size), steps), x)
    return reshape(b, piece, out.shape)


def gather_everything(b: Builder, op: GatherND, inputs: Operands, out: TensorType) -> Value | None:
    """GatherND with constant indices that name every element in order."""
    x, indices = inputs
    array = b.constants.get(indices)
    if array is None or op.batch_dims or not x.type.is_static:
        return None
    leading = x.type.static_shape[: array.shape[-1]]
    count = int(np.prod(leading))
    if not leading or count == 0 or array.size != count * len(leading):
        return None
    at = [wrap_indices(array[..., j], n).ravel() for j, n in enumerate(leading)]
    if not np.array_equal(np.ravel_multi_index(at, leading), np.arange(count)):
        return None
    return reshape(b, x, out.shape)


# ---- reductions and products -------------------------------------------------------------------------------------


def reduce_nothing(b: Builder, op: Reduce, inputs: Operands, out: TensorType) -> Value | None:
    """A reduction over axes of size 1.  Maxima and minima are left alone: they skip NaN."""
    (x,) = inputs
    if op.fn not in ("sum", "mean", "prod") or not all(x.type.shape[a] == 1 for a in op.axes):
        return None
    return reshape(b, x, out.shape)


def sink_reshape_below_product(b: Builder, op: MatMul, inputs: Operands, out: TensorType) -> Value | None:
    """MatMul(Reshape(x), w: [K, N]): the leading axes only count rows."""
    rows, w = inputs
    made = made_by(b, rows, Reshape)
    if made is None or w.type.rank != 2:
        return None
    (x,) = made[1]
    if x.type.rank < 2 or not kept_axes(x.type.shape, rows.type.shape):
        return None
    return reshape(b, b.add(op, x, w), out.shape)


VIEW_RULES = {
    Reshape: (normal_reshape, unmerge),
    Transpose: (normal_transpose,),
    Broadcast: (normal_broadcast,),
    Slice: (whole_slice, slice_of_slice, slice_of_concat),
    Concat: (merge_parts,),
    Pad: (merge_pads,),
    Gather: (gather_to_slice,),
    GatherND: (gather_everything,),
    Reduce: (reduce_nothing,),
    MatMul: (sink_reshape_below_product,),
}
