"""Places in the arena that leave each thread its own cache lines.

Threads take equal parts of a tensor, in order: of two threads the first has the lower half.  A line that the other thread has
in its cache costs many times a line of one's own to write (measured on two cores of a Zen 5 server: 7.8 ns against 0.3).  So
buffers that follow each other in the same memory should have their middles at the same place.

A plan is changed one buffer at a time, within the memory that it may take, as long as fewer blocks change hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .arena import Interval

ALIGNMENT = 64  # bytes; one cache line
SMALLEST = 4096  # bytes: smaller buffers are not moved
BLOCKS = 512  # of the arena: what is told apart
MOST_PLACES = 32  # that are tried for one buffer
MOST_BUFFERS = 300  # that are moved: programs of more keep the plan they have, which would take seconds to change
SWEEPS = 3


def share_halves(intervals: Sequence[Interval], offsets: Sequence[int], limit: int) -> list[int]:
    """Offsets below `limit` (bytes) for the same buffers, at which fewer bytes change from one half to the other."""
    if len(intervals) > MOST_BUFFERS:
        return list(offsets)
    plan = _Plan(intervals, offsets, limit)
    order = [int(i) for i in np.argsort(-plan.size, kind="stable") if plan.size[i] >= SMALLEST]
    plans = [plan] if (rebuilt := plan.rebuilt()) is None else [plan, rebuilt]
    for one in plans:
        for _ in range(SWEEPS):
            moved = [one.move(i) for i in order]
            if not any(moved):
                break
    best = min(plans, key=_Plan.crossing)
    return [int(at) for at in best.at]


class _Plan:
    def __init__(self, intervals: Sequence[Interval], offsets: Sequence[int], limit: int) -> None:
        self.size = np.array([-(-i.size // ALIGNMENT) * ALIGNMENT for i in intervals], np.int64)
        self.at = np.array(offsets, np.int64)
        self.limit = limit
        first, last = (np.array(t, np.int64) for t in ([i.first for i in intervals], [i.last for i in intervals]))
        apart = (first[:, None] > last[None, :]) | (first[None, :] > last[:, None])
        self.live = [np.flatnonzero(~row & (np.arange(len(row)) != i)) for i, row in enumerate(apart)]
        self.apart = [np.flatnonzero(row & (self.size >= SMALLEST)) for row in apart]
        self.order = [int(i) for i in np.lexsort((-self.size, first))]
        self.block = max(ALIGNMENT, -(-limit // BLOCKS))

    def rebuilt(self) -> _Plan | None:
        """The same buffers placed as they come, each where the least changes hands; None if they do not fit that way."""
        made = copy(self)
        made.at = self.at.copy()
        owner = np.full((1, BLOCKS + 1), 2, np.int8)
        for n, i in enumerate(self.order):
            placed = np.array(self.order[:n], np.int64)
            places = made._places(i, np.intersect1d(self.live[i], placed), np.intersect1d(self.apart[i], placed))
            if not len(places):
                return None
            places = made._nearest(i, places)
            costs = [made._take(owner.copy(), i, int(at))[0] for at in places]
            made.at[i] = places[int(np.argmin(costs))]
            made._take(owner, i, int(made.at[i]))
        return made

    def crossing(self) -> int:
        """Blocks that change hands in a run."""
        i = self.order[0]
        return int(self._cost(i, self.at[i : i + 1])[0])

    def _places(self, i: int, live: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Where a buffer may be, beside those that live with it: at their ends, or around the middle of others."""
        size = self.size[i]
        middles = (self.at[others] + self.size[others] // 2 - size // 2) // ALIGNMENT * ALIGNMENT
        ends = np.concatenate([self.at[live] + self.size[live], self.at[live] - size])
        places = np.unique(np.concatenate([middles, ends, [0]]))
        fits = (places >= 0) & (places + size <= self.limit)
        free = (places[:, None] + size <= self.at[live]) | (places[:, None] >= self.at[live] + self.size[live])
        return places[fits & free.all(axis=1)]

    def _nearest(self, i: int, places: np.ndarray) -> np.ndarray:
        return places[np.argsort(np.abs(places - self.at[i]), kind="stable")[:MOST_PLACES]]

    def move(self, i: int) -> bool:
        """Put a buffer where least changes hands; whether it moved."""
        places = self._nearest(i, self._places(i, self.live[i], self.apart[i]))
        places = np.concatenate([[self.at[i]], places])
        costs = self._cost(i, places)
        best = int(np.argmin(costs))
        if costs[best] >= costs[0]:
            return False
        self.at[i] = places[best]
        return True

    def _cost(self, moved: int, places: np.ndarray) -> np.ndarray:
        """Blocks that change hands in a run, for each place of one buffer; the run before leaves the lines where
        it had them."""
        owner = np.full((len(places), BLOCKS + 1), 2, np.int8)
        total = np.zeros(len(places), np.int64)
        for turn in range(2):
            for i in self.order:
                if i == moved:
                    for row, at in enumerate(places):
                        total[row] += turn * self._take(owner[row : row + 1], i, int(at))[0]
                else:
                    crossing = self._take(owner, i, int(self.at[i]))
                    if turn:
                        total += crossing
        return total

    def _take(self, owner: np.ndarray, i: int, at: int) -> np.ndarray:
        """The threads take their halves of a buffer; how many blocks were the other's."""
        size = int(self.size[i])
        low, middle, high = at // self.block, (at + size // 2) // self.block, -(-(at + size) // self.block)
        lower, upper = owner[:, low:middle], owner[:, middle:high]
        crossing = (lower == 1).sum(axis=1) + (upper == 0).sum(axis=1)
        lower[...] = 0
        upper[...] = 1
        return crossing
