"""Operators in the standard's domain that the standard does not have, as converters and optimizers write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from frontend.onnx_models import draw, model, node, run, value
from tilewright.ir.errors import ModelError

X = draw(2, 3, 6, 5)


def normal(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize(("op", "attributes", "expected"), [
    ("ImageScaler", {"bias": [0.5, -1.0, 2.0], "scale": 3.0}, X * 3 + np.float32([0.5, -1, 2])[:, None, None]),
    ("Crop", {"border": [1, 2, 1, 0]}, X[:, :, 2:, 1:4]),
    ("Crop", {"border": [1, 2, 0, 0], "scale": [3, 2]}, X[:, :, 2:5, 1:3]),
    ("Scale", {"scale": 0.5}, X / 2),
    ("Affine", {"alpha": 2.0, "beta": 1.0}, X * 2 + 1),
    ("ScaledTanh", {"alpha": 2.0, "beta": 0.5}, 2 * np.tanh(X / 2)),
    ("ParametricSoftplus", {"alpha": 2.0, "beta": 0.5}, 2 * np.log1p(np.exp(X / 2))),
])  # fmt: skip
def test_experiments(op: str, attributes: dict[str, Any], expected: np.ndarray) -> None:
    m = model([node(op, ["x"], ["y"], **attributes)], [value("x", 2, 3, 6, 5)], ["y"], opset=9)
    np.testing.assert_allclose(run(m, X)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [9, 13, 17])
def test_layer_norms_of_every_opset(opset: int) -> None:
    n = node("LayerNormalization", ["x", "s", "b"], ["y"], axis=-1, epsilon=1e-5)
    m = model([n], [value("x", 2, 3, 6, 5)], ["y"], {"s": np.arange(1, 6, dtype=np.float32), "b": draw(5)}, opset=opset)
    np.testing.assert_allclose(run(m, X)[0], normal(X) * np.arange(1, 6) + draw(5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("op", "attributes", "message"), [
    ("Crop", {"border": [1, 2, 4, 0]}, "are not in"), ("ImageScaler", {"bias": [1.0, 2.0]}, "2 biases do not fit"),
])  # fmt: skip
def test_what_does_not_fit(op: str, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run(model([node(op, ["x"], ["y"], **attributes)], [value("x", 2, 3, 6, 5)], ["y"], opset=9), X)


def test_models_for_one_processor_are_refused() -> None:
    n = node("ReorderInput", ["x"], ["y"], domain="com.microsoft.nchwc")
    with pytest.raises(ModelError, match="take the original model"):
        run(model([n], [value("x", 2, 3, 6, 5)], ["y"], domains={"com.microsoft.nchwc": 1}), X)
