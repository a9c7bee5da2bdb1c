"""Statements in LLVM text: loops, branches, and the contents of register arrays across them.

A serial loop is one block with a test at the bottom (a guard goes first where the extent is not a constant); an
unrolled loop is printed once per iteration.  Register cells that a loop or a branch writes become phi nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir.expr import Expr, Var
from ..ir.kernel import Alloc, Barrier, Block, Buffer, Do, For, If, Prefetch, Stmt, Store, parts_of
from .llvm_memory import address, cell_of, print_store, stack_extent
from .llvm_text import Cell, Held, Printer, Scope, llvm_type, unsupported, zero

# Parameters of every emitted kernel after its own: see docs/architecture.md.
TRAILING = "ptr noalias %scratch, ptr %runtime, i64 %tid, i64 %nt"


def print_block(p: Printer, block: Block) -> None:
    """Statements in order; what they allocate ends with the block."""
    top, allocated = p.stack_top, dict(p.stack)
    for s in block:
        p.new_statement()
        show = _PRINT.get(type(s))
        if show is None:
            raise unsupported(f"no statement {type(s).__name__} on a CPU")
        show(p, s)
    p.stack_top, p.stack = top, allocated


def _print_alloc(p: Printer, s: Alloc) -> None:
    if s.buf.space == "stack":
        p.stack[s.buf], p.stack_top = stack_extent(s.buf, p.stack_top)
        for key in [k for k in p.loads if k[0] == s.buf]:
            del p.loads[key]
    elif s.buf.space == "register":
        for cell in [c for c in p.cells if c.buf == s.buf]:
            del p.cells[cell]
    else:
        raise unsupported(f"buffer {s.buf.name} is in {s.buf.space} memory, which a CPU does not have")


def _print_prefetch(p: Printer, s: Prefetch) -> None:
    pointer, _ = address(p, s.buf, s.idx, inbounds=False)
    p.declares["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
    p.line(f"call void @llvm.prefetch.p0(ptr {pointer}, i32 0, i32 {4 - min(3, max(1, s.level))}, i32 1)")


def _print_barrier(p: Printer, s: Barrier) -> None:
    if s.scope != "pool":
        raise unsupported(f"no barrier of scope {s.scope!r} on a CPU")
    p.declares["declare hidden void @tw_barrier(ptr)"] = None
    p.line("call void @tw_barrier(ptr %runtime)")
    p.loads.clear()


def _print_do(p: Printer, s: Do) -> None:
    """A call of the support code: void fn(ptr runtime, ptr buffer..., i64 argument...)."""
    types = ", ".join(["ptr", *["ptr"] * len(s.bufs), *["i64"] * len(s.args)])
    p.declares[f"declare hidden void @{s.fn}({types})"] = None
    buffers = [f"ptr {p.pointers[b]}" for b in s.bufs]
    numbers = [f"i64 {p.value(a)}" for a in s.args]
    p.line(f"call void @{s.fn}({', '.join(['ptr %runtime', *buffers, *numbers])})")
    p.loads.clear()


# ---- register cells ----------------------------------------------------------------------------------------------


def _find_written(p: Printer, block: Block, found: dict[Cell, Held], local: frozenset[Buffer] = frozenset()) -> None:
    """Every cell that a block writes, with the type written, without those of arrays it allocates itself."""
    for s in block:
        match s:
            case Alloc():
                local = local | {s.buf}
            case Store() if s.buf.space == "register" and s.buf not in local:
                p.new_statement()
                found[cell_of(p, s.buf, s.idx)] = Held("", s.value.type)
            case For() if _unrolled(s):
                for i in range(_static_extent(s)):
                    p.env[s.var] = i
                    _find_written(p, s.body, found, local)
            case For():
                p.env[s.var] = "%unknown"
                _find_written(p, s.body, found, local)
            case If():
                _find_written(p, s.then, found, local)
                _find_written(p, s.other, found, local)


def _carried(p: Printer, *blocks: Block) -> dict[Cell, Held]:
    """The cells that blocks write, with what they hold before; one that holds nothing yet counts as 0."""
    if not any(_stores_registers(b) for b in blocks):
        return {}
    written: dict[Cell, Held] = {}
    for b in blocks:
        _find_written(p, b, written)
    p.new_statement()
    return {c: p.cells.get(c, Held(zero(h.type), h.type)) for c, h in written.items()}


def _stores_registers(block: Block) -> bool:
    for s in block:
        if isinstance(s, Store) and s.buf.space == "register":
            return True
        inner = (s.body,) if isinstance(s, For) else (s.then, s.other) if isinstance(s, If) else ()
        if any(_stores_registers(b) for b in inner):
            return True
    return False


def _phi(h: Held, edges: list[tuple[str, str]]) -> str:
    return f"phi {llvm_type(h.type)} " + ", ".join(f"[{value}, %{label}]" for value, label in edges)


def _check_same_type(cell: Cell, held: Held, now: Held) -> None:
    if held.type != now.type:
        raise unsupported(
            f"register {cell.buf.name}[{cell.offset}] changes from {held.type.dtype}x{held.type.lanes} to "
            f"{now.type.dtype}x{now.type.lanes} across a loop or branch"
        )


# ---- loops -------------------------------------------------------------------------------------------------------


def _unrolled(s: For) -> bool:
    return s.kind == "unroll"


def _static_extent(s: For) -> int:
    if not isinstance(s.var.extent, int):
        raise unsupported(f"loop {s.var.name} is unrolled, but its extent {s.var.extent} is not a constant")
    return s.var.extent


def _print_for(p: Printer, s: For) -> None:
    if s.kind not in ("serial", "unroll", "parallel"):
        raise unsupported(f"loop {s.var.name} is of kind {s.kind}, which a CPU does not have")
    if _unrolled(s) or (s.kind == "serial" and s.var.extent in (0, 1)):
        for i in range(_static_extent(s)):
            p.env[s.var] = i
            print_block(p, s.body)
        return
    if s.kind == "parallel":
        low, high = (_share(p, _extent(p, s.var), thread) for thread in ("%tid", p.pure("add nsw i64 %tid, 1")))
        _print_loop(p, s, low, high, guarded=True)
    else:
        _print_loop(p, s, "0", _extent(p, s.var), guarded=not isinstance(s.var.extent, int))


def _extent(p: Printer, var: Var) -> str:
    if var.extent is None:
        raise unsupported(f"loop {var.name} has no extent")
    return p.value(var.extent) if isinstance(var.extent, Expr) else str(var.extent)


def _share(p: Printer, extent: str, thread: str) -> str:
    """The first iteration of a thread: extent * thread / nt."""
    product = p.pure(f"mul nsw i64 {extent}, {thread}", extent, thread)
    return p.pure(f"udiv i64 {product}, %nt", product)


def _print_loop(p: Printer, s: For, low: str, high: str, guarded: bool) -> None:
    number, depth, entry = p.number(), len(p.scopes), p.label
    head, after, counter = f"loop{number}", f"done{number}", f"%i{number}"
    p.define(counter, depth)
    p.env[s.var] = counter
    before = _carried(p, s.body)
    phis = {c: f"%c{p.number()}" for c in before}
    for cell, phi in phis.items():
        p.define(phi, depth)
        p.cells[cell] = Held(phi, before[cell].type)
    p.scopes.append(Scope())
    p.env[s.var], p.label = counter, head  # again: an unrolled copy of the axis inside has changed it
    p.loads.clear()
    if "reverse" in s.attrs:
        ends = p.pure(f"add nsw i64 {low}, {high}", low, high)
        last = p.pure(f"add nsw i64 {ends}, -1", ends)
        p.env[s.var] = p.here(f"sub nsw i64 {last}, {counter}")
    parts = parts_of(s)
    if parts > 1:
        p.env[s.var] = _interleaved(p, counter, parts, _extent(p, s.var))
    print_block(p, s.body)
    following = p.here(f"add nuw nsw i64 {counter}, 1")
    again = p.here(f"icmp slt i64 {following}, {high}")
    p.line(f"br i1 {again}, label %{head}, label %{after}")
    body, last = p.scopes.pop().lines, p.label
    if guarded:
        p.line(f"br i1 {p.here(f'icmp slt i64 {low}, {high}')}, label %{head}, label %{after}")
    else:
        p.line(f"br label %{head}")
    lines = p.scopes[-1].lines
    lines += [f"{head}:", f"  {counter} = phi i64 [{low}, %{entry}], [{following}, %{last}]"]
    results = {c: p.cells[c] for c in before}
    for cell, phi in phis.items():
        _check_same_type(cell, before[cell], results[cell])
        lines.append(f"  {phi} = " + _phi(before[cell], [(before[cell].value, entry), (results[cell].value, last)]))
    lines += [*body, f"{after}:"]
    p.label = after
    p.loads.clear()
    _leave(p, before, results, [(entry, last)] if guarded else [], depth)
    p.new_statement()


def _interleaved(p: Printer, counter: str, parts: int, extent: str) -> str:
    """The iteration of this number: for a thread alone, the first one of each part, then the second, and so on."""
    size = p.pure(f"udiv i64 {extent}, {parts}", extent)
    first = p.here(f"mul nuw nsw i64 {p.here(f'urem i64 {counter}, {parts}')}, {size}")
    other = p.here(f"add nuw nsw i64 {first}, {p.here(f'udiv i64 {counter}, {parts}')}")
    return p.here(f"select i1 {p.pure('icmp eq i64 %nt, 1')}, i64 {other}, i64 {counter}")


def _leave(
    p: Printer, before: dict[Cell, Held], results: dict[Cell, Held], edges: list[tuple[str, str]], depth: int
) -> None:
    """The cells after a loop: the last iteration's, or through a guard what they were before."""
    for cell in [c for c in p.cells if c not in before and p.depth(p.cells[c].value) >= depth]:
        del p.cells[cell]  # of arrays that live inside the loop
    for cell, held in results.items():
        value = held.value
        if edges:
            entry, last = edges[0]
            value = p.here(_phi(held, [(before[cell].value, entry), (value, last)]))
        elif p.depth(value) >= depth:
            p.define(value, depth - 1)
        p.cells[cell] = Held(value, held.type)


