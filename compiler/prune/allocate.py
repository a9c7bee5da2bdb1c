"""How many weights each layer keeps: fewer where it is expected to cost less.

The expected cost of pruning a layer to some density is what its least important blocks carry of the layer's output, by the
diagonal second-order score; where the whole model was run with the layer pruned (`sensitivity`), the curve is scaled to what
that cost.  Densities are raised together by one price per weight (a Lagrange multiplier), so that the whole
model meets the target; no layer loses more than `MOST` times the average or becomes emptier than `LEAST`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .patterns import Pattern

LEAST, MOST = 0.02, 1.35
STEPS = 40  # densities that are tried


def cost_curve(scores: np.ndarray, pattern: Pattern, power: float) -> np.ndarray:
    """Share of the output's power lost at densities 0, 1/STEPS, ..., 1."""
    found = np.sort(pattern.gather(scores), axis=None)
    lost = np.concatenate([[0.0], np.cumsum(found)])
    places = [len(found) - round(n / STEPS * len(found)) for n in range(STEPS + 1)]
    return lost[places] / max(power, 1e-30)


def allocate(curves: Mapping[str, np.ndarray], sizes: Mapping[str, int], density: float) -> dict[str, float]:
    """Densities by layer whose weighted mean is the target."""
    names: Sequence[str] = list(curves)
    total = sum(sizes[n] for n in names)
    low = max(LEAST, 1 - MOST * (1 - density))
    first = max(0, int(np.ceil(low * STEPS)))

    def at_price(price: float) -> dict[str, float]:
        return {
            n: (first + int(np.argmin(curves[n][first:] + price * sizes[n] * np.arange(first, STEPS + 1) / STEPS))) / STEPS
            for n in names
        }

    cheap, dear = 0.0, 1.0
    for _ in range(200):
        if sum(sizes[n] * d for n, d in at_price(dear).items()) <= density * total:
            break
        dear *= 4
    for _ in range(80):
        middle = np.sqrt(max(cheap, dear * 1e-16) * dear)
        if sum(sizes[n] * d for n, d in at_price(middle).items()) <= density * total:
            dear = middle
        else:
            cheap = middle
    found = at_price(dear)
    spare = density * total - sum(sizes[n] * d for n, d in found.items())
    share = spare / total
    return {n: min(1.0, d + share) for n, d in found.items()}
