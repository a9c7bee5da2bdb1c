"""Each method of quantization alone, against what defines it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from compiler.quantize.models import cnn, mlp
from onnx import helper, numpy_helper
from tilewright.compiler.quantize.activations import ActivationRunner, declared_inputs
from tilewright.compiler.quantize.calibrate import calibrated
from tilewright.compiler.quantize.equalize import equalize
from tilewright.compiler.quantize.judge import make_judge
from tilewright.compiler.quantize.layers import find_layers, units_of
from tilewright.compiler.quantize.plan import plan_all
from tilewright.compiler.quantize.prepare import prepared
from tilewright.compiler.quantize.products import products
from tilewright.compiler.quantize.ranges import METHODS, candidates, make_range
from tilewright.compiler.quantize.rounding import curvature, refine, sweep
from tilewright.compiler.quantize.samples import Batch, as_samples
from tilewright.compiler.quantize.sensitivity import search
from tilewright.compiler.quantize.statistics import BINS, Histogram, RowSample, collect
from tilewright.compiler.quantize.timing import UnitTime, slower
from tilewright.compiler.quantize.weights import channel_scales, nearest
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import OptionError
from tilewright.ir.interpreter import run_graph


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---- statistics ----


def test_a_histogram_counts_every_value_while_its_range_grows() -> None:
    h, values = Histogram(), [normal(1000) * s + o for s, o in ((0.01, 0), (1, 0), (30, -100), (1, 500))]
    for v in values:
        h.add(v)
    everything = np.concatenate(values)
    assert h.counts.sum() == everything.size and h.counts.size == BINS
    assert (h.min, h.max) == (everything.min(), everything.max())
    edges = h.low + np.arange(BINS + 1) * h.width
    expected, _ = np.histogram(everything, edges)
    assert np.abs(np.cumsum(h.counts) - np.cumsum(expected)).max() <= 2  # values within rounding errors of an edge


def test_a_histogram_leaves_strange_numbers_out() -> None:
    h = Histogram()
    h.add(np.array([1, np.inf, -2, np.nan], np.float32))
    assert (h.strange, h.min, h.max) == (2, -2, 1)


@pytest.mark.parametrize("node", ("stem", "dw", "pw", "last", "head"))
def test_rows_times_matrix_are_the_outputs_of_the_layer(node: str) -> None:
    edit = prepared(cnn())
    layer = next(n for n in find_layers(edit)[0] if n.name == node)
    edit.set_outputs([layer.x, layer.y])
    x, y = run_graph(import_model(edit.finish()), {"x": normal(1, 3, 12, 12)})
    sample = RowSample(layer)
    rows = layer.rows(x, 10**6, sample.random).transpose(1, 0, 2)
    m = layer.matrix(edit.constants[layer.weight])
    found = np.matmul(rows, m).transpose(1, 0, 2).reshape(rows.shape[1], -1)
    found = found + edit.constants[layer.bias] if layer.bias else found
    expected = np.moveaxis(y, 1, -1).reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(layer.unmatrix(m, edit.constants[layer.weight].shape), edit.constants[layer.weight])


def test_padding_that_does_not_depend_on_the_size_is_known() -> None:
    model = cnn()
    for node in model.graph.node:
        if node.name in ("dw", "stem"):
            for a in [a for a in node.attribute if a.name == "pads"]:
                node.attribute.remove(a)
            node.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    layers, refused = find_layers(prepared(model))
    assert {n.name: n.pads for n in layers}["dw"] == (1, 1, 1, 1)
    assert refused == {"stem": "its padding depends on the size of the input"}


# ---- ranges ----


@pytest.mark.parametrize("method", METHODS)
def test_every_method_proposes_a_range_within_the_data(method: str) -> None:
    h = Histogram()
    h.add(np.concatenate([normal(20000), [40.0]]).astype(np.float32))
    low, high = METHODS[method](h, 255)
    assert h.min <= low < 0 < high <= h.max
    if method != "mse":  # one value of 20 000 at ten deviations is worth its range by the squared error
        assert (high == h.max) == (method == "min-max")


def test_a_range_represents_zero_exactly() -> None:
    for low, high in ((-1.3, 2.7), (0.5, 3.0), (-4.0, -1.0)):
        r = make_range(low, high)
        assert r.fake(np.zeros(1, np.float32))[0] == 0
        inside = np.linspace(min(low, 0), max(high, 0), 97, dtype=np.float32)
        assert np.abs(r.fake(inside) - inside).max() <= 0.501 * r.scale + 0.5 * r.scale * (low * high < 0)


def test_an_outlier_makes_clipping_the_best_choice() -> None:
    h, x = Histogram(), normal(1, 512, 16)
    x[0, 0, 0] = 200.0
    h.add(x)
    p = products(x[:, 1:], normal(1, 16, 8, seed=1))
    errors = {r.method: p.change(r.fake(p.x) - p.x) for r in candidates(h)}
    assert min(errors.values()) < 0.02 * errors["min-max"]


# ---- rounding ----


def test_rounding_with_care_beats_the_nearest_and_refining_never_hurts() -> None:
    x = normal(400, 48) @ normal(48, 48, seed=1)  # correlated inputs
    w = normal(48, 20, seed=2)
    scales = channel_scales(w[None], 4)[0]
    c = curvature(x)

    def loss(q: np.ndarray) -> float:
        e = q * scales - w
        return float(np.trace(e.T @ c.h @ e))

    plain, swept = nearest(w, scales, 4), sweep(w, c, scales, 4)
    refined = refine(swept, w, c, scales, 4)
    assert loss(swept) < 0.6 * loss(plain)
    assert loss(refined) <= loss(swept)
    assert np.abs(refined).max() <= 7 and np.array_equal(refined, np.rint(refined))


def test_the_factor_of_the_inverse() -> None:
    c = curvature(normal(60, 12))
    h = c.h[np.ix_(c.order, c.order)]
    np.testing.assert_allclose(c.factor.T @ c.factor, np.linalg.inv(h), rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(c.factor, np.triu(c.factor))


# ---- equalization ----


def outputs(edit: object, x: np.ndarray) -> np.ndarray:
    return run_graph(import_model(edit.finish(), shapes={"x": x.shape}), {"x": x})[0]  # type: ignore[attr-defined]


def test_equalization_keeps_the_function_and_lowers_the_error() -> None:
    model = mlp(features=24)
    edit = prepared(model)
    x = normal(256, 24)
    x[:, 3] *= 60.0  # an outlier channel at the input: a Mul; others are absorbed by the layer in front
    before = outputs(edit, x)
    layers, _ = find_layers(edit)
    values = [{}]
    edit2 = prepared(model)
    edit2.set_outputs(dict.fromkeys(layer.x for layer in layers))
    graph = import_model(edit2.finish(), shapes={"x": x.shape})
    values = [dict(zip(graph.output_names, run_graph(graph, {"x": x}), strict=True))]
    done = equalize(edit, units_of(layers), layers, collect(layers, values))
    assert done["x_even"].where == "mul" and done["x_even"].after < 0.3 * done["x_even"].before
    np.testing.assert_allclose(outputs(edit, x), before, rtol=1e-3, atol=1e-3)


def test_channels_that_stand_out_are_split_where_a_product_makes_them() -> None:
    model = mlp(features=24, hidden=128)
    constants = {t.name: t for t in model.graph.initializer}
    w = numpy_helper.to_array(constants["w1"]).copy()
    w[:, 7] *= 80.0  # an outlier channel behind the first layer
    constants["w1"].CopyFrom(numpy_helper.from_array(w, "w1"))
    model.graph.node[1].op_type = "Sigmoid"  # no scale goes through it, copies do
    scale = helper.make_node("Mul", ["g1", "thrice"], ["h1"])
    model.graph.node[1].CopyFrom(helper.make_node("Tanh", ["h1"], ["t1"]))
    model.graph.node.insert(1, scale)
    model.graph.node.insert(3, helper.make_node("Mul", ["t1", "g1"], ["r1"]))  # as in GELU: two ways from the product
    model.graph.initializer.append(numpy_helper.from_array(np.array(3.0, np.float32), "thrice"))
    x, edit = normal(256, 24), prepared(model)
    before = outputs(edit, x)
    layers, _ = find_layers(edit)
    probe = prepared(model)
    probe.set_outputs(dict.fromkeys(layer.x for layer in layers))
    graph = import_model(probe.finish(), shapes={"x": x.shape})
    found = collect(layers, [dict(zip(graph.output_names, run_graph(graph, {"x": x}), strict=True))])
    done = equalize(edit, units_of(layers), layers, found)
    made = done["r1_even"]
    assert made.split >= 1 and made.after < 0.1 * made.before
    assert edit.constants["w1"].shape == (24, 144) and len(edit.constants["w2"]) == 144
    np.testing.assert_allclose(outputs(edit, x), before, rtol=1e-3, atol=1e-3)
    layers, _ = find_layers(edit)  # the statistics are those of the changed model
    probe = edit.copy()
    probe.set_outputs(dict.fromkeys(layer.x for layer in layers))
    graph = import_model(probe.finish(), shapes={"x": x.shape})
    values = dict(zip(graph.output_names, run_graph(graph, {"x": x}), strict=True))
    for name, t in found.tensors.items():
        if name in values:
            assert t.low is not None and t.high is not None
            np.testing.assert_allclose(t.low, values[name].min(axis=0), rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(t.high, values[name].max(axis=0), rtol=1e-3, atol=1e-4)


def test_statistics_are_found_again_for_the_same_model_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path))
    edit = prepared(mlp())
    layers, _ = find_layers(edit)
    inputs = declared_inputs(edit.finish())
    samples = [normal(8, 24) for _ in range(3)]
    first = calibrated(edit, layers, as_samples(samples, inputs))
    runs: list[int] = []
    monkeypatch.setattr(ActivationRunner, "_parts", lambda self, batch: runs.append(1) or iter(()))
    again = calibrated(edit, layers, as_samples(samples, inputs))
    assert not runs and again.runs == first.runs == 3
    for name, t in first.tensors.items():
        other = again.tensors[name]
        np.testing.assert_array_equal(other.histogram.counts, t.histogram.counts)
        np.testing.assert_array_equal(other.peak, t.peak)
        assert (other.histogram.quantile(0.9), other.rank, other.values) == (t.histogram.quantile(0.9), t.rank, t.values)
    for layer in layers:
        np.testing.assert_array_equal(again.rows_of(layer), first.rows_of(layer))
    samples[1] = samples[1] + np.float32(1e-3)
    calibrated(edit, layers, as_samples(samples, inputs))
    assert len(runs) == 3  # other samples: not found


# ---- plans ----


def test_a_bias_is_corrected_where_the_mean_is_off() -> None:
    edit = prepared(mlp())
    layers, _ = find_layers(edit)
    edit.set_outputs(dict.fromkeys(layer.x for layer in layers))
    x = np.abs(normal(512, 24)) ** 3  # one-sided with a long tail: clipping shifts the mean
    graph = import_model(edit.finish(), shapes={"x": x.shape})
    found = collect(layers, [dict(zip(graph.output_names, run_graph(graph, {"x": x}), strict=True))])
    with_it, without = (plan_all(edit, units_of(layers), found, correct=c) for c in (True, False))
    for tensor in with_it:
        for a, b in zip(with_it[tensor].layers, without[tensor].layers, strict=True):
            assert b.correction is None and (a.correction is None or a.error <= b.error)
    assert any(p.correction is not None for u in with_it.values() for p in u.layers)


# ---- judging and searching ----


def test_metrics_are_chosen_by_the_outputs_and_labels() -> None:
    scores, unit = normal(6, 5), normal(6, 5)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    batch = Batch({"x": scores})
    assert make_judge([batch], [[scores]]).metric == "top1"
    assert make_judge([batch], [[unit]]).metric == "neighbour"
    assert make_judge([batch], [[normal(1, 3, 4, 4)]]).metric == "cosine"
    labelled = make_judge([Batch({"x": scores}, scores.argmax(1))], [[scores]])
    changed = scores.copy()
    changed[0] = -changed[0]
    assert (labelled.metric, labelled.verdict([[changed]]).value) == ("accuracy", pytest.approx(5 / 6))
    assert labelled.verdict([[changed]]).drop == pytest.approx(1 / 6)
    with pytest.raises(OptionError, match="needs labels"):
        make_judge([batch], [[scores]], "accuracy")


@pytest.mark.parametrize("needed", (0, 1, 5, 17, 32))
def test_the_search_finds_the_least_number_with_few_evaluations(needed: int) -> None:
    units = [f"u{n}" for n in range(32)]
    count = 0

    def evaluate(kept: frozenset[str]) -> object:
        nonlocal count
        count += 1
        return len(kept)

    kept, steps = search(units, evaluate, lambda v: v <= 32 - needed, lambda kept: 1.0)  # type: ignore[arg-type]
    assert kept == frozenset(units[needed:])
    assert count <= 6 and len(steps) == count


def test_units_that_integers_make_slower_are_tried_together_and_the_worst_alone() -> None:
    times = {"a": UnitTime(1e-6, 2e-6), "b": UnitTime(1e-6, 9e-7), "c": UnitTime(1e-6, 1.5e-6), "d": UnitTime(0.0, 1e-6)}
    kept = frozenset(times)
    assert slower(times, kept) == [frozenset("ac"), frozenset("a"), frozenset("c")]
    assert slower(times, frozenset("bc")) == [frozenset("c")] and slower(times, frozenset("b")) == []


def test_rounding_keeps_zeros() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((200, 24)) @ rng.standard_normal((24, 24))
    w = rng.standard_normal((24, 8)) * (rng.random((24, 8)) < 0.4)
    scales, c = np.full((24, 8), 0.3, np.float32), curvature(x)
    for q in (sweep(w, c, scales, 4), refine(nearest(w, scales, 4), w, c, scales, 4)):
        assert not q[w == 0].any() and q[w != 0].any()
