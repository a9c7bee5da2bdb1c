"""Integer expressions as sums of products: the normal form of addresses and sizes that have symbolic dimensions in them.

`linear` knows sums of atoms with constant coefficients; with symbolic strides a coefficient is itself a product of
dimensions.  Here an i64 scalar is `sum(integer * atom * atom * ...)`, which makes equal what is equal up to distribution
and order, and gives quotients and remainders by symbolic sizes, for dimensions of 1 or more:

    (x*n + y)/n -> x and %n -> y, if 0 <= y < n;    (x/n)*n*q + (x%n)*q -> x*q
"""

from __future__ import annotations

from collections.abc import Mapping

from .nodes import I64, Bin, Const, Expr, Load, Var

Product = tuple[Expr, ...]
Sum = dict[Product, int]
"""Products of atoms, in the order of their texts, with their coefficients; () is the constant."""

_sums: dict[Expr, Sum] = {}
_normal: dict[Expr, Expr] = {}
_texts: dict[Expr, str] = {}


def normal(e: Expr) -> Expr:
    """The expression with its products multiplied out, terms in a fixed order; the same where none is symbolic."""
    found = _normal.get(e)
    if found is None:
        found = _normal[e] = from_sum(sum_of(e)) if _has_products(e) else e
    return found


def sum_of(e: Expr) -> Sum:
    """The sum of products of an i64 scalar.  The result is shared: do not modify it."""
    found = _sums.get(e)
    if found is None:
        found = _sums[e] = _rejoined(_sum_of(e))
    return found


def from_sum(s: Sum) -> Expr:
    """The canonical expression: products are nested to the left, coefficients last, the constant at the end."""
    from .linear import from_linear

    terms: dict[Expr, int] = {}
    for product in sorted((p for p in s if p), key=lambda p: [_text(a) for a in p]):
        terms[_product(product)] = s[product]
    return from_linear(s.get((), 0), terms)


def at_least(e: Expr | int, low: int) -> bool:
    """Whether an expression of symbolic dimensions is `low` or more wherever all of them are 1 or more."""
    if isinstance(e, int):
        return e >= low
    return _not_negative(_add(sum_of(e), {(): -low}))


def coefficient_of(e: Expr, v: Var) -> Expr | int | None:
    """What multiplies v in e: an int, or an expression of symbolic dimensions; None if e is not linear in v."""
    from .traverse import uses

    found: Sum = {}
    for product, k in sum_of(e).items():
        with_v = [a for a in product if a is v]
        if any(a is not v and uses(a, v) for a in product) or len(with_v) > 1:
            return None
        if with_v:
            rest = tuple(a for a in product if a is not v)
            found[rest] = found.get(rest, 0) + k
    if all(not p for p in found):
        return found.get((), 0)
    return from_sum(found)


# ---- sums --------------------------------------------------------------------------------------------------------


def _has_products(e: Expr) -> bool:
    """Whether a product or quotient of two expressions occurs outside of what is loaded."""
    seen: set[Expr] = set()
    stack = [e]
    while stack:
        x = stack.pop()
        if x in seen or not isinstance(x, Bin):
            continue
        seen.add(x)
        if x.op in ("mul", "div", "mod") and not isinstance(x.b, Const):
            return True
        stack += [x.a, x.b]
    return False


def _sum_of(e: Expr) -> Sum:
    if e.type != I64:
        return {(e,): 1}
    if isinstance(e, Const):
        return {(): e.value} if e.value else {}
    if isinstance(e, Bin):
        if e.op in ("add", "sub"):
            return _add(sum_of(e.a), sum_of(e.b), 1 if e.op == "add" else -1)
        if e.op == "mul":
            return _multiply(sum_of(e.a), sum_of(e.b))
        if e.op in ("div", "mod") and not isinstance(e.b, Const):
            return _divided(e)
    return {(e,): 1}


def _add(a: Mapping[Product, int], b: Mapping[Product, int], sign: int = 1) -> Sum:
    total = dict(a)
    for p, k in b.items():
        k = total.get(p, 0) + sign * k
        if k:
            total[p] = k
        else:
            total.pop(p, None)
    return total


