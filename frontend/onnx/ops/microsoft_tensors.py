"""Operators of the domain com.microsoft on tensors: those that the standard has too, and small ones that it has not."""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.norm import Gelu
from ....ir.ops.reduce import Reduce
from ..builder import OnnxBuilder, normal_axes, normal_axis
from ..table import Outputs, onnx_op
from .fused import DOMAIN, activate, fused_matmul
from .gather import gather_nd
from .image import grid_sample
from .layout import to_channels_first
from .norm import group_normalization
from .pad import pad
from .pool import max_pool
from .shape import range_, trilu, unsqueeze_by_attribute

_SAME = {"Trilu": trilu, "Pad": pad, "GridSample": grid_sample, "Range": range_, "GatherND": gather_nd,
         "TransposeMatMul": fused_matmul}  # fmt: skip
for _name, _function in _SAME.items():
    onnx_op(_name, since=0, domain=DOMAIN)(_function)

_MOST_SLICES = 2**20  # elements of one axis of an unfolded tensor


@onnx_op("ExpandDims", since=0, domain=DOMAIN)
def expand_dims(b: OnnxBuilder, x: Value, axis: Value) -> Outputs:
    return unsqueeze_by_attribute(b, x, axes=(b.integer(axis, "axis"),))


@onnx_op("ReduceSumInteger", since=0, domain=DOMAIN)
def reduce_sum_integer(b: OnnxBuilder, x: Value, *, axes: tuple[int, ...], keepdims: int) -> Outputs:
    """Bytes summed in 32 bits."""
    wide = b.cast(x, "u32" if x.type.dtype == "u8" else "i32")
    return b.add(Reduce("sum", normal_axes(axes, x.type.rank), bool(keepdims)), wide)


@onnx_op("CDist", since=0, domain=DOMAIN)
def pair_distances(b: OnnxBuilder, x: Value, y: Value, *, metric: str = "sqeuclidean") -> Outputs:
    """The distance of every row of x[M, K] from every row of y[N, K], by differences: near rows cancel nothing."""
    if metric not in ("euclidean", "sqeuclidean") or x.type.rank != 2 or y.type.rank != 2:
        raise ModelError(f"metric {metric!r} of {x.type} and {y.type}; expected euclidean or sqeuclidean, and matrices")
    (m, k), (n, _) = x.type.shape, y.type.shape
    apart = b.binary("sub", b.reshape(x, (m, 1, k)), b.reshape(y, (1, n, y.type.shape[1])))
    total = b.add(Reduce("sum", (2,), False), b.binary("mul", apart, apart))
    return total if metric == "sqeuclidean" else b.unary("sqrt", total)


