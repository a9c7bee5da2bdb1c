"""Operators of the domain com.microsoft with quantized weights, and small ones on tensors, against formulas in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from frontend.onnx_models import check_reference, draw, model, node, run, unknown, value
from frontend.test_onnx_microsoft import attend, contrib, heads
from onnx import helper
from tilewright.ir.errors import ModelError

RNG = np.random.default_rng(11)


def bytes_(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def given(
    op: str, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray], order: str, outputs: tuple[str, ...] = ("y",),
    **attributes: Any,
) -> list[np.ndarray]:  # fmt: skip
    """One node whose operands are named in order, "-" for absent ones."""
    n = node(op, ["" if o == "-" else o for o in order.split()], list(outputs), domain="com.microsoft", **attributes)
    values = [value(k, *x.shape, dtype=helper.np_dtype_to_tensor_dtype(x.dtype)) for k, x in inputs.items()]
    m = model([n], values, [unknown(o) for o in outputs], constants, domains={"com.microsoft": 1})
    return run(m, *inputs.values())


def unpacked(data: np.ndarray, bits: int) -> np.ndarray:
    """Numbers in bytes, the low bits first."""
    parts = [data >> s & 2**bits - 1 for s in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(*data.shape[:-1], -1).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_rows_of_quantized_tables(bits: int, with_zeros: bool) -> None:
    data, scales, indices = bytes_(10, 8 * bits), abs(draw(10, 4)), np.int64([[3, 0, 9], [1, 1, 4]])
    zeros = {"z": bytes_(10, bits // 2)} if with_zeros else {}
    if bits == 2:
        zeros = {k: bytes_(10, 1) for k in zeros}
    (y,) = given("GatherBlockQuantized", {"i": indices}, {"x": data, "s": scales, **zeros}, "x i s" + " z" * with_zeros,
                 bits=bits, block_size=16)  # fmt: skip
    offset = unpacked(zeros["z"], bits)[:, :4] if with_zeros else np.full((10, 4), 2 ** (bits - 1))
    table = (unpacked(data, bits) - np.repeat(offset, 16, 1)) * np.repeat(scales, 16, 1)
    np.testing.assert_allclose(y, table[indices], rtol=1e-6)


@pytest.mark.parametrize(("bits", "shuffled"), [(2, False), (4, False), (4, True), (8, True)])
def test_products_with_blocks_in_any_order(bits: int, shuffled: bool) -> None:
    groups = np.repeat(np.arange(4), 16).astype(np.int32)
    groups = RNG.permutation(groups) if shuffled else groups
    x, packed, scales = draw(3, 64), bytes_(12, 4, 2 * bits), abs(draw(12, 4))
    (y,) = given("MatMulNBits", {"x": x}, {"w": packed, "s": scales.reshape(-1), "g": groups},
                 "x w s - g" if shuffled else "x w s", K=64, N=12, bits=bits, block_size=16)  # fmt: skip
    w = (unpacked(packed.reshape(12, -1), bits) - 2 ** (bits - 1)) * scales[:, groups]
    np.testing.assert_allclose(y, x @ w.T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("groups", "message"), [
    (np.zeros(64, np.int32), "each of 4 blocks 16 times"), (np.arange(64, dtype=np.int32) // 16 * -1, "each of 4 blocks"),
])  # fmt: skip
def test_blocks_of_other_sizes_are_refused(groups: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        given("MatMulNBits", {"x": draw(3, 64)}, {"w": bytes_(12, 4, 8), "s": draw(48), "g": groups}, "x w s - g", K=64, N=12,
              bits=4, block_size=16)  # fmt: skip


@pytest.mark.parametrize(("op", "constants", "attributes", "message"), [
    ("QAttention", {"w": bytes_(16, 48), "b": draw(48), "s": np.float32(0.1), "t": np.float32(0.1)}, {"num_heads": 2},
     "input is u8"),
    ("GatherBlockQuantized", {"w": np.int64([1]), "b": draw(4, 2)}, {"block_size": 0}, "blocks of 0"),
    ("GatherBlockQuantized", {"w": np.int64([1]), "b": draw(4)}, {}, "scales is f32"),
    ("MatMulNBits", {"w": draw(3, 2, 8), "b": draw(6)}, {"K": 32, "N": 3, "block_size": 16}, "packed in u8, got float32"),
    ("UnfoldTensor", {}, {"size": 2**40, "dim": 0}, "not possible"),
])  # fmt: skip
def test_operands_that_do_not_fit(op: str, constants: dict[str, np.ndarray], attributes: dict[str, Any], message: str) -> None:
    x = draw(2, 32) if op == "MatMulNBits" else bytes_(4, 32)
    with pytest.raises(ModelError, match=message):
        given(op, {"x": x}, constants, " ".join(["x", *constants]), **attributes)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_by_bytes(causal: int) -> None:
    x, w, bias = bytes_(2, 4, 16), RNG.integers(-100, 100, (16, 48), dtype=np.int8), draw(48)
    scales = {"xs": np.float32(0.02), "ws": np.float32(0.01), "xz": np.uint8(120), "wz": np.int8(3)}
    (y,) = given("QAttention", {"x": x}, {"w": w, "b": bias, **scales}, "x w b xs ws - xz wz", num_heads=2,
                 unidirectional=causal)  # fmt: skip
    floats = (x.astype(np.float32) - 120) * 0.02 @ ((w.astype(np.float32) - 3) * 0.01) + bias
    q, k, v = (heads(part, 2) for part in np.split(floats, 3, 2))
    np.testing.assert_allclose(y, attend(q, k, v, causal=bool(causal)), rtol=1e-4, atol=1e-4)


def test_an_lstm_with_quantized_weights() -> None:
    """What an LSTM with the weights that the bytes stand for gives."""
    w, r = (RNG.integers(-127, 127, (2, n, 32), dtype=np.int8) for n in (6, 8))
    scales = {"ws": abs(draw(2, 32)) / 100, "rs": np.float32([0.01, 0.02])}
    zeros = {"wz": RNG.integers(-5, 5, (2, 32), dtype=np.int8), "rz": np.int8([0, 4])}
    x, bias = draw(5, 3, 6), draw(2, 64)
    made = given("DynamicQuantizeLSTM", {"x": x}, {"w": w, "r": r, "b": bias, **scales, **zeros}, "x w r b - - - - ws wz rs rz",
                 ("y", "h", "c"), hidden_size=8, direction="bidirectional",
                 activations=["Sigmoid", "Tanh", "Tanh"] * 2)  # fmt: skip
    floats = {"w": ((w.astype(np.float32) - zeros["wz"][:, None]) * scales["ws"][:, None]).transpose(0, 2, 1),
              "r": ((r.astype(np.float32) - zeros["rz"][:, None, None]) * scales["rs"][:, None, None]).transpose(0, 2, 1)}
    n = node("LSTM", ["x", "w", "r", "b"], ["y", "h", "c"], hidden_size=8, direction="bidirectional")
    expected = run(model([n], [value("x", 5, 3, 6)], ["y", "h", "c"], {**floats, "b": bias}), x)
    for got, wanted in zip(made, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_embeddings_of_bytes() -> None:
    tables = {"w": bytes_(9, 16), "p": bytes_(8, 16), "t": bytes_(2, 16), "g": bytes_(16), "b": bytes_(16)}
    scales = {f"{k}s": np.float32(v) for k, v in zip(tables, (0.02, 0.03, 0.01, 0.02, 0.01), strict=True)}
    zeros = {f"{k}z": np.uint8(v) for k, v in zip(tables, (120, 130, 110, 20, 128), strict=True)}
    inputs = {"i": np.int32([[3, 0, 8, 1]]), "seg": np.int32([[0, 1, 1, 0]]), "m": np.int32([[1, 1, 1, 0]])}
    y, count = given("QEmbedLayerNormalization", inputs, {**tables, **scales, **zeros},
                     "i seg w p t g b m ws ps ts gs bs wz pz tz gz bz", ("y", "n"))  # fmt: skip
    w, p, t, g, b = (scales[f"{k}s"] * (tables[k].astype(np.float32) - zeros[f"{k}z"]) for k in tables)
    total = w[inputs["i"]] + p[:4] + t[inputs["seg"]]
    normal = (total - total.mean(2, keepdims=True)) / np.sqrt(total.var(2, keepdims=True) + 1e-12)
    np.testing.assert_allclose(y, normal * g + b, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(count, [3])


@pytest.mark.parametrize("kind", ["softcap", "sink", "smooth", "norm"])
def test_group_query_attention_with_soft_scores(kind: str) -> None:
    q, k, v, past = draw(2, 1, 32), draw(2, 1, 16), draw(2, 1, 16), draw(2, 2, 5, 8)
    sink, norms = draw(4), (draw(8), draw(8) + 1)
    inputs = {"q": q, "k": k, "v": v, "pk": past, "pv": past + 1, "n": np.full(2, 5, np.int32)}
    more = {"sink": sink} if kind == "sink" else {"qn": norms[0], "kn": norms[1]} if kind == "norm" else {}
    order = "q k v pk pv n total" + {"sink": " - - - - sink", "norm": " - - - - - - - qn kn"}.get(kind, "")
    attributes = {"softcap": {"softcap": 0.7}, "smooth": {"smooth_softmax": 1}}.get(kind, {})
    y, *_ = given("GroupQueryAttention", inputs, {"total": np.int32(6), **more}, order, ("y", "nk", "nv"), num_heads=4,
                  kv_num_heads=2, **attributes)  # fmt: skip
    parts = [heads(q, 4), heads(k, 2)]
    if kind == "norm":
        parts = [p / np.sqrt((p**2).mean(-1, keepdims=True) + 1e-6) * n for p, n in zip(parts, norms, strict=True)]
    keys, values = (np.repeat(np.concatenate([a, c], 2), 2, 1) for a, c in ((past, parts[1]), (past + 1, heads(v, 2))))
    scores = parts[0] @ keys.transpose(0, 1, 3, 2) / math.sqrt(8)
    scores = 0.7 * np.tanh(scores / 0.7) if kind == "softcap" else scores
    extra = {"sink": sink, "smooth": np.zeros(4)}.get(kind, np.full(4, -np.inf))
    powers = np.exp(scores)
    weights = powers / (powers.sum(-1, keepdims=True) + np.exp(extra)[:, None, None])
    np.testing.assert_allclose(y, (weights @ values).transpose(0, 2, 1, 3).reshape(2, 1, 32), rtol=1e-4, atol=1e-5)


X = draw(2, 6, 4)
Z = X[0] @ X[1].T
GELU = np.vectorize(lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2)


@pytest.mark.parametrize(("op", "operands", "attributes", "expected"), [
    ("CDist", (X[0], X[1, :3]), {}, ((X[0][:, None] - X[1, :3]) ** 2).sum(2)),
    ("CDist", (X[0], X[1, :3]), {"metric": "euclidean"}, np.sqrt(((X[0][:, None] - X[1, :3]) ** 2).sum(2))),
    ("UnfoldTensor", (X,), {"dim": 1, "size": 3, "step": 2},
     np.stack([X[:, s : s + 3] for s in (0, 2)], 1).transpose(0, 1, 3, 2)),
    ("TransposeMatMul", (X, X), {"transB": 1, "alpha": 0.5}, 0.5 * X @ X.transpose(0, 2, 1)),
    ("Trilu", (X,), {"upper": 0}, np.tril(X)),
    ("ReduceSumInteger", (np.uint8([[200, 100], [3, 4]]),), {"axes": [1], "keepdims": 0}, np.uint32([300, 7])),
    ("GemmFastGelu", (X[0], X[1].T), {}, Z * (1 + np.tanh(math.sqrt(2 / math.pi) * (Z + 0.044715 * Z**3))) / 2),
    ("FusedMatMulActivation", (X[0], X[1].T), {"activation": "LeakyRelu", "activation_alpha": 0.1},
     np.where(Z < 0, 0.1 * Z, Z)),
    ("BiasAdd", (X, X[0, 0], X + 1), {}, X + X[0, 0] + X + 1),
    ("BiasSplitGelu", (X, X[0, 0]), {}, (X + X[0, 0])[..., :2] * GELU((X + X[0, 0])[..., 2:])),
])  # fmt: skip
def test_formulas(op: str, operands: tuple[np.ndarray, ...], attributes: dict[str, Any], expected: np.ndarray) -> None:
    got = contrib(op, *operands, **attributes)[0]
    assert got.dtype == expected.dtype or got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("skips", [False, True])
def test_group_norms_with_channels_last(activation: int, skips: bool) -> None:
    x, gamma, beta, skip, bias = draw(2, 3, 5, 8), draw(8), draw(8), draw(2, 8), draw(8)
    attributes = {"groups": 4, "activation": activation, "epsilon": 1e-5}
    if skips:
        y, total = contrib("SkipGroupNorm", x, gamma, beta, skip, bias, outputs=("y", "s"), **attributes)
        x = x + skip[:, None, None] + bias
        np.testing.assert_allclose(total, x, rtol=1e-6)
    else:
        (y,) = contrib("GroupNorm", x, gamma, beta, **attributes)
    rows = x.reshape(2, 15, 4, 2)
    mean, variance = rows.mean((1, 3), keepdims=True), rows.var((1, 3), keepdims=True)
    expected = ((rows - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * gamma + beta
    expected = expected / (1 + np.exp(-expected)) if activation else expected
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_pools_with_channels_last() -> None:
    x = bytes_(1, 7, 6, 3)
    n = node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    m = model([n], [value("x", 1, 3, 7, 6, dtype=2)], [unknown("y", 2)])
    check_reference(m, x.transpose(0, 3, 1, 2))
    (y,) = contrib("NhwcMaxPool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    np.testing.assert_array_equal(y.transpose(0, 3, 1, 2), run(m, x.transpose(0, 3, 1, 2))[0])
