"""Schedules that change layouts: relayout, fork_param, transpose_tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from ...ir.expr import Expr, ExprLike, Load, Shuffle, Type, as_expr
from ...ir.kernel import Alloc, Block, Buffer, For, Kernel, Stmt, Store, coefficient
from ...ir.traverse import substitute
from ...ir.types import Dim
from .rewrite import (
    Environment,
    accesses,
    find_buffer,
    in_loops,
    need,
    on_loops,
    perfect_nest,
    replace_accesses,
    replace_buffer,
)
from .vectors import vectorize_loop

Index = Callable[..., Sequence[ExprLike]]


def relayout(kernel: Kernel, name: str, shape: Sequence[Dim], index: Index, packed: bool = False) -> Kernel:
    """Give a buffer another shape: every access X[i, j] becomes X[index(i, j)].

    index: old indices -> new indices, a bijection of the old index space into the new shape.  packed: the buffer is a
    parameter whose data will be rearranged by the caller, so its strides are dropped.  Requires packed for a parameter
    with strides.
    """
    what = f"relayout {name}"
    old = find_buffer(kernel, what, name)
    need(old.strides is None or packed, kernel, what, "a parameter with strides can be rearranged only by packing it")
    new = replace(old, shape=tuple(shape), strides=None)

    def at(*idx: Expr) -> tuple[Expr, ...]:
        made = tuple(as_expr(i) for i in index(*idx))
        need(len(made) == len(new.shape), kernel, what, f"{len(made)} indices for {len(new.shape)} dimensions")
        return made

    return replace_buffer(kernel, old, new, at)


def fork_param(
    kernel: Kernel, name: str, loop: str, new_name: str, origin: Sequence[ExprLike], shape: Sequence[Dim] | None = None
) -> Kernel:
    """Inside loops of one axis, read a new parameter instead, whose element 0 is the old one's element `origin`.

        for i: .. X[f(i)] ..  ->  for i: .. Y[f(i) - origin] ..

    For the tail panel of packed weights.  The new parameter is the last buffer of the kernel; it has the given shape,
    by default what remains beyond the origin, and no strides (the caller packs it).  Requires that the loops use the
    buffer and do not write it.
    """
    what = f"fork_param {name}"
    old = find_buffer(kernel, what, name)
    need(old in kernel.params, kernel, what, "it is not a parameter")
    need(all(p.name != new_name for p in kernel.params), kernel, what, f"there is a parameter {new_name} already")
    need(len(origin) == len(old.shape), kernel, what, f"expected {len(old.shape)} indices, got {len(origin)}")
    rest = tuple(n - o if isinstance(n, int) and isinstance(o, int) else as_expr(n) - o  # type: ignore[arg-type]
                 for n, o in zip(old.shape, origin, strict=True))
    new = replace(old, name=new_name, shape=rest if shape is None else tuple(shape), strides=None)
    used = 0

    def rule(s: For, env: Environment) -> Block:
        nonlocal used
        uses = [a for a in accesses(s.body) if a.buf == old]
        used += len(uses)
        need(not any(a.writes for a in uses), kernel, what, f"it is written inside {loop}")
        return replace_accesses(s.body, old, new, lambda *idx: [i - o for i, o in zip(idx, origin, strict=True)])

    forked = in_loops(kernel, loop, rule)
    need(used, kernel, what, f"it is not used inside {loop}")
    buffers = kernel.buffers
    sizes = tuple(p for p in kernel.params if p not in buffers)
    return replace(forked, params=(*buffers, new, *sizes))


def transpose_tile(kernel: Kernel, i: str, j: str) -> Kernel:
    """A square tile is read along one axis and written along the other.

        for i < n: for j < n: Y[.., j, i] = f(i, j)
    ->  n vectors of f over j; log2(n) stages of n two-input shuffles; n vector stores

    Requires that the nest has one store, contiguous in i, and that n is a power of two, at least 2.
    """
    what = f"transpose_tile {i}, {j}"
    count = 0

    def rule(s: For) -> list[Stmt]:
        nonlocal count
        (a, b), body = perfect_nest(kernel, what, s, (i, j))
        need(len(body) == 1 and isinstance(body[0], Store), kernel, what, "expected one store inside")
        st = body[0]
        assert isinstance(st, Store)
        n = a.var.extent
        square = isinstance(n, int) and n == b.var.extent and n > 1 and n & (n - 1) == 0
        need(square, kernel, what, f"a tile of {n} x {b.var.extent} is not square with a power of two")
        assert isinstance(n, int)
        step = coefficient(st.buf, st.idx, a.var)
        need(step == 1, kernel, what, f"the store to {st.buf.name} is not contiguous in {i}")
        count += 1
        rows = [Buffer(f"{i}_t{count}_{q}", st.buf.dtype, (n, n), "register") for q in range(n.bit_length())]
        read = Store(rows[0], (a.var, b.var), st.value)
        fill = vectorize_loop(kernel, For(b.var, (read,)))
        out: list[Stmt] = [Alloc(rows[0]), For(a.var, tuple(fill), "unroll")]
        for q, (x, y) in enumerate(pairwise(rows)):
            out += [Alloc(y), *_exchange(x, y, n, 1 << q)]
        at = tuple(substitute(x, {a.var: as_expr(0)}) for x in st.idx)
        last = Load.of(rows[-1], (b.var, as_expr(0)), Type(st.buf.dtype, n))
        return [*out, For(b.var, (Store(st.buf, at, last),), "unroll")]

    return on_loops(kernel, i, rule)


def _exchange(x: Buffer, y: Buffer, n: int, distance: int) -> list[Stmt]:
    """One stage of the transposition of n vectors of n lanes: rows and lanes that differ in one bit change places."""
    out: list[Stmt] = []
    type = Type(x.dtype, n)
    low = tuple(lane if not lane & distance else n + (lane ^ distance) for lane in range(n))
    high = tuple(lane | distance if not lane & distance else n + lane for lane in range(n))
    for r in range(n):
        if not r & distance:
            a, b = (Load.of(x, (as_expr(q), as_expr(0)), type) for q in (r, r | distance))
            out.append(Store(y, (as_expr(r), as_expr(0)), Shuffle.of(a, b, low, type)))
            out.append(Store(y, (as_expr(r | distance), as_expr(0)), Shuffle.of(a, b, high, type)))
    return out


def swap_axes(kernel: Kernel, name: str, order: Sequence[int]) -> Kernel:
    """`relayout` of a temporary by a permutation of its dimensions: dimension d of the new shape is order[d] of the
    old."""
    shape = find_buffer(kernel, f"swap_axes {name}", name).shape
    return relayout(kernel, name, [shape[d] for d in order], lambda *idx: [idx[d] for d in order])
