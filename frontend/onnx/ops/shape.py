"""Operators that ask for, compute or change shapes, and make tensors from nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....ir.dims import add_dims, as_dim
from ....ir.errors import ModelError
from ....ir.expr import as_expr
from ....ir.graph import Value
from ....ir.ops.elementwise import Binary
from ....ir.ops.movement import Iota, Trilu
from ....ir.types import DTYPES, Dim, is_float
from ..builder import OnnxBuilder, normal_axes, normal_axis
from ..symbolic import maximum, minimum, product, quotient
from ..table import Outputs, onnx_op
from ..tensors import dtype_name

_ENDLESS = 2**31 - 1  # exporters write this, or 2**63 - 1, for "to the end"; no symbolic dimension is so large


@onnx_op("Constant", since=1)
def constant(
    b: OnnxBuilder, *, value: np.ndarray | None = None, sparse_value: np.ndarray | None = None,
    value_int: int | None = None, value_ints: tuple[int, ...] | None = None, value_float: float | None = None,
    value_floats: tuple[float, ...] | None = None, value_string: str | None = None,
    value_strings: tuple[str, ...] | None = None,
) -> Outputs:  # fmt: skip
    arrays = (
        value, sparse_value, _array(value_int, np.int64), _array(value_ints, np.int64), _array(value_float, np.float32),
        _array(value_floats, np.float32),
    )  # fmt: skip
    given = [a for a in arrays if a is not None]
    if value_string is not None or value_strings is not None:
        raise ModelError("strings are not supported")
    if len(given) != 1:
        raise ModelError(f"expected one attribute with the value, got {len(given)}")
    return b.constant(given[0], b.hint)


def _array(x: Any, dtype: type) -> np.ndarray | None:
    return None if x is None else np.array(x, dtype)


@onnx_op("Shape", since=1)
def shape(b: OnnxBuilder, x: Value, *, start: int = 0, end: int | None = None) -> Outputs:
    return b.dim_tensor(x.type.shape[slice(start, end)])


@onnx_op("Size", since=1)
def size(b: OnnxBuilder, x: Value) -> Outputs:
    return b.dim_tensor([product(x.type.shape)], rank=0)


# ---- reshaping ----


@onnx_op("Reshape", since=5)
def reshape(b: OnnxBuilder, x: Value, shape: Value, *, allowzero: int = 0) -> Outputs:
    target = list(b.dims(shape, "shape"))
    if not allowzero:
        for i, d in enumerate(target):
            if d == 0:
                if i >= x.type.rank:
                    raise ModelError(f"shape {target} copies dimension {i} of {x.type}, which has {x.type.rank}")
                target[i] = x.type.shape[i]
    if target.count(-1) > 1:
        raise ModelError(f"shape {target} has more than one -1")
    if -1 in target:
        at = target.index(-1)
        rest = target[:at] + target[at + 1 :]
        size = quotient(x.type.shape, rest)
        if size is None and not x.type.is_static and 0 not in rest:  # the run will tell, as for any Reshape
            size = as_dim(as_expr(product(x.type.shape)) / as_expr(product(rest)))
        if size is None:
            raise ModelError(f"{x.type} cannot take the shape {target}: its elements do not divide evenly")
        target[at] = size
    return b.reshape(x, target)


@onnx_op("Flatten", since=1)
def flatten(b: OnnxBuilder, x: Value, *, axis: int = 1) -> Outputs:
    if not -x.type.rank <= axis <= x.type.rank:
        raise ModelError(f"axis {axis} is outside of [{-x.type.rank}, {x.type.rank}]")
    return b.flatten(x, axis if axis >= 0 else axis + x.type.rank)


@onnx_op("Squeeze", since=1)
def squeeze_by_attribute(b: OnnxBuilder, x: Value, *, axes: tuple[int, ...] | None = None) -> Outputs:
    if axes is None:
        if not x.type.is_static:  # a rank that depends on sizes
            raise ModelError(f"{x.type} may have axes of 1, not known yet; give axes, or bind its sizes (--shape, --dim)")
        removed = tuple(d for d, n in enumerate(x.type.shape) if n == 1)
    else:
        removed = normal_axes(axes, x.type.rank)
    for d in removed:
        if isinstance(x.type.shape[d], int) and x.type.shape[d] != 1:
            raise ModelError(f"axis {d} of {x.type} is not 1, it cannot be removed")
    return b.reshape(x, [n for d, n in enumerate(x.type.shape) if d not in removed])


@onnx_op("Squeeze", since=13)
def squeeze(b: OnnxBuilder, x: Value, axes: Value | None = None) -> Outputs:
    return squeeze_by_attribute(b, x, axes=None if axes is None else b.ints(axes, "axes"))


@onnx_op("Unsqueeze", since=1)
def unsqueeze_by_attribute(b: OnnxBuilder, x: Value, *, axes: tuple[int, ...]) -> Outputs:
    added = normal_axes(axes, x.type.rank + len(axes))
    dims = iter(x.type.shape)
    return b.reshape(x, [1 if d in added else next(dims) for d in range(x.type.rank + len(axes))])


@onnx_op("Unsqueeze", since=13)
def unsqueeze(b: OnnxBuilder, x: Value, axes: Value) -> Outputs:
    return unsqueeze_by_attribute(b, x, axes=b.ints(axes, "axes"))


@onnx_op("Transpose", since=1)
def transpose(b: OnnxBuilder, x: Value, *, perm: tuple[int, ...] | None = None) -> Outputs:
    return b.transpose(x, tuple(range(x.type.rank))[::-1] if perm is None else perm)


@onnx_op("DepthToSpace", since=1)
def depth_to_space(b: OnnxBuilder, x: Value, *, blocksize: int, mode: str = "DCR") -> Outputs:
    """NCHW; DCR reads the channels as (row, column, channel), CRD as (channel, row, column)."""
    n, c, h, w = _image(x)
    depth = quotient([c], [blocksize, blocksize])
    if mode not in ("DCR", "CRD") or depth is None:
        raise ModelError(f"blocksize {blocksize} and mode {mode!r} do not fit {x.type}")
    if mode == "DCR":
        split = b.transpose(b.reshape(x, (n, blocksize, blocksize, depth, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        split = b.transpose(b.reshape(x, (n, depth, blocksize, blocksize, h, w)), (0, 1, 4, 2, 5, 3))
    return b.reshape(split, (n, depth, product([h, blocksize]), product([w, blocksize])))


@onnx_op("SpaceToDepth", since=1)
def space_to_depth(b: OnnxBuilder, x: Value, *, blocksize: int, mode: str = "DCR") -> Outputs:
    n, c, h, w = _image(x)
    rows, columns = quotient([h], [blocksize]), quotient([w], [blocksize])
    if mode not in ("DCR", "CRD") or rows is None or columns is None:
        raise ModelError(f"blocksize {blocksize} and mode {mode!r} do not fit {x.type}")
    split = b.reshape(x, (n, c, rows, blocksize, columns, blocksize))
    moved = b.transpose(split, (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))
    return b.reshape(moved, (n, product([c, blocksize, blocksize]), rows, columns))


def _image(x: Value) -> tuple[Dim, ...]:
    if x.type.rank != 4:
        raise ModelError(f"expected an image batch [N, C, H, W], got {x.type}")
    return x.type.shape


# ---- joining, cutting, repeating ----


@onnx_op("Concat", since=4)
def concat(b: OnnxBuilder, *xs: Value, axis: int) -> Outputs:
    return b.concat(xs, normal_axis(axis, xs[0].type.rank))


@onnx_op("Split", since=2)
def split_by_attribute(b: OnnxBuilder, x: Value, *, axis: int = 0, split: tuple[int, ...] | None = None) -> Outputs:
    axis = normal_axis(axis, x.type.rank)
    count = len(b.wanted)
    size = quotient([x.type.shape[axis]], [count])
    if split is None and size is None:
        raise ModelError(f"axis {axis} of {x.type} cannot be split into {count} equal parts; give sizes")
    return _parts(b, x, axis, split or [size] * count)  # type: ignore[list-item]


@onnx_op("Split", since=13)
def split_by_input(b: OnnxBuilder, x: Value, split: Value | None = None, *, axis: int = 0) -> Outputs:
    if split is None:
        return split_by_attribute(b, x, axis=axis)
    return _parts(b, x, normal_axis(axis, x.type.rank), b.dims(split, "split"))


@onnx_op("Split", since=18)
def split(
    b: OnnxBuilder, x: Value, split: Value | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> Outputs:
    """num_outputs: equal parts, the last one smaller if need be."""
    if split is not None or num_outputs is None:
        return split_by_input(b, x, split, axis=axis)
    axis = normal_axis(axis, x.type.rank)
    extent = x.type.shape[axis]
    if num_outputs != len(b.wanted):
        raise ModelError(f"attribute 'num_outputs' is {num_outputs}, but the node has {len(b.wanted)} outputs")
    part = as_dim((extent + num_outputs - 1) // num_outputs)
    last = as_dim(extent - part * (num_outputs - 1))
    return _parts(b, x, axis, [*[part] * (num_outputs - 1), last])


def _parts(b: OnnxBuilder, x: Value, axis: int, sizes: list[Dim] | tuple[Dim, ...]) -> tuple[Value, ...]:
    total = add_dims(sizes)
    extent = x.type.shape[axis]
    if len(sizes) < len(b.wanted) or (isinstance(total, int) and isinstance(extent, int) and total != extent):
        raise ModelError(f"sizes {list(sizes)} do not divide axis {axis} of {x.type} into {len(b.wanted)} outputs")
    starts = [add_dims(sizes[:i]) for i in range(len(sizes))]
    return tuple(b.slice(x, axis, start, size) for start, size in zip(starts, sizes, strict=True))


@onnx_op("Slice", since=1)
def slice_by_attributes(
    b: OnnxBuilder, x: Value, *, starts: tuple[int, ...], ends: tuple[int, ...], axes: tuple[int, ...] | None = None
) -> Outputs:
    return _slice(b, x, starts, ends, axes or range(len(starts)), [1] * len(starts))


@onnx_op("Slice", since=10)
def slice_by_inputs(
    b: OnnxBuilder, x: Value, starts: Value, ends: Value, axes: Value | None = None, steps: Value | None = None
) -> Outputs:
    first, last = b.dims(starts, "starts"), b.dims(ends, "ends")
    chosen = range(len(first)) if axes is None else b.ints(axes, "axes")
    return _slice(b, x, first, last, chosen, [1] * len(first) if steps is None else b.ints(steps, "steps"))


def _slice(b: OnnxBuilder, x: Value, starts: Any, ends: Any, axes: Any, steps: Any) -> Value:
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ModelError(f"starts, ends, axes and steps have different lengths: {starts}, {ends}, {axes}, {steps}")
    normal_axes(axes, x.type.rank)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = normal_axis(axis, x.type.rank)
        if step == 0:
            raise ModelError(f"the step of axis {axis} is 0")
        extent = x.type.shape[axis]
        low, high = (0, extent) if step > 0 else (-1, as_dim(extent - 1))
        # A start before the first element is the first element, as the standard says; for NumPy such a slice is empty.
        first = _clamped(start, extent, -1 if step < 0 and extent == 0 else 0, high)
        last = _clamped(end, extent, low, high)
        span = as_dim(last - first) if step > 0 else as_dim(first - last)
        count = maximum(as_dim((span + abs(step) - 1) // abs(step)), 0)
        x = b.slice(x, axis, 0 if count == 0 else first, count, step)
    return x


def _clamped(i: Dim, extent: Dim, low: int, high: Dim) -> Dim:
    """An index of a slice: negative ones count from the end; then the nearest one from low to high."""
    if isinstance(i, int) and abs(i) >= _ENDLESS and not isinstance(extent, int):
        return high if i > 0 else low
    if isinstance(i, int) and i < 0:
        i = as_dim(extent + i)
    return maximum(minimum(i, high), low)


@onnx_op("Expand", since=8)
def expand(b: OnnxBuilder, x: Value, shape: Value) -> Outputs:
    """The shape broadcasts with x's: a 1 in it keeps x's dimension."""
    target = list(b.dims(shape, "shape"))
    own = [1] * (len(target) - x.type.rank) + list(x.type.shape)
    target = [1] * (x.type.rank - len(target)) + target
    return b.broadcast(x, [n if d == 1 else d for d, n in zip(target, own, strict=True)])


@onnx_op("Tile", since=6)
def tile(b: OnnxBuilder, x: Value, repeats: Value) -> Outputs:
    counts = b.dims(repeats, "repeats")
    if len(counts) != x.type.rank:
        raise ModelError(f"repeats {list(counts)} must have one number for each dimension of {x.type}")
    if all(c == 1 for c in counts):
        return x
    pairs = [p for c, n in zip(counts, x.type.shape, strict=True) for p in ((c, n) if c != 1 else (n,))]
    spaced = [p for c, n in zip(counts, x.type.shape, strict=True) for p in ((1, n) if c != 1 else (n,))]
    repeated = b.broadcast(b.reshape(x, spaced), pairs)
    return b.reshape(repeated, [product([c, n]) for c, n in zip(counts, x.type.shape, strict=True)])


@onnx_op("Trilu", since=14)
def trilu(b: OnnxBuilder, x: Value, k: Value | None = None, *, upper: int = 1) -> Outputs:
    diagonal = b.scalar(0, "i64") if k is None else b.reshape(k, ())
    return b.add(Trilu(bool(upper)), x, diagonal)


# ---- from nothing ----


@onnx_op("ConstantOfShape", since=9)
def constant_of_shape(b: OnnxBuilder, shape: Value, *, value: np.ndarray | None = None) -> Outputs:
    element = np.zeros(1, np.float32) if value is None else value
    if element.size != 1:
        raise ModelError(f"attribute 'value' must have one element, got {element.size}")
    return b.broadcast(b.constant(element.reshape(())), b.dims(shape, "input"))


@onnx_op("EyeLike", since=9)
def eye_like(b: OnnxBuilder, x: Value, *, dtype: int | None = None, k: int = 0) -> Outputs:
    if x.type.rank != 2:
        raise ModelError(f"expected a matrix, got {x.type}")
    rows, columns = (b.add(Iota(n, "i64")) for n in x.type.shape)
    on_diagonal = b.binary("eq", columns, b.binary("add", b.reshape(rows, (x.type.shape[0], 1)), k))
    return b.cast(on_diagonal, x.type.dtype if dtype is None else dtype_name(dtype, "attribute 'dtype'"))


@onnx_op("Range", since=11)
def range_(b: OnnxBuilder, start: Value, limit: Value, delta: Value, *, stash_type: int = 1) -> Outputs:
    dtype = start.type.dtype
    if is_float(dtype):
        first, last, step = (float(b.array(b.reshape(v, ()), n)) for v, n in _named(start, limit, delta))
        if not np.isfinite((first, last, step)).all():
            raise ModelError(f"start, limit and delta must be finite, got {first}, {last}, {step}")
        count: Dim = max(math.ceil((last - first) / step), 0) if step else -1
    else:
        low, high, by = (b.dims(b.reshape(v, ()), n)[0] for v, n in _named(start, limit, delta))
        if not isinstance(by, int):
            raise ModelError(f"operand delta must be a number, got {by}")
        span = as_dim(high - low) if by > 0 else as_dim(low - high)
        count = maximum(as_dim((span + abs(by) - 1) // abs(by)), 0) if by else -1
    if count == -1:
        raise ModelError("operand delta is 0")
    steps = b.add(Iota(count, dtype))
    by_step = steps if _is_number(b, delta, 1) else b.binary("mul", steps, b.reshape(delta, ()))
    return by_step if _is_number(b, start, 0) else b.binary("add", by_step, b.reshape(start, ()))


def _named(start: Value, limit: Value, delta: Value) -> tuple[tuple[Value, str], ...]:
    return (start, "start"), (limit, "limit"), (delta, "delta")


def _is_number(b: OnnxBuilder, v: Value, number: int) -> bool:
    return v in b.constants and bool((b.constants[v] == number).all())


@onnx_op("OneHot", since=9)
def one_hot(b: OnnxBuilder, indices: Value, depth: Value, values: Value, *, axis: int = -1) -> Outputs:
    """Negative indices count from depth; others outside give the off value everywhere."""
    (n,) = b.dims(b.reshape(depth, ()), "depth")
    if values.type.shape != (2,):
        raise ModelError(f"values must be the off and the on value, got {values.type}")
    rank = indices.type.rank + 1
    at = normal_axis(axis, rank)
    where = b.cast(indices, "i64")
    if DTYPES[indices.type.dtype].kind != "u":
        end = b.reshape(b.dim_tensor([n]), ())
        where = b.select(b.binary("lt", where, 0), b.add(Binary("add"), where, end), where)
    where = b.reshape(where, (*indices.type.shape[:at], 1, *indices.type.shape[at:]))
    classes = b.reshape(b.add(Iota(n, "i64")), [n if d == at else 1 for d in range(rank)])
    off, on = (b.reshape(b.slice(values, 0, i, 1), ()) for i in (0, 1))
    return b.select(b.binary("eq", where, classes), on, off)
