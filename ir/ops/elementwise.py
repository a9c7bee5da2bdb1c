"""Element-by-element operators: one table row per function with its operand kinds, NumPy meaning and expression.

Operands broadcast as in NumPy.  Integers wrap; integer division truncates towards zero, `mod` has the sign of the
divisor and `fmod` that of the dividend; integer `pow` is the power in f64, truncated.  `max` and `min` give NaN if any
operand is NaN.  Axes of the computations: d0, d1, ... one per output dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..compute import Compute
from ..errors import InternalError
from ..expr import Expr, binary, call, cast, const, load, select, unary
from ..kernel import Buffer, axis
from ..types import DTYPES, TensorType
from .arithmetic import (
    arithmetic_dtype,
    as_dtype,
    broadcast_index,
    broadcast_shapes,
    read,
    require_kind,
    require_same_dtype,
    widen,
)
from .base import Op
from .operands import require, require_count


@dataclass(frozen=True)
class Function:
    """kinds: letters of `DTypeInfo.kind` that it takes.  boolean: the result is bool, else of the operands' type."""

    kinds: str
    numpy: Callable[..., np.ndarray]
    expr: Callable[..., Expr]
    boolean: bool = False


def _kind(x: Expr) -> str:
    return DTYPES[x.type.dtype].kind


def _neg(x: Expr) -> Expr:
    return unary("neg", x) if _kind(x) == "f" else binary("sub", 0, x)


def _abs(x: Expr) -> Expr:
    return x if _kind(x) == "u" else unary("abs", x)


def _sign(x: Expr) -> Expr:
    positive = select(binary("lt", 0, x), const(1, x.type), const(0, x.type))
    if _kind(x) == "u":
        return positive
    signed = select(binary("lt", x, 0), const(-1, x.type), positive)
    return signed if _kind(x) == "i" else select(binary("ne", x, x), x, signed)


def _bitnot(x: Expr) -> Expr:
    ones = -1 if _kind(x) == "i" else 2 ** (8 * DTYPES[x.type.dtype].size) - 1
    return binary("xor", x, ones)


def _erf(x: np.ndarray) -> np.ndarray:
    values = [math.erf(v) for v in x.ravel().tolist()]
    return np.array(values, x.dtype).reshape(x.shape)


def _math(fn: str, numpy: Callable[..., np.ndarray]) -> Function:
    return Function("f", numpy, lambda *xs: call(fn, *xs))


UNARY: dict[str, Function] = {
    "neg": Function("fiu", np.negative, _neg),
    "abs": Function("fiu", np.abs, _abs),
    "sign": Function("fiu", np.sign, _sign),
    "sqrt": Function("f", np.sqrt, lambda x: unary("sqrt", x)),
    "floor": Function("f", np.floor, lambda x: unary("floor", x)),
    "ceil": Function("f", np.ceil, lambda x: unary("ceil", x)),
    "rint": Function("f", np.rint, lambda x: unary("rint", x)),
    "reciprocal": Function("f", lambda x: x.dtype.type(1) / x, lambda x: binary("div", 1, x)),
    "not": Function("b", np.logical_not, lambda x: unary("not", x)),
    "bitnot": Function("iu", np.invert, _bitnot),
    "isnan": Function("f", np.isnan, lambda x: binary("ne", x, x), True),
    "isinf": Function("f", np.isinf, lambda x: binary("eq", unary("abs", x), math.inf), True),
    "exp": _math("exp", np.exp),
    "log": _math("log", np.log),
    "erf": _math("erf", _erf),
    "tanh": _math("tanh", np.tanh),
    "sigmoid": _math("sigmoid", lambda x: x.dtype.type(1) / (x.dtype.type(1) + np.exp(-x))),
    "sin": _math("sin", np.sin),
    "cos": _math("cos", np.cos),
    "tan": _math("tan", np.tan),
    "asin": _math("asin", np.arcsin),
    "acos": _math("acos", np.arccos),
    "atan": _math("atan", np.arctan),
    "sinh": _math("sinh", np.sinh),
    "cosh": _math("cosh", np.cosh),
    "asinh": _math("asinh", np.arcsinh),
    "acosh": _math("acosh", np.arccosh),
    "atanh": _math("atanh", np.arctanh),
}


def _truncated_quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind not in "iu":
        return a / b
    quotient, rest = np.floor_divide(a, b), np.mod(a, b)
    return (quotient + ((rest != 0) & ((a < 0) != (b < 0)))).astype(a.dtype)


def _div(a: Expr, b: Expr) -> Expr:
    return binary("div" if _kind(a) == "f" else "tdiv", a, b)


