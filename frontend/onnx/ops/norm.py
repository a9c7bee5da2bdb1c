"""Normalisations and GELU."""

from __future__ import annotations

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.norm import BatchNorm, Gelu, LayerNorm, RmsNorm
from ....ir.ops.reduce import Reduce
from ....ir.ops.window import Pool
from ..builder import OnnxBuilder, normal_axis
from ..symbolic import product, quotient
from ..table import Outputs, onnx_op
from .layout import spatial_rank, to_channels_first, to_channels_last


def _widest(*values: Value) -> str:
    """The element type to compute in, for operands whose types differ."""
    order = ("bf16", "f16", "f32", "f64")
    for v in values:
        if v.type.dtype not in order:
            raise ModelError(f"expected floats, got {v.type}")
    return max((v.type.dtype for v in values), key=order.index)


@onnx_op("BatchNormalization", since=7)
def batch_normalization(
    b: OnnxBuilder, x: Value, scale: Value, bias: Value, mean: Value, var: Value, *, epsilon: float = 1e-5,
    momentum: float = 0.9, spatial: int = 1, training_mode: int = 0,
) -> Outputs:  # fmt: skip
    """With the given statistics, in training mode with those of the batch; then outputs 1 and 2 are the running ones."""
    if any(b.wanted[1:]) and not training_mode:
        raise ModelError("the outputs of statistics are for training mode; remove what reads them")
    if not spatial:
        raise ModelError("attribute 'spatial' = 0 is not supported; export the model with opset 9 or newer")
    if x.type.rank < 2:
        raise ModelError(f"expected x[N, C, ...], got {x.type}")
    dtype = _widest(x, scale, mean)
    if training_mode:
        return _with_batch_statistics(b, x, scale, bias, mean, var, epsilon, momentum)
    statistics = (b.cast(v, dtype) for v in (scale, bias, mean, var))
    y = b.add(BatchNorm(epsilon), b.cast(to_channels_last(b, x), dtype), *statistics)
    return to_channels_first(b, b.cast(y, x.type.dtype))


def _with_batch_statistics(
    b: OnnxBuilder, x: Value, scale: Value, bias: Value, mean: Value, var: Value, epsilon: float, momentum: float
) -> tuple[Value, ...]:
    axes = (0, *range(2, x.type.rank))
    wide = b.cast(x, "f32") if x.type.dtype in ("f16", "bf16") else x
    own_mean = b.add(Reduce("mean", axes, True), wide)
    centred = b.binary("sub", wide, own_mean)
    own_var = b.add(Reduce("mean", axes, False), b.binary("mul", centred, centred))
    statistics = (b.cast(b.reshape(v, scale.type.shape), scale.type.dtype) for v in (own_mean, own_var))
    y = b.add(BatchNorm(epsilon), b.cast(to_channels_last(b, x), scale.type.dtype), scale, bias, *statistics)
    running = []
    for old, own in ((mean, own_mean), (var, own_var)):
        new = b.cast(b.reshape(own, old.type.shape), old.type.dtype)
        running.append(b.binary("add", b.binary("mul", old, momentum), b.binary("mul", new, 1 - momentum)))
    return (b.cast(to_channels_first(b, y), x.type.dtype), *running)


@onnx_op("InstanceNormalization", since=6)
def instance_normalization(b: OnnxBuilder, x: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5) -> Outputs:
    """A layer norm of every channel of every sample."""
    spatial_rank(x)
    n, c, *spatial = x.type.shape
    rows = b.reshape(x, (n, c, product(spatial)))
    y = b.add(LayerNorm(2, epsilon), rows, b.reshape(scale, (c, 1)), b.reshape(bias, (c, 1)))
    return b.reshape(y, x.type.shape)


