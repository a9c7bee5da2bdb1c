"""Products, convolutions and pools: one native operation each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.compute import identity
from ...ir.graph import Value
from ...ir.ops.contract import Conv, ConvTranspose, MatMul
from ...ir.ops.window import MaxPoolIndices, Pool
from ...ir.types import TensorType, is_float
from .elementwise import Scalars
from .text import numbers
from .writer import Ref

if TYPE_CHECKING:
    from .emit import Emitter


def matmul(e: Emitter, op: MatMul, inputs: tuple[Value, ...]) -> Ref:
    """Batch dimensions that both have become batching dimensions; a matrix on the right contracts without any."""
    a, b = e.narrowed(inputs, op.to)
    out = e.type_of(op, inputs)
    batch = out.static_shape[:-2]
    if len(b.shape) == 2:
        return _dot(e, a, b, 0, out)
    if a.shape[:-2] != batch:
        a = e.w.broadcast_to(a, (*batch, *a.shape[-2:]))
    if b.shape[:-2] != batch:
        b = e.w.broadcast_to(b, (*batch, *b.shape[-2:]))
    return _dot(e, a, b, len(batch), out)


def _dot(e: Emitter, a: Ref, b: Ref, batch: int, out: TensorType) -> Ref:
    dims = range(batch)
    batching = f"batching_dims = [{numbers(dims)}] x [{numbers(dims)}], " if batch else ""
    left, right = len(a.shape) - 1, len(b.shape) - 2
    attributes = f"{batching}contracting_dims = [{left}] x [{right}], precision = [{e.precision}, {e.precision}]"
    return e.w.simple("dot_general", (a, b), out, attributes)


def _convolution(
    e: Emitter, x: Ref, w: Ref, out: TensorType, *, kernel: str, groups: int, strides: tuple[int, ...] = (),
    pads: list[tuple[int, int]], left: tuple[int, ...] = (), right: tuple[int, ...] = (),
) -> Ref:
    rank = len(x.shape) - 2
    spatial = numbers(range(rank))
    ones = (1,) * rank
    window = (
        f"window = {{stride = [{numbers(strides or ones)}], pad = [{', '.join(f'[{b}, {a}]' for b, a in pads)}], "
        f"lhs_dilate = [{numbers(left or ones)}], rhs_dilate = [{numbers(right or ones)}]}}"
    )
    layout = f"dim_numbers = [b, {spatial}, f]x[{spatial}, {kernel}]->[b, {spatial}, f]"
    attributes = (
        f"{{batch_group_count = 1 : i64, feature_group_count = {groups} : i64, "
        f"precision_config = [#stablehlo<precision {e.precision}>, #stablehlo<precision {e.precision}>]}}"
    )
    signature = e.w.signature((x, w), out)
    return e.w.emit(f"stablehlo.convolution({x.name}, {w.name}) {layout}, {window} {attributes} : {signature}", out)


def _with_bias(e: Emitter, y: Ref, inputs: tuple[Value, ...]) -> Ref:
    return y if len(inputs) < 3 else e.w.binary("add", y, e.operand(inputs[2], y.shape))


def conv(e: Emitter, op: Conv, inputs: tuple[Value, ...]) -> Ref:
    x, w = e.narrowed(inputs[:2], op.to)
    window = op.window(w.shape[:-2])
    pads = list(zip(window.before, window.after, strict=True))
    y = _convolution(
        e, x, w, e.type_of(op, inputs), kernel="i, o", groups=op.groups, strides=op.strides, pads=pads, right=op.dilations
    )
    return _with_bias(e, y, inputs)


def conv_transpose(e: Emitter, op: ConvTranspose, inputs: tuple[Value, ...]) -> Ref:
    """The convolution of x, spread by the strides, with the mirrored kernel."""
    x, w = (e.value(v) for v in inputs[:2])
    *kernel, per_group, channels = w.shape
    rank = len(kernel)
    if op.groups > 1:
        w = e.w.reshape(w, (*kernel, per_group, op.groups, channels // op.groups))
        w = e.w.transpose(w, (*range(rank), rank + 1, rank, rank + 2))
        w = e.w.reshape(w, (*kernel, op.groups * per_group, channels // op.groups))
    reach = [(k - 1) * d for k, d in zip(kernel, op.dilations, strict=True)]
    pads = [(reach[d] - op.pads[d], reach[d] - op.pads[rank + d] + op.output_padding[d]) for d in range(rank)]
    y = _convolution(
        e, x, e.w.reverse(w, range(rank)), e.type_of(op, inputs), kernel="o, i", groups=op.groups, pads=pads,
        left=op.strides, right=op.dilations,
    )
    return _with_bias(e, y, inputs)


def pool(e: Emitter, op: Pool, inputs: tuple[Value, ...]) -> Ref:
    """One reduce_window; an average divides by the number of elements, a constant."""
    (x,) = (e.value(v) for v in inputs)
    window = op.window
    pads = [(0, 0), *zip(window.before, window.after, strict=True), (0, 0)]
    geometry = {
        "sizes": (1, *op.kernel_shape, 1), "strides": (1, *op.strides, 1), "dilations": (1, *op.dilations, 1),
    }
    if op.fn == "max":
        start = e.w.splat(identity("max", x.dtype), x.dtype)
        return e.w.reduce_window("maximum", x, start, pads=pads, **geometry)
    wide = e.w.convert(x, "f32") if x.dtype in ("f16", "bf16") else x
    total = e.w.reduce_window("add", wide, e.w.splat(0, wide.dtype), pads=pads, **geometry)
    counted = any(op.pads) and not op.count_include_pad
    if counted:
        ones = window.padded(np.ones((1, *x.shape[1:-1], 1), np.int64), 0)
        count = sum(tap for _, tap in window.taps(ones))[0, ..., 0]  # type: ignore[index]
        divisor = e.w.constant(count, wide.dtype)
        divisor = e.w.broadcast(divisor, total.shape, range(1, len(total.shape) - 1))
    else:
        divisor = e.w.splat(int(np.prod(op.kernel_shape)), wide.dtype, total.shape)
    return e.w.convert(e.w.binary("divide", total, divisor), x.dtype)


def max_pool_indices(e: Emitter, op: MaxPoolIndices, inputs: tuple[Value, ...]) -> Ref:
    """The best of the kernel positions, one strided slice each; a padded position has no place, -1."""
    (x,) = (e.value(v) for v in inputs)
    w, s, window = e.w, Scalars(e.w), op.window
    spatial = x.shape[1:-1]
    order = "F" if op.column_major else "C"
    within = np.arange(int(np.prod(spatial))).reshape(1, *spatial, 1, order=order)  # type: ignore[call-overload]
    places = [tap for _, tap in window.taps(window.padded(within, -1))]
    low, high = (0, *window.before, 0), (0, *window.after, 0)
    padded = w.pad(x, w.splat(0, x.dtype), low, high)
    best: Ref | None = None
    for (k, _), place in zip(window.taps(np.empty(padded.shape, np.bool_)), places, strict=True):
        starts = (0, *(i * d for i, d in zip(k, op.dilations, strict=True)), 0)
        sizes = place.shape[1:-1]
        ends = [i + (n - 1) * t + 1 for i, n, t in zip(starts[1:-1], sizes, op.strides, strict=True)]
        limits = (x.shape[0], *ends, x.shape[-1])
        value = w.slice(padded, starts, limits, (1, *op.strides, 1))
        at = w.broadcast_to(w.constant(place, "i64"), value.shape)
        if best is None:
            best, best_at = value, at
            continue
        better = w.binary("or", s.op("lt", best_at, 0), w.compare("gt", value, best))
        if is_float(x.dtype):
            fills = w.binary("and", w.compare("ne", best, best), w.compare("eq", value, value))
            better = w.binary("or", better, fills)
        better = w.binary("and", better, s.op("ge", at, 0))
        best, best_at = w.select(better, value, best), w.select(better, at, best_at)
    planes = np.arange(x.shape[0])[:, None] * x.shape[-1] + np.arange(x.shape[-1])
    plane = w.broadcast(w.constant(planes * within.size, "i64"), best_at.shape, (0, len(x.shape) - 1))
    return s.where(s.op("lt", best_at, 0), -1, s.add(best_at, plane))
