"""A product and the depthwise convolution of its image, row by row: the image between them never leaves the cache.

    image = product(x) within a border;  y = depthwise(image)

    ring = the rows of the image that one block of output rows reads, in the thread's own memory
    for each block of output rows:                                 (shared by the threads)
        the product of the rows that the ring lacks, or the border
        the depthwise convolution of the block, one block of channels after the other

A thread keeps the rows that its next block reads again; only its first block computes them on its own.  Row i of the image
lies at i modulo the height of the ring.  What that saves: an image larger than the cache is written and read once less, the
border in memory, and, with several threads, the lines that would change hands.  It pays where the image does not fit in the
second-level cache, and where the rows that two threads compute both are few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ...ir.compute import Compute
from ...ir.expr import I64, Expr, Var, as_expr, binary, const, load, select, splat
from ...ir.kernel import Alloc, Block, Buffer, For, If, Kernel, Store, axis, store, substitute_block
from ...ir.traverse import uses
from ..machine import Machine
from ..math import legalize_math
from ..schedule.rewrite import replace_accesses
from .axes import substitute_axes
from .contract import schedule_product
from .product import Product, find_product, operands
from .scheduled import Group, Scheduled
from .window import is_window, schedule_window

BLOCK_ROWS = 4  # of the output at most: their ring stays small, and a block of channels is long enough
MOST_REPEATED = 0.15  # of the rows of half an image, that its first block computes again


@dataclass(frozen=True)
class Expansion:
    """expand: a product over (n, y, x, c), written at (n, y + top, x + left, c) of `image`; window: over (n, y, x, c), reads
    rows stride * y .. + taps of `image`, which holds `border` around the inside; means: of its rows, or None."""

    expand: Compute
    window: Compute
    means: Compute | None
    image: Buffer
    border: float
    inside: tuple[int, int, int, int]
    top: int
    left: int
    stride: int
    taps: int

    @property
    def rows(self) -> int:
        return self.window.axes[1].extent  # type: ignore[return-value]

    @property
    def block(self) -> int:
        """Rows of the output in one block: two threads have equally many blocks where that can be."""
        even = [n for n in range(1, BLOCK_ROWS + 1) if self.rows % (2 * n) == 0]
        return max(even, default=1)

    @property
    def ring(self) -> Buffer:
        rows = (self.block - 1) * self.stride + self.taps
        return Buffer("ring", self.image.dtype, (rows, *self.image.shape[2:]), "stack")


def is_expansion(e: Expansion, constants: frozenset[str], machine: Machine) -> bool:
    """Whether these computations can be done row by row, and whether that is expected to pay."""
    if not (_is_static(e) and is_window(e.window) and len(e.window.reduce) == 2 and len(e.window.axes) == 4):
        return False
    n, y = e.window.axes[:2]
    ky = e.window.reduce[0]
    reads = [r for r in e.window.reads() if r.buf == e.image]
    if not reads or any(r.idx[:2] != (n, y * e.stride + ky) for r in reads) or e.taps <= e.stride:
        return False
    if any(uses(i, v) for r in reads for i in r.idx[2:] for v in (n, y)):
        return False
    p = find_product(row_of(e.expand, as_expr(0), as_expr(0)))
    pair = operands(e.expand)
    if p is None or pair is None or p.right.buf.name not in constants or p.batch:
        return False
    if any(b.dtype != "f32" for b in (e.image, p.left.buf, p.right.buf, e.window.out)):
        return False
    repeated = (e.taps - e.stride) / (e.inside[1] / 2)
    size = prod(e.image.static_shape[1:]) * 4
    return size > machine.l2 and repeated <= MOST_REPEATED


def _is_static(e: Expansion) -> bool:
    computes = (e.expand, e.window, *([e.means] if e.means is not None else []))
    return all(isinstance(v.extent, int) for c in computes for v in (*c.axes, *c.reduce))


def row_of(c: Compute, image: Expr, row: Expr, rows: int = 1) -> Compute:
    """Some rows of one image of a computation over (n, y, ...)."""
    n, y = c.axes[:2]
    v = axis("y", rows)
    if rows == 1:
        return substitute_axes(c, {n: image, y: row}, c.axes[2:], c.reduce)
    return substitute_axes(c, {n: image, y: row + v}, (v, *c.axes[2:]), c.reduce)


def schedule_expansion(group: Group, e: Expansion, machine: Machine) -> Scheduled:
    image_n, line, row = (Var.of(name, None, I64) for name in ("image_n", "line", "row"))
    product = schedule_product(_rows_group(group, e.expand, image_n, line), _find(e, image_n, line), machine)
    depthwise = _rows_group(group, e.window, image_n, row, e.block)
    means = None if e.means is None else row_of(e.means, image_n, row, e.block)
    window = schedule_window(depthwise, depthwise.computes[0], machine, means, by_channel=True)
    ring = e.ring
    expand, convolve = (replace_accesses(serial(made.kernel.body), e.image, ring, lambda _, y, x, c: (y % ring.shape[0], x, c))
                        for made in (product, window))
    next_block = Buffer("next_block", "i64", (1,), "stack")
    blocks = e.rows // e.block
    share = axis("share", e.inside[0] * blocks)
    first = share % blocks * e.block
    known = binary("eq", load(next_block, 0), share)
    v = axis("line", ring.shape[0])
    at: dict[Expr, Expr] = {image_n: share // blocks}
    number = first * e.stride + v
    made_line = substitute_block(expand, {**at, line: number - e.top})
    body: Block = (
        For(v, (If(binary("lt", v, select(known, e.taps - e.stride, 0)), (), _bordered(e, number, made_line, machine)),)),
        *substitute_block(convolve, {**at, row: first}),
        If(binary("lt", share % blocks, blocks - 1), (store(next_block, (0,), share + 1),), (store(next_block, (0,), -1),)),
    )
    top = (Alloc(ring), Alloc(next_block), store(next_block, (0,), -1), *_sides(e, machine), For(share, body, "parallel"))
    packed = [product.kernel.param(name) for name, _ in product.packs]
    note = f"rows of the image stay in a ring of {ring.shape[0]}; {product.note}; {window.note}"
    return Scheduled(legalize_math(Kernel("expanded", (*group.params, *packed), top), machine), product.packs, note)


def _find(e: Expansion, image: Expr, row: Expr) -> Product:
    p = find_product(row_of(e.expand, image, row))
    assert p is not None
    return p


def _rows_group(group: Group, c: Compute, image: Expr, row: Expr, rows: int = 1) -> Group:
    """A group of some rows; its image is memory until it becomes the ring."""
    made = row_of(c, image, row, rows)
    buffers = {b.name: b for b in (*group.params, made.out, *(r.buf for r in made.reads()))}
    return Group(group.kind, (made,), tuple(buffers.values()), constants=group.constants, choice=group.choice)


def serial(body: Block) -> Block:
    """Loops that threads would share, for one thread."""
    return tuple(replace(s, kind="serial") if isinstance(s, For) and s.kind == "parallel" else s for s in body)


def _bordered(e: Expansion, number: Expr, made: Block, machine: Machine) -> Block:
    """The row of this number within the border: what `made` does, or nothing but border."""
    empty = _fill(e, number % e.ring.shape[0], 0, e.ring.static_shape[1], "empty", machine)
    if e.image.static_shape[1] > e.top + e.inside[1]:
        made = (If(binary("lt", number, e.top + e.inside[1]), made, empty),)
    return (If(binary("lt", number, e.top), empty, made),) if e.top else made


def _sides(e: Expansion, machine: Machine) -> Block:
    """The border beside the inside: products do not touch it."""
    left, right = e.left, e.left + e.inside[2]
    y, width = axis("side", e.ring.shape[0]), e.ring.static_shape[1]
    columns = [*_fill(e, y, 0, left, "left", machine), *_fill(e, y, right, width - right, "right", machine)]
    return (For(y, tuple(columns)),) if columns else ()


def _fill(e: Expansion, y: Expr, start: int, count: int, name: str, machine: Machine) -> Block:
    """Border in `count` columns of a row of the ring."""
    lanes, ring = machine.lanes(e.image.dtype), e.ring
    channels, x = ring.static_shape[2], axis(name, count)
    parts = [(axis(f"{name}_c", channels // lanes), lanes, 0)] * (channels >= lanes)
    parts += [(axis(f"{name}_t", 1), channels % lanes, channels // lanes * lanes)] * (channels % lanes > 0)
    value = const(e.border, ring.dtype)
    stores = tuple(For(c, (Store(ring, (y, start + x, c * n + at), splat(value, n)),)) for c, n, at in parts)
    return (For(x, stores),) if count else ()