def _integer_power(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind not in "iu":
        return np.power(a, b)
    return np.power(a.astype(np.float64), b.astype(np.float64)).astype(a.dtype)


def _pow(a: Expr, b: Expr) -> Expr:
    if _kind(a) == "f":
        return call("pow", a, b)
    return cast(call("pow", cast(a, "f64"), cast(b, "f64")), a.type.dtype)


def _mod(a: Expr, b: Expr) -> Expr:
    if _kind(a) != "f":
        return binary("mod", a, b)
    rest = call("fmod", a, b)
    differ = binary("ne", binary("lt", rest, 0), binary("lt", b, 0))
    return select(binary("and", binary("ne", rest, 0), differ), binary("add", rest, b), rest)


def _fmod(a: Expr, b: Expr) -> Expr:
    return call("fmod", a, b) if _kind(a) == "f" else binary("tmod", a, b)


def _extremum(op: str) -> Callable[[Expr, Expr], Expr]:
    def build(a: Expr, b: Expr) -> Expr:  # the expression gives a when b is NaN
        value = binary(op, a, b)
        return select(binary("ne", b, b), b, value) if _kind(a) == "f" else value

    return build


def _shift(op: str) -> Callable[[Expr, Expr], Expr]:
    def build(a: Expr, b: Expr) -> Expr:  # by the width or more: undefined in machine code, 0 here
        return select(binary("lt", b, 8 * DTYPES[a.type.dtype].size), binary(op, a, b), 0)

    return build


def _same(op: str, kinds: str, numpy: Callable[..., np.ndarray], boolean: bool = False) -> Function:
    return Function(kinds, numpy, lambda a, b: binary(op, a, b), boolean)


BINARY: dict[str, Function] = {
    "add": _same("add", "fiu", np.add),
    "sub": _same("sub", "fiu", np.subtract),
    "mul": _same("mul", "fiu", np.multiply),
    "div": Function("fiu", _truncated_quotient, _div),
    "pow": Function("fiu", _integer_power, _pow),
    "mod": Function("fiu", np.mod, _mod),
    "fmod": Function("fiu", np.fmod, _fmod),
    "max": Function("fiu", np.maximum, _extremum("max")),
    "min": Function("fiu", np.minimum, _extremum("min")),
    "and": _same("and", "b", np.logical_and),
    "or": _same("or", "b", np.logical_or),
    "xor": _same("xor", "b", np.logical_xor),
    "lt": _same("lt", "fiu", np.less, True),
    "le": _same("le", "fiu", np.less_equal, True),
    "gt": Function("fiu", np.greater, lambda a, b: binary("lt", b, a), True),
    "ge": Function("fiu", np.greater_equal, lambda a, b: binary("le", b, a), True),
    "eq": _same("eq", "fiub", np.equal, True),
    "ne": _same("ne", "fiub", np.not_equal, True),
    "bitand": _same("and", "iu", np.bitwise_and),
    "bitor": _same("or", "iu", np.bitwise_or),
    "bitxor": _same("xor", "iu", np.bitwise_xor),
    "shl": Function("u", np.left_shift, _shift("shl")),
    "shr": Function("u", np.right_shift, _shift("shr")),
}


def _map(out: Buffer, ins: tuple[Buffer, ...], body: Callable[..., Expr], wide: bool = True) -> Compute:
    """out[d...] = body(operands...), the operands broadcast and, if wide, in their arithmetic type."""
    axes = tuple(axis(f"d{i}", n) for i, n in enumerate(out.shape))
    fetch = read if wide else load
    return Compute(out, axes, body(*(fetch(b, *broadcast_index(b.shape, axes, out.shape)) for b in ins)))


def _function(table: dict[str, Function], op: str, fn: str) -> Function:
    if fn not in table:
        raise InternalError(f"{op} has no function {fn!r}; it has {', '.join(table)}")
    return table[fn]


def _apply(f: Function, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    with np.errstate(all="ignore"):
        value = f.numpy(*(widen(a) for a in arrays))
    return (np.asarray(value) if f.boolean else np.asarray(value).astype(arrays[0].dtype),)


@dataclass(frozen=True)
class Unary(Op):
    """One function of `UNARY` on every element."""

    fn: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        f = _function(UNARY, "Unary", self.fn)
        require_count(self, types, 1)
        require_kind(self, f"the operand of {self.fn}", types[0], f.kinds)
        return (TensorType("bool" if f.boolean else types[0].dtype, types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return _apply(UNARY[self.fn], *arrays)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        return _map(out, ins, UNARY[self.fn].expr)


@dataclass(frozen=True)
class Binary(Op):
    """One function of `BINARY` on the elements of two broadcast operands of one type."""

    fn: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        f = _function(BINARY, "Binary", self.fn)
        require_count(self, types, 2)
        require_same_dtype(self, types)
        require_kind(self, f"the operands of {self.fn}", types[0], f.kinds)
        shape = broadcast_shapes(self, *(t.shape for t in types))
        return (TensorType("bool" if f.boolean else types[0].dtype, shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return _apply(BINARY[self.fn], *arrays)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        return _map(out, ins, BINARY[self.fn].expr)


@dataclass(frozen=True)
class Select(Op):
    """cond (bool) picks from a where true, else from b; all three broadcast."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 3)
        require_kind(self, "the condition", types[0], "b")
        require_same_dtype(self, types[1:])
        return (TensorType(types[1].dtype, broadcast_shapes(self, *(t.shape for t in types))),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.where(*arrays),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        return _map(out, ins, select, wide=False)


@dataclass(frozen=True)
class Cast(Op):
    """Conversion of every element: float to integer truncates, to bool compares with zero."""

    to: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        if self.to not in DTYPES:
            raise InternalError(f"Cast to unknown element type {self.to!r}")
        text = "str" in (self.to, types[0].dtype)
        require(not text, self, "strings are converted by TextFormat and TextParse, not from {} to {}", types[0], self.to)
        return (TensorType(self.to, types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        with np.errstate(all="ignore"):
            return (as_dtype(widen(arrays[0]), self.to),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        return _map(out, ins, lambda x: cast(x, arithmetic_dtype(self.to)))


@dataclass(frozen=True)
class Bitcast(Op):
    """The bits of every element as another type of the same size; bool has no bits to see."""

    to: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        require_kind(self, "the operand", types[0], "fiu")
        if self.to not in DTYPES:
            raise InternalError(f"Bitcast to unknown element type {self.to!r}")
        fits = self.to != "bool" and DTYPES[self.to].size == DTYPES[types[0].dtype].size
        require(fits, self, "{} has elements of another size than {}", types[0], self.to)
        return (TensorType(self.to, types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.ascontiguousarray(arrays[0]).view(DTYPES[self.to].numpy).reshape(arrays[0].shape),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        return _map(out, ins, lambda x: call("bitcast", x, dtype=self.to), wide=False)
