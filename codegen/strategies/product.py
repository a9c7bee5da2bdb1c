"""Recognising products: what a contraction multiplies, and the roles of its axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from ...ir.compute import Compute
from ...ir.expr import Bin, Cast, Expr, Load, Var
from ...ir.kernel import axis, coefficient
from ...ir.traverse import substitute, uses
from ..machine import Machine
from ..sizing import Symbol
from .axes import collapse_axes, drop_unit_axes, rename_axes, substitute_axes
from .choices import BY_MODEL, Choice

LONG = 14  # iterations of a constant axis that is not joined with an open one around it


@dataclass(frozen=True)
class Dot:
    """An instruction that multiplies `count` neighbours of the left operand, the same for all lanes, with those of each
    lane of the right one, and adds them to sums of type `total`."""

    fn: str
    count: int
    left: str
    right: str
    total: str


PAIRS = Dot("vdpbf16ps", 2, "bf16", "bf16", "f32")
DOTS = (
    PAIRS, Dot("vpdpbusd", 4, "u8", "i8", "i32"), Dot("usdot", 4, "u8", "i8", "i32"), Dot("sdot", 4, "i8", "i8", "i32"),
    Dot("udot", 4, "u8", "u8", "i32"), Dot("pmaddwd", 2, "i16", "i16", "i32"),
)


def find_dot(left: str, right: str, total: str, machine: Machine) -> Dot | None:
    """The machine's instruction for operands and sums of these types."""
    for dot in DOTS:
        if (dot.left, dot.right, dot.total) == (left, right, total) and dot.fn in machine.calls:
            return dot
    return None


@dataclass(frozen=True)
class Product:
    """compute: acc += left * right over axes (*batch, *rows, columns) and the reduction axes.

    columns: only the right operand and the output walk along it; it becomes the vectors.  rows: only the left operand
    does.  batch: both do.  Axes are called b0.., m0.., n, k0...  pair: the last reduction axis, of extent 2, where an
    instruction multiplies two neighbours at once.  choice, symbols: those of the group.
    """

    compute: Compute
    left: Load
    right: Load
    batch: tuple[Var, ...]
    rows: tuple[Var, ...]
    columns: Var
    group: Var | None = None
    dot: Dot | None = None
    choice: Choice = BY_MODEL
    symbols: tuple[Symbol, ...] = ()

    @property
    def reduce(self) -> tuple[Var, ...]:
        """The reduction axes that are loops: without the group."""
        return tuple(v for v in self.compute.reduce if v is not self.group)


def _operand(e: Expr) -> Load | None:
    while isinstance(e, Cast):
        e = e.a
    return e if isinstance(e, Load) else None


def operands(c: Compute) -> tuple[Load, Load] | None:
    """The two loads that a sum multiplies, through casts; None if it is no product of two loads."""
    if c.combine != "add" or not isinstance(c.body, Bin) or c.body.op != "mul":
        return None
    a, b = _operand(c.body.a), _operand(c.body.b)
    return None if a is None or b is None else (a, b)


def _walks(read: Load, v: Var) -> bool:
    return any(uses(i, v) for i in read.idx)


def find_product(c: Compute) -> Product | None:
    """The product that a computation is, or None.  The operand that the last output axis walks alone is the right one."""
    c = drop_unit_axes(c)
    pair = operands(c)
    if pair is None or not c.axes:
        return None
    last = c.axes[-1]
    if coefficient(c.out, c.out_index, last) is None:
        return None
    left, right = pair if _walks(pair[1], last) else pair[::-1]
    if _walks(left, last) or not _walks(right, last):
        return None
    c = _collapse(c, last)
    pair = operands(c)
    assert pair is not None
    left, right = pair if pair[1].buf == right.buf and _walks(pair[1], last) else pair[::-1]
    batch = [v for v in c.axes[:-1] if _walks(right, v)]
    rows = [v for v in c.axes[:-1] if v not in batch]
    names = {v: f"b{i}" for i, v in enumerate(batch)} | {v: f"m{i}" for i, v in enumerate(rows)} | {last: "n"}
    names |= {v: f"k{i}" for i, v in enumerate(c.reduce)}
    c = replace(c, axes=(*batch, *rows, last), index=c.out_index)
    c = rename_axes(c, names)
    pair = operands(c)
    assert pair is not None
    left, right = pair if pair[1].buf == right.buf and _walks(pair[1], c.axes[-1]) else pair[::-1]
    n = len(batch)
    return Product(c, left, right, c.axes[:n], c.axes[n:-1], c.axes[-1])


def _collapse(c: Compute, last: Var) -> Compute:
    """Axes that are one run are joined, but open ones not with a long constant one inside: its rows fill tiles."""
    rows = frozenset(v for v in c.axes if not isinstance(v.extent, int))
    c = collapse_axes(c, keep=rows | {last})
    around = {a for a, b in pairwise(c.axes[:-1]) if a in rows and isinstance(b.extent, int) and b.extent >= LONG}
    return collapse_axes(c, keep=frozenset({last, *around})) if rows else c


def grouped(p: Product, machine: Machine) -> Product:
    """The product with its last reduction axis in groups of neighbours for the machine's instruction, if it has one for
    these operands and the left one is contiguous along the axis."""
    dot = find_dot(p.left.type.dtype, p.right.type.dtype, p.compute.acc, machine)
    if dot is None or not p.compute.reduce:
        return p
    k = p.compute.reduce[-1]
    if not isinstance(k.extent, int) or k.extent % dot.count or coefficient(p.left.buf, p.left.idx, k) != 1:
        return p
    groups, group = axis(k.name, k.extent // dot.count), axis("group", dot.count)
    mapping: dict[Expr, Expr] = {k: groups * dot.count + group}
    c = substitute_axes(p.compute, mapping, p.compute.axes, (*p.compute.reduce[:-1], groups, group))
    left, right = (substitute(x, mapping) for x in (p.left, p.right))
    return replace(p, compute=c, left=left, right=right, group=group, dot=dot)  # type: ignore[arg-type]
