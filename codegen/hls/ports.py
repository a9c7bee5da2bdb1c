"""What the host does with a tensor on its way to the kernel and back: permutation, steps in floats, codes.

An input without `steps` is a fixed-point number, floor(x * 2^frac + 1/2).  The steps of a quantized model are those of the
model itself, in its order and in f32: (operation, number) pairs, then rint(x / scale) + zero.  A result is
codes * scale + offset, by default codes * 2^-frac; scale and offset are numbers or vary along the last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .tensor import Tensor

STEPS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum,
}


@dataclass(frozen=True)
class Quantizer:
    """rint(x / scale) + zero within low..high."""

    scale: float
    zero: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class InPort:
    """shape: of the model.  perm: from the model's axes to the kernel's; empty: none.  quantizer None: fixed point."""

    shape: tuple[int, ...]
    perm: tuple[int, ...] = ()
    steps: tuple[tuple[str, float], ...] = ()
    quantizer: Quantizer | None = None

    def encode(self, x: np.ndarray, t: Tensor) -> np.ndarray:
        """Floats of the model's shape as codes of the kernel's tensor."""
        x = x.transpose(self.perm) if self.perm else x
        if self.quantizer is None:
            return t.type.quantize(x).reshape(t.shape)
        q, x = self.quantizer, np.asarray(x, np.float32)
        for op, number in self.steps:
            x = STEPS[op](x, np.float32(number))
        whole = np.rint(x / np.float32(q.scale)) + np.float32(q.zero)
        return np.fmin(np.fmax(whole, np.float32(q.low)), np.float32(q.high)).astype(np.int64).reshape(t.shape)


@dataclass(frozen=True, eq=False)
class OutPort:
    """shape: of the model.  perm: from the kernel's axes to the model's.  affine: (scale, offset), if the codes are not
    fixed point; steps: what the model does to that in f32, numbers or one per index of the last axis."""

    shape: tuple[int, ...]
    perm: tuple[int, ...] = ()
    affine: tuple[np.ndarray, np.ndarray] | None = None
    steps: tuple[tuple[str, np.ndarray], ...] = ()

    def decode(self, codes: np.ndarray, t: Tensor) -> np.ndarray:
        """Codes of the kernel's tensor as floats of the model's shape."""
        y = t.type.real(codes) if self.affine is None else codes * self.affine[0] + self.affine[1]
        y = y.astype(np.float32)
        for op, numbers in self.steps:
            y = STEPS[op](y, numbers)
        return (y.transpose(self.perm) if self.perm else y).reshape(self.shape)
