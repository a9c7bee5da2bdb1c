"""The table of operators that become processes; elementwise ones are regions (`elementwise`)."""

from __future__ import annotations

from collections.abc import Callable

from ...ir.graph import Node
from ...ir.ops import contract, movement, norm, quantize, recurrent, reduce, window
from ...ir.ops.base import Op
from .cells import attention, recurrent_cell
from .lowering import Lowering
from .moving import broadcast, concat, dequantize, gather, pad, reshape, slice_, transpose
from .products import conv, matmul
from .reductions import normalise, pool, reduction, softmax

HANDLERS: dict[type[Op], Callable[[Lowering, Node], None]] = {
    contract.MatMul: matmul, contract.Conv: conv, window.Pool: pool, reduce.Reduce: reduction, norm.Softmax: softmax,
    norm.LayerNorm: normalise, norm.RmsNorm: normalise, norm.Attention: attention, recurrent.Lstm: recurrent_cell,
    recurrent.Gru: recurrent_cell, recurrent.Rnn: recurrent_cell, movement.Reshape: reshape, movement.Transpose: transpose,
    movement.Slice: slice_, movement.Pad: pad, movement.Gather: gather, movement.Broadcast: broadcast, movement.Concat: concat,
    quantize.Dequantize: dequantize,
}
