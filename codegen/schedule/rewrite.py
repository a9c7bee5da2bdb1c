"""What the schedules share: finding loops, accesses and buffers of a kernel, and rewriting them.

A schedule is a function Kernel -> Kernel that checks its precondition and raises ScheduleError when it is not met.  A
loop is named; a name means every loop of that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from ...ir.errors import ScheduleError
from ...ir.expr import Bin, Expr, Fma, Load, Var, binary, from_linear, linear
from ...ir.kernel import (
    Alloc,
    Block,
    Buffer,
    Do,
    For,
    If,
    Kernel,
    Prefetch,
    Read,
    Stmt,
    Store,
    map_block,
    values_of,
    walk_block,
)
from ...ir.traverse import rewrite, uses, walk

Rewritten = Stmt | tuple[Stmt, ...] | list[Stmt] | None
IndexMap = Callable[..., Iterable[Expr]]
Environment = Mapping[str, Var]
"""The variables of the loops around a place, by name."""
ASSOCIATIVE = ("add", "mul", "max", "min")


def need(condition: object, kernel: Kernel, schedule: str, message: str) -> None:
    """Raises ScheduleError unless the condition holds.  schedule: its name with the loop or buffer, as in `split i`."""
    if not condition:
        raise ScheduleError(f"kernel {kernel.name}: {schedule}: {message}", str(kernel))


# ---- loops -------------------------------------------------------------------------------------------------------


def loops(kernel: Kernel, name: str) -> list[For]:
    """Every loop of an axis, in order; at least one."""
    found = [s for s in walk_block(kernel.body) if isinstance(s, For) and s.var.name == name]
    names = sorted({s.var.name for s in walk_block(kernel.body) if isinstance(s, For)})
    need(found, kernel, f"loop {name}", f"there is none; the loops are {', '.join(names)}")
    return found


def has_loop(kernel: Kernel, name: str) -> bool:
    return any(isinstance(s, For) and s.var.name == name for s in walk_block(kernel.body))


def extent(kernel: Kernel, name: str) -> int:
    """The constant extent of an axis; all its loops have it."""
    found = {s.var.extent for s in loops(kernel, name)}
    (n,) = found if len(found) == 1 else (None,)
    if not isinstance(n, int):
        raise ScheduleError(f"kernel {kernel.name}: loop {name} has no single constant extent: {found}", str(kernel))
    return n


def on_loops(kernel: Kernel, name: str, rule: Callable[[For], Rewritten]) -> Kernel:
    """Replace every loop of an axis."""
    loops(kernel, name)
    body = map_block(kernel.body, lambda s: rule(s) if isinstance(s, For) and s.var.name == name else None)
    return replace(kernel, body=body)


def in_loops(kernel: Kernel, name: str, rule: Callable[[For, Environment], Block]) -> Kernel:
    """Replace the body of every loop of an axis; the rule is also given the variables around, this one included."""
    loops(kernel, name)

    def go(block: Block, env: dict[str, Var]) -> Block:
        out: list[Stmt] = []
        for s in block:
            if isinstance(s, For):
                inner = {**env, s.var.name: s.var}
                s = replace(s, body=rule(s, inner) if s.var.name == name else go(s.body, inner))
            elif isinstance(s, If):
                s = If(s.cond, go(s.then, env), go(s.other, env))
            out.append(s)
        return tuple(out)

    return replace(kernel, body=go(kernel.body, {}))


def perfect_nest(kernel: Kernel, schedule: str, loop: Stmt, names: Iterable[str]) -> tuple[list[For], Block]:
    """The loops of a perfect nest, outermost first, and the body of the innermost."""
    found: list[For] = []
    body: Block = (loop,)
    for name in names:
        inner = body[0] if len(body) == 1 else None
        ok = isinstance(inner, For) and inner.var.name == name
        around = f"inside {found[-1].var.name}" if found else "there"
        need(ok, kernel, schedule, f"expected only the loop {name} {around}, found {describe(body)}")
        assert isinstance(inner, For)
        found.append(inner)
        body = inner.body
    return found, body


def describe(block: Block) -> str:
    return ", ".join(f"loop {s.var.name}" if isinstance(s, For) else type(s).__name__ for s in block) or "nothing"


def is_reduction(loop: For) -> bool:
    return "reduce" in loop.attrs


# ---- accesses ----------------------------------------------------------------------------------------------------


class Access(NamedTuple):
    buf: Buffer
    idx: tuple[Expr, ...]
    writes: bool


def loads_of(*roots: Expr) -> list[Load]:
    """The distinct loads of expressions."""
    return list(dict.fromkeys(e for root in roots for e in walk(root) if isinstance(e, Load)))


def reads(s: Stmt) -> list[Load]:
    """The distinct loads of one statement, without those of its blocks."""
    return loads_of(*values_of(s))


def accesses(block: Block) -> Iterator[Access]:
    """What a block reads and writes.  The operands of an instruction count as written."""
    for s in walk_block(block):
        for e in reads(s):
            yield Access(e.buf, e.idx, isinstance(s, Do))
        if isinstance(s, Store | Read):
            yield Access(s.buf, s.idx, True)
        elif isinstance(s, Do):
            for b in s.bufs:
                yield Access(b, (), True)


def reduction_of(s: Stmt) -> tuple[str, Expr] | None:
    """(op, f) of a store `c = c op f` with an associative op, else None."""
    if not isinstance(s, Store):
        return None

    def is_cell(e: Expr) -> bool:
        return isinstance(e, Load) and e.buf == s.buf and e.idx == s.idx and e.type == s.value.type

    v = s.value
    if isinstance(v, Bin) and v.op in ASSOCIATIVE and is_cell(v.a):
        return v.op, v.b
    if isinstance(v, Fma) and is_cell(v.c):
        return "add", binary("mul", v.a, v.b)
    if isinstance(v, Bin) and v.op == "add" and v.type == ("i64", 1):
        c, terms = linear(v)  # i64 sums are linear forms, in which the cell is one term
        cell = next((a for a in terms if is_cell(a)), None)
        if cell is not None and terms[cell] == 1:
            rest = from_linear(c, {a: k for a, k in terms.items() if a is not cell})
            return "add", rest
    return None


def uses_any(exprs: Iterable[Expr], variables: Iterable[Expr]) -> bool:
    found = tuple(variables)
    return any(uses(e, v) for e in exprs for v in found)


# ---- buffers -----------------------------------------------------------------------------------------------------


def find_buffer(kernel: Kernel, schedule: str, name: str) -> Buffer:
    """The parameter or temporary of that name."""
    found = {p for p in kernel.buffers if p.name == name}
    found |= {s.buf for s in walk_block(kernel.body) if isinstance(s, Alloc) and s.buf.name == name}
    need(len(found) == 1, kernel, schedule, f"expected one buffer {name}, found {len(found)}")
    return found.pop()


def fresh_name(kernel: Kernel, base: str) -> str:
    """A buffer name that the kernel does not have."""
    known = {p.name for p in kernel.params} | {s.buf.name for s in walk_block(kernel.body) if isinstance(s, Alloc)}
    if base not in known:
        return base
    return next(f"{base}_{n}" for n in range(1, len(known) + 2) if f"{base}_{n}" not in known)


def replace_accesses(block: Block, old: Buffer, new: Buffer, index: IndexMap) -> Block:
    """Let every access to `old` go to `new` at index(*idx)."""

    def in_expr(e: Expr) -> Expr | None:
        return Load.of(new, tuple(index(*e.idx)), e.type) if isinstance(e, Load) and e.buf == old else None

    def in_stmt(s: Stmt) -> Rewritten:
        match s:
            case Store() if s.buf == old:
                return replace(s, buf=new, idx=tuple(index(*s.idx)))
            case Prefetch() | Read() if s.buf == old:
                return replace(s, buf=new, idx=tuple(index(*s.idx)))
            case Do() if old in s.bufs:
                return replace(s, bufs=tuple(new if b == old else b for b in s.bufs))
        return None

    memo: dict[Expr, Expr] = {}
    return map_block(block, in_stmt, lambda e: rewrite(e, in_expr, memo))


def replace_temporary(block: Block, old: Buffer, new: Buffer, index: IndexMap) -> Block:
    """`replace_accesses`, and the allocation itself."""
    block = replace_accesses(block, old, new, index)
    return map_block(block, lambda s: Alloc(new) if isinstance(s, Alloc) and s.buf == old else None)


def replace_buffer(kernel: Kernel, old: Buffer, new: Buffer, index: IndexMap) -> Kernel:
    """The same in a whole kernel, where the buffer may be a parameter."""
    body = replace_temporary(kernel.body, old, new, index)
    return replace(kernel, params=tuple(new if p == old else p for p in kernel.params), body=body)


def without_alloc(block: Block, buf: Buffer) -> Block:
    return map_block(block, lambda s: () if isinstance(s, Alloc) and s.buf == buf else None)
