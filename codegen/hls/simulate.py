"""Event simulation of a design: cycles, interval, and the depth that every FIFO needs.

A process fires its iterations in order, one per cycle, and waits where a packet that it reads is not there yet.  With
unbounded FIFOs every packet's time follows from its producer's, one process after the other:

    offset[k] = running maximum of (arrival[k] - iteration[k]);   written at iteration + offset + latency

That gives the earliest schedule.  Its ends are kept, and every writer, from the last to the first, is held back until just
before its packets are read; it reads as early as it can, or as late as its own writes allow, whatever takes fewer bits.
FIFOs as deep as this schedule fills them can never stop it, and a dataflow network with bounded FIFOs runs no later than
any schedule that respects the bounds (its events are monotone): so there is no deadlock, and no frame is slower than with
unbounded FIFOs.  Several frames in a row are simulated, so that their overlap is part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .design import Design, Process, Timing, every
from .tensor import Tensor

FRAMES = 3
_LARGE = 1_000_000  # packets of a frame beyond which fewer frames are simulated
_SEARCHED = 2_000_000  # packets times processes up to which single processes are tried
MINIMUM = 2


@dataclass(frozen=True)
class Simulation:
    """Cycles: latency of the first frame, interval between frames.  depths and peaks of every stream in packets;
    bottleneck: the name of the slowest process; busy: its cycles and those of all others."""

    latency: int
    interval: int
    depths: dict[Tensor, int]
    bottleneck: str
    busy: dict[str, int]


@dataclass(frozen=True, eq=False)
class _Span:
    """The iterations of one process over all frames."""

    timing: Timing
    frames: int

    def reads(self, n: int) -> np.ndarray:
        return self._repeat(self.timing.reads[n])

    def writes(self, n: int) -> np.ndarray:
        return self._repeat(self.timing.writes[n])

    def _repeat(self, at: np.ndarray) -> np.ndarray:
        return (np.arange(self.frames, dtype=np.int64)[:, None] * self.timing.iterations + at).ravel()


def simulate(design: Design, frames: int = FRAMES) -> Simulation:
    """Needs wired processes."""
    lanes = design.lanes
    if not design.overlap:
        frames = 1
    elif sum(t.size // n for t, n in lanes.items()) > _LARGE:
        frames = min(frames, 2)
    spans = {p: _Span(p.timing(), frames) for p in design.processes}
    written: dict[Tensor, np.ndarray] = {t: every(frames * t.size // lanes[t], 1) for t in design.inputs}
    for p in design.processes:
        written.update(_forward(p, spans[p], written))
    beats = {t: design.beats.get(t.stream, 1) for t in (*design.inputs, *design.outputs)}
    ends = {t.stream: _drained(written[t.stream], lanes[t.stream] // beats[t]) for t in design.outputs}
    first = max((int(e[len(e) // frames - 1]) for e in ends.values()), default=0)
    busy = {p.name: p.timing().iterations for p in design.processes}
    busy |= {f"load_{n}": t.size // beats[t] for t, n in zip(design.inputs, design.input_names, strict=True)}
    busy |= {f"store_{n}": t.size // beats[t] for t, n in zip(design.outputs, design.output_names, strict=True)}
    interval = max(busy.values(), default=1) if design.overlap else first + 1
    depths = _smallest(design, spans, ends, written, lanes)
    return Simulation(first + 1, interval, depths, max(busy, key=lambda n: busy[n]), busy)


def _drained(arrival: np.ndarray, transfers: int) -> np.ndarray:
    """When each packet of an output is taken, in so many transfers, one a cycle."""
    at = every(len(arrival), transfers)
    return at + np.maximum.accumulate(arrival - at)


def _forward(p: Process, span: _Span, written: dict[Tensor, np.ndarray]) -> dict[Tensor, np.ndarray]:
    if not p.inputs:
        return {t: span.writes(n) + span.timing.latency for n, t in enumerate(p.outputs)}
    at = np.concatenate([span.reads(n) for n in range(len(p.inputs))])
    late = np.concatenate([written[t.stream] + 1 - span.reads(n) for n, t in enumerate(p.inputs)])
    order = np.argsort(at, kind="stable")
    at, offset = at[order], np.maximum.accumulate(late[order])
    made = {}
    for n, t in enumerate(p.outputs):
        writes = span.writes(n)
        last = np.searchsorted(at, writes, side="right") - 1
        made[t] = writes + np.maximum(0, offset[last.clip(0)]) * (last >= 0) + span.timing.latency
    return made


def _smallest(
    design: Design, spans: dict[Process, _Span], ends: dict[Tensor, np.ndarray], earliest: dict[Tensor, np.ndarray],
    lanes: dict[Tensor, int],
) -> dict[Tensor, int]:
    """The depths of the schedule with the fewest bits: reads early everywhere, late everywhere, or late behind forks; in
    small designs then the processes whose change of mind saves bits."""
    def attempt(late: frozenset[Process]) -> tuple[int, dict[Tensor, int]]:
        depths = _depths(design, spans, ends, earliest, late)
        return sum(n * lanes[t] * t.type.bits for t, n in depths.items()), depths

    packets = sum(t.size // n for t, n in lanes.items())
    if packets > _LARGE:
        return attempt(frozenset())[1]
    forks = {t for p in design.processes if len(p.outputs) > 1 for t in p.outputs}
    behind = frozenset(p for p in design.processes if any(t.stream in forks for t in p.inputs))
    best, chosen = min(((attempt(late), late) for late in (frozenset(), frozenset(design.processes), behind)),
                       key=lambda found: found[0][0])
    if packets * len(design.processes) <= _SEARCHED:
        for p in design.processes:
            other = chosen ^ {p}
            found = attempt(other)
            if found[0] < best[0]:
                best, chosen = found, other
    return best[1]


def _depths(
    design: Design, spans: dict[Process, _Span], ends: dict[Tensor, np.ndarray], earliest: dict[Tensor, np.ndarray],
    late: frozenset[Process],
) -> dict[Tensor, int]:
    """ends: when the outputs are taken; earliest: when each packet could be there; late: processes that read as late as
    their next write allows, the others read as early as they can."""
    taken: dict[Tensor, np.ndarray] = dict(ends)
    made: dict[Tensor, np.ndarray] = {}
    dropped: set[Tensor] = set()
    for p in reversed(design.processes):
        span = spans[p]
        if not p.outputs:  # a `Drop` stops nobody
            (t,) = (t.stream for t in p.inputs)
            taken[t] = np.full(len(earliest[t]), np.iinfo(np.int64).max // 4)
            dropped.add(t)
            continue
        writes = [span.writes(n) for n in range(len(p.outputs))]
        reads = [span.reads(n) for n in range(len(p.inputs))]
        at = np.concatenate(writes)
        limit = np.concatenate([taken[t] - 1 - span.timing.latency - w for t, w in zip(p.outputs, writes, strict=True)])
        order = np.argsort(at, kind="stable")
        at, limit = at[order], np.minimum.accumulate(limit[order][::-1])[::-1]
        arrived = [earliest[t.stream] + 1 - r for t, r in zip(p.inputs, reads, strict=True)]
        if p in late:
            arrived = [np.maximum(a, limit[np.searchsorted(at, r).clip(0, len(at) - 1)])
                       for a, r in zip(arrived, reads, strict=True)]
        where = np.concatenate([*reads, at])
        order = np.argsort(where, kind="stable")
        offset = np.maximum.accumulate(np.concatenate([*arrived, limit])[order])
        where = where[order]
        for t, r in zip(p.inputs, reads, strict=True):
            taken[t.stream] = r + offset[np.searchsorted(where, r, side="right") - 1]
        for t, w in zip(p.outputs, writes, strict=True):
            made[t] = w + offset[np.searchsorted(where, w, side="right") - 1] + span.timing.latency
    for t in design.inputs:
        made[t] = _latest(taken[t] - 1)
    return {t: MINIMUM if t in dropped else max(MINIMUM, _peak(made[t], taken[t])) for t in made}


def _latest(limit: np.ndarray) -> np.ndarray:
    """One packet a cycle, each no later than its limit."""
    at = np.arange(len(limit), dtype=np.int64)
    return at + np.minimum.accumulate((limit - at)[::-1])[::-1]


def _peak(made: np.ndarray, taken: np.ndarray) -> int:
    """The most packets that are in the FIFO at once: written before, not yet read."""
    made, taken = np.sort(made), np.sort(taken)
    inside = np.arange(1, len(made) + 1) - np.searchsorted(taken, made, side="right")
    return int(inside.max(initial=0)) + 1
