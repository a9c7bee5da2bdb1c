"""Weights as symmetric integers with one scale per output channel, or per group of inputs and output channel.

Scales come from the largest weight, or from the clipping that changes the products least: few weights of four bits need it,
eight bits hardly ever.  Rounding is to the nearest, or by `rounding`.
"""

from __future__ import annotations

import numpy as np

_CLIPS = np.linspace(1.0, 0.6, 9)


def channel_scales(m: np.ndarray, bits: int, importance: np.ndarray | None = None) -> np.ndarray:
    """The scale of every column of weights [g, K, N], as [g, 1, N].  importance: the mean square of what is multiplied,
    [g, K]; with it, the clip with the least weighted squared error is taken."""
    top = 2 ** (bits - 1) - 1
    peak = np.abs(m).max(axis=1, keepdims=True)
    peak = np.where(peak > 0, peak, 1.0)
    if importance is None:
        return _as_f32(peak / top)
    best = np.full(peak.shape, np.inf)
    scales = peak / top
    for clip in _CLIPS:
        s = _as_f32(peak * clip / top)
        e = (nearest(m, s, bits) * s - m) ** 2 * importance[:, :, None]
        loss = e.sum(axis=1, keepdims=True)
        better = loss < 0.98 * best
        best, scales = np.where(better, loss, best), np.where(better, s, scales)
    return _as_f32(scales)


def nearest(m: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """The integers, as f32: round half to even, in -top..top (the lowest value is left out, as it has no opposite)."""
    top = 2 ** (bits - 1) - 1
    return np.clip(np.rint(m / scales), -top, top).astype(np.float32)


def _as_f32(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 1e-30).astype(np.float32)