def _print_if(p: Printer, s: If) -> None:
    cond = p.value(s.cond)
    if cond in ("true", "false"):
        print_block(p, s.then if cond == "true" else s.other)
        return
    carried = _carried(p, s.then, s.other)
    number, entry_cells = p.number(), dict(p.cells)
    after = f"end{number}"
    text = [f"  br i1 {cond}, label %then{number}, label %else{number}"]
    ends: list[tuple[str, dict[Cell, Held]]] = []
    for label, block in ((f"then{number}", s.then), (f"else{number}", s.other)):
        p.scopes.append(Scope(branch=True))
        p.label, p.cells = label, {**entry_cells, **carried}
        p.loads.clear()
        print_block(p, block)
        p.line(f"br label %{after}")
        text += [f"{label}:", *p.scopes.pop().lines]
        ends.append((p.label, p.cells))
    p.scopes[-1].lines += [*text, f"{after}:"]
    p.label, p.cells = after, entry_cells
    p.loads.clear()
    for cell, held in carried.items():
        for _, cells in ends:
            _check_same_type(cell, held, cells[cell])
        value = p.here(_phi(held, [(cells[cell].value, label) for label, cells in ends]))
        p.cells[cell] = Held(value, held.type)
    p.new_statement()


_PRINT: dict[type[Stmt], Callable[[Printer, Any], None]] = {
    Store: print_store,
    For: _print_for,
    If: _print_if,
    Alloc: _print_alloc,
    Prefetch: _print_prefetch,
    Barrier: _print_barrier,
    Do: _print_do,
}
