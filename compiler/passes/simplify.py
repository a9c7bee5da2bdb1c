"""Replace what costs something by what costs less and means the same.

    y = Reshape(Reshape(x)); z = (y * 1) / 4   ->   z = Reshape(x * 0.25)

The rules stand in tables by operator, in `simplify_arithmetic` and `simplify_views`.  Their normal forms are what the
later passes match: constants on the right, scalars for repeated numbers, Reshape for a Transpose that moves nothing,
Slice for a Gather of neighbours.  Rules run until none applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...ir.graph import Builder, Graph, Node, Result, Value, inline_graph, rewrite_graph
from ...ir.ops.base import Op
from ...ir.ops.control import If
from .matching import uniform
from .simplify_arithmetic import ARITHMETIC_RULES
from .simplify_views import VIEW_RULES

MAX_ROUNDS = 12  # every rule removes work or moves one kind of node in one direction: few rounds suffice

RULES: Mapping[type[Op], tuple[Callable[..., Value | None], ...]] = {**ARITHMETIC_RULES, **VIEW_RULES}


def simplify(graph: Graph, *, max_rounds: int = MAX_ROUNDS) -> Graph:
    """The graph after the rules of all tables, to a fixpoint or for max_rounds rounds."""
    for _ in range(max_rounds):
        graph, applied = _round(graph)
        if not applied:
            break
    return graph


def _round(graph: Graph) -> tuple[Graph, int]:
    """One replay; and how many rules applied."""
    applied = 0

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> Result:
        nonlocal applied
        made: Result = None
        if isinstance(node.op, If):
            made = _decided_branch(b, node.op, inputs)
        for candidate in RULES.get(type(node.op), ()):
            made = candidate(b, node.op, inputs, node.outputs[0].type)
            if made is not None:
                break
        applied += made is not None
        return made

    return rewrite_graph(graph, rule), applied


def _decided_branch(b: Builder, op: If, inputs: tuple[Value, ...]) -> Result:
    """The branch that a constant condition picks, in place of the If."""
    decided = uniform(b, inputs[0])
    return None if decided is None else inline_graph(b, op.then if decided else op.other, *inputs[1:])
