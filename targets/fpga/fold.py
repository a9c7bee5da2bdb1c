"""How much every process does per cycle: found for a frame rate, or for what the board allows.

All processes begin at one product a cycle.  The slowest one is given its next parallelism until the frame rate is
reached, the budget is spent, or the slowest has nothing left to unfold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...codegen.hls.design import Process
from ...codegen.hls.sliding import SlidingWindow
from ...codegen.hls.tensor import Tensor
from ...codegen.hls.window import Window
from ...codegen.hls.wire import wire
from .boards import Board
from .estimate import Usage, over, process_usage, total

_STEPS = 4000


@dataclass(frozen=True)
class Folding:
    """processes: wired.  interval: cycles per frame.  stopped: why it is not faster."""

    processes: tuple[Process, ...]
    interval: int
    stopped: str


def fold(
    connected: Sequence[Process], inputs: Sequence[Tensor], board: Board, budget: dict[str, float], target: int
) -> Folding:
    """budget: the part of each resource that processes may take, without FIFOs.  target: cycles per frame that are enough;
    0: as few as possible.  The caller checks whether it was reached."""
    current = list(connected)
    foldings = {p.name: list(p.foldings()) for p in current}
    at = dict.fromkeys(foldings, 0)
    wired = wire(current, inputs)
    usage = {p.name: process_usage(p, board) for p in wired}
    floor = max((t.size for t in inputs), default=1)
    for _ in range(_STEPS):
        slowest = max(wired, key=lambda p: p.cycles)
        interval = max(slowest.cycles, floor)
        if slowest.cycles <= max(target, floor):
            done = target and interval <= target
            return Folding(wired, interval, "the frame rate is reached" if done else "an input gives one element a cycle")
        name = _unfoldable(slowest, wired, foldings, at)
        if name is None:
            return Folding(wired, interval, f"{slowest.name} cannot be made faster")
        at[name] += 1
        current = [_at(p, foldings[name][at[name]]) if p.name == name else p for p in current]
        faster = wire(current, inputs)
        more = _usage(faster, wired, usage, board)
        spent = over(total(more.values()), board, budget)
        if spent:
            return Folding(wired, interval, f"a faster {name} would need {', '.join(spent)}")
        wired, usage = faster, more
    return Folding(wired, interval, "the search was cut")


def _at(p: Process, folded: Process) -> Process:
    return replace(folded, inputs=p.inputs, outputs=p.outputs)


def _unfoldable(
    p: Process, wired: Sequence[Process], foldings: dict[str, list[Process]], at: dict[str, int]
) -> str | None:
    """The process to unfold when p is the slowest: p itself, or the one that makes p's packets narrow."""
    makers = {t: q for q in wired for t in q.outputs}
    readers = {t.stream: q for q in wired for t in q.inputs}
    here: Process | None = p
    while here is not None:
        steps = foldings.get(here.name, [])
        if at.get(here.name, 0) + 1 < len(steps):
            return here.name
        if len(steps) > 1:
            return None
        if isinstance(here, SlidingWindow):
            return None
        if isinstance(here, Window) and not here.bound_by_input:
            reader = readers[here.outputs[0]]
            return reader.name if at[reader.name] + 1 < len(foldings[reader.name]) else None
        slow = min(here.inputs, key=lambda t: p.lanes_out if t.stream not in makers else makers[t.stream].lanes_out)
        here = makers.get(slow.stream)
    return None


def _usage(
    wired: Sequence[Process], before: Sequence[Process], known: dict[str, Usage], board: Board
) -> dict[str, Usage]:
    """Only processes that changed are counted again."""
    same = {p.name: _shape(p) for p in before}
    return {p.name: known[p.name] if same.get(p.name) == _shape(p) and p.name in known else process_usage(p, board)
            for p in wired}


def _shape(p: Process) -> tuple[object, ...]:
    """What decides the resources of a process, its kind and constants aside."""
    return p.lanes_in, p.lanes_out, *(getattr(p, name, 0) for name in ("pe", "simd", "emit", "whole"))
