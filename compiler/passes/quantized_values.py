"""What `lower_quantization` knows about a value before it decides how the value is computed.

A record stands for an old value whose integers exist already in the new graph, and says what has still to be done to them;
`materialize` does it, for a user that wants the value as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Union

import numpy as np

from ...ir.graph import Builder, Value
from ...ir.ops.base import Op
from ...ir.ops.elementwise import Binary, Cast
from ...ir.ops.movement import Concat
from ...ir.types import DTYPES

Number = Union[int, Value]
BYTES = ("u8", "i8")


@dataclass(frozen=True)
class Storage:
    """How the machine wants the operands of integer products: the types of activations and of weights."""

    activations: str
    weights: str

    def shift(self, dtype: str) -> int:
        """What is added to bytes of a type when they are stored."""
        return {("u8", "i8"): 128, ("i8", "u8"): -128}.get((self.activations, dtype), 0)


STORAGES = (Storage("u8", "i8"), Storage("i8", "i8"), Storage("i16", "i16"))
"""The best first: bytes of both signs, signed bytes, and bytes in 16 bits where only these are multiplied."""


@dataclass(frozen=True, eq=False)
class Integers:
    """Integers of type dtype: stored - shift."""

    stored: Value
    dtype: str
    shift: int = 0


@dataclass(frozen=True, eq=False)
class Centred:
    """stored - zero, in i32.  zero: a number, or an i32 scalar that the run computes."""

    stored: Value
    zero: Number


@dataclass(frozen=True, eq=False)
class Affine:
    """The float (stored - zero) * scale.  zero as for `Centred`; scale: a number, or an f32 scalar of the run."""

    stored: Value
    zero: Number
    scale: float | Value


@dataclass(frozen=True, eq=False)
class Weights:
    """A constant float: integers (i32) times a scale (f32) that broadcasts against them and has their rank."""

    integers: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class Sums:
    """The float clip((sums + shift) * factor + offset, low, high) of integer sums (i32).  The arrays are numbers or run
    along the last axes of the sums; shift holds whole numbers."""

    sums: Value
    shift: np.ndarray
    factor: np.ndarray
    offset: np.ndarray
    low: float = -np.inf
    high: float = np.inf

    @property
    def is_clipped(self) -> bool:
        return (self.low, self.high) != (-np.inf, np.inf)


@dataclass(frozen=True, eq=False)
class Linear:
    """The float clip(terms added up, low, high); the scales of the terms are numbers."""

    terms: tuple[Affine, ...]
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, eq=False)
class Function:
    """What elementwise operators make of one tensor of unsigned bytes: its value for each of the 256.  costly: whether it
    takes more than a few instructions.  make: computes it."""

    stored: Value
    table: np.ndarray
    costly: bool
    make: Callable[[], Value]


@dataclass(frozen=True, eq=False)
class Joined:
    """A Concat of floats that may still be quantized part by part."""

    axis: int
    parts: tuple[Record, ...]


@dataclass(frozen=True, eq=False)
class Attended:
    """The result of an attention between integers: make(gain, ()) is gain times it, in floats; make(gain, (zero, low,
    high)) that rounded, as u8.  views: what moves its elements afterwards."""

    make: Callable[[float, tuple[int, ...]], Value]
    views: tuple[Op, ...] = ()


Record = Union[Value, Integers, Centred, Affine, Weights, Sums, Linear, Function, Joined, Attended]


def scalar(b: Builder, number: float, dtype: str) -> Value:
    return b.constant(np.asarray(number).astype(DTYPES[dtype].numpy))


def cast(b: Builder, v: Value, dtype: str) -> Value:
    return v if v.type.dtype == dtype else b.add(Cast(dtype), v)


def as_number(b: Builder, zero: Number, dtype: str) -> Value:
    """A zero point as an operand."""
    return cast(b, zero, dtype) if isinstance(zero, Value) else scalar(b, zero, dtype)


def minus(b: Builder, v: Value, zero: Number) -> Value:
    """v - zero in v's type; nothing for the number 0."""
    return v if not isinstance(zero, Value) and zero == 0 else b.add(Binary("sub"), v, as_number(b, zero, v.type.dtype))


def materialize(b: Builder, r: Record) -> Value:
    """The value that a record stands for, in the new graph."""
    return r if isinstance(r, Value) else _MATERIALIZE[type(r)](b, r)


