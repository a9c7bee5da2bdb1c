"""Operators of the domain com.microsoft against their formulas in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from frontend.onnx_models import draw, model, node, run, unknown, value
from onnx import TensorProto, helper
from tilewright.ir.errors import ModelError

B, M, H, D = 2, 3, 2, 4
I32 = TensorProto.INT32


def contrib(op: str, *operands: np.ndarray | None, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> list[np.ndarray]:
    """The outputs of one node; operands of integers and those after the first are inputs too."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(operands)]
    n = node(op, names, list(outputs), domain="com.microsoft", **attributes)
    given = {name: x for name, x in zip(names, operands, strict=True) if x is not None}
    inputs = [value(name, *x.shape, dtype=helper.np_dtype_to_tensor_dtype(x.dtype)) for name, x in given.items()]
    m = model([n], inputs, [unknown(o) for o in outputs if o], domains={"com.microsoft": 1})
    return run(m, *given.values())


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


X, BIAS = draw(2, 3, 8), draw(8)
SUM = X + BIAS


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "expected"),
    [
        ("Gelu", (X,), {}, X * (1 + erf(X / math.sqrt(2))) / 2),
        ("BiasGelu", (X, BIAS), {}, SUM * (1 + erf(SUM / math.sqrt(2))) / 2),
        ("FastGelu", (X, BIAS), {}, SUM * (1 + np.tanh(math.sqrt(2 / math.pi) * (SUM + 0.044715 * SUM**3))) / 2),
        ("QuickGelu", (X,), {"alpha": 1.5}, X / (1 + np.exp(-1.5 * X))),
        ("FusedMatMul", (X, draw(2, 5, 8)), {"transB": 1, "alpha": 0.5}, 0.5 * X @ draw(2, 5, 8).transpose(0, 2, 1)),
        ("FusedMatMul", (draw(3, 2, 4), draw(2, 4, 5)), {"transBatchA": 1},
         draw(3, 2, 4).transpose(1, 0, 2) @ draw(2, 4, 5)),
        ("FusedMatMul", (draw(4, 2, 3), draw(2, 4, 5)), {"transBatchA": 1, "transA": 1},
         draw(4, 2, 3).transpose(1, 2, 0) @ draw(2, 4, 5)),
        ("FusedGemm", (draw(3, 4), draw(4, 5), draw(5)), {"activation": "LeakyRelu", "activation_alpha": 0.1},
         np.where((z := draw(3, 4) @ draw(4, 5) + draw(5)) < 0, 0.1 * z, z)),
    ],
)  # fmt: skip
def test_formulas(op: str, operands: tuple[np.ndarray, ...], attributes: dict[str, Any], expected: np.ndarray) -> None:
    np.testing.assert_allclose(contrib(op, *operands, **attributes)[0], expected, rtol=1e-5, atol=1e-6)


def test_fused_convolution() -> None:
    x, w, skip = draw(1, 4, 6, 6), draw(5, 4, 1, 1), draw(1, 5, 6, 6)
    (y,) = contrib("FusedConv", x, w, draw(5), skip, activation="Clip", activation_params=[-0.5, 0.5])
    expected = np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0]) + draw(5)[:, None, None] + skip
    np.testing.assert_allclose(y, np.clip(expected, -0.5, 0.5), rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match="activation 'Swish'"):
        contrib("FusedConv", x, w, activation="Swish")


def norm(x: np.ndarray, centre: bool) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True) if centre else x
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("simplified", [False, True])
def test_normalisations_of_sums(simplified: bool) -> None:
    skip, gamma, beta = draw(2, 3, 8) * 2, draw(8), draw(8) + 1
    op = "SkipSimplifiedLayerNormalization" if simplified else "SkipLayerNormalization"
    rest = (BIAS,) if simplified else (beta, BIAS)
    y, total = contrib(op, X, skip, gamma, *rest, outputs=("y", "", "", "total"), epsilon=1e-5)
    np.testing.assert_allclose(total, X + skip + BIAS, rtol=1e-5, atol=1e-6)
    expected = norm(X + skip + BIAS, not simplified) * gamma + (0 if simplified else beta)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_simplified_layer_normalization_in_the_standards_domain() -> None:
    n = node("SimplifiedLayerNormalization", ["x", "g"], ["y"], epsilon=1e-5)
    (y,) = run(model([n], [value("x", 2, 3, 8)], ["y"], {"g": BIAS}), X)
    np.testing.assert_allclose(y, norm(X, False) * BIAS, rtol=1e-5, atol=1e-6)


