"""Schedules that move loops through register arrays: sink, merge, rfactor.

Registers are small arrays indexed by unrolled loops; a scalar temporary is one of rank 0.  `sink` makes tiles of
accumulators out of scalar ones, `rfactor` makes partial results.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.compute import identity
from ...ir.expr import Expr, Load, Type, Var, binary, const
from ...ir.kernel import Alloc, Block, Buffer, For, If, Kernel, Stmt, Store, walk_block
from ...ir.traverse import uses
from .rewrite import (
    Rewritten,
    accesses,
    fresh_name,
    is_reduction,
    need,
    on_loops,
    perfect_nest,
    reduction_of,
    replace_temporary,
    uses_any,
)


def sink(kernel: Kernel, names: list[str]) -> Kernel:
    """Push a perfect nest of independent iterations inward past every statement.

        for i: { alloc acc; acc = 0; for k: acc += e; C[i] = acc }
    ->  alloc acc[I]; for i: acc[i] = 0; for k: for i: acc[i] += e; for i: C[i] = acc[i]

    Temporaries declared inside get the extents as leading dimensions, in the order of `names`; loops inside stay
    outside of the pushed ones.  Requires that no loop of `names` is a reduction, and that extents inside do not
    depend on them.
    """
    what = f"sink {', '.join(names)}"

    def rule(s: For) -> Rewritten:
        nest, body = perfect_nest(kernel, what, s, names)
        variables = tuple(f.var for f in nest)
        extents = tuple(v.extent for v in variables)
        for f in nest:
            need(not is_reduction(f), kernel, what, f"{f.var.name} is a reduction")
            need(isinstance(f.var.extent, int), kernel, what, f"the extent of {f.var.name} is not constant")
        for t in walk_block(body):
            if isinstance(t, For) and isinstance(t.var.extent, Expr):
                fixed = not uses_any((t.var.extent,), variables)
                need(fixed, kernel, what, f"the extent of {t.var.name} depends on it")
            if isinstance(t, Alloc):
                wider = replace(t.buf, shape=extents + t.buf.shape)
                body = replace_temporary(body, t.buf, wider, lambda *idx: (*variables, *idx))
        return _push(body, nest)

    return on_loops(kernel, names[0], rule)


def _push(block: Block, nest: list[For]) -> list[Stmt]:
    """The loops of `nest` around every run of statements that are no loops."""
    out: list[Stmt] = []
    run: list[Stmt] = []

    def close() -> None:
        if run:
            body: Block = tuple(run)
            for f in reversed(nest):
                body = (replace(f, body=body),)
            out.extend(body)
            run.clear()

    for s in block:
        if isinstance(s, For):
            close()
            out.append(replace(s, body=tuple(_push(s.body, nest))))
        elif isinstance(s, Alloc):
            close()
            out.append(s)
        else:
            run.append(s)
    close()
    return out


def merge(kernel: Kernel, name: str, at_least: int = 1) -> Kernel:
    """for i: A; R; for i: B  ->  R; for i: { A; B }, wherever two loops of the axis stand in one block.

    Two loops stay apart unless they have the same extent, R touches nothing that A writes and writes nothing that A
    touches, and every buffer that A and B share, one of them writing, has i itself as index in the same dimension
    everywhere in A and B.  A map merged into a reduction is part of the reduction.  Requires that this happens at least
    `at_least` times.
    """
    merged = 0

    def go(block: Block) -> Block:
        nonlocal merged
        out: list[Stmt] = []
        for s in block:
            if isinstance(s, For) and s.var.name == name:
                for n in reversed(range(len(out))):
                    a = out[n]
                    if isinstance(a, For) and _mergeable(a, s, tuple(out[n + 1 :])):
                        del out[n]
                        attrs = tuple(dict.fromkeys((*a.attrs, *s.attrs)))
                        s = replace(s, body=a.body + s.body, attrs=attrs)
                        merged += 1
                        break
            if isinstance(s, For):
                s = replace(s, body=go(s.body))
            elif isinstance(s, If):
                s = If(s.cond, go(s.then), go(s.other))
            out.append(s)
        return tuple(out)

    body = go(kernel.body)
    need(merged >= at_least, kernel, f"merge {name}", f"loops of that name became one {merged} times, not {at_least}")
    return replace(kernel, body=body)


def _conflicts(a: Block, b: Block) -> set[Buffer]:
    """The buffers that both blocks use and at least one of them writes."""
    x, y = list(accesses(a)), list(accesses(b))
    written = {i.buf for i in (*x, *y) if i.writes}
    return {i.buf for i in x} & {i.buf for i in y} & written


def _mergeable(a: For, b: For, between: Block) -> bool:
    if a.var is not b.var or a.kind != b.kind or _conflicts((a,), between):
        return False
    return all(_same_place(buf, a.body + b.body, a.var) for buf in _conflicts(a.body, b.body))


def _same_place(buf: Buffer, block: Block, var: Var) -> bool:
    """Whether every access to the buffer has the variable itself as index in the same dimension."""
    common = set(range(len(buf.shape)))
    for x in accesses(block):
        if x.buf == buf:
            common &= {d for d, i in enumerate(x.idx) if i is var}
    return bool(common)


def rfactor(kernel: Kernel, outer: str, lane: str) -> Kernel:
    """Partial results per lane of a reduction, combined after it.

        for io: .. for l: acc = acc op f
    ->  alloc p[L]; for l: p[l] = neutral; for io: .. for l: p[l] = p[l] op f; for l: acc = acc op p[l]

    Applies to every reduction in the nest whose cell is a register that depends on neither io nor l.  The order of
    combination changes: this accepts another rounding for floats.  Requires at least one such reduction.
    """
    what = f"rfactor {outer}, {lane}"
    found = 0

    def rule(s: For) -> Rewritten:
        nonlocal found
        factor = _Rfactor(kernel, s.var, lane)
        body = factor.block((s,), None, ())
        found += len(factor.after)
        return [*factor.before, *body, *factor.after]

    kernel_after = on_loops(kernel, outer, rule)
    need(found, kernel, what, f"no reduction into a register that depends on neither {outer} nor {lane}")
    return kernel_after


class _Rfactor:
    """One nest: the statements to put before and after it."""

    def __init__(self, kernel: Kernel, outer: Var, lane: str) -> None:
        self.kernel, self.outer, self.lane = kernel, outer, lane
        self.before: list[Stmt] = []
        self.after: list[Stmt] = []

    def block(self, block: Block, lane: For | None, inside: tuple[For, ...]) -> Block:
        """lane: the lane loop around, if any; inside: the loops between it and here."""
        out: list[Stmt] = []
        for s in block:
            if isinstance(s, For):
                at_lane = lane is None and s.var.name == self.lane
                loops = inside if lane is None else (*inside, s)
                s = replace(s, body=self.block(s.body, s if at_lane else lane, loops))
            elif lane is not None and isinstance(s, Store):
                s = self.store(s, lane, inside)
            out.append(s)
        return tuple(out)

    def store(self, s: Store, lane: For, inside: tuple[For, ...]) -> Store:
        found = reduction_of(s)
        if found is None or s.buf.space != "register" or uses_any(s.idx, (self.outer, lane.var)):
            return s
        op, value = found
        assert isinstance(lane.var.extent, int)
        name = fresh_name(self.kernel, f"{s.buf.name}_{self.lane}")
        p = Buffer(name, s.buf.dtype, (lane.var.extent, *s.buf.shape), "register")
        idx = (lane.var, *s.idx)
        type = Type(s.buf.dtype)
        old, new = Load.of(s.buf, s.idx, type), Load.of(p, idx, type)
        around = [lane, *(f for f in inside if any(uses(i, f.var) for i in s.idx))]
        self.before += [Alloc(p), _wrap(Store(p, idx, const(identity(op, s.buf.dtype), type)), around, ())]
        self.after.append(_wrap(Store(s.buf, s.idx, binary(op, old, new)), around, ("reduce",)))
        return Store(p, idx, binary(op, new, value))


def _wrap(s: Stmt, around: list[For], attrs: tuple[object, ...]) -> Stmt:
    """The statement in copies of these loops; the first gets the role of a reduction if it is one."""
    for n, f in reversed(list(enumerate(around))):
        s = For(f.var, (s,), f.kind, attrs if n == 0 else ())
    return s
