"""Control flow: operators with graphs as fields.  They have no loops of their own; their graphs are lowered as steps,
Scan as the Loop that it is.

A graph in a field uses nothing but its own inputs: values captured from outside are operands, listed last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..dims import as_dim
from ..graph import Builder, Graph, Value, inline_graph
from ..types import DTYPES, Dim, TensorType
from .base import Op
from .dim_tensor import DimTensor
from .elementwise import Binary
from .movement import Gather, Slice, Transpose
from .operands import require, require_axis, require_count, require_scalar

BOOL, I64 = TensorType("bool", ()), TensorType("i64", ())


def run(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    from ..interpreter import run_graph

    return run_graph(graph, arrays)


def require_inputs(op: Op, what: str, graph: Graph, given: Sequence[TensorType]) -> None:
    wanted = [v.type for v in graph.inputs]
    require(wanted == list(given), op, "the {} takes {}, it is given {}", what, wanted, list(given))


@dataclass(frozen=True)
class If(Op):
    """Operands: a bool scalar, then what both graphs take.  Outputs: those of the graph that is run."""

    then: Graph = field(repr=False)
    other: Graph = field(repr=False)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) > 0, self, "expected a condition")
        require_scalar(self, "the condition", types[0], "bool")
        require_inputs(self, "then-branch", self.then, types[1:])
        require_inputs(self, "else-branch", self.other, types[1:])
        outputs = tuple(v.type for v in self.then.outputs)
        others = tuple(v.type for v in self.other.outputs)
        require(outputs == others, self, "the branches give different types, {} and {}", outputs, others)
        return outputs

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(run(self.then if arrays[0] else self.other, arrays[1:]))


@dataclass(frozen=True)
class Loop(Op):
    """Operands: trip count (i64), condition (bool), `carried` values, captured values.  The body takes the iteration
    number, the condition, the carried and the captured values; it gives the condition, the carried values and `scanned`
    more.  Outputs: the carried values at the end, and the scanned ones stacked along a new first axis.

    length: the size of that axis, the number of iterations; symbolic if only the run tells.
    """

    body: Graph = field(repr=False)
    carried: int
    scanned: int
    length: Dim = 0

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        count = len(types) - 2
        require(count >= self.carried, self, "expected {} carried values, got {}", self.carried, count)
        require_scalar(self, "the trip count", types[0], "i64")
        require_scalar(self, "the condition", types[1], "bool")
        require_inputs(self, "body", self.body, (I64, *types[1:]))
        outputs = [v.type for v in self.body.outputs]
        wanted = [BOOL, *types[2 : 2 + self.carried]]
        require(outputs[: 1 + self.carried] == wanted, self, "the body must give back {}, it gives {}", wanted, outputs)
        scanned = outputs[1 + self.carried :]
        require(len(scanned) == self.scanned, self, "expected {} scanned outputs, got {}", self.scanned, len(scanned))
        return (*wanted[1:], *(TensorType(t.dtype, (self.length, *t.shape)) for t in scanned))

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        trips, go = int(arrays[0]), bool(arrays[1])
        carried, captured = list(arrays[2 : 2 + self.carried]), arrays[2 + self.carried :]
        stacks: list[list[np.ndarray]] = [[] for _ in range(self.scanned)]
        iteration = 0
        while go and iteration < trips:
            made = run(self.body, (np.array(iteration), np.array(go), *carried, *captured))
            go, carried = bool(made[0]), made[1 : 1 + self.carried]
            for stack, array in zip(stacks, made[1 + self.carried :], strict=True):
                stack.append(array)
            iteration += 1
        types = [v.type for v in self.body.outputs[1 + self.carried :]]
        return (*carried, *(stacked(s, t, 0) for s, t in zip(stacks, types, strict=True)))


@dataclass(frozen=True)
class Scan(Op):
    """Operands: `states` carried values, sequences, captured values.  The body takes the states, one slice of each
    sequence and the captured values; it gives the states and slices of output sequences.

    input_axes, output_axes: along which axis each sequence runs; input_reverse, output_reverse: whether from its end.
    """

    body: Graph = field(repr=False)
    states: int
    input_axes: tuple[int, ...]
    input_reverse: tuple[bool, ...]
    output_axes: tuple[int, ...]
    output_reverse: tuple[bool, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        n, m = self.states, self.states + len(self.input_axes)
        require(len(types) >= m and m > n, self, "expected {} states and sequences, got {}", m, len(types))
        states, sequences = types[:n], types[n:m]
        slices: list[TensorType] = []
        for axis, t in zip(self.input_axes, sequences, strict=True):
            require_axis(self, axis, t)
            slices.append(TensorType(t.dtype, t.shape[:axis] + t.shape[axis + 1 :]))
        lengths = {t.shape[axis] for axis, t in zip(self.input_axes, sequences, strict=True)}
        require(len(lengths) == 1, self, "the sequences have different lengths: {}", lengths)
        require_inputs(self, "body", self.body, (*states, *slices, *types[m:]))
        outputs = tuple(v.type for v in self.body.outputs)
        require(outputs[:n] == states, self, "the body must give back {}, it gives {}", states, outputs)
        count = len(self.output_axes)
        require(len(outputs) == n + count, self, "expected {} output sequences, got {}", count, len(outputs) - n)
        rows = zip(outputs[n:], self.output_axes, strict=True)
        return (*states, *(with_axis(t, axis, as_dim(next(iter(lengths)))) for t, axis in rows))

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        n, m = self.states, self.states + len(self.input_axes)
        states, captured = list(arrays[:n]), arrays[m:]
        rows = zip(arrays[n:m], self.input_axes, self.input_reverse, strict=True)
        sequences = [np.moveaxis(x, axis, 0)[:: -1 if back else 1] for x, axis, back in rows]
        stacks: list[list[np.ndarray]] = [[] for _ in self.output_axes]
        for slices in zip(*sequences, strict=True):
            made = run(self.body, (*states, *slices, *captured))
            states = made[:n]
            for stack, array in zip(stacks, made[n:], strict=True):
                stack.append(array)
        types = [v.type for v in self.body.outputs[n:]]
        ends = zip(stacks, types, self.output_axes, self.output_reverse, strict=True)
        return (*states, *(stacked(s[:: -1 if back else 1], t, axis) for s, t, axis, back in ends))

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        """A Loop that captures the sequences and gathers its slices at the iteration number."""
        n, m = self.states, self.states + len(self.input_axes)
        steps = values[n].type.shape[self.input_axes[0]]
        body = self._loop_body([v.type for v in values], steps)
        trips = b.constant(np.array(steps)) if isinstance(steps, int) else b.add(DimTensor((steps,), ()))
        loop = Loop(body, n, len(self.output_axes), steps)
        made = b.add_multi(loop, trips, b.constant(np.array(True)), *values[:n], *values[n:m], *values[m:])
        ends = zip(made[n:], self.output_axes, self.output_reverse, strict=True)
        return (*made[:n], *(_laid_out(b, v, axis, back) for v, axis, back in ends))

    def _loop_body(self, types: Sequence[TensorType], steps: Dim) -> Graph:
        n, m = self.states, self.states + len(self.input_axes)
        b = Builder(self.body.name)
        i, go = b.input("iteration", I64), b.input("go", BOOL)
        states, sequences, captured = (
            [b.input(name, t) for t in part]
            for name, part in (("state", types[:n]), ("sequence", types[n:m]), ("captured", types[m:]))
        )
        slices = []
        for v, axis, back in zip(sequences, self.input_axes, self.input_reverse, strict=True):
            at = i
            if back:
                last = b.constant(np.array(steps - 1)) if isinstance(steps, int) else b.add(DimTensor((steps - 1,), ()))
                at = b.add(Binary("sub"), last, i)
            slices.append(b.add(Gather(axis), v, at))
        return b.graph([go, *inline_graph(b, self.body, *states, *slices, *captured)], ("go", *self.body.output_names))


def _laid_out(b: Builder, v: Value, axis: int, reverse: bool) -> Value:
    """Slices that were stacked along the first axis, in their order and along their axis."""
    length, *others = v.type.shape
    if reverse:
        flat = (0,) * len(others)
        v = b.add(Slice((as_dim(length - 1), *flat), v.type.shape, (-1, *(1 for _ in others))), v)
    rank = 1 + len(others)
    perm = (*range(1, axis + 1), 0, *range(axis + 1, rank))
    return v if axis == 0 else b.add(Transpose(perm), v)


@dataclass(frozen=True)
class Fused(Op):
    """Nodes that become one kernel.  Operands and outputs are those of the body; kind says why they were grouped."""

    body: Graph = field(repr=False)
    kind: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, len(self.body.inputs))
        require_inputs(self, "body", self.body, types)
        return tuple(v.type for v in self.body.outputs)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(run(self.body, arrays))


def with_axis(t: TensorType, axis: int, extent: Dim) -> TensorType:
    return TensorType(t.dtype, (*t.shape[:axis], extent, *t.shape[axis:]))


def stacked(arrays: Sequence[np.ndarray], t: TensorType, axis: int) -> np.ndarray:
    """Arrays of one type joined along a new axis; none at all give an axis of size 0."""
    if not arrays:
        return np.zeros(with_axis(t, axis, 0).static_shape, DTYPES[t.dtype].numpy)
    return np.stack(arrays, axis)
