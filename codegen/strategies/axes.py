"""Simplifying the axes of a computation before it is scheduled: unit axes go, axes that are one run become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir.compute import Compute, identity
from ...ir.dims import multiply_dims, normal_dim
from ...ir.expr import Expr, Load, Var, as_expr, const, linear
from ...ir.kernel import Buffer, axis, flat_index
from ...ir.traverse import children, substitute, uses
from ...ir.types import Dim


def substitute_axes(c: Compute, mapping: dict[Expr, Expr], axes: Sequence[Var], reduce: Sequence[Var]) -> Compute:
    """The computation over other axes; mapping gives the old ones as expressions of the new."""
    memo: dict[Expr, Expr] = {}
    return replace(
        c, axes=tuple(axes), reduce=tuple(reduce), body=substitute(c.body, mapping, memo),
        finish=None if c.finish is None else substitute(c.finish, mapping, memo),
        index=tuple(substitute(i, mapping, memo) for i in c.out_index),
        init=substitute(c.init, mapping, memo) if isinstance(c.init, Expr) else c.init,
    )


def drop_unit_axes(c: Compute) -> Compute:
    gone: dict[Expr, Expr] = {v: as_expr(0) for v in (*c.axes, *c.reduce) if v.extent == 1}
    if not gone:
        return c
    return substitute_axes(c, gone, [v for v in c.axes if v not in gone], [v for v in c.reduce if v not in gone])


def without_empty_sum(c: Compute) -> Compute:
    """A reduction over no elements as the map that it is: its initial value, finished."""
    if c.is_map or all(v.extent != 0 for v in c.reduce):
        return c
    init = identity(c.combine, c.acc) if c.init is None else c.init
    start = init if isinstance(init, Expr) else const(init, c.acc)
    return replace(c, body=c.result(start), reduce=(), combine="", finish=None, init=None)


def accesses(c: Compute) -> list[tuple[Buffer, tuple[Expr, ...]]]:
    """Every read and the write of a computation."""
    return [(r.buf, r.idx) for r in c.reads()] + [(c.out, c.out_index)]


def collapse_axes(c: Compute, keep: frozenset[Var] = frozenset()) -> Compute:
    """Join neighbouring axes (parallel with parallel, reduction with reduction) that every access walks as one run.
    Axes in `keep` stay as they are."""
    for group in ("reduce", "axes"):
        n = 0
        while n + 1 < len(getattr(c, group)):
            joined = _join(c, group, n) if not {getattr(c, group)[n], getattr(c, group)[n + 1]} & keep else None
            if joined is None:
                n += 1
            else:
                c = joined
    return c


def _join(c: Compute, group: str, n: int) -> Compute | None:
    axes = list(getattr(c, group))
    a, b = axes[n], axes[n + 1]
    if a.extent is None or b.extent is None:
        return None
    c2 = axis(f"{a.name}{b.name}", normal_dim(multiply_dims([a.extent, b.extent])))
    inner = as_expr(b.extent)
    mapping: dict[Expr, Expr] = {a: c2 // inner, b: c2 % inner}
    axes[n : n + 2] = [c2]
    made = substitute_axes(
        c, mapping, axes if group == "axes" else c.axes, axes if group == "reduce" else c.reduce
    )
    return made if all(_is_linear(buf, idx, c2) for buf, idx in accesses(made)) and not _bare(made, c2) else None


def _is_linear(buf: Buffer, idx: tuple[Expr, ...], v: Var) -> bool:
    """The address moves by the same distance with every step of v: v is in no quotient or remainder."""
    if any(isinstance(i, Load) for i in idx):
        return not any(uses(i, v) for i in idx)
    _, terms = linear(flat_index(buf, idx))
    return not any(t is not v and uses(t, v) for t in terms)


def _bare(c: Compute, v: Var) -> bool:
    """v is used as a value (not only in addresses): a quotient of it would be computed for every element."""
    stack = [c.body] + ([] if c.finish is None else [c.finish])
    seen: set[Expr] = set()
    while stack:
        e = stack.pop()
        if e is v:
            return True
        if e not in seen and not isinstance(e, Load):
            seen.add(e)
            stack += children(e)
    return False


def simplify_axes(c: Compute) -> Compute:
    return collapse_axes(drop_unit_axes(c))


def rename_axes(c: Compute, names: dict[Var, str]) -> Compute:
    new: dict[Var, Var] = {v: Var.of(names.get(v, v.name), v.extent) for v in (*c.axes, *c.reduce)}
    mapping: dict[Expr, Expr] = {old: v for old, v in new.items()}  # noqa: C416 - keys and values are widened
    return substitute_axes(c, mapping, [new[v] for v in c.axes], [new[v] for v in c.reduce])


def size_of(v: Var) -> int:
    assert isinstance(v.extent, int), v
    return v.extent


def extents(axes: Sequence[Var]) -> list[Dim]:
    return [0 if v.extent is None else v.extent for v in axes]
