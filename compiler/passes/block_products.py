"""Keep narrow weights narrow: products that unpack them in registers, for few rows of floats or rows rounded to bytes.

    MatMul(x, Dequantize(q, scale, zero))                 ->   BlockMatMul(x, words of q, scale, zero)
    MatMul(RoundBlocks(x), Dequantize(q, scale, zero))    ->   BlockMatMul(bytes of x, their scales, their sums, ..)
    MatMul(RoundBlocks(x), w)                             ->   MatMul(x, w)      where the machine has no such product

q is a constant of 2, 4 or 8 bits (the fewest that all of them fit into), with a scale per column, or per column and block
along the reduction.
Weights that would be converted to floats at compile time are read four to seven times faster as they are, which is what
a product with few rows waits for.  With many rows in floats the conversion would be repeated for every tile of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from ...ir.graph import Builder, Graph, Node, Value
from ...ir.ops.block_product import BlockMatMul, pack_columns, pack_words
from ...ir.ops.contract import MatMul
from ...ir.ops.elementwise import Cast
from ...ir.ops.movement import Reshape
from ...ir.ops.quantize import Dequantize, RoundBlocks
from ...ir.types import TensorType
from .expand_composites import Native, nothing_native
from .matching import made_by
from .replay import Replay, replay

FEW_ROWS = 16  # of floats
_SHOWN = 3  # names in a note
PANELS = (64, 32, 16)  # columns that a machine may want


@dataclass(frozen=True, eq=False)
class _Weights:
    """q: u8[K, N].  scales, zeros: f32[K / group, N]; zero: of all, if zeros is None."""

    q: np.ndarray
    bits: int
    group: int
    scales: np.ndarray
    zero: int
    zeros: np.ndarray | None


def block_products(
    graph: Graph, *, native: Native = nothing_native, note: Callable[[str], None] = lambda text: None
) -> Graph:
    """native(op, operand types): whether the target has such a product.  note: is told of weights that become floats for
    want of known sizes."""
    if not any(isinstance(n.op, (Dequantize, RoundBlocks)) for n in graph.nodes):
        return graph
    widened: list[str] = []

    after = replay(graph, lambda s, node: _rule(s, node, native, widened))
    if widened:
        listed = ", ".join(map(repr, widened[:_SHOWN])) + (", .." if len(widened) > _SHOWN else "")
        note(f"narrow weights: those of {len(widened)} products become f32 ({listed}): their rows are of open size; "
             "bind it with --dim or --shape")
    return after


def _rule(s: Replay, node: Node, native: Native, widened: list[str]) -> Value | None:
    """widened: where products are whose rows are of open size, for which there is no narrow product."""
    if not isinstance(node.op, MatMul) or node.op.to or node.outputs[0].type.dtype != "f32":
        return None
    rounded = made_by(s.graph, node.inputs[0], RoundBlocks)
    x = rounded[1][0] if rounded else node.inputs[0]
    weights = _weights(s.graph, node.inputs[1], rounded[0].block if rounded else 0)
    made = None
    if weights is None or _is_quantized(s.graph, x):
        pass  # nothing narrow, or sums of integers
    elif not x.type.is_static:
        widened.append(node.where)
    else:
        made = _product(s.b, _new(s, x), rounded[0] if rounded else None, weights, native)
    if made is None and rounded and weights is not None and x.type.is_static:
        made = _product(s.b, _new(s, x), None, weights, native)  # rounding x was allowed, not asked for
    if made is None and rounded:
        return s.b.add(node.op, _new(s, x), _new(s, node.inputs[1]))
    return made


def _new(s: Replay, v: Value) -> Value:
    """The new value of an old one, a constant too."""
    return s.b.constant(s.graph.constants[v], v.name) if v in s.graph.constants else s.new(v)[0]


def _is_quantized(graph: Graph, x: Value) -> bool:
    """Whether x comes from integers, which `lower_quantization` multiplies."""
    node = graph.producers.get(x)
    while node is not None and isinstance(node.op, (Reshape, Cast)):
        node = graph.producers.get(node.inputs[0])
    return node is not None and isinstance(node.op, Dequantize)


def _weights(graph: Graph, w: Value, block: int) -> _Weights | None:
    """block: that of x, 0 if it is not rounded."""
    cast = made_by(graph, w, Cast)
    found = made_by(graph, cast[1][0] if cast else w, Dequantize)
    if found is None or w.type.dtype != "f32":
        return None
    op, operands = found
    arrays = [graph.constants.get(v) for v in operands]
    if any(a is None for a in arrays) or arrays[0].ndim != 2 or arrays[0].dtype.itemsize != 1:  # type: ignore[union-attr]
        return None
    q, scale, zero = arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else np.zeros_like(arrays[1], arrays[0].dtype)  # type: ignore
    assert q is not None and scale is not None and zero is not None
    depth, columns = q.shape
    if op.block:
        if op.axis % 2 or depth % op.block:
            return None
        group = op.block
    elif scale.ndim == 1 and scale.size > 1 and op.axis % 2 == 0:
        return None  # a scale per row of the weights
    else:
        group = block or depth
    if depth % group:
        return None
    shape = (depth // group, columns)
    if op.block and group != op.block:
        return None
    scales = np.broadcast_to(scale.astype(np.float32), shape)
    zeros = np.broadcast_to(zero.astype(np.int32), shape)
    return _stored(q.astype(np.int32), zeros, scales, group)


def _stored(q: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group: int) -> _Weights:
    """Without sign, in as few bits as they fit into."""
    low, high = int(q.min()), int(q.max())
    bits = next(n for n in (2, 4, 8) if (high < 2**n if low >= 0 else -(2 ** (n - 1)) <= low and high < 2 ** (n - 1)))
    if group % 16 and bits == 2:
        bits = 4
    shift = 2 ** (bits - 1) if low < 0 else 0
    q, zeros = q + shift, zeros + shift
    first = int(zeros.flat[0])
    same = bool((zeros == first).all())
    return _Weights(q.astype(np.uint8), bits, group, scales, first, None if same else zeros.astype(np.float32))


def _product(b: Builder, x: Value, rounded: RoundBlocks | None, w: _Weights, native: Native) -> Value | None:
    rows, columns = prod(x.type.static_shape[:-1]), w.q.shape[1]
    if (rounded is None and rows > FEW_ROWS) or w.group % (32 // w.bits) or not rows:
        return None
    if rounded is not None and rounded.block != w.group:
        return None
    op = BlockMatMul(w.bits, w.group, w.zero, rounded is not None)
    count = x.type.static_shape[-1] // w.group
    panel = next((p for p in PANELS if columns % p == 0 and native(op, _types(op, rows, w, p))), 0)
    if not panel:
        return None
    if rounded is None:
        head = (b.add(Reshape((rows, count * w.group)), x),)
    else:
        whole, scale, sums = rounded.parts(b, b.add(Reshape((rows, count * w.group)), x))
        flat, side = Reshape((rows, count * w.group)), Reshape((rows, count))
        head = (b.add(flat, whole), b.add(side, scale), b.add(side, sums))
    tail = [pack_words(w.q, w.bits, panel), pack_columns(w.scales, panel)]
    tail += [pack_columns(w.zeros, panel)] if w.zeros is not None else []
    y = b.add(op, *head, *map(b.constant, tail))
    return b.add(Reshape((*x.type.shape[:-1], columns)), y)


def _types(op: BlockMatMul, rows: int, w: _Weights, panel: int) -> tuple[TensorType, ...]:
    depth, columns = w.q.shape
    blocks = depth // w.group
    head = [TensorType("i8", (rows, depth)), TensorType("f32", (rows, blocks)), TensorType("i32", (rows, blocks))]
    side = TensorType("f32", (columns // panel, blocks, panel))
    words = TensorType("i32", (columns // panel, depth // op.per_word, panel))
    first = head if op.integers else [TensorType("f32", (rows, depth))]
    return (*first, words, side, *([side] if w.zeros is not None else []))
