"""Sampling of images at positions read from data.

Positions are handled as floats until they are known to be near the image: only then are they cast to indices, so NaN
and far positions read inside of the image too.  NaN counts as far outside on the low side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..compute import Compute
from ..dims import as_dim
from ..expr import Expr, Type, all_of, as_expr, binary, cast, const, select, unary
from ..kernel import Buffer
from ..types import Dim, TensorType, is_float
from .arithmetic import arithmetic_dtype, read, widen
from .base import Op
from .interpolation import CUBIC, cubic, triangle
from .movement import clamp, output_axes
from .operands import require, require_count

PADDINGS = ("zeros", "border", "reflection")
TAPS: dict[str, tuple[int, ...]] = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}
_MARGIN = 3  # a position this far outside has no tap inside


@dataclass(frozen=True)
class GridSample(Op):
    """x[N, *sizes, C] and positions grid[N, *out, d], d = number of sizes: out[N, *out, C], channels last throughout.

    A position has one number per size, the last size first; -1 and 1 are the borders: the centres of the outermost
    elements (align_corners), or their outer edges.  mode: nearest, linear or cubic (coefficient -0.75); padding: what
    lies outside, zeros, border (repeated) or reflection (at the borders).  As ONNX's GridSample.
    """

    mode: str
    padding: str
    align_corners: bool

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2)
        x, grid = types
        require(self.mode in TAPS, self, "unknown mode {!r}, expected one of {}", self.mode, tuple(TAPS))
        require(self.padding in PADDINGS, self, "unknown padding {!r}, expected one of {}", self.padding, PADDINGS)
        require(is_float(grid.dtype), self, "positions must be floats, got {}", grid)
        require(self.mode == "nearest" or is_float(x.dtype), self, "cannot interpolate {}; cast it", x)
        ranks = x.rank >= 3 and grid.rank == x.rank
        require(ranks, self, "expected x[N, *sizes, C] and grid[N, *out, d], got {} and {}", x, grid)
        fits = x.shape[0] == grid.shape[0] and grid.shape[-1] == x.rank - 2
        require(fits, self, "grid {} does not fit {}: expected {} numbers per position", grid, x, x.rank - 2)
        require(0 not in x.shape[1:-1] or 0 in grid.shape, self, "cannot sample the empty {}", x)
        return (TensorType(x.dtype, (*grid.shape[:-1], x.shape[-1])),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, grid = arrays
        sizes = x.shape[1:-1]
        positions = [widen(grid[..., len(sizes) - 1 - d]) for d in range(len(sizes))]
        with np.errstate(all="ignore"):
            taps = [self._taps(p, n) for p, n in zip(positions, sizes, strict=True)]
        batch = np.arange(x.shape[0]).reshape(-1, *(1,) * len(sizes))
        out: np.ndarray | None = None
        for combination in product(*taps):
            value = widen(x)[(batch, *(index for index, _, _ in combination))]
            for _, weight, inside in combination:
                value = np.where(inside[..., None], value, value.dtype.type(0))
                value = value if self.mode == "nearest" else value * weight[..., None].astype(value.dtype)
            out = value if out is None else out + value
        return (np.asarray(out).astype(x.dtype),)

    def _taps(self, position: np.ndarray, n: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Index, weight and whether it lies inside, of every tap along one size."""
        last = 0 if self.align_corners else 1
        p = ((position + 1) * (n - 1 + last) - last) / 2
        p = np.rint(p) if self.mode == "nearest" else p
        if self.padding == "border":
            p = np.where(p < -last / 2, 0, np.where(p > n - 1 + last / 2, n - 1, p))
        elif self.padding == "reflection":
            p = reflect(p, -last / 2, n - 1 + last / 2)
        p = np.clip(np.where(np.isnan(p), -_MARGIN, p), -_MARGIN, n - 1 + _MARGIN).astype(position.dtype)
        first = np.floor(p)
        made = []
        for k in TAPS[self.mode]:
            i = (first + k).astype(np.int64)
            weight = cubic(p - first - k, CUBIC) if self.mode == "cubic" else triangle(p - first - k)
            inside = (i >= 0) & (i < n) | (self.padding != "zeros")
            if self.padding == "reflection":
                i = np.rint(reflect(i.astype(np.float64), -last / 2, n - 1 + last / 2)).astype(np.int64)
            made.append((np.clip(i, 0, n - 1), weight, inside))
        return made

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        x, grid = ins
        axes = output_axes(out)
        sizes = x.shape[1:-1]
        wide = arithmetic_dtype(x.dtype)
        tables: list[list[tuple[Expr, Expr, list[Expr]]]] = []
        for d, n in enumerate(sizes):
            position = read(grid, *axes[:-1], const(len(sizes) - 1 - d))
            tables.append(self._tap_exprs(self._source(position, n), n, wide))

        def sample(chosen: list[Expr], inside: list[Expr]) -> Expr:
            """Interpolated over the sizes that have no index yet."""
            if len(chosen) == len(sizes):
                value = read(x, axes[0], *chosen, axes[-1])
                return select(all_of(inside), value, const(0, Type(wide))) if inside else value
            table = tables[len(chosen)]
            parts = [(w, sample([*chosen, i], inside + conditions)) for i, w, conditions in table]
            if self.mode == "nearest":
                return parts[0][1]
            total = parts[0][0] * parts[0][1]
            for weight, value in parts[1:]:
                total = total + weight * value
            return total

        return Compute(out, axes, sample([], []))

    def _source(self, position: Expr, n: Dim) -> Expr:
        """The position as a fractional index, near the image."""
        size = cast(as_expr(n), position.type.dtype)
        p = (position + 1.0) * (size - 1.0) * 0.5 if self.align_corners else ((position + 1.0) * size - 1.0) * 0.5
        p = unary("rint", p) if self.mode == "nearest" else p
        if self.padding == "border":
            edge = 0.0 if self.align_corners else 0.5  # as ONNX's reference: positions beyond the edges are moved
            low = binary("lt", p, -edge)
            p = select(low, const(0, p.type), select(binary("lt", size + (edge - 1.0), p), size - 1.0, p))
        elif self.padding == "reflection":
            p = self._reflected(p, size, n)
        return _between(p, const(-_MARGIN, p.type), size + (_MARGIN - 1.0))

    def _reflected(self, p: Expr, size: Expr, n: Dim) -> Expr:
        if self.align_corners and n == 1:
            return const(0, p.type)
        low = 0.0 if self.align_corners else -0.5
        span = size - 1.0 if self.align_corners else size
        there = (p - low) - unary("floor", (p - low) / (span * 2.0)) * (span * 2.0)
        return span - unary("abs", there - span) + low

    def _tap_exprs(self, p: Expr, n: Dim, wide: str) -> list[tuple[Expr, Expr, list[Expr]]]:
        """Index, weight and conditions of every tap along one size."""
        first = unary("floor", p)
        base, part = cast(first, "i64"), cast(p - first, wide)
        made: list[tuple[Expr, Expr, list[Expr]]] = []
        for k, weight in zip(TAPS[self.mode], _weights(self.mode, part), strict=True):
            i = base + k
            inside: list[Expr] = []
            if self.padding == "zeros":
                inside = [binary("le", 0, i), binary("lt", i, as_expr(n))]
            elif self.padding == "reflection":
                i = _reflected_index(i, n, self.align_corners)
            made.append((clamp(i, n), weight, inside))
        return made


