"""Quantized models: the codes of the hardware are the model's, for every integer that a sum can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tilewright.codegen.hls.body import BodyBuilder
from tilewright.codegen.hls.fixed import holding
from tilewright.codegen.hls.levels import emit, find_levels, fit_affine, fit_pair
from tilewright.targets.artifact import Artifact

SHARED = Path(__file__).parents[3] / "shared" / "models"
QONNX = "qonnx.custom_op.general"
f32 = np.float32


def quantize(x: np.ndarray, low: int, high: int, zero: int = 0) -> np.ndarray:
    return np.clip(np.rint(x) + zero, low, high)


def arithmetic(f: Callable[[np.ndarray], np.ndarray], low: int, high: int, channels: int, real: object = None,
               knees: tuple[int, ...] = (), zero: int = 0) -> np.ndarray:
    """The codes that the fitted instructions give for all integers, [channels, n]."""
    levels = find_levels(f, low, high, channels)
    assert levels is not None
    form = fit_affine(levels, real, zero=zero) or fit_pair(levels, None, knees)  # type: ignore[arg-type]
    b = BodyBuilder()
    a = b.input(holding(low, high))
    body = b.body(emit(b, a, levels, form))
    codes = np.arange(low, high + 1)
    return body.run(np.repeat(codes, channels)).reshape(-1, channels).T


RNG = np.random.default_rng(5)
SCALES = RNG.uniform(0.002, 0.03, (4, 1)) * [[1], [1], [-1], [0.001]]
OFFSETS = RNG.uniform(-3, 3, (4, 1))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 15), (-128, 127), (-32768, 32767)])
def test_any_scale_rounds_as_the_model_does(low: int, high: int) -> None:
    def real(a: np.ndarray) -> np.ndarray:
        return (a * SCALES + OFFSETS) * (high - low) / 8

    codes = np.broadcast_to(np.arange(-900, 701), (4, 1601))
    np.testing.assert_array_equal(arithmetic(lambda a: quantize(real(a), low, high), -900, 700, 4, real),
                                  quantize(real(codes), low, high))


@pytest.mark.parametrize(("shift", "zero"), [(0, 0), (1, 0), (3, 0), (6, 0), (3, 1), (1, -3)])
def test_ties_go_to_even(shift: int, zero: int) -> None:
    def real(a: np.ndarray) -> np.ndarray:
        return (a * np.array([[3], [-1]]) + np.array([[1], [0]])) * 0.5**shift

    codes = np.broadcast_to(np.arange(-300, 301), (2, 601))
    wanted = quantize(real(codes), -100, 100, zero)
    assert np.any(real(codes) % 1 == 0.5) == (shift > 0)
    got = arithmetic(lambda a: quantize(real(a), -100, 100, zero), -300, 300, 2, real, zero=zero)
    np.testing.assert_array_equal(got, wanted)


def test_leaky_rectifiers_are_two_lines_and_steps_are_comparisons() -> None:
    codes = np.arange(-500, 501)[None]

    def leaky(a: np.ndarray) -> np.ndarray:
        return quantize(np.where(a < 0, a * 0.013, a * 0.11), -20, 60)

    np.testing.assert_array_equal(arithmetic(leaky, -500, 500, 1, None, (0, 1, -1)), leaky(codes))

    def curve(a: np.ndarray) -> np.ndarray:
        return quantize(7.0 / (1 + np.exp(-a / 60)), 0, 7)

    np.testing.assert_array_equal(arithmetic(curve, -500, 500, 1), curve(codes))


def test_what_neither_rises_nor_falls_has_no_levels() -> None:
    assert find_levels(lambda a: np.abs(a), -10, 10, 1) is None


class Model:
    """A QONNX or QDQ model under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def quant(self, x: str, scale: object, bits: int, signed: int = 1, narrow: int = 0) -> str:
        operands = [self.constant(np.asarray(a, f32)) for a in (scale, 0.0, bits)]
        return self.op("Quant", x, *operands, domain=QONNX, signed=signed, narrow=narrow, rounding_mode="ROUND")

    def conv(self, x: str, channels: int, outputs: int, bits: int, scale: float) -> str:
        w = self.constant(RNG.standard_normal((outputs, channels, 3, 3)).astype(f32))
        scales = scale * RNG.uniform(0.5, 1.5, (outputs, 1, 1, 1)) if scale % 0.125 else np.full((outputs, 1, 1, 1), scale)
        return self.op("Conv", x, self.quant(w, scales, bits, narrow=int(bits > 1)), pads=[1, 1, 1, 1])

    def save(self, path: Path, shape: tuple[int, ...], y: str) -> Path:
        graph = helper.make_graph(self.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                                  [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)], self.constants)
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid(QONNX, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets), path)
        return path


