"""Convolutions, imported channels last: weights become [*kernel, C/groups, O]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import Conv, ConvTranspose
from ....ir.types import DTYPES, Dim
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op
from .layout import AUTO_PADS, each, spatial_rank, to_channels_first, to_channels_last, window_pads


def _kernel(w: Value, rank: int, kernel_shape: Sequence[int] | None) -> tuple[int, ...]:
    """The kernel's size, as the weights have it."""
    sizes = w.type.shape[2:]
    if len(sizes) != rank or not all(isinstance(n, int) for n in sizes):
        raise ModelError(f"the weights {w.type} must have {rank} known spatial dimensions")
    if kernel_shape is not None and tuple(kernel_shape) != sizes:
        raise ModelError(f"attribute 'kernel_shape' is {list(kernel_shape)}, but the weights are {w.type}")
    return sizes  # type: ignore[return-value]


@onnx_op("Conv", since=1)
def conv(
    b: OnnxBuilder, x: Value, w: Value, bias: Value | None = None, *, auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None, group: int = 1, kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None, strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    rank = spatial_rank(x)
    kernel = _kernel(w, rank, kernel_shape)
    steps, spread = each(strides, rank, 1, "strides"), each(dilations, rank, 1, "dilations")
    around = window_pads(auto_pad, pads, x.type.shape[2:], kernel, steps, spread)
    weights = b.transpose(w, (*range(2, rank + 2), 1, 0))
    extra = () if bias is None else (bias,)
    y = b.add(Conv(steps, around, spread, group), to_channels_last(b, x), weights, *extra)
    return to_channels_first(b, y)


@onnx_op("ConvTranspose", since=1)
def conv_transpose(
    b: OnnxBuilder, x: Value, w: Value, bias: Value | None = None, *, auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None, group: int = 1, kernel_shape: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None, output_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None, strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    rank = spatial_rank(x)
    kernel = _kernel(w, rank, kernel_shape)
    steps, spread = each(strides, rank, 1, "strides"), each(dilations, rank, 1, "dilations")
    longer = each(output_padding, rank, 0, "output_padding")
    if auto_pad not in AUTO_PADS:
        raise ModelError(f"attribute 'auto_pad' must be one of {', '.join(AUTO_PADS)}, got {auto_pad!r}")
    if output_shape is not None or auto_pad.startswith("SAME"):
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
        wanted = each(output_shape, rank, 0, "output_shape") if output_shape else None
        cut = [_excess(*r) for r in zip(x.type.shape[2:], steps, spans, longer, wanted or [None] * rank, strict=True)]
        longer = tuple(n + max(-c, 0) for n, c in zip(longer, cut, strict=True))
        small, large = [max(c, 0) // 2 for c in cut], [max(c, 0) - max(c, 0) // 2 for c in cut]
        around = (*small, *large) if auto_pad == "SAME_UPPER" else (*large, *small)
    else:
        around = (0,) * (2 * rank) if auto_pad == "VALID" else each(pads, 2 * rank, 0, "pads")
    weights = b.transpose(w, (*range(2, rank + 2), 1, 0))
    extra = () if bias is None else (bias,)
    y = b.add(ConvTranspose(steps, around, spread, group, longer), to_channels_last(b, x), weights, *extra)
    return to_channels_first(b, y)


def _excess(n: Dim, stride: int, span: int, longer: int, wanted: int | None) -> int:
    """By how much the full result is longer than the wanted size, n * stride if there is none."""
    if wanted is None:
        return span + longer - stride
    if not isinstance(n, int):
        raise ModelError(f"attribute 'output_shape' needs the size {n} to be known; bind it (--shape, --dim)")
    return (n - 1) * stride + span + longer - wanted


@onnx_op("Col2Im", since=18)
def col2im(
    b: OnnxBuilder, x: Value, image_shape: Value, block_shape: Value, *, dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None, strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    """Columns x[N, C * block, L] are added up where they overlap: a transposed convolution, one group per channel, whose
    weights put element k of a column at position k of the block."""
    image, block = b.ints(image_shape, "image_shape"), b.ints(block_shape, "block_shape")
    rank, taps = len(image), math.prod(block)
    steps, spread = each(strides, rank, 1, "strides"), each(dilations, rank, 1, "dilations")
    around = each(pads, 2 * rank, 0, "pads")
    if x.type.rank != 3 or len(block) != rank or not isinstance(x.type.shape[1], int) or x.type.shape[1] % max(taps, 1):
        raise ModelError(f"columns {x.type} do not fit blocks of {list(block)} in an image of {list(image)}")
    groups = x.type.shape[1] // taps
    spans = [(k - 1) * d + 1 for k, d in zip(block, spread, strict=True)]
    rooms = [n + around[i] + around[rank + i] - s for i, (n, s) in enumerate(zip(image, spans, strict=True))]
    windows = [room // step + 1 for room, step in zip(rooms, steps, strict=True)]
    longer = tuple(room % step for room, step in zip(rooms, steps, strict=True))
    columns = b.reshape(x, (x.type.shape[0], x.type.shape[1], *windows))
    place = np.eye(taps).reshape(taps, 1, *block)
    weights = b.constant(np.tile(place, (groups, *[1] * (rank + 1))).astype(DTYPES[x.type.dtype].numpy))
    last = b.transpose(weights, (*range(2, rank + 2), 1, 0))
    y = b.add(ConvTranspose(steps, around, spread, groups, longer), to_channels_last(b, columns), last)
    return to_channels_first(b, y)
