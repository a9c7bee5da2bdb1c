"""The transforms of Winograd convolution F(m x m, 3 x 3): m x m outputs of a 3 x 3 window from (m + 2) x (m + 2) products.

A one-dimensional F(m, 3) multiplies polynomials by their values at m + 1 points and at infinity.  With points p and
N_p = prod(p - q) over the other finite points q:
- input: B^T, row p: the coefficients of prod(x - q); row infinity: those of the product over all finite points;
- weights: G, row p: [1, p, p^2] / N_p; row infinity: [0, 0, 1];
- output: A^T, entry (i, p): p^i; infinity counts for the last output only.
Points 0, +-3/4, +-3/2 for m = 4: their error is a third of that of the textbook's 0, +-1, +-2 (measured through VGG-16).
Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015 (arXiv 1509.09308).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...ir.expr import Expr

INNER, OUTER = 0.75, 1.5  # the points +-a and +-b of F(4, 3)


def input_transform(m: int, d: Sequence[Expr]) -> list[Expr]:
    """B^T d for m + 2 values; the rows of a pair of points +-p are even + odd and even - odd."""
    if m == 2:
        return [d[2] - d[0], d[1] + d[2], d[2] - d[1], d[3] - d[1]]
    a2, b2 = INNER**2, OUTER**2
    even_a, odd_a = d[4] - d[2] * b2, (d[3] - d[1] * b2) * INNER
    even_b, odd_b = d[4] - d[2] * a2, (d[3] - d[1] * a2) * OUTER
    first = d[4] - d[2] * (a2 + b2) + d[0] * (a2 * b2)
    last = d[5] - d[3] * (a2 + b2) + d[1] * (a2 * b2)
    return [first, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, last]


def output_transform(m: int, y: Sequence[Expr]) -> list[Expr]:
    """A^T y: m values from m + 2."""
    if m == 2:
        return [y[0] + y[1] + y[2], y[1] - y[2] + y[3]]
    sum_a, difference_a, sum_b, difference_b = y[1] + y[2], y[1] - y[2], y[3] + y[4], y[3] - y[4]
    a, b = INNER, OUTER
    return [
        y[0] + sum_a + sum_b,
        difference_a * a + difference_b * b,
        sum_a * a**2 + sum_b * b**2,
        difference_a * a**3 + difference_b * b**3 + y[5],
    ]


BLOCK = 2048  # weights that are transformed at a time: f64 copies of them stay in the cache


def weight_matrix(m: int) -> np.ndarray:
    """G, of shape [m + 2, 3], in f64."""
    points = [0.0, 1.0, -1.0] if m == 2 else [0.0, INNER, -INNER, OUTER, -OUTER]
    rows = []
    for p in points:
        scale = np.prod([p - q for q in points if q != p])
        rows.append([1 / scale, p / scale, p * p / scale])
    return np.array([*rows, [0.0, 0.0, 1.0]])


def transform_weights(m: int, w: np.ndarray) -> np.ndarray:
    """G w G^T for w[3, 3, C, O], as [(m + 2)^2, C, O] in f32; computed in f64, rounded once."""
    first, second, third = (column[:, None, None] for column in weight_matrix(m).T)
    taps = w.reshape(3, 3, -1)
    out = np.empty((m + 2, m + 2, taps.shape[2]), np.float32)
    for at in range(0, taps.shape[2], BLOCK):  # no matrix product: its threads and rounding differ between machines
        y = taps[:, :, at : at + BLOCK].astype(np.float64)
        y = first * y[0] + second * y[1] + third * y[2]  # [m + 2, 3, BLOCK]
        y = y.swapaxes(0, 1)
        out[:, :, at : at + BLOCK] = (first * y[0] + second * y[1] + third * y[2]).swapaxes(0, 1)
    return out.reshape(-1, *w.shape[2:])


def weights_2x2(w: np.ndarray) -> np.ndarray:
    return transform_weights(2, w)


def weights_4x4(w: np.ndarray) -> np.ndarray:
    return transform_weights(4, w)


WEIGHT_TRANSFORMS = {2: weights_2x2, 4: weights_4x4}
TILE_SIDES: Mapping[Callable[[np.ndarray], np.ndarray], int] = {transform: m for m, transform in WEIGHT_TRANSFORMS.items()}
