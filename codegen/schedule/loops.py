"""Schedules that change loops: split, cut, fuse, reorder, kind.

A loop keeps its role through all of them: `attrs` has "reduce" on the loops of a reduction, whose iterations depend on
each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ...ir.expr import Expr, as_expr, binary, is_const
from ...ir.kernel import For, Kernel, Stmt, axis, substitute_block
from ...ir.types import Dim
from .rewrite import Rewritten, extent, is_reduction, loops, need, on_loops, perfect_nest, uses_any


def dim(e: Expr | int) -> Dim:
    """An extent as a dimension: constants become ints."""
    return e.value if isinstance(e, Expr) and is_const(e) else e  # type: ignore[attr-defined]


def split(kernel: Kernel, name: str, size: int, outer: str = "", inner: str = "") -> Kernel:
    """for i < N  ->  for io < N / size: for ii < size, with i = io * size + ii.

    The new loops are called `io` and `ii` unless names are given.  Requires that size divides the extent; cut first.
    """

    def rule(s: For) -> For:
        rest = binary("mod", as_expr(s.var.extent or 0), size)
        ok = size > 0 and is_const(rest, 0)
        need(ok, kernel, f"split {name}", f"{size} does not divide the extent {s.var.extent}; cut the loop first")
        o = axis(outer or name + "o", dim(as_expr(s.var.extent or 0) // size))
        i = axis(inner or name + "i", size)
        body = substitute_block(s.body, {s.var: o * size + i})
        return replace(s, var=o, body=(For(i, body, "serial", s.attrs),))

    return on_loops(kernel, name, rule)


def cut(kernel: Kernel, name: str, at: Dim, first: str = "", second: str = "") -> Kernel:
    """for i < N  ->  for i0 < at; for i1 < N - at, with i = at + i1.

    The new loops are called `i0` and `i1` unless names are given.  Requires 0 < at < N, or a symbolic `at` in 0..N.
    """

    def rule(s: For) -> tuple[For, For]:
        n = s.var.extent
        inside = not isinstance(at, int) or not isinstance(n, int) or 0 < at < n
        need(inside, kernel, f"cut {name}", f"{at} does not lie inside the extent {n}")
        x, y = axis(first or name + "0", at), axis(second or name + "1", dim(as_expr(n or 0) - at))
        low = replace(s, var=x, body=substitute_block(s.body, {s.var: x}))
        high = replace(s, var=y, body=substitute_block(s.body, {s.var: y + at}))
        return low, high

    return on_loops(kernel, name, rule)


def fuse(kernel: Kernel, outer: str, inner: str, name: str) -> Kernel:
    """for a < A: for b < B  ->  for c < A * B, with a = c / B and b = c % B.

    Requires that b is all that is inside a, and that its extent does not depend on a.
    """
    what = f"fuse {outer}, {inner}"

    def rule(s: For) -> For:
        (_, b), body = perfect_nest(kernel, what, s, (outer, inner))
        n = b.var.extent
        need(not isinstance(n, Expr) or not uses_any((n,), (s.var,)), kernel, what, f"{n} depends on {outer}")
        need("parallel" not in (s.kind, b.kind), kernel, what, "fuse before making a loop parallel")
        c = axis(name, dim(as_expr(s.var.extent or 0) * as_expr(n or 0)))
        attrs = tuple(dict.fromkeys((*s.attrs, *b.attrs)))
        mapping: dict[Expr, Expr] = {s.var: c // as_expr(n or 0), b.var: c % as_expr(n or 0)}
        return For(c, substitute_block(body, mapping), "serial", attrs)

    return on_loops(kernel, outer, rule)


def reorder(kernel: Kernel, names: list[str], new: list[str], associative: bool = False) -> Kernel:
    """Permute a perfect nest.  names: its loops, outermost first.  new: the same names in the order wanted.

    Requires extents that do not depend on the permuted loops.  Reduction loops keep their order among each other unless
    `associative` accepts that the partial results are combined in another order.
    """
    what = f"reorder {', '.join(names)}"
    need(sorted(names) == sorted(new), kernel, what, f"{', '.join(new)} is not a permutation of it")

    def rule(s: For) -> For:
        found, body = perfect_nest(kernel, what, s, names)
        by_name = {f.var.name: f for f in found}
        variables = [f.var for f in found]
        for f in found:
            n = f.var.extent
            fixed = not isinstance(n, Expr) or not uses_any((n,), variables)
            need(fixed, kernel, what, f"the extent {n} of {f.var.name} depends on a loop of the nest")
        reductions = [f.var.name for f in found if is_reduction(f)]
        same = [n for n in new if n in reductions] == reductions
        need(same or associative, kernel, what, f"the order of the reduction loops {', '.join(reductions)} changes")
        for n in reversed(new):
            body = (replace(by_name[n], body=body),)
        return body[0]  # type: ignore[return-value]

    return on_loops(kernel, names[0], rule)


def kind(kernel: Kernel, name: str, kind: str) -> Kernel:
    """Set the kind of the loops: serial, unroll, parallel, pipeline, block.x, thread.x, ...

    Requires independent iterations for a kind that runs them at the same time, and a constant extent for unroll.
    """
    what = f"kind {name}"

    def rule(s: For) -> For:
        concurrent = kind == "parallel" or kind.startswith(("block", "thread"))
        need(not (concurrent and is_reduction(s)), kernel, what, f"a reduction cannot be {kind}")
        constant = isinstance(s.var.extent, int)
        need(kind != "unroll" or constant, kernel, what, f"the extent {s.var.extent} is not constant")
        return replace(s, kind=kind)

    return on_loops(kernel, name, rule)


def unroll(kernel: Kernel, *names: str) -> Kernel:
    """Let printers expand these loops."""
    for n in names:
        kernel = kind(kernel, n, "unroll")
    return kernel


def parallel(kernel: Kernel, name: str) -> Kernel:
    """Share the iterations of a loop among threads.

    Requires that the loop stands at the top of the kernel and is not a reduction.
    """
    top = {id(s) for s in kernel.body}
    for s in loops(kernel, name):
        need(id(s) in top, kernel, f"parallel {name}", "the loop does not stand at the top of the kernel")
    return kind(kernel, name, "parallel")


class Tiles(NamedTuple):
    """Loops made by `split_evenly`: `count` tiles of `size` iterations, the first being tile number `first`."""

    outer: str
    inner: str
    size: int
    count: int
    first: int


def split_ragged(
    kernel: Kernel, name: str, sizes: Sequence[int], inner: str = "", even: bool = False
) -> tuple[Kernel, list[Tiles]]:
    """for i < N of a symbolic N  ->  tiles of one constant size: of the first that N reaches, the last one moved back to
    end at N, so that some iterations run twice:

        for i0 < ceil(N / s) if N >= s else 0: for ii < s, with i = min(i0 * s, N - s) + ii;   and so on for smaller s

    sizes: falling, the last is 1.  inner: the name of all inner loops.  The same number of the outer loop never runs for
    two sizes.  even: of the ceil(N / s) tiles of the largest size as many as needed have one iteration less, so that from
    N = s (s - 1) on none runs twice.  Requires independent iterations that may run twice: none reads what another writes.
    """
    levels = [(f"{name}{level}o", size) for level, size in enumerate(sizes)]
    if even and sizes[0] > 2:
        levels.insert(1, (f"{name}0e", sizes[0] - 1))

    def rule(s: For) -> Rewritten:
        n = as_expr(s.var.extent or 0)
        need(not is_reduction(s), kernel, f"split {name}", "iterations of a reduction must not run twice")
        out: list[Stmt] = []
        smaller: Expr = as_expr(1)  # 1 where N is less than all sizes so far
        before: Expr = as_expr(0)  # iterations of the larger of two even sizes
        for outer, size in levels:
            full = size + 1 if outer.endswith("e") else size  # the size that N must reach
            reached = binary("min", n / full, 1)
            count = (n + (full - 1)) / full
            if full == sizes[0] and len(levels) > len(sizes):  # count = larger tiles + shorter ones
                shorter = binary("min", count * full - n, count)
                count = shorter if full > size else count - shorter
            o, i = axis(outer, dim(smaller * reached * count if full > 1 else smaller * n)), axis(inner or name + "i", size)
            at = binary("min", before + o * size, n - size) + i if size > 1 else o + i
            body = substitute_block(s.body, {s.var: at})
            out.append(replace(s, var=o, body=(For(i, body, "serial", s.attrs),)))
            if len(levels) > len(sizes) and outer == levels[0][0]:
                before = count * size
                continue
            before = as_expr(0)
            smaller = smaller * (1 - reached)
        return out

    kernel = on_loops(kernel, name, rule)
    return kernel, [Tiles(outer, inner or name + "i", size, 0, 0) for outer, size in levels]


def split_evenly(kernel: Kernel, name: str, most: int, inner: str = "") -> tuple[Kernel, list[Tiles]]:
    """for i < N  ->  tiles of nearly equal size, at most `most`: one split loop, or two of sizes s + 1 and s after a cut.

    inner: the name of the inner loops of both sizes, so that later schedules mean both.
    """
    n = extent(kernel, name)
    count = -(-n // most)
    size, larger = divmod(n, count)
    if not larger:
        return split(kernel, name, size, inner=inner), [Tiles(name + "o", inner or name + "i", size, count, 0)]
    kernel = cut(kernel, name, (size + 1) * larger)
    tiles = []
    for part, (s, c, first) in enumerate(((size + 1, larger, 0), (size, count - larger, larger))):
        kernel = split(kernel, f"{name}{part}", s, inner=inner)
        tiles.append(Tiles(f"{name}{part}o", inner or f"{name}{part}i", s, c, first))
    return kernel, tiles
