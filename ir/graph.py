"""The graph: values, nodes in order, constants.  Immutable; rewriting is replay through a `Builder`.

A `Value` is identified by the object, its name is for people.  A `Node` applies an `Op` (a frozen record of its
attributes) to values.  The builder infers types, shares equal nodes and equal small constants, and refuses a
replacement of another type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

import numpy as np

from .dims import symbols
from .errors import InternalError
from .expr import Expr, Var
from .ops.base import Op
from .types import TensorType, dtype_of

_SHARE_CONSTANTS_BELOW = 4096  # bytes; hashing larger weights costs more than it saves


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    name: str
    type: TensorType

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """where: the names of the model's nodes that this one comes from, for messages and reports."""

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    where: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """nodes are in execution order.  A graph that is a field of an operator (control flow, fusion) may use only its own
    inputs: captured values are passed as inputs."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[Value, np.ndarray]
    output_names: tuple[str, ...] = ()
    producers: Mapping[Value, Node] = field(init=False)

    def __post_init__(self) -> None:
        if not self.output_names:
            object.__setattr__(self, "output_names", tuple(v.name for v in self.outputs))
        object.__setattr__(self, "producers", {v: n for n in self.nodes for v in n.outputs})

    def users(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, in order, once per use; graph outputs are not counted."""
        result: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for v in node.inputs:
                result.setdefault(v, []).append(node)
        return result

    def __str__(self) -> str:
        from .text import show_graph

        return show_graph(self)


Result = Union[Value, tuple[Value, ...], None]


class Builder:
    """Adds nodes to a growing graph.  `where` is the origin given to new nodes that state none; `producers` finds the
    node that made a value."""

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.where = ""
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.constants: dict[Value, np.ndarray] = {}
        self.producers: dict[Value, Node] = {}
        self._names: dict[str, int] = {}
        self._shared: dict[tuple[object, ...], tuple[Value, ...]] = {}
        self._shared_constants: dict[tuple[object, ...], Value] = {}

    def unique(self, name: str) -> str:
        """A name that no value of this graph has yet."""
        name = name or "v"
        count = self._names.get(name)
        if count is None:
            self._names[name] = 1
            return name
        while f"{name}.{count}" in self._names:
            count += 1
        self._names[name] = count + 1
        self._names[f"{name}.{count}"] = 1
        return f"{name}.{count}"

    def input(self, name: str, type: TensorType) -> Value:
        v = Value(self.unique(name), type)
        self.inputs.append(v)
        return v

    def constant(self, array: np.ndarray, name: str = "") -> Value:
        """A constant.  The same array, and small equal ones, are shared.  The array must not be modified afterwards."""
        array = np.asarray(array)
        dtype = dtype_of(array)
        key: tuple[object, ...] = (id(array),)  # the array lives as long as its key: it is in `constants`
        if array.nbytes <= _SHARE_CONSTANTS_BELOW:
            data = repr(array.tolist()).encode("utf-8", "backslashreplace") if dtype == "str" else array.tobytes()
            key = (dtype, array.shape, hashlib.sha256(data).digest())
        if key in self._shared_constants:
            return self._shared_constants[key]
        v = Value(self.unique(name or "c"), TensorType(dtype, array.shape))
        self.constants[v] = array
        self._shared_constants[key] = v
        return v

    def add(self, op: Op, *inputs: Value, name: str = "", where: str = "") -> Value:
        """The output of an operator with one output."""
        outputs = self.add_multi(op, *inputs, names=(name,) if name else (), where=where)
        if len(outputs) != 1:
            raise InternalError(f"{op} has {len(outputs)} outputs, used as one")
        return outputs[0]

    def add_multi(self, op: Op, *inputs: Value, names: Sequence[str] = (), where: str = "") -> tuple[Value, ...]:
        """All outputs of an operator.  An equal node that exists already is used instead, unless the operator has an
        effect or is random."""
        key = (op, inputs)
        if op.pure and key in self._shared:
            return self._shared[key]
        types = op.infer(*(v.type for v in inputs))
        base = names or [op.name.lower()] * len(types)
        outputs = tuple(Value(self.unique(n or op.name.lower()), t) for n, t in zip(base, types, strict=True))
        node = Node(op, inputs, outputs, where or self.where)
        self.nodes.append(node)
        self.producers.update(dict.fromkeys(outputs, node))
        if op.pure:
            self._shared[key] = outputs
        return outputs

    def graph(self, outputs: Sequence[Value], output_names: Sequence[str] = ()) -> Graph:
        """The finished graph, without nodes and constants that no output needs.  A node whose run tells a size is needed where
        the size is."""
        needed: set[Value] = set(outputs)
        told = {d for node in self.nodes for d in node.op.told}
        sizes = set(symbols(d for v in outputs for d in v.type.shape)) if told else set[Var]()
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if not node.op.pure or any(v in needed for v in node.outputs) or not sizes.isdisjoint(node.op.told):
                kept.append(node)
                needed.update(node.inputs)
                if told:
                    sizes.update(_symbols_in(node))
        constants = {v: a for v, a in self.constants.items() if v in needed}
        nodes = tuple(reversed(kept))
        return Graph(self.name, tuple(self.inputs), tuple(outputs), nodes, constants, tuple(output_names))


