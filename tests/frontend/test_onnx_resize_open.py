"""Resize along axes whose sizes are known when the model runs: as with the sizes known while compiling."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tilewright
from frontend.onnx_models import draw, model, node, unknown, value
from onnx import helper
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import ModelError
from tilewright.ir.interpreter import run_graph

SIZES = ((5, 7), (9, 4), (1, 1), (24, 30))


def resize(
    dtype: type[np.generic], sizes: list[int] | None = None, scales: list[float] | None = None, **how: Any
) -> onnx.ModelProto:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = ["x", "", "scales" if scales else "", "sizes" if sizes else ""]
    constants = {"scales": np.array(scales, np.float32)} if scales else {"sizes": np.array(sizes)}
    return model([node("Resize", names, ["y"], axes=[0, 1], **how)], [value("x", "h", "w", 3, dtype=code)], [unknown("y")],
                 constants)  # fmt: skip


def pixels(height: int, width: int, dtype: type[np.generic]) -> np.ndarray:
    return (draw(height, width, 3) * 60 + 128).clip(0, 255).astype(dtype)


WAYS: list[dict[str, Any]] = [
    {"mode": mode, "coordinate_transformation_mode": c}
    for mode in ("linear", "cubic") for c in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
]  # fmt: skip
WAYS += [
    {"mode": "nearest", "nearest_mode": r, "coordinate_transformation_mode": c}
    for r in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil") for c in ("half_pixel", "asymmetric")
]  # fmt: skip
WAYS += [{"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}, {"mode": "cubic", "cubic_coeff_a": -0.5}]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("how", WAYS, ids=lambda how: "-".join(map(str, how.values())))
def test_as_with_known_sizes(how: dict[str, Any], dtype: type[np.generic]) -> None:
    m = resize(dtype, [8, 6], **how)
    graph = import_model(m)
    for height, width in SIZES:
        x = pixels(height, width, dtype)
        expected = run_graph(import_model(m, dims={"h": height, "w": width}), [x])[0]
        got = run_graph(graph, [x])[0]
        assert got.dtype == expected.dtype
        close(got, expected)
        if how["mode"] == "nearest":
            np.testing.assert_array_equal(got, expected)


def close(got: np.ndarray, expected: np.ndarray) -> None:
    """Integers may differ where a value is within rounding errors of a tie."""
    away = np.abs(got.astype(float) - expected)
    assert away.max(initial=0) < 1e-3 if got.dtype.kind == "f" else away.max() <= 1 and (away > 0).mean() < 0.02


@pytest.mark.parametrize("scales", [[2.0, 0.5], [1.5, 0.75]])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_by_scales(scales: list[float], mode: str) -> None:
    m = resize(np.float32, scales=scales, mode=mode)
    graph = import_model(m)
    for height, width in SIZES[:2]:
        x = pixels(height, width, np.float32)
        close(run_graph(graph, [x])[0], run_graph(import_model(m, dims={"h": height, "w": width}), [x])[0])
    with pytest.raises(ModelError, match="must be known for scale"):
        import_model(resize(np.float32, scales=[0.6, 1.7], mode=mode))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_library_resizes_images_of_any_size(dtype: type[np.generic]) -> None:
    module = tilewright.compile(resize(dtype, [8, 6], mode="linear"), target="cpu").load()
    m = resize(dtype, [8, 6], mode="linear")
    for height, width in SIZES:
        x = pixels(height, width, dtype)
        expected = run_graph(import_model(m, dims={"h": height, "w": width}), [x])[0]
        close(module(x)[0], expected)


def test_to_the_size_of_another_input() -> None:
    """What segmentation models end with: the result in the size of the image."""
    nodes = [node("Shape", ["image"], ["sizes"], start=2),
             node("Resize", ["x", "", "", "sizes"], ["y"], axes=[2, 3], mode="linear")]  # fmt: skip
    m = model(nodes, [value("x", 1, 2, "h", "w"), value("image", 1, 3, "hh", "ww")], [unknown("y")])
    module = tilewright.compile(m, target="cpu").load()
    for small, large in (((3, 4), (9, 7)), ((2, 2), (2, 5))):
        x, image = draw(1, 2, *small), draw(1, 3, *large)
        fixed = import_model(m, shapes={"x": x.shape, "image": image.shape})
        np.testing.assert_allclose(module(x, image)[0], run_graph(fixed, [x, image])[0], rtol=1e-5, atol=1e-5)


def test_what_needs_the_size_is_refused() -> None:
    for how in ({"antialias": 1}, {"exclude_outside": 1, "mode": "cubic"}):
        with pytest.raises(ModelError, match="bind it"):
            import_model(resize(np.float32, [8, 6], **{"mode": "linear", **how}))
