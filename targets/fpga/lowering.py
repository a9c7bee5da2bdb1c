"""The state of a lowering from the graph to processes, and what its handlers share.

An operator that is not elementwise has a handler; it adds processes and gives the tensor of the node's value.  A region
of elementwise nodes that hangs on one such value becomes the end of that process; other regions become processes of
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ...codegen.hls.body import Body, BodyBuilder, Reg
from ...codegen.hls.design import Process
from ...codegen.hls.elementwise import Map
from ...codegen.hls.fixed import holding
from ...codegen.hls.ports import STEPS
from ...codegen.hls.route import Pick
from ...codegen.hls.tensor import Tensor
from ...ir.errors import ModelError
from ...ir.graph import Graph, Node, Value
from ...ir.ops.base import Op
from ...ir.ops.elementwise import Binary
from ...ir.ops.quantize import Quantize
from .elementwise import ELEMENTWISE, RegionBuilder, Types, find_regions, unsupported, vector_of
from .quantized import Coded, Grid, Source, coded_source, scalar_pair, settle
from .ranges import Ranges

Affine = tuple[np.ndarray, np.ndarray, tuple[tuple[str, np.ndarray], ...]]


@dataclass(eq=False)
class Lowering:
    """The state of one lowering.  env: the tensor of every value that has one.  codes: values that are streams of the
    model's own codes.  grids: constants that are integers times scales.  raw: outputs that the host may scale, and
    affine: scale, offset and steps of those that it does."""

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
    codes: dict[Value, Coded] = field(default_factory=dict)
    grids: dict[Value, Grid] = field(default_factory=dict)
    raw: set[Value] = field(default_factory=set)
    affine: dict[Value, Affine] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: int = 0
    reloadable: bool = False

    def __post_init__(self) -> None:
        self.graph, self.grids = settle(self.graph)
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
        if v in self.codes:
            return self._decoded(v)
        if v not in self.env:
            raise ModelError(f"fpga: {v.name!r} is a constant where the hardware needs a stream; fold it on the host")
        return self.env[v]

    def _decoded(self, v: Value) -> Tensor:
        """A stream of codes as one of fixed-point numbers."""
        if v not in self.env:
            c, b = self.codes[v], BodyBuilder()
            reg = coded_source(b, c).real(b)
            result = b.fitted(reg, self.types.of(v, reg))
            out = Tensor(v.name, c.tensor.shape, result.type)
            self.env[v] = self.add(Map(name=self.name("map"), inputs=(c.tensor,), outputs=(out,), body=b.body(result)))
        return self.env[v]

    def operand(self, v: Value) -> Coded:
        """The stream of a value, fixed-point numbers as codes without zero point."""
        if v in self.codes:
            return self.codes[v]
        t = self.tensor(v)
        return Coded(t, 2.0**-t.type.frac, 0)

    def move(self, v: Value, result: Value, f: Callable[[Tensor], Tensor]) -> None:
        """Elements moved, whatever they stand for."""
        if v in self.codes:
            c = self.codes[v]
            self.codes[result] = Coded(f(c.tensor), c.scale, c.zero)
        else:
            self.env[result] = f(self.tensor(v))

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

    def reaching(self, t: Tensor, code: int, where: str) -> Tensor:
        """The tensor in a type that holds this code too, which a border brings."""
        low, high = min(t.type.low, code), max(t.type.high, code)
        if (low, high) == (t.type.low, t.type.high):
            return t
        b = BodyBuilder()
        out = Tensor(t.name, t.shape, holding(low, high, t.type.frac))
        return self.add(Map(name=self.name("map"), inputs=(t,), outputs=(out,), where=where, body=b.body(b.input(t.type))))

    def spread(self, t: Tensor, shape: tuple[int, ...], where: str = "") -> Tensor:
        """Repeated to a shape, as NumPy broadcasts."""
        t = t.reshaped((1,) * (len(shape) - len(t.shape)) + t.shape)
        for d in range(len(shape)):
            if t.shape[d] != shape[d]:
                t = self.pick(t, d, [0] * shape[d], (*t.shape[:d], shape[d], *t.shape[d + 1:]), where=where)
        return t

    def finish(self, node: Node, first: Callable[[BodyBuilder], Reg | Source], channels: int) -> tuple[Body, Tensor, Value]:
        """The body of a process that computes a node's value, with the region behind it if that depends on nothing else.

        first: adds the exact register of the value, or integers that stand for it; channels: the longest run that constants
        may vary over.
        The tensor stands for the value that is given back, which has the shape of the node's."""
        (v,) = node.outputs[:1]
        last = self._follows(v, channels)
        b = BodyBuilder()
        made = first(b)
        source = made if isinstance(made, Source) else Source(made)
        target = v if last is None else last.outputs[0]
        if last is not None:
            self.done |= self.members[last]
        affine = self._host_scales(v, target, source, channels)
        if affine is not None:
            self.affine[target] = affine
            result = replace(source.reg, frac=0)
        elif last is None:
            reg = source.real(b)
            result = b.fitted(reg, self.types.of(v, reg))
        else:
            builder = RegionBuilder(self.graph, self.types, self.members[last], {v: source}, b, self.table_name,
                                    v.type.static_shape)
            result = self._built(builder, target)
        out = Tensor(target.name, target.type.static_shape, result.type)
        return b.body(result), out, target

    def _built(self, builder: RegionBuilder, v: Value) -> Reg:
        result = builder.result(v)
        self.notes += [f"{x.name}: codes may differ from the model's where a value lies at a tie" for x in builder.inexact]
        return result

    def _host_scales(self, v: Value, target: Value, source: Source, channels: int) -> Affine | None:
        """What the host does to integers that are an output, if nothing but steps with constants follows them."""
        if source.scale is None or target not in self.raw:
            return None
        steps: list[tuple[str, np.ndarray]] = []
        x = target
        while x != v:
            node = self.graph.producers[x]
            free = [i for i in node.inputs if i not in self.graph.constants]
            if not isinstance(node.op, Binary) or node.op.fn not in STEPS or len(free) != 1:
                return None
            if node.op.fn in ("div", "sub") and free[0] != node.inputs[0]:
                return None
            (c,) = (self.graph.constants[i] for i in node.inputs if i in self.graph.constants)
            values, repeat = vector_of(c, v.type.static_shape)
            if repeat > 1 or values.size not in (1, channels):
                return None
            steps.insert(0, (node.op.fn, values.astype(np.float32)))
            x = free[0]
        scale, offset = (np.resize(a, channels) if a.size > 1 else a for a in source.affine())
        return scale, offset, tuple(steps)

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
                if array is not None and array.size > 1:
                    values, repeat = vector_of(array, shape)
                    if values.size > 1 and (repeat > 1 or channels % values.size):
                        return None
                elif array is None and x != v and self.graph.producers.get(x) not in self.members[last]:
                    return None
        return last

    # -- the whole graph

    def run(self, handlers: Mapping[type[Op], Callable[[Lowering, Node], None]]) -> None:
        """Every node in order; handlers: by operator, for those that are not elementwise."""
        missing = [n for n in self.graph.nodes if not isinstance(n.op, ELEMENTWISE) and type(n.op) not in handlers]
        if missing:
            raise unsupported(missing)
        for node in self.graph.nodes:
            if node in self.done or node.outputs[0] in self.env or node.outputs[0] in self.codes:
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
        operands: list[Tensor] = []
        streams: dict[Value, Source] = {}
        b = BodyBuilder()
        for x in outside:
            c = self.codes.get(x)
            operands.append(self.spread(self.tensor(x) if c is None else c.tensor, shape, where))
            streams[x] = Source(b.input(operands[-1].type)) if c is None else coded_source(b, c)
        v = last.outputs[0]
        if self._is_same(last, members):
            self.env[v] = operands[0]
            return
        if not operands:
            raise ModelError(f"fpga: {v.name!r} depends on constants only; fold them before")
        builder = RegionBuilder(self.graph, self.types, members, streams, b, self.table_name, shape)
        result = self._built(builder, v)
        out = Tensor(v.name, shape, result.type)
        self.env[v] = self.add(Map(name=self.name("map"), inputs=tuple(operands), outputs=(out,), where=where,
                                   body=b.body(result)))

    def _is_same(self, last: Node, members: set[Node]) -> bool:
        """Whether a region quantizes codes as they are already quantized."""
        if members != {last} or not isinstance(last.op, Quantize) or last.inputs[0] not in self.codes:
            return False
        c, pair = self.codes[last.inputs[0]], scalar_pair(last, self.graph.constants)
        shape = last.outputs[0].type.static_shape
        return (pair == (c.scale, c.zero) and c.tensor.shape == shape
                and last.op.low <= c.tensor.type.low and c.tensor.type.high <= last.op.high)
