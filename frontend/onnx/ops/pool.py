"""Pooling, imported channels last.  ceil_mode is extra padding at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.movement import Pad
from ....ir.ops.reduce import Reduce
from ....ir.ops.window import MaxPoolIndices, Pool
from ....ir.types import Dim
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op
from .layout import each, spatial_rank, to_channels_first, to_channels_last, window_pads


@onnx_op("MaxPool", since=1)
def max_pool(
    b: OnnxBuilder, x: Value, *, kernel_shape: tuple[int, ...], auto_pad: str = "NOTSET", ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None, pads: tuple[int, ...] | None = None, storage_order: int = 0,
    strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    rank = spatial_rank(x)
    kernel, steps = each(kernel_shape, rank, 1, "kernel_shape"), each(strides, rank, 1, "strides")
    spread = each(dilations, rank, 1, "dilations")
    around = window_pads(auto_pad, pads, x.type.shape[2:], kernel, steps, spread)
    if ceil_mode and auto_pad == "NOTSET":
        around = _with_last_windows(x.type.shape[2:], around, kernel, steps, spread)
    last = to_channels_last(b, x)
    y = to_channels_first(b, b.add(Pool("max", kernel, steps, around, spread, False), last))
    if len(b.wanted) < 2 or not b.wanted[1]:
        return y
    where = b.add(MaxPoolIndices(kernel, steps, around, spread, bool(storage_order)), last)
    return y, to_channels_first(b, where)


@onnx_op("AveragePool", since=1)
def average_pool(
    b: OnnxBuilder, x: Value, *, kernel_shape: tuple[int, ...], auto_pad: str = "NOTSET", ceil_mode: int = 0,
    count_include_pad: int = 0, dilations: tuple[int, ...] | None = None, pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    return to_channels_first(
        b, _average(b, x, kernel_shape, auto_pad, ceil_mode, bool(count_include_pad), dilations, pads, strides)
    )


def _average(
    b: OnnxBuilder, x: Value, kernel_shape: Sequence[int], auto_pad: str, ceil_mode: int, include_pads: bool,
    dilations: Sequence[int] | None, pads: Sequence[int] | None, strides: Sequence[int] | None,
) -> Value:  # fmt: skip
    """Channels last.  Padding for ceil_mode never counts: where the pads do, they become zeros of the input first."""
    rank = spatial_rank(x)
    kernel, steps = each(kernel_shape, rank, 1, "kernel_shape"), each(strides, rank, 1, "strides")
    spread = each(dilations, rank, 1, "dilations")
    around = window_pads(auto_pad, pads, x.type.shape[2:], kernel, steps, spread)
    y = to_channels_last(b, x)
    if ceil_mode and auto_pad == "NOTSET":
        longer = _with_last_windows(x.type.shape[2:], around, kernel, steps, spread)
        if include_pads and longer != around:
            before, after = (0, *around[:rank], 0), (0, *around[rank:], 0)
            y = b.add(Pad(before, after, "constant"), y, b.scalar(0, x.type.dtype))
            longer = tuple(n - m for n, m in zip(longer, around, strict=True))
            include_pads = False
        around = longer
    return b.add(Pool("avg", kernel, steps, around, spread, include_pads), y)


def _with_last_windows(
    spatial: Sequence[Dim], pads: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """The pads, the ends longer so that the last window that starts inside x or its begin pad is not cut away."""
    rank = len(spatial)
    ends = list(pads[rank:])
    for d, (n, k, s, dilation) in enumerate(zip(spatial, kernel, strides, dilations, strict=True)):
        span = (k - 1) * dilation + 1
        if isinstance(n, int):
            room = n + pads[d] + ends[d] - span
            windows = -(-room // s) + 1
            if (windows - 1) * s >= n + pads[d]:
                windows -= 1
            ends[d] += max((windows - 1) * s - room, 0)
        elif ends[d] - span + s - 1 < 0:  # no window starts behind x, whatever its size
            ends[d] += s - 1
        else:
            raise ModelError(f"ceil_mode needs the size {n} to be known here; bind it (--shape, --dim)")
    return (*pads[:rank], *ends)


@onnx_op("LpPool", since=2)
def lp_pool(
    b: OnnxBuilder, x: Value, *, kernel_shape: tuple[int, ...], p: int = 2, auto_pad: str = "NOTSET",
    ceil_mode: int = 0, dilations: tuple[int, ...] | None = None, pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    """(sum of |x|^p)^(1/p): the sum is the average with padding, times the window's size."""
    rank = spatial_rank(x)
    powers = _powers(b, x, p)
    kernel, steps = each(kernel_shape, rank, 1, "kernel_shape"), each(strides, rank, 1, "strides")
    spread = each(dilations, rank, 1, "dilations")
    around = window_pads(auto_pad, pads, x.type.shape[2:], kernel, steps, spread)
    if ceil_mode and auto_pad == "NOTSET":
        around = _with_last_windows(x.type.shape[2:], around, kernel, steps, spread)
    mean = b.add(Pool("avg", kernel, steps, around, spread, True), to_channels_last(b, powers))
    total = b.binary("mul", mean, math.prod(kernel))
    return to_channels_first(b, b.binary("pow", total, 1 / p))


# ---- the whole of every channel ----


@onnx_op("GlobalAveragePool", since=1)
def global_average_pool(b: OnnxBuilder, x: Value) -> Outputs:
    return b.add(Reduce("mean", _spatial_axes(x), True), x)


@onnx_op("GlobalMaxPool", since=1)
def global_max_pool(b: OnnxBuilder, x: Value) -> Outputs:
    return b.add(Reduce("max", _spatial_axes(x), True), x)


@onnx_op("GlobalLpPool", since=2)
def global_lp_pool(b: OnnxBuilder, x: Value, *, p: int = 2) -> Outputs:
    return b.binary("pow", b.add(Reduce("sum", _spatial_axes(x), True), _powers(b, x, p)), 1 / p)


def _powers(b: OnnxBuilder, x: Value, p: int) -> Value:
    """|x|^p"""
    if p < 1:
        raise ModelError(f"attribute 'p' must be 1 or more, got {p}")
    return b.binary("pow", b.unary("abs", x), p)


def _spatial_axes(x: Value) -> tuple[int, ...]:
    return tuple(range(2, 2 + spatial_rank(x)))
