"""One row of a suite: an operator with its attributes, how its inputs are made, and how exact the result must be.

Rows are data: no row runs anything when it is imported.  The NumPy meaning (`Op.evaluate`) gives the expected outputs.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Union

import numpy as np
from tilewright.ir.ops.base import Op
from tilewright.ir.types import DTYPES, TensorType, dtype_of


@dataclass(frozen=True)
class Spec:
    """An array drawn by a seeded generator, uniform in low..high (integers: both included; bool: no bounds)."""

    dtype: str
    shape: tuple[int, ...]
    low: float = -4
    high: float = 4

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        info = DTYPES[self.dtype]
        if info.kind == "b":
            return rng.integers(0, 2, self.shape).astype(np.bool_)
        if info.kind == "f":
            return rng.uniform(self.low, self.high, self.shape).astype(info.numpy)
        low = max(int(self.low), 0) if info.kind == "u" else int(self.low)
        return rng.integers(low, int(self.high), self.shape, dtype=np.int64, endpoint=True).astype(info.numpy)


Input = Union[Spec, np.ndarray]


@dataclass(frozen=True, eq=False)
class Row:
    """id: unique over all suites.  inputs: one per operand, drawn or literal.  tolerance: None means the same bits (any
    NaN equals any NaN); otherwise |got - expected| <= tolerance * (1 + |expected|) element by element."""

    id: str
    op: Op
    inputs: tuple[Input, ...]
    tolerance: float | None = None

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The inputs; the same on every call and machine."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        return tuple(i.draw(rng) if isinstance(i, Spec) else np.asarray(i) for i in self.inputs)


def type_of(array: np.ndarray) -> TensorType:
    return TensorType(dtype_of(array), tuple(array.shape))


def check(got: np.ndarray, expected: np.ndarray, tolerance: float | None) -> None:
    """Raises AssertionError unless type, shape and values agree as `Row.tolerance` says."""
    assert type_of(got) == type_of(expected), f"got {type_of(got)}, expected {type_of(expected)}"
    if DTYPES[dtype_of(got)].kind != "f":
        np.testing.assert_array_equal(got, expected)
    elif tolerance is None:
        wide = np.float64
        np.testing.assert_array_equal(got.astype(wide), expected.astype(wide))
    else:
        np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance)
