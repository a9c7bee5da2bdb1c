"""Weights of few bits, rounded layer by layer in the model that is being quantized, with the original as the teacher.

Layers are taken in the order of execution, in stages, as `prune` does.  For each stage samples run through the original and
through what is rounded so far; then, layer by layer: the weights that fit the original's outputs best on the inputs that the
layer has now (least squares), their scales, integers that keep the products (`rounding`), scales that fit these integers
best, and the bias.  What earlier layers lost is so mended by later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..onnx_edit import OnnxEdit
from ..prune.layers import Layer
from ..prune.moments import Moments
from ..prune.reconstruct import damped, relative_error
from ..prune.walk import Walk
from .rounding import Curvature, refine, sweep
from .samples import Samples
from .weights import block_scales, nearest

_FITS = 2  # of scales to integers and integers to scales
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Rounded:
    """integers: f32[K, N] in -2^(bits-1) .. 2^(bits-1) - 1; scales: [K / group, N].  error: of the layer's outputs, relative
    to their power."""

    integers: np.ndarray
    scales: np.ndarray
    error: float

    @property
    def weights(self) -> np.ndarray:
        return self.integers * spread(self.scales, len(self.integers))


def spread(scales: np.ndarray, depth: int) -> np.ndarray:
    """Scales of blocks as one per weight."""
    return np.repeat(scales, depth // len(scales), axis=0)


def round_in_stages(
    edit: OnnxEdit, layers: Sequence[Layer], bits: int, groups: Mapping[str, int], samples: Samples,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Rounded]:
    """By layer.  groups: weights of a block by layer.  The weights and biases in `edit` are changed."""
    made: dict[str, Rounded] = {}
    for stage in Walk(edit, layers, samples):
        for layer in stage.layers:
            progress("round", len(made), len(layers))
            made[layer.name] = _round_layer(edit, layer, stage.moments[layer.name], bits, groups[layer.name])
    return made


def _round_layer(edit: OnnxEdit, layer: Layer, moments: Moments, bits: int, group: int) -> Rounded:
    original = layer.matrix(edit)
    own, cross = moments.normal(bool(layer.bias))
    h = damped(own)
    ridge = h[0, 0] - own[0, 0]
    target = np.linalg.solve(h, moments.target(original, bool(layer.bias)) + ridge * original)
    q, scales = round_matrix(target.astype(np.float32), h, bits, group)
    made = (q * spread(scales, len(q))).astype(np.float64)
    layer.store(edit, made)
    if layer.bias:
        bias = edit.constants[layer.bias]
        edit.constants[layer.bias] = (bias + moments.offset(original, made).reshape(bias.shape)).astype(bias.dtype)
    return Rounded(q, scales, relative_error(made, original, own, cross, own))


def round_matrix(w: np.ndarray, h: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales of W[K, N] for the least tr(E^T H E), E the change; zeros stay zeros."""
    blocks = w.reshape(-1, group, w.shape[1])
    scales = block_scales(blocks, bits, np.diag(h).reshape(-1, group))
    c = Curvature(h)
    q = sweep(w, c, spread(scales, len(w)), bits, whole=True)
    for _ in range(_FITS):
        q = refine(q, w, c, spread(scales, len(w)), bits, whole=True)
        scales = _fitted(q, w, h, scales)
    q = refine(q, w, c, spread(scales, len(w)), bits, whole=True)
    near_scales = block_scales(blocks, bits, np.diag(h).reshape(-1, group))
    near = nearest(w, spread(near_scales, len(w)), bits, whole=True)
    worse = _loss(q * spread(scales, len(w)) - w, h) > _loss(near * spread(near_scales, len(w)) - w, h)
    return np.where(worse, near, q).astype(np.float32), np.where(worse, near_scales, scales).astype(np.float32)


def _loss(e: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Of every column."""
    return np.einsum("ij,ij->j", e.astype(np.float64), h @ e)


def _fitted(q: np.ndarray, w: np.ndarray, h: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The scales that fit the integers best: per column a least-squares problem of as many unknowns as it has blocks."""
    count, columns = scales.shape
    group = len(q) // count
    products = np.empty((columns, count, count))
    for b in range(count):
        part = slice(b * group, (b + 1) * group)
        moved = q * (h[:, part] @ q[part])
        products[:, :, b] = moved.reshape(count, group, columns).sum(axis=1).T
    wanted = (q * (h @ w)).reshape(count, group, columns).sum(axis=1).T
    size = np.trace(products, axis1=1, axis2=2) / count
    products += np.eye(count) * np.maximum(1e-4 * size, 1e-20)[:, None, None]
    wanted += np.maximum(1e-4 * size, 1e-20)[:, None] * scales.T
    found = np.linalg.solve(products, wanted[:, :, None])[:, :, 0].T
    old, new = (_loss(q * spread(s, len(q)) - w, h) for s in (scales, found))
    return np.where((new < old) & np.isfinite(found).all(axis=0), found, scales).astype(np.float32)