def _multiply(a: Mapping[Product, int], b: Mapping[Product, int]) -> Sum:
    total: Sum = {}
    for p, k in a.items():
        for q, m in b.items():
            total = _add(total, {_sorted(p + q): k * m})
    return total


def _sorted(p: Product) -> Product:
    return tuple(sorted(p, key=_text))


def _text(e: Expr) -> str:
    found = _texts.get(e)
    if found is None:
        found = _texts[e] = str(e)
    return found


def _product(p: Product) -> Expr:
    result = p[0]
    for atom in p[1:]:
        result = Bin.of("mul", result, atom, I64)
    return result


# ---- quotients by symbolic sizes -----------------------------------------------------------------------------------


def _divided(e: Bin) -> Sum:
    """A quotient or remainder by a symbolic size."""
    a, b = sum_of(e.a), sum_of(e.b)
    if len(b) != 1:
        whole, rest = ({(): 1}, {}) if a == b else ({}, a)
    else:
        ((size, scale),) = b.items()
        whole, rest = {}, {}
        for p, k in a.items():
            left = _without(p, size)
            if left is None or k % scale:
                rest[p] = k
            else:
                whole[left] = k // scale
    if not _inside(rest, b):
        divisor = from_sum(b)
        return _add(whole, {(Bin.of("div", from_sum(rest), divisor, I64),): 1}) if e.op == "div" else {
            (Bin.of("mod", from_sum(rest), divisor, I64),): 1
        }
    return whole if e.op == "div" else rest


def _without(p: Product, part: Product) -> Product | None:
    """The product without some of its factors; None if it does not have them."""
    left = list(p)
    for atom in part:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


def _inside(rest: Sum, size: Sum) -> bool:
    """0 <= rest < size, by the extents of the loop variables in it."""
    if not rest:
        return True
    most: Sum = {}
    for p, k in rest.items():
        if k < 0:
            return False
        top: Sum = {(): k}
        for atom in p:
            bound = _most(atom)
            if bound is None:
                return False
            top = _multiply(top, bound)
        most = _add(most, top)
    return _not_negative(_add(_add(size, {(): 1}, -1), most, -1))


def _most(atom: Expr) -> Sum | None:
    """The largest value of an atom that is 0 or more."""
    if isinstance(atom, Var):
        if atom.extent is None:
            return {(atom,): 1}
        top = {(): atom.extent} if isinstance(atom.extent, int) else sum_of(atom.extent)
        return _add(top, {(): 1}, -1)
    if isinstance(atom, Bin) and atom.op == "mod":
        return _add(sum_of(atom.b), {(): 1}, -1)
    return None


def _not_negative(s: Sum) -> bool:
    """Whether a sum of products of sizes is 0 or more where all sizes are 1 or more: with every size written as 1 + d, no
    coefficient is negative."""
    shifted: Sum = {}
    for p, k in s.items():
        term: Sum = {(): k}
        for atom in p:
            if not (isinstance(atom, Var) and not isinstance(atom.extent, int)):
                return False
            term = _multiply(term, {(): 1, (atom,): 1})
        shifted = _add(shifted, term)
    return all(k >= 0 for k in shifted.values())


def _rejoined(s: Sum) -> Sum:
    """(x/n)*n*q + (x%n)*q -> x*q."""
    for p, k in list(s.items()):
        for m in p:
            if not (isinstance(m, Bin) and m.op == "mod" and not isinstance(m, Load)) or p not in s:
                continue
            size = sum_of(m.b)
            if len(size) != 1:
                continue
            ((factors, scale),) = size.items()
            rest = _without(p, (m,))
            quotient = Bin.of("div", m.a, m.b, I64)
            other = _sorted((*rest, quotient, *factors))  # type: ignore[misc]
            if s.get(other) == k * scale:
                left = {q: c for q, c in s.items() if q not in (p, other)}
                return _rejoined(_add(left, _multiply({rest: k}, sum_of(m.a))))  # type: ignore[dict-item]
    return s
