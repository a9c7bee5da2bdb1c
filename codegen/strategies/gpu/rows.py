"""Groups of reductions and maps over shared rows (softmax, normalisations, means): the row stays in registers.

    nests that all run over the same rows
    ->  for row, threads of a warp (or of a block): x[k] = X[row, ..]; m = warp_max(max x); e[k] = exp(x[k] - m); ...

A row of up to some thousand elements belongs to a warp or a part of one, which combines by shuffles; a longer one to a block,
whose warps meet in shared memory.  Every partial sum has its fixed place in the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from ....ir.compute import Compute, identity
from ....ir.dims import split_index
from ....ir.expr import Expr, Load, Type, all_of, as_expr, binary, call, cast, const, load
from ....ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Store, axis, coefficient, flat_index, nest, store
from ....ir.traverse import rewrite, substitute
from ...machine_gpu import REGISTERS, WARP
from ...schedule.vectors import vector_store
from ..axes import drop_unit_axes
from .legalize import accumulated
from .maps import extents
from .operand import ACCESS, piece_width
from .staging import in_parts

BLOCK = 128  # threads of a block whose rows belong to warps or less
WARP_ELEMENTS = 32  # of a row that one thread of a warp keeps
MOST_THREADS = 1024
MOST_REGISTERS = 64  # for the arrays of a thread
COMBINED = ("f32", "f64", "i32", "u32", "i64")  # that shuffles take


@dataclass
class _Rows:
    """lead, row: extents of the shared axes and of the reduced ones.  width: elements that a thread reads together;
    threads: of one row; steps: pieces of a thread."""

    lead: tuple[int, ...]
    row: tuple[int, ...]
    width: int = 1
    threads: int = 1
    arrays: dict[Buffer, Buffer] = field(default_factory=dict)
    cells: dict[Buffer, Buffer] = field(default_factory=dict)
    inputs: dict[Expr, Buffer] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return prod(self.row)

    @property
    def count(self) -> int:
        return prod(self.lead)

    @property
    def steps(self) -> int:
        return -(-self.size // (self.threads * self.width))


def schedule_row_groups(computes: Sequence[Compute], params: Sequence[Buffer]) -> tuple[Block, str] | None:
    """The kernel's body and the schedule in words, or None if the computations do not share rows."""
    computes = [drop_unit_axes(c) for c in computes]
    rows = _find_rows(computes)
    if rows is None:
        return None
    made = _Scheduler(rows, computes, params).run()
    if made is None:
        return None
    owner = f"{rows.threads} threads" if rows.threads != WARP else "a warp"
    note = f"{rows.count} rows of {rows.size}: {owner} a row, {rows.steps * rows.width} elements a thread in registers"
    return made, note


def _find_rows(computes: Sequence[Compute]) -> _Rows | None:
    reductions = [c for c in computes if not c.is_map]
    if not reductions or any(not isinstance(v.extent, int) or not v.extent for c in computes for v in (*c.axes, *c.reduce)):
        return None
    lead, row = tuple(extents(reductions[0].axes)), tuple(extents(reductions[0].reduce))
    for c in computes:
        own = tuple(extents(c.axes))
        if not c.is_map:
            fits = own == lead and tuple(extents(c.reduce)) == row and c.acc in COMBINED and c.combine in (
                "add", "mul", "max", "min")
        else:
            fits = own in (lead, (*lead, *row))
        if not fits:
            return None
    return _Rows(lead, row)


