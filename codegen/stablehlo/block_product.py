"""Products with packed weights: unpacked in front of a batched product, one batch for each block of the reduction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Builder, Value
from ...ir.ops.block_product import BlockMatMul, shifts
from ...ir.ops.contract import MatMul
from ...ir.ops.elementwise import Binary, Bitcast, Cast
from ...ir.ops.movement import Concat, Reshape, Transpose
from ...ir.ops.reduce import Reduce
from .writer import Ref

if TYPE_CHECKING:
    from .emit import Emitter


def block_matmul(e: Emitter, op: BlockMatMul, inputs: tuple[Value, ...]) -> Ref:
    b = Builder(op.name)
    values = [b.input(v.name, v.type) for v in inputs]
    (y,) = e.inline(b.graph((_product(b, op, *values),)), [e.value(v) for v in inputs])
    return y


def _product(b: Builder, op: BlockMatMul, *values: Value) -> Value:
    x, sides, words = values[0], values[1 : 3 if op.integers else 1], values[3 if op.integers else 1]
    scales, *zeros = values[4 if op.integers else 2 :]
    rows, depth = x.type.static_shape
    count = depth // op.group
    panels, _, columns = words.type.static_shape
    width = panels * columns

    def by_block(v: Value) -> Value:
        """[P, G, C] as [G, 1, N]."""
        return b.add(Reshape((count, 1, width)), b.add(Transpose((1, 0, 2)), v))

    def by_row(v: Value) -> Value:
        """f32[M, G] as [G, M, 1]."""
        return b.add(Reshape((count, rows, 1)), b.add(Transpose((1, 0)), b.add(Cast("f32"), v)))

    zero = by_block(zeros[0]) if zeros else b.constant(np.asarray(op.zero, np.float32))
    weights = b.add(Reshape((count, op.group, width)), _unpacked(b, op, words))
    lhs = b.add(Transpose((1, 0, 2)), b.add(Reshape((rows, count, op.group)), x))
    if op.integers:
        dot = b.add(Cast("f32"), b.add(MatMul(), b.add(Cast("i32"), lhs), weights))
        dot = b.add(Binary("sub"), dot, b.add(Binary("mul"), by_row(sides[1]), zero))
        dot = b.add(Binary("mul"), dot, by_row(sides[0]))
    else:
        dot = b.add(MatMul(), lhs, b.add(Binary("sub"), b.add(Cast("f32"), weights), zero))
    return b.add(Reduce("sum", (0,), False), b.add(Binary("mul"), dot, by_block(scales)))


def _unpacked(b: Builder, op: BlockMatMul, words: Value) -> Value:
    """Words i32[P, K / per word, C] as weights i32[K, P * C]."""
    panels, some, columns = words.type.static_shape
    u = b.add(Bitcast("u32"), words)

    def each(shift: int) -> Value:
        moved = b.add(Binary("shr"), u, b.constant(np.asarray(shift, np.uint32)))
        byte = b.add(Binary("bitand"), moved, b.constant(np.asarray(2**op.bits - 1, np.uint32)))
        return b.add(Reshape((panels, some, 1, columns)), b.add(Cast("i32"), byte))

    parts = b.add(Concat(2), *(each(s) for s in shifts(op.bits)))
    return b.add(Reshape((some * op.per_word, panels * columns)), b.add(Transpose((1, 2, 0, 3)), parts))
