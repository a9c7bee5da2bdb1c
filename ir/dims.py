"""Arithmetic on dimensions: ints, or expressions of symbolic variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from .errors import InternalError
from .expr import Bin, Expr, Var, as_expr, from_linear, is_const, linear
from .traverse import substitute
from .types import Dim, TensorType

Bindings = Mapping[Var, int]


def as_dim(e: Expr | int) -> Dim:
    """An expression as a dimension: constants become ints."""
    return int(e.value) if isinstance(e, Expr) and is_const(e) else e  # type: ignore[attr-defined]


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
            if isinstance(atom, Bin) and atom.op == "mul":
                stack += [atom.a, atom.b]
            else:
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
    from .traverse import walk

    found: dict[Var, None] = {}
    for d in dims:
        if isinstance(d, Expr):
            found.update((x, None) for x in walk(d) if isinstance(x, Var))
    return tuple(found)


def bind_dim(d: Dim, bindings: Bindings) -> int:
    """The number that a dimension has when its variables have these values.  Raises InternalError if one is missing."""
    if isinstance(d, int):
        return d
    value = as_dim(substitute(d, {v: as_expr(n) for v, n in bindings.items()}))
    if not isinstance(value, int):
        raise InternalError(f"dimension {d} is not known: no value for {', '.join(v.name for v in symbols([value]))}")
    return value


def bind_type(type: TensorType, bindings: Bindings) -> TensorType:
    return TensorType(type.dtype, tuple(bind_dim(d, bindings) for d in type.shape))


def bind_fields(record: Any, bindings: Bindings) -> Any:
    """A frozen record (an operator) whose fields, and the tuples in them, have numbers for symbolic dimensions."""

    def bind(x: Any) -> Any:
        if isinstance(x, Expr):
            return bind_dim(x, bindings)
        if isinstance(x, tuple) and any(isinstance(y, Expr) for y in x):
            return tuple(bind(y) for y in x)
        return x

    if not is_dataclass(record):
        return record
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    changed = {k: bind(v) for k, v in values.items() if bind(v) is not v}
    return replace(record, **changed) if changed else record  # type: ignore[type-var]
