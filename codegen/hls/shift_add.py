"""Products with constants as shifts and additions: a matrix of constants becomes a short list of adders.

Every constant is written in canonical signed digits.  The pair of terms that occurs most often, over all sums, becomes a
value of its own, until no pair occurs twice (Hartley's common subexpressions over two terms); what is left of every sum is
added narrowest first.  Zeros cost nothing, so sparse weights are skipped.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .fixed import Fixed, holding

Term = tuple[int, int, int]
"""A value's number, a shift to the left, a sign."""
Pattern = tuple[int, int, int, int]
"""first + sign * (second << shift): first, second, shift, sign."""


@dataclass(frozen=True)
class Adder:
    """left + right, shifted and signed; low, high: what it can be."""

    left: Term
    right: Term
    low: int
    high: int

    @property
    def type(self) -> Fixed:
        return holding(self.low, self.high)


@dataclass(frozen=True)
class Adders:
    """Values 0.. are the operands, then come the adders; sums: a term per row of the matrix, None where it is zero."""

    operands: int
    adders: tuple[Adder, ...]
    sums: tuple[Term | None, ...]

    @property
    def bits(self) -> int:
        """Of all adders: about the LUTs they take."""
        return sum(a.type.bits for a in self.adders)

    def run(self, x: np.ndarray) -> np.ndarray:
        """x[n, operands] to [n, rows]."""
        values = list(x.T)

        def term(t: Term) -> np.ndarray:
            return t[2] * (values[t[0]] << t[1])

        for a in self.adders:
            values.append(term(a.left) + term(a.right))
        return np.stack([np.zeros(len(x), np.int64) if s is None else term(s) for s in self.sums], 1)


def digits(n: int) -> list[tuple[int, int]]:
    """(shift, sign) of the canonical signed digits of n: no two neighbours are both there."""
    found, shift = [], 0
    while n:
        if n & 1:
            sign = 2 - (n & 3)
            found.append((shift, sign))
            n -= sign
        n >>= 1
        shift += 1
    return found


def shift_add(matrix: np.ndarray, x: Fixed) -> Adders:
    """matrix [rows, operands] times operands of a type."""
    m = np.ascontiguousarray(matrix, np.int64)
    return _shift_add(m.tobytes(), m.shape[0], m.shape[1], x.low, x.high)


@lru_cache(maxsize=64)
def _shift_add(data: bytes, rows: int, operands: int, low: int, high: int) -> Adders:
    matrix = np.frombuffer(data, np.int64).reshape(rows, operands)
    sums: list[set[Term]] = [
        {(i, shift, sign) for i, n in enumerate(row) for shift, sign in digits(n)} for row in matrix.tolist()
    ]
    made = _Network(operands, low, high)
    _share(sums, made)
    ends = tuple(_total(made, terms) for terms in sums)
    return Adders(operands, tuple(made.adders), ends)


class _Network:
    """The adders so far, and what every value can be."""

    def __init__(self, operands: int, low: int, high: int) -> None:
        self.operands, self.adders = operands, list[Adder]()
        self.ranges = [(low, high)] * operands

    def add(self, left: Term, right: Term) -> int:
        (a, b), (c, d) = self.reach(left), self.reach(right)
        self.adders.append(Adder(left, right, a + c, b + d))
        self.ranges.append((a + c, b + d))
        return len(self.ranges) - 1

    def reach(self, t: Term) -> tuple[int, int]:
        low, high = (t[2] * (n << t[1]) for n in self.ranges[t[0]])
        return min(low, high), max(low, high)


def _pattern(a: Term, b: Term) -> tuple[Pattern, Term, Term]:
    """The pair with its shift and sign taken off, and the terms in the order of the pattern."""
    if (b[1], b[0], b[2]) < (a[1], a[0], a[2]):
        a, b = b, a
    return (a[0], b[0], b[1] - a[1], a[2] * b[2]), a, b


