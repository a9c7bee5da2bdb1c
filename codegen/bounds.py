"""Checked kernels: before a statement reads or writes memory, its indices are compared with the sizes of the buffers.

    y[i] = x[i + 1]     =>     if 0 <= i + 1 < size(x) and 0 <= i < size(y):  y[i] = x[i + 1]
                               else:  out_of_bounds(site, i + 1, size(x)); ...

A statement that would leave a buffer is not executed; the run-time support notes the first one and fails the run.  An access
is checked as the elements that it touches in memory, from the first to the last: what lies inside of the buffer, but in
another row than was meant, is not found.  Prefetches, which may point anywhere, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..ir.bind import bind_type
from ..ir.errors import InternalError
from ..ir.expr import I64, Expr, HReduce, Load, Type, as_expr, binary, const
from ..ir.kernel import Block, Buffer, Do, For, If, Kernel, Prefetch, Stmt, Store, flat_index
from ..ir.traverse import walk
from ..ir.types import DTYPES, Dim
from .program import Address, Program, Site, all_calls
from .sizing import as_number, bytes_of

OUT_OF_BOUNDS = "tw_out_of_bounds"
"""The `Do` that a failed check runs: site, first and last element of the access, number of elements of the buffer."""
_TRUE = const(True, Type("bool"))


def check_bounds(program: Program) -> Program:
    """The program with checked kernels, and the list of sites that their checks name by number.

    Raises InternalError for a call whose buffers do not lie inside of the memory that they are given."""
    _require_inside(program)
    sites: list[Site] = []
    kernels = {name: _Checker(k, sites).kernel() for name, k in program.kernels.items()}
    return replace(program, kernels=kernels, sites=tuple(sites))


def extent(buf: Buffer) -> Dim:
    """Elements from the first to the last of a buffer."""
    if buf.strides is None:
        size: Dim = 1
        for d in buf.shape:
            size = size * d
        return size
    if any(d == 0 for d in buf.shape):
        return 0
    span: Dim = 1
    for d, s in zip(buf.shape, buf.strides, strict=True):
        span = span + (d - 1) * s
    return span


class _Checker:
    def __init__(self, kernel: Kernel, sites: list[Site]) -> None:
        self.source = kernel
        self.sites = sites
        self.numbers: dict[Site, int] = {}

    def kernel(self) -> Kernel:
        return replace(self.source, body=self.block(self.source.body))

    def block(self, block: Block) -> Block:
        return tuple(made for s in block for made in self.statement(s))

    def statement(self, s: Stmt) -> Iterator[Stmt]:
        match s:
            case Prefetch():
                return
            case For():
                inner = replace(s, body=self.block(s.body))
                bounds = (s.var.extent,) if isinstance(s.var.extent, Expr) else ()
                yield self.guarded(inner, bounds)
            case If():
                yield self.guarded(If(s.cond, self.block(s.then), self.block(s.other)), (s.cond,))
            case Store():
                yield self.guarded(s, (*s.idx, s.value), s)
            case _:
                yield s

    def guarded(self, s: Stmt, read: tuple[Expr, ...], store: Store | None = None) -> Stmt:
        """The statement, inside of a branch for each access that it makes.  An index that is itself loaded is checked by a
        branch further out."""
        loads = dict.fromkeys(e for x in read for e in walk(x) if isinstance(e, Load))
        checks = [(e.buf, e.idx, e.type, "load") for e in loads]
        if store is not None:
            checks.append((store.buf, store.idx, store.value.type, "store"))
        for buf, idx, t, access in reversed(checks):
            if buf.space != "register":
                s = self.check(s, buf, idx, t, access)
        return s

    def check(self, s: Stmt, buf: Buffer, idx: tuple[Expr, ...], t: Type, access: str) -> Stmt:
        at, size = flat_index(buf, idx), as_expr(extent(buf))
        if at.type.lanes > 1:
            low, high = (HReduce.of(fn, at, I64) for fn in ("min", "max"))
        else:
            elements = -(-t.lanes * DTYPES[t.dtype].size // DTYPES[buf.dtype].size)
            low, high = at, at + (elements - 1)
        inside = [binary("le", as_expr(0), low), binary("lt", high, size)]
        inside = [c for c in inside if c is not _TRUE]
        if not inside:
            return s
        site = Site(self.source.name, buf.name, access, f"{buf.dtype}[{', '.join(map(str, buf.shape))}]")
        if site not in self.numbers:
            self.numbers[site] = len(self.sites)
            self.sites.append(site)
        failed = Do(OUT_OF_BOUNDS, (as_expr(self.numbers[site]), low, high, size))
        cond = inside[0] if len(inside) == 1 else binary("and", *inside)
        return If(cond, (s,), (failed,))


def _require_inside(program: Program) -> None:
    """Of open dimensions at their typical sizes."""
    for v in program.versions:
        ins, outs = (
            tuple((name, bind_type(t, dict(v.sizes))) for name, t in some) for some in (program.inputs, program.outputs)
        )
        own = replace(
            program, steps=v.steps, inputs=ins, outputs=outs, arena_bytes=v.arena_bytes, sizing=v.sizing, versions=()
        )
        _require_inside(own)
    number = program.sizing.typical if program.sizing is not None else as_number
    for call in all_calls((*program.prepare, *program.steps)):
        for buf, address in zip(program.kernels[call.kernel].buffers, call.args, strict=False):
            limit = _limit(program, address)
            if limit is None:
                continue
            first, most = number(address.offset), number(limit)
            end = first + number(extent(buf)) * DTYPES[buf.dtype].size
            if first < 0 or end > most:
                raise InternalError(
                    f"kernel {call.kernel} is given {buf.name} at bytes {first} to {end} of the {most} bytes of "
                    f"{address.space} {address.index}"
                )


def _limit(program: Program, a: Address) -> Dim | None:
    if a.space == "slot":
        assert program.sizing is not None
        return program.sizing.slots[a.index].size
    if a.space in ("arena", "constants"):
        return program.arena_bytes if a.space == "arena" else program.constant_bytes
    given = program.inputs if a.space == "input" else program.outputs
    if a.index >= len(given):  # where the sizes of an output are written
        return None
    return bytes_of(given[a.index][1])
