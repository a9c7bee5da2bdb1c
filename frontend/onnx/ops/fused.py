"""Operators of the domain com.microsoft that ONNX Runtime's optimizer makes of others: with activations, biases, skips."""

from __future__ import annotations

from collections.abc import Callable

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.norm import Gelu, LayerNorm, RmsNorm
from ....ir.ops.reduce import Reduce
from ..builder import OnnxBuilder, normal_axis
from ..table import Outputs, onnx_op
from .contract import gemm
from .conv import conv
from .layout import require_rank

DOMAIN = "com.microsoft"

Activation = Callable[[OnnxBuilder, Value, tuple[float, ...]], Value]


def _leaky(b: OnnxBuilder, x: Value, p: tuple[float, ...]) -> Value:
    return b.select(b.binary("lt", x, 0), b.binary("mul", x, p[0]), x)


def _clip(b: OnnxBuilder, x: Value, p: tuple[float, ...]) -> Value:
    return b.binary("min", b.binary("max", x, p[0]), p[1])


def _hard_sigmoid(b: OnnxBuilder, x: Value, p: tuple[float, ...]) -> Value:
    return _clip(b, b.binary("add", b.binary("mul", x, p[0]), p[1]), (0.0, 1.0))


# Name -> parameters that it takes, and what it does.
ACTIVATIONS: dict[str, tuple[int, Activation]] = {
    "": (0, lambda b, x, p: x),
    "Relu": (0, lambda b, x, p: b.binary("max", x, 0)),
    "Tanh": (0, lambda b, x, p: b.unary("tanh", x)),
    "Sigmoid": (0, lambda b, x, p: b.unary("sigmoid", x)),
    "LeakyRelu": (1, _leaky),
    "Clip": (2, _clip),
    "HardSigmoid": (2, _hard_sigmoid),
}


def activate(b: OnnxBuilder, x: Value, name: str, params: tuple[float, ...]) -> Value:
    if name not in ACTIVATIONS or len(params) < ACTIVATIONS[name][0]:
        raise ModelError(f"activation {name!r} with parameters {list(params)} is not supported")
    return ACTIVATIONS[name][1](b, x, params)


def _value(made: Outputs) -> Value:
    assert isinstance(made, Value)
    return made


