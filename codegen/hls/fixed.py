"""Fixed-point types: an integer of so many bits that stands for integer * 2^-frac.

Rounding is to nearest, halves up; what does not fit saturates.  All arithmetic is on int64: no value may need more than
`MAX_BITS` bits, which every process checks when it is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp

import numpy as np

from ...ir.errors import InternalError

MAX_BITS = 62


@dataclass(frozen=True)
class Fixed:
    """bits: with the sign bit.  frac: binary digits behind the point; negative for coarse types."""

    bits: int
    frac: int = 0
    signed: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise InternalError(f"a fixed-point type of {self.bits} bits; 1 to {MAX_BITS} can be computed exactly")

    @property
    def low(self) -> int:
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        return 2 ** (self.bits - self.signed) - 1

    @property
    def step(self) -> float:
        """The value of one unit."""
        return 2.0**-self.frac

    @property
    def cpp(self) -> str:
        return f"tw::{'s' if self.signed else 'u'}int<{self.bits}>"

    @property
    def rom(self) -> str:
        """The element type of a constant array."""
        return f"tw::{'s' if self.signed else 'u'}rom<{self.bits}>"

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Floats as integers of this type."""
        scaled = np.floor(np.asarray(x, np.float64) * 2.0**self.frac + 0.5)
        return np.clip(scaled, self.low, self.high).astype(np.int64)

    def real(self, q: np.ndarray) -> np.ndarray:
        return np.asarray(q, np.float64) * self.step

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bits}.{self.frac}"


def holding(low: int, high: int, frac: int = 0) -> Fixed:
    """The narrowest type with every integer from low to high."""
    if low >= 0:
        return Fixed(max(1, high.bit_length()), frac, False)
    return Fixed(max((-low - 1).bit_length(), high.bit_length()) + 1, frac, True)


def covering(low: float, high: float, bits: int) -> Fixed:
    """The finest type of so many bits that reaches from low to high."""
    signed = low < 0
    reach = max(-low, high)
    if reach <= 0:
        return Fixed(1, 0, False) if not signed else Fixed(2, 0, True)
    _, exponent = frexp(reach)  # reach = m * 2^exponent, 0.5 <= m < 1
    frac = bits - signed - exponent
    top = 2 ** (bits - signed) - 1
    if np.floor(high * 2.0**frac + 0.5) > top:  # high is a power of two and rounds up to 2^n
        frac -= 1
    return Fixed(bits, frac, signed)


def exact_constant(values: np.ndarray, bits: int) -> tuple[np.ndarray, Fixed]:
    """Constants in at most so many bits, without trailing zero bits that all of them have."""
    values = np.asarray(values, np.float64)
    if not np.all(np.isfinite(values)):
        values = np.nan_to_num(values, posinf=3.4e38, neginf=-3.4e38)
    type = covering(float(min(values.min(initial=0.0), 0.0)), float(max(values.max(initial=0.0), 0.0)), bits)
    q = type.quantize(values)
    merged = int(np.bitwise_or.reduce(np.abs(q).ravel())) if q.size else 0
    if merged == 0:
        return q, Fixed(1, 0, False)
    zeros = (merged & -merged).bit_length() - 1
    q = q >> zeros
    return q, holding(int(q.min()), int(q.max()), type.frac - zeros)


def round_shift(x: np.ndarray, shift: int) -> np.ndarray:
    """x / 2^shift, to nearest, halves up; a negative shift multiplies."""
    if shift <= 0:
        return x << -shift
    return (x + (1 << (shift - 1))) >> shift
