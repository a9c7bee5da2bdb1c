"""Artifacts of the xla target: files, loading, running, scripts, precision, control flow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto, helper
from targets.networks import bert_onnx, resnet50_onnx
from tilewright.compiler.inspecting import inspect
from tilewright.ir.errors import OptionError, TargetError
from tilewright.targets.safetensors import read_safetensors, safetensors
from tilewright.targets.xla import client
from tilewright.targets.xla.host import resolve_machine
from tilewright.targets.xla.package import donations

pytest.importorskip("jaxlib", reason="XLA runs through jaxlib: pip install 'tilewright[tpu]'")

SMALL = ((1, 8, 1), (2, 16, 2))  # stages of a residual network


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small residual network as a folder for xla:cpu."""
    model = resnet50_onnx(stages=SMALL, size=32).SerializeToString()
    return tilewright.compile(model, "xla:cpu", name="net", cache=False).save(tmp_path_factory.mktemp("xla") / "net")


def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)


def by_interpreter(model: onnx.ModelProto, *arrays: np.ndarray) -> list[np.ndarray]:
    from tilewright.frontend.onnx import import_model
    from tilewright.ir.interpreter import run_graph

    return run_graph(import_model(model), list(arrays))


def test_a_network_gives_the_numbers_of_the_interpreter(small: Path) -> None:
    (want,) = by_interpreter(resnet50_onnx(stages=SMALL, size=32), image())
    (got,) = tilewright.load(small)(image())
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))


def test_the_folder_holds_what_a_user_needs(small: Path) -> None:
    names = {p.name for p in small.iterdir()}
    assert names == {"net.mlir", "net.stablehlo", "net.safetensors", "manifest.json", "run.py", "serve.py"}
    manifest = json.loads((small / "manifest.json").read_text())
    assert (small / "net.stablehlo").read_bytes()[:4] == b"ML\xefR"
    assert manifest["versions"]["stablehlo"] == client.PORTABLE_VERSION
    weights = read_safetensors(small / "net.safetensors")
    assert [w["name"] for w in manifest["weights"]] == list(weights)
    assert manifest["target"] == "xla:cpu"


def test_bind_mappings_and_close(small: Path) -> None:
    module = tilewright.load(small)
    (want,) = module({"x": image()})
    x, y = image(), np.empty((1, 1000), np.float32)
    step = module.bind([x], [y])
    step()
    np.testing.assert_array_equal(y, want)
    x *= 2
    step()
    assert not np.array_equal(y, want)
    module.close()
    with pytest.raises(OptionError, match="net is closed"):
        step()
    with pytest.raises(OptionError, match="expected shape"):
        tilewright.load(small)(np.zeros((2, 3, 32, 32), np.float32))