def _integers(b: Builder, r: Integers) -> Value:
    if r.stored.type.dtype == r.dtype and r.shift == 0:
        return r.stored
    if (r.stored.type.dtype, r.dtype, r.shift) in (("u8", "i8", 128), ("i8", "u8", -128)):
        return other_sign(b, r.stored)
    return cast(b, minus(b, cast(b, r.stored, "i32"), r.shift), r.dtype)


def other_sign(b: Builder, v: Value) -> Value:
    """Bytes moved by 128 into the other type of the same size: u8 - 128 as i8, i8 + 128 as u8."""
    to, top = ("i8", 128) if v.type.dtype == "u8" else ("u8", -128)
    return cast(b, b.add(Binary("bitxor"), v, scalar(b, top, v.type.dtype)), to)


def _centred(b: Builder, r: Centred) -> Value:
    return minus(b, cast(b, r.stored, "i32"), r.zero)


def _affine(b: Builder, r: Affine) -> Value:
    scale = r.scale if isinstance(r.scale, Value) else scalar(b, r.scale, "f32")
    return b.add(Binary("mul"), minus(b, cast(b, r.stored, "f32"), r.zero), scale)


def _weights(b: Builder, r: Weights) -> Value:
    return b.constant(r.integers.astype(np.float32) * r.scale)


def _sums(b: Builder, r: Sums) -> Value:
    return clipped(b, scaled(b, r), r.low, r.high)


def scaled(b: Builder, r: Sums) -> Value:
    """(sums + shift) * factor + offset."""
    v = r.sums
    if np.any(r.shift):
        v = b.add(Binary("add"), v, b.constant(r.shift.astype(np.int32)))
    v = b.add(Binary("mul"), cast(b, v, "f32"), b.constant(r.factor.astype(np.float32)))
    return b.add(Binary("add"), v, b.constant(r.offset.astype(np.float32))) if np.any(r.offset) else v


def clipped_record(r: Sums | Linear, fn: str, bound: float) -> Sums | Linear:
    """The record with a bound from below (fn "max") or above ("min") after those that it has."""
    if fn == "max":
        return replace(r, low=max(r.low, bound), high=max(r.high, bound))
    return replace(r, low=min(r.low, bound), high=min(r.high, bound))


def clipped(b: Builder, v: Value, low: float, high: float) -> Value:
    if low != -np.inf:
        v = b.add(Binary("max"), v, scalar(b, low, v.type.dtype))
    return v if high == np.inf else b.add(Binary("min"), v, scalar(b, high, v.type.dtype))


def _linear(b: Builder, r: Linear) -> Value:
    return clipped(b, total(b, r.terms), r.low, r.high)


def total(b: Builder, terms: tuple[Affine, ...]) -> Value:
    v = materialize(b, terms[0])
    for t in terms[1:]:
        v = b.add(Binary("add"), v, materialize(b, t))
    return v


def _joined(b: Builder, r: Joined) -> Value:
    return b.add(Concat(r.axis), *(materialize(b, p) for p in r.parts))


def attended(b: Builder, r: Attended, gain: float = 1.0, result: tuple[int, ...] = ()) -> Value:
    v = r.make(gain, result)
    for op in r.views:
        v = b.add(op, v)
    return v


_MATERIALIZE: dict[type, Callable[..., Value]] = {
    Integers: _integers, Centred: _centred, Affine: _affine, Weights: _weights, Sums: _sums, Linear: _linear,
    Joined: _joined, Attended: attended, Function: lambda b, r: r.make(),
}


def moved(r: Integers | Centred | Affine, stored: Value) -> Record:
    """The record over other integers of the same meaning."""
    return replace(r, stored=stored)


def stored_as(b: Builder, r: Centred | Affine, storage: Storage) -> Centred | Affine:
    """The record over integers as products read them."""
    have, want = r.stored.type.dtype, storage.activations
    if have == want:
        return r
    if want not in BYTES:
        return replace(r, stored=cast(b, r.stored, want))
    shift = storage.shift(have)
    zero = r.zero + shift if not isinstance(r.zero, Value) else b.add(Binary("add"), r.zero, scalar(b, shift, "i32"))
    return replace(r, stored=other_sign(b, r.stored), zero=zero)