def test_embeddings() -> None:
    ids, segments, mask = np.int32([[1, 4, 2]]), np.int32([[0, 1, 1]]), np.int32([[1, 1, 0]])
    words, places, kinds = draw(5, 8), draw(6, 8), draw(2, 8)
    y, count, total = contrib("EmbedLayerNormalization", ids, segments, words, places, kinds, draw(8), BIAS, mask,
                              outputs=("y", "count", "total"), epsilon=1e-5)  # fmt: skip
    np.testing.assert_allclose(total, words[ids] + places[:3] + kinds[segments], rtol=1e-6)
    np.testing.assert_allclose(y, norm(total, True) * draw(8) + BIAS, rtol=1e-4, atol=1e-5)
    assert count.tolist() == [2]


# ---- attention ----


def heads(x: np.ndarray, count: int) -> np.ndarray:
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | float = 0.0, causal: bool = False) -> np.ndarray:
    """[B, H, M, D], [B, G, S, D] twice -> [B, M, H * D]"""
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1]) + mask
    if causal:
        ahead = np.triu(np.ones(scores.shape[-2:], bool), 1 + scores.shape[-1] - scores.shape[-2])
        scores = np.where(ahead, -np.inf, scores)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    y = e / e.sum(-1, keepdims=True) @ v
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


