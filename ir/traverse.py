"""Walking and rewriting expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .errors import InternalError
from .expr import (
    Bin,
    Call,
    Cast,
    Expr,
    Fma,
    HReduce,
    Load,
    Select,
    Shuffle,
    Splat,
    Un,
    binary,
    call,
    cast,
    fma,
    select,
    splat,
    unary,
)


def children(e: Expr) -> tuple[Expr, ...]:
    match e:
        case Un() | Cast() | Splat() | HReduce():
            return (e.a,)
        case Bin() | Shuffle():
            return (e.a, e.b)
        case Fma():
            return (e.a, e.b, e.c)
        case Select():
            return (e.cond, e.a, e.b)
        case Load():
            return e.idx
        case Call():
            return e.args
    return ()


def rebuild(e: Expr, kids: tuple[Expr, ...]) -> Expr:
    """The same node over other children, simplified, with the lanes that the children have."""
    if all(x is y for x, y in zip(kids, children(e), strict=True)):
        return e
    match e:
        case Un():
            return unary(e.op, kids[0])
        case Cast():
            return cast(kids[0], e.type.dtype)
        case Splat():
            return splat(kids[0], e.type.lanes)
        case HReduce():
            return HReduce.of(e.op, kids[0], e.type)
        case Bin():
            return binary(e.op, *kids)
        case Shuffle():
            return Shuffle.of(*kids, e.mask, e.type)
        case Fma():
            return fma(*kids)
        case Select():
            return select(*kids)
        case Load():
            return Load.of(e.buf, kids, e.type)
        case Call():
            if e.type.lanes != max(a.type.lanes for a in e.args):  # a bitcast to lanes of another size
                return Call.of(e.fn, kids, e.type)
            return call(e.fn, *kids, dtype=e.type.dtype)
    raise InternalError(f"expression {type(e).__name__} has no children")


def rewrite(e: Expr, f: Callable[[Expr], Expr | None], memo: dict[Expr, Expr] | None = None) -> Expr:
    """Bottom-up: f is given each node over its new children and returns a replacement or None."""
    memo = {} if memo is None else memo
    found = memo.get(e)
    if found is None:
        node = rebuild(e, tuple(rewrite(c, f, memo) for c in children(e)))
        replaced = f(node)
        found = memo[e] = node if replaced is None else replaced
    return found


def substitute(e: Expr, mapping: Mapping[Expr, Expr], memo: dict[Expr, Expr] | None = None) -> Expr:
    """Replace nodes, all at once; the replacements are not visited again, nor what simplifying makes of them."""
    memo = {} if memo is None else memo
    found = memo.get(e)
    if found is None:
        found = mapping.get(e)
        if found is None:
            found = rebuild(e, tuple(substitute(c, mapping, memo) for c in children(e)))
        memo[e] = found
    return found


def uses(e: Expr, part: Expr) -> bool:
    """Whether a part occurs in an expression; each distinct node is visited once."""
    seen: set[Expr] = set()
    stack = [e]
    while stack:
        x = stack.pop()
        if x is part:
            return True
        if x not in seen:
            seen.add(x)
            stack += children(x)
    return False


def walk(e: Expr) -> Iterable[Expr]:
    """Every distinct node, operands before users."""
    seen: set[Expr] = set()

    def visit(x: Expr) -> Iterable[Expr]:
        if x not in seen:
            seen.add(x)
            for c in children(x):
                yield from visit(c)
            yield x

    yield from visit(e)
