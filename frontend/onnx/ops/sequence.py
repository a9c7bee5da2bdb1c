"""Sequences and optionals: they exist while importing only, so every position and length must be known then."""

from __future__ import annotations

from onnx import TypeProto

from ....ir.dims import add_dims
from ....ir.errors import ModelError
from ....ir.graph import Value
from ..builder import OnnxBuilder, TensorSequence, normal_axis
from ..table import Imported, onnx_op

_LONGEST = 4096  # parts of a split


def _position(b: OnnxBuilder, at: Value, length: int) -> int:
    i = b.integer(at, "position")
    if not -length <= i < length:
        raise ModelError(f"position {i} is outside of a sequence of {length}")
    return i % length


@onnx_op("SequenceEmpty", since=11)
def sequence_empty(b: OnnxBuilder, *, dtype: int = 1) -> Imported:
    return TensorSequence(())


@onnx_op("SequenceConstruct", since=11)
def sequence_construct(b: OnnxBuilder, *xs: Value) -> Imported:
    return TensorSequence(xs)


@onnx_op("SequenceInsert", since=11)
def sequence_insert(b: OnnxBuilder, s: TensorSequence, x: Value, at: Value | None = None) -> Imported:
    n = len(s.items)
    if at is None:
        return TensorSequence((*s.items, x))
    i = b.integer(at, "position")
    if not -n <= i <= n:
        raise ModelError(f"position {i} is outside of a sequence of {n}")
    i = i if i >= 0 else i + n
    return TensorSequence((*s.items[:i], x, *s.items[i:]))


@onnx_op("SequenceErase", since=11)
def sequence_erase(b: OnnxBuilder, s: TensorSequence, at: Value | None = None) -> Imported:
    i = len(s.items) - 1 if at is None else _position(b, at, len(s.items))
    return TensorSequence((*s.items[:i], *s.items[i + 1 :]))


@onnx_op("SequenceAt", since=11)
def sequence_at(b: OnnxBuilder, s: TensorSequence, at: Value) -> Imported:
    return s.items[_position(b, at, len(s.items))]


@onnx_op("SequenceLength", since=11)
def sequence_length(b: OnnxBuilder, s: TensorSequence) -> Imported:
    return b.scalar(len(s.items), "i64")


@onnx_op("SplitToSequence", since=11)
def split_to_sequence(
    b: OnnxBuilder, x: Value, split: Value | None = None, *, axis: int = 0, keepdims: int = 1
) -> Imported:
    """split: one size for all parts (the last may be smaller), or the size of each.  keepdims is for parts of size 1
    that are made without split."""
    axis = normal_axis(axis, x.type.rank)
    extent = x.type.shape[axis]
    sizes = [] if split is None else list(b.dims(split, "split"))
    if split is None or split.type.rank == 0:
        part = sizes[0] if sizes else 1
        if not isinstance(extent, int) or not isinstance(part, int) or part < 1 or extent > part * _LONGEST:
            raise ModelError(f"axis {axis} of {x.type} cannot be split by {part}; bind its size (--shape, --dim)")
        sizes = [min(part, extent - start) for start in range(0, extent, part)]
    total = add_dims(sizes)
    if isinstance(total, int) and isinstance(extent, int) and total != extent:
        raise ModelError(f"sizes {sizes} do not divide axis {axis} of {x.type}")
    parts = [b.slice(x, axis, add_dims(sizes[:i]), n) for i, n in enumerate(sizes)]
    if split is None and not keepdims:
        parts = [b.reshape(p, (*p.type.shape[:axis], *p.type.shape[axis + 1 :])) for p in parts]
    return TensorSequence(tuple(parts))


@onnx_op("ConcatFromSequence", since=11)
def concat_from_sequence(b: OnnxBuilder, s: TensorSequence, *, axis: int, new_axis: int = 0) -> Imported:
    if not s.items:
        raise ModelError("the sequence is empty")
    axis = normal_axis(axis, s.items[0].type.rank + bool(new_axis))
    parts = s.items
    if new_axis:
        parts = tuple(b.reshape(p, (*p.type.shape[:axis], 1, *p.type.shape[axis:])) for p in parts)
    return b.concat(parts, axis)


@onnx_op("Optional", since=15)
def optional(b: OnnxBuilder, x: Imported = None, *, type: TypeProto | None = None) -> Imported:
    return x


@onnx_op("OptionalHasElement", since=15)
def optional_has_element(b: OnnxBuilder, x: Imported = None) -> Imported:
    return b.scalar(x is not None, "bool")


@onnx_op("OptionalGetElement", since=15)
def optional_get_element(b: OnnxBuilder, x: Imported) -> Imported:
    if x is None:
        raise ModelError("the optional is empty")
    return x
