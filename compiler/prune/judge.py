"""How near a pruned model is to the original."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ..quantize.activations import ActivationRunner
from ..quantize.samples import Samples


@dataclass(frozen=True)
class Agreement:
    """Over all outputs and held-out samples.  cosine: mean and least over rows of the last axis (or of whole samples);
    top1: share of rows whose largest element is at the same place, None for outputs of one element; error: relative to the
    power of the original's outputs; accuracy: of (pruned, original) on labels, None without them."""

    samples: int
    cosine: float
    least_cosine: float
    top1: float | None
    error: float
    accuracy: tuple[float, float] | None = None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def agreement(teacher: ActivationRunner, student: ActivationRunner, samples: Samples) -> Agreement:
    cosines: list[np.ndarray] = []
    same: list[np.ndarray] = []
    right: list[tuple[int, int, int]] = []
    lost = power = 0.0
    count = 0
    for batch in samples:
        count += 1
        for a, b in zip(_floats(student, batch.inputs), _floats(teacher, batch.inputs), strict=True):
            rows, wanted = _rows(a), _rows(b)
            lost += float(((rows - wanted) ** 2).sum())
            power += float((wanted**2).sum())
            norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted, axis=1)
            cosines.append((rows * wanted).sum(axis=1) / np.maximum(norms, 1e-30))
            if rows.shape[1] > 1:
                same.append(rows.argmax(axis=1) == wanted.argmax(axis=1))
            if batch.labels is not None and len(np.atleast_1d(batch.labels)) == len(rows):
                labels = np.asarray(batch.labels).reshape(-1)
                right.append((int((rows.argmax(1) == labels).sum()), int((wanted.argmax(1) == labels).sum()), len(labels)))
    every = np.concatenate(cosines)
    total = sum(n for _, _, n in right)
    return Agreement(
        count, float(every.mean()), float(every.min()), float(np.concatenate(same).mean()) if same else None,
        lost / max(power, 1e-30),
        (sum(a for a, _, _ in right) / total, sum(b for _, b, _ in right) / total) if total else None,
    )


def _floats(runner: ActivationRunner, inputs: object) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in runner.run(inputs).values() if a.dtype.kind == "f"]  # type: ignore[arg-type]


def _rows(a: np.ndarray) -> np.ndarray:
    return a.reshape(-1, a.shape[-1]) if a.ndim >= 2 else a.reshape(1, -1)
