"""The range of integers for a tensor: several methods propose one, the error of the products decides.

min-max       everything that was seen
percentile    all but a small share at the ends (99.99 %, 99.9 %)
entropy       the least Kullback-Leibler divergence between the histogram and the quantized one (Migacz, GTC 2017)
mse           the least mean squared error over the histogram, clipping included

Each is right for some tensors.  The candidates are compared on a sample of rows: the range wins with which the outputs
of the layers that read the tensor change least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .products import Products
from .statistics import Histogram


@dataclass(frozen=True)
class Range:
    """(integer - zero) * scale, integers in 0..levels.  method: which one proposed it."""

    scale: float
    zero: int
    levels: int = 255
    method: str = ""

    def fake(self, x: np.ndarray) -> np.ndarray:
        """Quantized and dequantized."""
        q = np.rint(x * np.float32(1 / self.scale))
        q += np.float32(self.zero)
        np.clip(q, 0, self.levels, out=q)
        q -= np.float32(self.zero)
        q *= np.float32(self.scale)
        return q

    @property
    def bounds(self) -> tuple[float, float]:
        return -self.zero * self.scale, (self.levels - self.zero) * self.scale


def make_range(low: float, high: float, levels: int = 255, method: str = "") -> Range:
    """The range that holds low..high and represents 0 exactly, so that borders of zeros stay zeros."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / levels, 1e-30)))
    return Range(scale, int(np.clip(np.rint(-low / scale), 0, levels)), levels, method)


def candidates(h: Histogram, levels: int = 255) -> list[Range]:
    """What the methods propose, without those that are equal."""
    found: dict[tuple[float, int], Range] = {}
    for name, method in METHODS.items():
        r = make_range(*method(h, levels), levels, name)
        found.setdefault((r.scale, r.zero), r)
    return list(found.values())


def _min_max(h: Histogram, levels: int) -> tuple[float, float]:
    return h.min, h.max


def _percentile(share: float) -> Callable[[Histogram, int], tuple[float, float]]:
    return lambda h, levels: (h.quantile((1 - share) / 2) if h.min < 0 else 0.0, h.quantile((1 + share) / 2))


CLIPPING_WORTH = 0.8  # of a wider range's error that a narrower one may leave, to be taken
_SHRINKS = np.geomspace(0.015, 1.0, 56)


def _mse(h: Histogram, levels: int) -> tuple[float, float]:
    """The best bound for both ends, then for each end alone."""
    x, p = h.centres, h.counts.astype(np.float64)

    def loss(low: float, high: float) -> float:
        r = make_range(low, high, levels)
        beyond = np.maximum(np.maximum(r.bounds[0] - x, x - r.bounds[1]), 0.0)
        return float((p * (r.scale**2 / 12 + beyond**2)).sum())

    low, high = min(h.min, 0.0), max(h.max, 0.0)
    peak = max(-low, high)
    bound = min((loss(max(low, -f * peak), min(high, f * peak)), f * peak) for f in _SHRINKS)[1]
    low, high = max(low, -bound), min(high, bound)
    if low < 0 < high:  # each end alone
        low = min((loss(low * f, high), low * f) for f in _SHRINKS)[1]
        high = min((loss(low, high * f), high * f) for f in _SHRINKS)[1]
    return low, high


def _entropy(h: Histogram, levels: int) -> tuple[float, float]:
    """The bound for both ends with the least divergence."""
    low, high = min(h.min, 0.0), max(h.max, 0.0)
    peak = max(-low, high)
    p_all, x = h.counts.astype(np.float64), h.centres
    best, chosen = np.inf, (low, high)
    for f in _SHRINKS:
        lo, hi = max(low, -f * peak), min(high, f * peak)
        inside = (x >= lo) & (x <= hi)
        kept = p_all[inside]
        if kept.size < levels // 4 or kept.sum() == 0:
            continue
        p = kept.copy()
        p[0] += p_all[x < lo].sum()
        p[-1] += p_all[x > hi].sum()
        groups = np.minimum((np.arange(kept.size) * (levels + 1)) // kept.size, levels)
        sums, filled = np.bincount(groups, kept), np.bincount(groups, kept > 0)
        q = np.where(kept > 0, (sums / np.maximum(filled, 1))[groups], 0.0)
        p, q = p / p.sum(), q / q.sum()
        both = (p > 0) & (q > 0)
        divergence = float((p[both] * np.log(p[both] / q[both])).sum()) + 10.0 * float(p[(p > 0) & (q == 0)].sum())
        if divergence < best:
            best, chosen = divergence, (lo, hi)
    return chosen


METHODS: Mapping[str, Callable[[Histogram, int], tuple[float, float]]] = {
    "min-max": _min_max, "percentile 99.99": _percentile(0.9999), "percentile 99.9": _percentile(0.999),
    "entropy": _entropy, "mse": _mse,
}


def choose(h: Histogram, errors: Callable[[Range], float], levels: int = 255) -> tuple[Range, Mapping[str, float]]:
    """The widest candidate whose error is near the least (`CLIPPING_WORTH`), and the errors of all by method.  What a range
    cuts off is rare, so a sample of rows tells its cost badly: a narrower range has to be clearly better."""
    ranges = candidates(h, levels)
    found = {r.method: errors(r) for r in ranges}
    least = min(found.values())
    best = max((r for r in ranges if found[r.method] * CLIPPING_WORTH <= least), key=lambda r: (r.scale, -found[r.method]))
    return best, found


def output_error(r: Range, layers: Sequence[Products]) -> float:
    """The mean squared change of the outputs, relative to their size, summed over the layers that read the tensor."""
    return sum(p.change(r.fake(p.x) - p.x) for p in layers)
