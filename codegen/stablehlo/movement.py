"""Operators that move elements: views, joins, borders, and picking by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Value
from ...ir.ops.movement import (
    Broadcast,
    Concat,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Pad,
    Reshape,
    Slice,
    Transpose,
    Trilu,
)
from ...ir.types import DTYPES, TensorType
from .elementwise import Scalars
from .text import i64_array, numbers
from .writer import Ref, Writer

if TYPE_CHECKING:
    from .emit import Emitter


def reshape(e: Emitter, op: Reshape, inputs: tuple[Value, ...]) -> Ref:
    return e.w.reshape(e.value(inputs[0]), e.type_of(op, inputs).static_shape)


def transpose(e: Emitter, op: Transpose, inputs: tuple[Value, ...]) -> Ref:
    return e.w.transpose(e.value(inputs[0]), op.perm)


def slice_(e: Emitter, op: Slice, inputs: tuple[Value, ...]) -> Ref:
    """A negative step is a slice over the same elements, then a reversal."""
    x = e.value(inputs[0])
    out = e.type_of(op, inputs).static_shape
    starts, limits, steps, mirrored = [], [], [], []
    for d, (start, size, step) in enumerate(zip(op.starts, out, op.steps, strict=True)):
        last = int(start) + (size - 1) * step  # type: ignore[call-overload]
        low, high = (0, -1) if size == 0 else sorted((int(start), last))  # type: ignore[call-overload]
        starts.append(low)
        limits.append(high + 1)
        steps.append(abs(step))
        if step < 0 and size > 1:
            mirrored.append(d)
    return e.w.reverse(e.w.slice(x, starts, limits, steps), mirrored)


def concat(e: Emitter, op: Concat, inputs: tuple[Value, ...]) -> Ref:
    return e.w.concatenate([e.value(v) for v in inputs], op.axis)


def broadcast(e: Emitter, op: Broadcast, inputs: tuple[Value, ...]) -> Ref:
    return e.operand(inputs[0], e.type_of(op, inputs).static_shape)


def pad(e: Emitter, op: Pad, inputs: tuple[Value, ...]) -> Ref:
    """Borders that repeat elements of x pick them by index, axis by axis."""
    x = e.value(inputs[0])
    before, after = [int(n) for n in op.before], [int(n) for n in op.after]  # type: ignore[call-overload]
    if op.mode == "constant":
        return e.w.pad(x, e.value(inputs[1]), before, after)
    for d, (b, n, a) in enumerate(zip(before, x.shape, after, strict=True)):
        if a or b:
            positions = np.pad(np.arange(n), (b, a), op.mode)  # type: ignore[call-overload]
            x = take(e.w, x, e.w.constant(positions, "i32"), d)
    return x


def iota(e: Emitter, op: Iota, inputs: tuple[Value, ...]) -> Ref:
    out = e.type_of(op, inputs)
    if op.dtype == "bool":
        return e.w.convert(e.w.iota(out.static_shape, 0, "i32"), "bool")
    return e.w.iota(out.static_shape, 0, op.dtype)


def trilu(e: Emitter, op: Trilu, inputs: tuple[Value, ...]) -> Ref:
    x = e.value(inputs[0])
    w, matrix = e.w, x.shape[-2:]
    diagonal = w.binary("subtract", w.iota(matrix, 1, "i64"), w.iota(matrix, 0, "i64"))
    keep = w.compare("ge" if op.upper else "le", diagonal, e.operand(inputs[1], matrix))
    return w.select(w.broadcast_to(keep, x.shape), x, w.splat(0, x.dtype, x.shape))


def wrapped(e: Emitter, v: Value, extents: Sequence[int]) -> Ref:
    """Indices with those that count from the end made positive.  extents: the size that each index is within, one for
    all or one per element of the last dimension."""
    array = e.constant_of(v)
    sizes = np.array(extents, np.int64)
    if array is not None:
        wide = array.astype(np.int64)
        return e.w.constant(np.where(wide < 0, wide + sizes, wide), "i64")
    index = e.value(v)
    if DTYPES[index.dtype].kind != "i":
        return index
    index = index if index.dtype in ("i32", "i64") else e.w.convert(index, "i32")
    if len(set(extents)) == 1:
        extent = e.w.splat(extents[0], index.dtype, index.shape)
    else:
        extent = e.w.broadcast_to(e.w.constant(sizes, index.dtype), index.shape)
    shifted = e.w.binary("add", index, extent)
    return e.w.select(Scalars(e.w).op("lt", index, 0), shifted, index)


def gather_op(
    w: Writer, x: Ref, index: Ref, out: TensorType, *, offset: Sequence[int], collapsed: Sequence[int],
    mapped: Sequence[int], index_axis: int, sizes: Sequence[int], batch: Sequence[int] = (),
    index_batch: Sequence[int] = (),
) -> Ref:
    """The native gather; an index outside is moved to the border."""
    parts = [f"offset_dims = [{numbers(offset)}]"] if offset else []
    parts += [f"collapsed_slice_dims = [{numbers(collapsed)}]"] if collapsed else []
    if batch:
        parts.append(f"operand_batching_dims = [{numbers(batch)}]")
        parts.append(f"start_indices_batching_dims = [{numbers(index_batch)}]")
    parts += [f"start_index_map = [{numbers(mapped)}]"] if mapped else []
    numbering = ", ".join([*parts, f"index_vector_dim = {index_axis}"])
    attributes = (
        f"dimension_numbers = #stablehlo.gather<{numbering}>, indices_are_sorted = false, "
        f"slice_sizes = {i64_array(sizes)}"
    )
    return w.generic("gather", (x, index), (out,), attributes)[0]


def take(w: Writer, x: Ref, index: Ref, axis: int) -> Ref:
    """Slices of x along an axis; the dimensions of the non-negative index replace it."""
    rank = len(index.shape)
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    offset = [*range(axis), *range(axis + rank, len(shape))]
    sizes = [1 if d == axis else n for d, n in enumerate(x.shape)]
    return gather_op(
        w, x, index, TensorType(x.dtype, shape), offset=offset, collapsed=[axis], mapped=[axis], index_axis=rank,
        sizes=sizes,
    )


def gather(e: Emitter, op: Gather, inputs: tuple[Value, ...]) -> Ref:
    """One constant index is a slice."""
    x = e.value(inputs[0])
    array = e.constant_of(inputs[1])
    if array is not None and array.size == 1:
        start = int(array.reshape(())) % max(1, x.shape[op.axis])
        return e.w.reshape(e.w.slice_axis(x, op.axis, start, start + 1), e.type_of(op, inputs).static_shape)
    if x.shape[op.axis] == 0:
        return e.w.splat(0, x.dtype, e.type_of(op, inputs).static_shape)
    return take(e.w, x, wrapped(e, inputs[1], [x.shape[op.axis]]), op.axis)


def gather_elements(e: Emitter, op: GatherElements, inputs: tuple[Value, ...]) -> Ref:
    """All other axes are batching dimensions."""
    x, shape = e.value(inputs[0]), inputs[1].type.static_shape
    limits = [n if d == op.axis else m for d, (n, m) in enumerate(zip(x.shape, shape, strict=True))]
    x = e.w.slice(x, [0] * len(limits), limits)
    if 0 in shape:
        return e.w.splat(0, x.dtype, shape)
    others = [d for d in range(len(shape)) if d != op.axis]
    return gather_op(
        e.w, x, wrapped(e, inputs[1], [x.shape[op.axis]]), TensorType(x.dtype, shape), offset=[], collapsed=[op.axis],
        mapped=[op.axis], index_axis=len(shape), sizes=[1] * len(shape), batch=others, index_batch=others,
    )


def gather_nd(e: Emitter, op: GatherND, inputs: tuple[Value, ...]) -> Ref:
    x, b = e.value(inputs[0]), op.batch_dims
    rows, k = inputs[1].type.static_shape[:-1], inputs[1].type.static_shape[-1]
    out = e.type_of(op, inputs)
    if k == 0:  # whole slices, repeated for every row
        return e.w.broadcast(x, out.static_shape, [*range(b), *range(len(rows), len(out.shape))])
    if out.size == 0:
        return e.w.splat(0, x.dtype, out.static_shape)
    index = wrapped(e, inputs[1], x.shape[b : b + k])
    sizes = [1 if d < b + k else n for d, n in enumerate(x.shape)]
    return gather_op(
        e.w, x, index, out, offset=range(len(rows), len(out.shape)), collapsed=range(b, b + k), mapped=range(b, b + k),
        index_axis=len(rows), sizes=sizes, batch=range(b), index_batch=range(b),
    )
