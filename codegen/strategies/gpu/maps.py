"""Elementwise maps, pooling and depthwise windows: a piece of 16 bytes of the output per thread.

    for i: for j: Y[i, j] = f(X[i, j], B[j])   ->   for b block.x: for t thread.x: Y[i, 4*j] = f(X[i, 4*j]:4, B[4*j]:4)

The vectors run along the axis in which the output is contiguous.  A window keeps one vector of results per output position in
registers; several neighbouring positions in a thread share what they read.
"""

from __future__ import annotations

from math import prod

from ....ir.compute import Compute, identity
from ....ir.dims import split_index
from ....ir.expr import Expr, Load, Type, Var, as_expr, binary, const, load
from ....ir.kernel import Alloc, Block, Buffer, For, If, Store, axis, coefficient, nest, store
from ....ir.traverse import children, substitute
from ...machine_gpu import MAX_RESIDENT, GpuMachine
from ...schedule.vectors import vector_store
from ..axes import substitute_axes
from .legalize import accumulated
from .operand import ACCESS, piece_width

THREADS = 256
UNROLLED_TAPS = 32  # of a window, in straight-line code
POSITIONS = (4, 2)  # neighbouring output positions of one thread
RESIDENT_THREADS = 1024  # of one multiprocessor, each with up to 64 registers (windows: twice that): fewer only cost spills
MOST_SUMS = 16  # of a thread that fit them
ENOUGH_THREADS = 1024  # of one multiprocessor, that more work for each is worth it


def extents(axes: tuple[Var, ...]) -> list[int]:
    return [int(v.extent) for v in axes]  # type: ignore[arg-type]


def contiguous_axis(c: Compute) -> Var | None:
    """The axis along which the output is contiguous."""
    return next((v for v in reversed(c.axes) if coefficient(c.out, c.out_index, v) == 1), None)


def vector_width(c: Compute, v: Var | None) -> int:
    """Elements that one thread takes along v: whole pieces of everything that is contiguous there."""
    if v is None:
        return 1
    reads = list(c.reads())
    if any(r.type.dtype != r.buf.dtype for r in reads):
        return 1
    width = piece_width([(c.out, c.out_index), *((r.buf, r.idx) for r in reads)], v, ACCESS)
    if width > 1 and any(_is_bare(e, v) for e in (c.body, *([] if c.finish is None else [c.finish]))):
        return 1
    return width


def _is_bare(e: Expr, v: Var) -> bool:
    """Whether v is used as a value, not only in addresses."""
    stack: list[Expr] = [e]
    seen: set[Expr] = set()
    while stack:
        x = stack.pop()
        if x is v:
            return True
        if x not in seen and not isinstance(x, Load):
            seen.add(x)
            stack += children(x)
    return False


def map_nest(c: Compute, machine: GpuMachine, number: str) -> tuple[Block, str]:
    """The loops of one map or window, axes simplified; and the schedule in words."""
    v = contiguous_axis(c)
    width = vector_width(c, v)
    count = prod(extents(c.axes)) // width
    if not count:
        return (), "nothing"
    position = None if c.is_map else _position_axis(c, v)
    positions = 1
    if position is not None:
        for p in POSITIONS:
            if int(position.extent) % p == 0 and count // p >= machine.processors * ENOUGH_THREADS:  # type: ignore[arg-type]
                positions = p
                break
    per = {a: width if a is v else positions if a is position else 1 for a in c.axes}
    sizes = [n // per[a] for a, n in zip(c.axes, extents(c.axes), strict=True)]
    total = prod(sizes)
    threads = min(THREADS, -(-total // 32) * 32)
    block, thread = axis(f"block{number}", -(-total // threads)), axis(f"thread{number}", threads)
    flat = block * threads + thread
    lane, place = axis("v", width), axis("p", positions)
    mapping: dict[Expr, Expr] = {}
    for a, e in zip(c.axes, split_index(sizes, flat), strict=True):
        within = lane if a is v else place
        mapping[a] = e * per[a] + within if per[a] > 1 else e
    c = substitute_axes(c, mapping, (), c.reduce)
    body = _map_body(c, lane) if c.is_map else _window_body(c, lane, place, number)
    if total % threads:
        body = (If(binary("lt", flat, total), body),)
    note = f"{f'{width} elements' if width > 1 else 'an element'} a thread"
    note += f", {positions} positions" if positions > 1 else ""
    most = RESIDENT_THREADS if c.is_map else RESIDENT_THREADS // 2
    resident = (("resident", max(1, min(most // threads, MAX_RESIDENT))),) if width * positions <= MOST_SUMS else ()
    return nest((block,), nest((thread,), body, "thread.x"), "block.x", resident), note


def _map_body(c: Compute, lane: Var) -> Block:
    return vector_store(lane, Store(c.out, c.out_index, c.result(c.body)))


def _window_body(c: Compute, lane: Var, place: Var, number: str) -> Block:
    """acc[place, lane] over the window, the places innermost."""
    width, positions = int(lane.extent), int(place.extent)  # type: ignore[arg-type]
    acc = Buffer(f"acc{number}", c.acc, (positions, width), "register")
    init = identity(c.combine, c.acc) if c.init is None else c.init
    first = init if isinstance(init, Expr) else const(init, Type(c.acc))
    cell = load(acc, place, lane)
    at: dict[Expr, Expr] = {place: as_expr(0)}

    def over_places(made: Store) -> Block:
        if positions == 1:
            made = Store(made.buf, tuple(substitute(i, at) for i in made.idx), substitute(made.value, at), made.mode)
            return vector_store(lane, made)
        return (For(place, vector_store(lane, made), "unroll"),)

    step = over_places(store(acc, (place, lane), accumulated(c.combine, cell, c.body)))
    taps = extents(c.reduce)
    loops = step
    room = UNROLLED_TAPS
    for r, n in zip(reversed(c.reduce), reversed(taps), strict=True):
        room //= max(n, 1)
        loops = (For(r, loops, "unroll" if room >= 1 else "serial", ("reduce",)),)
    return (Alloc(acc), *over_places(Store(acc, (place, lane), first)), *loops,
            *over_places(Store(c.out, c.out_index, c.result(cell))))


def _position_axis(c: Compute, v: Var | None) -> Var | None:
    """The last spatial axis: neighbours along it read overlapping windows."""
    others = [a for a in c.axes if a is not v]
    return others[-1] if others and v is not None and len(c.reduce) >= 1 else None
