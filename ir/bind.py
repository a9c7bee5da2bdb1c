"""Giving numbers to symbolic dimensions: in types, in operators, in whole graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from .dims import as_dim
from .expr import Expr, Var, as_expr
from .graph import Builder, Graph, Value
from .ops.base import Op
from .traverse import substitute
from .types import Dim, TensorType

Bindings = Mapping[Var, Dim]
AnyOp = TypeVar("AnyOp", bound=Op)


def bind_dim(d: Dim, bindings: Bindings) -> Dim:
    """The dimension with its variables replaced; an int when all of them have a value."""
    if isinstance(d, int):
        return d
    return as_dim(substitute(d, {v: as_expr(n) for v, n in bindings.items()}))


def bind_type(type: TensorType, bindings: Bindings) -> TensorType:
    return type if type.is_static else TensorType(type.dtype, tuple(bind_dim(d, bindings) for d in type.shape))


def bind_op(op: AnyOp, bindings: Bindings) -> AnyOp:
    """The operator with the variables in its fields, in tuples there and in its graphs replaced."""
    if not bindings:
        return op

    def bind(x: Any) -> Any:
        if isinstance(x, Expr):
            return bind_dim(x, bindings)
        if isinstance(x, Graph):
            return bind_graph(x, bindings)
        if isinstance(x, tuple) and any(isinstance(y, Expr) for y in x):
            return tuple(bind(y) for y in x)
        return x

    old = {f.name: getattr(op, f.name) for f in fields(op)}  # type: ignore[arg-type]
    new = {name: bind(value) for name, value in old.items()}
    changed = {name: value for name, value in new.items() if value is not old[name]}
    return replace(op, **changed) if changed else op  # type: ignore[type-var]


def bind_graph(graph: Graph, bindings: Bindings) -> Graph:
    """The graph with the variables replaced and the types inferred anew.  Raises ModelError if the sizes do not fit."""
    b = Builder(graph.name)
    env = {v: b.input(v.name, bind_type(v.type, bindings)) for v in graph.inputs}

    def value(v: Value) -> Value:
        if v not in env:
            env[v] = b.constant(graph.constants[v], v.name)
        return env[v]

    for node in graph.nodes:
        names = [v.name for v in node.outputs]
        made = b.add_multi(bind_op(node.op, bindings), *map(value, node.inputs), names=names, where=node.where)
        env.update(zip(node.outputs, made, strict=True))
    return b.graph([value(v) for v in graph.outputs], graph.output_names)
