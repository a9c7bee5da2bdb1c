"""The samples of benchmark B on real weights (`minilm.py`), and a clock: what both minilm_ours.py and minilm_peers.py use."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TEST_BATCH, BATCH = 13, 16  # 351 paragraphs are 27 batches of 13
RUNS = 25

Run = dict[str, np.ndarray]


def runs(place: Path, part: str, size: int) -> list[Run]:
    data = np.load(place / "minilm.npz")
    ids, mask = data[f"{part}_ids"], data[f"{part}_mask"]
    return [{"input_ids": ids[i : i + size], "attention_mask": mask[i : i + size]} for i in range(0, len(ids), size)]


def best_ms(run: Callable[[], object]) -> float:
    """Milliseconds of the best of `RUNS` runs."""
    run()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)
