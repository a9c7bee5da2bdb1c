"""Operators that read or write images at positions computed from data: deformable convolution, unpooling."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.movement import GatherND, Pad
from ....ir.ops.scatter import ScatterElements
from ....ir.types import is_float
from ..builder import OnnxBuilder
from ..symbolic import product
from ..table import Outputs, onnx_op
from .layout import each, spatial_rank

_MOST_SAMPLES = 2**24  # whose places are constants: along one axis of a region, or of an image

@onnx_op("MaxUnpool", since=9)
def max_unpool(
    b: OnnxBuilder, x: Value, indices: Value, shape: Value | None = None, *, kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None, strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    """Zeros, and x at positions in the flat tensor of the shape that the pooling saw; a larger output has zeros behind."""
    rank = spatial_rank(x)
    kernel, steps = each(kernel_shape, rank, 1, "kernel_shape"), each(strides, rank, 1, "strides")
    around = each(pads, 2 * rank, 0, "pads")
    spatial = x.type.static_shape[2:] if x.type.is_static else ()
    if not spatial or indices.type.shape != x.type.shape:
        raise ModelError(f"x {x.type} and its indices {indices.type} must have one shape that is known; bind it (--shape)")
    seen = [(n - 1) * s - around[d] - around[d + rank] + k
            for d, (n, s, k) in enumerate(zip(spatial, steps, kernel, strict=True))]  # fmt: skip
    inner = (*x.type.static_shape[:2], *seen)
    count = product(x.type.shape)
    zeros = b.broadcast(b.scalar(0, x.type.dtype), (prod(inner),))
    y = b.add(ScatterElements(0, "none"), zeros, b.reshape(indices, (count,)), b.reshape(x, (count,)))
    y = b.reshape(y, inner)
    outer = inner if shape is None else b.ints(shape, "output_shape")
    if len(outer) != len(inner) or any(n < m for n, m in zip(outer, inner, strict=True)):
        raise ModelError(f"output_shape {list(outer)} must not be smaller than {list(inner)}")
    more = tuple(n - m for n, m in zip(outer, inner, strict=True))
    return b.add(Pad((0,) * len(outer), more, "constant"), y, b.scalar(0, x.type.dtype)) if any(more) else y


def share(b: OnnxBuilder, part: Value, far: bool) -> Value:
    return part if far else b.binary("sub", b.scalar(1, part.type.dtype), part)


def as_points(b: OnnxBuilder, x: Value) -> Value:
    """[N, C, H, W] as [N, H * W, C]."""
    n, c, h, w = x.type.shape
    return b.reshape(b.transpose(x, (0, 2, 3, 1)), (n, product([h, w]), c))


@onnx_op("DeformConv", since=19)
def deform_conv(
    b: OnnxBuilder, x: Value, w: Value, offset: Value, bias: Value | None = None, mask: Value | None = None, *,
    dilations: tuple[int, ...] | None = None, group: int = 1, kernel_shape: tuple[int, ...] | None = None,
    offset_group: int = 1, pads: tuple[int, ...] | None = None, strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    """Elements outside of the image count as zeros.  The columns [N, oh * ow, C, kh * kw] are sampled, then multiplied."""
    if not all(v.type.is_static and v.type.rank == 4 for v in (x, w, offset)) or not is_float(x.type.dtype):
        raise ModelError(f"expected float x, w and offset with four known dimensions, got {x.type}, {w.type}, {offset.type}")
    (n, c, h, width), (o, per, kh, kw) = x.type.static_shape, w.type.static_shape
    oh, ow = offset.type.static_shape[2:]
    taps = kh * kw
    step, spread = each(strides, 2, 1, "strides"), each(dilations, 2, 1, "dilations")
    around = each(pads, 4, 0, "pads")
    if min(group, offset_group) < 1:
        raise ModelError(f"groups {group} and {offset_group} must be 1 or more")
    if c != per * group or o % group or c % offset_group or offset.type.shape[1] != offset_group * taps * 2:
        raise ModelError(f"groups {group} and {offset_group} do not fit {x.type}, {w.type} and {offset.type}")
    if max(kh, kw, oh, ow, taps * oh * ow) > _MOST_SAMPLES:
        raise ModelError(f"{kh}x{kw} taps for {oh}x{ow} results: an image may have {_MOST_SAMPLES} samples")
    moves = b.reshape(offset, (n, offset_group, taps, 2, oh, ow))
    starts = _grid(b, (kh, kw), (oh, ow), step, spread, around, x.type.dtype)
    at = [b.binary("add", b.reshape(b.slice(moves, 3, d, 1), (n, offset_group, taps, oh, ow)), starts[d]) for d in (0, 1)]
    columns = _sampled(b, b.reshape(x, (n * offset_group, c // offset_group, h, width)),
                       [b.reshape(v, (n * offset_group, taps * oh * ow)) for v in at])  # fmt: skip
    columns = b.reshape(columns, (n, offset_group, taps, oh * ow, c // offset_group))
    if mask is not None:
        columns = b.binary("mul", columns, b.reshape(mask, (n, offset_group, taps, oh * ow, 1)))
    columns = b.reshape(b.transpose(columns, (0, 3, 1, 4, 2)), (n, oh * ow, group, per * taps))
    weights = b.transpose(b.reshape(w, (group, o // group, per * taps)), (0, 2, 1))
    y = b.add(MatMul(), b.transpose(columns, (0, 2, 1, 3)), weights)  # [n, group, oh * ow, o / group]
    y = b.reshape(b.transpose(y, (0, 1, 3, 2)), (n, o, oh, ow))
    return y if bias is None else b.binary("add", y, b.reshape(bias, (o, 1, 1)))


def _grid(
    b: OnnxBuilder, kernel: Sequence[int], out: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    pads: Sequence[int], dtype: str,
) -> list[Value]:  # fmt: skip
    """Row and column that every tap reads for every output without offsets, [taps, oh, ow] each, to be broadcast."""
    made = []
    for d in (0, 1):
        taps = np.arange(kernel[d]) * dilations[d]
        places = np.arange(out[d]) * strides[d] - pads[d]
        taps = np.repeat(taps, kernel[1]) if d == 0 else np.tile(taps, kernel[0])
        grid = taps[:, None, None] + (places[:, None] if d == 0 else places)
        made.append(b.cast(b.constant(grid.astype(np.float64)), dtype))
    return made


def _sampled(b: OnnxBuilder, x: Value, at: Sequence[Value]) -> Value:
    """x[N, C, H, W] at rows and columns [N, P], bilinear: [N, P, C]; what lies outside of x is zero."""
    n, _, h, w = x.type.static_shape
    p = at[0].type.static_shape[1]
    low = [b.unary("floor", v) for v in at]
    points, total = as_points(b, x), None
    for dy in (0, 1):
        for dx in (0, 1):
            place = [b.binary("add", v, d) for v, d in zip(low, (dy, dx), strict=True)]
            inside, index = _inside(b, place, (h, w))
            shares = [share(b, b.binary("sub", v, f), bool(d)) for v, f, d in zip(at, low, (dy, dx), strict=True)]
            weight = b.select(inside, b.binary("mul", *shares), b.scalar(0, x.type.dtype))
            found = b.add(GatherND(1), points, b.reshape(index, (n, p, 1)))
            term = b.binary("mul", found, b.reshape(weight, (n, p, 1)))
            total = term if total is None else b.binary("add", total, term)
    assert total is not None
    return total


def _inside(b: OnnxBuilder, place: Sequence[Value], sizes: Sequence[int]) -> tuple[Value, Value]:
    """Whether whole positions lie in an image, and their flat index, moved into it."""
    inside, index = None, None
    for v, n in zip(place, sizes, strict=True):
        here = b.binary("and", b.binary("ge", v, 0), b.binary("le", v, n - 1))
        clamped = b.cast(b.binary("min", b.binary("max", v, 0), n - 1), "i64")
        inside = here if inside is None else b.binary("and", inside, here)
        index = clamped if index is None else b.binary("add", b.binary("mul", index, n), clamped)
    assert inside is not None and index is not None
    return inside, index
