"""How close a changed model is to the original on held-out samples, and whether that is close enough.

With labels: accuracy (whole labels, class scores) or the coefficient of determination R2 (labels in the shape of the output).
Without: agreement with the original model,
    top1        share of rows with the same largest element          scores of classes: a 2-d output that is no embedding
    neighbour   share of rows whose most similar other row is the same,   embeddings: 2-d output, rows of length one
                or one as similar in the original: samples repeat
    cosine      mean cosine of the outputs                           everything else
Every metric is 1 for equal models, so a drop is a difference of two metrics: with labels original - changed, without labels
1 - agreement.  A function (batches, outputs) -> number may be given instead; larger is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np

from ...ir.errors import OptionError
from .samples import Batch

Outputs = Sequence[Sequence[np.ndarray]]  # per batch, in the order of the model's outputs
Metric = Union[str, Callable[[Sequence[Batch], Outputs], float], None]
_TIE = 1e-5  # of cosines
SHARES = ("accuracy", "top1", "neighbour")  # of rows
METRICS = ("accuracy", "r2", "top1", "neighbour", "cosine")
# The drop that is allowed when none is stated: a tenth of the rows that agree no more still leaves accuracy alone mostly, as
# the rows that change are those that were undecided.
DEFAULT_DROPS: Mapping[str, float] = {"accuracy": 0.005, "r2": 0.005, "top1": 0.02, "neighbour": 0.05, "cosine": 0.005}


@dataclass(frozen=True)
class Verdict:
    """metric: its name; reference: of the original model; value: of the changed one; drop: reference - value.  rows: how
    many it rests on.  cosine_mean, cosine_min, snr (dB): of all float outputs against the original's."""

    metric: str
    reference: float
    value: float
    rows: int
    cosine_mean: float
    cosine_min: float
    snr: float

    @property
    def drop(self) -> float:
        return self.reference - self.value

    @property
    def interval(self) -> float:
        """Half of the 95 % interval of a share over so many rows (Wilson); 0 for metrics that are no shares."""
        if self.metric not in SHARES or not self.rows:
            return 0.0
        p, n, z = self.value, self.rows, 1.96
        return z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))


@dataclass(frozen=True, eq=False)
class Judge:
    """The original's outputs on the held-out batches, and the metric."""

    batches: Sequence[Batch]
    expected: Outputs
    metric: Metric

    @property
    def name(self) -> str:
        return self.metric if isinstance(self.metric, str) else "given metric"

    def verdict(self, got: Outputs) -> Verdict:
        value, reference = self._measure(got), self._measure(self.expected)
        cosines, snr = _cosines(self.expected, got)
        rows = sum(len(o[0]) if o[0].ndim else 1 for o in got)
        return Verdict(
            self.name, reference, value, rows, float(np.mean(cosines, dtype=np.float64)), float(np.min(cosines)), snr
        )

    def _measure(self, got: Outputs) -> float:
        if callable(self.metric):
            return float(self.metric(self.batches, got))
        return _MEASURES[str(self.metric)](self.batches, self.expected, got)


def make_judge(batches: Sequence[Batch], expected: Outputs, metric: Metric = None) -> Judge:
    """Raises OptionError for a metric that does not fit the outputs or the labels."""
    if isinstance(metric, str) and metric not in METRICS:
        raise OptionError(f"metric: expected one of {', '.join(METRICS)} or a function, got {metric!r}")
    if metric is None:
        metric = _fitting(batches, expected)
    if metric in ("accuracy", "r2") and any(b.labels is None for b in batches):
        raise OptionError(f"metric: {metric} needs labels; add an array `labels` to every .npz")
    return Judge(batches, expected, metric)


def _fitting(batches: Sequence[Batch], expected: Outputs) -> str:
    first = expected[0][0]
    labels = [b.labels for b in batches]
    if all(x is not None for x in labels):
        label = labels[0]
        assert label is not None
        if label.dtype.kind in "iub" and first.ndim >= 1 and label.size * first.shape[-1] == first.size:
            return "accuracy"
        if label.dtype.kind == "f" and label.size == first.size:
            return "r2"
    if first.ndim == 2 and first.shape[1] > 1 and first.dtype.kind == "f":
        rows = np.concatenate([o[0] for o in expected])
        unit = np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2)
        if unit and not np.allclose(rows.sum(axis=1), 1, atol=1e-2) and len(rows) > 2:
            return "neighbour"
        return "top1"
    return "cosine"


