"""Schedules that use what is known when compiling: expand, fold, forward."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...ir.expr import Bin, Const, Expr, Load, Type, Un, as_expr, binary, const, is_const, linear, unary
from ...ir.kernel import Alloc, Block, Buffer, For, If, Kernel, Stmt, Store, map_block, substitute_block, walk_block
from ...ir.traverse import rewrite
from .rewrite import Rewritten, accesses, find_buffer, fresh_name, loads_of, need, on_loops, reads, replace_temporary


def expand(kernel: Kernel, *names: str) -> Kernel:
    """for i < 3: A(i)  ->  A(0); A(1); A(2), so that constants fold.  Requires a constant extent.

    Each copy of a temporary declared in the loop has a name of its own.
    """
    for name in names:
        kernel = on_loops(kernel, name, _Expand(kernel, name))
    return kernel


class _Expand:
    """The copies of one axis' loops; counts the copies of temporaries."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel, self.name = kernel, name
        self.copies: dict[str, int] = {}

    def __call__(self, s: For) -> list[Stmt]:
        n = s.var.extent
        need(isinstance(n, int), self.kernel, f"expand {self.name}", f"the extent {n} is not constant")
        assert isinstance(n, int)
        return [t for i in range(n) for t in self.copy(s, i)]

    def copy(self, s: For, i: int) -> Block:
        body = substitute_block(s.body, {s.var: as_expr(i)})
        for buf in [t.buf for t in s.body if isinstance(t, Alloc)]:
            number = self.copies[buf.name] = self.copies.get(buf.name, -1) + 1
            new = replace(buf, name=fresh_name(self.kernel, f"{buf.name}_{number}"))
            body = replace_temporary(body, buf, new, lambda *idx: idx)
        return body


def fold(kernel: Kernel, name: str, values: np.ndarray) -> Kernel:
    """Loads of a constant parameter at constant indices become constants, and products with 0, 1, -1 and sums follow.

    The parameter is removed.  Stores of a cell to itself disappear.  Requires that it is read at constant indices only.
    Products with 0 become 0: an infinity or NaN in the other factor is dropped.
    """
    what = f"fold {name}"
    buf = find_buffer(kernel, what, name)
    need(tuple(buf.shape) == values.shape, kernel, what, f"expected values of shape {buf.shape}, got {values.shape}")

    def rule(e: Expr) -> Expr | None:
        if isinstance(e, Load) and e.buf == buf:
            at = tuple(i.value for i in e.idx if isinstance(i, Const))
            need(len(at) == len(e.idx) and e.type == (buf.dtype, 1), kernel, what, f"it is read at {e.idx}")
            return const(values[at], Type(buf.dtype))
        return simplify_float(e) if isinstance(e, Bin) else None

    def same_cell(s: Stmt) -> Rewritten:
        v = s.value if isinstance(s, Store) else None
        same = isinstance(s, Store) and isinstance(v, Load) and v.buf == s.buf and v.idx == s.idx
        return () if same else None

    memo: dict[Expr, Expr] = {}
    body = map_block(kernel.body, same_cell, lambda e: rewrite(e, rule, memo))
    return replace(kernel, params=tuple(p for p in kernel.params if p != buf), body=body)


def simplify_float(e: Bin) -> Expr | None:
    """x * 0, x * 1, x * -1, x + 0 and x + -y in the algebra of real numbers."""
    a, b = e.a, e.b
    if e.op == "mul":
        for c, x in ((a, b), (b, a)):
            if is_const(c, 0):
                return c
            if is_const(c, 1):
                return x
            if is_const(c, -1):
                return unary("neg", x)
    if e.op == "add":
        if is_const(a, 0):
            return b
        if is_const(b, 0):
            return a
        if isinstance(b, Un) and b.op == "neg":
            return binary("sub", a, b.a)
    return None


def forward(kernel: Kernel) -> Kernel:
    """Substitute register cells that are written once and read once into their use.

        t[0] = x * w; u[1] = t[0] + y  ->  u[1] = x * w + y

    Applies within one block, where nothing that the value reads is written in between, to cells that no other index of
    the array may mean.  A register array that nothing reads any more disappears.
    """
    body = _forward_block(kernel.body, _Cells(kernel.body))
    used = {a.buf for a in accesses(body)}
    body = map_block(body, lambda s: () if isinstance(s, Alloc) and s.buf not in used else None)
    return replace(kernel, body=body)


class _Cells:
    """How often each register cell is written and read; cells of an array are told apart by constant differences."""

    def __init__(self, block: Block) -> None:
        self.stores: dict[tuple[Buffer, tuple[Expr, ...], int], int] = {}
        self.loads: dict[Load, int] = {}
        for s in walk_block(block):
            if isinstance(s, Store) and s.buf.space == "register":
                key = (s.buf, s.idx, s.value.type.lanes)
                self.stores[key] = self.stores.get(key, 0) + 1
            for e in reads(s):
                if e.buf.space == "register":
                    self.loads[e] = self.loads.get(e, 0) + 1
        self.indices: dict[Buffer, set[tuple[Expr, ...]]] = {}
        for buf, idx in {(k[0], k[1]) for k in self.stores} | {(e.buf, e.idx) for e in self.loads}:
            self.indices.setdefault(buf, set()).add(idx)

    def single(self, s: Store) -> Load | None:
        """The only load of what this store writes, if it is the only store to the cell."""
        if s.buf.space != "register" or self.stores.get((s.buf, s.idx, s.value.type.lanes)) != 1:
            return None
        load = Load.of(s.buf, s.idx, s.value.type)
        if self.loads.get(load) != 1 or any(not _distinct(s.idx, other) for other in self.indices[s.buf] - {s.idx}):
            return None
        return load


def _distinct(x: tuple[Expr, ...], y: tuple[Expr, ...]) -> bool:
    """Whether two indices differ by a constant in some dimension."""
    for i, j in zip(x, y, strict=True):
        c, terms = linear(i - j)
        if c and not terms:
            return True
    return False


def _forward_block(block: Block, cells: _Cells) -> Block:
    out: list[Stmt | None] = []
    waiting: dict[Expr, tuple[int, Expr]] = {}  # load of a cell -> where it is stored in `out`, and the value
    for s in block:
        match s:
            case For():
                s = replace(s, body=_forward_block(s.body, cells))
            case If():
                s = If(s.cond, _forward_block(s.then, cells), _forward_block(s.other, cells))
            case Store():
                found = {e: waiting.pop(e) for e in list(reads(s)) if e in waiting}
                for at, _ in found.values():
                    out[at] = None
                values: dict[Expr, Expr] = {e: value for e, (_, value) in found.items()}
                s = replace(s, idx=tuple(rewrite(i, values.get) for i in s.idx), value=rewrite(s.value, values.get))
        written = {a.buf for a in accesses((s,)) if a.writes}
        waiting = {e: w for e, w in waiting.items() if not any(x.buf in written for x in loads_of(w[1]))}
        if isinstance(s, Store):
            load = cells.single(s)
            if load is not None:
                waiting[load] = (len(out), s.value)
        out.append(s)
    return tuple(s for s in out if s is not None)
