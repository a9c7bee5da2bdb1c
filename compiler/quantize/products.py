"""The products of a layer on sampled rows: how much its outputs change when its operands do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .layers import Layer


@dataclass(frozen=True, eq=False)
class Products:
    """x: rows [g, R, K]; m: weights [g, K, N]; y: their products [g, R, N]; size: ||y||^2."""

    x: np.ndarray
    m: np.ndarray
    y: np.ndarray
    size: float

    def error(self, x: np.ndarray, m: np.ndarray, offset: np.ndarray | None = None) -> float:
        """||x m + offset - y||^2 / ||y||^2 for changed operands; offset: one number per output channel."""
        e = np.matmul(x, m)
        e -= self.y
        if offset is not None:
            e += offset.reshape(len(m), 1, -1)
        return squares(e) / self.size

    def change(self, e: np.ndarray) -> float:
        """||e m||^2 / ||y||^2 for a change e of the rows."""
        return squares(np.matmul(e, self.m)) / self.size

    def some(self, rows: int, columns: int) -> Products:
        """A part of them, for quick comparisons."""
        return products(self.x[:, :rows], self.m[:, :, :columns])


def squares(a: np.ndarray) -> float:
    return float(np.einsum("ijk,ijk->", a, a, dtype=np.float64))


def products(x: np.ndarray, m: np.ndarray) -> Products:
    x, m = np.ascontiguousarray(x), np.ascontiguousarray(m)
    y = np.matmul(x, m)
    return Products(x, m, y, max(squares(y), 1e-30))


def layer_products(layer: Layer, w: np.ndarray, rows: np.ndarray) -> Products:
    """rows: as `Statistics.rows_of` gives them."""
    return products(rows, layer.matrix(w))
