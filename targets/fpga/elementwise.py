"""Elementwise nodes as bodies: which of them belong together, and their integer instructions.

A region is a set of elementwise nodes of one shape that ends in one value; everything inside is used inside only.
Inside of a region, what depends on a single value through more than a few steps, or through a function such as exp,
becomes a table of that value; the rest becomes exact instructions, rounded when a width grows beyond what is useful.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ...codegen.hls.body import COMPARE, LOGIC, BodyBuilder, Reg
from ...codegen.hls.fixed import Fixed, covering
from ...codegen.hls.table import make_table
from ...ir.errors import ModelError
from ...ir.graph import Graph, Node, Value
from ...ir.ops.elementwise import Binary, Cast, Select, Unary
from ...ir.ops.quantize import Quantize, Saturate
from ...ir.types import is_integer
from .quantized import STEPS, IntegerRegion, Source, scalar_pair

ELEMENTWISE = (Unary, Binary, Select, Cast, Saturate, Quantize)
MARGIN = 1.15  # how far beyond the user's calibration data a type reaches
RANDOM_MARGIN = 2.0  # beyond random data, which reach less far than real ones
WIDEST = 40  # bits that an exact intermediate may have before it is rounded
EXACT_UNARY = {"neg", "abs", "not"}
SIMPLE = {"add", "sub", "mul", "max", "min"}
_JUMPS = {"mod", "fmod", "bitnot", "bitand", "bitor", "bitxor", "shl", "shr"}
_TABLE_FROM = 3  # so many instructions of one value are dearer than a table


def find_regions(graph: Graph) -> dict[Node, Node]:
    """Every elementwise node and the last node of its region."""
    users = graph.users()
    kept = set(graph.outputs)
    region: dict[Node, Node] = {}
    for node in reversed(graph.nodes):
        if not isinstance(node.op, ELEMENTWISE):
            continue
        (v,) = node.outputs
        ends = {region.get(u) for u in users.get(v, ())}
        last = next(iter(ends)) if len(ends) == 1 else None
        fits = last is not None and v not in kept and last.outputs[0].type.shape == v.type.shape
        region[node] = last if fits and last is not None else node
    return region


@dataclass
class Types:
    """Chooses the type of every value: so many bits, from the ranges of calibration with a margin."""

    ranges: Mapping[Value, tuple[float, float]]
    bits: int
    margin: float = MARGIN

    def of(self, v: Value, reg: Reg | None = None) -> Fixed:
        """From the calibration data with a margin, within what the exact value can reach at all."""
        if v.type.dtype == "bool":
            return Fixed(1, 0, False)
        low, high = self.ranges.get(v, (0.0, 0.0))
        low, high = low * self.margin if low < 0 else 0.0, high * self.margin if high > 0 else 0.0
        if reg is not None:
            step = 2.0**-reg.frac
            low, high = max(low, min(0.0, reg.low * step)), min(high, max(0.0, reg.high * step))
        return covering(low, high, self.bits)


@dataclass
class RegionBuilder:
    """Builds the body of one region.  streams: its values from outside, in the order of the body's inputs.
    table_name: a new name.  inexact: values of integer types whose rounding is not proven to be the model's."""

    graph: Graph
    types: Types
    nodes: set[Node]
    streams: dict[Value, Source]
    b: BodyBuilder
    table_name: Callable[[], str]
    shape: tuple[int, ...]
    regs: dict[Value, Reg] = field(default_factory=dict)
    roots: dict[Value, Value | None] = field(default_factory=dict)
    inexact: list[Value] = field(default_factory=list)

    def result(self, v: Value) -> Reg:
        """The register of a value, of the value's own type."""
        if is_integer(v.type.dtype):
            return self._integers(v)
        exact = self.value(v)
        return self.b.fitted(exact, self.types.of(v, exact))

    def value(self, v: Value) -> Reg:
        if v in self.regs:
            return self.regs[v]
        if v in self.streams:
            reg = self.streams[v].real(self.b)
        elif v in self.graph.constants:
            reg = self.constant(self.graph.constants[v])
        else:
            root = self.root(v)
            reg = self._table(v, root) if root is not None and self._deserves_table(v, root) else self._exact(v)
        self.regs[v] = reg
        return reg

    def _integers(self, v: Value) -> Reg:
        path: list[Node] = []
        sources: dict[Value, Source] = {}

        def visit(x: Value) -> None:
            if x in self.streams:
                sources[x] = self.streams[x]
                return
            node = self.graph.producers.get(x)
            if node is None or node in path:
                return
            for y in node.inputs:
                visit(y)
            path.append(node)

        visit(v)
        region = IntegerRegion(self.graph, path, v, lambda array: vector_of(array, self.shape))
        exact = region.build(self.b, sources, self.table_name)
        if exact is None:
            self.inexact.append(v)
        return self.value(v) if exact is None else exact

    def constant(self, array: np.ndarray) -> Reg:
        values, repeat = vector_of(array, self.shape)
        return self.b.constant(values, max(self.types.bits, 8), repeat)

    # -- functions of one value

    def root(self, v: Value) -> Value | None:
        """The single value from outside that v is a function of, through nodes of the region and scalar constants."""
        if v not in self.roots:
            self.roots[v] = self._find_root(v)
        return self.roots[v]

    def _find_root(self, v: Value) -> Value | None:
        if v in self.streams:
            return v
        node = self.graph.producers.get(v)
        if node is None or node not in self.nodes:
            return None
        found = set()
        for x in node.inputs:
            if x in self.graph.constants:
                if vector_of(self.graph.constants[x], self.shape)[0].size > 1:
                    return None
                continue
            found.add(self.root(x))
        return found.pop() if len(found) == 1 else None

    def _path(self, v: Value, root: Value) -> list[Node]:
        """The nodes between root and v, in order."""
        path: list[Node] = []

        def visit(x: Value) -> None:
            node = self.graph.producers.get(x)
            if x == root or node is None or node not in self.nodes or node in path:
                return
            for y in node.inputs:
                visit(y)
            path.append(node)

        visit(v)
        return path

    def _deserves_table(self, v: Value, root: Value) -> bool:
        path = self._path(v, root)
        if v.type.dtype == "bool" or root.type.dtype == "bool" or any(_is_step(n) for n in path):
            return False  # steps are not what a table with slopes is for
        exact = [n for n in path if is_exact(n)]
        return len(exact) < len(path) or sum(not is_bound(n, self.graph) for n in path) >= _TABLE_FROM

    def _table(self, v: Value, root: Value) -> Reg:
        stream = self.value(root)
        source = self.b.round(stream, self.types.of(root, stream))
        path = self._path(v, root)
        target = self.types.of(v)
        about = f"{path[-1].op.name.lower()} of {root.name}" if len(path) == 1 else f"{v.name} of {root.name}"
        table = make_table(self.table_name(), lambda x: self._apply(path, root, v, x), source.type, target, about)
        return self.b.table(source, table)

    def _apply(self, path: list[Node], root: Value, v: Value, x: np.ndarray) -> np.ndarray:
        """The nodes of a path on real values, in double precision where the functions allow it.  Raises NoHardwareError for
        functions with jumps, of which a table with slopes would be wrong."""
        jumps = [n for n in path if isinstance(n.op, (Unary, Binary)) and n.op.fn in _JUMPS]
        if jumps:
            raise unsupported(jumps)
        env: dict[Value, np.ndarray] = {root: np.asarray(x, np.float64)}
        with np.errstate(all="ignore"):
            for node in path:
                operands = [env[i] if i in env else scalar(self.graph.constants[i]) for i in node.inputs]
                env[node.outputs[0]] = np.asarray(node.op.evaluate(*_same_kind(operands))[0])
        return np.broadcast_to(env[v], x.shape).astype(np.float64)

    # -- exact instructions

    def _exact(self, v: Value) -> Reg:
        node = self.graph.producers[v]
        op = node.op
        if isinstance(op, Binary):
            reg = self._binary(node, op.fn)
        elif isinstance(op, Select):
            c, x, y = (self.value(i) for i in node.inputs)
            reg = self.b.select(c, x, y)
        elif isinstance(op, Cast):
            reg = self._cast(node, op.to)
        elif isinstance(op, Saturate):
            reg = self.b.whole(self.value(node.inputs[0]), op.low, op.high, op.zero)
        elif isinstance(op, Quantize):
            reg = self._quantize(node, op)
        elif isinstance(op, Unary) and op.fn in EXACT_UNARY:
            reg = self.b.unary(op.fn, self.value(node.inputs[0]))
        elif isinstance(op, Unary) and op.fn in STEPS:
            reg = self._step(op.fn, self.value(node.inputs[0]))
        else:
            reg = self._table_of_step(node)
        return self.narrow(v, reg) if reg.type.bits > WIDEST else reg

    def _table_of_step(self, node: Node) -> Reg:
        """A function of an intermediate value that has several roots."""
        x, v = node.inputs[0], node.outputs[0]
        source = self.narrow(x, self.value(x))
        table = make_table(self.table_name(), lambda a: self._apply([node], x, v, a), source.type, self.types.of(v),
                           f"{node.op} of {x.name}")
        return self.b.table(source, table)

    def narrow(self, v: Value, reg: Reg) -> Reg:
        """The value rounded to its own type, if it is wider."""
        type = self.types.of(v, reg)
        return self.b.round(reg, type) if reg.type.bits > type.bits + 2 else reg

    def _binary(self, node: Node, fn: str) -> Reg:
        a, b = (self.value(i) for i in node.inputs)
        if fn in LOGIC or fn in COMPARE or fn in SIMPLE - {"mul"}:
            return self.b.binary(fn, a, b)
        x, y = node.inputs
        if fn == "mul":
            return self.b.binary("mul", self._factor(x, a), self._factor(y, b))
        if fn == "div" and y in self.graph.constants:
            inverse = self.constant(1.0 / self.graph.constants[y].astype(np.float64))
            return self.b.binary("mul", self._factor(x, a), inverse)
        if fn == "div":
            v = node.outputs[0]
            return self.b.divide(self._factor(x, a), self._factor(y, b), self.types.of(v))
        raise unsupported([node])

    def _quantize(self, node: Node, op: Quantize) -> Reg:
        """Through the reciprocal of the scale, which can miss a tie; `IntegerRegion` is what is exact."""
        pair = scalar_pair(node, self.graph.constants)
        if pair is None:
            raise unsupported([node])
        x = self.narrow(node.inputs[0], self.value(node.inputs[0]))
        return self.b.whole(self.b.binary("mul", x, self.b.constant(np.array(1.0 / pair[0]), 26)), op.low, op.high, pair[1])

    def _factor(self, v: Value, reg: Reg) -> Reg:
        return reg if v in self.graph.constants else self.narrow(v, reg)

    def _cast(self, node: Node, to: str) -> Reg:
        x = node.inputs[0]
        reg = self.value(x)
        if to == "bool" and x.type.dtype != "bool":
            return self.b.binary("ne", reg, self.constant(np.zeros(1)))
        if to[0] in "iu" and x.type.dtype[0] in "fb" and reg.frac > 0:  # toward zero
            negative = self.b.binary("lt", reg, self.constant(np.zeros(1)))
            return self.b.select(negative, self._step("ceil", reg), self._step("floor", reg))
        return reg

    def _step(self, fn: str, a: Reg) -> Reg:
        """floor, ceil, rint or sign."""
        if fn == "sign":
            zero = self.constant(np.zeros(1))
            return self.b.binary("sub", self.b.binary("gt", a, zero), self.b.binary("lt", a, zero))
        if a.frac <= 0:
            return a
        if fn == "ceil":
            a = self.b.binary("add", a, replace(self.b.integers(np.array([(1 << a.frac) - 1])), frac=a.frac))
        low, high = a.low >> a.frac, a.high >> a.frac
        return self.b.whole(a, low, high + 1, 0) if fn == "rint" else self.b.floor(a, low, high)


