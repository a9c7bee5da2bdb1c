"""Measured times of the original and of the quantized model, as a whole and per unit; integers stay only where they pay.

Both models are compiled to record the times of their steps, and run on one batch.  A step belongs to the unit whose layers, or
whose quantization, its model nodes name.  A unit whose steps are slower in integers goes back to floats if that makes no model
slower: the models with and without it are timed in turns, for its neighbours pay for conversions then.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from ...targets.loader import Module
from ..cache import open_cache
from ..driver import compile_model
from ..options import make_options
from .plan import UnitPlan
from .samples import Batch

_SLOWER = 1.03  # by which a unit must be slower in integers to be looked at
_LEAST = 2e-8  # seconds: the timer's steps
_SINGLE = 6  # units that are put back one by one, those first that lose most, where all at once are no gain
_SECONDS = 1.0  # of runs, at most, for each measurement


@dataclass(frozen=True)
class UnitTime:
    """Seconds of one run on one thread."""

    original: float
    quantized: float


@dataclass(frozen=True)
class Point:
    """A model that was tried: seconds of a run on one thread, and what the metric loses on the held-out samples."""

    what: str
    seconds: float
    drop: float


def measure(model: ModelProto, batch: Batch) -> tuple[float, Mapping[str, float]]:
    """(seconds of a run, seconds of its steps by the names of model nodes) on one thread."""
    options = make_options("cpu", shapes=dict(batch.signature), name="model", verify=False, profile=True)
    done = compile_model(model, options, cache=open_cache())
    with done.artifact.load(1) as module:
        whole = _whole(module, batch)
        return whole, {row.where: row.fastest for row in module.profile()}


def _whole(module: Module, batch: Batch) -> float:
    best, spent = float("inf"), 0.0
    module(batch.inputs)
    module.reset_profile()
    for _ in range(50):
        start = time.perf_counter()
        module(batch.inputs)
        seconds = time.perf_counter() - start
        best, spent = min(best, seconds), spent + seconds
        if spent > _SECONDS:
            break
    return best


def unit_times(
    plans: Mapping[str, UnitPlan], original: Mapping[str, float], quantized: Mapping[str, float]
) -> dict[str, UnitTime]:
    """By unit."""
    names = {layer.name: x for x, p in plans.items() for layer in p.unit.layers}
    names.update({f"{x}_Q": x for x in plans} | {f"{x}_DQ": x for x in plans})
    return {x: UnitTime(0.0, 0.0) for x in plans} | times_by_name(names, original, quantized)


def times_by_name(
    names: Mapping[str, str], original: Mapping[str, float], quantized: Mapping[str, float]
) -> dict[str, UnitTime]:
    """names: model node -> unit.  A step of several units counts for the first that it names."""
    sums = {unit: [0.0, 0.0] for unit in names.values()}
    for n, steps in enumerate((original, quantized)):
        for where, seconds in steps.items():
            unit = next((names[word] for word in _words(where) if word in names), None)
            if unit is not None:
                sums[unit][n] += seconds
    return {unit: UnitTime(*pair) for unit, pair in sums.items()}


def _words(where: str) -> Sequence[str]:
    return [w for w in re.split(r"[\s,;+]+", where) if w]


def race(models: Sequence[ModelProto], batch: Batch) -> list[float]:
    """Seconds of a run of each on one thread, measured in turns."""
    options = make_options("cpu", shapes=dict(batch.signature), name="model", verify=False)
    modules = [compile_model(m, options, cache=open_cache()).artifact.load(1) for m in models]
    try:
        times: list[list[float]] = [[] for _ in modules]
        until = time.perf_counter() + _SECONDS * len(modules)
        while len(times[0]) < 5 or (len(times[0]) < 200 and time.perf_counter() < until):
            for module, found in zip(modules, times, strict=True):
                start = time.perf_counter()
                module(batch.inputs)
                found.append(time.perf_counter() - start)
        return [sorted(found)[len(found) // 10] for found in times]
    finally:
        for module in modules:
            module.close()


def slower(times: Mapping[str, UnitTime], kept: frozenset[str]) -> list[frozenset[str]]:
    """What is to be tried in floats: all units that integers make slower, then the worst of them alone."""
    lost = {
        x: t.quantized - t.original for x, t in times.items()
        if x in kept and t.original and t.quantized > max(_SLOWER * t.original, t.original + _LEAST)
    }
    if not lost:
        return []
    worst = sorted(lost, key=lambda x: -lost[x])[:_SINGLE]
    return [frozenset(lost), *(frozenset([x]) for x in worst if len(lost) > 1)]
