"""Quantized models: streams of their own codes, weights that stay their integers, and exact rounding to the next codes.

A `Source` is an integer register and what it stands for: register * scale + offset.  A region of elementwise nodes that
ends in integers and hangs on one source is a function of that integer; if it rises or falls, `codegen/hls/levels.py`
finds arithmetic that is that function for every integer that the register can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ...codegen.hls.body import BodyBuilder, Reg
from ...codegen.hls.levels import (
    FEW,
    Affine,
    Function,
    Levels,
    emit,
    find_levels,
    find_line,
    fit_affine,
    fit_pair,
    fit_sum,
)
from ...codegen.hls.table import exact_table
from ...codegen.hls.tensor import Tensor
from ...ir.graph import Graph, Node, Value
from ...ir.ops.elementwise import Binary, Cast, Select, Unary
from ...ir.ops.movement import Broadcast, Reshape, Slice, Transpose
from ...ir.ops.quantize import Dequantize, Quantize, Saturate, spread_array
from ...ir.types import DTYPES, is_integer

SCALE_BITS = 26  # of scales and offsets where the result is a fixed-point number
_MOVES = (Transpose, Reshape, Slice, Broadcast)
_LOOKUP_BITS = 11
_FINEST = 2.0**20  # scales of powers of two are multiples of its inverse
_BORDER_BITS = 30  # of the code of a border
TIE = 2.0**-18  # of a code: values so near to a tie are rounded either way by a model in f32
STEPS = {"floor", "ceil", "rint", "sign"}
_GRID = 256  # codes of one operand that are tried when there are two


@dataclass(frozen=True, eq=False)
class Coded:
    """A stream of codes and what they stand for: (code - zero) * scale."""

    tensor: Tensor
    scale: float
    zero: int

    def code(self, x: float) -> int:
        """The nearest code of a number; of one that is far outside (no border, but a bound), the last of the type."""
        t, nearest = self.tensor.type, np.rint(x / self.scale) + self.zero
        return int(nearest) if abs(nearest) < 2.0**_BORDER_BITS else int(np.clip(nearest, t.low, t.high))


@dataclass(frozen=True, eq=False)
class Source:
    """reg: integers.  scale None: the register is the value, in its own units; otherwise the value is
    integer * scale + offset, which are numbers or vary along the elements."""

    reg: Reg
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None

    def real(self, b: BodyBuilder) -> Reg:
        """The value in fixed point."""
        if self.scale is None:
            return self.reg
        y = b.binary("mul", replace(self.reg, frac=0), b.constant(_short(self.scale), SCALE_BITS))
        offset = np.zeros(1) if self.offset is None else self.offset
        return b.binary("add", y, b.constant(_short(offset), SCALE_BITS)) if np.any(offset) else y

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """scale and offset of the integer as a number."""
        if self.scale is None:
            return np.array([2.0**-self.reg.frac]), np.zeros(1)
        return np.ravel(self.scale), np.zeros(1) if self.offset is None else np.ravel(self.offset)


def coded_source(b: BodyBuilder, c: Coded) -> Source:
    """The next operand of a body, a stream of codes."""
    return Source(b.input(c.tensor.type), np.array([c.scale]), np.array([-c.zero * c.scale]))


def _short(a: np.ndarray) -> np.ndarray:
    flat = np.ravel(a)
    return flat[:1] if np.all(flat == flat[0]) else flat


@dataclass(frozen=True, eq=False)
class Grid:
    """Weights as integers; scale: one number per element, of the same shape."""

    integers: np.ndarray
    scale: np.ndarray

    def per_output(self) -> np.ndarray | None:
        """The scale of every index of the last axis, if it varies along no other."""
        rows = self.scale.reshape(-1, self.scale.shape[-1])
        return rows[0] if np.array_equal(rows, np.broadcast_to(rows[:1], rows.shape)) else None


def settle(graph: Graph) -> tuple[Graph, dict[Value, Grid]]:
    """The graph with everything that follows from constants as constants, and which of them are integers times scales."""
    constants = dict(graph.constants)
    grids: dict[Value, Grid] = {}
    kept = []
    for node in graph.nodes:
        if not node.inputs or any(v not in constants for v in node.inputs):
            kept.append(node)
            continue
        arrays = [constants[v] for v in node.inputs]
        constants.update(zip(node.outputs, node.op.evaluate(*arrays), strict=True))
        if isinstance(node.op, Dequantize):
            x, scale, *zero = arrays
            integers = x.astype(np.int64)
            if zero:
                integers = integers - spread_array(zero[0], x.shape, node.op.axis, node.op.block).astype(np.int64)
            steps = spread_array(scale, x.shape, node.op.axis, node.op.block).astype(np.float64)
            grids[node.outputs[0]] = Grid(integers, np.broadcast_to(steps, x.shape))
        elif isinstance(node.op, _MOVES) and node.inputs[0] in grids:
            g = grids[node.inputs[0]]
            grids[node.outputs[0]] = Grid(node.op.evaluate(g.integers)[0], node.op.evaluate(np.asarray(g.scale))[0])
    return replace(graph, nodes=tuple(kept), constants=constants), grids


def scalar_pair(node: Node, constants: Mapping[Value, np.ndarray]) -> tuple[float, int] | None:
    """Scale and zero point of a Quantize or Dequantize, if they are one constant each."""
    arrays = [constants.get(v) for v in node.inputs[1:]]
    if any(a is None or a.size != 1 for a in arrays):
        return None
    scale, *zero = (a.reshape(()) for a in arrays if a is not None)
    return float(scale), int(zero[0]) if zero else 0


# -- regions that end in integers


Nudged = Callable[[float, np.ndarray], np.ndarray]
Vector = Callable[[np.ndarray], tuple[np.ndarray, int]]


@dataclass(frozen=True, eq=False)
class IntegerRegion:
    """A path of nodes from sources to a value of an integer type.  vector: of a constant, its elements and how often each
    is repeated.  channels: the longest run that constants may vary over, and divide."""

    graph: Graph
    path: Sequence[Node]
    result: Value
    vector: Vector

    def build(self, b: BodyBuilder, sources: Mapping[Value, Source], table_name: Callable[[], str]) -> Reg | None:
        """Exact instructions, or None if none are known."""
        if not is_integer(self.result.type.dtype):
            return None
        if len(sources) == 2:
            return self._pair(b, sources)
        if len(sources) != 1:
            return None
        ((root, source),) = sources.items()
        channels = self._channels(source)
        if channels is None:
            return None
        f, real = self._functions(root, source, channels)
        reg, f_at = source.reg, f
        f = partial(f_at, 0.0)
        rises = all(_rises(n, self.graph) for n in self.path)
        levels = find_levels(f, reg.low, reg.high, channels) if rises else None
        if levels is None:
            return self._lookup(b, reg, f, channels, table_name)
        form = fit_affine(levels, real, zero=self._zero()) or fit_affine(levels, None)
        found = form or (None if self._ties_are_real(levels, real) else self._fit_loosely(f_at, real, reg, channels))
        found = found or fit_pair(levels, None, self._knees())
        if found is None and self._ties_are_real(levels, real):
            table = self._lookup(b, reg, f, channels, table_name)
            if table is not None:
                return table
            found = self._fit_loosely(f_at, real, reg, channels)
        if found is None and len(levels.numbers) > FEW:
            return self._lookup(b, reg, f, channels, table_name)
        return emit(b, reg, levels, found)

    def _ties_are_real(self, levels: Levels, real: Function | None) -> bool:
        """Whether what is rounded is a multiple of a power of two, so that ties are exact and go to the even code."""
        if real is None or not levels.used.size:
            return False
        slope, offset = find_line(levels, real, self._zero())
        return not np.any(slope * _FINEST % 1) and not np.any(offset * _FINEST % 1)

    def _fit_loosely(self, f: Nudged, real: Function | None, reg: Reg, channels: int) -> Affine | None:
        """Where f32 cannot tell a tie, either code will do."""
        if real is None or self._has_steps():
            return None
        late, early = (find_levels(partial(f, n), reg.low, reg.high, channels) for n in (-TIE, TIE))
        if late is None or early is None or late.codes != early.codes:
            return None
        return fit_affine(late, real, early, self._zero())

    def _has_steps(self) -> bool:
        """Whether whole runs of integers have one value, which a tie would move together: they lie on it exactly."""
        return any(isinstance(n.op, Cast) or (isinstance(n.op, Unary) and n.op.fn in STEPS) for n in self.path)

    def _channels(self, source: Source) -> int | None:
        sizes = [a.size for a in source.affine()]
        for node in self.path:
            for v in node.inputs:
                if v in self.graph.constants:
                    values, repeat = self.vector(self.graph.constants[v])
                    if values.size > 1 and repeat > 1:
                        return None
                    sizes.append(values.size)
        most = max(sizes)
        return most if all(most % n == 0 for n in sizes) else None

    def _constant(self, v: Value, channels: int) -> np.ndarray:
        values, _ = self.vector(self.graph.constants[v])
        values = values.astype(np.float64) if values.dtype.kind == "f" else values
        return values.reshape(()) if values.size == 1 else np.resize(values, channels)[:, None]

    def _functions(self, root: Value, source: Source, channels: int) -> tuple[Nudged, Function | None]:
        """The codes of integers [channels, n], and what the last node rounds before it adds its zero point, if it is a
        Quantize; nudge: is added to that."""
        scale, offset = (np.resize(a, channels)[:, None] for a in source.affine())

        def value(a: np.ndarray, nodes: Sequence[Node]) -> dict[Value, np.ndarray]:
            x = a * scale + offset
            env = {root: x.astype(DTYPES[root.type.dtype].numpy) if is_integer(root.type.dtype) else x}
            self._run(env, nodes, channels)
            return env

        last = self.path[-1]

        def f(nudge: float, a: np.ndarray) -> np.ndarray:
            if nudge and isinstance(last.op, Quantize):
                return np.broadcast_to(self._nudged(value(a, self.path[:-1]), last, nudge), a.shape)
            return np.broadcast_to(value(a, self.path)[self.result], a.shape)

        if not isinstance(last.op, Quantize):
            return f, None
        return f, lambda a: np.broadcast_to(self._unrounded(value(a, self.path[:-1]), last), a.shape)

    def _unrounded(self, env: Mapping[Value, np.ndarray], last: Node) -> np.ndarray:
        pair = scalar_pair(last, self.graph.constants)
        assert pair is not None
        return env[last.inputs[0]] / pair[0]

    def _zero(self) -> int:
        """The code of zero, if the last node is a Quantize."""
        pair = scalar_pair(self.path[-1], self.graph.constants) if isinstance(self.path[-1].op, Quantize) else None
        return pair[1] if pair else 0

    def _nudged(self, env: Mapping[Value, np.ndarray], last: Node, nudge: float) -> np.ndarray:
        pair, op = scalar_pair(last, self.graph.constants), last.op
        assert pair is not None
        assert isinstance(op, Quantize)
        return np.clip(np.rint(env[last.inputs[0]] / pair[0] + nudge) + pair[1], op.low, op.high)

    def _run(self, env: dict[Value, np.ndarray], nodes: Sequence[Node], channels: int) -> None:
        with np.errstate(all="ignore"):
            for node in nodes:
                if isinstance(node.op, Quantize):  # its parameters are those of the whole tensor
                    operands = [env[node.inputs[0]], *(self.graph.constants[v] for v in node.inputs[1:])]
                else:
                    operands = [env[v] if v in env else self._constant(v, channels) for v in node.inputs]
                env[node.outputs[0]] = node.op.evaluate(*operands)[0]

    def _knees(self) -> list[int]:
        """Codes at which a rectifier may bend: that of zero, and its neighbours."""
        zero = self._zero()
        return [zero, zero + 1, zero - 1]

    def _lookup(
        self, b: BodyBuilder, reg: Reg, f: Function, channels: int, table_name: Callable[[], str]
    ) -> Reg | None:
        """Every code of a narrow operand in a table."""
        operand = reg.type
        if channels > 1 or operand.bits > _LOOKUP_BITS:
            return None
        codes = np.arange(operand.low, operand.high + 1, dtype=np.int64)
        y = f(codes[None])[0].astype(np.int64)
        about = f"{self.result.name} of every code"
        plain = replace(operand, frac=0)
        return b.table(replace(reg, frac=0), exact_table(table_name(), y, plain, about))

    def _pair(self, b: BodyBuilder, sources: Mapping[Value, Source]) -> Reg | None:
        """A sum of two tensors of codes, quantized again."""
        last = self.path[-1]
        affine = [s.affine() for s in sources.values()]
        scalars = all(a.size == 1 for pair in affine for a in pair)
        if not isinstance(last.op, Quantize) or not scalars or not all(_adds(n, self.graph) for n in self.path):
            return None
        if self._channels(next(iter(sources.values()))) != 1:
            return None

        def value(a: np.ndarray, nodes: Sequence[Node]) -> dict[Value, np.ndarray]:
            env = {v: a[n] * s[0] + o[0] for n, (v, (s, o)) in enumerate(zip(sources, affine, strict=True))}
            self._run(env, nodes, 1)
            return env

        regs = [s.reg for s in sources.values()]
        grid = [_tried(r.low, r.high) for r in regs]
        def nudged(nudge: float) -> Function:
            return lambda a: self._nudged(value(a, self.path[:-1]), last, nudge)

        functions = (lambda a: value(a, self.path)[self.result]), (lambda a: self._unrounded(value(a, self.path[:-1]), last))
        zero = self._zero()
        found = fit_sum(*functions, zero, grid)
        if found is None and not self._has_steps():
            found = fit_sum(*functions, zero, grid, (nudged(-TIE), nudged(TIE)))
        if found is None:
            return None
        total = b.integers(found.b)
        for r, factor in zip(regs, found.m, strict=True):
            total = b.binary("add", total, b.binary("mul", replace(r, frac=0), b.integers(np.array([factor]))))
        total = replace(total, frac=found.shift)
        return b.whole(total, *found.codes, found.zero) if found.even else b.floor(total, *found.codes)


def _tried(low: int, high: int) -> np.ndarray:
    """All codes, or groups of four neighbours (for the sake of ties) across the range."""
    if high - low < _GRID:
        return np.arange(low, high + 1)
    starts = np.linspace(low, high - 3, _GRID // 4).round().astype(np.int64)
    return np.unique(starts[:, None] + np.arange(4))


_RISING = {"neg", "exp", "log", "sqrt", "tanh", "sigmoid", "atan", "sinh", "asinh", "floor", "ceil", "rint", "sign"}
_BOUNDED = {"add", "sub", "mul", "div", "max", "min", "lt", "le", "gt", "ge"}


def _rises(node: Node, graph: Graph) -> bool:
    """Whether a node rises or falls with its one operand that is no constant; of a selection the search tries it."""
    op = node.op
    if isinstance(op, Binary):
        return op.fn in _BOUNDED and sum(v not in graph.constants for v in node.inputs) == 1
    return isinstance(op, (Quantize, Saturate, Cast, Select)) or (isinstance(op, Unary) and op.fn in _RISING)


def _adds(node: Node, graph: Graph) -> bool:
    """Whether a node may stand in a sum of several operands that is quantized."""
    free = sum(v not in graph.constants for v in node.inputs)
    return isinstance(node.op, Quantize) or (isinstance(node.op, Binary) and (
        node.op.fn in ("add", "sub") or (free == 1 and node.op.fn in ("mul", "div", "max", "min"))))
