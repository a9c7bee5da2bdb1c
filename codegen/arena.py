"""Memory planning: offsets in one arena for buffers with known lifetimes.

Buffers are placed one after the other, each at the lowest offset that is free during its life.  What comes out depends
on the order: several are tried, then the best one is changed step by step, the buffers that reach the top first, until
the arena is as small as the fullest step demands or the steps are used up.  `arena_halves.py` then moves buffers within it.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .arena_halves import ALIGNMENT, share_halves

SPARE = 1.04  # of the least memory, that buffers may move in so that threads keep their lines
MOST_STEPS = 400  # changes of the order at most
STEP_WORK = 2_000_000  # pairs of buffers that all changes together may look at: large programs have fewer


@dataclass(frozen=True)
class Interval:
    """A buffer of `size` bytes in use from step first to step last, both included."""

    size: int
    first: int
    last: int


Order = tuple[int, ...]


def plan_arena(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """Byte offsets for the intervals, and the size of the arena.  Buffers whose lifetimes overlap do not overlap in
    memory.  The same intervals give the same plan."""
    if not intervals:
        return [], 0
    least = lower_bound(intervals)
    best: tuple[int, list[int], Order] | None = None
    for key in _orders(intervals):
        order = tuple(sorted(range(len(intervals)), key=key))
        offsets, total = _place(intervals, order)
        if best is None or total < best[0]:
            best = total, offsets, order
        if total == least:
            break
    assert best is not None
    total, offsets, order = best
    offsets, total = _improve(intervals, order, offsets, total, least)
    limit = max(total, int(least * SPARE) // ALIGNMENT * ALIGNMENT)
    offsets = share_halves(intervals, offsets, limit)
    return offsets, max(at + _aligned(i.size) for at, i in zip(offsets, intervals, strict=True))


def _orders(intervals: Sequence[Interval]) -> tuple[Callable[[int], tuple[int, ...]], ...]:
    """What to sort the buffers by: the largest first; the most memory over time first; those that live at the fullest
    step first."""
    use = _use(intervals)
    fullest = [max(use[i.first : i.last + 1]) for i in intervals]
    return (
        lambda n: (-intervals[n].size, intervals[n].first, n),
        lambda n: (-intervals[n].size * (intervals[n].last - intervals[n].first + 1), n),
        lambda n: (-fullest[n], intervals[n].first - intervals[n].last, -intervals[n].size, n),
    )


def _place(intervals: Sequence[Interval], order: Sequence[int]) -> tuple[list[int], int]:
    """Each buffer in this order at the lowest offset that is free during its life."""
    offsets = [0] * len(intervals)
    placed: list[tuple[int, int]] = []  # (offset, buffer), in order
    total = 0
    for i in order:
        me, size, at = intervals[i], _aligned(intervals[i].size), 0
        for offset, j in placed:
            other = intervals[j]
            if other.last < me.first or me.last < other.first:
                continue
            if offset - at >= size:
                break
            at = max(at, offset + _aligned(other.size))
        offsets[i] = at
        total = max(total, at + size)
        bisect.insort(placed, (at, i))
    return offsets, total


def _improve(
    intervals: Sequence[Interval], order: Order, offsets: list[int], total: int, least: int
) -> tuple[list[int], int]:
    """Place a buffer that reaches the top earlier, and keep that unless the arena becomes larger."""
    best = offsets, total
    for step in range(min(MOST_STEPS, STEP_WORK // len(intervals) ** 2)):
        if best[1] == least:
            break
        top = [i for i in order if offsets[i] + _aligned(intervals[i].size) == total]
        moved = top[step % len(top)]
        at = order.index(moved)
        earlier = 0 if step % 2 else step * 7919 % (at + 1)
        rest = order[:at] + order[at + 1 :]
        changed = (*rest[:earlier], moved, *rest[earlier:])
        new_offsets, new_total = _place(intervals, changed)
        if new_total <= total or step % 20 == 19:  # now and then a step up, to leave a dead end
            order, offsets, total = changed, new_offsets, new_total
        if new_total < best[1]:
            best = new_offsets, new_total
    return best


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _use(intervals: Sequence[Interval]) -> list[int]:
    """Bytes in use at every step."""
    change = [0] * (max(i.last for i in intervals) + 2)
    for i in intervals:
        change[i.first] += _aligned(i.size)
        change[i.last + 1] -= _aligned(i.size)
    use, now = [], 0
    for c in change:
        now += c
        use.append(now)
    return use


def lower_bound(intervals: Sequence[Interval]) -> int:
    """The most bytes in use at one step: no arena can be smaller."""
    return max(_use(intervals)) if intervals else 0
