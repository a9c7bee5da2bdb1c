"""Rounding of weights that knows what they are multiplied with: integers q that keep x W, not W.

With H = X^T X of the rows x that a layer reads, the squared change of its outputs is tr(E^T H E), E = s q - W.

`sweep`   (GPTQ, Frantar et al. 2022, after Optimal Brain Quantization): one input after the other is rounded, and the
          error is spread on those that are not rounded yet, by the Cholesky factor of H^-1.
`refine`  cyclic descent on the integers: each is moved to where its column's error is least, given the others; it can only
          lower the error.

Weights that are zero stay zero, so that a sparse model stays sparse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .weights import integers

_BLOCK = 128
DAMPING = 0.01


@dataclass(frozen=True, eq=False)
class Curvature:
    """H [K, K], and what the sweep needs of it."""

    h: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """What matters most is rounded first, while all others can mend it."""
        return np.argsort(-np.diag(self.h), kind="stable")

    @cached_property
    def factor(self) -> np.ndarray:
        """The upper Cholesky factor of H^-1, in that order: it is the inverse of the factor of H from the other end."""
        turned = self.h[np.ix_(self.order[::-1], self.order[::-1])]
        lower = np.linalg.cholesky(turned)  # of H reversed: its inverse, turned back, is upper
        inverse = np.linalg.solve(lower, np.eye(len(lower)))
        return np.ascontiguousarray(inverse[::-1, ::-1])


def curvature(rows: np.ndarray) -> Curvature:
    """X^T X / R with a share of the mean diagonal added, for rows [R, K], in f64."""
    x = rows.astype(np.float64)
    h = x.T @ x / max(1, len(x))
    mean = float(np.diag(h).mean())
    h[np.diag_indices_from(h)] += DAMPING * (mean if mean > 0 else 1.0)
    return Curvature(h)


def sweep(w: np.ndarray, c: Curvature, scales: np.ndarray, bits: int, whole: bool = False) -> np.ndarray:
    """The integers (f32) of weights [K, N].  scales: [K, N] or what broadcasts to it.  whole: as `weights.integers`."""
    least, top = integers(bits, whole)
    w = w[c.order].astype(np.float64)
    kept = w != 0
    s = np.broadcast_to(scales, w.shape)[c.order].astype(np.float64)
    inverse = c.factor
    q = np.empty_like(w)
    for start in range(0, len(w), _BLOCK):
        stop = min(start + _BLOCK, len(w))
        errors = np.empty((stop - start, w.shape[1]))
        for k in range(start, stop):
            q[k] = np.clip(np.rint(w[k] / s[k]), least, top) * kept[k]
            errors[k - start] = (w[k] - q[k] * s[k]) / inverse[k, k]
            w[k + 1 : stop] -= np.outer(inverse[k, k + 1 : stop], errors[k - start])
        w[stop:] -= inverse[start:stop, stop:].T @ errors
    back = np.empty_like(q)
    back[c.order] = q
    return back.astype(np.float32)


def refine(
    q: np.ndarray, w: np.ndarray, c: Curvature, scales: np.ndarray, bits: int, sweeps: int = 2, whole: bool = False
) -> np.ndarray:
    """Better integers than q for the same arguments as `sweep`."""
    least, top = integers(bits, whole)
    s = np.broadcast_to(scales, w.shape).astype(np.float64)
    q = q.astype(np.float64)
    kept = w != 0
    h = c.h
    gradient = h @ (q * s - w)
    diagonal = np.diag(h)
    for _ in range(sweeps):
        moved = 0
        for k in range(len(w)):
            step = (np.clip(np.rint(q[k] - gradient[k] / (diagonal[k] * s[k])), least, top) - q[k]) * kept[k]
            changed = np.flatnonzero(step)
            if changed.size:
                gradient[:, changed] += np.outer(h[:, k], step[changed] * s[k][changed])
                q[k] += step
                moved += changed.size
        if not moved:
            break
    return q.astype(np.float32)
