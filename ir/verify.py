"""Checks that a graph is well formed.  Runs after every pass: what it finds is a bug of that pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from .errors import InternalError, ModelError
from .graph import Graph, Node, Value
from .ops.base import Op
from .types import TensorType, dtype_of


def verify_graph(graph: Graph, after: str = "") -> None:
    """Raises InternalError that names the pass (after) and the node, and keeps the graph as text, unless every value is
    defined once and before its uses, constants and results have the types that they claim, outputs have unique names,
    and the graphs inside operators are well formed too."""
    problem = next(_problems(graph), None)
    if problem:
        raise InternalError(f"{f'after {after}: ' if after else ''}graph {graph.name}: {problem}", str(graph))


def subgraphs(op: Op) -> Iterator[Graph]:
    """The graphs among an operator's fields."""
    for f in fields(op):  # type: ignore[arg-type]
        value = getattr(op, f.name)
        if isinstance(value, Graph):
            yield value


def _problems(graph: Graph) -> Iterator[str]:
    defined: set[Value] = set()
    for v in graph.inputs:
        if v in defined:
            yield f"input {v!r} is listed twice"
        defined.add(v)
    for v, array in graph.constants.items():
        if v in defined:
            yield f"{v!r} is an input and a constant"
        actual = TensorType(dtype_of(array), array.shape)
        if actual != v.type:
            yield f"constant {v!r} holds an array of type {actual}"
        defined.add(v)
    for node in graph.nodes:
        yield from _node_problems(node, defined)
        defined.update(node.outputs)
    for v in graph.outputs:
        if v not in defined:
            yield f"output {v!r} is not defined"
    if len(graph.output_names) != len(graph.outputs) or len(set(graph.output_names)) != len(graph.outputs):
        yield f"{len(graph.outputs)} outputs have the names {', '.join(graph.output_names)}"


def _node_problems(node: Node, defined: set[Value]) -> Iterator[str]:
    at = f"node {node.op.name} ({', '.join(v.name for v in node.outputs)})"
    at += f" of {node.where}" if node.where else ""
    for v in node.inputs:
        if v not in defined:
            yield f"{at} reads {v!r}, which is not defined before it"
    for v in node.outputs:
        if v in defined or node.outputs.count(v) > 1:
            yield f"{at} defines {v!r}, which is defined already"
    try:
        types = node.op.infer(*(v.type for v in node.inputs))
    except ModelError as error:
        yield f"{at} refuses its operands: {error}"
        return
    declared = tuple(v.type for v in node.outputs)
    if types != declared:
        yield f"{at} declares {', '.join(map(str, declared))}, its operands give {', '.join(map(str, types))}"
    for inner in subgraphs(node.op):
        yield from (f"{at}: graph {inner.name}: {problem}" for problem in _problems(inner))
