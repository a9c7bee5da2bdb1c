"""Operators of the domain com.microsoft that linear attention is exported with (gated delta nets, Mamba)."""

from __future__ import annotations

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.norm import RmsNorm
from ..builder import OnnxBuilder
from ..symbolic import product, quotient
from ..table import Outputs, onnx_op
from .conv import conv
from .elementwise import softplus
from .fused import DOMAIN
from .layout import require_rank


def _silu(b: OnnxBuilder, x: Value) -> Value:
    return b.binary("mul", x, b.unary("sigmoid", x))


@onnx_op("GatedRMSNorm", since=0, domain=DOMAIN)
def gated_rms_norm(
    b: OnnxBuilder, x: Value, scale: Value, gate: Value, *, activation: str = "silu", epsilon: float = 1e-5
) -> Outputs:
    """Rows of heads, each normalised on its own, times silu or sigmoid of a gate; in f32 whatever the type."""
    require_rank("scale", scale, 1)
    if activation not in ("silu", "swish", "sigmoid") or x.type.shape != gate.type.shape:
        raise ModelError(f"attribute 'activation' is {activation!r}, x {x.type}, gate {gate.type}; expected silu, swish or "
                         "sigmoid, and a gate of the shape of x")  # fmt: skip
    size, width = scale.type.shape[0], x.type.shape[-1]
    heads = quotient([width], [size])
    if heads is None:
        raise ModelError(f"the last dimension of {x.type} is no multiple of {size}")
    rows = b.reshape(b.cast(x, "f32"), (*x.type.shape[:-1], heads, size))
    normed = b.reshape(b.add(RmsNorm(rows.type.rank - 1, epsilon), rows, b.cast(scale, "f32")), x.type.shape)
    z = b.cast(gate, "f32")
    return b.cast(b.binary("mul", normed, b.unary("sigmoid", z) if activation == "sigmoid" else _silu(b, z)), x.type.dtype)


@onnx_op("LinearAttentionGate", since=0, domain=DOMAIN)
def linear_attention_gate(
    b: OnnxBuilder, a: Value, bias: Value, scale: Value, rate: Value | None = None
) -> Outputs:
    """The decay, scale * softplus(a + bias), and the rate, sigmoid(rate); in f32 whatever the type."""
    decay = b.binary("mul", softplus(b, b.binary("add", b.cast(a, "f32"), bias)), scale)
    made = None if rate is None else b.cast(b.unary("sigmoid", b.cast(rate, "f32")), rate.type.dtype)
    return (b.cast(decay, a.type.dtype),) if made is None else (b.cast(decay, a.type.dtype), made)


@onnx_op("LinearAttention", since=0, domain=DOMAIN)
def linear_attention(
    b: OnnxBuilder, query: Value, key: Value, value: Value, past: Value | None = None, decay: Value | None = None,
    beta: Value | None = None, *, chunk_size: int = 64, kv_num_heads: int, q_num_heads: int, scale: float = 0.0,
    state_window: int = 0, update_rule: str = "gated_delta",
) -> Outputs:  # fmt: skip
    """As the operator of the standard, which came later; with fewer queries than states, each serves several."""
    if state_window:
        raise ModelError("state_window is not supported: a state after each token")
    if q_num_heads < kv_num_heads:
        query, q_num_heads = _repeated(b, query, q_num_heads, kv_num_heads), kv_num_heads
    return b.standard(
        "LinearAttention", (query, key, value, past, decay, beta), 2, kv_num_heads=kv_num_heads, q_num_heads=q_num_heads,
        scale=scale, update_rule=update_rule,
    )  # fmt: skip


def _repeated(b: OnnxBuilder, query: Value, heads: int, wanted: int) -> Value:
    """query[B, T, heads * D] with every head several times, [B, T, wanted * D]."""
    require_rank("query", query, 3)
    batch, length, width = query.type.shape
    size = quotient([width], [heads])
    if size is None or wanted % heads:
        raise ModelError(f"{heads} heads of {query.type} do not fit {wanted} states")
    apart = b.reshape(query, (batch, length, heads, 1, size))
    repeated = b.broadcast(apart, (batch, length, heads, wanted // heads, size))
    return b.reshape(repeated, (batch, length, product([wanted, size])))


@onnx_op("CausalConvWithState", since=0, domain=DOMAIN)
def causal_convolution(
    b: OnnxBuilder, x: Value, w: Value, bias: Value | None = None, past: Value | None = None, *, activation: str = "none",
    channels_last: int = 0, dilation: int = 1, ndim: int = 1, state_window: int = 0,
) -> Outputs:  # fmt: skip
    """A depthwise convolution along x[B, C, L] that looks back only; what it looks back to before x is the state."""
    if ndim != 1 or state_window or activation not in ("silu", "swish", "none") or dilation < 1:
        raise ModelError(f"ndim {ndim}, state_window {state_window}, activation {activation!r}, dilation {dilation}: supported "
                         "are one dimension, no window, silu, swish or none")  # fmt: skip
    for what, v in (("input", x), ("weight", w)):
        require_rank(what, v, 3)
    swap = (0, 2, 1)
    x = b.transpose(x, swap) if channels_last else x
    channels, taps = w.type.shape[0], w.type.shape[2]
    if not isinstance(channels, int) or not isinstance(taps, int):
        raise ModelError(f"the weights {w.type} must have known sizes")
    length = (taps - 1) * dilation
    if past is None:
        state = b.broadcast(b.scalar(0, x.type.dtype), (x.type.shape[0], channels, length))
    else:
        state = b.transpose(past, swap) if channels_last else past
    whole = b.concat((state, x), 2)
    y = conv(b, whole, w, bias, group=channels, dilations=(dilation,))
    assert isinstance(y, Value)
    y = y if activation == "none" else _silu(b, y)
    present = b.slice(whole, 2, x.type.shape[2], length)
    return (b.transpose(y, swap), b.transpose(present, swap)) if channels_last else (y, present)
