"""Determinants, running products, bits as another type: built from small steps on whole tensors."""

from __future__ import annotations

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.elementwise import Bitcast
from ....ir.ops.movement import Iota, Pad
from ....ir.ops.reduce import ArgReduce, Reduce
from ....ir.types import DTYPES
from ..builder import OnnxBuilder, normal_axis
from ..table import Outputs, onnx_op
from ..tensors import dtype_name

_LARGEST = 128  # rows of a determinant: one step each


@onnx_op("BitCast", since=26)
def bit_cast(b: OnnxBuilder, x: Value, *, to: int) -> Outputs:
    """A bool is a byte that is 0 or 1."""
    dtype = dtype_name(to, "attribute 'to'")
    if dtype == x.type.dtype:
        return x
    if x.type.dtype == "bool":
        x = b.cast(x, "u8")
    if dtype == "bool" and DTYPES[x.type.dtype].size == 1:
        return b.cast(x, dtype)
    return x if x.type.dtype == dtype else b.add(Bitcast(dtype), x)


@onnx_op("CumProd", since=26)
def cum_prod(b: OnnxBuilder, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Outputs:
    """By doubling: after step k every element is the product of the 2^k elements up to it."""
    at = normal_axis(b.integer(axis, "axis"), x.type.rank)
    n = x.type.shape[at]
    if not isinstance(n, int):
        raise ModelError(f"axis {at} of {x.type} must be known; bind it (--shape, --dim)")
    y = _shifted(b, x, at, 1, bool(reverse)) if exclusive and n else x
    step = 1
    while step < n:
        y = b.binary("mul", y, _shifted(b, y, at, step, bool(reverse)))
        step *= 2
    return y


def _shifted(b: OnnxBuilder, x: Value, axis: int, by: int, back: bool) -> Value:
    """x moved along an axis, ones where nothing comes from."""
    n = x.type.shape[axis]
    assert isinstance(n, int)
    part = b.slice(x, axis, by if back else 0, n - by)
    none = [0] * x.type.rank
    fill = [by if d == axis else 0 for d in range(x.type.rank)]
    before, after = (none, fill) if back else (fill, none)
    return b.add(Pad(tuple(before), tuple(after), "constant"), part, b.scalar(1, x.type.dtype))


@onnx_op("Det", since=11)
def det(b: OnnxBuilder, x: Value) -> Outputs:
    """Elimination with the largest pivot of each column, in f64; a row exchange changes the sign."""
    if x.type.rank < 2 or x.type.shape[-1] != x.type.shape[-2]:
        raise ModelError(f"expected square matrices, got {x.type}")
    n = x.type.shape[-1]
    if not isinstance(n, int) or n > _LARGEST:
        raise ModelError(f"matrices of {n} rows are not supported; the limit is {_LARGEST}")
    lead = x.type.shape[:-2]
    rank = len(lead)
    rest, result = b.cast(x, "f64"), b.broadcast(b.scalar(1, "f64"), lead)
    for size in range(n, 0, -1):
        column = b.slice(rest, rank + 1, 0, 1)
        best = b.add(ArgReduce("max", rank, True, False), b.unary("abs", column))  # [..., 1, 1]
        rows = b.reshape(b.add(Iota(size, "i64")), (size, 1))
        chosen = b.binary("eq", rows, best)  # [..., size, 1]
        pivot_row = b.add(Reduce("sum", (rank,), True), b.select(chosen, rest, b.scalar(0, "f64")))
        pivot = b.slice(pivot_row, rank + 1, 0, 1)
        moved = b.select(b.binary("eq", best, 0), pivot, b.unary("neg", pivot))
        result = b.binary("mul", result, b.reshape(moved, lead))
        if size > 1:
            rest = _eliminated(b, rest, chosen, pivot_row, pivot, rank, size)
    return b.cast(result, x.type.dtype)


def _eliminated(b: OnnxBuilder, rest: Value, chosen: Value, pivot_row: Value, pivot: Value, rank: int, size: int) -> Value:
    """The rows below the first one, the pivot row exchanged with it, without their first column."""
    first = b.slice(rest, rank, 0, 1)
    swapped = b.slice(b.select(chosen, first, rest), rank, 1, size - 1)
    divisor = b.select(b.binary("eq", pivot, 0), b.scalar(1, "f64"), pivot)
    factors = b.binary("div", b.slice(swapped, rank + 1, 0, 1), divisor)
    below = b.binary("sub", swapped, b.binary("mul", factors, pivot_row))
    return b.slice(below, rank + 1, 1, size - 1)
