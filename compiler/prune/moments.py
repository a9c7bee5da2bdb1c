"""What reconstruction needs to know of a layer's inputs: second moments, gathered while samples stream by.

For the inputs x of the original model and z of the one being pruned: sums of z z^T, z x^T, z and x over the same rows.  Where
the output is added to another value, that one has drifted by d, what it was in the original less what it is now: sums of z d^T
and d tell the layer what to make up for.
Nothing else is kept, so memory does not grow with the samples.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from ..quantize.activations import ActivationRunner
from ..quantize.samples import Samples
from .layers import Layer

ROWS = 1024  # of one layer and run


class Moments:
    """Of one layer of so many inputs.  drift: E z d^T, summed; None without such a value, or while it is the original's."""

    drift: np.ndarray | None = None
    drift_mean: np.ndarray | None = None

    def __init__(self, depth: int) -> None:
        self.count = 0
        self.own = np.zeros((depth, depth))
        self.cross = np.zeros((depth, depth))
        self.mean = np.zeros(depth)
        self.teacher_mean = np.zeros(depth)

    def add(self, z: np.ndarray, x: np.ndarray, d: np.ndarray | None = None) -> None:
        """Rows of the pruned model's input and of the original's, and how the value that the output is added to has drifted."""
        if d is not None:
            product, total = z.T @ d, d.sum(axis=0, dtype=np.float64)
            self.drift = product + (0 if self.drift is None else self.drift)
            self.drift_mean = total + (0 if self.drift_mean is None else self.drift_mean)
        z, x = z.astype(np.float32), x.astype(np.float32)
        self.count += len(z)
        self.own += z.T @ z
        self.cross += z.T @ x if x is not z else z.T @ z
        self.mean += z.sum(axis=0, dtype=np.float64)
        self.teacher_mean += x.sum(axis=0, dtype=np.float64)

    def normal(self, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """(E z z^T, E z x^T); centred: about the means, for a layer whose bias follows."""
        n = max(1, self.count)
        own, cross = self.own / n, self.cross / n
        if centred:
            z, x = self.mean / n, self.teacher_mean / n
            own, cross = own - np.outer(z, z), cross - np.outer(z, x)
        return own, cross

    def target(self, original: np.ndarray, centred: bool) -> np.ndarray:
        """E z y^T for the outputs y that the layer shall have: those of the original with weights `original`, and the drift."""
        found = self.normal(centred)[1] @ original
        if self.drift is not None:
            n = max(1, self.count)
            found += self.drift / n
            if centred and self.drift_mean is not None:
                found -= np.outer(self.mean / n, self.drift_mean / n)
        return found

    def offset(self, original: np.ndarray, made: np.ndarray) -> np.ndarray:
        """What the bias must make up for on average, with weights `made` in place of `original`."""
        n = max(1, self.count)
        off = (self.teacher_mean @ original - self.mean @ made) / n
        return off if self.drift_mean is None else off + self.drift_mean / n


def gather_moments(
    teacher: ActivationRunner, student: ActivationRunner | None, layers: Sequence[Layer], depths: Sequence[int],
    samples: Samples,
) -> dict[str, Moments]:
    """By layer.  student: None while it is still equal to the teacher.  Both runners expose `layers.exposed`."""
    found = {layer.name: Moments(depth) for layer, depth in zip(layers, depths, strict=True)}
    for number, batch in enumerate(samples):
        x = teacher.run(batch.inputs)
        z = x if student is None else student.run(batch.inputs)
        for layer in layers:
            seed = zlib.crc32(f"{number} {layer.name}".encode())
            rows = layer.rows(x[layer.source], ROWS, np.random.default_rng(seed))
            own = rows if student is None else layer.rows(z[layer.source], ROWS, np.random.default_rng(seed))
            drift = None
            if student is not None and layer.residual:
                kept, now = x[layer.residual], z[layer.residual]
                if kept.size // kept.shape[-1] == x[layer.source].size // x[layer.source].shape[-1]:  # row for row
                    drift = layer.rows(kept - now, ROWS, np.random.default_rng(seed))
            found[layer.name].add(own, rows, drift)
    return found
