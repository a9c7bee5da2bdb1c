"""Attention of one or a few queries (a token over its cache of keys and values): what limits it is reading them once.

    for (batch, group of heads, some queries, part of the keys) block.x: for warp, for threads of a key:
      for 4 keys at a time: s = q k (each thread some of the elements, added by shuffles); m' = max(m, s); p = exp(s - m')
                            o = o * exp(m - m') + p v;  l = l * exp(m - m') + p
      (m, l, o) of all keys of the warp by shuffles, of the warps through shared memory in order
    out = o / l, or with several parts a second launch that joins them in order

All heads that share keys and values are queries of one block, so these are read once for them.  The keys are cut into as
many parts as fill the machine.  Each thread keeps 16 bytes of a key and a value, loaded before they are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from ....ir.dims import split_index
from ....ir.expr import Expr, Load, Type, Var, all_of, as_expr, binary, call, cast, const, fma, load, select
from ....ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Kernel, Store, axis, nest, store
from ....ir.types import DTYPES
from ...machine_gpu import WARP, GpuMachine
from ..scheduled import Group, Scheduled
from .attention_task import HALVES, AttentionTask, attention_task
from .legalize import legalize
from .operand import access_width

WARPS = 4  # of a block
UNROLLED = 4  # keys of a thread at once
MOST_QUERIES = 15
MOST_ELEMENTS = 32  # of queries, and of sums, in the registers of a thread
MOST_WIDTH = 512  # of a head
JOIN_THREADS = 128
STEP_SECONDS = 0.8e-6  # of one step over UNROLLED keys, mostly latency
LAUNCH_SECONDS = 2.5e-6
RESIDENT = 4  # blocks of a multiprocessor


def takes_token_attention(q: tuple[int, ...], v: tuple[int, ...], dtype: str) -> bool:
    """Whether this strategy fits q[B, H, M, D] and v[B, G, S, E]: few queries, of a type that is summed in f32."""
    return dtype in (*HALVES, "f32") and 0 < q[2] <= MOST_QUERIES and v[2] > 0 and 0 < max(q[3], v[3]) <= MOST_WIDTH


def schedule_token_attention(group: Group, machine: GpuMachine) -> Scheduled:
    """One kernel of one or two launches."""
    task = attention_task(group)
    layout = _layout(task)
    parts = _parts(task, layout, machine)
    plan = _Plan(task, layout, parts)
    temporaries = plan.partials() if parts.count > 1 else ()
    params = (*dict.fromkeys(group.params), *temporaries)
    kernel = legalize(Kernel("attention", params, plan.body()))
    batch, heads, rows, depth = task.q.static_shape
    split = f"in {parts.count} parts of {parts.keys}, joined in order" if parts.count > 1 else "by one block"
    note = (f"{batch * heads} heads, {rows} x {task.keys} of {depth} by f32 arithmetic: {layout.queries} queries a block, "
            f"{layout.threads} threads a key, keys {split}")
    sizes = tuple((b.name, b.size * DTYPES[b.dtype].size) for b in temporaries)
    return Scheduled(kernel, note=note, temporaries=sizes)


# ---- sizes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """width: neighbouring elements of a head that a thread has together; threads: of one key; pieces: of `width` elements
    that a thread has; queries: of one block; tiles: of queries that share keys."""

    width: int
    threads: int
    pieces: int
    queries: int
    tiles: int

    @property
    def keys_of_warp(self) -> int:
        return WARP // self.threads

    @property
    def step(self) -> int:
        """Keys of a block at once."""
        return WARPS * self.keys_of_warp * UNROLLED


@dataclass(frozen=True)
class _Parts:
    count: int
    keys: int


def _layout(task: AttentionTask) -> _Layout:
    numbers = tuple(axis(f"n{d}", n) for d, n in enumerate(task.q.static_shape[:2]))
    width = 16 // DTYPES[task.q.dtype].size
    for buf in (task.q, task.k, task.v):
        along = axis("along", buf.static_shape[3])
        width = min(width, access_width(buf, (*numbers, axis("row", buf.static_shape[2]), along), along))
    widest = -(-max(task.q.static_shape[3], task.v.static_shape[3]) // width)
    threads = min(WARP, 1 << (widest - 1).bit_length())
    pieces = -(-widest // threads)
    together = task.sharing * task.q.static_shape[2]
    tiles = -(-together // max(1, MOST_ELEMENTS // (width * pieces)))
    return _Layout(width, threads, pieces, -(-together // tiles), tiles)


def _parts(task: AttentionTask, layout: _Layout, machine: GpuMachine) -> _Parts:
    """The number of parts that is fastest: more of them fill the machine, but need a second launch."""
    batch, groups = task.k.static_shape[:2]
    blocks, steps = batch * groups * layout.tiles, -(-task.keys // layout.step)
    at_once = machine.processors * RESIDENT

    def seconds(parts: int) -> float:
        rounds = -(-blocks * parts // at_once)
        return rounds * -(-steps // parts) * STEP_SECONDS + (LAUNCH_SECONDS + parts * 5e-8 if parts > 1 else 0)

    best = min((1 << n for n in range(10) if 1 << n <= steps), key=seconds, default=1)
    keys = -(-steps // best) * layout.step
    return _Parts(-(-task.keys // keys), keys)


# ---- the kernel ------------------------------------------------------------------------------------------------------


def _cell(name: str) -> Buffer:
    return Buffer(name, "f32", (), "register")


@dataclass(frozen=True)
class _Plan:
    task: AttentionTask
    layout: _Layout
    parts: _Parts

    def partials(self) -> tuple[Buffer, Buffer, Buffer]:
        """Sums, maxima and totals of the parts."""
        shape = self.task.out.static_shape
        per = (self.parts.count, *shape[:3])
        return Buffer("sums", "f32", (*per, shape[3])), Buffer("maxima", "f32", per), Buffer("totals", "f32", per)

    def body(self) -> Block:
        task, layout = self.task, self.layout
        batch, groups = task.k.static_shape[:2]
        sizes = [batch, groups, layout.tiles, self.parts.count]
        block, warp, lane = axis("block", prod(sizes)), axis("warp", WARPS), axis("lane", WARP)
        b, group, tile, part = split_index(sizes, block)
        scan = _Scan(self, b, group, tile * layout.queries, part * self.parts.keys, warp, lane)
        inside = (*scan.start(), *scan.loop(), *scan.across_lanes(), *self.across_warps(scan, part))
        first = nest((block,), nest((warp,), nest((lane,), inside, "thread.x"), "thread.y"), "block.x")
        return first if self.parts.count == 1 else (*first, Barrier("pool"), *self.join())

    def across_warps(self, scan: _Scan, part: Expr) -> Block:
        """What the warps have found goes through shared memory; threads take elements of the result."""
        width, queries = self.task.out.static_shape[3], self.layout.queries
        sums = Buffer("warp_sums", "f32", (WARPS, queries, width), "shared")
        most, total = (Buffer(f"warp_{n}", "f32", (WARPS, queries), "shared") for n in ("maxima", "totals"))
        element = axis("e", -(-queries * width // (WARPS * WARP)))
        flat = element * (WARPS * WARP) + scan.warp * WARP + scan.lane
        query, column = flat / width, flat % width
        b, head, row = scan.place(query)
        made, values = _joined(WARPS, lambda w: load(most, w, query), lambda w: load(total, w, query),
                               lambda w: load(sums, w, query, column))
        body: Block = (*made, *self.result(b, head, row, column, part, values))
        conditions = [binary("lt", flat, queries * width)] if queries * width % (WARPS * WARP) else []
        if self.layout.tiles * queries > scan.together:
            conditions.append(binary("lt", scan.first + query, scan.together))
        if conditions:
            body = (If(all_of(conditions), body),)
        return (Alloc(sums), Alloc(most), Alloc(total), *scan.publish(sums, most, total), Barrier("block"), For(element, body))

    def result(
        self, b: Expr, head: Expr, row: Expr, column: Expr, part: Expr, values: tuple[Expr, Expr, Expr]
    ) -> Block:
        """One element of the output, or of a part."""
        high, total, value = values
        if self.parts.count == 1:
            return (Store(self.task.out, (b, head, row, column), cast(value / total, self.task.out.dtype)),)
        sums, most, totals = self.partials()
        once = (store(most, (part, b, head, row), high), store(totals, (part, b, head, row), total))
        return (store(sums, (part, b, head, row, column), value), If(binary("eq", column, as_expr(0)), once))

    def join(self) -> Block:
        """The second launch: a thread for every element of the output."""
        shape = self.task.out.static_shape
        count = prod(shape)
        block, thread = axis("join_block", -(-count // JOIN_THREADS)), axis("join", JOIN_THREADS)
        flat = block * JOIN_THREADS + thread
        at = tuple(split_index(list(shape), flat))
        sums, most, totals = self.partials()
        made, (_, total, value) = _joined(
            self.parts.count, lambda p: load(most, p, *at[:3]), lambda p: load(totals, p, *at[:3]),
            lambda p: load(sums, p, *at))
        body: Block = (*made, Store(self.task.out, at, cast(value / total, self.task.out.dtype)))
        if count % JOIN_THREADS:
            body = (If(binary("lt", flat, count), body),)
        return nest((block,), nest((thread,), body, "thread.x"), "block.x")


def _joined(
    count: int, most: Callable[[Expr], Expr], total: Callable[[Expr], Expr], value: Callable[[Expr], Expr]
) -> tuple[Block, tuple[Expr, Expr, Expr]]:
    """(statements, (maximum, total, sum)) of parts that have their own, in order."""
    high, of_all, sum, base, scale = (_cell(n) for n in ("high", "of_all", "sum", "base", "scale"))
    p, q = axis("p", count), axis("q", count)
    unrolled = "unroll" if count <= 8 else "serial"
    body = (
        Alloc(scale), store(scale, (), call("exp2", most(q) - load(base))),
        store(of_all, (), fma(total(q), load(scale), load(of_all))),
        store(sum, (), fma(value(q), load(scale), load(sum))),
    )
    made: Block = (
        Alloc(high), store(high, (), const(float("-inf"), "f32")),
        For(p, (store(high, (), binary("max", load(high), most(p))),), unrolled, ("reduce",)),
        *_finite(base, load(high)), Alloc(of_all), store(of_all, (), const(0, "f32")),
        Alloc(sum), store(sum, (), const(0, "f32")), For(q, body, unrolled, ("reduce",)),
    )
    return made, (load(high), load(of_all), load(sum))


def _finite(base: Buffer, high: Expr) -> Block:
    """base = high, or 0 where no key is seen: exponents relative to it are then minus infinity, not NaN."""
    nothing = binary("eq", high, const(float("-inf"), "f32"))
    return (Alloc(base), store(base, (), select(nothing, const(0, "f32"), high)))


class _Scan:
    """The registers of a thread: queries q and sums o, [query][own element]; maximum and total of each query."""

    def __init__(self, plan: _Plan, batch: Expr, group: Expr, first: Expr, start: Expr, warp: Var, lane: Var) -> None:
        self.plan, self.task, self.layout = plan, plan.task, plan.layout
        self.batch, self.group, self.first, self.start_key, self.warp, self.lane = batch, group, first, start, warp, lane
        self.together = self.task.sharing * self.task.q.static_shape[2]
        own = (self.layout.queries, self.layout.pieces * self.layout.width)
        self.q, self.o = Buffer("q", "f32", own, "register"), Buffer("o", "f32", own, "register")
        self.most = Buffer("most", "f32", own[:1], "register")
        self.total = Buffer("total", "f32", own[:1], "register")
        self.thread, self.key_of_warp = lane % self.layout.threads, lane / self.layout.threads

    # ---- places

    def place(self, query: Expr) -> tuple[Expr, Expr, Expr]:
        """(batch, head, row) of a query of the block; beyond the last one, of that."""
        rows = self.task.q.static_shape[2]
        number = self.first + query
        if self.layout.tiles * self.layout.queries > self.together:
            number = binary("min", number, self.together - 1)
        return self.batch, self.group * self.task.sharing + number / rows, number % rows

    def piece(self, c: Expr, size: int) -> tuple[Expr, Expr | None]:
        """(first element of a piece of the thread, where it lies in a head of that size if not everywhere).  Pieces beyond
        it are read where the last one lies."""
        layout = self.layout
        number, last = c * layout.threads + self.thread, size // layout.width
        if layout.pieces * layout.threads == last:
            return number * layout.width, None
        return binary("min", number, last - 1) * layout.width, binary("lt", number, last)

    # ---- statements

    def start(self) -> Block:
        layout = self.layout
        n, c, v = axis("n", layout.queries), axis("c", layout.pieces), axis("v", layout.width)
        at, inside = self.piece(c, self.task.q.static_shape[3])
        brought = Buffer("brought", self.task.q.dtype, (layout.width,), "register")
        value = cast(load(brought, v), "f32")
        if inside is not None:
            value = select(inside, value, const(0, "f32"))
        read = Load.of(self.task.q, (*self.place(n), at), Type(self.task.q.dtype, layout.width))
        each: Block = (
            Alloc(brought), Store(brought, (as_expr(0),), read),
            For(v, (store(self.q, (n, c * layout.width + v), value), store(self.o, (n, c * layout.width + v), const(0, "f32"))),
                "unroll"),
        )
        return (
            Alloc(self.q), Alloc(self.o), Alloc(self.most), Alloc(self.total), *nest((n, c), each, "unroll"),
            For(n, (store(self.most, (n,), const(float("-inf"), "f32")), store(self.total, (n,), const(0, "f32"))), "unroll"),
        )

    def loop(self) -> Block:
        """The keys of the part."""
        layout, task = self.layout, self.task
        step, u, c = axis("step", self.plan.parts.keys // layout.step), axis("u", UNROLLED), axis("c", layout.pieces)
        key = self.start_key + step * layout.step + (u * WARPS + self.warp) * layout.keys_of_warp + self.key_of_warp
        shape = (UNROLLED, layout.pieces * layout.width)
        keys, values = (Buffer(name, b.dtype, shape, "register") for name, b in (("keys", task.k), ("values", task.v)))
        inside = key if task.keys % layout.step == 0 else binary("min", key, task.keys - 1)
        bring = tuple(
            Store(to, (u, c * layout.width), Load.of(
                b, (self.batch, self.group, inside, self.piece(c, b.static_shape[3])[0]), Type(b.dtype, layout.width)))
            for to, b in ((keys, task.k), (values, task.v))
        )
        score = Buffer("score", "f32", (layout.queries, UNROLLED), "register")
        body = (Alloc(keys), Alloc(values), *nest((u, c), bring, "unroll"), Alloc(score),
                *self.scores(score, keys, u, key), *self.weights(score, values))
        return (For(step, body, "serial", ("reduce",)),)

    def scores(self, score: Buffer, keys: Buffer, u: Var, key: Expr) -> Block:
        """q k of each query and key, in every thread of the key, as exponents of two."""
        layout = self.layout
        n, c, v = axis("n", layout.queries), axis("c", layout.pieces), axis("v", layout.width)
        own = c * layout.width + v
        add: Block = (store(score, (n, u), fma(load(self.q, n, own), cast(load(keys, u, own), "f32"), load(score, n, u))),)
        inside = self.piece(c, self.task.q.static_shape[3])[1]
        add = (For(v, add, "unroll", ("reduce",)),)
        add = add if inside is None else (If(inside, add),)
        threads = layout.threads
        total = load(score, n, u)
        summed = call("warp_add" if threads == WARP else f"warp_add_{threads}", total) if threads > 1 else total
        finish: Block = (store(score, (n, u), summed),) if threads > 1 else ()
        finish += (store(score, (n, u), self.task.exponent(total, *self.place(n), key, layout.step)),)
        return nest((n, u), (store(score, (n, u), const(0, "f32")), For(c, add, "unroll", ("reduce",)), *finish), "unroll")

    def weights(self, score: Buffer, values: Buffer) -> Block:
        """o and totals scaled down to the new maximum, and the values by their weights added."""
        layout = self.layout
        n, u, i = axis("n", layout.queries), axis("u", UNROLLED), axis("i", layout.pieces * layout.width)
        j = axis("j", layout.pieces * layout.width)
        high, base, scale, weight = (_cell(name) for name in ("high", "base", "scale", "weight"))
        cell, value = load(self.o, n, i), cast(load(values, u, j), "f32")
        return nest((n,), (
            Alloc(high), store(high, (), load(self.most, n)),
            For(u, (store(high, (), binary("max", load(high), load(score, n, u))),), "unroll"),
            *_finite(base, load(high)),
            Alloc(scale), store(scale, (), call("exp2", load(self.most, n) - load(base))),
            store(self.most, (n,), load(high)), store(self.total, (n,), load(self.total, n) * load(scale)),
            For(i, (store(self.o, (n, i), cell * load(scale)),), "unroll"),
            For(u, (
                Alloc(weight), store(weight, (), call("exp2", load(score, n, u) - load(base))),
                store(self.total, (n,), load(self.total, n) + load(weight)),
                For(j, (store(self.o, (n, j), fma(load(weight), value, load(self.o, n, j))),), "unroll"),
            ), "unroll", ("reduce",)),
        ), "unroll")

    def across_lanes(self) -> Block:
        """The threads of a warp that have the same elements of different keys add up: all then have the same."""
        if self.layout.threads == WARP:
            return ()
        distances = [d for d in (1, 2, 4, 8, 16) if d >= self.layout.threads]
        n, i = axis("n", self.layout.queries), axis("i", self.layout.pieces * self.layout.width)
        high, base, scale = (_cell(name) for name in ("high", "base", "scale"))

        def combined(op: str, x: Expr, put: Callable[[Expr], Store]) -> Block:
            return tuple(put(binary(op, x, call("shuffle_xor", x, as_expr(d)))) for d in distances)

        return nest((n,), (
            Alloc(high), store(high, (), load(self.most, n)), *combined("max", load(high), lambda e: store(high, (), e)),
            *_finite(base, load(high)),
            Alloc(scale), store(scale, (), call("exp2", load(self.most, n) - load(base))), store(self.most, (n,), load(high)),
            store(self.total, (n,), load(self.total, n) * load(scale)),
            *combined("add", load(self.total, n), lambda e: store(self.total, (n,), e)),
            For(i, (store(self.o, (n, i), load(self.o, n, i) * load(scale)),
                    *combined("add", load(self.o, n, i), lambda e: store(self.o, (n, i), e))), "unroll"),
        ), "unroll")

    def publish(self, sums: Buffer, most: Buffer, total: Buffer) -> Block:
        """The first threads of a warp show what it has found."""
        layout, width = self.layout, self.task.out.static_shape[3]
        n, c, v = axis("n", layout.queries), axis("c", layout.pieces), axis("v", layout.width)
        at, inside = self.piece(c, width)
        write: Block = (For(v, (store(sums, (self.warp, n, at + v), load(self.o, n, c * layout.width + v)),), "unroll"),)
        if inside is not None:
            write = (If(inside, write),)
        one = If(binary("eq", self.lane, as_expr(0)), (
            store(most, (self.warp, n), load(self.most, n)), store(total, (self.warp, n), load(self.total, n))))
        return (If(binary("eq", self.key_of_warp, as_expr(0)), nest((n,), (For(c, write, "unroll"), one), "unroll")),)
