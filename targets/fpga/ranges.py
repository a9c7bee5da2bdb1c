"""Which values occur where: the model runs on calibration data, and every value's smallest and largest element is kept.

The data are the user's (an .npz with one array per input; a leading axis of samples may be added), or seeded random ones
over the declared range of the inputs: noise, normal and uniform, and fields that vary slowly, as pictures do, which
reach further into a network than noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...ir.errors import OptionError
from ...ir.graph import Graph, Node, Value
from ...ir.interpreter import run_graph
from ...ir.ops.arithmetic import widen
from ...ir.ops.norm import Attention
from ...ir.ops.recurrent import Recurrent
from ...ir.types import DTYPES, is_float

Range = tuple[float, float]
Samples = list[list[np.ndarray]]
Key = TypeVar("Key")

SEED = 20260
ASSUMED: Range = (-1.0, 1.0)


def random_samples(graph: Graph, reach: Range, count: int) -> Samples:
    """Inputs in order, per sample."""
    rng = np.random.default_rng(SEED)
    low, high = reach
    return [
        [_random(rng, n, v.type.static_shape, low, high).astype(DTYPES[v.type.dtype].numpy) for v in graph.inputs]
        for n in range(count)
    ]


def _random(rng: np.random.Generator, kind: int, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Noise for even kinds (normal, with an eighth of the range as deviation), else blocks of one value or uniform noise."""
    if kind % 2 == 0:
        return np.clip(rng.normal((low + high) / 2, (high - low) / 8, shape), low, high)
    if kind % 4 == 1:
        return rng.uniform(low, high, shape)
    coarse = rng.uniform(low, high, tuple(-(-n // 4) for n in shape))
    for d, n in enumerate(shape):
        coarse = np.repeat(coarse, 4, axis=d)[(slice(None),) * d + (slice(n),)]
    return coarse


def read_samples(path: Path, graph: Graph) -> Samples:
    """Raises OptionError for a file that has not every input with its shape, or one more leading axis."""
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {k: data[k] for k in data.files}
    except (OSError, ValueError) as error:
        raise OptionError(f"calibration: cannot read {path}: {error}") from error
    per_input = []
    for v in graph.inputs:
        if v.name not in arrays:
            raise OptionError(f"calibration: {path} has {', '.join(arrays) or 'no arrays'}; expected the input {v.name!r}")
        a, shape = arrays[v.name], v.type.static_shape
        stacked = a[None] if a.shape == shape else a
        if stacked.shape[1:] != shape:
            batched = len(shape) > 0 and shape[0] == 1 and a.shape[1:] == shape[1:]
            if not batched:
                raise OptionError(f"calibration: {v.name!r} of {path} has shape {a.shape}; expected {shape}, or samples of it")
            stacked = a[:, None]
        per_input.append(stacked.astype(DTYPES[v.type.dtype].numpy))
    if len({len(a) for a in per_input}) > 1:
        raise OptionError(f"calibration: the inputs of {path} have different numbers of samples")
    return [list(sample) for sample in zip(*per_input, strict=True)]


class Ranges:
    """of: (low, high) of every float value.  cells: of what a recurrent node has inside, by name.
    outputs: the float outputs per sample."""

    def __init__(self, graph: Graph, samples: Sequence[Sequence[np.ndarray]], declared: Range | None) -> None:
        self.of: dict[Value, Range] = {}
        self.cells: dict[tuple[Node, str], Range] = {}
        self.outputs: list[list[np.ndarray]] = []
        if not samples:
            raise OptionError("calibration: expected at least one sample")
        for sample in samples:
            self._values: dict[Value, np.ndarray] = dict(zip(graph.inputs, sample, strict=True))
            self._inner = [n for n in graph.nodes if isinstance(n.op, (Recurrent, Attention))]
            self.outputs.append(run_graph(graph, list(sample), self._observe))
            for v, a in zip(graph.inputs, sample, strict=True):
                self._widen(self.of, v, a)
            for node in self._inner:
                arrays = [graph.constants[x] if x in graph.constants else self._values[x] for x in node.inputs]
                if isinstance(node.op, Recurrent):
                    self._steps(node, node.op, arrays)
                elif isinstance(node.op, Attention):
                    self._scores(node, node.op, arrays)
        if declared is not None:
            for v in graph.inputs:
                if is_float(v.type.dtype):
                    self.of[v] = (min(declared[0], self.of[v][0]), max(declared[1], self.of[v][1]))

    @classmethod
    def assumed(cls, graph: Graph) -> Ranges:
        """The same small range for every value, without a run: enough to see what can be lowered, not how well."""
        ranges = cls.__new__(cls)
        ranges.of = dict.fromkeys((*graph.inputs, *(v for n in graph.nodes for v in n.outputs)), ASSUMED)
        ranges.cells = defaultdict(lambda: ASSUMED)
        ranges.outputs = []
        return ranges

    def _observe(self, node: Node, results: tuple[np.ndarray, ...]) -> None:
        for v, a in zip(node.outputs, results, strict=True):
            self._widen(self.of, v, a)
            if any(v in n.inputs for n in self._inner):
                self._values[v] = a

    @staticmethod
    def _widen(table: dict[Key, Range], key: Key, a: np.ndarray) -> None:
        if a.size == 0 or a.dtype.kind not in "fiub":
            return
        a = a[np.isfinite(a)] if a.dtype.kind == "f" else a
        if a.size == 0:
            return
        low, high = table.get(key, (np.inf, -np.inf))
        table[key] = (min(low, float(a.min())), max(high, float(a.max())))

    def _scores(self, node: Node, op: Attention, arrays: list[np.ndarray]) -> None:
        q, k = (widen(a) for a in arrays[:2])
        k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
        self._widen(self.cells, (node, "score"), np.einsum("bhmd,bhsd->bhms", q, k) * op.scale)

    def _steps(self, node: Node, op: Recurrent, arrays: list[np.ndarray]) -> None:
        """Runs the cell step by step: pre-activations, the product of a GRU's candidate, states."""
        xw, r, vector, states, _ = op.operands([widen(a) for a in arrays])
        extra = 0 if vector is None else vector[: r.shape[0]]
        order = range(len(xw) - 1, -1, -1) if op.reverse else range(len(xw))
        for t in order:
            self._widen(self.cells, (node, "gates"), xw[t] + states[0] @ r)
            self._widen(self.cells, (node, "gates"), xw[t])
            self._widen(self.cells, (node, "inner"), states[0] @ r[:, -r.shape[0]:] + extra)
            for n, s in enumerate(states):
                self._widen(self.cells, (node, f"state{n}"), s)
            states = op.cell(xw[t], r, vector, *states)
        for n, s in enumerate(states):
            self._widen(self.cells, (node, f"state{n}"), s)