@onnx_op("FusedConv", since=0, domain=DOMAIN)
def fused_conv(
    b: OnnxBuilder, x: Value, w: Value, bias: Value | None = None, skip: Value | None = None, *, activation: str = "",
    activation_params: tuple[float, ...] = (), auto_pad: str = "NOTSET", dilations: tuple[int, ...] | None = None,
    group: int = 1, kernel_shape: tuple[int, ...] | None = None, pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    y = _value(conv(b, x, w, bias, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
                    pads=pads, strides=strides))  # fmt: skip
    return activate(b, y if skip is None else b.binary("add", y, skip), activation, activation_params)


@onnx_op("FusedGemm", since=0, domain=DOMAIN)
def fused_gemm(
    b: OnnxBuilder, x: Value, y: Value, c: Value | None = None, *, activation: str = "", activation_alpha: float = 0.0,
    activation_beta: float = 0.0, activation_gamma: float = 0.0, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0,
) -> Outputs:  # fmt: skip
    z = _value(gemm(b, x, y, c, alpha=alpha, beta=beta, transA=transA, transB=transB))
    return activate(b, z, activation, (activation_alpha, activation_beta, activation_gamma))


@onnx_op("FusedMatMul", since=0, domain=DOMAIN)
def fused_matmul(
    b: OnnxBuilder, x: Value, y: Value, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0,
    transBatchB: int = 0,
) -> Outputs:  # fmt: skip
    """transBatch: the batch is [rows, *batch, columns] instead of [*batch, rows, columns]."""
    left, right = _oriented(b, x, transA, transBatchA), _oriented(b, y, transB, transBatchB)
    z = b.add(MatMul(), left, right)
    return z if alpha == 1 else b.binary("mul", z, alpha)


def _oriented(b: OnnxBuilder, x: Value, transposed: int, batched: int) -> Value:
    if x.type.rank < 2:
        raise ModelError(f"expected matrices, got {x.type}")
    *batch, row, column = range(x.type.rank)
    if batched:
        row, *batch = (*batch, row)
    return b.transpose(x, (*batch, column, row) if transposed else (*batch, row, column))


# ---- activations ----


@onnx_op("Gelu", since=0, domain=DOMAIN)
def gelu(b: OnnxBuilder, x: Value) -> Outputs:
    return b.add(Gelu("none"), x)


@onnx_op("BiasGelu", since=0, domain=DOMAIN)
def bias_gelu(b: OnnxBuilder, x: Value, bias: Value) -> Outputs:
    return b.add(Gelu("none"), b.binary("add", x, bias))


@onnx_op("FastGelu", since=0, domain=DOMAIN)
def fast_gelu(b: OnnxBuilder, x: Value, bias: Value | None = None) -> Outputs:
    return b.add(Gelu("tanh"), x if bias is None else b.binary("add", x, bias))


@onnx_op("QuickGelu", since=0, domain=DOMAIN)
def quick_gelu(b: OnnxBuilder, x: Value, *, alpha: float = 1.702) -> Outputs:
    return b.binary("mul", x, b.unary("sigmoid", b.binary("mul", x, alpha)))


# ---- normalisations ----


def _statistics_refused(b: OnnxBuilder) -> None:
    if any(b.wanted[1:3]):
        raise ModelError("its outputs mean and inv_std_var are for training; remove what reads them")


def _summed(b: OnnxBuilder, x: Value, skip: Value, bias: Value | None) -> Value:
    total = b.binary("add", x, skip)
    return total if bias is None else b.binary("add", total, bias)


@onnx_op("GatedAdd", since=0, domain=DOMAIN)
def gated_add(b: OnnxBuilder, x: Value, y: Value, gate: Value) -> Outputs:
    """x + y * gate, with a gate for each row."""
    return b.binary("add", x, b.binary("mul", y, gate))


@onnx_op("ScaledSiLU", since=0, domain=DOMAIN)
def scaled_silu(b: OnnxBuilder, x: Value, scale: Value | None = None, *, alpha: float = 1.0) -> Outputs:
    z = b.binary("mul", x, alpha if scale is None else b.cast(b.reshape(scale, ()), x.type.dtype))
    return b.binary("mul", z, b.unary("sigmoid", z))


@onnx_op("SkipLayerNormalization", since=0, domain=DOMAIN)
def skip_layer_normalization(
    b: OnnxBuilder, x: Value, skip: Value, gamma: Value, beta: Value | None = None, bias: Value | None = None, *,
    epsilon: float = 1e-12,
) -> Outputs:  # fmt: skip
    _statistics_refused(b)
    total = _summed(b, x, skip, bias)
    y = b.add(LayerNorm(x.type.rank - 1, epsilon), total, gamma, b.scalar(0, x.type.dtype) if beta is None else beta)
    return y, None, None, total


@onnx_op("SkipSimplifiedLayerNormalization", since=0, domain=DOMAIN)
def skip_simplified_layer_normalization(
    b: OnnxBuilder, x: Value, skip: Value, gamma: Value, bias: Value | None = None, *, epsilon: float = 1e-12
) -> Outputs:
    _statistics_refused(b)
    total = _summed(b, x, skip, bias)
    return b.add(RmsNorm(x.type.rank - 1, epsilon), total, gamma), None, None, total


@onnx_op("SimplifiedLayerNormalization", since=0, domain=DOMAIN)
@onnx_op("SimplifiedLayerNormalization", since=1)
def simplified_layer_normalization(
    b: OnnxBuilder, x: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Outputs:
    """ONNX Runtime writes it in the standard's domain too, which does not have it."""
    if any(b.wanted[1:]):
        raise ModelError("its output inv_std_var is for training; remove what reads it")
    return b.add(RmsNorm(normal_axis(axis, x.type.rank), epsilon), x, scale)


@onnx_op("EmbedLayerNormalization", since=0, domain=DOMAIN)
def embed_layer_normalization(
    b: OnnxBuilder, ids: Value, segments: Value | None, words: Value, positions: Value, segment_table: Value | None,
    gamma: Value, beta: Value, mask: Value | None = None, position_ids: Value | None = None, *, epsilon: float = 1e-12,
    mask_index_type: int = 1,
) -> Outputs:  # fmt: skip
    """The sum of the rows of up to three tables, normalised; and how many tokens each sequence has."""
    for what, v, rank in (("input_ids", ids, 2), ("segment_ids", segments, 2), ("word_embedding", words, 2),
                          ("position_embedding", positions, 2), ("segment_embedding", segment_table, 2), ("mask", mask, 2),
                          ("position_ids", position_ids, 2), ("gamma", gamma, 1), ("beta", beta, 1)):  # fmt: skip
        require_rank(what, v, rank)
    batch, length = ids.type.shape
    total = b.gather(words, ids, 0)
    rows = b.slice(positions, 0, 0, length) if position_ids is None else b.gather(positions, position_ids, 0)
    total = b.binary("add", total, rows)
    if segments is not None and segment_table is not None:
        total = b.binary("add", total, b.gather(segment_table, segments, 0))
    if mask is None:
        count = b.broadcast(b.scalar(0, "i32"), (batch,))
    else:
        count = b.add(Reduce("sum", (1,), False), b.cast(mask, "i32"))
    return b.add(LayerNorm(2, epsilon), total, gamma, beta), count, total
