"""`--check-passes`: the meaning of the graph before and after every pass, on one set of seeded random inputs.

The reference is the graph as imported, run by the interpreter.  A pass may change the rounding of floats: results are
compared with a tolerance of each element type, relative to the largest magnitude of the tensor; integers, booleans,
infinities and NaNs must be equal.
"""

from __future__ import annotations

import numpy as np

from ..ir.errors import InternalError, ModelError
from ..ir.expr import Expr, Var, const
from ..ir.graph import Graph
from ..ir.interpreter import run_graph
from ..ir.traverse import substitute, walk
from ..ir.types import DTYPES, TensorType

SEED = 20240229
SYMBOLIC_SIZE = 3  # what an unbound dimension is taken to be
TOLERANCE = {"f64": 1e-9, "f32": 1e-4, "f16": 1e-2, "bf16": 5e-2}
_MAX_ELEMENTS = 2**28  # of one random input; more would not fit the interpreter's memory


class Differential:
    """Holds the random inputs and the outputs that every later graph must reproduce."""

    def __init__(self, graph: Graph) -> None:
        self.inputs = random_inputs(graph)
        self.expected = run_graph(graph, self.inputs)

    def compare(self, name: str, before: Graph, after: Graph) -> None:
        """Raises InternalError that names the pass if the outputs differ."""
        got = run_graph(after, self.inputs)
        for output, want, have in zip(before.output_names, self.expected, got, strict=True):
            problem = difference(np.asarray(want), np.asarray(have))
            if problem:
                raise InternalError(
                    f"pass {name} changes the results: output {output!r} {problem} (inputs: seed {SEED})",
                    ir=f"before {name}:\n{before}\n\nafter {name}:\n{after}",
                )


def random_inputs(graph: Graph, seed: int = SEED) -> list[np.ndarray]:
    """Arrays for the graph's inputs: floats are normal, integers 0 or 1 (so that indices stay inside), bools even."""
    rng = np.random.default_rng(seed)
    return [_random_array(rng, v.name, v.type) for v in graph.inputs]


def _random_array(rng: np.random.Generator, name: str, type: TensorType) -> np.ndarray:
    shape = tuple(_size(d) for d in type.shape)
    if int(np.prod(shape, dtype=object)) > _MAX_ELEMENTS:
        raise ModelError(f"input {name!r}: {type} is too large to check passes with; bind smaller dimensions")
    info = DTYPES[type.dtype]
    values = rng.standard_normal(shape) if info.kind == "f" else rng.integers(0, 2, shape)
    return np.asarray(values).astype(info.numpy)


def _size(dim: int | Expr) -> int:
    if isinstance(dim, int):
        return dim
    bound = substitute(dim, {v: const(SYMBOLIC_SIZE) for v in walk(dim) if isinstance(v, Var)})
    value = getattr(bound, "value", None)
    if not isinstance(value, int):
        raise InternalError(f"dimension {dim} has no value when its symbols are {SYMBOLIC_SIZE}")
    return value


def difference(want: np.ndarray, have: np.ndarray) -> str:
    """How two results differ, in words, or "" if they agree."""
    if want.dtype != have.dtype or want.shape != have.shape:
        return f"was {want.dtype}{list(want.shape)}, is {have.dtype}{list(have.shape)}"
    tolerance = next((t for d, t in TOLERANCE.items() if DTYPES[d].numpy == want.dtype), None)
    if tolerance is None:
        wrong = int(np.count_nonzero(want != have))
        return f"differs in {wrong} of {want.size} elements" if wrong else ""
    a, b = want.astype(np.float64), have.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    odd = ~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if odd.any():
        return f"differs in {int(odd.sum())} infinite or NaN elements of {want.size}"
    if not finite.any():
        return ""
    worst = float(np.abs(a[finite] - b[finite]).max())
    scale = float(np.abs(a[finite]).max())
    return f"differs by {worst:.3g} where values reach {scale:.3g}" if worst > tolerance * max(scale, 1e-30) else ""
