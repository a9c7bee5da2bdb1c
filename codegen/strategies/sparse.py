"""Products and convolutions with a sparse constant: only the blocks of weights that are not zero are multiplied.

The roles of the dense kernel are exchanged.  Vectors run along the rows of the left operand (tokens, pixels), weights are
broadcast; so a block needs to be only one output wide, and one step of the reduction deep:

    copy the left operand as [steps of the reduction][rows]
    for each chunk of outputs and panel of rows, shared by the threads:
        for each tile of the reduction, group of R outputs, block of weights that is kept:
            sums[R, panel] += values[block, R] * copy[index[block], panel]
        turn the sums round, finish them (bias, activation, residual) along the outputs, store

Sums of integers are those of `sparse_integers`; all else is the same.

A tile is what the first-level cache holds of a panel where blocks are too narrow to hide the second level; the sums of a
chunk stay there too.  A window of stride 1 reads rows of the padded image from one start to another (constant distances in
the copy), so that the rows run over the border, where results are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from ...ir.dims import multiply_dims
from ...ir.expr import Expr, as_expr, binary, cast, load
from ...ir.kernel import Alloc, Block, Buffer, For, If, Kernel, Stmt, Store, axis
from ...ir.traverse import substitute
from ...ir.types import Dim, TensorType
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, has_loop, parallel, transpose_tile
from .join import join_kernels
from .nests import several_vectors, stores_of, vector_loops
from .product import Dot
from .scheduled import Group, Pack, Scheduled
from .sparse_bytes import FinishedBytes, finishes_bytes
from .sparse_floats import FloatSums
from .sparse_forms import IMAGE, ROW, SparseProduct
from .sparse_integers import AHEAD, IntegerSums, packed_values
from .sparse_open import Part, open_parts, with_few_rows
from .sparse_weights import SparseWeights

WORTH = 1.1  # expected gain from which the sparse kernel is taken, unless it was measured


@dataclass(frozen=True, eq=False)
class SparsePlan:
    """Compared by identity: the weights are part of it.  width: rows of one panel.  dense, sparse: expected cycles, at typical
    sizes where rows are open.  dot: the instruction for sums of integers, None for floats.  array: the weights as they were
    found.  least: the number of open rows from which it is taken, at least `width`."""

    product: SparseProduct
    weights: SparseWeights
    width: int
    pattern: str
    density: float
    dense: float
    sparse: float
    dot: Dot | None = None
    array: np.ndarray | None = None
    least: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """Tells plans apart: the content of the weights, and how they are cut."""
        content = hashlib.blake2b(self.weights.matrix.tobytes(), digest_size=16).hexdigest()
        return content, self.weights.layout, self.width, self.least

    @property
    def gain(self) -> float:
        return self.dense / self.sparse

    @property
    def pays(self) -> bool:
        """Whether it is expected to be clearly faster than the dense kernel."""
        return self.gain >= WORTH


def schedule_sparse(group: Group, plan: SparsePlan, machine: Machine, few: Scheduled | None = None) -> Scheduled:
    """Whole panels, and narrower ones for the rows that remain.  few: what runs with fewer rows than `plan.least`."""
    rows = plan.product.rows
    if isinstance(rows, int):
        width = min(plan.width, rows)
        whole = rows // width
        parts: list[Part] = [(0, whole, width)]
        if rows % width:
            parts.append((whole * width, 1, rows % width))
    else:
        width = plan.width
        parts = open_parts(rows, width, machine.lanes("f32"), plan.least)
    packs: dict[str, Pack] = {}
    kernels = [_Part(group, plan, machine, n, *part, packs).kernel() for n, part in enumerate(parts)]
    size = plan.weights.layout
    tiles = f", tiles of {size.tile} steps" if plan.weights.tiles > 1 else ""
    note = (f"sparse: {plan.pattern}, {100 * plan.density:.3g} % kept, expected {plan.gain:.2g} x dense; blocks of "
            f"{size.block} x {plan.product.word}, panels of {width} rows, chunks of {size.chunk} outputs{tiles}")
    made = Scheduled(join_kernels("sparse", kernels), tuple(packs.items()), note)
    return made if few is None else with_few_rows(made, few, rows, plan.least)


def _constant(weights: str, source: Buffer, make: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> Pack:
    rank = len(shape)
    origin, steps = (0,) * rank, tuple(tuple(int(i == j) for i in range(rank)) for j in range(rank))
    return Pack(weights, shape, origin, steps, make)


class _Part:
    """The kernel for a range of rows: `count` panels of `width` rows from `start` on."""

    def __init__(
        self, group: Group, plan: SparsePlan, machine: Machine, number: int, start: Dim, count: Dim, width: int,
        packs: dict[str, Pack],
    ) -> None:
        self.group, self.plan, self.machine, self.number = group, plan, machine, number
        self.start, self.count, self.width, self.packs = start, count, width, packs
        self.p, self.w = plan.product, plan.weights
        self.sum_type = plan.product.compute.acc
        self.lanes = machine.lanes(self.sum_type)
        self.pitch = -(-width // self.lanes) * self.lanes
        self.source = next(b for b in group.params if b.name == self.p.left)

    def kernel(self) -> Kernel:
        chunk, last = self.w.layout.chunk, self.w.columns % self.w.layout.chunk
        whole = self.w.columns // chunk
        kernels = [self._chunks(0, whole, chunk)] if whole else []
        if last:
            kernels.append(self._chunks(whole, 1, last))
        return join_kernels("sparse", kernels)

    # -- operands

    def _buffer(self, name: str, array: np.ndarray, dtype: str) -> Buffer:
        self.packs[name] = _constant(self.p.weights, self.source, lambda _: array, array.shape)
        return Buffer(name, dtype, array.shape)

    def _copy(self) -> tuple[Buffer, Callable[[Expr, Expr], Expr]]:
        """(the left operand's copy, (image, panel) -> where the panel's rows begin)"""
        p = self.p
        if p.panels is not None:
            pack = p.panels(self.start, self.count, self.width)
            name, size = f"rows{self.number}", p.depth * self.width
            base = lambda image, panel: panel * size  # noqa: E731
        else:
            assert p.copy is not None
            pack, name = p.copy, "rows"
            assert isinstance(self.start, int)
            stride = prod(TensorType("f32", pack.shape).static_shape) // p.images
            base = lambda image, panel: image * stride + panel * self.width + self.start  # noqa: E731
        self.packs[name] = pack
        return Buffer(name, "i32" if p.word > 1 else self.source.dtype, (multiply_dims(pack.shape),)), base

    def _steps(self) -> tuple[Buffer, int]:
        """(step of each block, elements of the copy per unit of it).  In 16 bits where that is enough."""
        p, w = self.p, self.w
        offset = p.copy_offset if p.panels is None else None
        steps = np.pad(w.index(offset or (lambda k: k)), (0, AHEAD))
        short = int(steps.max(initial=0)) < 1 << 16
        index = self._buffer("index", steps.astype(np.uint16 if short else np.int32), "u16" if short else "i32")
        return index, 1 if offset else self.width

    # -- loops

    def _chunks(self, first: int, count: int, outputs: int) -> Kernel:
        """Chunks first .. first + count, each of so many outputs."""
        p, w, panels = self.p, self.w, self.count
        copy, base = self._copy()
        share, image = axis("p", multiply_dims([count, p.images, panels])), as_expr(0)
        if isinstance(panels, int):
            chunk, image, panel = share // (p.images * panels) + first, share // panels % p.images, share % panels
        else:
            some = binary("max", as_expr(panels), 1)
            chunk, panel = share // some + first, share % some
        sums = Buffer("sums", self.sum_type, (w.layout.chunk, self.pitch), "stack")
        turned = Buffer("turned", self.sum_type, (self.pitch, w.layout.chunk), "stack")
        body: list[Stmt] = [Alloc(sums)]
        products = self._products if self.plan.dot is None else self._integer_products
        body += products(sums, copy, chunk, base(image, panel))
        if finishes_bytes(p, outputs, self.lanes):
            body += FinishedBytes(p, self.pitch, self.lanes).block(
                sums, chunk * outputs, image, self.width, panel * self.width + self.start, outputs)
        else:
            body += [Alloc(turned), self._turn(sums, turned)]
            body.append(self._finish(turned, chunk * w.layout.chunk, image, panel, outputs))
        params = tuple(dict.fromkeys((*self.group.params, copy, *self._constants.values())))
        k = Kernel("sparse", params, (For(share, tuple(body)),))
        return self._schedule(k)

    def _integer_products(self, sums: Buffer, copy: Buffer, chunk: Expr, base: Expr) -> Block:
        w, dot = self.w, self.plan.dot
        assert dot is not None
        index, each = self._steps()
        count = dot.count // self.p.word
        values = self._buffer("values", packed_values(w, count), "i32")
        starts = self._buffer("starts", w.starts() // count, "i32")
        self._constants = {b.name: b for b in (values, index, starts)}
        order = self._order()

        def at(block: Expr) -> Expr:
            return base + cast(load(index, block), "i64") * each

        return IntegerSums(w, dot, copy, at, values, starts, order, self.width, self.lanes, count).block(sums, chunk)

    def _order(self) -> Buffer | None:
        if not self.w.is_reordered:
            return None
        order = self._constants["order"] = self._buffer("order", self.w.order(), "i32")
        return order

    def _products(self, sums: Buffer, copy: Buffer, chunk: Expr, base: Expr) -> Block:
        w, size = self.w, self.w.layout
        values = w.values().reshape(-1, size.bundle * size.block)
        index, each = self._steps()
        made = (self._buffer("values", values, "f32"), index, self._buffer("starts", w.starts() // size.bundle, "i32"))
        self._constants = {b.name: b for b in made}
        return FloatSums(w, copy, base, each, made[0], index, made[2], self._order(), self.width, self.lanes).block(sums, chunk)

    def _turn(self, sums: Buffer, turned: Buffer) -> Stmt:
        """turned[i, n] = sums[n, i] in square tiles."""
        size, chunk = self.lanes, self.w.layout.chunk
        ib, nb, ti, tj = axis("ib", self.pitch // size), axis("nb", chunk // size), axis("ti", size), axis("tj", size)
        moved = Store(turned, (ib * size + tj, nb * size + ti), load(sums, nb * size + ti, ib * size + tj))
        return For(ib, (For(nb, (For(ti, (For(tj, (moved,)),)),)),))

    def _finish(self, turned: Buffer, first: Expr, image: Expr, panel: Expr, outputs: int) -> Stmt:
        """out = finish(sums) along the outputs, for the rows that are results."""
        p, c = self.p, self.p.compute
        i, n = axis("i", self.width), axis("fn", outputs)
        row = panel * self.width + i + self.start
        place: dict[Expr, Expr] = {ROW: row, IMAGE: image}
        mapping: dict[Expr, Expr] = {v: substitute(e, place) for v, e in p.at.items()}
        mapping[p.columns] = first + n
        total = load(turned, i, n)
        if c.init is not None:
            total = total + (c.init if isinstance(c.init, Expr) else as_expr(c.init, total.type))
        value = substitute(c.result(total), mapping)
        store = Store(c.out, tuple(substitute(e, mapping) for e in c.out_index), value)
        body: Block = (For(n, (store,)),)
        if p.line > p.valid:
            body = (If(binary("lt", row % p.line, p.valid), body),)
        return For(i, body)

    def _schedule(self, k: Kernel) -> Kernel:
        """Vectors along the rows for the sums, along the outputs for what finishes them."""
        machine, lanes = self.machine, self.lanes
        k = legalize_math(parallel(k, "p"), machine)
        k = fma_contract(k) if machine.fma else k
        k = transpose_tile(k, "ti", "tj") if lanes > 1 else k
        finish = [s for s in stores_of(k.body) if s.buf == self.p.compute.out]
        if not has_loop(k, "fn"):
            return k
        return vector_loops(k, "fn", lanes, several_vectors(finish))
