"""Push transposes down the graph until they cancel.

    y = Transpose[nhwc](Conv(Transpose[nchw](x)));                x' = Transpose(x)
    z = Transpose[nhwc](Conv(Transpose[nchw](Relu(y) + y)))  ->   y' = Conv(x'); z = Transpose(Conv(Relu(y') + y'))

(nhwc: Transpose[0, 3, 1, 2] of a channels-last result, nchw: Transpose[0, 2, 3, 1] of a channels-first operand.)
The importer wraps every convolution and pool in two transposes.  One replay pulls every Transpose below the operator that
reads it (`sinking`), where it meets the inverse one.  What cannot sink stays in front of the node that needs it.  Why:
each transpose that is left moves a whole tensor through memory.

A replay is kept only if it moves fewer elements than the graph before it.
"""

from __future__ import annotations

from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.contract import MatMul
from ...ir.ops.movement import Reshape, Transpose
from .fold_constants import fold_constants
from .layout import Perm, compose, elements, identity, inverse, moves
from .simplify import simplify
from .sinking import SINKS, Sinking

_MAX_DEMANDS = 4  # different layouts that are remembered for one value


def channels_last(graph: Graph) -> Graph:
    """The graph with transposes cancelled; never with more elements moved by them than before."""
    before = simplify(graph)
    after = simplify(fold_constants(_sink(before)))
    return after if moved_elements(after) < moved_elements(before) else before


def moved_elements(graph: Graph) -> int:
    """How many elements the transposes of a graph move; those of constants do not count."""
    return sum(elements(v.type) for v in transposes(graph))


def transposes(graph: Graph) -> list[Value]:
    """The results of all transposes that move elements at run time."""
    return [
        node.outputs[0]
        for node in graph.nodes
        if isinstance(node.op, Transpose)
        and node.inputs[0] not in graph.constants
        and moves(node.inputs[0].type.shape, node.op.perm)
    ]


def _sink(graph: Graph) -> Graph:
    state = Sinking(_demands(graph), _anchored(graph))

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> Value | None:
        state.b = b
        sink = SINKS.get(type(node.op))
        made = sink(state, node.op, node, inputs) if sink else None
        if made is None:
            state.stay(node, inputs)
        return made

    return rewrite_graph(graph, rule)


def _anchored(graph: Graph) -> frozenset[Value]:
    """Values that are read as they are: by an operator that has one layout, or from outside."""
    found = set(graph.outputs)
    for node in graph.nodes:
        if type(node.op) not in SINKS:
            found.update(node.inputs)
    return frozenset(found)


def _demands(graph: Graph) -> dict[Value, frozenset[Perm]]:
    """The layouts p in which users want each value: as x where the value is Transpose(p)(x).  Operators that keep the
    axes pass on what is wanted of their results; the others say nothing."""
    wanted: dict[Value, set[Perm]] = {v: {identity(v.type.rank)} for v in graph.outputs}
    for node in reversed(graph.nodes):
        for v in node.inputs:
            if v in graph.constants or v.type.rank < 2:
                continue
            new = _wanted_operand(node, v, wanted.get(node.outputs[0], set()))
            mine = wanted.setdefault(v, set())
            mine.update(list(new)[: _MAX_DEMANDS - len(mine)])
    return {v: frozenset(perms) for v, perms in wanted.items()}


def _wanted_operand(node: Node, v: Value, results: set[Perm]) -> list[Perm]:
    rank, out = v.type.rank, node.outputs[0].type
    if isinstance(node.op, Transpose):
        back = inverse(node.op.perm)
        return [compose(p, back) for p in sorted(results or {identity(rank)})]
    if type(node.op) not in SINKS:
        return [identity(rank)]
    if out.rank != rank or isinstance(node.op, Reshape):
        return []
    if isinstance(node.op, MatMul):
        kept = [p for p in sorted(results) if p[-1] == rank - 1 and v is node.inputs[0] and node.inputs[1].type.rank == 2]
        return kept or [identity(rank)]
    return sorted(results)
