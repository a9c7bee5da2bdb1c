"""From a fused group of operators to its computations: maps are substituted into their readers, epilogues appended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..ir.compute import Compute, acc_var, append, inline
from ..ir.errors import InternalError
from ..ir.expr import Bin, Call, Cast, Const, Expr, Load, Un, binary, const
from ..ir.graph import Graph, Value
from ..ir.kernel import Buffer
from ..ir.traverse import children, rewrite, substitute, walk
from ..ir.types import DTYPES, dtype_of, is_integer


def embed_scalars(c: Compute, scalars: Mapping[Buffer, np.ndarray]) -> Compute:
    """Reads of these one-element constants become constants in the expressions."""
    if not scalars:
        return c

    def read(e: Expr) -> Expr | None:
        if isinstance(e, Load) and e.buf in scalars:
            array = scalars[e.buf]
            return const(array.reshape(-1)[0], dtype_of(array))
        return None

    memo: dict[Expr, Expr] = {}
    finish = None if c.finish is None else rewrite(c.finish, read, memo)
    return replace(c, body=rewrite(c.body, read, memo), finish=finish)


def start_with_addend(c: Compute) -> Compute:
    """What is added to sums of integers is where they start: finish = f(acc + x) becomes init = x, finish = f(acc)."""
    acc = acc_var(c.acc)
    if c.combine != "add" or c.acc not in ("i32", "i64") or c.init is not None or c.finish is None:
        return c
    found = [e for e in walk(c.finish) if isinstance(e, Bin) and e.op == "add" and acc in (e.a, e.b)]
    if len(found) != 1 or sum(k is acc for e in walk(c.finish) for k in children(e)) != 1:
        return c
    addend = found[0].b if found[0].a is acc else found[0].a
    return c if addend is acc else replace(c, init=addend, finish=substitute(c.finish, {found[0]: acc}))


def keep_rounded(c: Compute) -> Compute:
    """Floats that become integers and floats again stay rounded floats, which are the same numbers."""
    memo: dict[Expr, Expr] = {}
    finish = None if c.finish is None else rewrite(c.finish, _rounded, memo)
    return replace(c, body=rewrite(c.body, _rounded, memo), finish=finish)


def _rounded(e: Expr) -> Expr | None:
    """f32(u8(i32(r) + z)) -> r + z, and less z -> r, for r = rint(min(high, max(low, ..))) that fits."""
    if isinstance(e, Bin) and e.op == "sub" and isinstance(e.b, Const):
        a = e.a
        same = isinstance(a, Bin) and a.op == "add" and _bounds(a.a) and isinstance(a.b, Const) and a.b.value == e.b.value
        return a.a if same else None  # type: ignore[union-attr]
    if not (isinstance(e, Cast) and e.type.dtype == "f32" and isinstance(e.a, Cast) and is_integer(e.a.type.dtype)):
        return None
    whole, zero = e.a.a, 0
    if isinstance(whole, Bin) and whole.op == "add" and isinstance(whole.b, Const):
        whole, zero = whole.a, whole.b.value
    rounded = whole.a if isinstance(whole, Cast) and whole.type.dtype == "i32" else None
    bounds = None if rounded is None else _bounds(rounded)
    if rounded is None or bounds is None:
        return None
    info = np.iinfo(DTYPES[e.a.type.dtype].numpy)
    if bounds[0] + zero < info.min or bounds[1] + zero > info.max:
        return None
    return binary("add", rounded, float(zero)) if zero else rounded


def _bounds(e: Expr) -> tuple[float, float] | None:
    """Bounds of rint(min(high, max(low, ..)))."""
    inner = e.a if isinstance(e, Un) and e.op == "rint" and e.type.dtype == "f32" else None
    if not (isinstance(inner, Bin) and inner.op == "min" and isinstance(inner.a, Const) and isinstance(inner.b, Bin)):
        return None
    low = inner.b.a if inner.b.op == "max" else None
    return (low.value, inner.a.value) if isinstance(low, Const) else None


def is_cheap(c: Compute) -> bool:
    """Computing it twice costs less than storing it: no function calls, and few operations."""
    nodes = list(walk(c.body))
    return len(nodes) <= 24 and not any(isinstance(e, Call) for e in nodes)


def compose(body: Graph, buffers: Mapping[Value, Buffer], kind: str) -> tuple[Compute, ...]:
    """The computations of a group.  One for kinds with an anchor and for maps, and for "means" that of its second output;
    for "rows" the reductions, what the group gives out, and the maps that are better stored than computed again."""
    if kind == "means":
        *nodes, last = body.nodes
        (c,) = compose(Graph(kind, body.inputs, body.outputs[:1], tuple(nodes), body.constants), buffers, "contract")
        return c, last.op.compute(buffers[body.outputs[1]], buffers[body.outputs[0]])
    scalars = {buffers[v]: a for v, a in body.constants.items()}
    readers: dict[Value, int] = {}
    for node in body.nodes:
        for v in set(node.inputs):
            readers[v] = readers.get(v, 0) + 1
    made: dict[Value, Compute] = {}
    for node in body.nodes:
        (out,) = node.outputs
        c = embed_scalars(node.op.compute(buffers[out], *(buffers[v] for v in node.inputs)), scalars)
        for v in dict.fromkeys(node.inputs):
            p = made.get(v)
            if p is None or not p.is_map:
                continue
            if kind != "rows" or (v not in body.outputs and (readers[v] == 1 or is_cheap(p))):
                c = inline(c, p)
        made[out] = c
    made = {v: keep_rounded(c) for v, c in made.items()}
    if kind == "rows":
        return _needed(body, made)
    (out,) = body.outputs
    anchors = [c for c in made.values() if not c.is_map]
    if len(anchors) > 1:
        raise InternalError(f"a group of kind {kind} has {len(anchors)} reductions", str(body))
    if not anchors or made[out] is anchors[0]:
        return (made[out],)
    return (keep_rounded(start_with_addend(append(anchors[0], made[out]))),)


def _needed(body: Graph, made: Mapping[Value, Compute]) -> tuple[Compute, ...]:
    """The computations that an output or another kept computation reads, in order."""
    needed = {made[v].out for v in body.outputs}
    kept: list[Compute] = []
    for c in reversed(list(made.values())):
        if c.out in needed:
            kept.append(c)
            needed.update(r.buf for r in c.reads())
    return tuple(reversed(kept))
