"""What reconstruction needs to know of a layer's inputs: second moments, gathered while samples stream by.

For the inputs x of the original model and z of the one being pruned: sums of z z^T, z x^T, z and x over the same rows.  Where
the output is added to another value, that one has drifted by d, what it was in the original less what it is now: sums of z d^T
and d tell the layer what to make up for.
Nothing else is kept, so memory does not grow with the samples.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from ..onnx_edit import OnnxEdit
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
        same = x is z
        z = z.astype(np.float32, copy=False)
        x = z if same else x.astype(np.float32, copy=False)
        self.count += len(z)
        own = z.T @ z
        self.own += own
        self.cross += own if x is z else z.T @ x
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


def empty_moments(layers: Sequence[Layer], edit: OnnxEdit) -> dict[str, Moments]:
    """By layer.  Products that read the same tensor share theirs."""
    shared: dict[tuple[str, str], Moments] = {}
    found = {}
    for layer in layers:
        key = (layer.source, layer.name if layer.is_convolution else layer.residual)
        if key not in shared:
            shared[key] = Moments(len(layer.matrix(edit)))
        found[layer.name] = shared[key]
    return found


def add_rows(
    found: Mapping[str, Moments], layers: Sequence[Layer], number: int, x: Mapping[str, np.ndarray], z: Mapping[str, np.ndarray]
) -> None:
    """Take in batch `number`: the tensors of the original and of the pruned model; the same mapping while they are equal."""
    done: set[int] = set()
    for layer in layers:
        moments = found[layer.name]
        if id(moments) in done:
            continue
        done.add(id(moments))
        seed = zlib.crc32(f"{number} {layer.name}".encode())
        rows = layer.rows(x[layer.source], ROWS, np.random.default_rng(seed))
        own = rows if x is z else layer.rows(z[layer.source], ROWS, np.random.default_rng(seed))
        drift = None
        if x is not z and layer.residual:
            kept, now = x[layer.residual], z[layer.residual]
            if kept.size // kept.shape[-1] == x[layer.source].size // x[layer.source].shape[-1]:  # row for row
                drift = layer.rows(kept - now, ROWS, np.random.default_rng(seed))
        moments.add(own, rows, drift)
