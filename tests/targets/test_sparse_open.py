"""Sparse products with open rows: every number of rows gives the interpreter's numbers, also those that run densely."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from frontend.onnx_models import model, node, value
from onnx import ModelProto, TensorProto
from tilewright.codegen.strategies.sparse_open import open_parts
from tilewright.compiler.api import compile
from tilewright.frontend.onnx import import_model
from tilewright.ir.expr import Var, as_expr
from tilewright.ir.interpreter import run_graph
from tilewright.ir.traverse import substitute

RNG = np.random.default_rng(3)


def weights(depth: int, outputs: int, density: float, block: int) -> np.ndarray:
    kept = np.repeat(RNG.random((depth, outputs // block)) < density, block, axis=1)
    return (RNG.integers(1, 16, (depth, outputs)) * RNG.choice((-1, 1), (depth, outputs)) / 8 * kept).astype(np.float32)


def floats() -> ModelProto:
    """Blocks, an open batch and an open length, a residual; then unstructured zeros."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["c"]), node("Add", ["c", "x"], ["d"]),
        node("Relu", ["d"], ["e"]), node("MatMul", ["e", "u"], ["y"]),
    ]  # fmt: skip
    constants = {"w": weights(72, 72, 0.15, 8), "b": np.arange(72, dtype=np.float32), "u": weights(72, 44, 0.1, 1)}
    return model(nodes, [value("x", "n", "m", 72)], ["y"], constants)


def batches() -> ModelProto:
    """An open batch of constant lengths."""
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["y"])]
    return model(nodes, [value("x", "n", 20, 64)], ["y"], {"w": weights(64, 80, 0.1, 4)})


def integers() -> ModelProto:
    """Bytes with words of four steps; scales are powers of two, so that nothing is rounded before the end."""
    w = np.repeat(weights(32, 96, 0.15, 8), 4, axis=0).clip(-1, 1) * 100
    nodes = [
        node("DequantizeLinear", ["x", "s", "z"], ["xf"]), node("DequantizeLinear", ["w", "t"], ["wf"], axis=1),
        node("MatMul", ["xf", "wf"], ["m"]), node("QuantizeLinear", ["m", "r", "z"], ["y"]),
    ]  # fmt: skip
    constants = {"w": w.astype(np.int8), "t": np.full(96, 2**-7, np.float32), "s": np.float32(2**-6), "z": np.uint8(120),
                 "r": np.float32(0.5)}
    return model(nodes, [value("x", "n", "m", 128, dtype=TensorProto.UINT8)], ["y"], constants)


@pytest.mark.parametrize("make, depth", [(floats, 72), (batches, 64), (integers, 128)])
def test_any_number_of_rows(make: Callable[[], ModelProto], depth: int) -> None:
    proto = make()
    artifact = compile(proto, name="open", target="cpu")
    notes = [call["schedule"] for call in artifact.manifest["kernels"]]
    assert any(note.startswith("sparse") for note in notes), notes
    graph = import_model(proto)
    modules = [artifact.load(threads) for threads in (1, 2)]
    for n, m in ((1, 1), (1, 31), (1, 33), (3, 16), (1, 63), (1, 64), (5, 13), (2, 40), (1, 95), (3, 37), (9, 20)):
        shape = (n, 20 if make is batches else m, depth)
        x = RNG.integers(0, 17, shape).astype(np.uint8) if make is integers else RNG.integers(-8, 9, shape).astype(np.float32)
        (expected,) = run_graph(graph, [x])
        for module in modules:
            np.testing.assert_array_equal(module(x)[0], expected, f"{shape}")


@pytest.mark.parametrize("width, lanes, least", [(48, 16, 48), (64, 16, 80), (32, 16, 32), (8, 4, 8), (16, 16, 16)])
def test_parts_cover_every_row(width: int, lanes: int, least: int) -> None:
    n = Var.of("n", None)
    for rows in range(1, 3 * width):
        counts = np.zeros(rows, int)
        for start, count, size in open_parts(n, width, lanes, least):
            many = substitute(as_expr(count), {n: as_expr(rows)})
            for panel in range(many.value):  # type: ignore[attr-defined]
                first = substitute(as_expr(start), {n: as_expr(rows)}).value + panel * size  # type: ignore[attr-defined]
                assert first >= 0 and first + size <= rows
                counts[first : first + size] += 1
        assert counts.all() if rows >= least else not counts.any(), rows
