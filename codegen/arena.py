"""Memory planning: offsets in one arena for buffers with known lifetimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64  # bytes; one cache line


@dataclass(frozen=True)
class Interval:
    """A buffer of `size` bytes in use from step first to step last, both included."""

    size: int
    first: int
    last: int


def plan_arena(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """Byte offsets for the intervals, and the size of the arena.  Buffers whose lifetimes overlap do not overlap in
    memory.  Greedy by size: the largest first, each at the lowest offset that is free during its life."""
    order = sorted(range(len(intervals)), key=lambda i: (-intervals[i].size, intervals[i].first, i))
    offsets = [0] * len(intervals)
    placed: list[int] = []  # in order of offset
    total = 0
    for i in order:
        me = intervals[i]
        size = -(-me.size // ALIGNMENT) * ALIGNMENT
        at = 0
        for j in placed:
            other = intervals[j]
            if other.last < me.first or me.last < other.first:
                continue
            if offsets[j] - at >= size:
                break
            at = max(at, offsets[j] + -(-other.size // ALIGNMENT) * ALIGNMENT)
        offsets[i] = at
        total = max(total, at + size)
        placed.append(i)
        placed.sort(key=lambda j: offsets[j])
    return offsets, total


def lower_bound(intervals: Sequence[Interval]) -> int:
    """The most bytes in use at one step: no arena can be smaller."""
    events: dict[int, int] = {}
    for i in intervals:
        size = -(-i.size // ALIGNMENT) * ALIGNMENT
        events[i.first] = events.get(i.first, 0) + size
        events[i.last + 1] = events.get(i.last + 1, 0) - size
    peak = now = 0
    for t in sorted(events):
        now += events[t]
        peak = max(peak, now)
    return peak