def _group_norm(
    b: OnnxBuilder, x: Value, scale: Value, bias: Value, groups: int, epsilon: float, per_channel: bool
) -> Value:
    if x.type.rank < 2:
        raise ModelError(f"expected x[N, C, ...], got {x.type}")
    n, c, *spatial = x.type.shape
    per_group = quotient([c], [groups])
    if per_group is None:
        raise ModelError(f"attribute 'num_groups' is {groups}, which does not divide the {c} channels of {x.type}")
    rows = b.reshape(x, (n, groups, per_group, product(spatial)))
    shape = (groups, per_group if per_channel else 1, 1)
    y = b.add(LayerNorm(2, epsilon), rows, b.reshape(scale, shape), b.reshape(bias, shape))
    return b.reshape(y, x.type.shape)


@onnx_op("GroupNormalization", since=18)
def group_normalization_18(
    b: OnnxBuilder, x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5
) -> Outputs:
    """scale and bias have one number per group."""
    return _group_norm(b, x, scale, bias, num_groups, epsilon, False)


@onnx_op("GroupNormalization", since=21)
def group_normalization(
    b: OnnxBuilder, x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Outputs:
    """scale and bias have one number per channel.  Half-precision is computed in f32, as stash_type 1 asks."""
    return _group_norm(b, x, scale, bias, num_groups, epsilon, True)


@onnx_op("LayerNormalization", since=1)
def layer_normalization(
    b: OnnxBuilder, x: Value, scale: Value, bias: Value | None = None, *, axis: int = -1, epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Outputs:  # fmt: skip
    """Half-precision is computed in f32, as stash_type 1 asks.  The standard has it from opset 17 on; ONNX Runtime's
    optimizer writes it in models of every opset."""
    axis = normal_axis(axis, x.type.rank)
    y = b.add(LayerNorm(axis, epsilon), x, scale, b.scalar(0, x.type.dtype) if bias is None else bias)
    if not any(b.wanted[1:]):
        return y
    wide = b.cast(x, "f32") if x.type.dtype in ("f16", "bf16") else x
    axes = tuple(range(axis, x.type.rank))
    mean = b.add(Reduce("mean", axes, True), wide)
    centred = b.binary("sub", wide, mean)
    variance = b.add(Reduce("mean", axes, True), b.binary("mul", centred, centred))
    return y, mean, b.unary("reciprocal", b.unary("sqrt", b.binary("add", variance, epsilon)))


@onnx_op("RMSNormalization", since=23)
def rms_normalization(
    b: OnnxBuilder, x: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Outputs:
    dtype = _widest(x, scale)
    y = b.add(RmsNorm(normal_axis(axis, x.type.rank), epsilon), b.cast(x, dtype), b.cast(scale, dtype))
    return b.cast(y, scale.type.dtype)


@onnx_op("LpNormalization", since=1)
def lp_normalization(b: OnnxBuilder, x: Value, *, axis: int = -1, p: int = 2) -> Outputs:
    """x / norm; 0 where the norm is 0."""
    if p not in (1, 2):
        raise ModelError(f"attribute 'p' must be 1 or 2, got {p}")
    powers = b.unary("abs", x) if p == 1 else b.binary("mul", x, x)
    total = b.add(Reduce("sum", (normal_axis(axis, x.type.rank),), True), powers)
    norm = total if p == 1 else b.unary("sqrt", total)
    return b.binary("div", x, b.select(b.binary("eq", norm, 0), b.scalar(1, x.type.dtype), norm))


@onnx_op("LRN", since=1)
def local_response_normalization(
    b: OnnxBuilder, x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Outputs:
    """x / (bias + alpha / size * (sum of squares over a window of channels))^beta: the channels are pooled as the one
    spatial dimension."""
    spatial_rank(x)
    n, c, *spatial = x.type.shape
    squares = b.reshape(b.binary("mul", x, x), (n, c, product(spatial)))
    pads = ((size - 1) // 2, size - 1 - (size - 1) // 2)
    mean = b.reshape(b.add(Pool("avg", (size,), (1,), pads, (1,), True), squares), x.type.shape)
    return b.binary("div", x, b.binary("pow", b.binary("add", b.binary("mul", mean, alpha), bias), beta))


@onnx_op("Gelu", since=20)
def gelu(b: OnnxBuilder, x: Value, *, approximate: str = "none") -> Outputs:
    return b.add(Gelu(approximate), x)
