"""The operands of a product on a graphics processor: which axes each walks, and how it is read in pieces of 16 bytes.

A product is seen as matrices: left[batch, row, k] and right[batch, column, k], where batch, row, column and k number the
iterations of all axes of their kind, the last one fastest.  A convolution is such a product: its rows are output pixels,
its k runs over the window and the input channels, and what lies in the border is read as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from ....ir.compute import Compute
from ....ir.dims import split_index
from ....ir.expr import Bin, Cast, Const, Expr, Load, Select, Var, all_of, linear
from ....ir.kernel import Buffer, axis, coefficient, flat_index
from ....ir.traverse import rewrite, substitute, uses, walk
from ....ir.types import DTYPES
from ..axes import collapse_axes, drop_unit_axes
from ..scheduled import Pack

ACCESS = 16  # bytes of the widest access to memory

@dataclass(frozen=True)
class Operand:
    """at(batch, own, k): the Load of one element, at flat numbers.  inside(batch, own, k): where it is not zero, None for
    everywhere.  own, depth: how many rows (or columns) and k it has.  width_k, width_own: elements that one access takes
    along k and along the operand's own axis."""

    dtype: str
    at: Callable[[Expr, Expr, Expr], Load]
    inside: Callable[[Expr, Expr, Expr], Expr] | None
    own: int
    depth: int
    width_k: int
    width_own: int
    buffer: Buffer


