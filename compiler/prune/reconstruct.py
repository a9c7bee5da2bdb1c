"""Choosing and re-fitting the weights of one layer so that its outputs stay those of the original model.

    magnitude  |w|                                                       needs no data
    wanda      |w| * norm of its input, compared within an output        (Sun et al. 2023)
    obd        w^2 * E[z^2] / 2                                          (diagonal second order, LeCun et al. 1990)
    obs        w^2 / [H^-1]_jj / 2, what its loss costs when all others   (the "surgeon", Hassibi and Stork 1993)
               make up for it; in rounds, after each of which the
               weights that stay are solved anew for what has gone

H = E[z z^T] over the inputs of the layer in the model that is being pruned.  Afterwards, whatever chose the mask, the weights
that stay are the solution of least squares to the original outputs (`refit`): min ||z W - x W0||^2 under the mask.
"""

from __future__ import annotations

import numpy as np

from .patterns import Pattern

IMPORTANCES = ("magnitude", "wanda", "obd", "obs")
DAMPING = 0.05  # of the mean diagonal of H, added to it: few samples leave directions open
ROUNDS = 8
ITERATIONS, ROUND_ITERATIONS = 30, 6  # of conjugate gradients: at the end, after each round
_TINY, _SMALL = 1e-300, 1e-6


def damped(own: np.ndarray) -> np.ndarray:
    """H with its diagonal raised; inputs that are always zero count as independent of the others."""
    diagonal = np.diag(own)
    return own + np.eye(len(own)) * max(DAMPING * float(diagonal.mean()), 1e-12)


def scores(weights: np.ndarray, own: np.ndarray, importance: str) -> np.ndarray:
    """How much each of W[depth, outputs] matters, for a mask that is chosen at once: all but "obs"."""
    power = np.maximum(np.diag(own), 0)[:, None]
    if importance == "magnitude":
        return np.abs(weights)
    if importance == "wanda":
        return np.abs(weights) * np.sqrt(power)
    return 0.5 * weights**2 * power


def choose(
    weights: np.ndarray, own: np.ndarray, target: np.ndarray, pattern: Pattern, density: float, importance: str
) -> tuple[np.ndarray, np.ndarray]:
    """(the mask of what stays, the weights under it: those of "obs" have moved)."""
    if importance == "obs":
        return _in_rounds(weights, own, target, pattern, density)
    mask = pattern.select(scores(weights, own, importance), density, per_output=importance == "wanda")
    return mask, np.where(mask, weights, 0)


def _in_rounds(
    weights: np.ndarray, own: np.ndarray, target: np.ndarray, pattern: Pattern, density: float
) -> tuple[np.ndarray, np.ndarray]:
    """In each round those that matter least go, and the others are solved anew to make up for them; rounds become smaller."""
    if pattern.of:
        parts = max(1, ROUNDS // (pattern.of - pattern.keep))
        rounds = [(n, (p + 1) / parts) for n in range(pattern.of - 1, pattern.keep - 1, -1) for p in range(parts)]
    else:
        rounds = [(0, 1 - (1 - density) * (1 - (1 - n / ROUNDS) ** 2)) for n in range(1, ROUNDS + 1)]
    power = 1 / np.diag(np.linalg.inv(damped(own).astype(np.float32))).clip(_SMALL * _SMALL)[:, None]
    solver = Refit(weights, own, target)
    made, mask = weights, np.ones(weights.shape, bool)
    for keep, share in rounds:
        left = np.where(mask, made**2 * power, -1)
        mask = pattern.thinned(left, keep, share) if pattern.of else pattern.select(left, share)
        made = solver.solve(mask, made, ROUND_ITERATIONS)
    return mask, made


class Refit:
    """The W with zeros outside of a mask that minimises E||z W - x W0||^2 + d ||W - W0||^2, d the damping.

    Conjugate gradients on every output at once, preconditioned by the diagonal of H, in f32: W is stored in that, and a
    residual of a thousandth is far below what pruning costs.
    """

    def __init__(self, original: np.ndarray, own: np.ndarray, target: np.ndarray) -> None:
        """target: E z y^T for the outputs y of the original."""
        h = damped(own)
        ridge = h[0, 0] - own[0, 0]
        self.original = original.astype(np.float32)
        self._h, self._target = h.astype(np.float32), (target + ridge * original).astype(np.float32)
        self._inverse = (1 / np.diag(h))[:, None].astype(np.float32)

    def solve(self, mask: np.ndarray, start: np.ndarray, iterations: int = ITERATIONS) -> np.ndarray:
        """start: weights near to the solution; those outside of the mask do not matter."""
        inside = mask.astype(np.float32)
        w = start.astype(np.float32) * inside
        precondition = inside * self._inverse
        residual = (self._target - self._h @ w) * inside
        z = precondition * residual
        direction, rho = z.copy(), _columns(residual, z)
        first = rho.copy()
        for _ in range(iterations):
            moved = self._h @ direction
            moved *= inside
            curvature = _columns(direction, moved)
            step = np.where(curvature > 0, rho / np.maximum(curvature, _TINY), 0).astype(np.float32)
            w += step * direction
            residual -= step * moved
            np.multiply(precondition, residual, out=z)
            after = _columns(residual, z)
            if (after <= _SMALL * first).all():
                break
            direction *= np.where(rho > 0, after / np.maximum(rho, _TINY), 0).astype(np.float32)
            direction += z
            rho = after
        return w.astype(np.float64)


def _columns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of the columns."""
    return np.einsum("ij,ij->j", a, b).astype(np.float64)


def refit(
    original: np.ndarray, mask: np.ndarray, own: np.ndarray, target: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """The weights under the mask, as `Refit` says."""
    return Refit(original, own, target).solve(mask, original if start is None else start)


def relative_error(w: np.ndarray, original: np.ndarray, own: np.ndarray, cross: np.ndarray, teacher: np.ndarray) -> float:
    """E||z W - x W0||^2 / E||x W0||^2; teacher: E x x^T (or an estimate of it)."""
    made = float((w * (own @ w)).sum()) - 2 * float((w * (cross @ original)).sum())
    power = float((original * (teacher @ original)).sum())
    return max(0.0, made + power) / max(power, 1e-30)
