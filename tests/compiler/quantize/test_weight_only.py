"""Narrow weights: what the integers stand for, that rounding helps, the file, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright
from compiler.quantize.models import cnn, mlp
from tilewright.compiler.cli import main
from tilewright.compiler.quantize.weight_only import quantize_weights
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import OptionError
from tilewright.ir.interpreter import run_graph


def wide() -> onnx.ModelProto:
    return mlp(features=64, hidden=64, classes=32)


def data(count: int = 12) -> list[np.ndarray]:
    mix = np.random.default_rng(1).normal(size=(64, 64)) / 8
    return [(np.random.default_rng(n).normal(size=(16, 64)) @ mix).astype(np.float32) for n in range(count)]


@pytest.mark.parametrize(("bits", "cosine"), ((2, 0.7), (3, 0.93), (4, 0.98), (8, 0.9995)))
def test_narrow_weights_are_close(bits: int, cosine: float) -> None:
    done = quantize_weights(wide(), data(), bits=bits, metric="cosine", max_drop=0.5)
    assert done.met and done.verdict is not None and done.verdict.cosine_min > cosine
    assert [n.op_type for n in done.model.graph.node].count("MatMulNBits") == 3
    assert done.bytes[1] < done.bytes[0] / {2: 7, 3: 5, 4: 5, 8: 3}[bits]
    bits_stored = {a.i for n in done.model.graph.node for a in n.attribute if a.name == "bits"}
    assert bits_stored == {4 if bits == 3 else bits}
    x = data()[0]
    (expected,) = run_graph(import_model(done.model, shapes={"x": x.shape}), [x])
    (got,) = done.compile().load()(x)
    np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max())


def test_rounding_by_samples_is_better_than_the_nearest() -> None:
    careful, plain = (quantize_weights(wide(), data(24), rounding=r, in_bytes=False) for r in ("auto", "nearest"))
    assert careful.verdict is not None and plain.verdict is not None
    assert careful.verdict.snr > plain.verdict.snr + 0.5
    assert all(n.rounding == "nearest" for n in plain.layers) and any(n.rounding == "gptq" for n in careful.layers)


@pytest.mark.parametrize(("opset", "kind"), ((17, onnx.TensorProto.INT8), (21, onnx.TensorProto.INT4)))
def test_convolutions_of_few_bits(opset: int, kind: int) -> None:
    model = cnn()
    model.opset_import[0].version = opset
    x = [np.random.default_rng(n).normal(size=(1, 3, 12, 12)).astype(np.float32) for n in range(16)]
    careful, plain = (quantize_weights(model, x, bits=3, metric="cosine", rounding=r) for r in ("auto", "nearest"))
    assert careful.verdict is not None and plain.verdict is not None and careful.verdict.snr > plain.verdict.snr
    stored = {t.name: t.data_type for t in careful.model.graph.initializer}
    assert [stored[n] for n in stored if n.endswith("_q") and n.startswith("w")] == [kind] * 3
    (expected,) = run_graph(import_model(careful.model, shapes={"x": x[0].shape}), [x[0]])
    np.testing.assert_allclose(careful.compile().load()(x[0])[0], expected, rtol=1e-3, atol=1e-3)


def test_no_samples_are_needed() -> None:
    done = quantize_weights(wide(), group=64)
    assert done.verdict is None and done.met and len(done.layers) == 3


def test_what_is_refused() -> None:
    with pytest.raises(OptionError, match="no product for narrow weights"):
        quantize_weights(cnn(), bits=8)
    with pytest.raises(OptionError, match="expected bits of"):
        quantize_weights(wide(), bits=5)
    assert "grouped" in quantize_weights(cnn()).refused["dw"]
    assert "blocks of 32 do not divide its 24 inputs" in quantize_weights(mlp()).refused["fc1"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save_model(wide(), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate(data()))
    words = ["quantize", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out"), "--weights-only", "int4", "--metric", "cosine",
             "--data", str(tmp_path / "data.npz")]
    assert main(words) == 0
    assert "3 in int4, blocks of 32" in capsys.readouterr().out
    assert tilewright.load(tmp_path / "out" / "artifact").inputs[0].shape == (16, 64)
    assert main([*words, "--weights-only", "int5"]) == 1
