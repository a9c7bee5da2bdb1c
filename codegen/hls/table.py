"""Functions of one variable as tables: equal segments of the operand's codes with linear interpolation.

    index = (x - low) >> rest;  y = round(start[index] * 2^rest + slope[index] * (x & mask))

The number of segments grows until the largest error over every code is at most one unit of the result, or the limit
is reached; `error` is that largest error, in real units, found by trying every code (or a dense sample of them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .fixed import Fixed, holding, round_shift

GUARD = 3  # bits that the stored points have beyond the result
MAX_INDEX, MIN_INDEX = 11, 4
_TRIED = 1 << 16

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Table:
    """start, slope: one per segment, in units of result.frac + GUARD.  rest: low bits of the operand that interpolate."""

    name: str
    operand: Fixed
    result: Fixed
    rest: int
    start: np.ndarray
    slope: np.ndarray
    error: float
    about: str = ""

    def run(self, x: np.ndarray) -> np.ndarray:
        at = x - self.operand.low
        index, part = at >> self.rest, at & ((1 << self.rest) - 1)
        wide = (self.start[index] << self.rest) + self.slope[index] * part
        return np.clip(round_shift(wide, self.rest + GUARD), self.result.low, self.result.high)

    @property
    def start_type(self) -> Fixed:
        return holding(int(self.start.min()), int(self.start.max()))

    @property
    def slope_type(self) -> Fixed:
        return holding(int(self.slope.min()), int(self.slope.max()))

    @property
    def wide_type(self) -> Fixed:
        """Holds the interpolated value before it is rounded, with the half that is added."""
        reach = (int(np.abs(self.start).max()) + int(np.abs(self.slope).max()) + (1 << GUARD)) << self.rest
        return holding(-reach, reach)

    def code(self) -> str:
        size, r = len(self.start), self.result
        shift = self.rest + GUARD
        wide = self.wide_type.cpp
        at = f"(x - ({self.operand.low}))" if self.operand.low else "x"
        index = f"tw::uint<{max(1, self.operand.bits)}>({at})"
        lines = [f"// {self.about or 'a function'}: {size} segments, largest error {self.error:.3g}"]
        lines.append(f"static {r.cpp} {self.name}({self.operand.cpp} x) {{")
        lines.append(f"  const {holding(0, 2**self.operand.bits - 1).cpp} at = {index};")
        lines.append(f"  const int index = int(at >> {self.rest});")
        if self.rest:
            lines.append(f"  const tw::sint<{self.rest + 1}> part = at & {(1 << self.rest) - 1};")
            lines.append(f"  const {wide} y = {wide}({self.name}_start[index]) * {1 << self.rest}LL"
                         f" + {self.name}_slope[index] * part + {1 << (shift - 1)}LL;")
        else:
            lines.append(f"  const {wide} y = {self.name}_start[index] + {1 << (shift - 1)};")
        lines.append(f"  return tw::saturate<{r.cpp}>(y >> {shift}, {r.low}LL, {r.high}LL);")
        return "\n".join([*lines, "}"]) + "\n"


def make_table(name: str, f: Function, operand: Fixed, result: Fixed, about: str = "") -> Table:
    """f maps real values (float64 arrays) to real values; where it is not finite, the nearest end of the type is taken."""
    count = 1 << operand.bits
    codes = operand.low + np.unique(np.linspace(0, count - 1, min(count, _TRIED)).round().astype(np.int64))
    wanted = _finite(f(operand.real(codes)), result)
    for bits in range(min(MIN_INDEX, operand.bits), min(MAX_INDEX, operand.bits) + 1):
        table = _with_segments(name, f, operand, result, bits, about)
        error = float(np.abs(result.real(table.run(codes)) - wanted).max())
        if error <= result.step:
            break
    return Table(name, operand, result, table.rest, table.start, table.slope, error, about)


def exact_table(name: str, y: np.ndarray, operand: Fixed, about: str = "") -> Table:
    """y: the integer for every code of the operand, from its lowest on."""
    return Table(name, operand, holding(int(y.min()), int(y.max())), 0, y << GUARD, np.zeros(len(y), np.int64), 0.0, about)


def _finite(y: np.ndarray, result: Fixed) -> np.ndarray:
    low, high = result.real(np.array([result.low, result.high]))
    return np.clip(np.nan_to_num(y, nan=0.0, posinf=high, neginf=low), low, high)


def _with_segments(name: str, f: Function, operand: Fixed, result: Fixed, bits: int, about: str) -> Table:
    rest = operand.bits - bits
    ends = operand.low + (np.arange((1 << bits) + 1, dtype=np.int64) << rest)
    points = _finite(f(operand.real(ends)), result)
    q = np.floor(points * 2.0 ** (result.frac + GUARD) + 0.5).astype(np.int64)
    return Table(name, operand, result, rest, q[:-1], np.diff(q) if rest else np.zeros(len(q) - 1, np.int64), 0.0, about)