PADDING = np.int32([[1, 1, 0], [1, 1, 1]])
ADDED = np.where(PADDING, 0.0, -10000.0)[:, None, None]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, PADDING, np.int32([2, 3]), PADDING[:, None].repeat(3, 1)])
def test_attention_from_one_product(mask: np.ndarray | None, causal: int) -> None:
    x, w, bias = draw(B, M, 8), draw(8, 24), draw(24)
    (y,) = contrib("Attention", x, w, bias, mask, num_heads=H, unidirectional=causal)
    q, k, v = (heads(t, H) for t in np.split(x @ w + bias, 3, -1))
    expected = attend(q, k, v, 0.0 if mask is None else ADDED, bool(causal))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_attention_with_a_past() -> None:
    x, w, past = draw(B, M, 8), draw(8, 24), draw(2, B, H, 5, D)
    y, present = contrib("Attention", x, w, None, None, past, outputs=("y", "present"), num_heads=H, unidirectional=1)
    q, k, v = (heads(t, H) for t in np.split(x @ w, 3, -1))
    k, v = np.concatenate([past[0], k], 2), np.concatenate([past[1], v], 2)
    np.testing.assert_allclose(present, np.stack([k, v]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, attend(q, k, v, causal=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["flat", "packed", "pairs", "cross"])
def test_multi_head_attention(form: str) -> None:
    q, k, v = draw(B, M, 8), draw(B, M, 8) * 2, draw(B, M, 8) - 1
    split = [t.reshape(B, M, H, 1, D) for t in (q, k, v)]
    operands = {
        "flat": (q, k, v), "packed": (np.concatenate(split, 3),), "pairs": (q, np.concatenate(split[1:], 3)),
        "cross": (q, heads(k, H), heads(v, H)),
    }[form]  # fmt: skip
    (y,) = contrib("MultiHeadAttention", *operands, num_heads=H)
    np.testing.assert_allclose(y, attend(heads(q, H), heads(k, H), heads(v, H)), rtol=1e-4, atol=1e-5)


def test_multi_head_attention_with_everything() -> None:
    q, k, v, bias = draw(B, M, 8), draw(B, M, 8) * 2, draw(B, M, 8) - 1, draw(24)
    extra, past = draw(1, H, M, 5), draw(B, H, 2, D)
    mask = np.int32([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    operands = (q, k, v, bias, mask, extra, past, past + 1)
    y, present, _ = contrib("MultiHeadAttention", *operands, outputs=("y", "k", "v"), num_heads=H)
    parts = [heads(t + c, H) for t, c in zip((q, k, v), np.split(bias, 3), strict=True)]
    keys, values = (np.concatenate([p, t], 2) for p, t in ((past, parts[1]), (past + 1, parts[2])))
    np.testing.assert_allclose(present, keys, rtol=1e-6)
    added = np.where(mask, 0.0, -10000.0)[:, None, None] + extra
    np.testing.assert_allclose(y, attend(parts[0], keys, values, added), rtol=1e-4, atol=1e-5)


def turn(x: np.ndarray, at: np.ndarray, interleaved: bool) -> np.ndarray:
    """x[B, M, H, D] as complex numbers times exp(i * position * frequency)."""
    half = x.shape[-1] // 2
    z = x[..., ::2] + 1j * x[..., 1::2] if interleaved else x[..., :half] + 1j * x[..., half:]
    z = z * np.exp(1j * at[:, :, None, None] * np.arange(1, half + 1) / half)
    return np.stack([z.real, z.imag], -1).reshape(x.shape) if interleaved else np.concatenate([z.real, z.imag], -1)


ANGLES = np.outer(np.arange(16), np.arange(1, D // 2 + 1) / (D // 2))
COS, SIN = np.cos(ANGLES).astype(np.float32), np.sin(ANGLES).astype(np.float32)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("positions", [np.int64([[5, 1, 2], [0, 9, 3]]), np.int64([4])])
def test_rotary_positions(positions: np.ndarray, interleaved: bool) -> None:
    x = draw(B, M, H * D)
    (y,) = contrib("RotaryEmbedding", x, positions, COS, SIN, interleaved=int(interleaved))
    at = positions if positions.ndim == 2 else np.tile(positions[0] + np.arange(M), (B, 1))
    expected = turn(x.reshape(B, M, H, D), at, interleaved).reshape(x.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def grouped(total: int, past: int, lengths: np.ndarray, rows: int) -> None:
    """Group-query attention of 4 heads on 2, against one sequence at a time."""
    q, k, v = draw(B, rows, 16), draw(B, rows, 8) * 2, draw(B, rows, 8) - 1
    cache = [draw(B, 2, past, D), draw(B, 2, past, D) + 1]
    names = ["q", "k", "v", "pk", "pv", "lengths", "total", "cos", "sin"]
    n = node("GroupQueryAttention", names, ["y", "nk", "nv"], domain="com.microsoft", num_heads=4, kv_num_heads=2, do_rotary=1)
    arrays = [q, k, v, *cache, lengths]
    inputs = [value(name, *x.shape, dtype=I32 if name == "lengths" else TensorProto.FLOAT)
              for name, x in zip(names, arrays, strict=False)]  # fmt: skip
    m = model([n], inputs, ["y", "nk", "nv"], {"total": np.int32(total), "cos": COS, "sin": SIN},
              domains={"com.microsoft": 1})  # fmt: skip
    y, keys, values = run(m, *arrays)
    assert keys.shape == values.shape == (B, 2, max(past, total), D)
    for s, length in enumerate(lengths + 1):
        start = length - rows
        at = np.arange(start, length)[None]
        parts = [turn(t[s : s + 1].reshape(1, rows, -1, D), at, False).transpose(0, 2, 1, 3) for t in (q, k)]
        k_all = np.concatenate([cache[0][s : s + 1, :, :start], parts[1]], 2)
        v_all = np.concatenate([cache[1][s : s + 1, :, :start], heads(v[s : s + 1], 2)], 2)
        np.testing.assert_allclose(keys[s : s + 1, :, :length], k_all, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(y[s : s + 1], attend(parts[0], k_all, v_all, causal=True), rtol=1e-4, atol=1e-5)


def test_group_query_attention_grows_its_cache() -> None:
    grouped(total=5, past=4, lengths=np.int32([4, 3]), rows=1)


def test_group_query_attention_in_a_buffer() -> None:
    grouped(total=5, past=8, lengths=np.int32([4, 2]), rows=2)


def test_group_query_attention_needs_to_know_how_its_cache_grows() -> None:
    with pytest.raises(ModelError, match="do not make 9"):
        grouped(total=9, past=4, lengths=np.int32([4, 3]), rows=1)


def test_outputs_for_training_are_refused() -> None:
    n = node("SkipLayerNormalization", ["x", "x", "g"], ["y", "mean"], domain="com.microsoft")
    m = model([n], [value("x", 2, 3, 8)], ["y", "mean"], {"g": BIAS}, domains={"com.microsoft": 1})
    with pytest.raises(ModelError, match="for training"):
        run(m, X)
