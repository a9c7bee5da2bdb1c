"""Give convolutions and pools their border as data.

    Conv[pads = 1](x, w)      ->  Conv[pads = 0](Pad[1](x, 0), w)
    Pool[max, pads = 1](x)    ->  Pool[max, pads = 0](Pad[1](x, -inf))

Why: kernels without conditions at the border; the lowering lets the producer of x write into the inside of the padded
buffer, so the Pad costs its border only.  An average pool that does not count its padding keeps its pads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...ir.compute import identity
from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.contract import Conv
from ...ir.ops.movement import Pad
from ...ir.ops.window import Pool
from ...ir.types import DTYPES
from .matching import made_by


def explicit_padding(graph: Graph) -> Graph:
    """Equal pads of one value are shared; a Pad of a Pad with the same constant becomes one."""
    return rewrite_graph(graph, _rule)


def _rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    op, x = node.op, inputs[0] if inputs else None
    if not isinstance(op, (Conv, Pool)) or x is None or not any(op.pads):
        return None
    if isinstance(op, Pool) and op.fn == "avg" and not op.count_include_pad:
        return None
    border = identity("max", x.type.dtype) if isinstance(op, Pool) and op.fn == "max" else 0
    rank = len(op.pads) // 2
    padded = _padded(b, x, op.pads[:rank], op.pads[rank:], border)
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