def test_the_script_of_the_artifact_gives_the_same(small: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=image())
    command = [sys.executable, small / "run.py", "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz"]
    done = subprocess.run([*command, "--platform", "cpu"], capture_output=True, text=True, env={"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    (want,) = tilewright.load(small)(image())
    with np.load(tmp_path / "out.npz") as file:
        (got,) = file.values()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_server_of_the_artifact_answers(small: Path, tmp_path: Path) -> None:
    program = (
        "import io, sys, threading, urllib.request, urllib.error, numpy as np\n"
        "from run import Model; from serve import make_server\n"
        "server = make_server(Model(platform='cpu'), '127.0.0.1', 0)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "url = f'http://127.0.0.1:{server.server_address[1]}'\n"
        "body = io.BytesIO(); np.savez(body, x=np.zeros((1, 3, 32, 32), np.float32))\n"
        "post = lambda data: urllib.request.urlopen(urllib.request.Request(url + '/run', data))\n"
        "answer = np.load(io.BytesIO(post(body.getvalue()).read()))\n"
        "print([a.shape for a in answer.values()], urllib.request.urlopen(url + '/health').status)\n"
        "try: post(b'nonsense')\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=small, capture_output=True, text=True, env={"JAX_PLATFORMS": "cpu"}
    )
    assert done.stdout.split("\n")[:2] == ["[(1, 1000)] 200", "400"], done.stderr


def test_bf16_products_and_f32_interfaces() -> None:
    model = bert_onnx(width=64, heads=4, tokens=8)
    x = np.random.default_rng(1).standard_normal((1, 8, 64), np.float32)
    artifact = tilewright.compile(model, "xla:cpu", precision="bf16", cache=False)
    assert {w["dtype"] for w in artifact.manifest["weights"]} == {"bf16"}
    (got,) = artifact.load()(x)
    (want,) = by_interpreter(model, x)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


def loop_model() -> onnx.ModelProto:
    """x added to itself n times, keeping every sum, until it is large; n is read at run time."""
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "x"], ["next"]), helper.make_node("ReduceSum", ["next"], ["sum"], keepdims=0),
         helper.make_node("Less", ["sum", "limit"], ["go_on"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("next", TensorProto.FLOAT, [3])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "yes", "x"], ["last"], body=body)], "loop",
        [helper.make_tensor_value_info("n", TensorProto.INT64, []), helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]),
         helper.make_tensor_value_info("limit", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("last", TensorProto.FLOAT, [3])],
        [onnx.numpy_helper.from_array(np.array(True), "yes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("n", "limit", "want"), [(0, 1e9, 1), (4, 1e9, 5), (100, 20.0, 7)])
def test_loops_run_until_their_condition_or_count(n: int, limit: float, want: float) -> None:
    module = tilewright.compile(loop_model(), "xla:cpu", cache=False).load()
    (got,) = module(np.array(n), np.ones(3, np.float32), np.array(limit, np.float32))
    np.testing.assert_array_equal(got, np.full(3, want, np.float32))


def test_inspect_shows_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tilewright.compile(loop_model(), "xla:cpu", name="net", cache=False).save(tmp_path / "out")
    assert inspect(tmp_path / "out", as_json=False) == 0
    text = capsys.readouterr().out
    assert "operations" in text
    assert not any(word in text for word in ("\n\n", "arena", "schedule", "baseline"))


def test_outputs_may_be_written_and_bound() -> None:
    module = tilewright.compile(loop_model(), "xla:cpu", cache=False).load()
    given = [np.array(4), np.ones(3, np.float32), np.array(1e9, np.float32)]
    outputs = module(*given)
    module.bind(given, outputs)()
    np.testing.assert_array_equal(outputs[0], np.full(3, 5, np.float32))


def test_a_missing_package_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(TargetError, match=r"jax is missing.*pip install 'tilewright\[tpu\]'"):
        client.require_jax()


def test_machines_are_named() -> None:
    assert resolve_machine("xla").name == "cpu"
    with pytest.raises(OptionError, match="for a TPU use tpu:v5e-1"):
        resolve_machine("xla:tpu")


def test_state_is_found_by_name() -> None:
    def pair(name: str) -> tuple[str, Any]:
        from tilewright.ir.types import TensorType

        return name, TensorType("f32", (4,))

    inputs = [pair("x"), pair("past_key_values.0.key"), pair("past_key_values.0.value"), pair("state_in")]
    outputs = [pair("y"), pair("present.0.value"), pair("present.0.key"), pair("state_out")]
    assert donations(inputs, outputs) == {
        "past_key_values.0.key": "present.0.key", "past_key_values.0.value": "present.0.value", "state_in": "state_out",
    }
    assert donations([pair("input")], [pair("output")]) == {}


def test_safetensors_come_back(tmp_path: Path) -> None:
    import ml_dtypes

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False]),
              "c": np.array(2.5, ml_dtypes.bfloat16), "é": np.zeros((0, 4), np.int64)}
    names = {"a": "f32", "b": "bool", "c": "bf16", "é": "i64"}
    safetensors([(n, names[n], a) for n, a in arrays.items()]).write_to(tmp_path / "w.safetensors")
    found = read_safetensors(tmp_path / "w.safetensors")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    (tmp_path / "bad.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0nope!")
    with pytest.raises(OptionError, match="damaged"):
        read_safetensors(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(("activations", "zero"), [(np.uint8, 128), (np.uint8, 3), (np.int8, 0), (np.int8, -5)])
def test_quantized_layers_multiply_signed_bytes(activations: type, zero: int) -> None:
    """A convolution with a border and a product: bytes of either sign, whatever the zero point."""
    model = quantized_onnx(activations, zero)
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6), np.float32)
    artifact = tilewright.compile(model, "xla:cpu", name="net", cache=False)
    text = artifact.read("net.mlir").decode()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line or "stablehlo.dot_general" in line]
    assert len(products) == 2
    assert all(line.count("xi8>") == 2 and "xi32>" in line for line in products)
    assert ("stablehlo.pad" in text) == ((activations, zero) not in ((np.uint8, 128), (np.int8, 0)))  # a border of 0 needs none
    (got,), (want,) = artifact.load()(x), by_interpreter(model, x)
    np.testing.assert_allclose(got, want, atol=1.01 * 0.1)  # one unit of the result