@dataclass(frozen=True)
class MatrixProduct:
    """compute: acc += left * right.  batch: axes that both operands walk, rows: only the left one, columns: only the right
    one, which the output walks contiguously if it can.  right_pack(name, width, k major): for a weight, the operand in a
    layout of our own."""

    compute: Compute
    left: Operand
    right: Operand
    batch: tuple[Var, ...]
    rows: tuple[Var, ...]
    columns: tuple[Var, ...]
    right_pack: Callable[[str, int, bool], tuple[Operand, Pack]] | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Numbers of batches, rows, columns and k."""
        return _count(self.batch), _count(self.rows), _count(self.columns), _count(self.compute.reduce)


def _count(axes: tuple[Var, ...]) -> int:
    return prod(int(v.extent) for v in axes)  # type: ignore[arg-type]


def access_width(buf: Buffer, idx: tuple[Expr, ...], v: Var | None, limit: int = ACCESS) -> int:
    """The most elements, a power of two, that one aligned access along v takes, whatever the other variables are."""
    n = max(limit // DTYPES[buf.dtype].size, 1)
    if v is None or not isinstance(v.extent, int):
        return 1
    c, terms = linear(flat_index(buf, idx))
    if terms.get(v) != 1 or any(a is not v and uses(a, v) for a in terms):
        return 1
    while n > 1:
        steps = (v.extent, c, *(k for a, k in terms.items() if a is not v))
        if buf.align % (n * DTYPES[buf.dtype].size) == 0 and not any(k % n for k in steps):
            return n
        n //= 2
    return 1


Access = tuple[Buffer, tuple[Expr, ...]]


def piece_width(accesses: Sequence[Access], v: Var, most: int) -> int:
    """Elements along v that a thread may take together, at most `most` (a power of two): every access that is contiguous
    in such a piece is aligned.  Some are contiguous in pieces only: x[v / 4, v % 4], a view of other sizes, in pieces of 4."""
    width = min((access_width(b, i, v) for b, i in accesses if coefficient(b, i, v) == 1), default=most)
    width = min(width, most)
    while width > 1 and not all(_is_aligned(b, i, v, width) for b, i in accesses):
        width //= 2
    return width


def _is_aligned(buf: Buffer, idx: tuple[Expr, ...], v: Var, width: int) -> bool:
    """Whether an access in pieces of v is no vector, or one of aligned accesses."""
    piece, lane = axis("piece", -(-int(v.extent) // width)), axis("lane", width)  # type: ignore[arg-type]
    at: tuple[Expr, ...] = tuple(substitute(i, {v: piece * width + lane}) for i in idx)
    whole = min(width, ACCESS // DTYPES[buf.dtype].size)
    return coefficient(buf, at, lane) != 1 or access_width(buf, at, lane) >= whole


def _factor(e: Expr) -> tuple[Load, Expr | None] | None:
    """(load, where it is not replaced by zero) of one factor: at most one conversion, which keeps all values."""
    conditions: list[Expr] = []
    casts = 0
    while True:
        if isinstance(e, Cast) and not casts:
            e, casts = e.a, 1
        elif isinstance(e, Select) and isinstance(e.b, Const) and e.b.value == 0:
            conditions.append(e.cond)
            e = e.a
        elif isinstance(e, Load):
            return e, (all_of(conditions) if conditions else None)
        else:
            return None


def unclamped(e: Load) -> Load:
    """A read that happens only where its condition holds, without the clamps that keep the others inside."""

    def rule(x: Expr) -> Expr | None:
        clamp = isinstance(x, Bin) and x.op in ("min", "max") and isinstance(x.b, Const)
        return x.a if clamp else None  # type: ignore[union-attr]

    return Load.of(e.buf, tuple(rewrite(i, rule) for i in e.idx), e.type)


def _factors(c: Compute) -> tuple[tuple[Load, Expr | None], tuple[Load, Expr | None]] | None:
    if c.combine != "add" or not isinstance(c.body, Bin) or c.body.op != "mul":
        return None
    a, b = _factor(c.body.a), _factor(c.body.b)
    return None if a is None or b is None else (a, b)


def _walked(factor: tuple[Load, Expr | None], v: Var) -> bool:
    load, cond = factor
    return any(uses(i, v) for i in load.idx) or (cond is not None and uses(cond, v))


def find_matrix_product(c: Compute, constants: frozenset[str]) -> MatrixProduct | None:
    """The product of two matrices that a sum is, or None: both operands plain reads, extents known, every output axis
    walked by one of them at least, and the contiguous output axis by one alone."""
    c = drop_unit_axes(c)
    if not all(isinstance(v.extent, int) and v.extent > 0 for v in (*c.axes, *c.reduce)):
        return None
    last = _contiguous_axis(c)
    pair = _factors(c)
    if pair is None or (last is not None and _walked(pair[0], last) and _walked(pair[1], last)):
        return None
    c = collapse_axes(c)
    pair = _factors(c)
    assert pair is not None
    last = _contiguous_axis(c)
    left, right = pair if last is None or _walked(pair[1], last) else pair[::-1]
    if any(isinstance(x, Load) for f in (left, right) for i in f[0].idx for x in walk(i)):
        return None
    batch = tuple(v for v in c.axes if _walked(left, v) and _walked(right, v))
    rows = tuple(v for v in c.axes if v not in batch and not _walked(right, v))
    columns = tuple(v for v in c.axes if v not in batch and v not in rows)
    k = c.reduce
    pack = None
    if right[1] is None and right[0].buf.name in constants and _is_affine(right[0]):
        pack = partial(_packed, right[0], batch, columns, k)
    if any(f[0].type.dtype != f[0].buf.dtype for f in (left, right)):
        return None
    return MatrixProduct(
        c, _operand(left, batch, rows, k), _operand(right, batch, columns, k), batch, rows, columns, pack
    )


def _is_affine(load: Load) -> bool:
    """Whether the address is a sum of multiples of the axes, in a dense buffer."""
    return load.buf.strides is None and all(isinstance(a, Var) for a in linear(flat_index(load.buf, load.idx))[1])


def _contiguous_axis(c: Compute) -> Var | None:
    """The axis along which the output is contiguous, else the last one."""
    found = [v for v in c.axes if coefficient(c.out, c.out_index, v) == 1]
    return found[-1] if found else c.axes[-1] if c.axes else None


def _operand(factor: tuple[Load, Expr | None], batch: tuple[Var, ...], own: tuple[Var, ...], k: tuple[Var, ...]) -> Operand:
    load, cond = factor
    if cond is not None:
        load = unclamped(load)
    kinds = (batch, own, k)

    def values(*flat: Expr) -> dict[Expr, Expr]:
        return {
            v: e for axes, f in zip(kinds, flat, strict=True)
            for v, e in zip(axes, split_index([int(a.extent) for a in axes], f), strict=True)  # type: ignore[arg-type]
        }

    def at(*flat: Expr) -> Load:
        return Load.of(load.buf, tuple(substitute(i, values(*flat)) for i in load.idx), load.type)

    def inside(*flat: Expr) -> Expr:
        assert cond is not None
        return substitute(cond, values(*flat))

    along_k = k[-1] if k and (cond is None or not uses(cond, k[-1])) else None
    along_own = own[-1] if own and (cond is None or not uses(cond, own[-1])) else None
    return Operand(
        load.type.dtype, at, None if cond is None else inside, _count(own), _count(k),
        access_width(load.buf, load.idx, along_k), access_width(load.buf, load.idx, along_own), load.buf,
    )


def operand_strides(x: Operand, batches: int) -> tuple[int, tuple[int, int, int]] | None:
    """(offset, elements from one batch, row and k to the next), 0 along axes of one element; None where addresses are not
    multiples of these numbers, or a border is filled in."""
    if x.inside is not None:
        return None
    numbers = tuple(axis(f"n{d}", n) for d, n in enumerate((batches, x.own, x.depth)))
    at = x.at(*numbers)
    offset, terms = linear(flat_index(at.buf, at.idx))
    if not set(terms) <= set(numbers):
        return None
    batch, own, k = (terms.get(v, 0) for v in numbers)
    return offset, (batch, own, k)


# ---- weights in another layout ---------------------------------------------------------------------------------------


def _packed(
    load: Load, batch: tuple[Var, ...], own: tuple[Var, ...], k: tuple[Var, ...], name: str, width: int, k_major: bool
) -> tuple[Operand, Pack]:
    """The operand as name[batch, own, k], or [batch, k, own] without k_major, the last dimension filled up with zeros to
    whole accesses of `width` elements."""
    axes = (*batch, *own, *k) if k_major else (*batch, *k, *own)
    counts = _count(batch), _count(own), _count(k)
    inner, outer = (counts[2], counts[1]) if k_major else (counts[1], counts[2])
    padded = -(-inner // width) * width
    shape = counts[0], outer, padded
    c, terms = linear(flat_index(load.buf, load.idx))
    sizes, steps = tuple(int(v.extent) for v in axes), tuple(terms.get(v, 0) for v in axes)  # type: ignore[arg-type]
    unit = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    pack = Pack(load.buf.name, shape, (0, 0, 0), unit, partial(_arranged, c, sizes, steps, (*shape[:2], inner)))
    buf = Buffer(name, load.buf.dtype, shape)

    def at(b: Expr, o: Expr, q: Expr) -> Load:
        return Load.of(buf, (b, o, q) if k_major else (b, q, o), load.type)

    sizes = (counts[1], padded) if k_major else (padded, counts[2])
    widths = (width, 1) if k_major else (1, width)
    return Operand(load.type.dtype, at, None, *sizes, *widths, buf), pack


def _arranged(
    offset: int, sizes: tuple[int, ...], steps: tuple[int, ...], shape: tuple[int, int, int], array: np.ndarray
) -> np.ndarray:
    """A constant's elements at offset + the sum of steps, of that shape, with zeros after each line."""
    flat = np.ascontiguousarray(array).reshape(-1)
    strides = tuple(s * flat.itemsize for s in steps)
    plain = np.lib.stride_tricks.as_strided(flat[offset:], sizes, strides, writeable=False).reshape(shape)
    return np.pad(plain, ((0, 0), (0, 0), (0, -shape[2] % ACCESS)))
