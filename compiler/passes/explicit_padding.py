"""Give convolutions and pools their border as data.

    Conv[pads = 1](x, w)      ->  Conv[pads = 0](Pad[1](x, 0), w)
    Pool[max, pads = 1](x)    ->  Pool[max, pads = 0](Pad[1](x, -inf))

    Conv[pads = 1](Transpose(x), w)  ->  Conv[pads = 0](Transpose(Pad[1](x, 0)), w)     for an image in planes, of few channels

Why: kernels without conditions at the border; the lowering lets the producer of x write into the inside of the padded
buffer, so the Pad costs its border only.  An average pool that does not count its padding keeps its pads.  Planes that are
copied into a border need not be transposed: a product reads its left operand element by element, in any order
(`codegen.views.reads_planes`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...codegen.views import reads_planes
from ...ir.compute import identity
from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.contract import Conv
from ...ir.ops.movement import Pad, Transpose
from ...ir.ops.window import Pool
from ...ir.types import DTYPES
from .matching import made_by


def explicit_padding(graph: Graph) -> Graph:
    """Equal pads of one value are shared; a Pad of a Pad with the same constant becomes one."""
    users = graph.users()
    alone = {v for v, found in users.items() if len(found) == 1 and v not in graph.outputs}
    return rewrite_graph(graph, lambda b, node, inputs: _rule(b, node, inputs, bool(node.inputs) and node.inputs[0] in alone))


def _rule(b: Builder, node: Node, inputs: tuple[Value, ...], alone: bool) -> Value | None:
    """alone: nothing else reads the first operand."""
    op, x = node.op, inputs[0] if inputs else None
    if not isinstance(op, (Conv, Pool)) or x is None or not any(op.pads):
        return None
    if isinstance(op, Pool) and op.fn == "avg" and not op.count_include_pad:
        return None
    border = identity("max", x.type.dtype) if isinstance(op, Pool) and op.fn == "max" else 0
    rank = len(op.pads) // 2
    planes = made_by(b, x, Transpose) if alone and isinstance(op, Conv) and reads_planes(op, x.type) else None
    if planes is None:
        padded = _padded(b, x, op.pads[:rank], op.pads[rank:], border)
    else:
        transpose, (image,) = planes
        pads = ((0, *op.pads[:rank], 0), (0, *op.pads[rank:], 0))
        before, after = (tuple(p[transpose.perm.index(d)] for d in range(rank + 2)) for p in pads)
        value = b.constant(np.array(border, DTYPES[x.type.dtype].numpy))
        padded = b.add(transpose, b.add(Pad(before, after, "constant"), image, value))
    return b.add(replace(op, pads=(0,) * (2 * rank)), padded, *inputs[1:])


def _padded(b: Builder, x: Value, before: tuple[int, ...], after: tuple[int, ...], border: Any) -> Value:
    """x[N, *spatial, C] with a border around its spatial dimensions."""
    value = b.constant(np.array(border, DTYPES[x.type.dtype].numpy))
    first, last = (0, *before, 0), (0, *after, 0)
    made = made_by(b, x, Pad)
    if made is not None and made[0].mode == "constant" and made[1][1] is value:
        x = made[1][0]
        first = tuple(m + n for m, n in zip(first, made[0].before, strict=True))  # type: ignore[misc]
        last = tuple(m + n for m, n in zip(last, made[0].after, strict=True))  # type: ignore[misc]
    return b.add(Pad(first, last, "constant"), x, value)
