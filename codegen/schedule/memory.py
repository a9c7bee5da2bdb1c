"""Schedules that change where data lives: localize, alias, stage, prefetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from ...ir.expr import Expr, ExprLike, Load, Type, as_expr, bounds
from ...ir.kernel import Alloc, Block, Buffer, For, If, Kernel, Prefetch, Stmt, Store, axis, map_block, nest, walk_block
from ...ir.traverse import rewrite
from .rewrite import (
    Environment,
    Rewritten,
    accesses,
    find_buffer,
    fresh_name,
    in_loops,
    need,
    on_loops,
    replace_accesses,
    uses_any,
    without_alloc,
)

Index = Sequence[ExprLike]
Place = Callable[[Environment], Index]
"""An index, given the variables of the loops around."""
Places = Callable[[Environment], list[Index]]


def localize(kernel: Kernel, name: str, loop: str, space: str = "register", drop: int = 1) -> Kernel:
    """Move a temporary into a loop, without its first `drop` dimensions, which the loops around index.

        alloc t[N]; for i: { t[i] = a; .. t[i] .. }  ->  for i: { alloc t; t = a; .. t .. }

    Requires that all uses are in one loop of that name, with equal first indices that do not change inside it.
    """
    what = f"localize {name}"
    old = find_buffer(kernel, what, name)
    need(old not in kernel.params, kernel, what, "it is a parameter")
    new = replace(old, shape=old.shape[drop:], space=space)
    holders: list[For] = []
    for s in walk_block(kernel.body):
        if isinstance(s, For) and s.var.name == loop and any(a.buf == old for a in accesses(s.body)):
            holders.append(s)
    need(len(holders) == 1, kernel, what, f"expected its uses in one loop {loop}, found them in {len(holders)}")
    inside = [a.idx for a in accesses(holders[0].body) if a.buf == old]
    total = sum(a.buf == old for a in accesses(kernel.body))
    need(len(inside) == total, kernel, what, f"it is used outside the loop {loop}")
    first = {idx[:drop] for idx in inside}
    need(len(first) == 1, kernel, what, f"its first {drop} indices differ: {sorted(map(str, first))}")
    local = [s.var for s in walk_block(holders[0].body) if isinstance(s, For)]
    need(not uses_any(first.pop(), local), kernel, what, f"its first {drop} indices change inside {loop}")

    def rule(s: For) -> Rewritten:
        if not any(a.buf == old for a in accesses(s.body)):
            return None
        return replace(s, body=(Alloc(new), *replace_accesses(s.body, old, new, lambda *idx: idx[drop:])))

    return on_loops(replace(kernel, body=without_alloc(kernel.body, old)), loop, rule)


def alias(kernel: Kernel, temporary: str, parameter: str) -> Kernel:
    """Let a temporary live in an output parameter.  Requires that `alias_obstacle` finds none."""
    what = f"alias {temporary}"
    old, new = find_buffer(kernel, what, temporary), find_buffer(kernel, what, parameter)
    obstacle = alias_obstacle(kernel, old, new)
    need(not obstacle, kernel, what, obstacle)
    return replace(kernel, body=replace_accesses(without_alloc(kernel.body, old), old, new, lambda *idx: idx))


def alias_obstacle(kernel: Kernel, old: Buffer, new: Buffer) -> str:
    """Why a temporary cannot live in a parameter, or "".

    It can if shape and element type are the same, the parameter is written but not read and shares no memory, and no cell
    of the temporary is read once that cell of the parameter is written: reads stand before the stores to the parameter,
    and the variable of every loop around both is an index of both in the same dimension.
    """
    if old in kernel.params or new not in kernel.params:
        return f"{new.name} must be a parameter, {old.name} must not"
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        return f"{old.dtype}{list(old.shape)} cannot live in {new.dtype}{list(new.shape)}"
    found = [a for a in accesses(kernel.body) if a.buf == new]
    if not found or not all(a.writes for a in found):
        return f"{new.name} is read, or not written"
    return f"{new.name} shares memory" if "may_alias" in new.attrs else _read_too_late(kernel, old, new)


class _Use(NamedTuple):
    """position: in program order.  around: the loops around, since the allocation of the temporary."""

    position: int
    around: tuple[For, ...]
    idx: tuple[Expr, ...]


def _read_too_late(kernel: Kernel, old: Buffer, new: Buffer) -> str:
    """Every read of `old` stands before every store to `new`, also in later iterations of common loops; or why not."""
    reads: list[_Use] = []
    stores: list[_Use] = []
    position = 0

    def visit(block: Block, around: tuple[For, ...]) -> None:
        nonlocal position
        for s in block:
            position += 1
            if isinstance(s, Alloc) and s.buf == old:
                around = ()
            if isinstance(s, For):
                visit(s.body, (*around, s))
            elif isinstance(s, If):
                visit(s.then + s.other, around)
            else:
                reads.extend(_Use(position, around, a.idx) for a in accesses((s,)) if a.buf == old and not a.writes)
                stores.extend(_Use(position, around, a.idx) for a in accesses((s,)) if a.buf == new)

    visit(kernel.body, ())
    for read in reads:
        for store in stores:
            if read.position > store.position:
                return f"it is read after {new.name} is written"
            for f in read.around:
                if f in store.around and not _separates(f, read.idx, store.idx):
                    return f"it is read in the next iteration of {f.var.name}, after {new.name} is written"
    return ""


def _separates(loop: For, x: tuple[Expr, ...], y: tuple[Expr, ...]) -> bool:
    """Whether different iterations of the loop touch different cells: its variable is an index of the same
    dimension."""
    return any(i is loop.var and j is loop.var for i, j in zip(x, y, strict=True))


def stage(
    kernel: Kernel,
    loop: str,
    name: str,
    origin: Place,
    shape: Sequence[int],
    space: str,
    new_name: str = "",
    fill: str = "c",
) -> Kernel:
    """At the top of each iteration copy a tile of a buffer, and read the copy instead.

        for i: { .. X[f(i) + a, b] .. }  ->  for i: { alloc T; for c0, c1: T[c0, c1] = X[f(i) + c0, c1]; .. T[a, b] .. }

    origin: the index of the tile's first element from the variables around.  fill: prefix of the copy loops' names.
    Applies to those loops of the name that read the buffer.  Requires that all reads inside lie in the tile, by bounds,
    and that the buffer is not written inside.
    """
    what = f"stage {name}"
    old = find_buffer(kernel, what, name)
    new = Buffer(fresh_name(kernel, new_name or f"{name}_{space}"), old.dtype, tuple(shape), space)
    axes = tuple(axis(f"{fill}{d}", n) for d, n in enumerate(shape))

    def rule(s: For, env: Environment) -> Block:
        used = [a for a in accesses(s.body) if a.buf == old]
        if not used:
            return s.body
        need(not any(a.writes for a in used), kernel, what, f"it is written inside {loop}")
        first = tuple(as_expr(i) for i in origin(env))
        need(len(first) == len(shape) == len(old.shape), kernel, what, f"expected {len(old.shape)} dimensions")

        def read(e: Expr) -> Expr | None:
            if not isinstance(e, Load) or e.buf != old:
                return None
            idx = tuple(i - o for i, o in zip(e.idx, first, strict=True))
            for i, n in zip(idx, shape, strict=True):
                lo, hi = bounds(i)
                inside = lo is not None and hi is not None and lo >= 0 and hi < n
                if not inside:
                    need(False, kernel, what, f"index {i} is not proved to lie in the tile {tuple(shape)}")
            return Load.of(new, idx, e.type)

        source = Load.of(old, tuple(o + v for o, v in zip(first, axes, strict=True)), Type(old.dtype))
        body = map_block(s.body, None, lambda e: rewrite(e, read))
        return (Alloc(new), *nest(axes, (Store(new, axes, source),)), *body)

    staged = in_loops(kernel, loop, rule)
    made = any(isinstance(s, Alloc) and s.buf == new for s in walk_block(staged.body))
    need(made, kernel, what, f"it is not read in a loop {loop}")
    return staged


def prefetch(kernel: Kernel, loop: str, name: str, place: Place | Places, level: int = 2) -> Kernel:
    """Prefetches at the end of each iteration of a loop.

    place: from the variables of the loops around, the index of one element or a list of such indices; it may lie
    outside the buffer.  Harmless for results.
    """
    what = f"prefetch {name}"
    buf = find_buffer(kernel, what, name)

    def rule(s: For, env: Environment) -> Block:
        made = place(env)
        places = made if isinstance(made, list) else [made]
        out: list[Stmt] = []
        for idx in cast(list[Index], places):
            need(len(idx) == len(buf.shape), kernel, what, f"expected {len(buf.shape)} indices, got {len(idx)}")
            out.append(Prefetch(buf, tuple(as_expr(i) for i in idx), level))
        return (*s.body, *out)

    return in_loops(kernel, loop, rule)