def reflect(p: np.ndarray, low: float, high: float) -> np.ndarray:
    """Positions mirrored at two borders until they lie between them."""
    if low == high:
        return np.full_like(p, low)
    there = np.mod(p - low, 2 * (high - low))
    return low + np.minimum(there, 2 * (high - low) - there)


def _between(p: Expr, low: Expr, high: Expr) -> Expr:
    """p clamped; NaN becomes low."""
    return binary("min", binary("max", low, p), high)


def _reflected_index(i: Expr, n: Dim, align_corners: bool) -> Expr:
    period = as_dim(2 * n - 2) if align_corners else as_dim(2 * n)
    if period == 0:
        return as_expr(0)
    there = i % as_expr(period)
    return binary("min", there, as_expr(period) - there if align_corners else as_expr(period) - there - 1)


def _weights(mode: str, t: Expr) -> Sequence[Expr]:
    """Weights of the taps at part t of the way from tap 0 to tap 1."""
    if mode == "nearest":
        return [const(1, t.type)]
    if mode == "linear":
        return [1.0 - t, t]
    a = CUBIC
    inner = [((x * (a + 2) - (a + 3)) * x) * x + 1.0 for x in (t, 1.0 - t)]
    outer = [((x * a - 5 * a) * x + 8 * a) * x - 4 * a for x in (t + 1.0, 2.0 - t)]
    return [outer[0], inner[0], inner[1], outer[1]]
