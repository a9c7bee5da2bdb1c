"""Symbolic dimensions that are taken to be equal to others, which a run has to confirm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..compute import Compute
from ..expr import Expr, load
from ..kernel import Buffer, axis
from ..types import Dim, TensorType
from .base import Op
from .movement import static
from .operands import require, require_count


@dataclass(frozen=True)
class Refine(Op):
    """x, known to have this shape: its dimensions are equal to those of x, though that does not show.

    A target with open dimensions checks it when the model runs (`codegen/sizing.py`)."""

    shape: tuple[Dim, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        pairs = zip(x.shape, self.shape, strict=False)
        fits = x.rank == len(self.shape) and all(n == m or isinstance(n, Expr) or isinstance(m, Expr) for n, m in pairs)
        require(fits, self, "{} is not of shape {}", x, self.shape)
        return (TensorType(x.dtype, self.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        shape = static(self, self.shape)
        require(arrays[0].shape == shape, self, "expected the shape {}, got {}", shape, arrays[0].shape)
        return (arrays[0].copy(),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        axes = tuple(axis(f"i{n}", d) for n, d in enumerate(out.shape))
        return Compute(out, axes, load(ins[0], *axes))