def qonnx_model(path: Path, bits: int, dyadic: bool) -> Path:
    """Convolution, batch norm, rectifier, pool, residual sum, truncated mean, linear layer."""
    m = Model()
    s = 0.25 if dyadic else 0.23
    x = m.quant("x", s, bits)
    y = m.conv(x, 3, 4, bits, 0.125 if dyadic else 0.11)
    arrays = [RNG.uniform(0.5, 1.5, 4), RNG.normal(size=4), RNG.normal(size=4), RNG.uniform(0.5, 1.5, 4)]
    if not dyadic:
        y = m.op("BatchNormalization", y, *(m.constant(a.astype(f32)) for a in arrays))
    y = m.quant(m.op("Relu", y), s, bits, signed=0)
    z = m.quant(m.conv(y, 4, 4, bits, 0.25 if dyadic else 0.09), s, bits)
    y = m.quant(m.op("Add", y, z), 2 * s, bits)
    y = m.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    mean = m.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])
    operands = [m.constant(f32(a)) for a in (s / 2, 0.0, bits + 2, bits)]
    y = m.op("Trunc", mean, *operands, domain=QONNX, rounding_mode="FLOOR")
    w = m.op("BipolarQuant", m.constant(RNG.standard_normal((16, 5)).astype(f32)), m.constant(f32(s)), domain=QONNX)
    y = m.op("MatMul", m.op("Flatten", y), w)
    return m.save(path, (1, 3, 8, 8), y)


def compiled(path: Path, **options: object) -> Artifact:
    return tilewright.compile(path, "fpga:zcu104", fpga={"max_error": 1e9, **options}, cache=False)


