"""Quantized operators as exporters write them, against ONNX's reference evaluator and NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import pytest
from frontend.onnx_models import model, node, ops, run, unknown, value
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tilewright.frontend.onnx import import_model
from tilewright.frontend.onnx.tensors import TensorReader
from tilewright.ir.errors import ModelError

U8, I8, I32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
RNG = np.random.default_rng(3)
f32 = np.float32


def _ints(dtype: type, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def _against_reference(m: onnx.ModelProto, *arrays: np.ndarray, most: int = 0) -> None:
    """most: by how many units the integers may differ."""
    graph = import_model(m)
    expected = ReferenceEvaluator(m).run(None, dict(zip((v.name for v in graph.inputs), arrays, strict=True)))
    for got, wanted in zip(run(graph, *arrays), expected, strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        assert np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max() <= most


SCALES = {"s": f32(0.3), "sv": RNG.uniform(0.1, 1, 4).astype(f32), "sb": RNG.uniform(0.1, 1, (3, 2)).astype(f32)}
PAIRS = [
    (np.uint8, "s", {}), (np.int8, "s", {}), (np.int16, "s", {}), (np.uint16, "s", {}),
    (np.int8, "sv", {"axis": 1}), (np.int8, "sv", {"axis": -1}), (np.uint8, "sb", {"axis": 1, "block_size": 2}),
]


@pytest.mark.parametrize(("dtype", "scale", "attributes"), PAIRS)
@pytest.mark.parametrize("zero", [False, True])
def test_pairs(dtype: type, scale: str, attributes: dict[str, int], zero: bool) -> None:
    zeros = _ints(dtype, *np.shape(SCALES[scale]))
    constants = {"s": SCALES[scale], **({"z": zeros} if zero or dtype is not np.uint8 else {})}
    names = list(constants)
    nodes = [
        node("QuantizeLinear", ["x", *names], ["q"], **attributes),
        node("DequantizeLinear", ["q", *names], ["y"], **attributes),
    ]
    m = model(nodes, [value("x", 3, 4)], [unknown("q", helper.np_dtype_to_tensor_dtype(np.dtype(dtype))), "y"], constants)
    _against_reference(m, RNG.uniform(-60, 60, (3, 4)).astype(f32))


def test_weights_stay_quantized() -> None:
    m = model(
        [node("DequantizeLinear", ["w", "s"], ["d"]), node("MatMul", ["x", "d"], ["y"])],
        [value("x", 2, 4)], ["y"], {"w": _ints(np.int8, 4, 5), "s": f32(0.5)},
    )
    assert ops(import_model(m)) == ["Dequantize", "MatMul"]


def _qlinear_conv(w_dtype: type, zero: int, per_channel: bool) -> tuple[onnx.ModelProto, np.ndarray]:
    scales = RNG.uniform(0.01, 0.02, 6 if per_channel else ()).astype(f32)
    constants = {
        "xs": f32(0.1), "xz": np.uint8(77), "w": _ints(w_dtype, 6, 3, 3, 3), "ws": scales,
        "wz": np.full(np.shape(scales), zero, w_dtype), "ys": f32(0.9), "yz": np.uint8(120),
        "b": _ints(np.int16, 6).astype(np.int32),
    }
    nodes = [node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], pads=[1, 1, 1, 1])]
    return model(nodes, [value("x", 1, 3, 5, 6, dtype=U8)], [unknown("y", U8)], constants), _ints(np.uint8, 1, 3, 5, 6)


@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, 0), (np.uint8, 128), (np.uint8, 90)])
def test_qlinear_conv(dtype: type, zero: int) -> None:
    m, x = _qlinear_conv(dtype, zero, False)
    _against_reference(m, x, most=1)


def test_qlinear_conv_per_channel() -> None:
    """Against its meaning: the reference evaluator takes no vector of scales."""
    m, x = _qlinear_conv(np.int8, 0, True)
    c = {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
    wide = np.pad(x.astype(np.int64) - 77, ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = np.zeros((1, 6, 5, 6), np.int64)
    for i in range(3):
        for j in range(3):
            total += np.einsum("nchw,oc->nohw", wide[:, :, i : i + 5, j : j + 6], c["w"][:, :, i, j].astype(np.int64))
    floats = (total + c["b"].reshape(1, 6, 1, 1)) * (f32(0.1) * c["ws"].reshape(1, 6, 1, 1) / f32(0.9))
    expected = np.clip(np.rint(floats) + 120, 0, 255)
    assert np.abs(run(m, x)[0].astype(int) - expected).max() <= 1


def test_qlinear_matmul() -> None:
    constants = {"s": f32(0.02), "z": np.uint8(113), "w": _ints(np.int8, 7, 5), "wz": np.int8(3), "t": f32(0.2)}
    nodes = [node("QLinearMatMul", ["x", "s", "z", "w", "s", "wz", "t", "z"], ["y"])]
    m = model(nodes, [value("x", 4, 7, dtype=U8)], [unknown("y", U8)], constants)
    _against_reference(m, _ints(np.uint8, 4, 7), most=1)


@pytest.mark.parametrize(("op", "shapes"), [("MatMulInteger", ((4, 7), (7, 5))), ("ConvInteger", ((1, 3, 6, 6), (4, 3, 3, 3)))])
@pytest.mark.parametrize("zeros", [(), ("xz",), ("xz", "wz")])
def test_integer_products(op: str, shapes: Sequence[tuple[int, ...]], zeros: tuple[str, ...]) -> None:
    constants = {"xz": np.uint8(120), "wz": np.uint8(33)}
    attributes = {"pads": [1, 1, 1, 1]} if op == "ConvInteger" else {}
    inputs = [value("x", *shapes[0], dtype=U8), value("w", *shapes[1], dtype=U8)]
    nodes = [node(op, ["x", "w", *zeros], ["y"], **attributes)]
    m = model(nodes, inputs, [unknown("y", I32)], {z: constants[z] for z in zeros})
    _against_reference(m, *(_ints(np.uint8, *s) for s in shapes))


@pytest.mark.parametrize("low, high", [(-3, 5), (1, 5), (-4, -1)])
def test_dynamic_quantize(low: float, high: float) -> None:
    m = model(
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])], [value("x", 5, 6)],
        [unknown("q", U8), "s", unknown("z", U8)],
    )
    _against_reference(m, RNG.uniform(low, high, (5, 6)).astype(f32))


def test_constants_of_four_bits() -> None:
    array = np.arange(-8, 7).astype(ml_dtypes.int4).reshape(3, 5)
    np.testing.assert_array_equal(TensorReader(None).read(onnx.numpy_helper.from_array(array)), array.astype(np.int8))
    unsigned = np.arange(15).astype(ml_dtypes.uint4).reshape(3, 5)
    np.testing.assert_array_equal(TensorReader(None).read(onnx.numpy_helper.from_array(unsigned)), np.arange(15).reshape(3, 5))
    cut = onnx.TensorProto(data_type=TensorProto.INT4, dims=[3], raw_data=b"\0")
    with pytest.raises(ModelError, match="2 bytes"):
        TensorReader(None).read(cut)


# ---- outside of the standard -----------------------------------------------------------------------------------------


def _extension(op: str, domain: str, inputs: list[str], **attributes: object) -> NodeProto:
    return node(op, inputs, ["y"], domain=domain, **attributes)


def _quant(x: np.ndarray, bits: int, signed: bool, narrow: bool, scale: np.ndarray) -> np.ndarray:
    low, high = (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1 - narrow)
    return (np.clip(np.rint(x / scale), low, high) * scale).astype(f32)


QUANTS = [(2, 1, 1, ()), (4, 0, 0, ()), (8, 1, 1, (4, 1)), (12, 1, 0, ()), (16, 0, 1, ()), (20, 1, 0, ())]


@pytest.mark.parametrize(("bits", "signed", "narrow", "shape"), QUANTS)
def test_qonnx_quant(bits: int, signed: int, narrow: int, shape: tuple[int, ...]) -> None:
    scale, x = RNG.uniform(0.1, 0.5, shape).astype(f32), RNG.uniform(-9, 9, (4, 6)).astype(f32)
    domain, attributes = "qonnx.custom_op.general", {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"}
    nodes = [_extension("Quant", domain, ["x", "s", "z", "b"], **attributes)]
    constants = {"s": scale, "z": f32(0), "b": f32(bits)}
    m = model(nodes, [value("x", 4, 6)], ["y"], constants, domains={domain: 1})
    np.testing.assert_array_equal(run(m, x)[0], _quant(x, bits, bool(signed), bool(narrow), scale))
    assert ("Quantize" in ops(import_model(m))) == (bits <= 16)


def test_qonnx_domain_without_a_version() -> None:
    nodes = [_extension("BipolarQuant", "onnx.brevitas", ["x", "s"])]
    m = model(nodes, [value("x", 3)], ["y"], {"s": f32(0.5)})
    np.testing.assert_array_equal(run(m, np.array([-1, 0, 2], f32))[0], f32([-0.5, 0.5, 0.5]))


def test_an_unknown_attribute_of_an_extension_is_named() -> None:
    m = model([_extension("BipolarQuant", "onnx.brevitas", ["x", "s"], bits=3)], [value("x", 3)], ["y"], {"s": f32(1)})
    with pytest.raises(ModelError, match="unknown attribute 'bits'"):
        import_model(m)
    m = model([_extension("Quant", "onnx.brevitas", ["x", "s"])], [value("x", 3)], ["y"], {"s": f32(1)})
    with pytest.raises(ModelError, match="expected 4 to 4 inputs, got 2"):
        import_model(m)


def test_microsoft_add() -> None:
    constants = {"s": f32(0.5), "z": np.uint8(10), "t": f32(0.25), "u": f32(0.75)}
    nodes = [_extension("QLinearAdd", "com.microsoft", ["x", "s", "z", "w", "t", "z", "u", "z"])]
    inputs = [value("x", 9, dtype=U8), value("w", 9, dtype=U8)]
    m = model(nodes, inputs, [unknown("y", U8)], constants, domains={"com.microsoft": 1})
    x, w = _ints(np.uint8, 9), _ints(np.uint8, 9)
    total = (x.astype(int) - 10) * 0.5 + (w.astype(int) - 10) * 0.25
    np.testing.assert_array_equal(run(m, x, w)[0], np.clip(np.rint(f32(total) / f32(0.75)) + 10, 0, 255))


@pytest.mark.parametrize("bits", [4, 8])
def test_microsoft_weights_of_few_bits(bits: int) -> None:
    k, n, block = 40, 3, 16
    w = RNG.integers(0, 2**bits, (n, 48)).astype(np.uint8)
    packed = (w[:, ::2] | w[:, 1::2] << 4) if bits == 4 else w
    scales = RNG.uniform(0.1, 1, (n, 3)).astype(f32)
    constants = {"w": packed.reshape(n, 3, -1), "s": scales.reshape(-1)}
    nodes = [_extension("MatMulNBits", "com.microsoft", ["x", "w", "s"], K=k, N=n, bits=bits, block_size=block)]
    m = model(nodes, [value("x", 2, k)], ["y"], constants, domains={"com.microsoft": 1})
    floats = (w.astype(f32) - 2 ** (bits - 1)) * np.repeat(scales, block, 1)
    x = RNG.standard_normal((2, k)).astype(f32)
    np.testing.assert_allclose(run(m, x)[0], x @ floats[:, :k].T, rtol=1e-4, atol=1e-4)