def is_exact(node: Node) -> bool:
    """Whether the node becomes exact instructions."""
    op = node.op
    if isinstance(op, Binary):
        return op.fn in SIMPLE or op.fn in COMPARE or op.fn in LOGIC
    return isinstance(op, (Select, Cast, Saturate, Quantize)) or (isinstance(op, Unary) and op.fn in EXACT_UNARY | STEPS)


def _is_step(node: Node) -> bool:
    op = node.op
    if isinstance(op, Cast):
        return is_integer(op.to)
    return isinstance(op, (Saturate, Quantize)) or (isinstance(op, Unary) and op.fn in STEPS)


def is_bound(node: Node, graph: Graph) -> bool:
    """A maximum or minimum with a constant: it costs next to nothing."""
    return isinstance(node.op, Binary) and node.op.fn in ("max", "min") and any(v in graph.constants for v in node.inputs)


def scalar(array: np.ndarray) -> np.ndarray:
    return np.asarray(array.ravel()[:1].reshape(()))


def _same_kind(operands: list[np.ndarray]) -> list[np.ndarray]:
    """Float operands in double precision."""
    return [a.astype(np.float64) if a.dtype.kind == "f" or a.dtype.kind not in "iub" else a for a in operands]


def vector_of(array: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """A constant that is broadcast to a shape, as the shortest vector v and a repeat r: its i-th element is
    v[i // r % len(v)]."""
    a = np.asarray(array)
    if a.dtype.kind not in "iub":
        a = a.astype(np.float64)
    a = a.reshape((1,) * (len(shape) - a.ndim) + a.shape) if a.ndim <= len(shape) else a
    for d in range(a.ndim):
        first = a.take([0], d)
        if a.shape[d] > 1 and np.array_equal(np.broadcast_to(first, a.shape), a):
            a = first
    kept = next((d for d in range(a.ndim) if a.shape[d] > 1), a.ndim)
    if kept == a.ndim:
        return a.ravel()[:1], 1
    last = max(d for d in range(a.ndim) if a.shape[d] > 1) + 1
    inner = a.reshape(a.shape[kept:])[(..., *(0 for _ in range(a.ndim - last)))]
    return np.broadcast_to(inner, shape[kept:last]).ravel(), prod(shape[last:])


class NoHardwareError(ModelError):
    """nodes: those that the FPGA target has no process for."""

    def __init__(self, message: str, nodes: list[Node]) -> None:
        super().__init__(message)
        self.nodes = nodes


def unsupported(nodes: list[Node]) -> NoHardwareError:
    """All nodes that the FPGA target has no process for."""
    lines = sorted({f"  {n.op.name} ({n.op}) at {n.where or n.outputs[0].name}"[:200] for n in nodes})
    message = (
        f"fpga: {len(nodes)} operation(s) have no hardware process:\n" + "\n".join(lines)
        + "\nremove them from the model, or compute them on the host before or after the kernel"
    )
    return NoHardwareError(message, nodes)

