"""Linear forms of integer expressions, and the ranges of their values.

An i64 scalar is kept as `constant + sum(coefficient * atom)`; an atom is any other node.  A `Var` of extent n is in
0..n-1, from which everything else about ranges follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

from .nodes import I64, Bin, Const, Expr, Var, const

Range = tuple[Union[int, None], Union[int, None]]
_linear_cache: dict[Expr, tuple[int, dict[Expr, int]]] = {}
_bounds_cache: dict[Expr, Range] = {}


def linear(e: Expr) -> tuple[int, dict[Expr, int]]:
    """An i64 scalar as (constant, {atom: coefficient}).  The result is shared: do not modify it."""
    found = _linear_cache.get(e)
    if found is None:
        found = _linear_cache[e] = _linear(e)
    return found


def _linear(e: Expr) -> tuple[int, dict[Expr, int]]:
    if isinstance(e, Const):
        return e.value, {}
    if isinstance(e, Bin) and e.op in ("add", "sub"):
        return combine(linear(e.a), linear(e.b), 1 if e.op == "add" else -1)
    if isinstance(e, Bin) and e.op == "mul" and isinstance(e.b, Const):
        return scale(linear(e.a), e.b.value)
    return 0, {e: 1}


def combine(x: tuple[int, dict[Expr, int]], y: tuple[int, dict[Expr, int]], sign: int) -> tuple[int, dict[Expr, int]]:
    terms = dict(x[1])
    for atom, k in y[1].items():
        k = terms.get(atom, 0) + sign * k
        if k:
            terms[atom] = k
        else:
            terms.pop(atom, None)
    return x[0] + sign * y[0], terms


def scale(x: tuple[int, dict[Expr, int]], k: int) -> tuple[int, dict[Expr, int]]:
    return (x[0] * k, {a: v * k for a, v in x[1].items()}) if k else (0, {})


def from_linear(c: int, terms: Mapping[Expr, int]) -> Expr:
    """The canonical expression of a linear form.  Rule: (x/n)*n*q + (x%n)*q -> x*q."""
    terms = dict(terms)
    for atom in list(terms):
        if isinstance(atom, Bin) and atom.op == "mod" and isinstance(atom.b, Const) and atom in terms:
            quotient = _quotient(atom.a, atom.b)
            q = terms[atom]
            if terms.get(quotient) == q * atom.b.value:
                del terms[atom], terms[quotient]
                c, terms = combine((c, terms), scale(linear(atom.a), q), 1)
    result: Expr | None = None
    for atom, k in terms.items():
        term = atom if k == 1 else Bin.of("mul", atom, const(k), I64)
        result = term if result is None else Bin.of("add", result, term, I64)
    if result is None:
        return const(c)
    return Bin.of("add", result, const(c), I64) if c else result


def _quotient(a: Expr, n: Const) -> Expr:
    """a / n as it is kept: (x/m)/n is x/(m*n)."""
    if isinstance(a, Bin) and a.op == "div" and isinstance(a.b, Const) and a.b.value > 0:
        return Bin.of("div", a.a, const(a.b.value * n.value), I64)
    return Bin.of("div", a, n, I64)


def bounds(e: Expr) -> Range:
    """Lowest and highest value of an i64 scalar, None where unknown."""
    found = _bounds_cache.get(e)
    if found is None:
        found = _bounds_cache[e] = _bounds(e)
    return found


def _bounds(e: Expr) -> Range:
    if isinstance(e, Const):
        return e.value, e.value
    if isinstance(e, Var):
        if isinstance(e.extent, int):
            return 0, e.extent - 1
        high = None if e.extent is None else bounds(e.extent)[1]
        return 0, None if high is None else high - 1
    if isinstance(e, Bin) and isinstance(e.b, Const) and e.b.value > 0:
        n = e.b.value
        lo, hi = bounds(e.a)
        if e.op == "mod":
            return (lo, hi) if lo is not None and hi is not None and lo >= 0 and hi < n else (0, n - 1)
        if e.op == "div":
            return None if lo is None else lo // n, None if hi is None else hi // n
    if isinstance(e, Bin) and e.op in ("min", "max"):
        return _extreme_bounds(e.op, bounds(e.a), bounds(e.b))
    if isinstance(e, Bin) and e.op == "xor":
        (low, high), (other_low, other_high) = bounds(e.a), bounds(e.b)
        if low is None or high is None or other_low is None or other_high is None or min(low, other_low) < 0:
            return None, None
        return 0, (1 << max(high, other_high).bit_length()) - 1
    c, terms = linear(e)
    if e in terms:
        return None, None
    lo, hi = c, c
    for atom, k in terms.items():
        a, b = bounds(atom) if k > 0 else bounds(atom)[::-1]
        lo = None if lo is None or a is None else lo + k * a
        hi = None if hi is None or b is None else hi + k * b
    return lo, hi


def _extreme_bounds(op: str, a: Range, b: Range) -> Range:
    """The range of min or max: one side is known if it is for either operand, the other if it is for both."""
    pick = min if op == "min" else max
    known = [[x for x in side if x is not None] for side in zip(a, b, strict=True)]
    either, both = (1, 0) if op == "min" else (0, 1)
    result: list[int | None] = [None, None]
    result[either] = pick(known[either]) if known[either] else None
    result[both] = pick(known[both]) if len(known[both]) == 2 else None
    return result[0], result[1]
