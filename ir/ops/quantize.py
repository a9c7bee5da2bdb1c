"""Quantization: integers that stand for floats, value = (integer - zero point) * scale.

`Quantize` and `Dequantize` say what a model means; `lower_quantization` turns what stands between them into integer
arithmetic, and what it leaves is expanded into ordinary operators.  `Saturate` is the only new arithmetic: round half to
even, add the zero point, clamp.

Parameters (scale, zero point) are scalars or of one element for a whole tensor; one dimension for one pair per index of
`axis`; or of x's rank for blocks of `block` neighbours along `axis` that share a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..compute import Compute
from ..expr import Expr, binary, cast, load, unary
from ..kernel import Buffer, axis
from ..types import DTYPES, TensorType, is_integer
from .arithmetic import arithmetic_dtype, read, require_kind, widen
from .base import Op
from .elementwise import Binary, Cast, Select, Unary
from .movement import Broadcast, Reshape, Slice
from .operands import require, require_axis, require_count
from .reduce import Reduce

if TYPE_CHECKING:
    from ..graph import Builder, Value


def integer_range(dtype: str) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    bits = 8 * DTYPES[dtype].size
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if DTYPES[dtype].kind == "i" else (0, 2**bits - 1)


@dataclass(frozen=True)
class Saturate(Op):
    """A float rounded half to even, plus `zero`, within low..high, as an integer of type `to` (8 or 16 bits); NaN gives
    low."""

    to: str
    low: int
    high: int
    zero: int = 0

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        require_kind(self, "the operand", types[0], "f")
        _require_range(self, self.to, self.low, self.high)
        return (TensorType(self.to, types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        whole = np.rint(widen(arrays[0])) + np.float32(self.zero)
        return (_saturated(whole, self.to, self.low, self.high),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        axes = tuple(axis(f"d{i}", n) for i, n in enumerate(out.shape))
        return Compute(out, axes, self._body(read(ins[0], *axes)))

    def _body(self, x: Expr) -> Expr:
        """Clamped with the bound first, which excludes NaN: the conversion is one plain instruction."""
        x = binary("min", float(self.high - self.zero), binary("max", float(self.low - self.zero), x))
        whole = cast(unary("rint", x), "i32")
        return cast(binary("add", whole, self.zero) if self.zero else whole, self.to)


@dataclass(frozen=True)
class Lookup(Op):
    """x (u8) and a table of 256 elements: the table's element for each of x."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2)
        x, table = types
        require(x.dtype == "u8" and table.shape == (256,), self, "expected u8 and a table of 256, got {} and {}", x, table)
        return (TensorType(table.dtype, x.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (arrays[1][arrays[0]],)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        axes = tuple(axis(f"d{i}", n) for i, n in enumerate(out.shape))
        return Compute(out, axes, load(ins[1], cast(load(ins[0], *axes), "i64")))


def _require_range(op: Op, dtype: str, low: int, high: int) -> None:
    known = dtype in DTYPES and is_integer(dtype) and DTYPES[dtype].size <= 2
    require(known, op, "expected integers of 8 or 16 bits, got {}", dtype)
    least, most = integer_range(dtype)
    require(least <= low <= high <= most, op, "the range {} to {} is not within {} to {}", low, high, least, most)


def _saturated(whole: np.ndarray, dtype: str, low: int, high: int) -> np.ndarray:
    inside = np.fmin(np.float32(high), np.fmax(np.float32(low), whole))  # these skip NaN
    return inside.astype(DTYPES[dtype].numpy)


def _require_parameter(op: Op, what: str, x: TensorType, p: TensorType, along: int, block: int) -> None:
    if p.rank == 0 or p.shape == (1,):
        return
    require_axis(op, along, x)
    if not block:
        fits = p.shape == (x.shape[along],)
        require(fits, op, "{} {} must have one element per index of axis {} of {}", what, p, along, x)
        return
    n = x.shape[along]
    require(isinstance(n, int), op, "the size of axis {} of {} must be known", along, x)
    wanted = (*x.shape[:along], -(-n // block), *x.shape[along + 1 :])  # type: ignore[operator]
    fits = p.shape == wanted
    require(fits, op, "{} {} must be [{}] for blocks of {}", what, p, ", ".join(map(str, wanted)), block)


def spread_array(p: np.ndarray, shape: tuple[int, ...], along: int, block: int) -> np.ndarray:
    """A parameter so that it broadcasts against x of this shape."""
    if p.size == 1 and p.ndim <= 1:
        return p.reshape(())
    if block:
        return np.take(np.repeat(p, block, along), range(shape[along]), along)
    return p.reshape([-1 if d == along else 1 for d in range(len(shape))])


def _spread(b: Builder, p: Value, x: TensorType, along: int, block: int) -> Value:
    """The same in the graph."""
    if p.type.rank == 0:
        return p
    if p.type.shape == (1,):
        return b.add(Reshape(()), p)
    if not block:
        return b.add(Reshape((p.type.shape[0], *(1 for _ in x.shape[along + 1 :]))), p)
    first, last, count = p.type.shape[:along], p.type.shape[along + 1 :], p.type.shape[along]
    repeated = b.add(Broadcast((*first, count, block, *last)), b.add(Reshape((*first, count, 1, *last)), p))
    p = b.add(Reshape((*first, count * block, *last)), repeated)  # type: ignore[operator]
    return b.add(Slice((0,) * x.rank, x.shape, (1,) * x.rank), p) if p.type.shape != x.shape else p


@dataclass(frozen=True)
class Quantize(Op):
    """x (float), scale, optional zero point of type `to` -> the integers of x / scale + zero point: rounded half to even,
    saturated to low..high.  The quotient is that of f32 where x is narrower."""

    to: str
    low: int
    high: int
    axis: int = 0
    block: int = 0

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2, 3)
        x, scale = types[:2]
        require_kind(self, "x", x, "f")
        require_kind(self, "the scale", scale, "f")
        _require_range(self, self.to, self.low, self.high)
        _require_parameter(self, "the scale", x, scale, self.axis, self.block)
        if len(types) == 3:
            require(types[2].dtype == self.to, self, "the zero point must be {}, got {}", self.to, types[2])
            _require_parameter(self, "the zero point", x, types[2], self.axis, self.block)
        return (TensorType(self.to, x.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = widen(arrays[0])
        scale, *zero = (spread_array(p, x.shape, self.axis, self.block) for p in arrays[1:])
        with np.errstate(all="ignore"):
            whole = np.rint(x / widen(scale).astype(x.dtype))
            if zero:
                whole = whole + zero[0].astype(x.dtype)
        return (_saturated(whole, self.to, self.low, self.high),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        x, scale, *zero = values
        dtype = arithmetic_dtype(x.type.dtype)
        quotient = b.add(Binary("div"), _as(b, x, dtype), _as(b, _spread(b, scale, x.type, self.axis, self.block), dtype))
        return (self.rounded(b, quotient, *(_spread(b, z, x.type, self.axis, self.block) for z in zero)),)

    def rounded(self, b: Builder, quotient: Value, zero: Value | None = None) -> Value:
        """The integers of a quotient; a zero point that is no constant of one element is added to the rounded floats."""
        from .elementwise import Unary

        if zero is None:
            return b.add(Saturate(self.to, self.low, self.high), quotient)
        known = b.constants.get(zero)
        if known is not None and known.size == 1:
            return b.add(Saturate(self.to, self.low, self.high, int(known.reshape(()))), quotient)
        whole = b.add(Binary("add"), b.add(Unary("rint"), quotient), _as(b, zero, quotient.type.dtype))
        return b.add(Saturate(self.to, self.low, self.high), whole)


@dataclass(frozen=True)
class Dequantize(Op):
    """x (integers), scale, optional zero point of x's type -> (x - zero point) * scale, in the scale's type."""

    axis: int = 0
    block: int = 0
    folds: ClassVar[bool] = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2, 3)
        x, scale = types[:2]
        require_kind(self, "x", x, "iu")
        require_kind(self, "the scale", scale, "f")
        _require_parameter(self, "the scale", x, scale, self.axis, self.block)
        if len(types) == 3:
            require(types[2].dtype == x.dtype, self, "the zero point must be {}, got {}", x.dtype, types[2])
            _require_parameter(self, "the zero point", x, types[2], self.axis, self.block)
        return (TensorType(scale.dtype, x.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0].astype(np.int64)
        scale, *zero = (spread_array(p, x.shape, self.axis, self.block) for p in arrays[1:])
        whole = (x - zero[0].astype(np.int64) if zero else x).astype(widen(scale).dtype)
        return ((whole * widen(scale)).astype(arrays[1].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        x, scale, *zero = values
        dtype = arithmetic_dtype(scale.type.dtype)
        whole = _as(b, x, dtype)
        for z in zero:
            offset = _as(b, _spread(b, z, x.type, self.axis, self.block), dtype)
            whole = b.add(Binary("sub"), whole, offset)
        made = b.add(Binary("mul"), whole, _as(b, _spread(b, scale, x.type, self.axis, self.block), dtype))
        return (_as(b, made, scale.type.dtype),)


def _as(b: Builder, v: Value, dtype: str) -> Value:
    return v if v.type.dtype == dtype else b.add(Cast(dtype), v)


@dataclass(frozen=True)
class RoundBlocks(Op):
    """x (f32) as its product with narrow weights may see it: each block of neighbours along the last axis in whole multiples
    of its largest magnitude / 127.  A model that allows products in bytes is imported with it; where no such product is
    used, `block_products` takes it away."""

    block: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        n = x.shape[-1] if x.rank else 0
        fits = x.dtype == "f32" and isinstance(n, int) and self.block > 0 and n % self.block == 0
        require(fits, self, "expected f32 with a last axis of whole blocks of {}, got {}", self.block, x)
        return (x,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0].reshape(*arrays[0].shape[:-1], -1, self.block)
        most = np.abs(x).max(axis=-1, keepdims=True)
        with np.errstate(all="ignore"):
            inverse = np.where(most > 0, np.float32(127) / most, np.float32(0)).astype(np.float32)
            whole = np.clip(np.rint(x * inverse), -127, 127)
        return ((whole * (most * np.float32(1 / 127))).astype(np.float32).reshape(arrays[0].shape),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        whole, scale, _ = self.parts(b, values[0])
        back = b.add(Binary("mul"), b.add(Cast("f32"), whole), scale)
        return (b.add(Reshape(values[0].type.shape), back),)

    def parts(self, b: Builder, x: Value) -> tuple[Value, Value, Value]:
        """Integers i8[..., G, block], their scales f32[..., G, 1] and sums i32[..., G, 1]."""
        n = x.type.shape[-1]
        assert isinstance(n, int)
        blocks = b.add(Reshape((*x.type.shape[:-1], n // self.block, self.block)), x)
        last = (blocks.type.rank - 1,)
        most = b.add(Reduce("max", last, True), b.add(Unary("abs"), blocks))

        def number(c: float) -> Value:
            return b.constant(np.asarray(c, np.float32))

        zero = number(0.0)
        inverse = b.add(Select(), b.add(Binary("gt"), most, zero), b.add(Binary("div"), number(127.0), most), zero)
        whole = b.add(Saturate("i8", -127, 127), b.add(Binary("mul"), blocks, inverse))
        sums = b.add(Reduce("sum", last, True), b.add(Cast("i32"), whole))
        return whole, b.add(Binary("mul"), most, number(1 / 127)), sums
