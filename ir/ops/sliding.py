"""Sliding windows over the spatial dimensions of x[N, *spatial, C]: sizes, read positions, and their NumPy slices.

Window o reads, at kernel position k, the input position o * stride + k * dilation - pad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..dims import as_dim
from ..expr import Expr, as_expr, binary, bounds
from ..types import Dim
from .base import Op
from .operands import require

_MOST_PLACES = 2**40  # of a window


@dataclass(frozen=True)
class Window:
    """One entry per spatial dimension; pads are those at the begins, then those at the ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    def require_valid(self, op: Op, spatial: Sequence[Dim]) -> None:
        """Raises ModelError unless the attributes fit the spatial dimensions and every dimension holds a window."""
        rank = len(spatial)
        require(rank > 0, op, "expected at least one spatial dimension")
        for what, values, count, least in (
            ("kernel", self.kernel, rank, 1), ("strides", self.strides, rank, 1), ("pads", self.pads, 2 * rank, 0),
            ("dilations", self.dilations, rank, 1),
        ):
            ok = len(values) == count and all(isinstance(v, int) and v >= least for v in values)
            require(ok, op, "{} must be {} integers of at least {}, got {}", what, count, least, values)
        require(math.prod(self.kernel) <= _MOST_PLACES, op, "a window of {} is beyond any memory", self.kernel)
        for d, (n, out) in enumerate(zip(spatial, self.output(spatial), strict=True)):
            require(n != 0, op, "spatial dimension {} has no elements", d)
            holds = not isinstance(out, int) or out >= 1
            require(holds, op, "a window of {} does not fit into spatial dimension {} of size {}", self.span[d], d, n)

    @property
    def span(self) -> tuple[int, ...]:
        """Input positions from the first to the last that one window reads."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def before(self) -> tuple[int, ...]:
        return self.pads[: len(self.kernel)]

    @property
    def after(self) -> tuple[int, ...]:
        return self.pads[len(self.kernel) :]

    def output(self, spatial: Sequence[Dim]) -> tuple[Dim, ...]:
        rows = zip(spatial, self.before, self.after, self.span, self.strides, strict=True)
        return tuple(as_dim((n + b + a - w) // s + 1) for n, b, a, w, s in rows)

    def may_pass(self, d: int, n: Dim, at: Expr) -> bool:
        """Whether a position in spatial dimension d, of size n, may lie behind the end."""
        high = bounds(at)[1]
        return self.after[d] > 0 and not (isinstance(n, int) and high is not None and high < n)

    def read_at(
        self, spatial: Sequence[Dim], o: Sequence[Expr], k: Sequence[Expr]
    ) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
        """The input index, clamped to the input, and the conditions under which it was inside; without pads the index
        is affine and there are no conditions."""
        index: list[Expr] = []
        inside: list[Expr] = []
        for d, n in enumerate(spatial):
            at = o[d] * self.strides[d] + k[d] * self.dilations[d] - self.before[d]
            clamped = at
            if self.before[d]:
                inside.append(binary("le", 0, at))
                clamped = binary("max", clamped, 0)
            if self.may_pass(d, n, at):
                inside.append(binary("lt", at, as_expr(n)))
                clamped = binary("min", clamped, as_expr(n) - 1)
            index.append(clamped)
        return tuple(index), tuple(inside)

    def padded(self, x: np.ndarray, value: float) -> np.ndarray:
        """x[N, *spatial, C] with its pads filled with a value."""
        widths = [(0, 0), *zip(self.before, self.after, strict=True), (0, 0)]
        return np.pad(x, widths, constant_values=np.array(value).astype(x.dtype))

    def taps(self, padded: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray]]:
        """For every kernel position, what all windows of the padded input read there: [N, *output, C]."""
        out = [(n - w) // s + 1 for n, w, s in zip(padded.shape[1:-1], self.span, self.strides, strict=True)]
        result = []
        for k in np.ndindex(*self.kernel):
            rows = zip(k, self.dilations, self.strides, out, strict=True)
            cut = tuple(slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, s, n in rows)
            result.append((k, padded[(slice(None), *cut)]))
        return result
