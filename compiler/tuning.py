"""`--tune`: measured numbers for the products and convolutions of a model, in place of the cost models'.

For every distinct group the kernels of several choices are made, run and timed in this process, in turns with the kernel
of the cost model.  Optuna proposes what to try next.  A choice is kept only if it is at least 3 % faster in a second,
longer comparison, so that tuning does not make code slower.  Each result goes to the database at once: interrupting the
search keeps what was found.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

from ..codegen.kernels import group_hash
from ..codegen.lower import Lowering
from ..codegen.machine import Machine
from ..codegen.open_symbols import open_symbols
from ..codegen.strategies.axes import size_of
from ..codegen.strategies.candidates import Space, imbalance, space_of
from ..codegen.strategies.choices import BY_MODEL, Choice
from ..codegen.strategies.scheduled import Group, Scheduled
from ..codegen.strategies.select import schedule_group
from ..ir.errors import InternalError, TargetError
from ..ir.graph import Graph
from .progress import Progress
from .tuning_file import Found, add_entry

WORTH = 0.97  # of the time by the cost model: what is not faster than this is not kept
TRIALS = 60  # of one group at most
SHORT, LONG = 8, 40  # measurements in turns: while searching, and to decide
FINALISTS = 3
LEAST_SECONDS = 0.5  # for one group, so that the last ones are looked at too


@dataclass(frozen=True)
class Tunable:
    """A distinct group of a model.  work: the share of its calls in the multiply-accumulates of the model; with versions, in
    those of each, summed: all versions count the same."""

    key: str
    group: Group
    space: Space
    work: float


class _Recorder(Lowering):
    """A lowering that notes its groups."""

    def __init__(self, graph: Graph, machine: Machine, accuracy: str) -> None:
        super().__init__(graph, machine, "tuning", accuracy, symbols=open_symbols(graph, machine, {}))
        self.groups: dict[str, tuple[Group, int]] = {}

    def schedule(self, group: Group) -> Scheduled:
        key = group_hash(group, self.accuracy)
        _, count = self.groups.get(key, (group, 0))
        self.groups[key] = group, count + 1
        return super().schedule(group)


def tunable_groups(graphs: Sequence[Graph], machine: Machine, accuracy: str) -> list[Tunable]:
    """The distinct groups of fused graphs that have choices, the most work first.  graphs: the versions of a model; what is of
    open size in them has no choices."""
    found: dict[str, Tunable] = {}
    for graph in graphs:
        recorder = _Recorder(graph, machine, accuracy)
        recorder.run()
        known = {key: (group, n) for key, (group, n) in recorder.groups.items() if _is_known(group)}
        macs = {key: n * _macs(group) for key, (group, n) in known.items()}
        for key, (group, _) in known.items():
            space = space_of(group, machine, accuracy)
            if space is not None:
                before = found[key].work if key in found else 0.0
                found[key] = Tunable(key, group, space, before + macs[key] / sum(macs.values()))
    return sorted(found.values(), key=lambda t: (-t.work, t.key))


def _is_known(group: Group) -> bool:
    """Whether no size of it is open."""
    axes = [v for c in group.computes for v in (*c.axes, *c.reduce)]
    dims = [*(v.extent for v in axes), *(d for b in (*group.params, *group.operands) for d in (*b.shape, *(b.strides or ())))]
    return all(isinstance(d, int) for d in dims)


def _macs(group: Group) -> int:
    return prod(size_of(v) for c in group.computes[:1] for v in (*c.axes, *c.reduce))


def search_engine() -> Any:
    """Optuna, quiet.  Raises TargetError where it is not installed."""
    try:
        optuna = import_module("optuna")
    except ImportError:
        raise TargetError(
            "tune: needs Optuna, which is not installed; run `pip install optuna` (or `pip install tilewright[tune]`)"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def check_runs_here(machine: Machine, host: Machine) -> None:
    """Raises TargetError if this processor cannot run code for the machine."""
    missing = sorted(set(machine.required) - set(host.required))
    if machine.arch != host.arch or missing:
        why = f"it lacks {', '.join(missing)}" if machine.arch == host.arch else f"it is {host.arch}"
        raise TargetError(f"tune: this processor cannot run code for {machine.name}: {why}; tune on a machine of that kind, "
                          f"and compile here with its tuning_file")


def tune(
    groups: Sequence[Tunable], known: dict[str, Found], machine: Machine, accuracy: str, path: Path, seconds: float,
    progress: Progress,
) -> tuple[dict[str, Found], tuple[str, ...]]:
    """Search for the groups that are not known, for about so many seconds.  -> (all that is known now, notes).

    Ctrl-C ends the search and keeps what was found.  Raises TargetError without Optuna, OptionError if the database
    cannot be written."""
    optuna = search_engine()
    found = dict(known)
    todo = [t for t in groups if t.key not in found]
    end, left = time.monotonic() + seconds, sum(t.work for t in todo)
    n = 0
    try:
        for n, t in enumerate(todo):
            progress("tune", n, len(todo))
            now = time.monotonic()
            if now >= end:
                note = f"tuning: {n} of {len(todo)} kernels were searched in {seconds:g} s; the others are as by default"
                return found, (note,)
            until = now + max(LEAST_SECONDS, (end - now) * t.work / left if left > 0 else 0.0)
            left -= t.work
            item = search(t, machine, accuracy, until, optuna)
            add_entry(path, machine, t.key, item)
            found[t.key] = item
    except KeyboardInterrupt:
        return found, (f"tuning: interrupted after {n} of {len(todo)} kernels; what was found is kept",)
    return found, ()


class _Contest:
    """The kernel by the cost model, and others against it."""

    def __init__(self, group: Group, machine: Machine, accuracy: str) -> None:
        from ..targets.cpu.timing import TimedKernel, operands  # needs LLVM

        self.group, self.machine, self.accuracy = group, machine, accuracy
        self._make, self._arrays = TimedKernel, operands(group)
        made = schedule_group(group, machine, accuracy)
        self.about = made.note
        self.balance = imbalance(made.kernel)
        self.champion = TimedKernel(group, made, machine, self._arrays)
        self.expected = self.champion.results()

    def enter(self, choice: Choice) -> tuple[Any, str] | None:
        """The timed kernel of a choice and its schedule; None for one that shares its work less evenly among threads.

        Raises InternalError if it computes something else."""
        from ..targets.cpu.timing import close

        made = schedule_group(replace(self.group, choice=choice), self.machine, self.accuracy)
        if any(mine > theirs + 0.02 for mine, theirs in zip(imbalance(made.kernel), self.balance, strict=True)):
            return None
        timed = self._make(self.group, made, self.machine, self._arrays)
        if not close(timed.results(), self.expected):
            raise InternalError(f"tuning: the schedule {made.note!r} of {choice} computes something else", str(made.kernel))
        return timed, made.note

    def ratio(self, timed: Any, rounds: int) -> float:
        """The challenger's time over the champion's, measured in turns.  The lower quartile of each counts: what is
        longer was disturbed by other programs."""
        turns = [(timed.seconds(), self.champion.seconds()) for _ in range(rounds)]
        mine, theirs = (sorted(times)[rounds // 4] for times in zip(*turns, strict=True))
        return mine / theirs


def search(t: Tunable, machine: Machine, accuracy: str, until: float, optuna: Any) -> Found:
    """The best choice for a group, by the time `until` of the monotonic clock."""
    contest = _Contest(t.group, machine, accuracy)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=int(t.key[:8], 16), n_startup_trials=8))
    seen: dict[Choice, float] = {BY_MODEL: 1.0}
    entered: dict[Choice, tuple[Any, str]] = {}
    for _ in range(TRIALS):
        if time.monotonic() >= until:
            break
        trial = study.ask()
        choice = t.space.choose(trial.suggest_categorical)
        if choice not in seen:
            candidate = contest.enter(choice)
            seen[choice] = 2.0 if candidate is None else contest.ratio(candidate[0], SHORT)
            if candidate is not None:
                entered[choice] = candidate
                _keep_best(entered, seen)
        study.tell(trial, seen[choice])
    return _decide(contest, entered)


def _keep_best(entered: dict[Choice, tuple[Any, str]], seen: dict[Choice, float]) -> None:
    """Only the finalists stay in memory."""
    for choice in sorted(entered, key=seen.__getitem__)[FINALISTS:]:
        del entered[choice]


def _decide(contest: _Contest, entered: dict[Choice, tuple[Any, str]]) -> Found:
    best, about, ratio = BY_MODEL, contest.about, WORTH
    for choice, (timed, note) in entered.items():
        measured = max(contest.ratio(timed, LONG) for _ in range(2))  # one lucky moment is not enough
        if measured <= ratio:
            best, about, ratio = choice, note, measured
    return Found(best, 1.0 - ratio if best != BY_MODEL else 0.0, about)
