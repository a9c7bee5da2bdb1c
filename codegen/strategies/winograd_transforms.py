"""The transforms of Winograd convolution: m x m outputs of a 3 x 3 window from fewer products than 9 m^2.

A one-dimensional F(m, r) multiplies polynomials by their values at m + r - 2 points and at infinity.  With points p and
N_p = prod(p - q) over the other finite points q:
- input: B^T, row p: the coefficients of prod(x - q); row infinity: those of the product over all finite points;
- weights: G, row p: [1, p, .. p^(r - 1)] / N_p; row infinity: [0, .. 1];
- output: A^T, entry (i, p): p^i; infinity counts for the last output only.

Stride 1 is F(m, 3), m + 2 products a side.  Stride 2 takes every other input: the even ones meet the outer taps, F(m, 2) with
m + 1 products, the odd ones the middle tap, F(m, 1).  Both use the same points, of which the middle tap needs no infinity, so
their products are added before the output transform: for m = 4, 5 + 4 a side instead of 12, 81 instead of 144 in all.

Points of F(4, 3): 0, +-3/4, +-3/2; their error is a third of that of the textbook's 0, +-1, +-2 (measured through VGG-16).
Points of F(4, 2): +-1/2, +-5/4, with the smallest error of those tried, that of the direct sum.
Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015 (arXiv 1509.09308).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...ir.expr import Expr

POINTS: dict[tuple[int, int], tuple[float, ...]] = {
    (2, 1): (0.0, 1.0, -1.0), (4, 1): (0.0, 0.75, -0.75, 1.5, -1.5),
    (2, 2): (0.0, 1.0), (4, 2): (0.5, -0.5, 1.25, -1.25),
}
"""(outputs of a tile, stride) -> the finite points."""
BLOCK = 2048  # weights that are transformed at a time: f64 copies of them stay in the cache
Taps = tuple[float, float, float]


@dataclass(frozen=True)
class Planes:
    """Products of one depth.  places: row and column among the points, of each.  slots: for each, the phases (row, column)
    of the inputs that it sums over, 0 even, 1 odd."""

    places: tuple[tuple[int, int], ...]
    slots: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def depth(self) -> int:
        return len(self.slots[0])


@dataclass(frozen=True)
class Form:
    """A transformed convolution; m: outputs per tile side."""

    m: int
    stride: int

    @property
    def n(self) -> int:
        """Points per side, infinity included."""
        return len(POINTS[self.m, self.stride]) + 1

    @property
    def span(self) -> int:
        """Inputs of a tile per side."""
        return self.stride * (self.m - 1) + 3

    @property
    def products(self) -> int:
        """Multiplications per tile, channel and output."""
        return sum(len(g.places) * g.depth for g in self.groups)

    @cached_property
    def groups(self) -> tuple[Planes, ...]:
        """The products, those of one depth together."""
        by_depth: dict[int, list[tuple[tuple[int, int], tuple[tuple[int, int], ...]]]] = {}
        for i in range(self.n):
            for j in range(self.n):
                slots = tuple((p, q) for p in self._phases(i) for q in self._phases(j))
                by_depth.setdefault(len(slots), []).append(((i, j), slots))
        return tuple(Planes(tuple(p for p, _ in g), tuple(s for _, s in g)) for g in by_depth.values())

    def _phases(self, point: int) -> tuple[int, ...]:
        """Which inputs have a product at a point: infinity (the last) has none for the middle tap."""
        return (0, 1) if self.stride == 2 and point < self.n - 1 else (0,)

    def taps(self, phase: int) -> list[Taps]:
        """G over the three taps of the window, in f64, for each point."""
        points = POINTS[self.m, self.stride]
        scales = [float(np.prod([p - q for q in points if q != p])) for p in points]
        if self.stride == 1:
            return [*((1 / s, p / s, p * p / s) for p, s in zip(points, scales, strict=True)), (0.0, 0.0, 1.0)]
        if phase:
            return [(0.0, 1 / s, 0.0) for s in scales]
        return [*((1 / s, 0.0, p / s) for p, s in zip(points, scales, strict=True)), (0.0, 0.0, 1.0)]

    def inputs(self, d: Sequence[Expr]) -> tuple[list[Expr], ...]:
        """B^T d of `span` values, for each phase: a value per point, infinity last where the phase has it."""
        if self.stride == 1:
            return (_inputs_2_3(d) if self.m == 2 else _inputs_4_3(d),)
        even, odd = d[0::2], d[1::2]
        if self.m == 2:
            return [even[1] - even[0], even[1], even[2] - even[1]], [odd[1] - odd[0], odd[1]]
        a2, b2 = (p * p for p in POINTS[4, 2][::2])
        last = even[4] - even[2] * (a2 + b2) + even[0] * (a2 * b2)
        return [*_inputs_at_pairs(even), last], _inputs_at_pairs(odd)

    def outputs(self, y: Sequence[Expr]) -> list[Expr]:
        """A^T y: m values from n."""
        if self.m == 2:
            return [y[0] + y[1] + y[2], y[1] - y[2] + y[3]] if self.stride == 1 else [y[0] + y[1], y[1] + y[2]]
        zero = y[:1] if self.stride == 1 else []
        pairs, last = y[len(zero) : -1], y[-1]
        a, b = POINTS[self.m, self.stride][-4::2]
        sum_a, difference_a = pairs[0] + pairs[1], pairs[0] - pairs[1]
        sum_b, difference_b = pairs[2] + pairs[3], pairs[2] - pairs[3]
        return [
            zero[0] + sum_a + sum_b if zero else sum_a + sum_b,
            difference_a * a + difference_b * b,
            sum_a * a**2 + sum_b * b**2,
            difference_a * a**3 + difference_b * b**3 + last,
        ]


def _inputs_2_3(d: Sequence[Expr]) -> list[Expr]:
    return [d[2] - d[0], d[1] + d[2], d[2] - d[1], d[3] - d[1]]


def _inputs_4_3(d: Sequence[Expr]) -> list[Expr]:
    """The rows of a pair of points +-p are even + odd and even - odd."""
    a, b = POINTS[4, 1][1::2]
    a2, b2 = a * a, b * b
    even_a, odd_a = d[4] - d[2] * b2, (d[3] - d[1] * b2) * a
    even_b, odd_b = d[4] - d[2] * a2, (d[3] - d[1] * a2) * b
    first = d[4] - d[2] * (a2 + b2) + d[0] * (a2 * b2)
    last = d[5] - d[3] * (a2 + b2) + d[1] * (a2 * b2)
    return [first, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, last]


def _inputs_at_pairs(d: Sequence[Expr]) -> list[Expr]:
    """The rows of +-a and +-b for four values: (x +- a) (x^2 - b^2) and so on."""
    a, b = POINTS[4, 2][::2]
    rows: list[Expr] = []
    for p, q in ((a, b), (b, a)):
        odd, even = d[3] - d[1] * (q * q), (d[2] - d[0] * (q * q)) * p
        rows += [odd + even, odd - even]
    return rows


FORMS = {(m, stride): Form(m, stride) for m, stride in POINTS}


@dataclass(frozen=True)
class WinogradWeights:
    """What is done to weights w[3, 3, C, O] for one group of products: G w G^T as [products, slots * C, O]."""

    form: Form
    group: int

    def taps(self) -> list[list[tuple[Taps, Taps]]]:
        """For each product and slot, the factors of the rows and of the columns of the window."""
        planes = self.form.groups[self.group]
        by_phase = [self.form.taps(0), self.form.taps(1) if self.form.stride == 2 else []]
        return [
            [(by_phase[p][i], by_phase[q][j]) for p, q in slots]
            for (i, j), slots in zip(planes.places, planes.slots, strict=True)
        ]

    def __call__(self, w: np.ndarray) -> np.ndarray:
        """Computed in f64, rounded once to f32."""
        taps, count = self.taps(), w.shape[2] * w.shape[3]
        flat = w.reshape(3, 3, count)
        out = np.empty((len(taps), len(taps[0]), count), np.float32)
        for at in range(0, count, BLOCK):  # no matrix product: its threads and rounding differ between machines
            part = flat[:, :, at : at + BLOCK].astype(np.float64)
            halves = {row: _combined(row, part) for plane in taps for row, _ in plane}  # [3, BLOCK]
            for b, plane in enumerate(taps):
                for slot, (row, column) in enumerate(plane):
                    out[b, slot, at : at + BLOCK] = _combined(column, halves[row])
        return out.reshape(len(taps), -1, w.shape[3])


def _combined(factors: Taps, parts: np.ndarray) -> np.ndarray:
    return factors[0] * parts[0] + factors[1] * parts[1] + factors[2] * parts[2]
