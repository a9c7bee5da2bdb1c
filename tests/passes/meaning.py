"""What the tests of passes share: a graph means the same before and after, and how many nodes of a kind it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.types import DTYPES, TensorType
from tilewright.ir.verify import verify_graph

RNG_SEED = 7


def f32(*shape: int) -> TensorType:
    return TensorType("f32", shape)


def array(*shape: int, seed: int = RNG_SEED) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def number(b: Builder, value: float, dtype: str = "f32") -> Value:
    return b.constant(np.array(value, DTYPES[dtype].numpy))


def random_inputs(graph: Graph, seed: int = RNG_SEED) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        np.asarray(rng.standard_normal(v.type.static_shape) * 2).astype(DTYPES[v.type.dtype].numpy)
        if DTYPES[v.type.dtype].kind == "f"
        else rng.integers(0, 2, v.type.static_shape).astype(DTYPES[v.type.dtype].numpy)
        for v in graph.inputs
    ]


def counts(graph: Graph) -> Counter[str]:
    """Nodes by operator; those with a function by its name."""
    return Counter(str(getattr(node.op, "fn", node.op.name)) for node in graph.nodes)


def preserved(graph: Graph, apply: Callable[[Graph], Graph], tolerance: float = 0.0, seed: int = RNG_SEED) -> Graph:
    """The graph after a pass, which must be valid, have the same interface and give the same results: equal, or within
    a tolerance relative to the largest magnitude."""
    after = apply(graph)
    verify_graph(after)
    assert [v.type for v in after.inputs] == [v.type for v in graph.inputs]
    assert after.output_names == graph.output_names
    inputs = random_inputs(graph, seed)
    for want, have in zip(run_graph(graph, inputs), run_graph(after, inputs), strict=True):
        assert want.dtype == have.dtype and want.shape == have.shape
        scale = np.max(np.abs(want[np.isfinite(want)]), initial=1) if want.dtype.kind == "f" else 1
        np.testing.assert_allclose(
            np.asarray(have, np.float64), np.asarray(want, np.float64), rtol=0, atol=tolerance * float(scale)
        )
    return after
