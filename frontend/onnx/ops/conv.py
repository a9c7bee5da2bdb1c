"""Convolutions, imported channels last: weights become [*kernel, C/groups, O]."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import Conv, ConvTranspose
from ....ir.types import Dim
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
