"""Replace operators that are defined by other operators with their definition.

    Softmax[1](x)   ->   m = Reduce[max, 1](x); e = exp(x - m); e / Reduce[sum, 1](e)

A target names the operators that it implements as they are; everything else ends as operators with loops.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.base import Op, form_of
from ...ir.types import TensorType

MAX_ROUNDS = 16  # definitions are a few levels deep

Native = Callable[[Op, tuple[TensorType, ...]], bool]


def nothing_native(op: Op, types: tuple[TensorType, ...]) -> bool:
    return False


def expand_composites(graph: Graph, *, native: Native = nothing_native) -> Graph:
    """native(op, operand types): whether the target implements this operator as it is.  Run `fold_constants` afterwards:
    definitions compute on weights."""
    for _ in range(MAX_ROUNDS):
        if not any(_expands(node, native) for node in graph.nodes):
            break
        graph = rewrite_graph(graph, lambda b, node, inputs: _rule(b, node, inputs, native))
    return graph


def _expands(node: Node, native: Native) -> bool:
    return form_of(node.op) == "expand" and not native(node.op, tuple(v.type for v in node.inputs))


def _rule(b: Builder, node: Node, inputs: tuple[Value, ...], native: Native) -> tuple[Value, ...] | None:
    return node.op.expand(b, *inputs) if _expands(node, native) else None
