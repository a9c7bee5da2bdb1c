"""What a node costs: multiply-accumulates and bytes, for reports and summaries."""

from __future__ import annotations

import math

from ..ir.graph import Node
from ..ir.ops.block_product import BlockMatMul
from ..ir.ops.contract import Conv, ConvTranspose, MatMul
from ..ir.ops.control import Fused
from ..ir.ops.norm import Attention
from ..ir.ops.recurrent import Gru, Lstm, Rnn
from .program import Cost


def macs_of(node: Node) -> int:
    """Multiply-accumulates of products; other operators count none."""
    op = node.op
    if isinstance(op, Fused):
        return sum(macs_of(n) for n in op.body.nodes)
    shapes = [v.type.static_shape for v in node.inputs]
    out = math.prod(node.outputs[0].type.static_shape)
    if isinstance(op, MatMul):
        return out * shapes[0][-1]
    if isinstance(op, BlockMatMul):
        return out * shapes[0][-1]
    if isinstance(op, Conv):
        return out * math.prod(shapes[1][:-1])
    if isinstance(op, ConvTranspose):
        return math.prod(shapes[0]) * math.prod(shapes[1][:-1])
    if isinstance(op, Attention):
        return math.prod(shapes[0]) * shapes[1][2] + out * shapes[1][2]
    if isinstance(op, (Lstm, Gru, Rnn)):
        steps, batch = shapes[0][:2]
        return steps * batch * math.prod(shapes[1])
    return 0


def cost_of(node: Node) -> Cost:
    read = sum(v.type.nbytes for v in dict.fromkeys(node.inputs))
    return Cost(macs_of(node), read, sum(v.type.nbytes for v in node.outputs))
