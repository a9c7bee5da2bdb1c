"""What a node costs: multiply-accumulates and bytes, for reports and summaries."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir.expr import Var
from ..ir.graph import Node, Value
from ..ir.ops.block_product import BlockMatMul
from ..ir.ops.contract import Conv, ConvTranspose, MatMul
from ..ir.ops.control import Fused
from ..ir.ops.norm import Attention
from ..ir.ops.quantized_attention import QuantizedAttention
from ..ir.ops.recurrent import Gru, Lstm, Rnn
from .program import Cost
from .sizing import bytes_of, evaluate


def macs_of(node: Node, sizes: Mapping[Var, int] | None = None) -> int:
    """Multiply-accumulates of products, at these sizes of symbolic dimensions; other operators count none."""
    op = node.op
    if isinstance(op, Fused):
        return sum(macs_of(n, sizes) for n in op.body.nodes)

    def shape(v: Value) -> tuple[int, ...]:
        return tuple(evaluate(d, sizes or {}) for d in v.type.shape)

    if not isinstance(op, (MatMul, BlockMatMul, Conv, ConvTranspose, Attention, QuantizedAttention, Lstm, Gru, Rnn)):
        return 0
    shapes = [shape(v) for v in node.inputs]
    out = math.prod(shape(node.outputs[0]))
    if isinstance(op, MatMul):
        return out * shapes[0][-1]
    if isinstance(op, BlockMatMul):
        return out * shapes[0][-1]
    if isinstance(op, Conv):
        return out * math.prod(shapes[1][:-1])
    if isinstance(op, ConvTranspose):
        return math.prod(shapes[0]) * math.prod(shapes[1][:-1])
    if isinstance(op, (Attention, QuantizedAttention)):
        return math.prod(shapes[0]) * shapes[1][2] + out * shapes[1][2]
    if isinstance(op, (Lstm, Gru, Rnn)):
        steps, batch = shapes[0][:2]
        return steps * batch * math.prod(shapes[1])
    return 0


def cost_of(node: Node, sizes: Mapping[Var, int] | None = None) -> Cost:
    """What a node costs, at these sizes of symbolic dimensions."""
    read, written = (
        sum(evaluate(bytes_of(v.type), sizes or {}) for v in dict.fromkeys(values)) for values in (node.inputs, node.outputs)
    )
    return Cost(macs_of(node, sizes), read, written)
