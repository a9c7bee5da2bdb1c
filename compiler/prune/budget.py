"""How many weights each layer keeps so that a run takes a stated time, by what was measured on this machine.

The model is compiled with every layer at each density of `GRID` (zeros by magnitude: time does not depend on which weights
they are), and the times of its steps are recorded.  That gives each layer's time by density; the cost by density is that of
`allocate`.  Dynamic programming over time in `BINS` parts finds the densities of the least total cost that fit.  As layers of
different densities run beside each other the whole is measured, and the budget corrected, until it is within `NEAR`; in the
end the nearest few are measured again beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import ModelProto

from ..onnx_edit import OnnxEdit
from ..quantize.samples import Batch
from ..quantize.timing import measure, race, times_by_name
from .allocate import STEPS
from .layers import Layer
from .patterns import Pattern

GRID = (1.0, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05)
BETWEEN = (0.65, 0.55, 0.45, 0.35, 0.25, 0.175, 0.125, 0.075)  # whose times are taken to lie between their neighbours'
BINS, ROUNDS, NEAR, FINALISTS = 1024, 8, 0.015, 3
Progress = Callable[[str, int, int], None]


def densities_for(
    seconds: float, edit: OnnxEdit, layers: Sequence[Layer], curves: Mapping[str, np.ndarray], pattern: Pattern, batch: Batch,
    progress: Progress,
) -> dict[str, float]:
    """Densities by layer with which a run on one thread takes so long, or the least if that is longer.
    curves: costs by `allocate.cost_curve`."""
    clock = _Clock(edit, layers, pattern, batch)
    table = layer_times(edit, layers, pattern, batch, progress)
    grid = tuple(sorted((*GRID, *BETWEEN), reverse=True))
    times = np.array([np.interp(grid, GRID[::-1], [table[d][n.name] for d in GRID[::-1]]) for n in layers])
    costs = np.array([[np.interp(d * STEPS, np.arange(STEPS + 1), curves[n.name]) for d in grid] for n in layers])
    whole = clock.times([{n.name: 1.0 for n in layers}])[0]
    rest = max(0.0, whole - float(times[:, 0].sum()))
    if whole <= seconds:
        return {n.name: 1.0 for n in layers}
    aim, found = seconds, list[dict[str, float]]()
    for n in range(ROUNDS):
        progress("fit the time", n, ROUNDS)
        chosen = least_cost(times, costs, aim - rest)
        densities = {layer.name: grid[g] for layer, g in zip(layers, chosen, strict=True)}
        got = clock.known(densities) if densities in found else clock.times([densities])[0]
        if densities not in found:
            found.append(densities)
        if abs(got / seconds - 1) <= NEAR or (got > seconds and (times.argmin(axis=1) == chosen).all()):
            break
        aim *= seconds / got
    found = sorted(found, key=lambda d: abs(clock.known(d) / seconds - 1))[:FINALISTS]
    clock.times(found)  # beside each other, so that they are comparable
    return min(found, key=lambda d: abs(clock.known(d) / seconds - 1))


class _Clock:
    """Times of whole models, as on an idle machine: each is measured in turns with the dense one, and taken relative to the
    least time that was ever seen of that."""

    def __init__(self, edit: OnnxEdit, layers: Sequence[Layer], pattern: Pattern, batch: Batch) -> None:
        self._made, self._batch = (lambda densities: zeroed(edit, layers, pattern, densities)), batch
        self._dense = self._made({n.name: 1.0 for n in layers})
        self._least = float("inf")
        self._known: list[tuple[dict[str, float], float]] = []  # relative to dense

    def times(self, candidates: Sequence[dict[str, float]]) -> list[float]:
        dense, *found = race([self._dense, *(self._made(c) for c in candidates)], self._batch)
        self._least = min(self._least, dense)
        self._known += [(c, t / dense) for c, t in zip(candidates, found, strict=True)]
        return [self.known(c) for c in candidates]

    def known(self, densities: dict[str, float]) -> float:
        """The median of what was measured."""
        return float(np.median([t for c, t in self._known if c == densities])) * self._least


def layer_times(
    edit: OnnxEdit, layers: Sequence[Layer], pattern: Pattern, batch: Batch, progress: Progress
) -> dict[float, dict[str, float]]:
    """density -> layer -> seconds, on one thread."""
    names = {n.name: n.name for n in layers}
    table: dict[float, dict[str, float]] = {}
    for n, density in enumerate(GRID):
        progress("time layers", n, len(GRID))
        _, steps = measure(zeroed(edit, layers, pattern, dict.fromkeys(names, density)), batch)
        table[density] = {name: t.original for name, t in times_by_name(names, steps, {}).items()}
    return table


def zeroed(edit: OnnxEdit, layers: Sequence[Layer], pattern: Pattern, densities: Mapping[str, float]) -> ModelProto:
    """The model with the smallest blocks of each layer set to zero; `edit` is not changed."""
    made = edit.copy()
    for layer in layers:
        w = layer.matrix(made)
        if densities[layer.name] < 1:
            layer.store(made, np.where(pattern.select(np.abs(w), densities[layer.name]), w, 0.0))
    return made.finish()


def least_cost(times: np.ndarray, costs: np.ndarray, budget: float) -> np.ndarray:
    """The choice for each row of [layers, choices] with the least total cost whose total time is within the budget; the
    fastest of every row where none is."""
    fastest = times.argmin(axis=1)
    if budget <= times.min(axis=1).sum():
        return fastest
    need = np.ceil(times / budget * BINS).astype(np.int64)
    best, picks = np.zeros(BINS + 1), []
    for layer in range(len(times)):
        found = np.full((times.shape[1], BINS + 1), np.inf)
        for choice, n in enumerate(need[layer]):
            if n <= BINS:
                found[choice, n:] = best[: BINS + 1 - n] + costs[layer, choice]
        picks.append(found.argmin(axis=0))
        best = found.min(axis=0)
    if not np.isfinite(best[BINS]):
        return fastest  # rounded up to whole parts nothing fits
    chosen, left = np.zeros(len(times), np.int64), BINS
    for layer in reversed(range(len(times))):
        chosen[layer] = picks[layer][left]
        left -= need[layer, chosen[layer]]
    return chosen
