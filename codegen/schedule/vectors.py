"""Schedules that make vectors and change expressions: vectorize, dot, legalize, fma_contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ...ir.errors import ScheduleError
from ...ir.expr import (
    I64,
    Bin,
    Call,
    Cast,
    Expr,
    HReduce,
    Load,
    Ramp,
    Shuffle,
    Splat,
    Type,
    Var,
    as_expr,
    binary,
    const,
    fma,
    from_linear,
    linear,
    splat,
    unary,
)
from ...ir.kernel import Block, For, If, Kernel, Prefetch, Stmt, Store, coefficient, map_block, walk_block
from ...ir.traverse import children, rebuild, rewrite, substitute, uses, walk
from ...ir.types import DTYPES
from .rewrite import Rewritten, describe, need, on_loops, perfect_nest, reads, reduction_of


def vectorize(kernel: Kernel, *names: str) -> Kernel:
    """A loop becomes vectors of its extent.

        for l < n: Y[l] = f(X[l], W, G[l]); acc = acc + Z[l]
    ->  Y[0]:n = f(X[0]:n, splat(W), G[ramp]..);  acc = acc + hreduce(Z[0]:n)

    A load becomes a contiguous vector, a broadcast or a gather, a store contiguous or a scatter, by the strides of the
    index map.  A reduction into a cell that does not depend on l is combined horizontally, in another order.  Lanes
    need not be a power of two.  Requires a constant extent, only stores inside (prefetches are kept once; conditions are the
    same in all lanes), no vectors yet, and register arrays contiguous in l.
    """
    for name in names:
        kernel = on_loops(kernel, name, lambda s, k=kernel: vectorize_loop(k, s))  # type: ignore[misc]
    return kernel


def vectorize_loop(kernel: Kernel, s: For) -> list[Stmt]:
    """The body of one loop on vectors; the kernel is for messages."""
    what = f"vectorize {s.var.name}"
    n = s.var.extent
    need(isinstance(n, int), kernel, what, f"the extent {n} is not constant")
    assert isinstance(n, int)
    return _Widen(kernel, what, s.var, n).block(s.body)


def vector_store(v: Var, made: Store) -> tuple[Stmt, ...]:
    """One store for all values of v, as `vectorize` makes it of the loop `for v: made`."""
    loop = For(v, (made,))
    return tuple(vectorize_loop(Kernel("store", (), (loop,)), loop))


class _Widen:
    """Replaces the variable of one loop by lanes 0..n-1; what does not depend on it stays scalar."""

    def __init__(self, kernel: Kernel, what: str, var: Var, n: int) -> None:
        self.kernel, self.what, self.var, self.n = kernel, what, var, n
        self.memo: dict[Expr, Expr] = {}

    def need(self, condition: object, message: str) -> None:
        need(condition, self.kernel, self.what, message)

    def already(self, e: Expr) -> ScheduleError:
        return ScheduleError(f"kernel {self.kernel.name}: {self.what}: {e} is a vector already", str(self.kernel))

    def block(self, body: Block) -> list[Stmt]:
        out: list[Stmt] = []
        for t in body:
            if isinstance(t, Prefetch):
                out.append(replace(t, idx=tuple(self.first(i) for i in t.idx)))
            elif isinstance(t, If):
                self.need(not uses(t.cond, self.var), f"the condition {t.cond} differs between lanes")
                out.append(If(t.cond, tuple(self.block(t.then)), tuple(self.block(t.other))))
            else:
                self.need(isinstance(t, Store), f"only stores can be inside, found {describe((t,))}")
                assert isinstance(t, Store)
                out.append(self.store(t))
        return out

    def first(self, e: Expr) -> Expr:
        """The value in lane 0."""
        return substitute(e, {self.var: as_expr(0)})

    def store(self, s: Store) -> Store:
        self.need(s.value.type.lanes == 1, f"{s.buf.name} is given a vector already")
        if self.n == 1:
            return Store(s.buf, tuple(map(self.first, s.idx)), self.first(s.value), s.mode)
        if not any(uses(i, self.var) for i in s.idx):
            return self.reduction(s)
        value = splat(self.expr(s.value), self.n)
        if coefficient(s.buf, s.idx, self.var) == 1:
            return Store(s.buf, tuple(map(self.first, s.idx)), value, s.mode)
        self.need(s.buf.space != "register", f"register array {s.buf.name} is not contiguous in {self.var.name}")
        return Store(s.buf, self.lanes_of(s.idx), value, s.mode)

    def reduction(self, s: Store) -> Store:
        found = reduction_of(s)
        if found is None:
            same = not uses(s.value, self.var) and all(e.buf != s.buf for e in reads(s))
            self.need(same, f"{s.buf.name}[{', '.join(map(str, s.idx))}] is overwritten in every iteration")
            return s
        op, value = found
        wide = splat(self.expr(value), self.n)
        cell = Load.of(s.buf, s.idx, s.value.type)
        return Store(s.buf, s.idx, binary(op, cell, HReduce.of(op, wide, s.value.type)), s.mode)

    def expr(self, e: Expr) -> Expr:
        found = self.memo.get(e)
        if found is None:
            found = self.memo[e] = self.widen(e)
        return found

    def widen(self, e: Expr) -> Expr:
        if self.n == 1:
            return self.first(e)
        if e is self.var:
            return Ramp.of(Type("i64", self.n))
        if isinstance(e, Load):
            return self.load(e)
        if e.type == I64:
            return self.integer(e)
        if not isinstance(e, Var) and children(e):
            kids = tuple(self.expr(c) for c in children(e))
            vector = isinstance(e, Splat | Shuffle | HReduce) or e.type.lanes > 1
            changed = any(k is not c for k, c in zip(kids, children(e), strict=True))
            if vector and changed:
                raise self.already(e)
            return rebuild(e, kids)
        return e

    def integer(self, e: Expr) -> Expr:
        """An index: a scalar part in front of the terms that use the variable, so that addresses stay cheap."""
        c, terms = linear(e)
        moving = {a: k for a, k in terms.items() if uses(a, self.var)}
        if not moving:
            return e
        if e in moving:
            return rebuild(e, tuple(self.expr(x) for x in children(e)))
        rest = from_linear(c, {a: k for a, k in terms.items() if a not in moving})
        total: Expr | None = None
        for atom, k in moving.items():
            term = self.expr(atom)
            if k != 1:
                term = binary("mul", term, const(k))
            total = term if total is None else binary("add", total, term)
        assert total is not None
        return total if rest is as_expr(0) else binary("add", splat(rest, self.n), total)

    def lanes_of(self, idx: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(self.expr(i) for i in idx)

    def load(self, e: Load) -> Expr:
        if not any(uses(i, self.var) for i in e.idx):
            return e
        if e.type.lanes != 1:
            raise self.already(e)
        plain = e.type.dtype == e.buf.dtype
        step = coefficient(e.buf, e.idx, self.var)
        if step is not None and step * DTYPES[e.buf.dtype].size == DTYPES[e.type.dtype].size:
            return Load.of(e.buf, tuple(map(self.first, e.idx)), e.type.with_lanes(self.n))
        self.need(e.buf.space != "register", f"register array {e.buf.name} is not contiguous in {self.var.name}")
        self.need(plain, f"elements of {e.buf.name} that are not contiguous are reinterpreted")
        return Load.of(e.buf, self.lanes_of(e.idx), e.type.with_lanes(self.n))


ADDED_APART = frozenset({"pmaddwd"})  # instructions whose result is added to the sums by another one


def dot(kernel: Kernel, lane: str, group: str, fn: str, count: int, total: str) -> Kernel:
    """`count` products of neighbours per lane become one instruction; total: the type of the sums.

        for l < n: for g < 4: acc[l] = acc[l] + i32(a[g]) * i32(b[l, g])
    ->  acc[0]:n = fn(acc[0]:n, splat(a[0] as i32), b[0, 0] as i32:n)

    Requires that the nest is exactly that: groups of a and of b contiguous in g and together of 32 bits, b contiguous in
    (l, g), acc in l.  An instruction that does not add to its first operand is followed by an addition.
    """
    what = f"dot {lane}, {group}"
    made = 0

    def rule(s: For) -> Rewritten:
        nonlocal made
        if len(s.body) != 1 or not (isinstance(s.body[0], For) and s.body[0].var.name == group):
            return None
        (outer, inner), body = perfect_nest(kernel, what, s, (lane, group))
        lv, qv = outer.var, inner.var
        n = lv.extent
        ok = len(body) == 1 and qv.extent == count and isinstance(n, int)
        need(ok, kernel, what, f"expected one store, {count} deep")
        assert isinstance(n, int)
        found = reduction_of(body[0])
        product = found[1] if found else None
        ok = found is not None and found[0] == "add" and isinstance(product, Bin) and product.op == "mul"
        need(ok, kernel, what, "expected acc = acc + a * b")
        assert isinstance(product, Bin)
        a, b = _loaded(product.a), _loaded(product.b)
        st = body[0]
        assert isinstance(st, Store)
        need(a is not None and b is not None, kernel, what, "expected a and b to be loaded")
        assert a is not None and b is not None
        if coefficient(a.buf, a.idx, lv) != 0:  # the factors of a product stand in any order
            a, b = b, a
        steps = [coefficient(x.buf, x.idx, v) for x in (a, b, st) for v in (lv, qv)]
        need(steps == [0, 1, count, 1, 1, 0], kernel, what, f"a, b and acc move by {steps} for the two loops")
        sizes = (DTYPES[a.buf.dtype].size, DTYPES[b.buf.dtype].size)
        fits = sizes == (4 // count, 4 // count) and st.buf.dtype == total
        need(fits, kernel, what, f"operands of {a.buf.dtype} and {b.buf.dtype} are not summed in {total} by this instruction")
        zero: dict[Expr, Expr] = {lv: as_expr(0), qv: as_expr(0)}
        at = lambda idx: tuple(substitute(i, zero) for i in idx)  # noqa: E731
        packed, result = Type("i32", n), Type(total, n)
        acc = Load.of(st.buf, at(st.idx), result)
        args = (splat(Load.of(a.buf, at(a.idx), Type("i32")), n), Load.of(b.buf, at(b.idx), packed))
        made += 1
        if fn in ADDED_APART:
            return Store(st.buf, at(st.idx), binary("add", acc, Call.of(fn, args, result)))
        return Store(st.buf, at(st.idx), Call.of(fn, (acc, *args), result))

    after = on_loops(kernel, lane, rule)
    need(made, kernel, what, f"no loop {lane} has only a loop {group} inside")
    return after


def _loaded(e: Expr) -> Load | None:
    """The load below conversions."""
    while isinstance(e, Cast):
        e = e.a
    return e if isinstance(e, Load) else None


def map_expressions(kernel: Kernel, rule: Callable[[Expr], Expr | None]) -> Kernel:
    """Rewrite every expression bottom-up."""
    memo: dict[Expr, Expr] = {}
    return replace(kernel, body=map_block(kernel.body, None, lambda e: rewrite(e, rule, memo)))


def legalize(kernel: Kernel, table: Mapping[str, Callable[..., Expr | None]]) -> Kernel:
    """Replace calls by expressions that the machine has.

        exp(x)  ->  table["exp"](x)

    A table entry gives None for element types that it leaves alone.
    """

    def rule(e: Expr) -> Expr | None:
        return table[e.fn](*e.args) if isinstance(e, Call) and e.fn in table else None

    return map_expressions(kernel, rule)


def fma_contract(kernel: Kernel, dtypes: tuple[str, ...] = ("f32", "f64")) -> Kernel:
    """Products that are added become fused, with one rounding instead of two.

    a * b + c  ->  fma(a, b, c);  c - a * b  ->  fma(-a, b, c);  a * b - c  ->  fma(a, b, -c)
    """

    def rule(e: Expr) -> Expr | None:
        if not isinstance(e, Bin) or e.op not in ("add", "sub") or e.type.dtype not in dtypes:
            return None
        a, b = e.a, e.b
        if isinstance(b, Bin) and b.op == "mul":
            return fma(b.a if e.op == "add" else unary("neg", b.a), b.b, a)
        if isinstance(a, Bin) and a.op == "mul":
            return fma(a.a, a.b, b if e.op == "add" else unary("neg", b))
        return None

    return map_expressions(kernel, rule)


def invert_divisors(kernel: Kernel, name: str) -> Kernel:
    """Divisions by what does not change in a loop become products.

        for j: Y[j] = X[j] / s  ->  for j: Y[j] = X[j] * (1 / s)

    Rounds twice: this accepts an error of one and a half units in the last place for f32 and f64.
    """

    def rule(s: For) -> For:
        changing = {f.var for f in walk_block((s,)) if isinstance(f, For)}
        written = {t.buf for t in walk_block(s.body) if isinstance(t, Store)}

        def fixed(e: Expr) -> bool:
            return not any(x in changing or (isinstance(x, Load) and x.buf in written) for x in walk(e))

        def invert(e: Expr) -> Expr | None:
            if isinstance(e, Bin) and e.op == "div" and e.type.dtype in ("f32", "f64") and fixed(e.b) and not fixed(e.a):
                return binary("mul", e.a, binary("div", 1.0, e.b))
            return None

        memo: dict[Expr, Expr] = {}
        return replace(s, body=map_block(s.body, None, lambda e: rewrite(e, invert, memo)))

    return on_loops(kernel, name, rule)
