"""Replace operators that are defined by other operators with their definition.

    Softmax[1](x)   ->   m = Reduce[max, 1](x); e = exp(x - m); e / Reduce[sum, 1](e)

A target names the operators that it implements as they are; everything else ends as operators with loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.base import Op, form_of
from ...ir.ops.norm import Attention
from ...ir.types import TensorType

MAX_ROUNDS = 16  # definitions are a few levels deep


def _attention_is_static(types: tuple[TensorType, ...]) -> bool:
    """The depths of keys and values and the number of keys are known."""
    return all(isinstance(d, int) for t in types[1:3] for d in t.shape[2:])


# What a target that names an operator native needs of its operands.
CONDITIONS: Mapping[type[Op], Callable[[tuple[TensorType, ...]], bool]] = {Attention: _attention_is_static}


def expand_composites(graph: Graph, *, native: frozenset[type[Op]] = frozenset()) -> Graph:
    """native: operators that stay, where `CONDITIONS` allow it.  Run `fold_constants` afterwards: definitions compute on
    weights."""
    for _ in range(MAX_ROUNDS):
        if not any(_expands(node, native) for node in graph.nodes):
            break
        graph = rewrite_graph(graph, lambda b, node, inputs: _rule(b, node, inputs, native))
    return graph


def _expands(node: Node, native: frozenset[type[Op]]) -> bool:
    kind = type(node.op)
    if form_of(node.op) != "expand":
        return False
    condition = CONDITIONS.get(kind)
    return kind not in native or (condition is not None and not condition(tuple(v.type for v in node.inputs)))


def _rule(b: Builder, node: Node, inputs: tuple[Value, ...], native: frozenset[type[Op]]) -> tuple[Value, ...] | None:
    return node.op.expand(b, *inputs) if _expands(node, native) else None