@onnx_op("UnfoldTensor", since=0, domain=DOMAIN)
def unfold_tensor(b: OnnxBuilder, x: Value, *, size: int, dim: int = -1, step: int = 1) -> Outputs:
    """Slices of one size along an axis, as a new last axis."""
    axis = normal_axis(dim, x.type.rank)
    n = x.type.shape[axis]
    if not isinstance(n, int) or step < 1 or not 1 <= size <= n or ((n - size) // step + 1) * size > _MOST_SLICES:
        raise ModelError(f"slices of {size} every {step} along axis {axis} of {x.type} are not possible")
    starts = np.arange(0, n - size + 1, step)
    cut = b.gather(x, b.constant(starts[:, None] + np.arange(size)), axis)
    return b.transpose(cut, (*(d for d in range(cut.type.rank) if d != axis + 1), axis + 1))


@onnx_op("NhwcMaxPool", since=0, domain=DOMAIN)
def nhwc_max_pool(
    b: OnnxBuilder, x: Value, *, kernel_shape: tuple[int, ...], auto_pad: str = "NOTSET", ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None, pads: tuple[int, ...] | None = None, strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    if any(b.wanted[1:]):
        raise ModelError("it has one output")
    y = max_pool(b, to_channels_first(b, x), kernel_shape=kernel_shape, auto_pad=auto_pad, ceil_mode=ceil_mode,
                 dilations=dilations, pads=pads, strides=strides)  # fmt: skip
    assert isinstance(y, Value)
    return b.transpose(y, (0, *range(2, y.type.rank), 1))


# ---- with biases and activations ----


@onnx_op("FusedMatMulActivation", since=0, domain=DOMAIN)
def fused_matmul_activation(
    b: OnnxBuilder, x: Value, y: Value, *, activation: str, activation_alpha: float = 0.0, activation_axis: int = -1,
    activation_beta: float = 0.0, activation_gamma: float = 0.0, alpha: float = 1.0, transA: int = 0, transB: int = 0,
    transBatchA: int = 0, transBatchB: int = 0,
) -> Outputs:  # fmt: skip
    z = fused_matmul(b, x, y, alpha=alpha, transA=transA, transB=transB, transBatchA=transBatchA, transBatchB=transBatchB)
    assert isinstance(z, Value)
    return activate(b, z, activation, (activation_alpha, activation_beta, activation_gamma))


@onnx_op("GemmFastGelu", since=0, domain=DOMAIN)
def gemm_fast_gelu(b: OnnxBuilder, x: Value, w: Value, bias: Value | None = None) -> Outputs:
    y = b.add(MatMul(), x, w)
    return b.add(Gelu("tanh"), y if bias is None else b.binary("add", y, bias))


@onnx_op("BiasAdd", since=0, domain=DOMAIN)
def bias_add(b: OnnxBuilder, x: Value, bias: Value, skip: Value) -> Outputs:
    return b.binary("add", b.binary("add", x, bias), skip)


@onnx_op("BiasSplitGelu", since=0, domain=DOMAIN)
def bias_split_gelu(b: OnnxBuilder, x: Value, bias: Value) -> Outputs:
    """The left half of the last axis times the gelu of the right half."""
    y = b.binary("add", x, bias)
    last = y.type.rank - 1
    size = y.type.shape[last]
    if not isinstance(size, int) or size % 2:
        raise ModelError(f"the last dimension of {y.type} must be known and even")
    left, right = (b.slice(y, last, start, size // 2) for start in (0, size // 2))
    return b.binary("mul", left, b.add(Gelu("none"), right))


@onnx_op("GroupNorm", since=0, domain=DOMAIN)
def group_norm(
    b: OnnxBuilder, x: Value, gamma: Value, beta: Value, *, activation: int, groups: int, channels_last: int = 1,
    epsilon: float = 1e-5,
) -> Outputs:  # fmt: skip
    """activation 1: x * sigmoid(x).  gamma and beta are f32 also where x is not."""
    if activation not in (0, 1):
        raise ModelError(f"attribute 'activation' is {activation}, expected 0 or 1")
    first = to_channels_first(b, x) if channels_last else x
    scale, bias = (b.cast(v, x.type.dtype) for v in (gamma, beta))
    y = group_normalization(b, first, scale, bias, num_groups=groups, epsilon=epsilon)
    assert isinstance(y, Value)
    y = b.transpose(y, (0, *range(2, y.type.rank), 1)) if channels_last else y
    return b.binary("mul", y, b.unary("sigmoid", y)) if activation else y


@onnx_op("SkipGroupNorm", since=0, domain=DOMAIN)
def skip_group_norm(
    b: OnnxBuilder, x: Value, gamma: Value, beta: Value, skip: Value, bias: Value | None = None, *, activation: int,
    groups: int, channels_last: int = 1, epsilon: float = 1e-5,
) -> Outputs:  # fmt: skip
    """skip: of the shape of x, or [N, C] or [N, 1, 1, C] for all positions."""
    if not channels_last:
        raise ModelError("attribute 'channels_last' is 0, which runtimes do not have")
    if skip.type.rank == 2:
        skip = b.reshape(skip, (skip.type.shape[0], *[1] * (x.type.rank - 2), skip.type.shape[1]))
    total = b.binary("add", x, skip)
    total = total if bias is None else b.binary("add", total, bias)
    y = group_norm(b, total, gamma, beta, activation=activation, groups=groups, epsilon=epsilon)
    return y, total  # type: ignore[return-value]
