"""Products with weights of 4 or 8 bits and few rows (one token): what limits them is reading the weights, once, as they are.

    y[m, n] = sum over blocks of scale[block, n] * sum_k x[m, k] * (w[k, n] - zero[block, n])
    ->  for panel of 32 columns block.x: for part thread.y: for lane (a column) thread.x:
          for pieces part, part + parts, ..: sums[m] += scale * (x[m, k..] * (unpacked words - zero))
        parts meet in shared memory and are added in order

A warp reads 128 bytes of words at a time; the words of a few steps are in flight.  x is read by all lanes alike, by 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.expr import Expr, Load, Type, Var, as_expr, binary, cast, const, fma, load
from ....ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Kernel, Store, axis, nest, store
from ....ir.ops.block_product import BlockMatMul, shifts
from ....ir.types import TensorType
from ...machine_gpu import WARP, GpuMachine
from ..scheduled import Scheduled
from .legalize import legalize

MOST_ROWS = 16
PARTS = (16, 8, 4, 2, 1)  # warps of a block
WORDS = (4, 2, 1)  # of a piece
WIDE = 4  # elements of x that are read together


def takes_block_product(op: BlockMatMul, types: tuple[TensorType, ...]) -> bool:
    """Rows of floats, few enough for the registers of a thread, and panels as wide as a warp."""
    if op.integers or not all(t.is_static for t in types):
        return False
    return types[0].static_shape[0] <= MOST_ROWS and types[1].static_shape[2] == WARP


def schedule_block_product(op: BlockMatMul, y: Buffer, ins: tuple[Buffer, ...], machine: GpuMachine) -> Scheduled:
    """The kernel of a product that `takes_block_product`."""
    plan = _Plan(op, y, ins[0], ins[1], ins[2], ins[3] if len(ins) > 3 else None, machine)
    kernel = legalize(Kernel("block_product", tuple(dict.fromkeys((y, *ins))), plan.body()))
    rows, depth = plan.x.static_shape
    note = (f"{rows} x {y.static_shape[1]} x {depth}, weights of {op.bits} bits in blocks of {op.group}: 32 columns a block, "
            f"k in {plan.parts} parts")
    return Scheduled(kernel, note=note)


@dataclass(frozen=True)
class _Plan:
    op: BlockMatMul
    y: Buffer
    x: Buffer
    words: Buffer
    scales: Buffer
    zeros: Buffer | None
    machine: GpuMachine

    @property
    def rows(self) -> int:
        return self.x.static_shape[0]

    @property
    def block_words(self) -> int:
        return self.op.group // self.op.per_word

    @property
    def piece(self) -> int:
        """Words that are unpacked together: of one block."""
        return next(n for n in WORDS if self.block_words % n == 0)

    @property
    def pieces(self) -> int:
        return self.words.static_shape[1] // self.piece

    @property
    def parts(self) -> int:
        """More warps where there are few panels; a part has two pieces at least, if it can."""
        panels = self.words.static_shape[0]
        most = PARTS[0] if panels < 2 * self.machine.processors else PARTS[1]
        return next(n for n in PARTS if n <= most and (2 * n <= self.pieces or n == 1))

    def body(self) -> Block:
        panel, part, lane = axis("panel", self.words.static_shape[0]), axis("part", self.parts), axis("lane", WARP)
        sums = Buffer("sums", "f32", (self.rows,), "register")
        met = Buffer("met", "f32", (self.parts, self.rows, WARP), "shared")
        m, step = axis("m", self.rows), axis("step", -(-self.pieces // self.parts))
        piece = step * self.parts + part
        work = self.multiply(sums, panel, piece, lane)
        if self.pieces % self.parts:
            work = (If(binary("lt", piece, self.pieces), work),)
        inside: Block = (
            Alloc(sums), For(m, (store(sums, (m,), const(0.0, "f32")),), "unroll"),
            For(step, work, "serial", ("reduce",)), Alloc(met),
            For(m, (store(met, (part, m, lane), load(sums, m)),), "unroll"), Barrier("block"),
            *self.finish(met, panel, part, lane),
        )
        return nest((panel,), nest((part,), nest((lane,), inside, "thread.x"), "thread.y"), "block.x")

    def multiply(self, sums: Buffer, panel: Expr, piece: Expr, lane: Var) -> Block:
        """One piece of a column: its words, then every row of x with each."""
        per, count = self.op.per_word, self.piece
        block = piece / (self.block_words // count)
        own, scale, zero = (Buffer(n, t, s, "register") for n, t, s in (
            ("own", "i32", (count,)), ("scale", "f32", ()), ("zero", "f32", ())))
        weights, rows = Buffer("weights", "f32", (per,), "register"), Buffer("row", "f32", (per,), "register")
        dot = Buffer("dot", "f32", (self.rows,), "register")
        n, m, v, j = axis("n", count), axis("m", self.rows), axis("v", per // WIDE), axis("j", per)
        first: Expr = const(float(self.op.zero), "f32") if self.zeros is None else load(self.zeros, panel, block, lane)
        mask = const(2**self.op.bits - 1, "i32")
        whole = [binary("and", binary("shr", load(own, n), const(s, "i32")), mask) for s in shifts(self.op.bits)]
        unpack = tuple(store(weights, (as_expr(k),), cast(e, "f32") - load(zero)) for k, e in enumerate(whole))
        at = (piece * count + n) * per + v * WIDE
        bring = Store(rows, (v * WIDE,), Load.of(self.x, (m, at), Type("f32", WIDE)))
        add = store(dot, (m,), fma(load(rows, j), load(weights, j), load(dot, m)))
        each: Block = (Alloc(rows), For(v, (bring,), "unroll"), For(j, (add,), "unroll"))
        return (
            Alloc(own), For(n, (store(own, (n,), load(self.words, panel, piece * count + n, lane)),), "unroll"),
            Alloc(scale), store(scale, (), load(self.scales, panel, block, lane)), Alloc(zero), store(zero, (), first),
            Alloc(dot), For(m, (store(dot, (m,), const(0.0, "f32")),), "unroll"),
            For(n, (Alloc(weights), *unpack, For(m, each, "unroll")), "unroll"),
            For(m, (store(sums, (m,), fma(load(dot, m), load(scale), load(sums, m))),), "unroll"),
        )

    def finish(self, met: Buffer, panel: Expr, part: Expr, lane: Var) -> Block:
        """The parts of a row by one warp each, in order."""
        r, w = axis("r", -(-self.rows // self.parts)), axis("w", self.parts)
        total = Buffer("total", "f32", (), "register")
        m = r * self.parts + part
        body: Block = (
            Alloc(total), store(total, (), const(0.0, "f32")),
            For(w, (store(total, (), load(total) + load(met, w, m, lane)),), "unroll"),
            store(self.y, (m, panel * WARP + lane), load(total)),
        )
        return (For(r, (If(binary("lt", m, self.rows), body),) if self.rows % self.parts else body, "unroll"),)
