"""What calibration remembers of a tensor: a histogram, the extremes of every channel, and some rows of what products read.

All of it is of fixed size whatever the number of samples: 16 kB for the histogram (2048 counters), two numbers per channel,
and `ROW_BYTES` for the rows of each layer (a uniform sample of all rows seen).  Extremes are those of all values; the histogram
counts a random sample of them, so that calibration takes little longer than the runs themselves.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .layers import Layer

BINS = 2048
ROWS, ROW_BYTES = 1024, 6 << 20
_PER_RUN = 96  # rows offered by one run
_COUNTED = 1 << 16  # values of a tensor that are counted in one run


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

    def cover(self, low: float, high: float) -> None:
        """These values occurred, beside those that were counted."""
        if np.isfinite(low) and np.isfinite(high):
            self.min, self.max = min(self.min, low), max(self.max, high)
            self._grow(low, high)

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

    def add(self, x: np.ndarray, channel_axis: int, r: np.random.Generator) -> None:
        self.rank, self.values = x.ndim, max(self.values, x.size)
        axes = tuple(a for a in range(x.ndim) if a != channel_axis % x.ndim)
        low, high = x.min(axis=axes), x.max(axis=axes)
        flat = x.reshape(-1)
        if np.isfinite(low).all() and np.isfinite(high).all():
            self.histogram.cover(float(low.min(initial=np.inf)), float(high.max(initial=-np.inf)))
        else:
            self.histogram.strange += flat.size - int(np.isfinite(flat).sum())
        flat = flat[np.isfinite(flat)] if self.histogram.strange else flat
        self.histogram.add(flat if flat.size <= _COUNTED else flat[r.integers(flat.size, size=_COUNTED)])
        self.low = low if self.low is None or self.low.shape != low.shape else np.minimum(self.low, low)
        self.high = high if self.high is None or self.high.shape != high.shape else np.maximum(self.high, high)

    def scaled(self, factor: np.ndarray, of: np.ndarray, rows: np.ndarray) -> TensorStatistics:
        """Those of the tensor whose channel i is channel of[i] times factor[i] > 0; rows: a sample of its values."""
        assert self.low is not None and self.high is not None
        low, high = self.low[of] * factor, self.high[of] * factor
        h = Histogram()
        h.add(rows)
        h.cover(float(low.min()), float(high.max()))
        return TensorStatistics(h, low, high, self.rank, self.values * len(of) // len(self.low))

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
    """tensors: by name; rows: [R, g, K] by layer, one array for matrix products of one tensor.  runs: how many were seen."""

    tensors: dict[str, TensorStatistics]
    rows: dict[str, np.ndarray]
    runs: int = 0

    def rows_of(self, layer: Layer) -> np.ndarray:
        """[g, R, K]."""
        return np.ascontiguousarray(self.rows[layer.name].transpose(1, 0, 2))

    def scale(self, layers: Sequence[Layer], tensor: str, factor: np.ndarray, of: np.ndarray) -> None:
        """The layers read `tensor` now, whose channel i is channel of[i] of the old one times factor[i]."""
        made: dict[int, np.ndarray] = {}
        for layer in layers:
            rows = self.rows[layer.name]
            if id(rows) not in made:
                taken = rows if layer.is_conv else rows[..., of]  # convolutions have no copies
                made[id(rows)] = taken * layer.spread(factor)
            self.rows[layer.name] = made[id(rows)]
        self.tensors[tensor] = self.tensors[layers[0].x].scaled(factor, of, self.rows[layers[0].name])


def collect(layers: Sequence[Layer], stream: Iterable[Mapping[str, np.ndarray]]) -> Statistics:
    """Statistics of what the layers read.  stream: the tensors of run after run (`ActivationRunner.stream`)."""
    shared: dict[str, RowSample] = {}  # matrix products of one tensor read the same rows
    samples = {n.name: RowSample(n) if n.is_conv else shared.setdefault(n.x, RowSample(n)) for n in layers}
    tensors: dict[str, TensorStatistics] = {}
    readers: dict[str, list[Layer]] = {}
    runs, r = 0, np.random.default_rng(0)
    for layer in layers:
        readers.setdefault(layer.x, []).append(layer)
    for values in stream:
        runs += 1
        for name, x in values.items():
            reading = readers.get(name, [])
            if reading:
                tensors.setdefault(name, TensorStatistics()).add(x, reading[0].channel_axis, r)
            for sample in {id(s): s for s in (samples[layer.name] for layer in reading)}.values():
                sample.add(x)
    return Statistics(tensors, {n: s.kept for n, s in samples.items() if s.kept is not None}, runs)
