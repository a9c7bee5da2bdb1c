"""The memory plan: live buffers never overlap, and the arena is not much larger than it must be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from tilewright.codegen.arena import ALIGNMENT, Interval, _place, lower_bound, plan_arena
from tilewright.codegen.arena_halves import MOST_BUFFERS, share_halves

LIVES: dict[str, list[list[int]]] = json.loads((Path(__file__).parent / "arena_lives.json").read_text())


def check(intervals: list[Interval]) -> int:
    """The size of a plan, after checking it."""
    offsets, total = plan_arena(intervals)
    assert len(offsets) == len(intervals)
    for i, at in zip(intervals, offsets, strict=True):
        assert at % ALIGNMENT == 0
        assert at >= 0
        assert at + i.size <= total
    for (a, x), (b, y) in itertools.combinations(zip(intervals, offsets, strict=True), 2):
        if a.first <= b.last and b.first <= a.last:
            assert x + a.size <= y or y + b.size <= x, (a, x, b, y)
    assert total % ALIGNMENT == 0
    assert total >= lower_bound(intervals)
    return total


def chain(count: int, size: int) -> list[Interval]:
    """Each buffer is written by one step and read by the next."""
    return [Interval(size, n, n + 1) for n in range(count)]


def test_nothing_needs_no_memory() -> None:
    assert plan_arena([]) == ([], 0)
    assert lower_bound([]) == 0


def test_a_buffer_read_in_the_step_that_writes_another_does_not_share_its_memory() -> None:
    assert check([Interval(64, 0, 1), Interval(64, 1, 2)]) == 128


def test_a_chain_takes_turns_in_two_places() -> None:
    assert check(chain(20, 1000)) == 2 * 1024


def test_disjoint_lifetimes_share_one_place() -> None:
    assert check([Interval(4096, n, n) for n in range(10)]) == 4096


def test_a_small_buffer_fills_a_gap() -> None:
    """The long-lived small one lies beside the large ones, not above both."""
    assert check([Interval(4096, 0, 1), Interval(4096, 1, 2), Interval(64, 0, 2)]) == 2 * 4096 + 64


def test_lower_bound_is_the_fullest_step() -> None:
    assert lower_bound([Interval(1, 0, 3), Interval(65, 2, 2), Interval(64, 4, 4)]) == 64 + 128


def network(rng: np.random.Generator, count: int) -> list[Interval]:
    """Mostly short lives, some long ones, as a network with shortcuts has; sizes over three orders of magnitude."""
    lives = np.minimum(1 + rng.geometric(0.5, count) + rng.integers(0, 40, count) * (rng.random(count) < 0.1), count)
    return [
        Interval(int(2 ** rng.uniform(0, 17)), n, min(n + int(life), count)) for n, life in enumerate(lives)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_random_lives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 120))
    first, life = rng.integers(0, 60, count), rng.integers(0, 1 + int(rng.integers(1, 50)), count)
    check([Interval(int(s), int(a), int(a + n)) for s, a, n in zip(rng.integers(1, 9000, count), first, life, strict=True)])


def test_plans_are_close_to_the_lower_bound() -> None:
    ratios = []
    for seed in range(30):
        intervals = network(np.random.default_rng(seed), 100)
        ratios.append(check(intervals) / lower_bound(intervals))
    assert max(ratios) < 1.15
    assert np.mean(ratios) < 1.02


@pytest.mark.parametrize("model", sorted(LIVES))
def test_plans_of_real_networks_are_within_five_per_cent(model: str) -> None:
    """Sizes and lives in `arena_lives.json`, [bytes, first step, last step], are those of well-known networks."""
    intervals = [Interval(*life) for life in LIVES[model]]
    assert check(intervals) <= 1.05 * lower_bound(intervals)


def test_the_plan_is_a_function_of_the_intervals() -> None:
    intervals = network(np.random.default_rng(3), 80)
    assert plan_arena(intervals) == plan_arena(list(intervals))


def crossing(intervals: list[Interval], offsets: list[int], total: int) -> int:
    """Bytes that were last in the other half of a buffer, in the second of two runs."""
    owner, found = np.full(total, 2, np.int8), 0
    for turn in range(2):
        for i, at in sorted(zip(intervals, offsets, strict=True), key=lambda p: p[0].first):
            middle, end = at + i.size // 2, at + i.size
            found += turn * int((owner[at:middle] == 1).sum() + (owner[middle:end] == 0).sum())
            owner[at:middle], owner[middle:end] = 0, 1
    return found


def test_halves_of_buffers_stay_where_their_thread_was() -> None:
    """A network whose pictures shrink: the middles of its buffers move together, in no more memory."""
    intervals = [Interval(max(8192, 262144 >> n // 4), n, n + 1) for n in range(24)]
    offsets, total = _unmoved(intervals)
    moved = share_halves(intervals, offsets, total)
    assert check(intervals) <= 1.04 * lower_bound(intervals)
    assert crossing(intervals, moved, total) < 0.6 * crossing(intervals, offsets, total)


def _unmoved(intervals: list[Interval]) -> tuple[list[int], int]:
    """Large buffers first, each as low as it fits."""
    order = sorted(range(len(intervals)), key=lambda n: -intervals[n].size)
    return _place(intervals, order)


@pytest.mark.parametrize("model", ["mobilenet_v2", "yolov8n"])
def test_halves_of_real_networks(model: str) -> None:
    intervals = [Interval(*life) for life in LIVES[model]]
    offsets, total = _unmoved(intervals)
    moved = share_halves(intervals, offsets, total)
    assert crossing(intervals, moved, total) < 0.85 * crossing(intervals, offsets, total)


def test_programs_of_very_many_buffers_keep_their_plan() -> None:
    """Moving them would take longer than it brings."""
    intervals = chain(MOST_BUFFERS + 1, 8192)
    offsets, total = _unmoved(intervals)
    assert share_halves(intervals, offsets, total) == offsets
