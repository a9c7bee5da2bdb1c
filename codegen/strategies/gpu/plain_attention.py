"""Attention in f32 as one kernel of plain arithmetic: no array of queries times keys exists, at any length.

    for tile of queries block.x: for warp: O = 0, m = -inf, l = 0
      for some keys: S = scale * Q K^T + mask; m' = max(m, row maxima of S); P = exp(S - m')
                     O = O * exp(m - m') + P V;  l = l * exp(m - m') + row sums of P
      out = O / l

Both products are those of `PlainCore`: the threads of a warp are 4 x 8, a row of S and O belongs to eight of them, which
combine by shuffles.  P goes through shared memory, where only the warp that wrote it reads it.  Keys and values come in two
stages, as many keys at a time as shared memory holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ....ir.dims import split_index
from ....ir.expr import Expr, Var, all_of, as_expr, binary, call, cast, const, load, select
from ....ir.kernel import Alloc, Barrier, Block, Buffer, Do, For, If, Kernel, Store, axis, nest, store
from ...machine_gpu import GpuMachine
from ...schedule.vectors import vector_store
from ..scheduled import Group, Scheduled
from .attention import head_operand
from .attention_task import AttentionTask, attention_task
from .cores import LANE_COLUMNS, LANE_ROWS, PlainCore, thread_place
from .legalize import legalize
from .operand import access_width
from .staging import StagedTile, fill, stage_operand
from .tiles import GpuTile

WARPS, WARP_QUERIES = 4, 16
QUERIES = WARPS * WARP_QUERIES
STAGES = 2
KEYS = (64, 32, 16)  # at a time
MOST_WIDTH = 256  # of a head: sums of a thread are an eighth of it for each of its four rows
FEWEST_QUERIES = 8


def _padded(n: int) -> int:
    """The width of a head as the threads share it: four neighbours for each of eight threads."""
    return -(-n // 32) * 32


def _keys(depth: int, width: int, machine: GpuMachine) -> int:
    """The most keys at a time that shared memory holds beside the queries, 0 if it holds too few."""
    for keys in KEYS:
        floats = QUERIES * (_padded(depth) + keys) + STAGES * keys * (_padded(depth) + _padded(width))
        if floats * 4 <= machine.shared_bytes:
            return keys
    return 0


def takes_plain_attention(q: tuple[int, ...], v: tuple[int, ...], dtype: str, machine: GpuMachine) -> bool:
    """Whether this strategy fits q[B, H, M, D] and v[B, G, S, E]."""
    fits = dtype == "f32" and q[2] >= FEWEST_QUERIES and v[2] > 0 and max(q[3], v[3]) <= MOST_WIDTH
    return fits and machine.has("cp_async") and _keys(q[3], v[3], machine) > 0


def schedule_plain_attention(group: Group, machine: GpuMachine) -> Scheduled:
    """One kernel for all heads."""
    task = attention_task(group)
    batch, heads, rows, depth = task.q.static_shape
    keys = _keys(depth, task.v.static_shape[3], machine)
    plan = _Plan(task, keys)
    kernel = legalize(Kernel("attention", tuple(dict.fromkeys(group.params)), plan.body()))
    note = (f"{batch * heads} heads, {rows} x {task.keys} of {depth} by f32 arithmetic: {QUERIES} queries a block, "
            f"{keys} keys at a time, running maxima and sums")
    return Scheduled(kernel, note=note)


@dataclass(frozen=True)
class _Plan:
    """keys: at a time."""

    task: AttentionTask
    keys: int

    def core(self, name: str, left: StagedTile, right: StagedTile, columns: int, depth: int) -> PlainCore:
        tile = GpuTile(QUERIES, columns, WARPS, 1, depth, 1, matrix=False)
        return PlainCore(tile, left, right, "f32", name)

    def body(self) -> Block:
        task, keys = self.task, self.keys
        batch, heads, rows, width = task.q.static_shape
        depth, columns = _padded(width), _padded(task.v.static_shape[3])
        tiles = -(-rows // QUERIES)
        block, warp, lane = axis("tile", batch * heads * tiles), axis("warp", WARPS), axis("lane", 32)
        b, head, tile = split_index([batch, heads, tiles], block)
        group, zero, thread = head / task.sharing, as_expr(0), warp * 32 + lane
        first = tile * QUERIES
        q = stage_operand("q_tile", head_operand(task.q, b, head, transposed=False), QUERIES, depth, 1, "f32", k_major=True,
                          swizzled=True)
        k = stage_operand("k_tile", head_operand(task.k, b, group, transposed=False), keys, depth, STAGES, "f32", k_major=True,
                          swizzled=True)
        v = stage_operand("v_tile", head_operand(task.v, b, group, transposed=True), columns, keys, STAGES, "f32",
                          k_major=False, swizzled=False)
        p = replace(q, buffer=Buffer("p_tile", "f32", (1, QUERIES, keys), "shared"))

        def bring(step: Expr) -> Block:
            stage, start = step % STAGES, step * keys
            return (*fill(k, stage, zero, (start, zero), depth, WARPS * 32, thread, True),
                    *fill(v, stage, zero, (zero, start), -(-task.keys // keys) * keys, WARPS * 32, thread, True),
                    Do("cp_async_commit"))

        rows_of = _Rows(self, self.core("s", q, k, keys, depth), self.core("o", p, v, columns, keys), warp * WARP_QUERIES, lane)
        count = task.steps(tile, QUERIES, keys)
        step = axis("step", count)
        loop: Block = (
            Do("cp_async_wait", (zero,)), Barrier("block"), If(binary("lt", step + 1, count), bring(step + 1)),
            *rows_of.scores(step % STAGES), *rows_of.masked(b, head, first, step), *rows_of.weights(),
            *rows_of.values(step % STAGES),
        )
        inside = (
            *map(Alloc, (q.buffer, k.buffer, v.buffer, p.buffer)),
            *fill(q, zero, zero, (first, zero), depth, WARPS * 32, thread, True), *bring(zero), *rows_of.start(),
            For(step, loop, "serial", ("reduce",)), *rows_of.finish(b, head, first),
        )
        threads = nest((warp,), nest((lane,), inside, "thread.x"), "thread.y")
        return nest((block,), threads, "block.x", (("resident", 2 if columns <= 64 else 1),))


@dataclass(frozen=True)
class _Rows:
    """The registers of a thread: scores, sums, and the maxima and totals of its rows.  row: the first of its warp."""

    plan: _Plan
    product: PlainCore
    sums: PlainCore
    row: Expr
    lane: Var

    @property
    def most(self) -> Buffer:
        return Buffer("most", "f32", self.product.cells[:1], "register")

    @property
    def total(self) -> Buffer:
        return Buffer("total", "f32", self.product.cells[:1], "register")

    def start(self) -> Block:
        i = axis("i", self.product.cells[0])
        return (Alloc(self.most), Alloc(self.total), *self.sums.start(), For(i, (
            store(self.most, (i,), const(float("-inf"), "f32")), store(self.total, (i,), const(0, "f32"))), "unroll"))

    def scores(self, stage: Expr) -> Block:
        return (*self.product.start(), *self.product.multiply(as_expr(0), self.row, as_expr(0), self.lane, stage))

    def query(self, i: Expr) -> Expr:
        """The row of the block's tile that is number i of this thread."""
        return self.row + thread_place(self.product.left, i, self.lane / LANE_COLUMNS, LANE_ROWS)

    def key(self, j: Expr) -> Expr:
        return thread_place(self.product.right, j, self.lane % LANE_COLUMNS, LANE_COLUMNS)

    def masked(self, batch: Expr, head: Expr, first: Expr, step: Expr) -> Block:
        """Scores as exponents of two, minus infinity where a query does not see a key."""
        plan, s = self.plan, self.product.acc
        i, j = axis("i", self.product.cells[0]), axis("j", self.product.cells[1])
        query, key = first + self.query(i), step * plan.keys + self.key(j)
        value = plan.task.exponent(load(s, i, j), batch, head, query, key, plan.keys)
        return nest((i, j), (Store(s, (i, j), value),), "unroll")

    def weights(self) -> Block:
        """P = 2 ** (S - maximum) into shared memory, O and totals scaled down to the new maximum."""
        s, o, p = self.product.acc, self.sums.acc, self.sums.left
        i, j, c = axis("i", self.product.cells[0]), axis("j", self.product.cells[1]), axis("c", self.sums.cells[1])
        high, base, scale = (Buffer(n, "f32", (), "register") for n in ("high", "base", "scale"))
        infinite = const(float("-inf"), "f32")
        weight = Buffer("weight", "f32", (), "register")
        body: Block = (
            Alloc(high), store(high, (), load(self.most, i)),
            For(j, (store(high, (), binary("max", load(high), load(s, i, j))),), "unroll"),
            store(high, (), call("warp_max_8", load(high))),
            Alloc(base), store(base, (), select(binary("eq", load(high), infinite), const(0, "f32"), load(high))),
            Alloc(scale), store(scale, (), call("exp2", load(self.most, i) - load(base))),
            store(self.most, (i,), load(high)), store(self.total, (i,), load(self.total, i) * load(scale)),
            For(c, (store(o, (i, c), load(o, i, c) * load(scale)),), "unroll"),
            For(j, (
                Alloc(weight), store(weight, (), call("exp2", load(s, i, j) - load(base))),
                store(self.total, (i,), load(self.total, i) + load(weight)),
                Store(p.buffer, p.index(as_expr(0), self.query(i), self.key(j)), load(weight)),
            ), "unroll"),
        )
        return (Barrier("warp"), For(i, body, "unroll"), Barrier("warp"))

    def values(self, stage: Expr) -> Block:
        return self.sums.multiply(as_expr(0), self.row, as_expr(0), self.lane, stage)

    def finish(self, batch: Expr, head: Expr, first: Expr) -> Block:
        """The sums divided by their weights; the threads of a row first add theirs.  Neighbours are stored together."""
        out = self.plan.task.out
        rows, width = out.static_shape[2:]
        piece = 4
        i, j, v = axis("i", self.sums.cells[0]), axis("j", self.sums.cells[1] // piece), axis("v", piece)
        column = thread_place(self.sums.right, j * piece, self.lane % LANE_COLUMNS, LANE_COLUMNS)
        query = first + self.query(i)
        along = axis("along", width)
        whole = access_width(out, (batch, head, query, along), along) >= piece
        value = load(self.sums.acc, i, j * piece + v) / load(self.total, i)
        made = Store(out, (batch, head, query, column + v), cast(value, out.dtype))
        body: Block = vector_store(v, made) if whole else (
            For(v, (If(binary("lt", column + v, width), (made,)),) if width % piece else (made,), "unroll"),)
        conditions = [binary("lt", query, rows)] if rows % QUERIES else []
        conditions += [binary("lt", column, width)] if width % (piece * LANE_COLUMNS) else []
        if conditions:
            body = (If(all_of(conditions), body),)
        add = store(self.total, (i,), call("warp_add_8", load(self.total, i)))
        return (For(i, (add,), "unroll"), *nest((i, j), body, "unroll"))
