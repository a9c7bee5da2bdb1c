"""Expressions of the loop IR as TIR expressions."""

# pyright: reportMissingImports=false
# TVM is optional, and not for every Python: checked against where it is installed.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax, tirx

from ...ir.errors import InternalError
from ...ir.expr import Bin, Call, Cast, Const, Expr, Load, Select, Un, Var
from ...ir.kernel import Buffer
from ...ir.types import DTYPES, TensorType, is_float

NAMES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32",
    "i16": "int16", "i8": "int8", "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "bool": "bool",
}
Read = Callable[[Buffer, list[Any]], Any]


def relax_type(t: TensorType) -> Any:
    """The type of a tensor in Relax."""
    make: Any = relax.TensorType  # its annotations want expressions; it takes numbers
    return make(list(t.static_shape), NAMES[t.dtype])


def _compared(op: str, a: Any, b: Any, dtype: str) -> Any:
    """"eq" or "ne".  TVM takes every value for equal to itself, and its own "not equal" is false for NaN."""
    if dtype == "bool":
        a, b = tirx.Cast("int32", a), tirx.Cast("int32", b)
    if dtype in ("f16", "bf16"):
        a, b = tirx.Cast("float32", a), tirx.Cast("float32", b)
    if not is_float(dtype):
        return tirx.EQ(a, b) if op == "eq" else tirx.NE(a, b)
    if op == "eq":
        return tirx.And(tirx.LE(a, b), tirx.LE(b, a))
    unordered = tirx.Or(tirx.isnan(a), tirx.isnan(b))
    return tirx.Or(tirx.Or(tirx.LT(a, b), tirx.LT(b, a)), unordered)


_UNARY: dict[str, Callable[..., Any]] = {
    "neg": lambda x: -x, "abs": tirx.abs, "rint": tirx.nearbyint, "floor": tirx.floor, "ceil": tirx.ceil,
    "trunc": tirx.trunc, "sqrt": tirx.sqrt, "not": tirx.Not,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "exp": tirx.exp, "log": tirx.log, "tanh": tirx.tanh, "sin": tirx.sin, "cos": tirx.cos, "tan": tirx.tan,
    "asin": tirx.asin, "acos": tirx.acos, "atan": tirx.atan, "sinh": tirx.sinh, "cosh": tirx.cosh, "asinh": tirx.asinh,
    "acosh": tirx.acosh, "atanh": tirx.atanh, "sigmoid": tirx.sigmoid, "erf": tirx.erf, "pow": tirx.pow,
}
_COMPARE = {"lt": tirx.LT, "le": tirx.LE}
_INTEGER = {"div": tirx.floordiv, "mod": tirx.floormod, "tdiv": tirx.truncdiv, "tmod": tirx.truncmod,
            "shl": tirx.shift_left, "shr": tirx.shift_right}
_BITS = {"and": tirx.bitwise_and, "or": tirx.bitwise_or, "xor": tirx.bitwise_xor}
_BOOLS = {"and": tirx.And, "or": tirx.Or, "xor": lambda a, b: _compared("ne", a, b, "bool")}
_PLAIN = {"add": tirx.Add, "sub": tirx.Sub, "mul": tirx.Mul}


class TirExprs:
    """env: TIR variables for loop variables; read: how a buffer is read."""

    def __init__(self, env: Mapping[Expr, Any], read: Read) -> None:
        self.done: dict[Expr, Any] = dict(env)
        self.read = read

    def write(self, e: Expr) -> Any:
        """Loads are not shared: a store may lie between two of them."""
        if e in self.done:
            return self.done[e]
        made = self._write(e)
        if isinstance(e, Const):
            self.done[e] = made
        return made

    def _write(self, e: Expr) -> Any:
        match e:
            case Const():
                return tirx.const(e.value, NAMES[e.type.dtype])
            case Un():
                return _UNARY[e.op](self.write(e.a))
            case Bin():
                return self._binary(e)
            case Select():
                return tirx.Select(self.write(e.cond), self.write(e.a), self.write(e.b))
            case Cast():
                return self._cast(self.write(e.a), e.a.type.dtype, e.type.dtype)
            case Call(fn="bitcast"):
                return tirx.reinterpret(NAMES[e.type.dtype], self.write(e.args[0]))
            case Call() if e.fn in _CALLS:
                return _CALLS[e.fn](*map(self.write, e.args))
            case Call(fn="fmod"):  # TVM has no lowering of its own: the C library's
                name = "fmod" if e.type.dtype == "f64" else "fmodf"
                return tirx.call_pure_extern(NAMES[e.type.dtype], name, *map(self.write, e.args))
            case Load():
                return self.read(e.buf, [self.write(i) for i in e.idx])
            case Var():
                raise InternalError(f"TVM: the variable {e.name} is not bound")
        raise InternalError(f"TVM: no translation of the expression {e}")

    def _binary(self, e: Bin) -> Any:
        a, b, dtype = self.write(e.a), self.write(e.b), e.a.type.dtype
        if e.op in _PLAIN:
            return _PLAIN[e.op](a, b)
        if e.op in ("eq", "ne"):
            return _compared(e.op, a, b, dtype)
        if e.op in _COMPARE:
            return _COMPARE[e.op](a, b)
        if e.op in _BITS:
            return (_BOOLS if dtype == "bool" else _BITS)[e.op](a, b)
        if e.op == "max":  # the left one if the right is NaN, and if it is NaN itself
            return tirx.Select(tirx.LT(a, b), b, a)
        if e.op == "min":
            return tirx.Select(tirx.LT(b, a), b, a)
        if e.op == "div" and is_float(dtype):
            return tirx.Div(a, b)
        return _INTEGER[e.op](a, b)

    @staticmethod
    def _cast(x: Any, before: str, to: str) -> Any:
        if to == "bool":
            return _compared("ne", x, tirx.const(0, NAMES[before]), before)
        if is_float(before) and DTYPES[to].kind in "iu" and to not in ("i64", "i32"):
            x = tirx.Cast("int64", x)  # out of range: wrap, as the model's runtimes do
        return tirx.Cast(NAMES[to], x)
