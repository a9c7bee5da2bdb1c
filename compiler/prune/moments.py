"""What reconstruction needs to know of a layer's inputs: second moments, gathered while samples stream by.

For the inputs x of the original model and z of the one being pruned: sums of z z^T, z x^T, z and x over the same rows.
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
    """Of one layer of so many inputs."""

    def __init__(self, depth: int) -> None:
        self.count = 0
        self.own = np.zeros((depth, depth))
        self.cross = np.zeros((depth, depth))
        self.mean = np.zeros(depth)
        self.teacher_mean = np.zeros(depth)

    def add(self, z: np.ndarray, x: np.ndarray) -> None:
        """Rows of the pruned model's input and of the original's."""
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

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the pruned model's input and of the original's."""
        return self.mean / max(1, self.count), self.teacher_mean / max(1, self.count)


def gather_moments(
    teacher: ActivationRunner, student: ActivationRunner | None, layers: Sequence[Layer], depths: Sequence[int],
    samples: Samples,
) -> dict[str, Moments]:
    """By layer.  student: None while it is still equal to the teacher.  Both runners expose the inputs of the layers."""
    found = {layer.name: Moments(depth) for layer, depth in zip(layers, depths, strict=True)}
    for number, batch in enumerate(samples):
        x = teacher.run(batch.inputs)
        z = x if student is None else student.run(batch.inputs)
        for layer in layers:
            seed = zlib.crc32(f"{number} {layer.name}".encode())
            rows = layer.rows(x[layer.source], ROWS, np.random.default_rng(seed))
            own = rows if student is None else layer.rows(z[layer.source], ROWS, np.random.default_rng(seed))
            found[layer.name].add(own, rows)
    return found
