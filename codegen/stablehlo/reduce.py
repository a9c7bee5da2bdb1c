"""Reductions, running sums, positions of extrema, sorting, and scattered updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.compute import identity
from ...ir.graph import Value
from ...ir.ops.reduce import ArgReduce, CumSum, Reduce
from ...ir.ops.scatter import ScatterElements, ScatterND
from ...ir.ops.sort import TopK
from ...ir.types import TensorType, is_float
from .elementwise import binary
from .movement import wrapped
from .text import i64_array, numbers
from .writer import Ref, Writer

if TYPE_CHECKING:
    from .emit import Emitter

_COMBINERS = {"sum": ("add", "add"), "mean": ("add", "add"), "prod": ("multiply", "mul"), "max": ("maximum", "max"),
              "min": ("minimum", "min")}
_HALVES = ("f16", "bf16")


def reduce(e: Emitter, op: Reduce, inputs: tuple[Value, ...]) -> Ref:
    """Sums of half floats are made in f32, extrema of u8 in i32: XLA's processor backend (jaxlib 0.10) takes bytes for signed
    where it fuses what makes them into the reduction."""
    x = e.value(inputs[0])
    out = e.type_of(op, inputs)
    native, combine = _COMBINERS[op.fn]
    if not op.axes:
        return x
    if x.dtype == "bool":
        native = "or" if op.fn == "max" else "and"
    wide = x
    if op.fn in ("max", "min"):
        wide = e.w.convert(x, "i32") if x.dtype == "u8" else x
    elif x.dtype in _HALVES:
        wide = e.w.convert(x, "f32")
    y = e.w.reduce(native, wide, e.w.splat(identity(combine, wide.dtype), wide.dtype), op.axes)
    if op.fn == "mean":
        count = 1
        for a in op.axes:
            count *= x.shape[a]
        y = e.w.binary("divide", y, e.w.splat(count, y.dtype, y.shape))
    return e.w.reshape(e.w.convert(y, x.dtype), out.static_shape)


def cumsum(e: Emitter, op: CumSum, inputs: tuple[Value, ...]) -> Ref:
    """A window over everything before (or behind) each element."""
    x = e.value(inputs[0])
    n = x.shape[op.axis]
    if 0 in x.shape:
        return x
    wide = e.w.convert(x, "f32") if x.dtype in _HALVES else x
    here = n - 1
    if op.exclusive:
        at = [1 if d == op.axis else 0 for d in range(len(x.shape))]
        cut = [-a for a in at]
        zero = e.w.splat(0, wide.dtype)
        wide = e.w.pad(wide, zero, cut, at) if op.reverse else e.w.pad(wide, zero, at, cut)
    pads = [((0, here) if op.reverse else (here, 0)) if d == op.axis else (0, 0) for d in range(len(x.shape))]
    sizes = [n if d == op.axis else 1 for d in range(len(x.shape))]
    y = e.w.reduce_window("add", wide, e.w.splat(0, wide.dtype), sizes=sizes, pads=pads)
    return e.w.convert(y, x.dtype)


def arg_reduce(e: Emitter, op: ArgReduce, inputs: tuple[Value, ...]) -> Ref:
    """A reduction of pairs (value, position); NaN is the extremum."""
    x = e.value(inputs[0])
    w, out = e.w, e.type_of(op, inputs)
    kept = tuple(n for d, n in enumerate(x.shape) if d != op.axis)
    value, place = TensorType(x.dtype, ()), TensorType("i32", ())

    def combine(a: Ref, i: Ref, b: Ref, j: Ref) -> tuple[Ref, Ref]:
        first = w.compare("gt" if op.fn == "max" else "lt", a, b)
        same = w.compare("eq", a, b)
        if is_float(x.dtype):
            a_nan, b_nan = w.compare("ne", a, a), w.compare("ne", b, b)
            first = w.binary("or", first, w.binary("and", a_nan, w.compare("eq", b, b)))
            same = w.binary("or", same, w.binary("and", a_nan, b_nan))
        earlier = w.compare("gt" if op.last else "lt", i, j)
        keep = w.binary("or", first, w.binary("and", same, earlier))
        return w.select(keep, a, b), w.select(keep, i, j)

    worst = identity(op.fn, x.dtype)
    unset = -1 if op.last else 2**31 - 1
    starts = (w.splat(worst, x.dtype), w.splat(unset, "i32"))
    operands = (x, w.iota(x.shape, op.axis, "i32"), *starts)
    types = (TensorType(x.dtype, kept), TensorType("i32", kept))
    regions = (((value, place, value, place), combine),)
    found = w.generic("reduce", operands, types, f"dimensions = {i64_array([op.axis])}", regions)[1]
    return w.reshape(w.convert(found, "i64"), out.static_shape)


def top_k(e: Emitter, op: TopK, inputs: tuple[Value, ...]) -> tuple[Ref, Ref]:
    """A stable sort of (value, position), cut after k; NaN counts as larger than every number."""
    x = e.value(inputs[0])
    w = e.w

    def before(a: Ref, b: Ref, i: Ref, j: Ref) -> tuple[Ref]:
        less = w.compare("gt" if op.largest else "lt", a, b)
        if not is_float(x.dtype):
            return (less,)
        nan, number = (a, b) if op.largest else (b, a)
        nan_first = w.binary("and", w.compare("ne", nan, nan), w.compare("eq", number, number))
        return (w.binary("or", less, nan_first),)

    positions = w.iota(x.shape, op.axis, "i32")
    value, place = TensorType(x.dtype, ()), TensorType("i32", ())
    attributes = f"dimension = {op.axis} : i64, is_stable = true"
    regions = (((value, value, place, place), before),)
    values, order = w.generic("sort", (x, positions), (x.type, positions.type), attributes, regions)
    (count,) = TensorType("i64", (op.k,)).static_shape
    return w.slice_axis(values, op.axis, 0, count), w.convert(w.slice_axis(order, op.axis, 0, count), "i64")


def scatter_elements(e: Emitter, op: ScatterElements, inputs: tuple[Value, ...]) -> Ref:
    """Every update is a point with all its coordinates."""
    data, updates = e.value(inputs[0]), e.value(inputs[2])
    shape = inputs[1].type.static_shape
    if 0 in shape:
        return data
    index = wrapped(e, inputs[1], [data.shape[op.axis]])
    columns = [index if d == op.axis else e.w.iota(shape, d, index.dtype) for d in range(len(shape))]
    joined = e.w.concatenate([e.w.reshape(c, (*shape, 1)) for c in columns], len(shape))
    return _scatter(e.w, op.reduction, data, joined, updates, window=[], inserted=list(range(len(shape))))


def scatter_nd(e: Emitter, op: ScatterND, inputs: tuple[Value, ...]) -> Ref:
    data, updates = e.value(inputs[0]), e.value(inputs[2])
    *rows, k = inputs[1].type.static_shape
    if 0 in updates.shape:
        return data
    index = wrapped(e, inputs[1], data.shape[:k]) if k else e.value(inputs[1])
    window = list(range(len(rows), len(updates.shape)))
    return _scatter(e.w, op.reduction, data, index, updates, window=window, inserted=list(range(k)))


def _scatter(
    w: Writer, reduction: str, data: Ref, index: Ref, updates: Ref, *, window: list[int], inserted: list[int]
) -> Ref:
    """The last dimension of the index has one coordinate per inserted dimension; what lies outside is dropped."""
    parts = [f"update_window_dims = [{numbers(window)}]"] if window else []
    if inserted:
        parts.append(f"inserted_window_dims = [{numbers(inserted)}]")
        parts.append(f"scatter_dims_to_operand_dims = [{numbers(inserted)}]")
    numbering = ", ".join([*parts, f"index_vector_dim = {len(index.shape) - 1}"])
    attributes = (
        f"indices_are_sorted = false, scatter_dimension_numbers = #stablehlo.scatter<{numbering}>, "
        "unique_indices = false"
    )
    scalar = TensorType(data.dtype, ())

    def combine(old: Ref, new: Ref) -> tuple[Ref]:
        return (new if reduction == "none" else binary(w, reduction, old, new),)

    return w.generic("scatter", (data, index, updates), (data.type,), attributes, (((scalar, scalar), combine),))[0]