class Exact:
    """The operators of `qonnx_model` in double precision."""

    def __init__(self, path: Path) -> None:
        self.graph = onnx.load(path).graph
        self.env = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in self.graph.initializer}

    def run(self, x: np.ndarray) -> np.ndarray:
        self.env["x"] = x.astype(np.float64)
        for n in self.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in n.attribute}
            self.env[n.output[0]] = getattr(self, n.op_type)(*(self.env[i] for i in n.input), **attributes)
        return self.env[self.graph.node[-1].output[0]]

    def Quant(self, x: np.ndarray, s: np.ndarray, z: float, bits: float, signed: int, narrow: int, **_: object) -> np.ndarray:
        low, high = (-(2.0 ** (bits - 1)) + narrow, 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1 - narrow)
        return np.clip(np.rint(x / s), low, high) * s

    def BipolarQuant(self, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.where(x >= 0, s, -s)

    def Trunc(self, x: np.ndarray, s: float, z: float, bits: float, out_bits: float, **_: object) -> np.ndarray:
        return np.floor(np.rint(x / s) / 2.0 ** (bits - out_bits)) * s

    def Conv(self, x: np.ndarray, w: np.ndarray, pads: list[int]) -> np.ndarray:
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        views = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        return np.einsum("nchwyx,ocyx->nohw", views, w)

    def BatchNormalization(self, x: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
        gain, bias, mean, var = (a.reshape(1, -1, 1, 1) for a in arrays)
        return (x - mean) / np.sqrt(var + 1e-5) * gain + bias

    def _pooled(self, x: np.ndarray) -> np.ndarray:
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2)

    def Relu(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    def Add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + y

    def MaxPool(self, x: np.ndarray, **_: object) -> np.ndarray:
        return self._pooled(x).max((3, 5))

    def AveragePool(self, x: np.ndarray, **_: object) -> np.ndarray:
        return self._pooled(x).mean((3, 5))

    def Flatten(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1)

    def MatMul(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x @ y


@pytest.mark.parametrize(("bits", "dyadic"), [(2, True), (3, False), (5, True), (8, False), (12, False), (16, True)])
def test_models_of_few_and_many_bits(tmp_path: Path, bits: int, dyadic: bool) -> None:
    """Every code is the one of the model's arithmetic in double precision, ties among them."""
    path = qonnx_model(tmp_path / "m.onnx", bits, dyadic)
    artifact = compiled(path)
    assert not any("codes may differ" in note for note in json.loads(artifact.read("report.json"))["notes"])
    module, exact = artifact.load(), Exact(path)
    try:
        for reach in (0.3, 3.0):
            x = (RNG.standard_normal((1, 3, 8, 8)) * reach).astype(f32)
            wanted = exact.run(x)
            np.testing.assert_allclose(module(x)[0], wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    finally:
        module.close()


def test_one_bit(tmp_path: Path) -> None:
    m = Model()
    scale = m.constant(f32(0.5))
    x = m.op("BipolarQuant", "x", scale, domain=QONNX)
    w = m.op("BipolarQuant", m.constant(RNG.standard_normal((16, 6)).astype(f32)), scale, domain=QONNX)
    y = m.op("Add", m.op("MatMul", x, w), m.constant(RNG.standard_normal(6).astype(f32)))
    y = m.op("BipolarQuant", y, scale, domain=QONNX)
    artifact = compiled(m.save(tmp_path / "m.onnx", (4, 16), y))
    report = json.loads(artifact.read("report.json"))
    assert report["accuracy"]["error"] == [0.0]
    assert next(p for p in report["processes"] if p["kind"] == "dot")["about"].find("weights s2.0") >= 0


def test_codes_with_zero_points(tmp_path: Path) -> None:
    """QDQ with asymmetric activations: a border, a pool, a hard swish in a table, a concatenation."""
    m, rng = Model(), np.random.default_rng(5)  # other weights may end within the rounding errors of f32 of a tie

    def pair(x: str, scale: float, zero: int) -> str:
        operands = m.constant(f32(scale)), m.constant(np.uint8(zero))
        return m.op("DequantizeLinear", m.op("QuantizeLinear", x, *operands), *operands)

    weights = [m.constant(rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)),
               m.constant(rng.uniform(0.001, 0.01, 4).astype(f32)), m.constant(np.zeros(4, np.int8))]
    x = pair("x", 0.031, 117)
    y = m.op("Conv", x, m.op("DequantizeLinear", *weights, axis=0), m.constant(rng.standard_normal(4).astype(f32)),
             pads=[1, 1, 1, 1])
    y = pair(y, 0.02, 90)
    y = pair(m.op("HardSwish", y), 0.017, 22)
    z = pair(m.op("AveragePool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 0.0163, 22)
    z = pair(m.op("Mul", z, m.constant(f32(1.07))), 0.017, 22)
    y = m.op("MaxPool", m.op("Concat", y, z, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    path = m.save(tmp_path / "m.onnx", (1, 3, 6, 6), pair(y, 0.017, 22))
    path_14 = onnx.load(path)
    path_14.opset_import[0].version = 14
    onnx.save(path_14, path)
    report = json.loads(compiled(path).read("report.json"))
    assert report["accuracy"]["error"][0] < 1e-6
    kinds = [p["kind"] for p in report["processes"]]
    assert kinds.count("pool") == 0
    assert "dot" in kinds


@pytest.mark.parametrize(("name", "wrong"), [("qonnx_tfc_2w2a", 0), ("qonnx_espcn_nn", 1)])
def test_shared_qonnx_models_equal_their_references(tmp_path: Path, name: str, wrong: int) -> None:
    """In ESPCN the sums of one element of 196,608 end 1e-7 from a tie, where those of the reference in f32 are rounded to
    the other side; in double precision the reference gives what the hardware does."""
    folder = SHARED / name
    if not folder.exists():
        pytest.skip("the shared models are not here")
    with np.load(folder / "io.npz") as data:
        (key,) = data["input_names"]
        x, y = data["input_0"], data["output_0"]
    np.savez(tmp_path / "c.npz", **{str(key): x})
    artifact = tilewright.compile(folder / "model.onnx", "fpga:zcu104", fpga={"calibration": tmp_path / "c.npz"}, cache=False)
    module = artifact.load()
    try:
        assert (module(x)[0] != y).sum() <= wrong
    finally:
        module.close()


def test_keyword_spotting_equals_the_reference_of_the_standard(tmp_path: Path) -> None:
    """Node by node, every value; ONNX Runtime does so too, but with its optimizations on it ends one code off in one of ten."""
    folder = SHARED / "kws_qdq"
    if not folder.exists():
        pytest.skip("the shared models are not here")
    with np.load(folder / "io.npz") as one, np.load(folder / "io_alt.npz") as more:
        x = np.concatenate([one["input_0"], more["input_0"]])
    model = onnx.load(folder / "model.onnx")
    name = model.graph.input[0].name
    np.savez(tmp_path / "c.npz", **{name: x[:, None]})
    artifact = tilewright.compile(folder / "model.onnx", "fpga:zcu104", dims={"unk__68": 1}, cache=False,
                                  fpga={"calibration": tmp_path / "c.npz"})
    for entry in model.opset_import:
        entry.version = 21 if entry.domain in ("", "ai.onnx") else entry.version  # the reference has no older DequantizeLinear
    reference = ReferenceEvaluator(model)
    module = artifact.load()
    try:
        for n in range(len(x)):
            (wanted,) = reference.run(None, {name: x[n:n + 1]})
            np.testing.assert_array_equal(module(x[n:n + 1])[0], wanted)
    finally:
        module.close()
