"""`quantize` as a whole: the file it writes, the contract, the report, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright
from compiler.quantize.models import cnn, mlp
from onnx.reference import ReferenceEvaluator
from tilewright.compiler.cli import main
from tilewright.compiler.quantize.api import Quantized, quantize
from tilewright.compiler.quantize.report import as_json, as_text, blame, write_page
from tilewright.ir.errors import OptionError

QUICK = {"blame": False, "timing": False}
DIGITS = Path(__file__).parents[3] / "examples" / "digits"


def images(count: int = 24) -> list[np.ndarray]:
    return list(np.random.default_rng(5).normal(size=(count, 1, 3, 12, 12)).astype(np.float32))


@pytest.fixture(scope="module")
def done() -> Quantized:
    return quantize(cnn(), images(), timing=False)


def test_the_file_is_standard_and_means_what_the_artifact_computes(done: Quantized) -> None:
    onnx.checker.check_model(done.model, full_check=True)
    newer = onnx.ModelProto()
    newer.CopyFrom(done.model)
    newer.opset_import[0].version = 21  # the reference implements these operators from 19 on; they mean the same
    reference, module = ReferenceEvaluator(newer), done.compile().load()
    for x in images()[:4]:
        (expected,) = reference.run(None, {"x": x})
        np.testing.assert_allclose(module(x)[0], expected, atol=0.02 * np.abs(expected).max())
    kinds = [n.op_type for n in done.model.graph.node]
    assert kinds.count("QuantizeLinear") == len(done.plans) and "BatchNormalization" not in kinds
    types = {i.data_type for i in done.model.graph.initializer}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32} <= types


def test_the_integers_are_close_to_the_floats(done: Quantized) -> None:
    assert done.met and done.verdict.cosine_min > 0.99 and done.verdict.snr > 25
    for unit in done.plans.values():
        for p in unit.layers:
            assert p.snr > 30 and p.error <= 1.05 * p.plain


def test_nothing_of_a_product_is_left_in_floats(done: Quantized) -> None:
    from tilewright.compiler.api import compile_with

    compiled = compile_with(done.model, cache=False, shapes=dict(done.signature))
    assert not compiled.notes and compiled.program is not None
    floats = [n for g in [compiled.fused] if g for n in g.nodes if "Conv" in str(n.op) and 'to="i32"' not in str(n.op)]
    assert len(floats) <= 1  # the message of an operator may name its body


def test_a_contract_that_needs_floats_gets_them() -> None:
    data = [np.random.default_rng(n).normal(size=(16, 24)).astype(np.float32) for n in range(12)]
    strict = quantize(mlp(), data, metric="cosine", max_drop=1e-6, **QUICK)  # type: ignore[arg-type]
    loose = quantize(mlp(), data, metric="cosine", max_drop=1e-2, **QUICK)  # type: ignore[arg-type]
    assert strict.met and loose.met
    assert len(strict.quantized) < len(loose.quantized) == 3
    assert strict.steps and not loose.steps
    unsearched = quantize(mlp(), data, metric="cosine", max_drop=1e-9, search=False, **QUICK)  # type: ignore[arg-type]
    assert not unsearched.met and len(unsearched.quantized) == 3


def poisoned_model(layer: str) -> onnx.ModelProto:
    """The same function, but one input of the layer is 300 times smaller and its weights 300 times larger: the others of each
    column round to nothing."""
    model = mlp(seed=3)
    arrays = {t.name: onnx.numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    before = {"fc1": [], "fc2": ["w1", "b1"], "fc3": ["w2", "b2"]}[layer]
    for name in before:
        arrays[name][..., 0] /= 300
    w = arrays[{"fc1": "w1", "fc2": "w2", "fc3": "w3"}[layer]]
    (w.T if layer == "fc3" else w)[0] *= 300
    for t in model.graph.initializer:
        t.CopyFrom(onnx.numpy_helper.from_array(arrays[t.name], t.name))
    return model


@pytest.mark.parametrize("layer", ("fc1", "fc2", "fc3"))
def test_a_poisoned_layer_is_blamed_first_and_mended(layer: str) -> None:
    r = np.random.default_rng(4)
    small = np.r_[1 / 300 if layer == "fc1" else 1.0, np.ones(23)].astype(np.float32)
    data = [r.normal(size=(16, 24)).astype(np.float32) * small for _ in range(8)]
    plain = {"equalize": False, "rounding": "nearest", "bias_correction": False}
    found = quantize(poisoned_model(layer), data, search=False, timing=False, **plain)  # type: ignore[arg-type]
    worst = blame(found)[0]
    assert (worst.layer, worst.cause) == (layer, "weights with outliers") and worst.share > 0.8
    mended = quantize(poisoned_model(layer), data, search=False, **QUICK)  # type: ignore[arg-type]
    assert mended.verdict.snr > found.verdict.snr + 10


def test_the_report(done: Quantized, tmp_path: Path) -> None:
    text = as_text(done)
    for p in (p for u in done.plans.values() for p in u.layers):
        assert p.layer.name in text
    rows = blame(done)
    assert sum(b.share for b in rows) == pytest.approx(1)
    assert [b.share for b in rows] == sorted((b.share for b in rows), reverse=True)
    assert json.loads(json.dumps(as_json(done)))["met"] is True
    write_page(done, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "stem" in page and "<script" not in page


def test_layers_can_be_kept_and_wrong_names_are_told() -> None:
    kept = quantize(cnn(), images(8), keep=["stem"], **QUICK)  # type: ignore[arg-type]
    assert "stem" in kept.refused and all(p.unit.name != "stem" for p in kept.plans.values())
    with pytest.raises(OptionError, match="no layer is called nowhere"):
        quantize(cnn(), images(8), keep=["nowhere"])


def test_what_cannot_be_quantized() -> None:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    with pytest.raises(OptionError, match="nothing to quantize: it has no Conv"):
        quantize(model, [np.zeros(2, np.float32)])
    with pytest.raises(OptionError, match="max_drop"):
        quantize(cnn(), images(2), max_drop=2.0)


def test_an_old_operator_set_is_converted() -> None:
    model = cnn()
    model.opset_import[0].version = 11
    result = quantize(model, images(8), **QUICK)  # type: ignore[arg-type]
    assert result.model.opset_import[0].version >= 13 and result.met


def test_the_public_name() -> None:
    assert tilewright.quantize is quantize


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    z = np.load(DIGITS / "digits.npz")
    np.savez(tmp_path / "data.npz", image=(z["images"][:160, None] / 16).astype(np.float32), labels=z["labels"][:160])
    words = ["quantize", str(DIGITS / "digits.onnx"), "--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out"),
             "--no-timing", "--report", str(tmp_path / "blame.html")]
    assert main(words) == 0
    assert "accuracy" in capsys.readouterr().out
    assert (tmp_path / "blame.html").is_file() and (tmp_path / "out" / "digits.int8.onnx").is_file()
    module = tilewright.load(tmp_path / "out" / "artifact")
    found = [int(module((im[None, None] / 16).astype(np.float32))[0].argmax()) for im in z["images"][160:]]
    assert np.mean(np.array(found) == z["labels"][160:]) > 0.95
    assert main([*words, "--max-drop", "seven"]) == 1
    assert main([*words[:2], "-o", str(tmp_path / "o2")]) == 1  # no data
