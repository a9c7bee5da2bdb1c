"""The position of the largest or smallest element of a line (argmax): threads share a line out and compare what they found.

    for line: best = first of the extremes of X[line, ..]
    ->  each thread scans every T-th element; then value and position go through shuffles, and through shared memory for
        long lines.  Of equal elements the first (or last) position wins, whatever the order; NaN is above all.
"""

from __future__ import annotations

from math import prod

from ....ir.dims import split_index
from ....ir.expr import Expr, Type, all_of, as_expr, binary, call, const, load, select
from ....ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Kernel, axis, nest, store
from ....ir.ops.arithmetic import arithmetic_dtype, read
from ....ir.ops.reduce import ArgReduce
from ....ir.types import DTYPES
from ...machine_gpu import WARP
from ..scheduled import Scheduled
from .legalize import legalize

LINES = 4  # warps of a block, a line each
LONG = 2048  # elements that a block takes together
LONG_WARPS = 8
LEAST = 32  # a shorter line is scanned by one thread


def takes_positions(op: ArgReduce, x: Buffer) -> bool:
    """Lines that are long enough, and of a type that shuffles take."""
    size = x.static_shape[op.axis]
    return size >= LEAST and arithmetic_dtype(x.dtype) in ("f32", "f64", "i32", "u32", "i64") and x.size > 0


class _Search:
    """One line of a thread.  value, at: what it has found."""

    def __init__(self, op: ArgReduce, dtype: str) -> None:
        self.op, self.dtype = op, dtype
        self.value, self.at = Buffer("best", dtype, (), "register"), Buffer("best_at", "i64", (), "register")

    def better(self, value: Expr, at: Expr) -> Expr:
        """Whether another element comes before what was found: by value, NaN first, then by position."""
        own, position = load(self.value), load(self.at)
        low, high = (own, value) if self.op.fn == "max" else (value, own)
        first = binary("lt", position, at) if self.op.last else binary("lt", at, position)
        if DTYPES[self.dtype].kind != "f":
            return binary("or", binary("lt", low, high), binary("and", binary("eq", value, own), first))
        nan, own_nan = binary("ne", value, value), binary("ne", own, own)
        both = binary("or", binary("eq", value, own), binary("and", nan, own_nan))
        above = binary("or", binary("lt", low, high), binary("and", nan, binary("eq", own, own)))
        return binary("or", above, binary("and", both, first))

    def take(self, value: Expr, at: Expr, number: str) -> Block:
        """Keep the better one.  What is compared has names, since every thread of a warp gives its own."""
        other, place = Buffer(f"other{number}", self.dtype, (), "register"), Buffer(f"place{number}", "i64", (), "register")
        return (
            Alloc(other), store(other, (), value), Alloc(place), store(place, (), at),
            If(self.better(load(other), load(place)), (store(self.value, (), load(other)), store(self.at, (), load(place)))),
        )


def schedule_positions(op: ArgReduce, out: Buffer, x: Buffer) -> Scheduled:
    """The kernel of an ArgReduce."""
    shape = x.static_shape
    size, others = shape[op.axis], [*shape[: op.axis], *shape[op.axis + 1 :]]
    lines = prod(others)
    long = size >= LONG and lines < 4096
    warps = LONG_WARPS if long else LINES
    block, warp, lane = axis("block", lines if long else -(-lines // LINES)), axis("warp", warps), axis("lane", WARP)
    line: Expr = block if long else block * LINES + warp
    where = split_index(others, line)
    threads = WARP * warps if long else WARP
    thread: Expr = warp * WARP + lane if long else lane
    search = _Search(op, arithmetic_dtype(x.dtype))

    def index(i: Expr) -> tuple[Expr, ...]:
        return (*where[: op.axis], i, *where[op.axis :])

    step = axis("step", -(-size // threads))
    at = step * threads + thread
    inside = [] if long or lines % LINES == 0 else [binary("lt", line, lines)]
    guards = [*inside, *([binary("lt", at, size)] if size % threads else [])]
    visit = search.take(read(x, *index(at)), at, "")
    scan: Block = (For(step, (If(all_of(guards), visit),) if guards else visit, "serial", ("reduce",)),)
    start = thread if size >= threads else select(binary("lt", thread, size), thread, as_expr(0))
    first = read(x, *index(start))
    prologue: Block = (Alloc(search.value), Alloc(search.at))
    begin: Block = (store(search.value, (), first), store(search.at, (), start))
    if inside:
        nothing = (store(search.value, (), const(0, Type(search.dtype))), store(search.at, (), as_expr(0)))
        begin = (If(all_of(inside), begin, nothing),)
    shuffles: Block = ()
    for n, distance in enumerate((16, 8, 4, 2, 1)):
        shuffles += search.take(
            call("shuffle_xor", load(search.value), as_expr(distance)),
            call("shuffle_xor", load(search.at), as_expr(distance)), f"_{n}",
        )
    target = index(as_expr(0)) if op.keepdims else tuple(where)
    write = [binary("eq", lane, as_expr(0)), *inside]
    meet: Block = ()
    if long:
        values, places = Buffer("values", search.dtype, (warps,), "shared"), Buffer("places", "i64", (warps,), "shared")
        meet = (
            Alloc(values), Alloc(places),
            If(write[0], (store(values, (warp,), load(search.value)), store(places, (warp,), load(search.at)))),
            Barrier("block"),
        )
        w = axis("w", warps)
        meet += (For(w, search.take(load(values, w), load(places, w), "_w"), "unroll"),)
        write.append(binary("eq", warp, as_expr(0)))
    end: Block = (If(all_of(write), (store(out, target, load(search.at)),)),)
    inner = (*prologue, *begin, *scan, *shuffles, *meet, *end)
    body = nest((block,), nest((warp,), nest((lane,), inner, "thread.x"), "thread.y"), "block.x")
    kernel = legalize(Kernel("argreduce", (out, x), body))
    return Scheduled(kernel, note=f"{lines} lines of {size}: {'a block' if long else 'a warp'} a line")
