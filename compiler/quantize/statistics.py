"""What calibration remembers of a tensor: a histogram, the extremes of every channel, and some rows of what products read.

All of it is of fixed size whatever the number of samples: 16 kB for the histogram (2048 counters), two numbers per channel,
and `ROW_BYTES` for the rows of each layer (a uniform sample of all rows seen).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .layers import Layer

BINS = 2048
ROWS, ROW_BYTES = 768, 3 << 20
_PER_RUN = 96  # rows offered by one run


class Histogram:
    """Counts of values in equal bins.  The range grows as values come, to twice its width at a time, so that bins merge in
    pairs and no count is ever split.  Values that are no numbers are counted apart."""

    def __init__(self) -> None:
        self.low, self.width, self.counts = 0.0, 0.0, np.zeros(BINS, np.int64)
        self.min, self.max, self.strange = np.inf, -np.inf, 0

    def add(self, x: np.ndarray) -> None:
        x = x.reshape(-1)
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = x[np.isfinite(x)]
            self.strange += x.size - finite.size
            self.add(finite)
            return
        self.min, self.max = min(self.min, low), max(self.max, high)
        self._grow(low, high)
        at = ((x - np.float32(self.low)) * np.float32(1 / self.width)).astype(np.int32)
        np.clip(at, 0, BINS - 1, out=at)
        self.counts += np.bincount(at, minlength=BINS)

    def _grow(self, low: float, high: float) -> None:
        if self.width == 0:
            span = max(high - low, 1e-12, 1e-6 * max(abs(low), abs(high)))
            self.low, self.width = low - 0.01 * span, 1.02 * span / BINS
        while high >= self.low + BINS * self.width:
            self._halve(0)
        while low < self.low:
            self.low -= BINS * self.width
            self._halve(BINS // 2)

    def _halve(self, at: int) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[at : at + BINS // 2] = merged
        self.width *= 2

    @property
    def centres(self) -> np.ndarray:
        return self.low + (np.arange(BINS) + 0.5) * self.width

    def quantile(self, q: float) -> float:
        total = np.cumsum(self.counts)
        at = int(np.searchsorted(total, q * total[-1]))
        return float(np.clip(self.low + (at + 1) * self.width, self.min, self.max))


@dataclass(eq=False)
class TensorStatistics:
    """low, high: per channel.  rank: of the tensor."""

    histogram: Histogram = field(default_factory=Histogram)
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    rank: int = 0
    values: int = 0  # of one run

    def add(self, x: np.ndarray, channel_axis: int) -> None:
        self.histogram.add(x)
        self.rank, self.values = x.ndim, max(self.values, x.size)
        axes = tuple(a for a in range(x.ndim) if a != channel_axis % x.ndim)
        low, high = x.min(axis=axes), x.max(axis=axes)
        self.low = low if self.low is None or self.low.shape != low.shape else np.minimum(self.low, low)
        self.high = high if self.high is None or self.high.shape != high.shape else np.maximum(self.high, high)

    @property
    def peak(self) -> np.ndarray:
        """The largest magnitude per channel."""
        assert self.low is not None and self.high is not None
        return np.maximum(np.abs(self.low), np.abs(self.high))


class RowSample:
    """A uniform sample of the rows that a layer reads.  Matrix products of one tensor sample the same rows."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.seen = layer, 0
        self.random = np.random.default_rng(zlib.crc32((layer.name if layer.is_conv else layer.x).encode()))
        self.kept: np.ndarray | None = None

    def add(self, x: np.ndarray) -> None:
        rows = self.layer.rows(x, _PER_RUN, self.random)
        limit = max(16, min(ROWS, ROW_BYTES // max(1, rows[0].nbytes)))
        room = limit - (0 if self.kept is None else len(self.kept))
        first, rest = rows[:room], rows[room:]
        if len(first):
            self.kept = first.copy() if self.kept is None else np.concatenate([self.kept, first])
        self.seen += len(first)
        if len(rest) and self.kept is not None:  # each row that comes takes the place of one of all that were seen, or none
            at = self.random.integers(self.seen + 1 + np.arange(len(rest)))
            self.seen += len(rest)
            taken = at < limit
            self.kept[at[taken]] = rest[taken]


@dataclass(eq=False)
class Statistics:
    """tensors: by name; rows: by layer.  runs: how many samples were seen."""

    tensors: dict[str, TensorStatistics]
    rows: dict[str, RowSample]
    runs: int = 0

    def rows_of(self, layer: Layer) -> np.ndarray:
        """[g, R, K]."""
        kept = self.rows[layer.name].kept
        assert kept is not None
        return np.ascontiguousarray(kept.transpose(1, 0, 2))


def merged(old: Statistics, new: Statistics, layers: Sequence[Layer]) -> Statistics:
    """Those of layers, the new ones where there are any."""
    rows = {n.name: new.rows[n.name] if n.name in new.rows else old.rows[n.name] for n in layers}
    return Statistics({**old.tensors, **new.tensors}, rows, old.runs)


def collect(layers: Sequence[Layer], stream: Iterable[Mapping[str, np.ndarray]]) -> Statistics:
    """Statistics of what the layers read.  stream: the tensors of run after run (`ActivationRunner.stream`)."""
    shared: dict[str, RowSample] = {}  # matrix products of one tensor read the same rows
    rows = {n.name: RowSample(n) if n.is_conv else shared.setdefault(n.x, RowSample(n)) for n in layers}
    found = Statistics({}, rows)
    readers: dict[str, list[Layer]] = {}
    for layer in layers:
        readers.setdefault(layer.x, []).append(layer)
    for values in stream:
        found.runs += 1
        for name, x in values.items():
            reading = readers.get(name, [])
            if reading:
                found.tensors.setdefault(name, TensorStatistics()).add(x, reading[0].channel_axis)
            for sample in {id(r): r for r in (rows[layer.name] for layer in reading)}.values():
                sample.add(x)
    return found