def _symbols_in(node: Node) -> set[Var]:
    """The symbolic dimensions of its results and in its attributes."""
    dims = [d for v in node.outputs for d in v.type.shape]
    found: set[Var] = set()
    stack: list[object] = list(vars(node.op).values())
    while stack:
        x = stack.pop()
        if isinstance(x, tuple):
            stack += x
        elif isinstance(x, Graph):
            found |= {s for inner in x.nodes for s in _symbols_in(inner)}
        elif isinstance(x, Expr):
            dims.append(x)
    return found | set(symbols(dims))


Rule = Callable[[Builder, Node, tuple[Value, ...]], Result]


def rewrite_graph(graph: Graph, rule: Rule) -> Graph:
    """Replay the graph.  For each node the rule is given the builder, the old node and its new inputs; it returns the
    replacement value(s), or None to keep the node.  Raises InternalError if a replacement has another type."""
    b = Builder(graph.name)
    env: dict[Value, Value] = {v: b.input(v.name, v.type) for v in graph.inputs}
    for node in graph.nodes:
        for v in node.inputs:
            if v not in env:
                env[v] = b.constant(graph.constants[v], v.name)
        inputs = tuple(env[v] for v in node.inputs)
        b.where = node.where
        made = rule(b, node, inputs)
        if made is None:
            made = b.add_multi(node.op, *inputs, names=[v.name for v in node.outputs], where=node.where)
        new = (made,) if isinstance(made, Value) else made
        for old, value in zip(node.outputs, new, strict=True):
            if old.type != value.type:
                raise InternalError(f"{node.op} at {node.where!r}: a {old.type} was replaced by a {value.type}")
            env[old] = value
    for v in graph.outputs:
        if v not in env:
            env[v] = b.constant(graph.constants[v], v.name)
    return b.graph([env[v] for v in graph.outputs], graph.output_names)


def inline_graph(b: Builder, graph: Graph, *inputs: Value) -> tuple[Value, ...]:
    """Add a copy of a graph's nodes over other inputs."""
    env = dict(zip(graph.inputs, inputs, strict=True))

    def value(v: Value) -> Value:
        if v not in env:
            env[v] = b.constant(graph.constants[v], v.name)
        return env[v]

    for node in graph.nodes:
        outputs = b.add_multi(
            node.op, *(value(v) for v in node.inputs), names=[v.name for v in node.outputs], where=node.where or b.where
        )
        env.update(zip(node.outputs, outputs, strict=True))
    return tuple(value(v) for v in graph.outputs)
