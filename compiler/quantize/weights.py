"""Weights as symmetric integers with one scale per output channel, or per group of inputs and output channel.

Scales come from the largest weight, or from the clipping that changes the products least: few weights of four bits need it,
eight bits hardly ever.  Rounding is to the nearest, or by `rounding`.
"""

from __future__ import annotations

import numpy as np

_CLIPS = np.linspace(1.0, 0.6, 9)
_FEW_BITS_CLIPS = np.linspace(1.0, 0.3, 15)


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


def integers(bits: int, whole: bool = False) -> tuple[int, int]:
    """The least and the largest.  The lowest value has no opposite and is left out, but where `whole` asks for all."""
    top = 2 ** (bits - 1) - 1
    return (-top - 1 if whole else -top), top


def nearest(m: np.ndarray, scales: np.ndarray, bits: int, whole: bool = False) -> np.ndarray:
    """The integers, as f32: round half to even."""
    least, top = integers(bits, whole)
    return np.clip(np.rint(m / scales), least, top).astype(np.float32)


def block_scales(blocks: np.ndarray, bits: int, importance: np.ndarray | None = None) -> np.ndarray:
    """Scales [G, N] of weights [G, group, N], all integers allowed: the largest weight may have the lowest one, so scales may
    be negative.  importance: the mean square of what is multiplied, [G, group]; the clip with the least weighted error."""
    least, top = integers(bits, whole=True)
    at = np.abs(blocks).argmax(axis=1)[:, None]
    signed = np.take_along_axis(blocks, at, axis=1)
    signed = np.where(signed == 0, 1.0, signed).astype(np.float32)
    weight = np.ones(blocks.shape[:2]) if importance is None else importance
    best = np.full(signed.shape, np.inf)
    scales = signed / least
    for clip in _CLIPS if bits >= 4 else _FEW_BITS_CLIPS:
        for s in (signed * np.float32(clip / least), np.abs(signed) * np.float32(clip / top)):
            loss = ((nearest(blocks, s, bits, whole=True) * s - blocks) ** 2 * weight[:, :, None]).sum(axis=1, keepdims=True)
            better = loss < 0.98 * best
            best, scales = np.where(better, loss, best), np.where(better, s, scales)
    return scales[:, 0].astype(np.float32)


def _as_f32(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 1e-30).astype(np.float32)
