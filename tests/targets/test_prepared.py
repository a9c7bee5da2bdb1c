"""Weights that an instance transforms for itself: the artifact is smaller, the results are the same within rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto, helper, numpy_helper


def _model(columns: int) -> bytes:
    """Two 3 x 3 convolutions on 28 x 28 pixels, of 64 and 64 + columns channels."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((o, i, 3, 3)).astype(np.float32) / 24 for i, o in ((64, 64), (64, 64 + columns))]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["y"], pads=[1, 1, 1, 1]),
    ]
    shapes = {"x": [1, 64, 28, 28], "y": [1, 64 + columns, 28, 28]}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()}
    named = [numpy_helper.from_array(w, f"w{n}") for n, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "two", [values["x"]], [values["y"]], named)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("columns", [0, 8])
def test_weights_transformed_at_create_time(columns: int, tmp_path: Path) -> None:
    model = _model(columns)
    x = np.random.default_rng(1).standard_normal((1, 64, 28, 28)).astype(np.float32)
    sizes, results = {}, {}
    for when in ("compile", "create"):
        artifact = tilewright.compile(model, name="two", transform_weights=when, cache=False)
        assert "Winograd" in artifact.manifest_text
        place = artifact.save(tmp_path / when)
        sizes[when] = (place / "libtwo.so").stat().st_size
        runs = [tilewright.load(place, threads=threads)(x)[0] for threads in (1, 2, 3) for _ in range(2)]
        for other in runs[1:]:
            np.testing.assert_array_equal(other, runs[0])
        results[when] = runs[0]
    largest = np.abs(results["compile"]).max()
    assert np.abs(results["create"] - results["compile"]).max() < 1e-5 * largest
    weights = sum(numpy_helper.to_array(t).nbytes for t in onnx.load_from_string(model).graph.initializer)
    assert sizes["create"] < weights + 200_000 < 2 * weights < sizes["compile"]