class _Scheduler:
    """One group.  element: the flat number of an element in its row; own element of a thread: (step, lane of a vector)."""

    def __init__(self, rows: _Rows, computes: Sequence[Compute], params: Sequence[Buffer]) -> None:
        self.rows, self.computes, self.params = rows, computes, set(params)
        self.element, self.row = axis("element", rows.size), axis("row", rows.count)
        self.made = [self.on_rows(c) for c in computes]

    # ---- the computations over (row, element)

    def on_rows(self, c: Compute) -> Compute:
        """The same computation with its axes as numbers of the row and of the element."""
        lead = split_index(list(self.rows.lead), self.row)
        row = split_index(list(self.rows.row), self.element)
        values = dict(zip(c.axes, [*lead, *row], strict=False))
        values.update(zip(c.reduce, row, strict=False))
        memo: dict[Expr, Expr] = {}
        sub = lambda e: substitute(e, values, memo)  # type: ignore[arg-type]  # noqa: E731
        full = c.is_map and len(c.axes) > len(self.rows.lead)
        return Compute(
            c.out, (self.row, self.element) if full else (self.row,), sub(c.body), (self.element,) if not c.is_map else (),
            c.combine, None if c.finish is None else sub(c.finish), tuple(map(sub, c.out_index)),
            sub(c.init) if isinstance(c.init, Expr) else c.init,
        )

    def is_full(self, c: Compute) -> bool:
        return len(c.axes) == 2

    # ---- sizes

    def run(self) -> Block | None:
        made_by = {c.out: c for c in self.made}
        later = self._read_later()
        if later is None:
            return None
        own = self._own_reads(made_by)
        self.rows.width = self._width(own)
        if not self._choose_threads(sum(self.is_full(made_by[b]) for b in later) + len(own)):
            own = []  # a long row is read where it is used
            if not self._choose_threads(sum(self.is_full(made_by[b]) for b in later)):
                return None
        per = self.rows.steps * self.rows.width
        for b in later:
            full = self.is_full(made_by[b])
            table = self.rows.arrays if full else self.rows.cells
            table[b] = Buffer(f"{'own' if full else 'row'}_{b.name}", b.dtype, (per,) if full else (), "register")
        names = [r.buf.name for r in own]
        self.rows.inputs = {
            r: Buffer(f"own_{name}" + (f"_{n}" if names.count(name) > 1 else ""), r.type.dtype, (per,), "register")
            for n, (r, name) in enumerate(zip(own, names, strict=True))
        }
        return self.emit()

    def _read_later(self) -> list[Buffer] | None:
        """What one computation makes and another reads, always its own element or row; None where that is not so."""
        made: dict[Buffer, Expr] = {}
        found: dict[Buffer, None] = {}
        for c in self.made:
            for r in c.reads():
                if r.buf in made:
                    if flat_index(r.buf, r.idx) is not made[r.buf] or r.type.dtype != r.buf.dtype:
                        return None
                    found[r.buf] = None
            if c.out in made:
                return None
            made[c.out] = flat_index(c.out, c.out_index)
        missing = [b for b in made if b not in self.params and b not in found]
        return None if missing else list(found)

    def _own_reads(self, made_by: dict[Buffer, Compute]) -> list[Load]:
        """Contiguous reads of memory that reductions, or several computations, make."""
        uses: dict[Load, int] = {}
        for c in self.made:
            for r in c.reads():
                if r.buf not in made_by and r.type.dtype == r.buf.dtype and coefficient(r.buf, r.idx, self.element) == 1:
                    uses[r] = uses.get(r, 0) + (2 if c.reduce else 1)
        return [r for r, n in uses.items() if n > 1]

    def _width(self, own: Sequence[Load]) -> int:
        """Elements of one access: of everything contiguous that is read or written by vectors."""
        accesses = [(r.buf, r.idx) for r in own]
        for c in self.made:
            if self.is_full(c):
                accesses += [(c.out, c.out_index)] if c.out in self.params else []
                accesses += [(r.buf, r.idx) for r in c.reads() if r.buf in self.params]
        contiguous = any(coefficient(b, i, self.element) == 1 for b, i in accesses)
        return piece_width(accesses, self.element, ACCESS) if contiguous else 1

    def _choose_threads(self, arrays: int) -> bool:
        pieces = -(-self.rows.size // self.rows.width)
        threads = 1
        while threads < WARP and threads < pieces:
            threads *= 2
        while threads < MOST_THREADS and -(-pieces // threads) * self.rows.width > WARP_ELEMENTS // max(arrays, 1):
            threads *= 2
        few = self.rows.count < 128 and self.rows.size >= 2048  # rows that do not fill the machine by warps
        while few and threads < 256 and pieces // threads >= 4:
            threads *= 2
        self.rows.threads = threads
        room = MOST_REGISTERS // (2 if threads == MOST_THREADS else 1)
        return not arrays or self.rows.steps * self.rows.width * arrays <= room

    # ---- statements

    def emit(self) -> Block:
        rows = self.rows
        size = BLOCK if rows.threads <= WARP else rows.threads
        per_block = size // rows.threads
        block, warp, lane = axis("block", -(-rows.count // per_block)), axis("warp", size // WARP), axis("lane", WARP)
        thread = warp * WARP + lane
        self.warp, self.lane = warp, lane
        self.row_at: Expr = block * per_block + thread / rows.threads if per_block > 1 else block
        self.thread = thread % rows.threads
        self.in_rows = binary("lt", self.row_at, rows.count) if rows.count % per_block else None
        body: Block = tuple(Alloc(b) for b in (*rows.arrays.values(), *rows.cells.values(), *rows.inputs.values()))
        self.step, self.v = axis("k", rows.steps), axis("v", rows.width)
        for read, to in rows.inputs.items():
            body += self.over_row(self.vector(Store(to, (self.own,), read)))
        for n, c in enumerate(self.made):
            body += self.full(c) if self.is_full(c) else self.reduced(c, str(n))
        threads = int(warp.extent) * int(lane.extent)  # type: ignore[arg-type]
        resident = (("resident", max(1, REGISTERS // (MOST_REGISTERS * 2 * threads))),)
        return nest((block,), nest((warp,), nest((lane,), body, "thread.x"), "thread.y"), "block.x", resident)

    @property
    def own(self) -> Expr:
        """The number of an element among the thread's own."""
        return self.step * self.rows.width + self.v

    def place(self, e: Expr) -> Expr:
        """An expression over row and element, for this thread."""
        element = (self.step * self.rows.threads + self.thread) * self.rows.width + self.v
        return substitute(e, {self.row: self.row_at, self.element: element})

    def of_row(self, e: Expr) -> Expr:
        """An expression over the row alone, for this thread; threads beyond the last row, which take part in operations of
        their warp, read that one."""
        row = self.row_at if self.in_rows is None else binary("min", self.row_at, self.rows.count - 1)
        return substitute(self.value(e), {self.row: row})

    def value(self, e: Expr) -> Expr:
        """With what the thread has in registers."""

        def rule(x: Expr) -> Expr | None:
            if not isinstance(x, Load):
                return None
            if x in self.rows.inputs:
                return load(self.rows.inputs[x], self.own)
            if x.buf in self.rows.arrays:
                return load(self.rows.arrays[x.buf], self.own)
            return load(self.rows.cells[x.buf]) if x.buf in self.rows.cells else None

        return rewrite(e, rule)

    def vector(self, s: Store) -> Block:
        made = Store(s.buf, tuple(self.place(i) for i in s.idx), self.place(self.value(s.value) if s.buf not in
                     self.rows.inputs.values() else s.value))
        return vector_store(self.v, made)

    def over_row(self, body: Block) -> Block:
        """For each piece of the thread that lies in the row."""
        rows = self.rows
        conditions = [self.in_rows] if self.in_rows is not None else []
        if rows.size % (rows.threads * rows.width):
            conditions.append(binary("lt", (self.step * rows.threads + self.thread) * rows.width, rows.size))
        if conditions:
            body = (If(all_of(conditions), body),)
        return in_parts(self.step, body, MOST_REGISTERS // rows.width)

    def full(self, c: Compute) -> Block:
        """A map over the row."""
        value = c.result(c.body)
        array = self.rows.arrays.get(c.out)
        if array is None:
            return self.over_row(self.vector(Store(c.out, c.out_index, value)))
        body = self.vector(Store(array, (self.own,), value))
        if c.out in self.params:
            body += self.vector(Store(c.out, c.out_index, load(array, self.own)))
        return self.over_row(body)

    def reduced(self, c: Compute, number: str) -> Block:
        """One value for the row: a reduction, or a map of reduced values."""
        body: Block = ()
        if c.is_map:
            value = c.result(c.body)
        else:
            acc = Buffer(f"acc{number}", c.acc, (), "register")
            start = const(identity(c.combine, c.acc), Type(c.acc))
            add = store(acc, (), accumulated(c.combine, load(acc), self.place(self.value(c.body))))
            body = (Alloc(acc), store(acc, (), start), *self.over_row((For(self.v, (add,), "unroll"),)))
            total, more = self.combined(c, acc, number)
            body += more
            if c.init is not None:
                first = c.init if isinstance(c.init, Expr) else const(c.init, Type(c.acc))
                total = binary(c.combine, first, total)
            value = c.result(total)
        value = self.of_row(value)
        cell = self.rows.cells.get(c.out)
        if cell is not None:
            body += (store(cell, (), value),)
            value = load(cell)
        if c.out in self.params:
            first_thread = binary("eq", self.thread, as_expr(0)) if self.rows.threads > 1 else None
            conditions = [e for e in (first_thread, self.in_rows) if e is not None]
            made = Store(c.out, tuple(self.place(i) for i in c.out_index), cast(value, c.out.dtype))
            body += (If(all_of(conditions), (made,)),) if conditions else (made,)
        return body

    def combined(self, c: Compute, acc: Buffer, number: str) -> tuple[Expr, Block]:
        """The values of all threads of a row, in each of them."""
        threads = self.rows.threads
        if threads == 1:
            return load(acc), ()
        if threads <= WARP:
            name = f"warp_{c.combine}" + (f"_{threads}" if threads < WARP else "")
            return load(acc), (store(acc, (), call(name, load(acc))),)
        parts = Buffer(f"parts{number}", c.acc, (threads // WARP,), "shared")
        w = axis("w", threads // WARP - 1)
        collect = (
            Alloc(parts), store(acc, (), call(f"warp_{c.combine}", load(acc))),
            If(binary("eq", self.lane, as_expr(0)), (Store(parts, (self.warp,), load(acc)),)), Barrier("block"),
            store(acc, (), load(parts, 0)),
        )
        rest: Block = (For(w, (store(acc, (), binary(c.combine, load(acc), load(parts, w + 1))),), "unroll"),)
        return load(acc), (*collect, *rest)
