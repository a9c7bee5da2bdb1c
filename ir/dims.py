"""Arithmetic on dimensions: ints, or expressions of symbolic variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .expr import Bin, Expr, Var, as_expr, from_linear, is_const, linear
from .products import normal
from .traverse import walk
from .types import Dim


def as_dim(e: Expr | int) -> Dim:
    """An expression as a dimension: constants become ints."""
    return int(e.value) if isinstance(e, Expr) and is_const(e) else e  # type: ignore[attr-defined]


def normal_dim(e: Expr | int) -> Dim:
    """A dimension in the form in which equal ones are the same object."""
    return e if isinstance(e, int) else as_dim(normal(e))


def volume(dims: Iterable[Dim]) -> Dim:
    """The number of elements of a shape, in normal form."""
    return normal_dim(multiply_dims(dims))


def exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """a / b if that shows to be without remainder."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 or a % b else a // b
    if normal_dim(as_expr(a) % as_expr(b)) != 0:
        return None
    return normal_dim(as_expr(a) / as_expr(b))


def add_dims(dims: Iterable[Dim]) -> Dim:
    total: Dim = 0
    for d in dims:
        total = as_dim(total + d)
    return total


def multiply_dims(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for d in dims:
        total = as_dim(total * d)
    return total


def factors(dims: Iterable[Dim]) -> tuple[int, tuple[Expr, ...]]:
    """The product of dimensions as (integer, symbolic factors in a fixed order): equal results mean equal products."""
    count = 1
    atoms: list[Expr] = []
    stack = list(dims)
    while stack:
        d = stack.pop()
        if isinstance(d, int):
            count *= d
            continue
        c, terms = linear(d)
        g = math.gcd(c, *terms.values())
        count *= g
        if c == 0 and len(terms) == 1:
            (atom,) = terms
            match atom:
                case Bin(op="mul"):
                    stack += [atom.a, atom.b]
                case _:
                    atoms.append(atom)
        elif g:
            atoms.append(from_linear(c // g, {a: k // g for a, k in terms.items()}))
    return (count, tuple(sorted(atoms, key=id))) if count else (0, ())


def same_volume(a: Iterable[Dim], b: Iterable[Dim]) -> bool | None:
    """Whether two shapes have equally many elements; None where symbolic dimensions leave it open."""
    (m, x), (n, y) = factors(a), factors(b)
    if x == y:
        return m == n
    return None


def equal_runs(a: Sequence[Dim], b: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """Cuts two shapes of the same volume into the shortest runs of dimensions with equal volumes."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        best: tuple[int, int] | None = None
        for m in range(i, len(a) + 1):
            found = [n for n in range(j, len(b) + 1) if m + n > i + j and same_volume(a[i:m], b[j:n])]
            if found and (best is None or m + found[0] < sum(best)):
                best = (m, found[0])
        m, n = best or (len(a), len(b))
        runs.append((list(range(i, m)), list(range(j, n))))
        i, j = m, n
    return runs


def symbols(dims: Iterable[Dim]) -> tuple[Var, ...]:
    """The variables of symbolic dimensions, each once, in order of appearance."""
    found: dict[Var, None] = {}
    for d in dims:
        if isinstance(d, Expr):
            found.update((x, None) for x in walk(d) if isinstance(x, Var))
    return tuple(found)


def join_index(shape: Sequence[Dim], index: Sequence[Expr]) -> Expr:
    """The row-major position of an index."""
    flat: Expr = as_expr(0)
    for i, n in zip(index, shape, strict=True):
        flat = flat * as_expr(n) + i
    return flat


def split_index(shape: Sequence[Dim], flat: Expr) -> list[Expr]:
    """The index at a row-major position."""
    index: list[Expr] = []
    for d in range(len(shape) - 1, -1, -1):
        if shape[d] == 1:
            index.append(as_expr(0))
        elif all(n == 1 for n in shape[:d]):
            index.append(flat)
        else:
            index.append(flat % as_expr(shape[d]))
            flat = flat / as_expr(shape[d])
    return index[::-1]
