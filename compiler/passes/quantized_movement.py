"""What moves elements, or picks the largest, does so on the integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...ir.graph import Node, Value
from ...ir.ops.base import Op
from ...ir.ops.image import Resize
from ...ir.ops.movement import Broadcast, Concat, Gather, GatherElements, GatherND, Pad, Reshape, Slice, Transpose
from ...ir.ops.reduce import Reduce
from ...ir.ops.window import Pool
from .quantized_replay import Replay, Rule, one
from .quantized_values import Affine, Attended, Centred, Integers, Joined, Linear, Record, Sums, Weights, as_number, moved

_MOVABLE = (Integers, Centred, Affine)


def _movement(s: Replay, op: Op, node: Node) -> Record | None:
    """Element by element the same, in other places."""
    r = s.record(node.inputs[0])
    if isinstance(r, Weights):
        return _moved_weights(r, op, node)
    if isinstance(r, Attended):
        return replace(r, views=(*r.views, op)) if isinstance(op, (Reshape, Transpose)) else None
    if not isinstance(r, _MOVABLE):
        return None
    return s.moved(r, s.b.add(op, r.stored, *(s.value(v) for v in node.inputs[1:])))


def _resize(s: Replay, op: Resize, node: Node) -> Record | None:
    """The nearest element, if none lies outside."""
    return _movement(s, op, node) if op.mode == "nearest" and not op.roi else None


def _moved_weights(r: Weights, op: Op, node: Node) -> Weights | None:
    if isinstance(op, Transpose):
        return Weights(np.transpose(r.integers, op.perm), np.transpose(r.scale, op.perm))
    if isinstance(op, Reshape) and r.scale.size == 1:
        shape = node.outputs[0].type.static_shape
        return Weights(r.integers.reshape(shape), r.scale.reshape((1,) * len(shape)))
    return None


def _largest(s: Replay, op: Pool | Reduce, node: Node) -> Record | None:
    """The largest float has the largest integer, as scales are positive."""
    r = s.record(node.inputs[0])
    if op.fn != "max" or not isinstance(r, _MOVABLE):
        return None
    if isinstance(r, Affine) and not isinstance(r.scale, Value) and r.scale <= 0:
        return None
    return s.moved(r, s.b.add(op, r.stored))


def _concat(s: Replay, op: Concat, node: Node) -> Record | None:
    parts = [s.record(v) for v in node.inputs]
    first = parts[0]
    same = isinstance(first, _MOVABLE) and all(
        isinstance(p, _MOVABLE) and _meaning(p) == _meaning(first) for p in parts
    )
    if same:
        return s.moved(first, s.b.add(op, *(p.stored for p in parts)), *parts)  # type: ignore[arg-type, union-attr]
    quantized = any(isinstance(p, (Affine, Sums, Linear, Joined)) for p in parts)
    return Joined(op.axis, tuple(parts)) if quantized else None


def _meaning(r: Integers | Centred | Affine) -> tuple[object, ...]:
    parameters = {k: v for k, v in vars(r).items() if k != "stored"}
    return (type(r), r.stored.type.dtype, *parameters.values())


def _pad(s: Replay, op: Pad, node: Node) -> Record | None:
    r = s.record(node.inputs[0])
    if not isinstance(r, _MOVABLE):
        return None
    if op.mode != "constant":
        return s.moved(r, s.b.add(op, r.stored, as_number(s.b, 0, r.stored.type.dtype)))
    value = one(s.array(node.inputs[1]))
    if value is None or (not isinstance(r, Integers) and value != 0):
        return None
    number = int(value) + r.shift if isinstance(r, Integers) else r.zero
    made = moved(r, s.b.add(op, r.stored, as_number(s.b, number, r.stored.type.dtype)))
    if not isinstance(number, Value) and isinstance(made, _MOVABLE):
        low, high = s.range(r.stored)
        s.ranges[made.stored] = (min(low, number), max(high, number))
    return made


MOVEMENT_RULES: Mapping[type[Op], Rule] = {
    Resize: _resize, Pool: _largest, Reduce: _largest, Concat: _concat, Pad: _pad,
    **dict.fromkeys((Reshape, Transpose, Slice, Broadcast, Gather, GatherElements, GatherND), _movement),
}
