"""Several prunings of one model, compiled and timed beside the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from ...targets.artifact import Artifact
from ...targets.cpu.naming import c_prefix
from ..driver import Compilation, compile_model
from ..onnx_edit import Model, OnnxEdit
from ..options import make_options
from ..quantize.activations import ActivationRunner
from ..quantize.samples import Source, as_samples
from ..quantize.timing import race
from .api import Pruned, prune

LATE = 1.05  # of the time that was asked for
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trial:
    """bytes: of weights in the artifact; seconds: of one run on the first batch, on one thread; kernels: (nodes, schedule) of
    its products."""

    pruned: Pruned
    artifact: Artifact
    bytes: int
    seconds: float
    kernels: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        return f"{self.pruned.pattern} {100 * self.pruned.sparsity:g} %"


@dataclass(frozen=True)
class Contest:
    """bytes, seconds: of the original."""

    name: str
    trials: tuple[Trial, ...]
    bytes: int
    seconds: float

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.name, "bytes": self.bytes, "seconds": self.seconds,
            "trials": [t.pruned.to_json() | {"bytes": t.bytes, "seconds": t.seconds, "speedup": self.seconds / t.seconds,
                                             "kernels": [list(k) for k in t.kernels]} for t in self.trials],
        }


def try_all(
    model: Model, data: Source, requests: Sequence[tuple[str, float]], *, importance: str = "obs", allocation: str = "auto",
    reconstruct: bool = True, exclude: Sequence[str] = (), seconds: float = 0.0, base_dir: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Contest:
    """requests: (pattern, sparsity) of each trial.  seconds: see `prune`.  Times are those of one
    thread."""
    edit = OnnxEdit(model, base_dir)
    original = edit.finish()
    samples = as_samples(data, ActivationRunner(original).inputs)
    found = [
        prune(original, samples, pattern=pattern, sparsity=sparsity, importance=importance, allocation=allocation,
              reconstruct=reconstruct, exclude=exclude, seconds=seconds, progress=progress)
        for pattern, sparsity in requests
    ]
    shapes = dict(next(iter(samples)).signature)
    progress("measure", 0, len(found))
    before = _compiled(original, shapes, edit.name)
    made = [_compiled(p.model, shapes, edit.name) for p in found]
    times = race([original, *(p.model for p in found)], next(iter(samples)))
    trials = tuple(
        Trial(p, c.artifact, c.summary.weight_bytes, seconds, _kernels(c))
        for p, c, seconds in zip(found, made, times[1:], strict=True)
    )
    return Contest(edit.name, trials, before.summary.weight_bytes, times[0])


def _compiled(proto: ModelProto, shapes: dict[str, tuple[int, ...]], name: str) -> Compilation:
    options = make_options("cpu", shapes=shapes, name=c_prefix(name))
    return compile_model(proto, options, cache=None)


def _kernels(done: Compilation) -> tuple[tuple[str, str], ...]:
    from ...codegen.program import all_calls

    if done.program is None:
        return ()
    return tuple((c.where, c.cost.schedule) for c in all_calls(done.program.steps) if c.cost.macs)


def best_of(contest: Contest, least: float, seconds: float = 0.0) -> tuple[Trial, bool]:
    """(the fastest model that agrees enough with the original, True), or (the one that agrees most, False).  With `seconds`,
    of those that are `LATE` at most the one that agrees most, or (the fastest, False)."""
    enough = [t for t in contest.trials if t.pruned.agreement.cosine >= least]
    if seconds:
        fast = [t for t in contest.trials if t.seconds <= LATE * seconds]
        if not fast:
            return min(contest.trials, key=lambda t: t.seconds), False
        best = max(fast, key=lambda t: t.pruned.agreement.cosine)
        return best, best in enough
    if enough:
        return min(enough, key=lambda t: t.seconds), True
    return max(contest.trials, key=lambda t: t.pruned.agreement.cosine), False
