"""Resampling of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ....ir.dims import as_dim
from ....ir.errors import ModelError
from ....ir.expr import as_expr, binary
from ....ir.graph import Value
from ....ir.ops.grid_sample import GridSample
from ....ir.ops.image import Resize
from ....ir.types import Dim
from ..builder import OnnxBuilder, normal_axis
from ..symbolic import product, quotient
from ..table import Outputs, onnx_op
from .layout import spatial_rank, to_channels_first, to_channels_last
from .resize_open import in_type, resampled

_LARGEST_SCALE = 2**31
_LARGEST_PART = 64  # of 1: products of sizes with such fractions are exact in f32
_LONGEST = 2**24  # elements of a resized axis: where each one comes from is a constant


@onnx_op("Upsample", since=7)
def upsample_by_attribute(b: OnnxBuilder, x: Value, *, scales: tuple[float, ...], mode: str = "nearest") -> Outputs:
    return _resize(b, x, range(x.type.rank), _scaled(x, range(x.type.rank), scales), Resize(
        (), (), (), _mode(mode), "asymmetric", "floor"))  # fmt: skip


@onnx_op("Upsample", since=9)
@onnx_op("Resize", since=10)
def resize_10(b: OnnxBuilder, x: Value, scales: Value, *, mode: str = "nearest") -> Outputs:
    return upsample_by_attribute(b, x, scales=_floats(b, scales, "scales"), mode=mode)


@onnx_op("Resize", since=11)
def resize(
    b: OnnxBuilder, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None, *,
    antialias: int = 0, axes: tuple[int, ...] | None = None, coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
) -> Outputs:  # fmt: skip
    chosen = range(x.type.rank) if axes is None else [normal_axis(a, x.type.rank) for a in axes]
    by_scale = scales is not None and scales.type.shape != (0,)
    if by_scale == (sizes is not None and sizes.type.shape != (0,)):
        raise ModelError("expected either scales or sizes")
    if by_scale:
        new = _scaled(x, chosen, _floats(b, scales, "scales"))  # type: ignore[arg-type]
    else:
        new = _sized(x, chosen, b.dims(sizes, "sizes"), keep_aspect_ratio_policy)  # type: ignore[arg-type]
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    region = _floats(b, roi, "roi") if crop and roi is not None else ()
    how = Resize(
        (), (), (), _mode(mode), coordinate_transformation_mode, nearest_mode, cubic_coeff_a, bool(exclude_outside),
        bool(antialias), region, extrapolation_value,
    )  # fmt: skip
    return _resize(b, x, chosen, new, how)


def _mode(mode: str) -> str:
    return "linear" if mode == "bilinear" else mode


def _floats(b: OnnxBuilder, v: Value, what: str) -> tuple[float, ...]:
    return tuple(float(f) for f in b.array(v, what).reshape(-1))


_NewSize = tuple[Dim, float | None]  # size, and new / old size before rounding, None if that is known when it runs


def _scaled(x: Value, axes: Sequence[int], scales: Sequence[float]) -> list[_NewSize]:
    """The product is rounded to f32 before it is cut, as exporters expect: 3 * 2.3333333 is 7."""
    if len(scales) != len(axes) or not all(0 < s < _LARGEST_SCALE for s in scales):
        raise ModelError(f"scales {list(scales)} must be {len(axes)} positive numbers below {_LARGEST_SCALE}")
    made: list[_NewSize] = []
    for d, scale in zip(axes, scales, strict=True):
        n = x.type.shape[d]
        if isinstance(n, int):
            made.append((int(np.floor(np.float32(n) * np.float32(scale))), scale))
        elif float(scale).as_integer_ratio()[1] <= _LARGEST_PART:
            over, under = float(scale).as_integer_ratio()
            made.append((as_dim(binary("div", as_expr(product([n, over])), under)), scale))
        else:
            raise ModelError(f"axis {d} of {x.type} must be known for scale {scale}; bind it (--shape, --dim)")
    return made


def _sized(x: Value, axes: Sequence[int], sizes: Sequence[Dim], policy: str) -> list[_NewSize]:
    if len(sizes) != len(axes):
        raise ModelError(f"sizes {list(sizes)} must be {len(axes)} numbers")
    old = [x.type.shape[d] for d in axes]
    ratios = [_ratio(n, m) for n, m in zip(sizes, old, strict=True)]
    if policy == "stretch":
        return list(zip(sizes, ratios, strict=True))
    known = [r for r in ratios if r is not None]
    if policy not in ("not_larger", "not_smaller") or len(known) < len(ratios) or not all(isinstance(m, int) for m in old):
        raise ModelError(f"attribute 'keep_aspect_ratio_policy' = {policy!r} is unknown, or {x.type} is not known")
    scale = min(known) if policy == "not_larger" else max(known)
    return [(math.floor(scale * m + 0.5), scale) for m in old]  # type: ignore[operator]


def _ratio(new: Dim, old: Dim) -> float | None:
    if isinstance(new, int) and isinstance(old, int):
        return new / old if old else 1.0
    whole = quotient([new], [old])
    return float(whole) if isinstance(whole, int) else None


def _resize(b: OnnxBuilder, x: Value, axes: Sequence[int], new: Sequence[_NewSize], how: Resize) -> Value:
    """Leaves out axes that keep their size; the rest is done channels last if it is spatial."""
    crop = how.coordinates == "tf_crop_and_resize"
    if crop and len(how.roi) != 2 * len(axes):
        raise ModelError(f"tf_crop_and_resize needs a roi of {2 * len(axes)} numbers, got {list(how.roi)}")
    todo = [
        (axis, size, scale, how.roi[i] if crop else 0.0, how.roi[len(axes) + i] if crop else 1.0)
        for i, (axis, (size, scale)) in enumerate(zip(axes, new, strict=True))
        if crop or size != x.type.shape[axis] or scale != 1
    ]
    dtype = x.type.dtype
    open_axes = [row for row in todo if not (isinstance(x.type.shape[row[0]], int) and isinstance(row[1], int))]
    todo = [row for row in todo if row not in open_axes]
    for axis, size, scale, _, _ in open_axes:
        x = _repeated(b, x, axis, size, scale or 1.0, how) if _repeats(scale, how) else resampled(b, x, axis, size, scale, how)
    if not todo:
        return in_type(b, x, dtype)
    if any(isinstance(row[1], int) and row[1] > _LONGEST for row in todo):
        raise ModelError(f"{x.type} is resized to {[row[1] for row in todo]}; an axis may have {_LONGEST} elements")
    moved = x.type.rank >= 3 and all(row[0] >= 2 for row in todo)
    chosen = tuple(row[0] - 1 if moved else row[0] for row in todo)
    roi = (*(row[3] for row in todo), *(row[4] for row in todo)) if crop else ()
    op = Resize(
        chosen, tuple(int(row[1]) for row in todo), tuple(float(row[2]) for row in todo), how.mode, how.coordinates,  # type: ignore[arg-type]
        how.nearest, how.cubic, how.exclude_outside, how.antialias, roi, how.extrapolation,
    )  # fmt: skip
    y = to_channels_first(b, b.add(op, to_channels_last(b, x))) if moved else b.add(op, x)
    return in_type(b, y, dtype)


def _repeats(scale: float | None, how: Resize) -> bool:
    """Whether elements are repeated a whole number of times."""
    index_is_floor = (how.coordinates, how.nearest) in (
        ("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("pytorch_half_pixel", "round_prefer_floor"),
    )  # fmt: skip
    return how.mode == "nearest" and index_is_floor and scale is not None and scale == int(scale)


def _repeated(b: OnnxBuilder, x: Value, axis: int, size: Dim, scale: float, how: Resize) -> Value:
    """A symbolic axis: elements repeated a whole number of times."""
    shape = x.type.shape
    spaced = b.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    repeated = b.broadcast(spaced, (*shape[: axis + 1], int(scale), *shape[axis + 1 :]))
    return b.reshape(repeated, (*shape[:axis], as_dim(size), *shape[axis + 1 :]))


@onnx_op("GridSample", since=16)
def grid_sample(
    b: OnnxBuilder, x: Value, grid: Value, *, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0
) -> Outputs:
    spatial_rank(x)
    name = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    y = b.add(GridSample(name, padding_mode, bool(align_corners)), to_channels_last(b, x), grid)
    return to_channels_first(b, y)
