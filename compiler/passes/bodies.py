"""Run a pass in the graphs of control flow, innermost first.

    y = If(then = {Softmax}, other = {..})(c, x)   --expand_composites-->   y = If(then = {exp, ..}, other = {..})(c, x)

A pass sees one graph; the branches of an If and the bodies of Loop and Scan are graphs of their own, with the values that
they capture as inputs.  Every pass keeps the types of inputs and outputs, so the operator around a body stays valid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.base import Op
from ...ir.ops.control import If, Loop, Scan

CONTROL = (If, Loop, Scan)


def in_bodies(graph: Graph, apply: Callable[[Graph], Graph]) -> Graph:
    """The graph with a pass applied to every graph inside of it, at any depth, but not to itself."""
    if not any(isinstance(node.op, CONTROL) for node in graph.nodes):
        return graph
    done: dict[Graph, Graph] = {}

    def body(inner: Graph) -> Graph:
        if inner not in done:
            done[inner] = apply(in_bodies(inner, apply))
        return done[inner]

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if not isinstance(node.op, CONTROL):
            return None
        return b.add_multi(_with_bodies(node.op, body), *inputs, names=[v.name for v in node.outputs])

    return rewrite_graph(graph, rule)


def _with_bodies(op: Op, body: Callable[[Graph], Graph]) -> Op:
    inner: dict[str, Any] = {f.name: getattr(op, f.name) for f in fields(op)}  # type: ignore[arg-type]
    changed = {name: body(value) for name, value in inner.items() if isinstance(value, Graph)}
    return replace(op, **changed)  # type: ignore[type-var]
