"""What each unit costs in accuracy, and the selection that keeps the contract.

Both are measured on one artifact in which every unit is quantized or not by a switch (`write_switched`), so that a
selection costs a run, no compilation.

    losses      the squared error of the outputs with one unit quantized and the rest in floats, per unit
    search      units are put back into floats, the most expensive first, until the contract holds: the least number of them
                by bisection, so log2(units) evaluations.  Expensive: loss per time that its integers save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...targets.loader import Module
from ..onnx_edit import Model
from .activations import Signature, load_compiled
from .judge import Judge, Outputs, Verdict, squared_error
from .samples import Batch


class Switched:
    """The model with switches, loaded once per shape.  switches: input name by unit."""

    def __init__(self, model: Model, switches: Mapping[str, str], threads: int | None = None) -> None:
        self.model, self.switches, self.threads = model, switches, threads
        self._modules: dict[Signature, Module] = {}

    def run(self, batch: Batch, quantized: frozenset[str]) -> list[np.ndarray]:
        module = self._modules.get(batch.signature)
        if module is None:
            module = self._modules[batch.signature] = load_compiled(self.model, batch.signature, threads=self.threads)
        chosen = {name: np.array(unit in quantized) for unit, name in self.switches.items()}
        names = [spec.name for spec in module.inputs]
        given = {**batch.inputs, **chosen}
        return module({n: given[n] for n in names})

    def run_all(self, batches: Sequence[Batch], quantized: frozenset[str]) -> Outputs:
        return [self.run(b, quantized) for b in batches]


def losses(switched: Switched, batches: Sequence[Batch]) -> dict[str, float]:
    """By unit."""
    none = [switched.run(b, frozenset()) for b in batches]
    return {
        unit: float(np.mean([
            squared_error(want, switched.run(b, frozenset([unit]))) for b, want in zip(batches, none, strict=True)
        ]))
        for unit in switched.switches
    }


@dataclass(frozen=True)
class Step:
    """One selection that was tried.  floats: how many units stay in floats; cost: the estimated time of the products."""

    floats: int
    verdict: Verdict
    cost: float
    fits: bool


def search(
    order: Sequence[str], evaluate: Callable[[frozenset[str]], Verdict], fits: Callable[[Verdict], bool],
    cost: Callable[[frozenset[str]], float],
) -> tuple[frozenset[str], list[Step]]:
    """The units to quantize, and what was tried.  order: the units, those first that should go back to floats first.

    The contract is taken to hold for all longer prefixes than one with which it holds; bisection needs no more."""
    tried: dict[int, Step] = {}

    def step(count: int) -> bool:
        kept = frozenset(order[count:])
        verdict = evaluate(kept)
        tried[count] = Step(count, verdict, cost(kept), fits(verdict))
        return tried[count].fits

    if step(0):
        return frozenset(order), list(tried.values())
    low, high = 0, len(order)  # low does not fit; all floats fit by definition
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if step(middle) else (middle, high)
    return frozenset(order[high:]), [tried[n] for n in sorted(tried)]


def judged(judge: Judge, switched: Switched) -> Callable[[frozenset[str]], Verdict]:
    return lambda kept: judge.verdict(switched.run_all(judge.batches, kept))
