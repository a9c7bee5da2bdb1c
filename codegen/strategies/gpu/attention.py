"""Attention as one kernel on tensor cores: no array of queries times keys exists.

    for tile of queries block.x: for warp: Q fragments, O = 0, m = -inf, l = 0
      for 64 keys: S = scale * Q K^T + mask; m' = max(m, row maxima of S); P = exp(S - m')
                   O = O * exp(m - m') + P V;  l = l * exp(m - m') + row sums of P
      out = O / l

Each warp has 16 queries; keys and values come through shared memory in two stages, shared by the warps.  The sums S of one
product lie in registers as the left operand of the next one wants them, so P never leaves them.  Exponentials are powers of
two of scores times log2(e).  Heads that share keys and values read the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.dims import split_index
from ....ir.expr import Expr, Load, Type, Var, as_expr, binary, call, cast, const, load, select
from ....ir.kernel import Alloc, Barrier, Block, Buffer, Do, For, If, Kernel, Store, axis, nest, store
from ....ir.ops.norm import Attention
from ...machine_gpu import GpuMachine
from ...schedule.vectors import vector_store
from ..scheduled import Group, Scheduled
from .attention_task import HALVES, AttentionTask, attention_task
from .cores import INSTRUCTIONS, load_matrices
from .legalize import legalize
from .operand import Operand, access_width
from .staging import StagedTile, fill, stage_operand

KEYS = 64  # at a time
WARP_QUERIES = 16
MOST_WIDTH = 128  # of a head, so that queries, sums and scores stay in registers
FEWEST_QUERIES = 16  # fewer would leave most of every matrix instruction empty


def takes_attention(op: Attention, q: tuple[int, ...], v: tuple[int, ...], dtype: str, machine: GpuMachine) -> bool:
    """Whether this strategy fits q[B, H, M, D] and v[B, G, S, E] of a type; the operator is expanded otherwise."""
    product = dtype if dtype in HALVES else machine.precision
    fits = q[2] >= FEWEST_QUERIES and max(q[3], v[3]) <= MOST_WIDTH and v[2] > 0 and dtype in (*HALVES, "f32")
    return fits and product in HALVES and machine.has(f"mma_{product}") and machine.has("cp_async")


def schedule_attention(group: Group, machine: GpuMachine) -> Scheduled:
    """One kernel for all heads."""
    task = attention_task(group)
    batch, heads, rows, depth = task.q.static_shape
    dtype = task.q.dtype if task.q.dtype in HALVES else machine.precision
    warps = 8 if batch * heads * -(-rows // 128) >= 2 * machine.processors else 4
    plan = _Plan(task, dtype, warps)
    kernel = legalize(Kernel("attention", tuple(dict.fromkeys(group.params)), plan.body()))
    note = (f"{batch * heads} heads, {rows} x {task.keys} of {depth}: {warps * WARP_QUERIES} queries a block, {KEYS} keys at a "
            f"time, {INSTRUCTIONS[dtype, dtype]}, running maxima and sums")
    return Scheduled(kernel, note=note)


def _power_of_two(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def head_operand(buf: Buffer, batch: Expr, head: Expr, *, transposed: bool) -> Operand:
    """Rows of one head as an operand; transposed: its rows are the k of the product."""
    _, _, rows, width = buf.static_shape

    def at(_: Expr, own: Expr, k: Expr) -> Load:
        row, column = (k, own) if transposed else (own, k)
        return Load.of(buf, (batch, head, row, column), Type(buf.dtype))

    along = axis("along", width)
    pieces = access_width(buf, (batch, head, axis("row", rows), along), along)
    own, depth, widths = (width, rows, (1, pieces)) if transposed else (rows, width, (pieces, 1))
    return Operand(buf.dtype, at, None, own, depth, *widths, buf)


@dataclass(frozen=True)
class _Plan:
    task: AttentionTask
    dtype: str
    warps: int

    # ---- sizes

    @property
    def queries(self) -> int:
        return self.warps * WARP_QUERIES

    @property
    def depth(self) -> int:
        return _power_of_two(self.task.q.static_shape[3])

    @property
    def width(self) -> int:
        return _power_of_two(self.task.v.static_shape[3])

    # ---- the kernel

    def body(self) -> Block:
        task = self.task
        batch, heads, rows, _ = task.q.static_shape
        tiles = -(-rows // self.queries)
        block = axis("tile", batch * heads * tiles)
        warp, lane = axis("warp", self.warps), axis("lane", 32)
        b, head, tile = split_index([batch, heads, tiles], block)
        thread = warp * 32 + lane
        first = tile * self.queries
        group = head / task.sharing
        zero = as_expr(0)
        q = stage_operand("q_tile", head_operand(task.q, b, head, transposed=False), self.queries, self.depth, 1, self.dtype,
                          k_major=True, swizzled=True)
        k = stage_operand("k_tile", head_operand(task.k, b, group, transposed=False), KEYS, self.depth, 2, self.dtype,
                          k_major=True, swizzled=True)
        v = stage_operand("v_tile", head_operand(task.v, b, group, transposed=True), self.width, KEYS, 2, self.dtype,
                          k_major=False, swizzled=True)
        threads = self.warps * 32

        def bring(step: Expr) -> Block:
            stage, start = step % 2, step * KEYS
            deepest = -(-task.keys // KEYS) * KEYS
            return (
                *fill(k, stage, zero, (start, zero), self.depth, threads, thread, True),
                *fill(v, stage, zero, (zero, start), deepest, threads, thread, True), Do("cp_async_commit"),
            )

        count = task.steps(tile, self.queries, KEYS)
        step = axis("step", count)
        state = _State(self, lane)
        row = first + warp * WARP_QUERIES + lane / 4
        loop: Block = (
            Do("cp_async_wait", (zero,)), Barrier("block"),
            If(binary("lt", step + 1, count), bring(step + 1)),
            *state.scores(k, step % 2), *self.masked(state, b, head, row, step), *state.weights(), *state.values(v, step % 2),
        )
        inside = (
            Alloc(q.buffer), Alloc(k.buffer), Alloc(v.buffer),
            *fill(q, zero, zero, (first, zero), self.depth, threads, thread, True), *bring(zero),
            *state.start(), Do("cp_async_wait", (zero,)), Barrier("block"), *state.queries(q, warp),
            For(step, loop, "serial", ("reduce",)), *self.finish(state, b, head, row),
        )
        return nest((block,), nest((warp,), nest((lane,), inside, "thread.x"), "thread.y"), "block.x")

    def masked(self, state: _State, batch: Expr, head: Expr, row: Expr, step: Expr) -> Block:
        """Scores as exponents of two, minus infinity where a query does not see a key."""
        n, e = axis("nf", KEYS // 8), axis("e", 4)
        key = step * KEYS + n * 8 + state.lane % 4 * 2 + e % 2
        query = row + e / 2 * 8
        value = self.task.exponent(load(state.s, n, e), batch, head, query, key, KEYS)
        return nest((n, e), (Store(state.s, (n, e), value),), "unroll")

    def finish(self, state: _State, batch: Expr, head: Expr, row: Expr) -> Block:
        """The sums divided by their weights, of which the threads of a row first add theirs; two neighbours are one access
        where they lie so."""
        out, (rows, width) = self.task.out, self.task.out.static_shape[2:]
        h, n, e = axis("h", 2), axis("nf", -(-width // 8)), axis("e", 2)
        query, column = row + h * 8, n * 8 + state.lane % 4 * 2
        value = load(state.o, n, h * 2 + e) * load(state.total, h)
        made = Store(out, (batch, head, query, column + e), cast(value, out.dtype))
        body: Block = (made,)
        if access_width(out, (batch, head, query, column + e), e) == 2:
            body = vector_store(e, made)
            if width % 8:
                body = (If(binary("lt", column, width), body),)
        else:
            if width % 8:
                body = (If(binary("lt", column + e, width), body),)
            body = (For(e, body, "unroll"),)
        body = (For(n, body, "unroll"),)
        if rows % self.queries:
            body = (If(binary("lt", query, rows), body),)
        add = Store(state.total, (h,), const(1.0, "f32") / call("warp_add_4", load(state.total, h)))
        return (For(h, (add,), "unroll"), For(h, body, "unroll"))


class _State:
    """The registers of a thread: fragments of Q, scores S, weights P, sums O; maxima and totals of its two rows."""

    def __init__(self, plan: _Plan, lane: Var) -> None:
        self.plan, self.lane = plan, lane
        self.q = Buffer("q", plan.dtype, (plan.depth // 16, 8), "register")
        self.s = Buffer("s", "f32", (KEYS // 8, 4), "register")
        self.p = Buffer("p", plan.dtype, (KEYS // 16, 8), "register")
        self.o = Buffer("o", "f32", (plan.width // 8, 4), "register")
        self.most = Buffer("most", "f32", (2,), "register")
        self.total = Buffer("total", "f32", (2,), "register")

    def start(self) -> Block:
        n, e, h = axis("nf", self.plan.width // 8), axis("e", 4), axis("h", 2)
        return (
            Alloc(self.q), Alloc(self.o), Alloc(self.most), Alloc(self.total),
            *nest((n, e), (store(self.o, (n, e), const(0, "f32")),), "unroll"),
            For(h, (store(self.most, (h,), const(float("-inf"), "f32")), store(self.total, (h,), const(0, "f32"))), "unroll"),
        )

    def queries(self, tile: StagedTile, warp: Expr) -> Block:
        kf = axis("kf", self.plan.depth // 16)
        own = warp * WARP_QUERIES
        return (For(kf, load_matrices(tile, self.q, (kf,), as_expr(0), own, kf * 16, self.lane, True), "unroll"),)

    def _multiply(self, acc: Buffer, left: Buffer, tile: StagedTile, stage: Expr) -> Block:
        """acc[column] += left[k] * tile[column, k] over all k's of the left fragments."""
        kf, n, h = axis("kf", left.static_shape[0]), axis("np", acc.static_shape[0] // 2), axis("h", 2)
        right = Buffer("b", self.plan.dtype, (2, 4), "register")
        type = Type(self.plan.dtype)
        product = Do(INSTRUCTIONS[self.plan.dtype, self.plan.dtype],
                     (Load.of(acc, (n * 2 + h,), Type("f32")), Load.of(left, (kf,), type), Load.of(right, (h,), type)))
        brought = load_matrices(tile, right, (), stage, n * 16, kf * 16, self.lane, False)
        body = (Alloc(right), *brought, For(h, (product,), "unroll"))
        return nest((kf, n), body, "unroll")

    def scores(self, tile: StagedTile, stage: Expr) -> Block:
        n, e = axis("nf", KEYS // 8), axis("e", 4)
        zero = nest((n, e), (store(self.s, (n, e), const(0, "f32")),), "unroll")
        return (Alloc(self.s), *zero, *self._multiply(self.s, self.q, tile, stage))

    def weights(self) -> Block:
        """P = 2 ** (S - maximum), O and totals scaled down to the new maximum."""
        h, n, e = axis("h", 2), axis("nf", KEYS // 8), axis("e", 2)
        high, base = Buffer("high", "f32", (), "register"), Buffer("base", "f32", (), "register")
        scale = Buffer("scale", "f32", (), "register")
        score = load(self.s, n, h * 2 + e)
        infinite = const(float("-inf"), "f32")
        o = axis("of", self.plan.width // 8)
        cell = load(self.o, o, h * 2 + e)
        body: Block = (
            Alloc(high), store(high, (), load(self.most, h)),
            *nest((n, e), (store(high, (), binary("max", load(high), score)),), "unroll"),
            store(high, (), call("warp_max_4", load(high))),
            Alloc(base), store(base, (), select(binary("eq", load(high), infinite), const(0, "f32"), load(high))),
            Alloc(scale), store(scale, (), call("exp2", load(self.most, h) - load(base))),
            store(self.most, (h,), load(high)), store(self.total, (h,), load(self.total, h) * load(scale)),
            *nest((o, e), (store(self.o, (o, h * 2 + e), cell * load(scale)),), "unroll"),
            *nest((n, e), (store(self.s, (n, h * 2 + e), call("exp2", score - load(base))),
                           store(self.total, (h,), load(self.total, h) + score)), "unroll"),
        )
        kf, r = axis("kf", KEYS // 16), axis("r", 8)
        narrow = cast(load(self.s, kf * 2 + r / 4, r % 4), self.plan.dtype)
        return (For(h, body, "unroll"), Alloc(self.p), *nest((kf, r), (store(self.p, (kf, r), narrow),), "unroll"))

    def values(self, tile: StagedTile, stage: Expr) -> Block:
        return self._multiply(self.o, self.p, tile, stage)
