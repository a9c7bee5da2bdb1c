"""Dynamic quantization: the file against its meaning, the contract, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright
from compiler.quantize.models import cnn
from compiler.quantize.test_weight_only import data, wide
from tilewright.compiler.cli import main
from tilewright.compiler.quantize.dynamic import dynamic_rounding, quantize_dynamic
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import OptionError
from tilewright.ir.interpreter import run_graph


def test_products_of_bytes_by_the_range_of_the_run() -> None:
    done = quantize_dynamic(wide())
    kinds = [n.op_type for n in done.model.graph.node]
    assert kinds.count("MatMulInteger") == kinds.count("DynamicQuantizeLinear") == 3 and "Gemm" not in kinds
    assert done.verdict is None and done.bytes[1] < done.bytes[0] / 3
    onnx.checker.check_model(done.model, full_check=True)
    module = done.compile(shapes={"x": (16, 64)}).load()
    for scale in (1.0, 30.0):  # another range, the same artifact
        x = data()[0] * np.float32(scale)
        (expected,) = run_graph(import_model(wide(), shapes={"x": x.shape}), [x])
        (meant,) = run_graph(import_model(done.model, shapes={"x": x.shape}), [x])
        (got,) = module(x)
        peak = np.abs(expected).max()
        np.testing.assert_allclose(got, meant, atol=0.01 * peak)
        np.testing.assert_allclose(got, expected, atol=0.05 * peak)


def test_rounding_is_that_of_the_operator() -> None:
    x = np.array([-1.0, 0.0, 0.3, 4.1])
    got = dynamic_rounding(x)
    assert got[1] == 0 and np.abs(got - x).max() <= 5.1 / 255 / 2 + 1e-12
    assert not dynamic_rounding(np.zeros(3)).any()


def test_samples_judge_and_layers_go_back_to_floats() -> None:
    good = quantize_dynamic(wide(), data(), metric="cosine", timing=False)
    assert good.met and good.verdict is not None and good.verdict.cosine_min > 0.999 and len(good.layers) == 3
    exact = quantize_dynamic(wide(), data(), metric="cosine", max_drop=0.0, timing=False)
    assert exact.met and len(exact.layers) < 3 and "accuracy" in exact.refused.values()


def test_convolutions_stay_in_floats() -> None:
    done = quantize_dynamic(cnn())
    assert all("Conv" not in n.op_type or n.op_type == "Conv" for n in done.model.graph.node)
    assert any("static ranges" in why for why in done.refused.values())
    with pytest.raises(OptionError, match="no product for dynamic"):
        quantize_dynamic(wide(), keep=[n.name for n in quantize_dynamic(wide()).layers])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save_model(wide(), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate(data()))
    words = ["quantize", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out"), "--dynamic", "--metric", "cosine"]
    assert main([*words, "--data", str(tmp_path / "data.npz")]) == 0
    assert "activations by the range of each run" in capsys.readouterr().out
    assert tilewright.load(tmp_path / "out" / "artifact").inputs[0].shape == (16, 64)
    assert main([*words, "--weights-only", "int4"]) == 1
