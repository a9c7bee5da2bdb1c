"""Dimensions as data: where a model computes on its shapes at run time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..compute import Compute
from ..errors import InternalError
from ..expr import Expr, as_expr, binary, select
from ..kernel import Buffer, axis
from ..types import Dim, TensorType
from .base import Op


@dataclass(frozen=True)
class DimTensor(Op):
    """No operands: an i64 tensor of shape (len(dims),), or () for a single one."""

    dims: tuple[Dim, ...]
    shape: tuple[int, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        if types or len(self.shape) > 1 or math.prod(self.shape) != len(self.dims):
            raise InternalError(f"{self} does not make a tensor of its dimensions from no operands")
        return (TensorType("i64", self.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        if not all(isinstance(d, int) for d in self.dims):
            raise InternalError(f"{self}: symbolic dimensions must be bound before the operator is evaluated")
        return (np.array(self.dims, np.int64).reshape(self.shape),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        axes = tuple(axis(f"i{n}", d) for n, d in enumerate(out.shape))
        body: Expr = as_expr(self.dims[-1]) if self.dims else as_expr(0)
        for n in range(len(self.dims) - 2, -1, -1):
            body = select(binary("eq", axes[0], n), as_expr(self.dims[n]), body)
        return Compute(out, axes, body)
