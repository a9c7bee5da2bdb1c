"""Reading and writing at positions: gathers, scatters, selection.  What is selected by data has a symbolic size."""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.expr import Var
from ....ir.graph import Value
from ....ir.ops.data_sized import NonMaxSuppression, NonZero, Unique
from ....ir.ops.movement import GatherElements, GatherND, Iota
from ....ir.ops.scatter import ScatterElements, ScatterND
from ....ir.ops.sort import TopK
from ....ir.types import Dim
from ..builder import OnnxBuilder, normal_axis
from ..symbolic import product
from ..table import Outputs, onnx_op


@onnx_op("Gather", since=1)
def gather(b: OnnxBuilder, x: Value, indices: Value, *, axis: int = 0) -> Outputs:
    return b.gather(x, indices, normal_axis(axis, x.type.rank))


@onnx_op("GatherElements", since=11)
def gather_elements(b: OnnxBuilder, x: Value, indices: Value, *, axis: int = 0) -> Outputs:
    return b.add(GatherElements(normal_axis(axis, x.type.rank)), x, indices)


@onnx_op("GatherND", since=11)
def gather_nd(b: OnnxBuilder, x: Value, indices: Value, *, batch_dims: int = 0) -> Outputs:
    return b.add(GatherND(batch_dims), x, indices)


@onnx_op("Scatter", since=9)
@onnx_op("ScatterElements", since=11)
def scatter_elements(
    b: OnnxBuilder, x: Value, indices: Value, updates: Value, *, axis: int = 0, reduction: str = "none"
) -> Outputs:
    return b.add(ScatterElements(normal_axis(axis, x.type.rank), reduction), x, indices, updates)


@onnx_op("ScatterND", since=11)
def scatter_nd(b: OnnxBuilder, x: Value, indices: Value, updates: Value, *, reduction: str = "none") -> Outputs:
    return b.add(ScatterND(reduction), x, indices, updates)


@onnx_op("TensorScatter", since=24)
def tensor_scatter(
    b: OnnxBuilder, cache: Value, update: Value, starts: Value | None = None, *, axis: int = -2, mode: str = "linear"
) -> Outputs:
    """Writes the update into the cache from a start on, one for each element of the first axis; circular: modulo."""
    at = axis + cache.type.rank if axis < 0 else axis
    if not 1 <= at < cache.type.rank or update.type.rank != cache.type.rank or mode not in ("linear", "circular"):
        raise ModelError(f"axis {axis} and mode {mode!r} do not fit {cache.type} and {update.type}")
    count = update.type.shape[at]
    ones = [1] * cache.type.rank
    steps = b.reshape(b.add(Iota(count, "i64")), [*ones[:at], count, *ones[at + 1 :]])
    if starts is not None:
        first = b.reshape(b.cast(starts, "i64"), (cache.type.shape[0], *ones[1:]))
        steps = b.binary("add", first, steps)
    if mode == "circular":
        steps = b.binary("mod", steps, b.reshape(b.dim_tensor([cache.type.shape[at]]), ()))
    return b.add(ScatterElements(at, "none"), cache, b.broadcast(steps, update.type.shape), update)


@onnx_op("TopK", since=1)
def top_k_by_attribute(b: OnnxBuilder, x: Value, *, k: int, axis: int = -1) -> Outputs:
    return b.add_multi(TopK(normal_axis(axis, x.type.rank), k, True), x)


@onnx_op("TopK", since=10)
def top_k(b: OnnxBuilder, x: Value, k: Value, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Outputs:
    """Sorted in any case: without `sorted` the order is free."""
    if k.type.is_static and k.type.size != 1:
        raise ModelError(f"operand K must be one number, got {k.type}")
    (count,) = b.dims(k, "K")
    return b.add_multi(TopK(normal_axis(axis, x.type.rank), count, bool(largest)), x)


@onnx_op("NonZero", since=9)
def non_zero(b: OnnxBuilder, x: Value) -> Outputs:
    if x in b.constants:
        return b.constant(NonZero(0).evaluate(b.constants[x])[0])
    return b.add(NonZero(_data_sized(b)), x)


@onnx_op("Unique", since=11)
def unique(b: OnnxBuilder, x: Value, *, axis: int | None = None, sorted: int = 1) -> Outputs:
    at = None if axis is None else normal_axis(axis, x.type.rank)
    if x in b.constants:
        return tuple(b.constant(a) for a in Unique(at, bool(sorted), 0).evaluate(b.constants[x]))
    return b.add_multi(Unique(at, bool(sorted), _data_sized(b)), x)


def _data_sized(b: OnnxBuilder) -> Dim:
    return Var.of(b.unique(f"{b.hint}_count"), None)


@onnx_op("NonMaxSuppression", since=10)
def non_max_suppression(
    b: OnnxBuilder, boxes: Value, scores: Value, most: Value | None = None, overlap: Value | None = None,
    threshold: Value | None = None, *, center_point_box: int = 0,
) -> Outputs:  # fmt: skip
    """Without a number of boxes none is kept, without a threshold for scores all are."""
    count = b.scalar(0, "i64") if most is None else b.reshape(most, ())
    limit = b.scalar(0, "f32") if overlap is None else b.reshape(overlap, ())
    least = b.scalar(-np.inf, "f32") if threshold is None else b.reshape(threshold, ())
    return b.add(NonMaxSuppression(bool(center_point_box), _data_sized(b)), boxes, scores, count, limit, least)


@onnx_op("Compress", since=9)
def compress(b: OnnxBuilder, x: Value, condition: Value, *, axis: int | None = None) -> Outputs:
    """What the condition keeps of an axis, of flat x if there is none; the condition may be shorter."""
    if axis is None:
        x, axis = b.reshape(x, (product(x.type.shape),)), 0
    axis = normal_axis(axis, x.type.rank)
    extent = x.type.shape[axis]
    length = condition.type.shape[0] if condition.type.rank == 1 else None
    if length is None or (isinstance(length, int) and isinstance(extent, int) and length > extent):
        raise ModelError(f"the condition {condition.type} is longer than axis {axis} of {x.type}")
    kept = non_zero(b, condition)
    assert isinstance(kept, Value)
    return b.gather(x, b.reshape(kept, kept.type.shape[1:]), axis)


@onnx_op("ReverseSequence", since=10)
def reverse_sequence(
    b: OnnxBuilder, x: Value, lengths: Value, *, batch_axis: int = 1, time_axis: int = 0
) -> Outputs:
    """Of every sequence the first `length` steps are reversed: step t reads length - 1 - t."""
    if sorted((batch_axis, time_axis)) != [0, 1] or x.type.rank < 2:
        raise ModelError(f"attributes 'batch_axis' and 'time_axis' must be 0 and 1, got {batch_axis} and {time_axis}")
    steps, batch = x.type.shape[time_axis], x.type.shape[batch_axis]
    t = b.reshape(b.add(Iota(steps, "i64")), (steps, 1) if time_axis == 0 else (1, steps))
    end = b.reshape(b.cast(lengths, "i64"), (1, batch) if time_axis == 0 else (batch, 1))
    mirrored = b.binary("sub", b.binary("sub", end, 1), t)
    where = b.select(b.binary("lt", t, end), mirrored, t)
    where = b.reshape(where, (*where.type.shape, *[1] * (x.type.rank - 2)))
    return b.add(GatherElements(time_axis), x, b.broadcast(where, x.type.shape))
