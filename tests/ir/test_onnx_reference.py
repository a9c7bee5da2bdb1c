"""The NumPy meaning of the less obvious operators, against ONNX's reference implementation."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from suites.rows_b import resize
from tilewright.ir.ops.grid_sample import PADDINGS, TAPS, GridSample
from tilewright.ir.ops.interpolation import COORDINATES, NEAREST
from tilewright.ir.ops.recurrent import Gru, Lstm, Rnn
from tilewright.ir.ops.scatter import REDUCTIONS, ScatterElements, ScatterND
from tilewright.ir.ops.sort import TopK

RNG = np.random.default_rng


def reference(op_type: str, inputs: dict[str, np.ndarray], outputs: int = 1, **attributes: object) -> list[np.ndarray]:
    """Outputs of one ONNX node; an input whose name begins with "_" is left out."""
    names = ["" if n.startswith("_") else n for n in inputs]
    results = [f"y{n}" for n in range(outputs)]
    node = helper.make_node(op_type, names, results, **attributes)
    feeds = {n: a for n, a in inputs.items() if not n.startswith("_")}
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in results]
    graph = helper.make_graph([node], "g", infos, ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    return list(ReferenceEvaluator(model).run(None, feeds))  # type: ignore[arg-type]


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


SCALES = ((2.0, 3.0), (0.6, 0.45), (1.3, 2.5), (0.2, 1 / 7))
NONE = np.array(0, np.float32)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, coordinates: str) -> None:
    x = RNG(1).normal(size=(2, 5, 7)).astype(np.float32)
    crop = coordinates == "tf_crop_and_resize"
    roi = (0.1, -0.2, 0.9, 1.1)
    flags = [(r, False, False) for r in NEAREST] if mode == "nearest" else [("floor", *f) for f in product((0, 1), repeat=2)]
    for scales, (rounding, antialias, exclude) in product(SCALES, flags):
        exact = tuple(float(np.float32(s)) for s in scales)
        fields = {"exclude_outside": bool(exclude), "antialias": bool(antialias), "extrapolation": 3.5}
        op = resize((1, 2), x.shape, exact, mode=mode, coordinates=coordinates, nearest=rounding,
                    roi=tuple(float(np.float32(v)) for v in roi) if crop else (), **fields)
        inputs = {"x": x, "roi" if crop else "_": np.array(roi, np.float32), "scales": np.array(scales, np.float32)}
        (expected,) = reference(
            "Resize", inputs, mode=mode, coordinate_transformation_mode=coordinates, nearest_mode=rounding,
            antialias=int(antialias), exclude_outside=int(exclude), extrapolation_value=3.5, axes=[1, 2],
        )
        close(op.evaluate(x)[0], expected)


@pytest.mark.parametrize(("shape", "out"), [((2, 2, 5, 4), (3, 4)), ((1, 2, 3, 4, 2), (2, 3, 2))])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", TAPS)
def test_grid_sample(mode: str, padding: str, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
    x = RNG(2).normal(size=shape).astype(np.float32)
    grid = RNG(3).uniform(-2.7, 2.7, (shape[0], *out, len(out))).astype(np.float32)
    for corners in (False, True):
        (got,) = GridSample(mode, padding, corners).evaluate(np.moveaxis(x, 1, -1), grid)
        fields = {"mode": mode, "padding_mode": padding, "align_corners": int(corners)}
        close(np.moveaxis(got, -1, 1), reference("GridSample", {"x": x, "grid": grid}, **fields)[0], 1e-4)


STEPS, BATCH, UNITS, FEATURES = 5, 3, 4, 6


def cell_inputs(gates: int, seed: int) -> dict[str, np.ndarray]:
    """x, w, r, b of one direction."""
    rng = RNG(seed)
    shapes = {"x": (STEPS, BATCH, FEATURES), "w": (1, gates * UNITS, FEATURES), "r": (1, gates * UNITS, UNITS),
              "b": (1, 2 * gates * UNITS)}
    return {n: rng.normal(size=s).astype(np.float32) * np.float32(0.5) for n, s in shapes.items()}


def prepared(given: dict[str, np.ndarray], gates: int, kept: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """xw with all biases, except the recurrent ones of the last `kept` gates, and r as the cells take it."""
    bias, recurrent = np.split(given["b"][0], 2)
    recurrent = recurrent.copy()
    recurrent[(gates - kept) * UNITS :] = 0
    return given["x"] @ given["w"][0].T + bias + recurrent, given["r"][0].T


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_lstm(direction: str) -> None:
    given = cell_inputs(4, 4)
    h, c, p = (RNG(5 + n).normal(size=s).astype(np.float32) for n, s in enumerate([(BATCH, UNITS)] * 2 + [(3 * UNITS,)]))
    given.update({"_lengths": NONE, "h": h[None], "c": c[None], "p": p[None]})
    expected = reference("LSTM", given, 3, hidden_size=UNITS, direction=direction)
    xw, r = prepared(given, 4)
    y, last_h, last_c = Lstm(reverse=direction == "reverse", peepholes=True).evaluate(xw, r, p, h, c)
    for got, wanted in zip((y[:, None], last_h[None], last_c[None]), expected, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("linear", [False, True])
def test_gru(linear: bool) -> None:
    given = cell_inputs(3, 8)
    h = RNG(9).normal(size=(BATCH, UNITS)).astype(np.float32)
    given.update({"_lengths": NONE, "h": h[None]})
    expected = reference("GRU", given, 2, hidden_size=UNITS, linear_before_reset=int(linear))
    xw, r = prepared(given, 3, kept=1 if linear else 0)
    rb = (given["b"][0, -UNITS:],) if linear else ()
    y, last = Gru(linear_before_reset=linear).evaluate(xw, r, *rb, h)
    close(y[:, None], expected[0])
    close(last[None], expected[1])


def test_rnn() -> None:
    given = cell_inputs(1, 10)
    h = RNG(11).normal(size=(BATCH, UNITS)).astype(np.float32)
    given.update({"_lengths": NONE, "h": h[None]})
    expected = reference("RNN", given, 2, hidden_size=UNITS)
    y, last = Rnn().evaluate(*prepared(given, 1), h)
    close(y[:, None], expected[0])
    close(last[None], expected[1])


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_top_k(axis: int, largest: bool) -> None:
    x = RNG(12).integers(0, 6, (4, 7, 5)).astype(np.float32)  # many ties
    expected = reference("TopK", {"x": x, "k": np.array([3])}, 2, axis=axis, largest=int(largest))
    for got, wanted in zip(TopK(axis, 3, largest).evaluate(x), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scatter(reduction: str) -> None:
    rng = RNG(13)
    x, updates, rows = (rng.normal(size=s).astype(np.float32) for s in ((4, 5, 3), (3, 7, 2), (6, 3)))
    at = rng.integers(-5, 5, (3, 7, 2))
    inputs = {"x": x, "i": at, "u": updates}
    (expected,) = reference("ScatterElements", inputs, axis=1, reduction=reduction)
    close(ScatterElements(1, reduction).evaluate(x, at, updates)[0], expected)
    at = rng.integers(-4, 4, (6, 2))
    (expected,) = reference("ScatterND", {"x": x, "i": at, "u": rows}, reduction=reduction)
    close(ScatterND(reduction).evaluate(x, at, rows)[0], expected)