def _first(outputs: Outputs) -> np.ndarray:
    return np.concatenate([np.atleast_1d(o[0]) for o in outputs])


def _accuracy(batches: Sequence[Batch], expected: Outputs, got: Outputs) -> float:
    hits = [
        (o[0].argmax(axis=-1).reshape(-1) == b.labels.reshape(-1)) for b, o in zip(batches, got, strict=True)  # type: ignore[union-attr]
    ]
    return float(np.concatenate(hits).mean())


def _r2(batches: Sequence[Batch], expected: Outputs, got: Outputs) -> float:
    y = np.concatenate([b.labels.reshape(-1) for b in batches]).astype(np.float64)  # type: ignore[union-attr]
    p = np.concatenate([o[0].reshape(-1) for o in got]).astype(np.float64)
    return float(1 - np.square(y - p).sum() / max(np.square(y - y.mean()).sum(), 1e-30))


def _top1(batches: Sequence[Batch], expected: Outputs, got: Outputs) -> float:
    return float((_first(expected).argmax(axis=-1) == _first(got).argmax(axis=-1)).mean())


def _similar(outputs: Outputs) -> np.ndarray:
    """Cosines of all pairs of rows; a row is not its own neighbour."""
    rows = _first(outputs).reshape(sum(len(o[0]) for o in outputs), -1).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    similar = rows @ rows.T
    np.fill_diagonal(similar, -np.inf)
    return similar


def _neighbour(batches: Sequence[Batch], expected: Outputs, got: Outputs) -> float:
    original = _similar(expected)
    chosen = original[np.arange(len(original)), _similar(got).argmax(axis=1)]
    return float((chosen >= original.max(axis=1) - _TIE).mean())


def _cosine(batches: Sequence[Batch], expected: Outputs, got: Outputs) -> float:
    return float(np.mean(_cosines(expected, got)[0], dtype=np.float64))


_MEASURES: Mapping[str, Callable[[Sequence[Batch], Outputs, Outputs], float]] = {
    "accuracy": _accuracy, "r2": _r2, "top1": _top1, "neighbour": _neighbour, "cosine": _cosine,
}


def _cosines(expected: Outputs, got: Outputs) -> tuple[np.ndarray, float]:
    """Of every row (index of the first axis) of every float output; and the ratio of signal to noise in dB of the outputs,
    each relative to its own size."""
    cosines: list[np.ndarray] = []
    noise: dict[int, np.ndarray] = {}
    for want, have in zip(expected, got, strict=True):
        for n, (a, b) in enumerate(zip(want, have, strict=True)):
            if a.dtype.kind != "f" or a.size == 0 or a.shape != b.shape:
                continue
            x, y = (v.astype(np.float64).reshape(len(v) if v.ndim else 1, -1) for v in (a, b))
            size = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
            cosines.append(np.where(size > 0, (x * y).sum(axis=1) / np.maximum(size, 1e-300), (size == 0) * 1.0))
            noise[n] = noise.get(n, 0.0) + np.array([np.square(x - y).sum(), np.square(x).sum()])
    if not cosines:
        return np.ones(1), np.inf
    relative = np.mean([e / max(s, 1e-300) for e, s in noise.values()])
    return np.concatenate(cosines), float(-10 * np.log10(max(float(relative), 1e-20)))


def squared_error(expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """The mean over float outputs of the squared change relative to their size."""
    parts = [
        np.square(a.astype(np.float64) - b).sum() / max(np.square(a.astype(np.float64)).sum(), 1e-30)
        for a, b in zip(expected, got, strict=True) if a.dtype.kind == "f" and a.size
    ]
    return float(np.mean(parts)) if parts else 0.0
