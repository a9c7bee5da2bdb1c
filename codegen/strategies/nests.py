"""What the strategies for maps, reductions and rows share: the loops of a nest, which of them to make vectors of, and how.

A nest is a chain of loops around statements.  Costs are in vector instructions per vector of results; they only have to
order the choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...ir.expr import Expr, Load, Var, as_expr
from ...ir.kernel import Block, For, Kernel, Stmt, Store, axis, coefficient, map_block, substitute_block, walk_block
from ...ir.traverse import children, walk
from ...ir.types import DTYPES
from ..machine import Machine
from ..schedule import cut, fuse, rfactor, split, unroll, vectorize
from ..schedule.rewrite import Access, accesses, is_reduction, on_loops

BROADCAST, GATHER, SCATTER = 0.3, 1.0, 1.5  # a scalar splat once per vector; per lane of a gather or scatter
PARALLEL_WORK = 1 << 14  # operations below which threads do not pay
SHARES = 64  # iterations of a parallel loop from which the threads' shares are even enough


def size_of(n: object) -> int:
    """A constant extent; a symbolic one counts as long."""
    return n if isinstance(n, int) else 1 << 20


def is_empty(kernel: Kernel) -> bool:
    return any(isinstance(s, For) and s.var.extent == 0 for s in walk_block(kernel.body))


def drop_unit_loops(kernel: Kernel) -> Kernel:
    """Loops of one iteration become their body.  Requires that temporaries have distinct names."""

    def rule(s: Stmt) -> Block | None:
        return substitute_block(s.body, {s.var: as_expr(0)}) if isinstance(s, For) and s.var.extent == 1 else None

    return replace(kernel, body=map_block(kernel.body, rule))


def _named(kernel: Kernel, name: str) -> list[For]:
    return [s for s in walk_block(kernel.body) if isinstance(s, For) and s.var.name == name]


def part(kernel: Kernel, name: str, start: int, size: int) -> Kernel:
    """The iterations start .. start + size of an axis, alone."""
    v = axis(name, size)

    def rule(s: For) -> For:
        return replace(s, var=v, body=substitute_block(s.body, {s.var: v + start}))

    return on_loops(kernel, name, rule)


def perfect_loops(block: Block) -> tuple[list[For], Block]:
    """The chain of loops that are each alone in their block, and the body of the innermost."""
    found: list[For] = []
    while len(block) == 1 and isinstance(block[0], For):
        found.append(block[0])
        block = block[0].body
    return found, block


def memory_accesses(block: Block) -> list[Access]:
    """Accesses to what is not in registers."""
    return [a for a in accesses(block) if a.buf.space != "register"]


# ---- joining loops -----------------------------------------------------------------------------------------------


def collapse(kernel: Kernel, names: Sequence[str]) -> tuple[Kernel, list[str]]:
    """Fuse neighbours of a perfect nest that every access walks as one run.  names: its loops, outermost first; gives
    those that are left."""
    left = list(names)
    n = 0
    while n + 1 < len(left):
        a, b = left[n], left[n + 1]
        joined = f"{a}_{b}"
        made = fuse(kernel, a, b, joined) if isinstance(_named(kernel, b)[0].var.extent, int) else None
        if made is not None and all(_is_run(s) for s in _named(made, joined)):
            kernel, left[n : n + 2] = made, [joined]
        else:
            n += 1
    return kernel, left


def _is_run(loop: For) -> bool:
    """Whether addresses are linear in the variable and nothing else uses it."""
    v = loop.var
    if any(coefficient(a.buf, a.idx, v) is None for a in accesses(loop.body)):
        return False
    return not any(_is_bare(root, v) for s in walk_block(loop.body) if isinstance(s, Store) for root in (s.value,))


def _is_bare(e: Expr, v: Var) -> bool:
    """v is used as a value, not only in addresses."""
    if isinstance(e, Load):
        return False
    return e is v or any(_is_bare(c, v) for c in children(e))


def fuse_outer(kernel: Kernel, names: Sequence[str], name: str = "p") -> tuple[Kernel, list[str]]:
    """Fuse the outermost loops of a nest until there are enough iterations to share; gives the loops that are left."""
    left = list(names)
    while len(left) > 1 and _may_be_few(_named(kernel, left[0])[0].var.extent):
        joined = name if len(left) == 2 else f"{left[0]}_{left[1]}"
        kernel = fuse(kernel, left[0], left[1], joined)
        left[:2] = [joined]
    return kernel, left


def _may_be_few(extent: object) -> bool:
    """Too few iterations to share; an open extent may be 1."""
    return not isinstance(extent, int) or extent < SHARES


def parallel_top(kernel: Kernel) -> Kernel:
    """Share every top-level loop among the threads; a store that stands alone becomes a loop of one iteration.

    Requires that these loops do not depend on each other.
    """
    body: list[Stmt] = []
    for n, s in enumerate(kernel.body):
        if isinstance(s, Store):
            s = For(axis(f"once{n}", 1), (s,))
        body.append(replace(s, kind="parallel") if isinstance(s, For) and not is_reduction(s) else s)
    return replace(kernel, body=tuple(body))


def work(block: Block) -> int:
    """Operations of a block, roughly."""
    total = 0
    for s in block:
        if isinstance(s, For):
            total += size_of(s.var.extent) * work(s.body)
        elif isinstance(s, Store):
            total += 1 + sum(1 for e in walk(s.value) if not isinstance(e, Load))
    return total


# ---- vectors -----------------------------------------------------------------------------------------------------


def widest(stores: Iterable[Store]) -> str:
    """The largest element type among the values, without what is only in addresses."""
    best = "i8"

    def visit(e: Expr, seen: set[Expr]) -> None:
        nonlocal best
        if e in seen:
            return
        seen.add(e)
        if DTYPES[e.type.dtype].size > DTYPES[best].size:
            best = e.type.dtype
        if not isinstance(e, Load):
            for c in children(e):
                visit(c, seen)

    for s in stores:
        visit(s.value, set())
    return best


def lanes_for(stores: Iterable[Store], machine: Machine) -> int:
    """Vector lanes for these values: registers are filled by the largest element type."""
    return machine.lanes(widest(stores))


def access_cost(a: Access, var: Var, lanes: int) -> float:
    """Instructions per vector along a variable."""
    step = coefficient(a.buf, a.idx, var)
    if step == 0:
        return lanes * SCATTER if a.writes else BROADCAST
    if step == 1:
        return 1.0
    return lanes * (SCATTER if a.writes else GATHER)


def vector_cost(found: Iterable[Access], var: Var, lanes: int) -> float:
    """Cost of vectors along a variable; a short axis does not fill them."""
    n = size_of(var.extent)
    return sum(access_cost(a, var, lanes) for a in found) * max(1.0, lanes / n)


def several_vectors(stores: Iterable[Store]) -> int:
    """How many vectors to handle at once: enough to hide latencies, few if each needs many operations."""
    operations = sum(len({e for e in walk(s.value) if not isinstance(e, Load)}) for s in stores)
    return 4 if operations <= 24 else 2 if operations <= 80 else 1


def vector_loops(kernel: Kernel, name: str, lanes: int, several: int) -> Kernel:
    """Make vectors of the loops of an axis: `several` at once, then single ones, then one short vector.

    A symbolic extent ends in a scalar loop.
    """
    n = _named(kernel, name)[0].var.extent
    if isinstance(n, int) and n <= lanes:
        return vectorize(kernel, name)
    kernel, main, tail = _whole_vectors(kernel, name, lanes)
    vectors, lane = name + "o", name + "l"
    kernel = split(kernel, main, lanes, vectors, lane)
    if isinstance(n, int):
        kernel = _several(kernel, vectors, n // lanes, several, False)
    kernel = vectorize(kernel, lane)
    return vectorize(kernel, tail) if tail and isinstance(n, int) else kernel


def reduce_loops(kernel: Kernel, name: str, lanes: int, several: int, around: str = "") -> Kernel:
    """`vector_loops` of the axis of a reduction: partial results stay in vectors until its end.

    Every result is made of partial ones that start with the neutral element, so that max and min skip NaN.  around: the
    outermost loop of the reduction, if it has several.
    """
    n = _named(kernel, name)[0].var.extent
    if not isinstance(n, int):
        kernel, main, _ = _whole_vectors(kernel, name, lanes)
        kernel = rfactor(split(kernel, main, lanes, name + "o", name + "l"), name + "o", name + "l")
        return vectorize(kernel, name + "l")
    parts = [(name, n, name)]
    if n > lanes and n % lanes:
        kernel = cut(kernel, name, n // lanes * lanes, name + "w", name + "t")
        parts = [(name + "w", n // lanes * lanes, name), (name + "t", n % lanes, name + "t")]
    for loop, size, prefix in parts:
        vectors, lane = prefix + "o", prefix + "l"
        kernel = split(kernel, loop, min(size, lanes), vectors, lane)
        kernel = rfactor(kernel, around or vectors, lane)
        kernel = _several(kernel, vectors, -(-size // lanes), several, True)
        kernel = vectorize(kernel, lane)
    return kernel


def _whole_vectors(kernel: Kernel, name: str, lanes: int) -> tuple[Kernel, str, str]:
    """An axis cut at a multiple of the lanes: the kernel, the loop of whole vectors and that of the rest, "" if none."""
    n = _named(kernel, name)[0].var.extent
    if isinstance(n, int) and n % lanes == 0:
        return kernel, name, ""
    whole = n // lanes * lanes  # type: ignore[operator]
    return cut(kernel, name, whole, name + "w", name + "t"), name + "w", name + "t"


def _several(kernel: Kernel, name: str, count: int, several: int, reduction: bool) -> Kernel:
    """Unroll a loop over `count` vectors.  A reduction gets as many partial results."""
    if count <= several:
        return unroll(kernel, name)
    if several == 1:
        return kernel
    main, whole = name, count // several * several
    if whole < count:
        main = name + "m"
        kernel = unroll(cut(kernel, name, whole, main, name + "r"), name + "r")
    group, each = name + "q", name + "u"
    kernel = split(kernel, main, several, group, each)
    if reduction and whole > several:
        kernel = rfactor(kernel, group, each)
    return unroll(kernel, each)


def stores_of(block: Block) -> list[Store]:
    return [s for s in walk_block(block) if isinstance(s, Store)]