class _Pairs:
    """How often every pattern occurs in the sums, and in which; kept as terms come and go."""

    def __init__(self, sums: list[set[Term]]) -> None:
        self.sums: list[set[Term]] = [set() for _ in sums]
        self.counts: Counter[Pattern] = Counter()
        self.rows: dict[Pattern, set[int]] = {}
        self.heap: list[tuple[int, Pattern]] = []
        for row, terms in enumerate(sums):
            for t in sorted(terms):
                self.add(row, t)

    def add(self, row: int, t: Term) -> None:
        for other in self.sums[row]:
            p = _pattern(t, other)[0]
            self.counts[p] += 1
            self.rows.setdefault(p, set()).add(row)
            if self.counts[p] > 1:
                heapq.heappush(self.heap, (-self.counts[p], p))
        self.sums[row].add(t)

    def remove(self, row: int, t: Term) -> None:
        self.sums[row].remove(t)
        for other in self.sums[row]:
            self.counts[_pattern(t, other)[0]] -= 1

    def most_frequent(self) -> Pattern | None:
        while self.heap:
            negative, p = heapq.heappop(self.heap)
            if -negative == self.counts[p]:
                return p
            if 1 < self.counts[p] < -negative:
                heapq.heappush(self.heap, (-self.counts[p], p))
        return None


def _share(sums: list[set[Term]], made: _Network) -> None:
    pairs = _Pairs(sums)
    while (p := pairs.most_frequent()) is not None:
        uses = {row: _occurrences(pairs.sums[row], p) for row in sorted(pairs.rows[p])}
        if sum(map(len, uses.values())) < 2:
            pairs.counts[p] = 0
            continue
        value = made.add((p[0], 0, 1), (p[1], p[2], p[3]))
        for row, found in uses.items():
            for a, b in found:
                pairs.remove(row, a)
                pairs.remove(row, b)
                pairs.add(row, (value, a[1], a[2]))
    sums[:] = pairs.sums


def _occurrences(terms: set[Term], p: Pattern) -> list[tuple[Term, Term]]:
    """Pairs of the pattern that share no term."""
    found, free = [], set(terms)
    for a in sorted(terms):
        b = (p[1], a[1] + p[2], a[2] * p[3])
        if a[0] == p[0] and a in free and b in free and a != b and _pattern(a, b)[0] == p:
            free -= {a, b}
            found.append((a, b))
    return found


def _total(made: _Network, terms: set[Term]) -> Term | None:
    """The narrowest two first.  A shift or a sign that both have stays outside."""
    if not terms:
        return None
    heap = [(made.reach(t)[1] - made.reach(t)[0], t) for t in terms]
    heapq.heapify(heap)
    while len(heap) > 1:
        (_, a), (_, b) = heapq.heappop(heap), heapq.heappop(heap)
        if a[2] < b[2]:
            a, b = b, a
        shift, sign = min(a[1], b[1]), a[2]
        value = made.add((a[0], a[1] - shift, 1), (b[0], b[1] - shift, sign * b[2]))
        t = (value, shift, sign)
        low, high = made.reach(t)
        heapq.heappush(heap, (high - low, t))
    return heap[0][1]


def adders_code(a: Adders, names: list[str], prefix: str, pad: str) -> list[str]:
    """A line per adder; `names` grows by the new values."""
    lines = []
    for n, adder in enumerate(a.adders):
        left, right = (_operand(t, names) for t in (adder.left, adder.right))
        lines.append(f"{pad}const {adder.type.cpp} {prefix}{n} = {'' if adder.left[2] > 0 else '-'}{left} "
                     f"{'+' if adder.right[2] > 0 else '-'} {right};")
        names.append(f"{prefix}{n}")
    return lines


def sum_code(t: Term | None, names: list[str]) -> str:
    """The value of a sum."""
    if t is None:
        return "0"
    return f"{'-' if t[2] < 0 else ''}{_operand(t, names)}"


def _operand(t: Term, names: list[str]) -> str:
    return f"{names[t[0]]} * {1 << t[1]}LL" if t[1] else names[t[0]]
