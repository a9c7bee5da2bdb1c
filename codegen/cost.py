"""What a node costs: multiply-accumulates and bytes, for reports and summaries."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.dims import add_dims, multiply_dims, normal_dim
from ..ir.expr import Var
from ..ir.graph import Node
from ..ir.ops.block_product import BlockMatMul
from ..ir.ops.contract import Conv, ConvTranspose, MatMul
from ..ir.ops.control import Fused
from ..ir.ops.norm import Attention
from ..ir.ops.quantized_attention import QuantizedAttention
from ..ir.ops.recurrent import Gru, Lstm, Rnn
from ..ir.types import Dim
from .program import Cost
from .sizing import bytes_of, evaluate


def macs_of(node: Node) -> Dim:
    """Multiply-accumulates of products; other operators count none."""
    op = node.op
    if isinstance(op, Fused):
        return add_dims(macs_of(n) for n in op.body.nodes)
    if not isinstance(op, (MatMul, BlockMatMul, Conv, ConvTranspose, Attention, QuantizedAttention, Lstm, Gru, Rnn)):
        return 0
    shapes = [v.type.shape for v in node.inputs]
    out = node.outputs[0].type.shape
    if isinstance(op, (MatMul, BlockMatMul)):
        return multiply_dims((*out, shapes[0][-1]))
    if isinstance(op, Conv):
        return multiply_dims((*out, *shapes[1][:-1]))
    if isinstance(op, ConvTranspose):
        return multiply_dims((*shapes[0], *shapes[1][:-1]))
    if isinstance(op, (Attention, QuantizedAttention)):
        return add_dims(multiply_dims((*x, shapes[1][2])) for x in (shapes[0], out))
    return multiply_dims((*shapes[0][:2], *shapes[1]))


def cost_of(node: Node, typical: Mapping[Var, int]) -> Cost:
    """What a node costs.  typical: sizes of symbolic dimensions."""
    read, written = (
        add_dims(bytes_of(v.type) for v in dict.fromkeys(values)) for values in (node.inputs, node.outputs)
    )
    return cost_at(macs_of(node), read, written, typical)


def cost_at(macs: Dim, read: Dim, written: Dim, typical: Mapping[Var, int]) -> Cost:
    """A cost that may depend on symbolic dimensions."""
    dims = normal_dim(macs), normal_dim(read), normal_dim(written)
    numbers = [evaluate(d, typical) for d in dims]
    by_size = None if all(isinstance(d, int) for d in dims) else dims
    return Cost(numbers[0], numbers[1], numbers[2], by_size=by_size)
