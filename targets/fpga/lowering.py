"""The state of a lowering from the graph to processes, and what its handlers share.

An operator that is not elementwise has a handler; it adds processes and gives the tensor of the node's value.  A region
of elementwise nodes that hangs on one such value becomes the end of that process; other regions become processes of
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from ...codegen.hls.body import Body, BodyBuilder, Reg
from ...codegen.hls.design import Process, Tensor
from ...codegen.hls.elementwise import Map
from ...codegen.hls.route import Pick
from ...ir.errors import ModelError
from ...ir.graph import Graph, Node, Value
from ...ir.ops.base import Op
from .elementwise import ELEMENTWISE, RegionBuilder, Types, find_regions, unsupported, vector_of
from .ranges import Ranges


@dataclass(eq=False)
class Lowering:
    """The state of one lowering.  env: the tensor of every value that has one."""

    graph: Graph
    ranges: Ranges
    bits: int
    types: Types
    regions: dict[Node, Node] = field(default_factory=dict)
    members: dict[Node, set[Node]] = field(default_factory=dict)
    env: dict[Value, Tensor] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    users: dict[Value, list[Node]] = field(default_factory=dict)
    done: set[Node] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    tables: int = 0

    def __post_init__(self) -> None:
        self.users = self.graph.users()
        self.regions = find_regions(self.graph)
        for node, last in self.regions.items():
            self.members.setdefault(last, set()).add(node)

    # -- what handlers use

    def name(self, kind: str) -> str:
        return f"{kind}_{len(self.processes)}"

    def table_name(self) -> str:
        self.tables += 1
        return f"table_{self.tables}"

    def tensor(self, v: Value) -> Tensor:
        """Raises ModelError for a constant where a stream is needed."""
        if v not in self.env:
            raise ModelError(f"fpga: {v.name!r} is a constant where the hardware needs a stream; fold it on the host")
        return self.env[v]

    def constant(self, v: Value) -> np.ndarray | None:
        return self.graph.constants.get(v)

    def add(self, p: Process) -> Tensor:
        self.processes.append(p)
        return p.outputs[0]

    def pick(
        self, t: Tensor, axis: int, index: Iterable[int], shape: tuple[int, ...], fill: int = 0, where: str = ""
    ) -> Tensor:
        """Rows of an axis; shape: of the result."""
        index = tuple(int(i) for i in index)
        if index == tuple(range(t.shape[axis])):
            return t.reshaped(shape)
        out = Tensor(t.name, shape, t.type)
        return self.add(Pick(name=self.name("pick"), inputs=(t,), outputs=(out,), where=where,
                             outer=prod(t.shape[:axis]), count=t.shape[axis], inner=prod(t.shape[axis + 1:]),
                             index=index, fill=fill))

    def spread(self, t: Tensor, shape: tuple[int, ...], where: str = "") -> Tensor:
        """Repeated to a shape, as NumPy broadcasts."""
        t = t.reshaped((1,) * (len(shape) - len(t.shape)) + t.shape)
        for d in range(len(shape)):
            if t.shape[d] != shape[d]:
                t = self.pick(t, d, [0] * shape[d], (*t.shape[:d], shape[d], *t.shape[d + 1:]), where=where)
        return t

    def finish(self, node: Node, first: Callable[[BodyBuilder], Reg], channels: int) -> tuple[Body, Tensor, Value]:
        """The body of a process that computes a node's value, with the region behind it if that depends on nothing else.

        first: adds the exact register of the value; channels: the longest run that constants may vary over.
        The tensor stands for the value that is given back, which has the shape of the node's."""
        (v,) = node.outputs[:1]
        last = self._follows(v, channels)
        b = BodyBuilder()
        reg = first(b)
        target = v
        if last is None:
            result = b.fitted(reg, self.types.of(v, reg))
        else:
            target = last.outputs[0]
            builder = RegionBuilder(self.graph, self.types, self.members[last], {v: reg}, b, self.table_name,
                                    v.type.static_shape)
            result = builder.result(target)
            self.done |= self.members[last]
        out = Tensor(target.name, target.type.static_shape, result.type)
        return b.body(result), out, target

    def _follows(self, v: Value, channels: int) -> Node | None:
        """The last node of the region that only this value feeds."""
        users = self.users.get(v, [])
        ends = {self.regions.get(u) for u in users}
        last = next(iter(ends)) if len(ends) == 1 else None
        if last is None or v in self.graph.outputs or last.outputs[0].type.shape != v.type.shape:
            return None
        shape = v.type.static_shape
        for node in self.members[last]:
            for x in node.inputs:
                array = self.constant(x)
                if array is not None:
                    values, repeat = vector_of(array, shape)
                    if values.size > 1 and (repeat > 1 or channels % values.size):
                        return None
                elif x != v and self.graph.producers.get(x) not in self.members[last]:
                    return None
        return last

    # -- the whole graph

    def run(self, handlers: Mapping[type[Op], Callable[[Lowering, Node], None]]) -> None:
        """Every node in order; handlers: by operator, for those that are not elementwise."""
        missing = [n for n in self.graph.nodes if not isinstance(n.op, ELEMENTWISE) and type(n.op) not in handlers]
        if missing:
            raise unsupported(missing)
        for node in self.graph.nodes:
            if node in self.done or node.outputs[0] in self.env:
                continue
            if isinstance(node.op, ELEMENTWISE):
                if self.regions[node] is node:
                    self._map(node)
            else:
                handlers[type(node.op)](self, node)

    def _map(self, last: Node) -> None:
        """A region as a process of its own."""
        members = self.members[last]
        shape = last.outputs[0].type.static_shape
        outside: dict[Value, None] = {}
        for node in self.graph.nodes:
            if node in members:
                outside.update((v, None) for v in node.inputs
                               if v not in self.graph.constants and self.graph.producers.get(v) not in members)
        where = ", ".join(dict.fromkeys(n.where for n in self.graph.nodes if n in members and n.where))
        operands = [self.spread(self.tensor(v), shape, where) for v in outside]
        b = BodyBuilder()
        streams = {v: b.input(t.type) for v, t in zip(outside, operands, strict=True)}
        v = last.outputs[0]
        if not operands:
            raise ModelError(f"fpga: {v.name!r} depends on constants only; fold them before")
        builder = RegionBuilder(self.graph, self.types, members, streams, b, self.table_name, shape)
        result = builder.result(v)
        out = Tensor(v.name, shape, result.type)
        self.env[v] = self.add(Map(name=self.name("map"), inputs=tuple(operands), outputs=(out,), where=where,
                                   body=b.body(result)))
