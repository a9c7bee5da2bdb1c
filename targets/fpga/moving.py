"""What moves elements, and where a stream becomes codes: nothing here computes."""

from __future__ import annotations

from math import prod

import numpy as np

from ...codegen.hls.body import BodyBuilder
from ...codegen.hls.elementwise import Map
from ...codegen.hls.fixed import Fixed, holding
from ...codegen.hls.route import Concat, Permute, permutation
from ...codegen.hls.tensor import Tensor
from ...ir.graph import Node
from ...ir.ops import movement, quantize
from .elementwise import unsupported, vector_of
from .lowering import Lowering
from .quantized import SCALE_BITS, Coded, scalar_pair

_EXACT_BORDER = 24  # bits of a stream for the sake of a border


def dequantize(low: Lowering, node: Node) -> None:
    """Codes stay codes; a scale per channel makes fixed-point numbers."""
    op, v = node.op, node.outputs[0]
    assert isinstance(op, quantize.Dequantize)
    t, pair = low.tensor(node.inputs[0]), scalar_pair(node, low.graph.constants)
    if pair is not None:
        low.codes[v] = Coded(t, *pair)
        return
    arrays = [low.constant(x) for x in node.inputs[1:]]
    if any(a is None for a in arrays):
        raise unsupported([node])
    spread = [np.broadcast_to(quantize.spread_array(a, t.shape, op.axis, op.block), t.shape) for a in arrays if a is not None]
    b = BodyBuilder()
    y = b.input(t.type)
    if len(spread) > 1:
        y = b.binary("sub", y, b.constant(*_vector(spread[1], t.shape)))
    values, repeat = vector_of(spread[0], t.shape)
    y = b.binary("mul", y, b.constant(values, SCALE_BITS, repeat))
    result = b.fitted(y, low.types.of(v, y))
    out = Tensor(v.name, t.shape, result.type)
    low.env[v] = low.add(Map(name=low.name("map"), inputs=(t,), outputs=(out,), where=node.where, body=b.body(result)))


def _vector(array: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, int, int]:
    """Whole numbers along the elements, for `BodyBuilder.constant`."""
    values, repeat = vector_of(array, shape)
    return values, 33, repeat


def reshape(low: Lowering, node: Node) -> None:
    shape = node.outputs[0].type.static_shape
    low.move(node.inputs[0], node.outputs[0], lambda t: t.reshaped(shape))


def transpose(low: Lowering, node: Node) -> None:
    low.move(node.inputs[0], node.outputs[0], lambda t: _permuted(low, node, t))


def _permuted(low: Lowering, node: Node, x: Tensor) -> Tensor:
    op = node.op
    assert isinstance(op, movement.Transpose)
    shape = node.outputs[0].type.static_shape
    moved = [d for d in op.perm if x.shape[d] > 1]
    if moved == sorted(moved):
        return x.reshaped(shape)
    outer, block, perm, inner = permutation(x.shape, op.perm)
    return low.add(Permute(
        name=low.name("permute"), inputs=(x,), outputs=(Tensor(node.outputs[0].name, shape, x.type),), where=node.where,
        outer=outer, block=block, perm=perm, inner=inner,
    ))


def slice_(low: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, movement.Slice)
    size = node.outputs[0].type.static_shape

    def cut(t: Tensor) -> Tensor:
        for d, (start, step) in enumerate(zip(op.starts, op.steps, strict=True)):
            index = [int(start) + i * step for i in range(size[d])]  # type: ignore[call-overload]
            t = low.pick(t, d, index, (*t.shape[:d], size[d], *t.shape[d + 1:]), where=node.where)
        return t

    low.move(node.inputs[0], node.outputs[0], cut)


