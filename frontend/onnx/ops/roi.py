"""Regions of interest: their bins as means or maxima of samples, or as maxima of elements."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ....ir.errors import ModelError
from ....ir.expr import Var
from ....ir.graph import Value
from ....ir.ops.control import Loop
from ....ir.ops.movement import GatherND
from ....ir.ops.reduce import Reduce
from ....ir.types import Dim, TensorType
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op
from .regions import as_points, share

_MOST_SAMPLES = 2**24  # whose places are constants: along one axis of a region


class _Axis:
    """Bilinear interpolation along one dimension of n elements: the element below and above, and the weight of the
    latter."""

    def __init__(self, b: OnnxBuilder, at: Value, n: Dim) -> None:
        """at: positions, already moved into [0, n - 1] by the caller or to be masked by it."""
        last = b.cast(b.reshape(b.dim_tensor([n]), ()), at.type.dtype)
        last = b.binary("sub", last, 1)
        low = b.binary("min", b.binary("max", b.unary("floor", at), 0), last)
        self.part = b.binary("sub", at, low)
        self.low = b.cast(low, "i64")
        self.high = b.cast(b.binary("min", b.binary("add", low, 1), last), "i64")


def _corners(b: OnnxBuilder, y: _Axis, x: _Axis, width: Dim) -> list[tuple[Value, Value]]:
    """(flat position, weight) of the four elements around a point."""
    row = b.reshape(b.dim_tensor([width]), ())
    made = []
    for far_y, rows in ((False, y.low), (True, y.high)):
        for far_x, columns in ((False, x.low), (True, x.high)):
            weight = b.binary("mul", share(b, y.part, far_y), share(b, x.part, far_x))
            made.append((b.binary("add", b.binary("mul", rows, row), columns), weight))
    return made


@onnx_op("RoiAlign", since=10)
def roi_align_10(
    b: OnnxBuilder, x: Value, rois: Value, batch: Value, *, mode: str = "avg", output_height: int = 1,
    output_width: int = 1, sampling_ratio: int = 0, spatial_scale: float = 1.0,
) -> Outputs:  # fmt: skip
    return _roi_align(b, x, rois, batch, mode, (output_height, output_width), sampling_ratio, spatial_scale, False)


@onnx_op("RoiAlign", since=16)
def roi_align(
    b: OnnxBuilder, x: Value, rois: Value, batch: Value, *, coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg", output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0, spatial_scale: float = 1.0,
) -> Outputs:  # fmt: skip
    half = coordinate_transformation_mode == "half_pixel"
    return _roi_align(b, x, rois, batch, mode, (output_height, output_width), sampling_ratio, spatial_scale, half)


def _roi_align(
    b: OnnxBuilder, x: Value, rois: Value, batch: Value, mode: str, sizes: tuple[int, int], ratio: int, scale: float,
    half: bool,
) -> Value:  # fmt: skip
    """Every bin is the mean or maximum of ratio * ratio bilinear samples (for the maximum, of their weighted corners)."""
    if x.type.rank != 4 or rois.type.rank != 2 or mode not in ("avg", "max"):
        raise ModelError(f"expected x[N, C, H, W], rois[R, 4] and a mode of avg or max, got {x.type}, {rois.type}, {mode!r}")
    if not all(0 < n * max(ratio, 1) <= _MOST_SAMPLES for n in sizes):
        raise ModelError(f"an output of {sizes} with {ratio} samples a bin: each axis may have {_MOST_SAMPLES} samples")
    if ratio < 1:
        return _adaptive(b, x, rois, batch, mode, sizes, scale, half)
    regions, channels = rois.type.shape[0], x.type.shape[1]
    height, width = x.type.shape[2:]
    y, inside_y = _samples(b, rois, 1, sizes[0], ratio, scale, half, height)
    xs, inside_x = _samples(b, rois, 0, sizes[1], ratio, scale, half, width)
    rows, columns = sizes[0] * ratio, sizes[1] * ratio
    inside = b.binary("and", b.reshape(inside_y, (regions, rows, 1)), b.reshape(inside_x, (regions, 1, columns)))
    image = b.reshape(b.cast(batch, "i64"), (regions, 1, 1, 1))
    found = _bilinear(b, as_points(b, x), image, y, xs, inside, (height, width), mode)
    bins = b.reshape(found, (regions, sizes[0], ratio, sizes[1], ratio, channels))
    pooled = b.add(Reduce("mean" if mode == "avg" else "max", (2, 4), False), bins)
    return b.transpose(pooled, (0, 3, 1, 2))


def _bilinear(
    b: OnnxBuilder, points: Value, image: Value, y: Value, x: Value, inside: Value, size: tuple[Dim, Dim], mode: str
) -> Value:
    """The images [N, H * W, C] at rows y[R, P] and columns x[R, Q], 0 outside: [R, P, Q, C].  For the mode max, the largest
    of the four weighted elements around a point."""
    (regions, rows), columns = y.type.shape, x.type.shape[1]
    axes = _Axis(b, b.reshape(y, (regions, rows, 1)), size[0]), _Axis(b, b.reshape(x, (regions, 1, columns)), size[1])
    zero, where = b.scalar(0, points.type.dtype), (regions, rows, columns, 1)
    terms = []
    for flat, weight in _corners(b, *axes, size[1]):
        index = b.concat([b.broadcast(image, where), b.reshape(flat, where)], 3)
        weight = b.select(inside, b.cast(weight, points.type.dtype), zero)
        terms.append(b.binary("mul", b.add(GatherND(0), points, index), b.reshape(weight, where)))
    while len(terms) > 1:
        terms = [*terms[2:], b.binary("add" if mode == "avg" else "max", terms[0], terms[1])]
    return terms[0]


def _samples(
    b: OnnxBuilder, rois: Value, column: int, bins: int, ratio: int, scale: float, half: bool, n: Dim
) -> tuple[Value, Value]:
    """Positions [R, bins * ratio] of the samples along one axis, moved into the image, and whether they are near it."""
    start, length = _extent(b, rois, column, scale, half)
    steps = (np.arange(bins * ratio) + 0.5) / (ratio * bins)
    at = b.binary("mul", length, b.reshape(b.cast(b.constant(steps), rois.type.dtype), (1, bins * ratio)))
    return _moved_inside(b, b.binary("add", start, at), n)


def _extent(b: OnnxBuilder, rois: Value, column: int, scale: float, half: bool) -> tuple[Value, Value]:
    """Where each region begins along an axis, and how long it is, [R, 1] both."""
    start, end = (b.binary("mul", b.slice(rois, 1, c, 1), scale) for c in (column, column + 2))
    if half:
        start, end = b.binary("sub", start, 0.5), b.binary("sub", end, 0.5)
    length = b.binary("sub", end, start)
    return start, length if half else b.binary("max", length, 1)


def _moved_inside(b: OnnxBuilder, at: Value, n: Dim) -> tuple[Value, Value]:
    """Positions moved onto the n elements, and whether they were near them."""
    size = b.cast(b.reshape(b.dim_tensor([n]), ()), at.type.dtype)
    near = b.binary("and", b.binary("ge", at, -1), b.binary("le", at, size))
    return b.binary("min", b.binary("max", at, 0), b.binary("sub", size, 1)), near


# ---- as many samples as the regions need ----


def _adaptive(
    b: OnnxBuilder, x: Value, rois: Value, batch: Value, mode: str, sizes: tuple[int, int], scale: float, half: bool
) -> Value:
    """A bin of a region that is h rows high has ceil(h / bins) rows of samples: a loop as long as the largest needs."""
    regions, size = rois.type.shape[0], (x.type.shape[2], x.type.shape[3])
    extents = [_extent(b, rois, column, scale, half) for column in (1, 0)]
    dtype = rois.type.dtype
    counts = [
        b.binary("max", b.unary("ceil", b.binary("div", length, bins)), 0)
        for (_, length), bins in zip(extents, sizes, strict=True)
    ]

    def sample(b: OnnxBuilder, turns: tuple[Value, Value], captured: list[Value]) -> tuple[Value, Value]:
        points, image, *rest = captured
        at, near, counted = [], [], []
        for n, (turn, bins) in enumerate(zip(turns, sizes, strict=True)):
            start, length, count = rest[3 * n : 3 * n + 3]
            step = b.binary("div", length, bins)
            part = b.binary("div", b.binary("add", b.cast(turn, dtype), 0.5), b.binary("max", count, 1))
            first = b.binary("mul", step, b.cast(b.constant(np.arange(bins, dtype=np.float32)[None]), dtype))
            position = b.binary("add", b.binary("add", start, first), b.binary("mul", part, step))
            position, here = _moved_inside(b, position, size[n])
            at.append(position)
            near.append(here)
            counted.append(b.binary("lt", b.cast(turn, dtype), count))
        inside = b.binary("and", b.reshape(near[0], (regions, sizes[0], 1)), b.reshape(near[1], (regions, 1, sizes[1])))
        found = _bilinear(b, points, image, at[0], at[1], inside, size, mode)
        return found, b.reshape(b.binary("and", *counted), (regions, 1, 1, 1))

    image = b.reshape(b.cast(batch, "i64"), (regions, 1, 1, 1))
    captured = [as_points(b, x), image, *extents[0], counts[0], *extents[1], counts[1]]
    total = _over_windows(b, captured, (*sizes, x.type.shape[1]), counts, "add" if mode == "avg" else "max", sample)
    number = b.reshape(b.binary("mul", *counts), (regions, 1, 1, 1))
    if mode == "avg":
        total = b.binary("div", total, b.cast(b.binary("max", number, 1), x.type.dtype))
    else:
        total = b.select(b.binary("gt", number, 0), total, b.scalar(0, x.type.dtype))
    return b.transpose(total, (0, 3, 1, 2))


Sample = Callable[[OnnxBuilder, "tuple[Value, Value]", "list[Value]"], "tuple[Value, Value]"]


def _over_windows(
    b: OnnxBuilder, captured: list[Value], shape: tuple[Dim, Dim, Dim], counts: list[Value], fn: str, sample: Sample
) -> Value:
    """[R, P, Q, C] accumulated over the rows and columns that the largest window has.  counts: rows and columns of each
    window.  sample(builder, (row, column), captured): the elements there, and for which bins they count."""
    dtype, regions = captured[0].type.dtype, counts[0].type.shape[0]
    start = b.broadcast(b.scalar(0 if fn == "add" else -math.inf, dtype), (regions, *shape))
    axes = tuple(range(counts[0].type.rank))
    none = b.scalar(0, "i64")
    most = [b.binary("max", b.cast(b.add(Reduce("max", axes, False), c), "i64"), none) for c in counts]
    inner = OnnxBuilder("sample")
    turn = inner.input("turn", TensorType("i64", ()))
    go = inner.input("go", TensorType("bool", ()))
    total = inner.input("total", start.type)
    own = [inner.input(f"captured{n}", v.type) for n, v in enumerate([*captured, most[1]])]
    found, counted = sample(inner, (inner.binary("div", turn, own[-1]), inner.binary("mod", turn, own[-1])), own[:-1])
    made = inner.select(counted, inner.binary(fn, total, found), total)
    body = inner.graph((inner.binary("or", go, go), made))
    length = Var.of(b.unique(f"{b.hint}_turns"), None)
    return b.add_multi(Loop(body, 1, 0, length), b.binary("mul", *most), b.scalar(True, "bool"), start, *captured, most[1])[0]


@onnx_op("MaxRoiPool", since=1)
def max_roi_pool(
    b: OnnxBuilder, x: Value, rois: Value, *, pooled_shape: tuple[int, ...], spatial_scale: float = 1.0
) -> Outputs:
    """rois[R, 5]: the image and two corners, rounded to elements, both within; bins overlap where they do not divide."""
    sizes_fit = len(pooled_shape) == 2 and all(0 < n <= _MOST_SAMPLES for n in pooled_shape)
    if x.type.rank != 4 or rois.type.rank != 2 or rois.type.shape[1] != 5 or not sizes_fit:
        raise ModelError(f"expected x[N, C, H, W], rois[R, 5] and two sizes, got {x.type}, {rois.type}, {pooled_shape}")
    regions, width = rois.type.shape[0], x.type.shape[3]
    windows = [_window(b, rois, column, bins, spatial_scale, x.type.shape[axis])
               for column, bins, axis in ((2, pooled_shape[0], 2), (1, pooled_shape[1], 3))]  # fmt: skip

    def sample(b: OnnxBuilder, turns: tuple[Value, Value], captured: list[Value]) -> tuple[Value, Value]:
        points, image, *rest = captured
        (rows, high), (columns, wide) = rest[:2], rest[2:]
        shapes = (regions, pooled_shape[0], 1), (regions, 1, pooled_shape[1])
        row = b.reshape(b.binary("add", rows, turns[0]), shapes[0])
        column = b.reshape(b.binary("add", columns, turns[1]), shapes[1])
        size = b.reshape(b.dim_tensor([width]), ())
        flat = b.binary("add", b.binary("mul", row, size), column)
        where = (regions, *pooled_shape, 1)
        index = b.concat([b.broadcast(image, where), b.reshape(flat, where)], 3)
        within = [b.reshape(b.binary("lt", t, n), s) for t, n, s in zip(turns, (high, wide), shapes, strict=True)]
        return b.add(GatherND(0), points, index), b.reshape(b.binary("and", *within), where)

    image = b.reshape(b.cast(b.slice(rois, 1, 0, 1), "i64"), (regions, 1, 1, 1))
    counts = [count for _, count in windows]
    captured = [as_points(b, x), image, *windows[0], *windows[1]]
    total = _over_windows(b, captured, (pooled_shape[0], pooled_shape[1], x.type.shape[1]), counts, "max", sample)
    high, wide = b.reshape(counts[0], (regions, pooled_shape[0], 1, 1)), b.reshape(counts[1], (regions, 1, pooled_shape[1], 1))
    filled = b.binary("gt", b.binary("mul", high, wide), 0)
    return b.transpose(b.select(filled, total, b.scalar(0, x.type.dtype)), (0, 3, 1, 2))


def _window(b: OnnxBuilder, rois: Value, column: int, bins: int, scale: float, n: Dim) -> tuple[Value, Value]:
    """The first element of every bin along one axis of n elements, and how many there are, [R, bins]."""
    dtype = rois.type.dtype
    first, last = (b.unary("floor", b.binary("add", b.binary("mul", b.slice(rois, 1, c, 1), scale), 0.5))
                   for c in (column, column + 2))  # fmt: skip
    step = b.binary("div", b.binary("max", b.binary("add", b.binary("sub", last, first), 1), 1), bins)
    starts = b.cast(b.constant(np.arange(bins, dtype=np.float32)[None]), dtype)
    size = b.cast(b.reshape(b.dim_tensor([n]), ()), dtype)
    low = b.binary("add", b.unary("floor", b.binary("mul", starts, step)), first)
    high = b.binary("add", b.unary("ceil", b.binary("mul", b.binary("add", starts, 1), step)), first)
    low, high = (b.cast(b.binary("min", b.binary("max", v, 0), size), "i64") for v in (low, high))
    return low, b.binary("max", b.binary("sub", high, low), 0)
