"""Several sizes of a model in one artifact, on the targets that compile for known sizes."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto, helper, numpy_helper
from tilewright.compiler.commands import parse_dim
from tilewright.compiler.inspecting import inspect
from tilewright.ir.errors import OptionError
from tilewright.targets.artifact import Artifact

pytest.importorskip("jaxlib", reason="XLA runs through jaxlib: pip install 'tilewright[tpu]'")

BATCHES = (2, 8)


def model(mixing: bool = False) -> onnx.ModelProto:
    """Two products and a softmax of x[batch, 6]; mixing: and less the mean of all rows."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((6, 512), np.float32), "v": rng.standard_normal((512, 5), np.float32) * 0.1}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["r"]),
             helper.make_node("MatMul", ["r", "v"], ["b"]), helper.make_node("Softmax", ["b"], ["s"], axis=-1),
             helper.make_node("ReduceMean", ["s"], ["m"], axes=[0], keepdims=1),
             helper.make_node("Sub" if mixing else "Identity", ["s", "m"] if mixing else ["s"], ["y"])]
    graph = helper.make_graph(
        [n for n in nodes if mixing or n.op_type != "ReduceMean"], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@functools.cache
def compiled(target: str, mixing: bool = False) -> Artifact:
    return tilewright.compile(model(mixing), target, dims={"batch": BATCHES}, name="net", cache=False)


def want(x: np.ndarray, mixing: bool = False) -> np.ndarray:
    weights = {t.name: numpy_helper.to_array(t) for t in model().graph.initializer}
    y = np.maximum(x @ weights["w"], 0) @ weights["v"]
    y = np.exp(y - y.max(-1, keepdims=True))
    y /= y.sum(-1, keepdims=True)
    return y - y.mean(0, keepdims=True) if mixing else y


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 6), np.float32)


@pytest.mark.parametrize("target", ["xla:cpu", "tvm:llvm"])
def test_every_number_of_rows_runs(target: str) -> None:
    """As compiled, filled up, in parts."""
    if target.startswith("tvm"):
        pytest.importorskip("tvm", reason="TVM is not installed: pip install 'tilewright[tvm]'")
    module = compiled(target).load()
    assert str(module) == "Module net(x: f32[batch, 6]) -> (y: f32[batch, 5])"
    for count in (1, 2, 5, 8, 9, 21):
        (got,) = module(rows(count))
        np.testing.assert_allclose(got, want(rows(count)), rtol=1e-4, atol=1e-6)
    y = np.empty((3, 5), np.float32)
    module.bind([rows(3)], [y])()
    np.testing.assert_allclose(y, want(rows(3)), rtol=1e-4, atol=1e-6)
    module.close()
    with pytest.raises(OptionError, match="net is closed"):
        module(rows(2))


def test_rows_that_depend_on_each_other_are_never_filled_up() -> None:
    artifact = compiled("xla:cpu", mixing=True)
    assert artifact.notes[0].startswith("dim batch: runs at the compiled sizes only")
    module = artifact.load()
    np.testing.assert_allclose(module(rows(8))[0], want(rows(8), mixing=True), rtol=1e-4, atol=1e-6)
    for count in (3, 9):
        with pytest.raises(OptionError, match=r"compiled for batch 2; batch 8 \(batch: exactly, because"):
            module(rows(count))


def test_what_does_not_fit_is_refused() -> None:
    module = compiled("xla:cpu").load()
    for shape in ((2, 7), (6,), (0, 6)):
        with pytest.raises(OptionError, match="compiled for batch 2; batch 8"):
            module(np.zeros(shape, np.float32))
    with pytest.raises(OptionError, match="expected element type"):
        module(np.zeros((2, 6)))


def test_weights_are_kept_once_and_sizes_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = compiled("xla:cpu")
    assert {"net.safetensors", "batch-2/net.stablehlo", "batch-8/net.stablehlo", "buckets.py", "run.py"} <= set(artifact.files)
    assert artifact.manifest["sizes"]["weights"] == 4 * (6 * 512 + 512 * 5)
    artifact.save(tmp_path / "out")
    artifact.save(tmp_path / "out")  # an artifact that is there is replaced
    inspect(tmp_path / "out", as_json=False)
    text = capsys.readouterr().out
    assert "batch 2" in text
    assert "batch 8" in text


def test_the_script_of_the_artifact_chooses_too(tmp_path: Path) -> None:
    compiled("xla:cpu").save(tmp_path / "out")
    np.savez(tmp_path / "in.npz", x=rows(11))
    command = [sys.executable, tmp_path / "out" / "run.py", "--platform", "cpu", "--input", tmp_path / "in.npz"]
    done = subprocess.run(
        [*command, "--output", tmp_path / "y.npz"], capture_output=True, text=True, env={"JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "y.npz") as file:
        np.testing.assert_allclose(file["y"], want(rows(11)), rtol=1e-4, atol=1e-6)


def test_targets_and_arguments_are_checked() -> None:
    assert parse_dim("batch", "1,8,32") == (1, 8, 32)
    with pytest.raises(OptionError, match="expected a size"):
        parse_dim("batch", "1,,8")
    with pytest.raises(OptionError, match=r"dim batch=2,8: target cuda takes one size.*or use the target cpu or xla or tpu"):
        tilewright.compile(model(), "cuda", dims={"batch": BATCHES}, cache=False)
    many: Any = tuple(range(1, 100))
    with pytest.raises(OptionError, match="99 combinations of sizes, at most 64"):
        tilewright.compile(model(), "xla:cpu", dims={"batch": many}, cache=False)