def pad(low: Lowering, node: Node) -> None:
    """A constant border between the codes makes fixed-point numbers of them."""
    op, x, fill = node.op, low.operand(node.inputs[0]), 0
    assert isinstance(op, movement.Pad)
    if op.mode == "constant":
        value = low.constant(node.inputs[1])
        if value is None:
            raise unsupported([node])
        border = float(value.ravel()[0])
        if np.isfinite(border) and border % x.scale:
            t = _finer(low, low.tensor(node.inputs[0]), border, node.where)
            x = Coded(t, 2.0**-t.type.frac, 0)
        fill = x.code(border)

    def extend(t: Tensor) -> Tensor:
        t = low.reaching(t, fill, node.where) if op.mode == "constant" else t
        for d, (before, after) in enumerate(zip(op.before, op.after, strict=True)):
            inside, width = np.arange(t.shape[d]), (int(before), int(after))  # type: ignore[call-overload]
            constant = op.mode == "constant"
            index = np.pad(inside, width, constant_values=-1) if constant else np.pad(inside, width, op.mode)  # type: ignore[call-overload]
            t = low.pick(t, d, index, (*t.shape[:d], len(index), *t.shape[d + 1:]), fill, node.where)
        return t

    if low.codes.get(node.inputs[0]) is x:
        low.move(node.inputs[0], node.outputs[0], extend)
    else:
        low.env[node.outputs[0]] = extend(x.tensor)


def _finer(low: Lowering, t: Tensor, number: float, where: str) -> Tensor:
    """The tensor in units that the number is a multiple of, or else as fine as its bits allow."""
    free = range(max(_EXACT_BORDER - t.type.bits, 0) + 1)
    more = next((n for n in free if not (number * 2.0 ** (t.type.frac + n)) % 1), max(low.bits - t.type.bits, 0))
    type = holding(t.type.low << more, t.type.high << more, t.type.frac + more)
    return retyped(low, t, type, where) if more else t


def gather(low: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, movement.Gather)
    index = low.constant(node.inputs[1])
    if index is None:
        raise unsupported([node])
    count, shape = node.inputs[0].type.static_shape[op.axis], node.outputs[0].type.static_shape
    flat = np.where(index < 0, index + count, index).ravel()
    low.move(node.inputs[0], node.outputs[0], lambda t: low.pick(t, op.axis, flat, shape, where=node.where))


def broadcast(low: Lowering, node: Node) -> None:
    shape = node.outputs[0].type.static_shape
    low.move(node.inputs[0], node.outputs[0], lambda t: low.spread(t, shape, node.where))


def concat(low: Lowering, node: Node) -> None:
    """Operands of other types are rounded to the type of the result first, by maps of their own."""
    op = node.op
    assert isinstance(op, movement.Concat)
    v = node.outputs[0]
    coded = [low.codes.get(x) for x in node.inputs]
    same = {None if c is None else (c.scale, c.zero) for c in coded}
    if len(same) == 1 and coded[0] is not None:
        parts = [c.tensor for c in coded if c is not None]
        type = holding(min(t.type.low for t in parts), max(t.type.high for t in parts))
        low.codes[v] = Coded(_joined(low, node, parts, type), coded[0].scale, coded[0].zero)
        return
    parts = [low.tensor(x) for x in node.inputs]
    type = parts[0].type
    if len({t.type for t in parts}) > 1:
        type = low.types.of(v)
        parts = [retyped(low, t, type, node.where) for t in parts]
        type = holding(min(t.type.low for t in parts), max(t.type.high for t in parts), type.frac)
    low.env[v] = _joined(low, node, parts, type)


def _joined(low: Lowering, node: Node, parts: list[Tensor], type: Fixed) -> Tensor:
    """One tensor after the other along the axis; the type holds all their integers."""
    assert isinstance(node.op, movement.Concat)
    v = node.outputs[0]
    shape = v.type.static_shape
    return low.add(Concat(name=low.name("concat"), inputs=tuple(parts), outputs=(Tensor(v.name, shape, type),),
                          where=node.where, outer=prod(shape[:node.op.axis])))


def retyped(low: Lowering, t: Tensor, type: Fixed, where: str) -> Tensor:
    """The tensor in the units of a type."""
    b = BodyBuilder()
    result = b.round(b.input(t.type), type)
    if result.type == t.type:
        return t
    out = Tensor(t.name, t.shape, result.type)
    return low.add(Map(name=low.name("map"), inputs=(t,), outputs=(out,), where=where, body=b.body(result)))