def quantized_onnx(activations: type, zero: int) -> onnx.ModelProto:
    """Conv and Gemm between QuantizeLinear and DequantizeLinear."""
    rng, made = np.random.default_rng(1), []
    constants = {
        "s": np.array(0.04, np.float32), "z": np.array(zero, activations), "sw": np.array(0.01, np.float32),
        "w": rng.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8), "v": rng.integers(-127, 128, (4, 5)).astype(np.int8),
        "so": np.array(0.1, np.float32), "zw": np.array(0, np.int8),
    }

    def node(op: str, inputs: str, **attributes: Any) -> str:
        made.append(helper.make_node(op, inputs.split(), [f"t{len(made)}"], **attributes))
        return f"t{len(made) - 1}"

    def quantized(x: str, scale: str) -> str:
        return node("DequantizeLinear", f"{node('QuantizeLinear', f'{x} {scale} z')} {scale} z")

    x = quantized("x", "s")
    y = quantized(node("Conv", f"{x} {node('DequantizeLinear', 'w sw zw')}", pads=[1] * 4), "s")
    y = quantized(node("GlobalAveragePool", y), "s")
    y = quantized(node("MatMul", f"{node('Flatten', y)} {node('DequantizeLinear', 'v sw zw')}"), "so")
    graph = helper.make_graph(
        made, "quantized", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6, 6])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [2, 5])],
        [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("reduction", ["ReduceMin", "ReduceMax"])
@pytest.mark.parametrize("as_float", [False, True])
def test_extrema_of_bytes_that_were_computed(reduction: str, as_float: bool) -> None:
    """Bytes of 128 and more were taken for negative where XLA fuses a subtraction, a conversion and a reduction."""
    nodes = [helper.make_node("Sub", ["a", "b"], ["s"])]
    if as_float:
        nodes.append(helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node(reduction, [nodes[-1].output[0]], ["y"], axes=[1], keepdims=0))
    inputs = [helper.make_tensor_value_info(n, TensorProto.UINT8, [1, 3, 90, 90]) for n in "ab"]
    out = TensorProto.FLOAT if as_float else TensorProto.UINT8
    graph = helper.make_graph(nodes, "bytes", inputs, [helper.make_tensor_value_info("y", out, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    a, b = (np.arange(24300) % 8).astype(np.uint8).reshape(1, 3, 90, 90), np.full((1, 3, 90, 90), 5, np.uint8)
    (got,) = tilewright.compile(model, "xla:cpu", cache=False).load()(a, b)
    np.testing.assert_array_equal(got, by_interpreter(model, a, b)[0])
