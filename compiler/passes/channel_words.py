"""Fill the channels of an image up to whole words of four bytes where its bytes are made.

    Pad[.., channels by 1 and a border](Transpose(Saturate(x)))   ->   Pad[a border](Pad[channels by 1](Transpose(Saturate(x))))

Products of bytes add four neighbours at once, so three channels become four.  As part of the border the fourth one would be
stored byte by byte, and the three beside it as well; the inner Pad is computed with the bytes (`codegen.views.is_view`), which
then are stored as words.
"""

from __future__ import annotations

from dataclasses import replace

from ...codegen.views import fills_words
from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.movement import Pad


def channel_words(graph: Graph) -> Graph:
    return rewrite_graph(graph, _rule)


def _rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    op = node.op
    if not isinstance(op, Pad) or op.mode != "constant" or not (any(op.before) or any(op.after[:-1])):
        return None
    none = (0,) * (len(op.after) - 1)
    inner = Pad((*none, 0), (*none, op.after[-1]), "constant")
    if not fills_words(b, inner, inputs):
        return None
    return b.add(replace(op, after=(*op.after[:-1], 0)), b.add(inner, *inputs), inputs[1])
