"""Products of quantized operands as sums in i32 of what the machine multiplies: mostly u8 x i8.

    MatMul((q - z) * s, W * t)   ->   (MatMul[i32](q, W) - z * columns of W) * (s * t)

W holds integers whose zero point is subtracted already, so only that of the activations is left: it is a constant per
output channel.  A border of zeros is a border of zero points.  The channels are filled up to a multiple of four, the
number of products that one instruction adds, with weights of zero.  Weights whose range lies off the centre are moved
into eight bits, by a number whose products are those with the sums of the rows of q.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Union

import numpy as np

from ...ir.graph import Builder, Value
from ...ir.ops.contract import Conv, MatMul
from ...ir.ops.elementwise import Binary
from ...ir.ops.movement import Pad
from ...ir.ops.reduce import Reduce
from ...ir.types import DTYPES
from .quantized_values import BYTES, Affine, Centred, Storage, Sums, Weights, as_number, cast, minus, scalar, stored_as

GROUP = 4  # products that one instruction adds
SUM_LIMIT = 2**31 - 1
Product = Union[MatMul, Conv]


@dataclass(frozen=True)
class Refused:
    """Why a product stays in floats."""

    reason: str


def check_product(
    op: Product, x: Affine | Centred, integers: np.ndarray, storage: Storage, range: tuple[int, int]
) -> Refused | None:
    """None if the product can be computed in integers.  range: that of the stored activations."""
    if x.stored.type.dtype not in (*BYTES, storage.activations) or range[1] - range[0] > 255:
        return Refused(f"activations are {x.stored.type.dtype}, not of 8 bits")
    if integers.size == 0 or (_excess(integers) and not (_has_plain_rows(op, integers) and np.ptp(integers) <= 255)):
        return Refused("weights less their zero point do not fit 8 signed bits")
    integers = np.maximum(np.abs(integers), np.abs(integers - _excess(integers)))
    taps = integers.reshape(-1, integers.shape[-1]) if isinstance(op, Conv) else integers
    if 255 * int(np.abs(taps.astype(np.int64)).sum(axis=-2).max()) > SUM_LIMIT:
        return Refused("sums may exceed 32 bits")
    return None


def _excess(integers: np.ndarray) -> int:
    """What must be subtracted from weights so that they fit 8 signed bits."""
    low, high = int(integers.min()), int(integers.max())
    return high - 127 if high > 127 else low + 128 if low < -128 else 0


def _has_plain_rows(op: Product, integers: np.ndarray) -> bool:
    """Whether the sum over the last axis of x is that of what a result multiplies."""
    if isinstance(op, MatMul):
        return True
    return op.groups == 1 and {*op.strides, *integers.shape[:-2]} == {1} and not any(op.pads)


def integer_sums(
    b: Builder, op: Product, x: Affine | Centred, integers: np.ndarray, storage: Storage
) -> tuple[Value, np.ndarray | Value]:
    """(sums, shift): the product of x's stored integers less their zero point and of integers is sums + shift; shift is a
    constant of whole numbers, or an i32 value if the run computes the zero point.  Requires `check_product`."""
    u = stored_as(b, x, storage)
    excess = _excess(integers)
    stored, w, plain = _fitted(b, op, u, (integers - excess).astype(DTYPES[storage.weights].numpy))
    sums = b.add(plain, stored, b.constant(w))
    if excess:
        rows = b.add(Reduce("sum", (u.stored.type.rank - 1,), True), cast(b, u.stored, "i32"))
        sums = b.add(Binary("add"), sums, b.add(Binary("mul"), rows, scalar(b, excess, "i32")))
    columns = _columns(op, integers)
    if isinstance(u.zero, Value):
        return sums, b.add(Binary("mul"), b.constant((-columns).astype(np.int32)), cast(b, u.zero, "i32"))
    return sums, -columns * u.zero


def _columns(op: Product, integers: np.ndarray) -> np.ndarray:
    """The sums of the weights of each output channel."""
    if isinstance(op, Conv):
        return integers.astype(np.int64).sum(axis=tuple(range(integers.ndim - 1)))
    columns = integers.astype(np.int64).sum(axis=-2, keepdims=True)
    return columns.reshape(-1) if integers.ndim == 2 else columns


def _fitted(b: Builder, op: Product, x: Affine | Centred, w: np.ndarray) -> tuple[Value, np.ndarray, Product]:
    """The operands with channels filled up to whole groups, and their product.  A border that is not 0 becomes part of
    the operand."""
    stored = x.stored
    rank = stored.type.rank
    before, after = [0] * rank, [0] * rank
    if isinstance(op, Conv):
        half = len(op.pads) // 2
        before[1:-1], after[1:-1] = op.pads[:half], op.pads[half:]
    channels = w.shape[-2]
    if not isinstance(op, Conv) or op.groups == 1:
        after[-1] = -channels % GROUP
        w = np.pad(w, [(0, 0)] * (w.ndim - 2) + [(0, after[-1]), (0, 0)])
    if isinstance(op, MatMul):
        plain: Product = MatMul("i32")
    elif x.zero == 0 and after[-1] == 0:
        return stored, np.ascontiguousarray(w), replace(op, to="i32")
    else:
        plain = replace(op, pads=(0,) * len(op.pads), to="i32")
    if any(before) or any(after):
        border = as_number(b, x.zero, stored.type.dtype)
        stored = b.add(Pad(tuple(before), tuple(after), "constant"), stored, border)
    return stored, np.ascontiguousarray(w), plain


def product_of(
    b: Builder, op: Product, x: Affine, w: Weights, storage: Storage, range: tuple[int, int]
) -> Sums | Value | Refused:
    """The float product, of an operator without bias.  A scale of the run is multiplied at once."""
    refused = check_product(op, x, w.integers, storage, range)
    if refused is not None:
        return refused
    if any(n != 1 for n in w.scale.shape[:-1]):
        return Refused("weights have a scale per input channel")
    scale = w.scale.reshape(-1) if w.scale.size > 1 else w.scale.reshape(())
    sums, shift = integer_sums(b, op, x, w.integers, storage)
    if isinstance(shift, Value):
        sums, shift = b.add(Binary("add"), sums, shift), np.zeros((), np.int64)
    zero = np.zeros((), np.float64)
    if not isinstance(x.scale, Value):
        return Sums(sums, shift, np.float64(x.scale) * scale.astype(np.float64), zero)
    factor = b.add(Binary("mul"), b.constant(scale), x.scale)
    whole = minus(b, sums, 0) if not np.any(shift) else b.add(Binary("add"), sums, b.constant(shift.astype(np.int32)))
    return b.add(Binary("mul"), cast(b, whole, "f32"), factor)
