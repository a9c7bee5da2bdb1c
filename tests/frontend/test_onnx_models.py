"""Real models, where they are at hand: each one imports and gives its reference."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tilewright.frontend.onnx import import_model
from tilewright.ir.interpreter import run_graph

SHARED = Path(os.environ.get("TILEWRIGHT_TEST_MODELS", Path(__file__).parents[3] / "shared" / "models"))

MODELS = sorted(p.parent.name for p in SHARED.glob("*/model.onnx"))
needs_models = pytest.mark.skipif(not MODELS, reason=f"no models in {SHARED} (TILEWRIGHT_TEST_MODELS)")


def agree(got: np.ndarray, expected: np.ndarray, rtol: float, atol: float) -> float:
    """The share of elements that differ by more than atol * the largest magnitude + rtol * their own."""
    if got.dtype == object:
        return float((got != expected.astype(object)).mean())
    assert got.shape == expected.shape and got.dtype == expected.dtype
    a, b = got.astype(np.float64), expected.astype(np.float64)
    scale = float(np.abs(b).max(initial=0)) if expected.dtype.kind == "f" else 0
    return float((np.abs(a - b) > atol * scale + rtol * np.abs(b) * (expected.dtype.kind == "f")).mean()) if a.size else 0


@needs_models
@pytest.mark.parametrize("name", MODELS)
def test_models_give_their_references(name: str) -> None:
    for data in sorted((SHARED / name).glob("io*.npz")):
        with np.load(data) as z:
            io = dict(z)
        names = [str(n) for n in io["input_names"]]
        arrays = [io[f"input_{i}"] for i in range(len(names))]
        graph = import_model(SHARED / name / "model.onnx", shapes=dict(zip(names, (a.shape for a in arrays), strict=True)))
        outputs = run_graph(graph, dict(zip(names, arrays, strict=True)))
        for i, got in enumerate(outputs):
            share = agree(got, io[f"output_{i}"], float(io.get("rtol", 1e-3)), float(io.get("atol", 1e-4)))
            assert share <= float(io.get("bad_frac", 0)), f"{data.name}, output {i}"


@needs_models
def test_dynamic_models_import_without_sizes() -> None:
    for name in ("byte_bidi_lstm", "crepe_tiny", "godot_lander", "magika_fast", "ppocr_cls"):
        graph = import_model(SHARED / name / "model.onnx")
        with np.load(SHARED / name / "io_alt.npz") as z:
            got = run_graph(graph, [z[f"input_{i}"] for i in range(len(graph.inputs))])
            assert agree(got[0], z["output_0"], 1e-3, 1e-4) == 0
