"""Mixtures of experts and parts of linear attention of the domain com.microsoft against their formulas in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright
from frontend.onnx_models import draw, model, node, run, unknown, value
from onnx import helper
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import ModelError
from tilewright.ir.interpreter import run_graph

T, E, H, N = 5, 4, 16, 32


def made(op: str, inputs: dict[str, np.ndarray | None], constants: dict[str, np.ndarray | None], rows: Any = None,
         outputs: tuple[str, ...] = ("y",), **attributes: Any) -> onnx.ModelProto:  # fmt: skip
    """A model of one node.  rows: the first dimension of the inputs, where it is not theirs."""
    names = [n if a is not None else "" for n, a in (inputs | constants).items()]
    n = node(op, names, list(outputs), domain="com.microsoft", **attributes)
    given = [value(name, *((rows or a.shape[0]), *a.shape[1:]), dtype=helper.np_dtype_to_tensor_dtype(a.dtype))
             for name, a in inputs.items() if a is not None]  # fmt: skip
    kept = {name: a for name, a in constants.items() if a is not None}
    return model([n], given, [unknown(o) for o in outputs], kept, domains={"com.microsoft": 1})


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -80, None)))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def swiglu(x: np.ndarray) -> np.ndarray:
    gate, linear = np.minimum(x[:, ::2], 7), np.clip(x[:, 1::2], -7, 7)
    return gate * sigmoid(1.702 * gate) * (linear + 1)


UNITS = {
    "relu": lambda x: np.maximum(x, 0), "gelu": gelu, "silu": lambda x: x * sigmoid(x), "identity": lambda x: x,
    "swiglu": swiglu,
}  # fmt: skip
SWIGLU = {"swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_limit": 7.0}


def gates(router: np.ndarray, k: int, normalize: bool) -> np.ndarray:
    e = np.exp(router - router.max(1, keepdims=True))
    chosen = np.argsort(-router, 1, kind="stable")[:, :k]
    made = np.zeros_like(router)
    np.put_along_axis(made, chosen, np.take_along_axis(e, chosen, 1), 1)
    return made / (made if normalize else e).sum(1, keepdims=True)


def mixture(x: np.ndarray, g: np.ndarray, unit: str, layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    total = np.zeros_like(x)
    for e in range(g.shape[1]):
        hidden = UNITS[unit](x @ layers[0][0][e].T + layers[0][1][e])
        if len(layers) > 2:
            hidden = hidden * (x @ layers[2][0][e].T + layers[2][1][e])
        total += g[:, e : e + 1] * (hidden @ layers[1][0][e].T + layers[1][1][e])
    return total


def layers_for(unit: str, third: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    wide = 2 * N if unit == "swiglu" else N
    shapes = [(wide, H), (H, N), *([(N, H)] if third else [])]
    return [(draw(E, *s) / 4, draw(E, s[0])) for s in shapes]


@pytest.mark.parametrize(("unit", "third"), [*((u, False) for u in UNITS), ("silu", True)])
@pytest.mark.parametrize("normalize", [False, True])
def test_mixture_of_experts(unit: str, third: bool, normalize: bool) -> None:
    x, router, layers = draw(T, H), draw(T, E), layers_for(unit, third)
    (w1, b1), (w2, b2), (w3, b3) = [*layers, (None, None)][:3]
    weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2, "w3": w3, "b3": b3}
    m = made("MoE", {"x": x, "r": router}, weights, k=2, activation_type=unit, normalize_routing_weights=int(normalize),
             **(SWIGLU if unit == "swiglu" else {}))  # fmt: skip
    expected = mixture(x, gates(router, 2, normalize), unit, layers)
    np.testing.assert_allclose(run(m, x, router)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_library_runs_the_experts_of_any_number_of_rows() -> None:
    layers = layers_for("silu", False)
    weights = {"w1": layers[0][0], "b1": layers[0][1], "w2": layers[1][0], "b2": layers[1][1]}
    m = made("MoE", {"x": draw(T, H), "r": draw(T, E)}, weights, "rows", k=1, activation_type="silu")
    module = tilewright.compile(m, target="cpu").load()
    for rows in (1, T):
        x, router = draw(rows, H), draw(rows, E)
        expected = mixture(x, gates(router, 1, False), "silu", layers)
        np.testing.assert_allclose(module(x, router)[0], expected, rtol=1e-4, atol=1e-4)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """The low bits first, along the last axis."""
    each = codes.reshape(*codes.shape[:-1], -1, 8 // bits).astype(np.uint8)
    return np.bitwise_or.reduce(each << np.arange(0, 8, bits, dtype=np.uint8), -1)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("zeros", [False, True])
def test_experts_of_few_bits(bits: int, block: int, zeros: bool) -> None:
    r = np.random.default_rng(bits + block)
    x, router = draw(1, H), draw(1, E)
    floats, given = [], {}
    for name, out, size in (("1", N, H), ("2", H, N)):
        blocks = size // block if block else 1
        codes, zero = r.integers(0, 2**bits, (E, out, size)), r.integers(0, 2**bits, (E, out, blocks))
        zero = zero if zeros else np.full_like(zero, 2 ** (bits - 1))
        scales = r.random((E, out, blocks)).astype(np.float32) * 0.1
        spread = [np.repeat(a, size // blocks, 2) for a in (zero, scales)]
        floats.append((((codes - spread[0]) * spread[1]).astype(np.float32), draw(E, out)))
        padded = np.pad(zero, ((0, 0), (0, 0), (0, -blocks % (8 // bits)))) if block else zero[..., 0]
        given |= {f"w{name}": packed(codes, bits), f"s{name}": scales if block else scales[..., 0], f"b{name}": floats[-1][1]}
        given[f"z{name}"] = packed(padded, bits) if zeros else None
    order = ("w1", "s1", "b1", "w2", "s2", "b2")
    constants = {n: given[n] for n in order} | dict.fromkeys(("w3", "s3", "b3")) | {n: given[n] for n in ("z1", "z2")}
    options = {"block_size": block} if block else {}
    m = made("QMoE", {"x": x, "r": router}, constants, k=2, activation_type="silu", expert_weight_bits=bits,
             normalize_routing_weights=1, **options)  # fmt: skip
    expected = mixture(x, gates(router, 2, True), "silu", floats)
    np.testing.assert_allclose(run(m, x, router)[0], expected, rtol=1e-4, atol=1e-4)


def test_what_runtimes_disagree_about_is_refused() -> None:
    w = {"w1": draw(E, N, H // 2).astype(np.uint8), "s1": draw(E, N), "b1": None, "w2": draw(E, H, N // 2).astype(np.uint8),
         "s2": draw(E, H)}  # fmt: skip
    with pytest.raises(ModelError, match="runtimes disagree"):
        import_model(made("QMoE", {"x": draw(T, H), "r": draw(T, E)}, w, k=2))
    with pytest.raises(ModelError, match="sparse mixer"):
        import_model(made("MoE", {"x": draw(T, H), "r": draw(T, E)}, {"w1": draw(E, N, H), "b1": None, "w2": draw(E, H, N)},
                          use_sparse_mixer=1))  # fmt: skip


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize(("queries", "states"), [(4, 2), (2, 4)])
def test_linear_attention(rule: str, queries: int, states: int) -> None:
    b, t, dk, dv = 2, 3, 4, 5
    q, k, v = draw(b, t, queries * dk), draw(b, t, states * dk) / 4, draw(b, t, states * dv)
    decay = -np.abs(draw(b, t, states)) if "gated" in rule else None
    beta = sigmoid(draw(b, t, states)) if "delta" in rule else None
    inputs = {"q": q, "k": k, "v": v, "past": draw(b, states, dk, dv), "decay": decay, "beta": beta}
    m = made("LinearAttention", inputs, {}, outputs=("y", "s"), q_num_heads=queries, kv_num_heads=states, update_rule=rule)
    y, s = run(m, *(a for a in inputs.values() if a is not None))
    state = inputs["past"].astype(np.float64)
    heads = max(queries, states)
    for i in range(t):
        key, new = k[:, i].reshape(b, states, dk, 1), v[:, i].reshape(b, states, 1, dv)
        if decay is not None:
            state = state * np.exp(decay[:, i])[..., None, None]
        if beta is not None:
            new = beta[:, i][..., None, None] * (new - (state * key).sum(2, keepdims=True))
        state = state + key * new
        query = np.repeat(q[:, i].reshape(b, queries, 1, dk), heads // queries, 1)
        out = query @ np.repeat(state, heads // states, 1) / math.sqrt(dk)
        np.testing.assert_allclose(y[:, i], out.reshape(b, -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(s, state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_causal_convolution(last: int, dilation: int) -> None:
    x, w, bias, past = draw(2, 6, 7), draw(6, 1, 4), draw(6), draw(2, 6, 3 * dilation)
    given = [a.transpose(0, 2, 1) if last else a for a in (x, past)]
    inputs = {"x": np.ascontiguousarray(given[0]), "w": w, "bias": bias, "past": np.ascontiguousarray(given[1])}
    m = made("CausalConvWithState", inputs, {}, outputs=("y", "s"), channels_last=last, dilation=dilation, activation="silu")
    y, s = (a.transpose(0, 2, 1) if last else a for a in run(m, *inputs.values()))
    whole = np.concatenate([past, x], 2)
    out = sum(whole[:, :, n * dilation : n * dilation + 7] * w[:, 0, n, None] for n in range(4)) + bias[:, None]
    np.testing.assert_allclose(y, out * sigmoid(out), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(s, whole[:, :, 7:])


def test_gates() -> None:
    x, scale, gate = draw(2, 3, 8), draw(4), draw(2, 3, 8)
    rows = x.reshape(2, 3, 2, 4)
    normed = (rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-5) * scale).reshape(x.shape)
    for activation, factor in (("silu", gate * sigmoid(gate)), ("sigmoid", sigmoid(gate))):
        m = made("GatedRMSNorm", {"x": x, "scale": scale, "gate": gate}, {}, activation=activation)
        np.testing.assert_allclose(run(m, x, scale, gate)[0], normed * factor, rtol=1e-5, atol=1e-6)
    a, bias, factor = draw(2, 3, 4), draw(4), -np.abs(draw(4))
    m = made("LinearAttentionGate", {"a": a, "bias": bias, "scale": factor, "b": a}, {}, outputs=("y", "z"))
    y, z = run(m, a, bias, factor, a)
    np.testing.assert_allclose(y, factor * np.log1p(np.exp(a + bias)), rtol=1e-5)
    np.testing.assert_allclose(z, sigmoid(a), rtol=1e-5)
    np.testing.assert_allclose(run(made("ScaledSiLU", {"x": x}, {}, alpha=1.5), x)[0], 1.5 * x * sigmoid(1.5 * x), rtol=1e-5)
    part = np.ascontiguousarray(gate[..., :1])
    m = made("GatedAdd", {"x": x, "more": gate, "gate": part}, {})
    np.testing.assert_allclose(run(m, x, gate, part)[0], x + gate * part, rtol=1e-6)


@pytest.mark.parametrize("layout", [0, 1])
def test_rotary_positions_of_three_kinds(layout: int) -> None:
    half, sections = 8, np.array([3, 3, 2] if layout else [2, 3, 3])
    x, cos, sin = draw(2, 5, 2 * 2 * half), draw(20, half), draw(20, half)
    positions = np.random.default_rng(0).integers(0, 20, (3, 2, 5))
    owner = [min(int(np.searchsorted(sections.cumsum(), n, "right")), 2) for n in range(half)]
    if layout:
        owner = [n % 3 if n < 3 * sections[n % 3] else 0 for n in range(half)]
    c, s = (np.stack([t[positions[owner[n]], n] for n in range(half)], -1)[:, :, None] for t in (cos, sin))
    heads = x.reshape(2, 5, 2, 2 * half)
    first, second = heads[..., :half], heads[..., half:]
    expected = np.concatenate([first * c - second * s, first * s + second * c], -1).reshape(x.shape)
    inputs = {"x": x, "p": positions, "cos": cos, "sin": sin}
    m = made("MRotaryEmbedding", inputs, {}, mrope_section=sections.tolist(), mrope_layout=layout, num_heads=2)
    np.testing.assert_allclose(run(m, *inputs.values())[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1])
def test_weights_of_unevenly_spaced_codes(kind: int) -> None:
    """The largest magnitude of a block is one of the codes, with factor 1; the codes rise from 0 or from -1."""
    k, n, block = 24, 5, 16
    codes = np.random.default_rng(kind).integers(0, 256, k * n // 2).astype(np.uint8)
    largest = np.abs(draw(-(-k * n // block))) + 0.5
    m = made("MatMulBnb4", {"x": np.eye(k, dtype=np.float32)}, {"b": codes, "s": largest}, K=k, N=n, block_size=block,
             quant_type=kind)  # fmt: skip
    (w,) = run_graph(import_model(m), [np.eye(k, dtype=np.float32)])
    flat = (w.T.reshape(-1) / np.repeat(largest, block)[: k * n]).astype(np.float64)
    order = np.stack([codes >> 4, codes & 15], -1).reshape(-1)
    numbers = np.array([flat[order == c].mean() for c in range(16)])
    assert all(np.ptp(flat[order == c]) < 1e-6 for c in range(16))
    if kind:
        assert numbers[0] == -1 and numbers[15] == 1 and numbers[7] == 0 and (np.diff(numbers) > 0).all()
    else:
        np.testing.assert_allclose(numbers[8:], -numbers[:8])
        np.testing.assert_allclose(sorted(numbers[:8] * 12), [0, 0.0625, 2, 3, 4, 6, 8, 12], atol=1e-5)


@pytest.mark.parametrize(("op", "changes", "message"), [
    ("MoE", {"w2": draw(E - 1, H, N)}, "fc2_experts: .* each of the router's 4 experts"),
    ("MoE", {"b1": draw(E, N - 1)}, "fc1_experts_bias: expected"),
    ("QMoE", {"s1": draw(E - 1, N)}, "fc1_experts: scales"),
    ("QMoE", {"b2": draw(E, H, 1)}, "fc2_experts_bias: expected"),
])
def test_weights_of_other_sizes_are_refused(op: str, changes: dict[str, np.ndarray], message: str) -> None:
    """Found by damaged files."""
    packed_ = {"w1": draw(E, N, H // 2).astype(np.uint8), "s1": draw(E, N), "b1": draw(E, N),
               "w2": draw(E, H, N // 2).astype(np.uint8), "s2": draw(E, H), "b2": draw(E, H)}  # fmt: skip
    plain = {"w1": draw(E, N, H), "b1": draw(E, N), "w2": draw(E, H, N), "b2": draw(E, H)}
    constants: dict[str, np.ndarray | None] = {**(plain if op == "MoE" else packed_), **changes}
    with pytest.raises(ModelError, match=message):
        import_model(made(op, {"x": draw(T, H), "r": draw(T, E)}, constants, k=2, normalize_routing_weights=1))
