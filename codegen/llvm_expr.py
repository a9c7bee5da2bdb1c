"""Expressions in LLVM text: one small function per node, tables of instructions by kind of element type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir.expr import (
    I64,
    Bin,
    Call,
    Cast,
    Const,
    Expr,
    Fma,
    HReduce,
    Load,
    Ramp,
    Select,
    Shuffle,
    Splat,
    Type,
    Un,
    Var,
    bounds,
    is_const,
)
from ..ir.types import DTYPES
from .llvm_calls import print_call
from .llvm_convert import HALVES, convert, range_of
from .llvm_memory import print_load
from .llvm_text import SCALARS, Printer, constant, literal, llvm_type, number, suffix, unsupported, zero

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_BOOL = {"add": "or", "mul": "and", "max": "or", "min": "and", "and": "and", "or": "or", "xor": "xor"}
# Predicates for floats, signed and unsigned integers (booleans are unsigned).
_COMPARE = {
    "lt": ("olt", "slt", "ult"), "le": ("ole", "sle", "ule"), "eq": ("oeq", "eq", "eq"), "ne": ("une", "ne", "ne"),
}
_KIND_INDEX = {"f": 0, "i": 1, "u": 2, "b": 2}
_INTRINSIC = {"abs": "fabs", "rint": "rint", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "sqrt": "sqrt"}
_FOLD: dict[str, Callable[[int, int], Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b if b else 0, "mod": lambda a, b: a % b if b else 0, "min": min, "max": max,
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}


def _kind(t: Type) -> str:
    return DTYPES[t.dtype].kind


def _binary_text(p: Printer, op: str, t: Type, a: str, b: str) -> str:
    return p.pure(f"{op} {llvm_type(t)} {a}, {b}", a, b)


def _select_text(p: Printer, cond: str, t: Type, a: str, b: str) -> str:
    bits, kind = llvm_type(Type("bool", t.lanes)), llvm_type(t)
    return p.pure(f"select {bits} {cond}, {kind} {a}, {kind} {b}", cond, a, b)


# ---- binary operations -------------------------------------------------------------------------------------------


def _print_bin(p: Printer, e: Bin) -> str:
    a, b, t = p.value(e.a), p.value(e.b), e.a.type
    if t.dtype in HALVES:
        raise unsupported(f"arithmetic on {t.dtype} ({e.op}): legalize the kernel first")
    if t == I64 and e.op in _FOLD:
        x, y = literal(a), literal(b)
        if x is not None and y is not None:
            return constant(_FOLD[e.op](x, y), e.type)
    special = _SPECIAL.get((e.op, _kind(t)))
    if special is not None:
        return special(p, e, a, b)
    if e.op in _COMPARE:
        return _compare(p, _COMPARE[e.op], t, a, b)
    table = {"f": _FLOAT, "b": _BOOL}.get(_kind(t), _INT)
    if e.op not in table:
        raise unsupported(f"no operation {e.op} on {t.dtype}")
    if t.dtype == "bool" and t.lanes == 1:
        folded = _fold_bool(table[e.op], a, b)
        if folded is not None:
            return folded
    return _binary_text(p, table[e.op], t, a, b)


def _fold_bool(op: str, a: str, b: str) -> str | None:
    """and, or with a constant."""
    for x, y in ((a, b), (b, a)):
        if x in ("true", "false") and op in ("and", "or"):
            return y if (x == "true") == (op == "and") else x
    return None


def _compare(p: Printer, predicates: tuple[str, str, str], t: Type, a: str, b: str) -> str:
    op = "fcmp" if _kind(t) == "f" else "icmp"
    return _binary_text(p, f"{op} {predicates[_KIND_INDEX[_kind(t)]]}", t, a, b)


def _extremum(op: str) -> Callable[[Printer, Expr, str, str], str]:
    """a, unless b lies beyond it: gives a when b is NaN, NaN when a is; one instruction on x86."""

    def show(p: Printer, e: Expr, a: str, b: str) -> str:
        beyond = _binary_text(p, "fcmp olt" if op == "min" else "fcmp ogt", e.type, b, a)
        return _select_text(p, beyond, e.type, b, a)

    return show


def _int_extremum(op: str) -> Callable[[Printer, Expr, str, str], str]:
    def show(p: Printer, e: Expr, a: str, b: str) -> str:
        sign = "s" if _kind(e.type) == "i" else "u"
        kind = llvm_type(e.type)
        return p.intrinsic(f"llvm.{sign}{op}.{suffix(e.type)}", e.type, [(kind, a), (kind, b)])

    return show


def _divisor(p: Printer, e: Bin, b: str, signed: bool) -> tuple[str, str | None]:
    """(a divisor that never traps, the condition that it is zero or None if it cannot be).  0, and -1 for signed
    types, become 1; the caller mends the result."""
    known = e.b.a if isinstance(e.b, Splat) else e.b
    if isinstance(known, Const) and known.value not in (0, -1):
        return b, None
    t, one = e.type, constant(1, e.type)
    if t == I64 and (bounds(e.b)[0] or 0) > 0:
        return b, None
    none = p.pure(f"icmp eq {llvm_type(t)} {b}, {zero(t)}", b)
    unsafe = none
    if signed:
        minus = p.pure(f"icmp eq {llvm_type(t)} {b}, {constant(-1, t)}", b)
        unsafe = _binary_text(p, "or", Type("bool", t.lanes), none, minus)
    return _select_text(p, unsafe, t, one, b), none


def _quotient(floor: bool, remainder: bool) -> Callable[[Printer, Bin, str, str], str]:
    """Integer division, rounding to minus infinity or towards zero; by zero it gives 0, as NumPy does."""

    def show(p: Printer, e: Bin, a: str, b: str) -> str:
        t, signed = e.type, _kind(e.type) == "i"
        lo_a, lo_b = (bounds(e.a)[0], bounds(e.b)[0]) if t == I64 else (None, None)
        plain = lo_a is not None and lo_a >= 0 and lo_b is not None and lo_b > 0
        if plain or not signed:
            safe, none = (b, None) if plain else _divisor(p, e, b, False)
            result = _binary_text(p, "urem" if remainder else "udiv", t, a, safe)
        else:
            safe, none = _divisor(p, e, b, True)
            result = _signed(p, t, a, b, safe, floor, remainder)
        return result if none is None else _select_text(p, none, t, zero(t), result)

    return show


def _signed(p: Printer, t: Type, a: str, b: str, safe: str, floor: bool, remainder: bool) -> str:
    """sdiv or srem by `safe`, which is b or, for b = -1, 1; corrected where floor rounding differs."""
    guarded = safe != b
    quotient = _binary_text(p, "sdiv", t, a, safe)
    rest = _binary_text(p, "sub", t, a, _binary_text(p, "mul", t, quotient, safe))
    if guarded:
        minus = p.pure(f"icmp eq {llvm_type(t)} {b}, {constant(-1, t)}", b)
        quotient = _select_text(p, minus, t, _binary_text(p, "sub", t, zero(t), a), quotient)
    if not floor:
        return rest if remainder else quotient
    bits = Type("bool", t.lanes)
    inexact = p.pure(f"icmp ne {llvm_type(t)} {rest}, {zero(t)}", rest)
    signs = _binary_text(p, "xor", t, rest, safe)
    opposite = p.pure(f"icmp slt {llvm_type(t)} {signs}, {zero(t)}", signs)
    fix = _binary_text(p, "and", bits, inexact, opposite)
    if remainder:
        return _select_text(p, fix, t, _binary_text(p, "add", t, rest, safe), rest)
    return _select_text(p, fix, t, _binary_text(p, "add", t, quotient, constant(-1, t)), quotient)


def _shift(p: Printer, e: Bin, a: str, b: str) -> str:
    """By the width or more: 0, or the sign."""
    t, width = e.type, 8 * DTYPES[e.type.dtype].size
    last = p.intrinsic(f"llvm.umin.{suffix(t)}", t, [(llvm_type(t), b), (llvm_type(t), constant(width - 1, t))])
    if e.op == "shr" and _kind(t) == "i":
        return _binary_text(p, "ashr", t, a, b if is_const(e.b) else last)
    known = e.b.a if isinstance(e.b, Splat) else e.b
    op = "shl" if e.op == "shl" else "lshr"
    if isinstance(known, Const) and 0 <= known.value < width:
        return _binary_text(p, op, t, a, b)
    inside = p.pure(f"icmp ult {llvm_type(t)} {b}, {constant(width, t)}", b)
    return _select_text(p, inside, t, _binary_text(p, op, t, a, last), zero(t))


def _float_rest(floor: bool) -> Callable[[Printer, Bin, str, str], str]:
    """The remainder with the sign of the dividend, or of the divisor."""

    def show(p: Printer, e: Bin, a: str, b: str) -> str:
        t, bits = e.type, Type("bool", e.type.lanes)
        rest = p.value(Call.of("fmod", (e.a, e.b), t))
        if not floor:
            return rest
        none = _compare(p, _COMPARE["eq"], t, rest, zero(t))
        signs = [_compare(p, _COMPARE["lt"], t, x, zero(t)) for x in (rest, b)]
        moved = _select_text(p, _binary_text(p, "xor", bits, *signs), t, _binary_text(p, "fadd", t, rest, b), rest)
        signed_zero = p.intrinsic(f"llvm.copysign.{suffix(t)}", t, [(llvm_type(t), zero(t)), (llvm_type(t), b)])
        return _select_text(p, none, t, signed_zero, moved)

    return show


def _float_tdiv(p: Printer, e: Bin, a: str, b: str) -> str:
    quotient = _binary_text(p, "fdiv", e.type, a, b)
    return p.intrinsic(f"llvm.trunc.{suffix(e.type)}", e.type, [(llvm_type(e.type), quotient)])


_SPECIAL: dict[tuple[str, str], Callable[[Printer, Any, str, str], str]] = {
    **{(op, "f"): _extremum(op) for op in ("min", "max")},
    **{(op, kind): _int_extremum(op) for op in ("min", "max") for kind in "iu"},
    **{("div", kind): _quotient(True, False) for kind in "iu"},
    **{("mod", kind): _quotient(True, True) for kind in "iu"},
    **{("tdiv", kind): _quotient(False, False) for kind in "iu"},
    **{("tmod", kind): _quotient(False, True) for kind in "iu"},
    **{(op, kind): _shift for op in ("shl", "shr") for kind in "iu"},
    ("mod", "f"): _float_rest(True), ("tmod", "f"): _float_rest(False), ("tdiv", "f"): _float_tdiv,
}


# ---- the other nodes ---------------------------------------------------------------------------------------------


def _print_un(p: Printer, e: Un) -> str:
    a, t = p.value(e.a), e.type
    kind = _kind(t)
    if t.dtype in HALVES:
        raise unsupported(f"arithmetic on {t.dtype} ({e.op}): legalize the kernel first")
    if e.op == "not":
        if a in ("true", "false"):
            return "false" if a == "true" else "true"
        return _binary_text(p, "xor", t, a, constant(True if kind == "b" else -1, t))
    if e.op == "neg":
        return p.pure(f"fneg {llvm_type(t)} {a}", a) if kind == "f" else _binary_text(p, "sub", t, zero(t), a)
    if e.op == "abs" and kind == "i":
        return p.intrinsic(f"llvm.abs.{suffix(t)}", t, [(llvm_type(t), a), ("i1", "false")])
    if e.op == "abs" and kind == "u":
        return a
    if kind != "f" or e.op not in _INTRINSIC:
        raise unsupported(f"no operation {e.op} on {t.dtype}")
    return p.intrinsic(f"llvm.{_INTRINSIC[e.op]}.{suffix(t)}", t, [(llvm_type(t), a)])


def _print_fma(p: Printer, e: Fma) -> str:
    if e.type.dtype not in ("f32", "f64"):
        raise unsupported(f"fma on {e.type.dtype}: legalize the kernel first")
    return p.intrinsic(f"llvm.fma.{suffix(e.type)}", e.type, [(llvm_type(e.type), p.value(x)) for x in (e.a, e.b, e.c)])


def _print_var(p: Printer, e: Var) -> str:
    if e not in p.env:
        raise unsupported(f"the loop variable {e} is used outside its loop")
    return str(p.env[e])


def _print_select(p: Printer, e: Select) -> str:
    cond, a, b = p.value(e.cond), p.value(e.a), p.value(e.b)
    if cond in ("true", "false"):
        return a if cond == "true" else b
    return _select_text(p, cond, e.type, a, b)


def _print_splat(p: Printer, e: Splat) -> str:
    if isinstance(e.a, Const):
        return constant(e.a.value, e.type) if e.a.value or _kind(e.type) == "f" else zero(e.type)
    a = p.value(e.a)
    if literal(a) is not None or a in ("true", "false"):
        return f"splat ({SCALARS[e.type.dtype]} {a})"
    one = p.pure(f"insertelement {llvm_type(e.type)} poison, {SCALARS[e.type.dtype]} {a}, i64 0", a)
    vector = llvm_type(e.type)
    return p.pure(f"shufflevector {vector} {one}, {vector} poison, <{e.type.lanes} x i32> zeroinitializer", one)


def _print_ramp(p: Printer, e: Ramp) -> str:
    scalar, dtype = SCALARS[e.type.dtype], e.type.dtype
    return "<" + ", ".join(f"{scalar} {number(i, dtype)}" for i in range(e.type.lanes)) + ">"


def _print_shuffle(p: Printer, e: Shuffle) -> str:
    a, b, t = p.value(e.a), p.value(e.b), e.a.type
    vector, scalar = llvm_type(t), SCALARS[t.dtype]
    if t.lanes == 1:
        vector = f"<1 x {scalar}>"
        a, b = (p.pure(f"insertelement {vector} poison, {scalar} {x}, i64 0", x) for x in (a, b))
    if e.type.lanes == 1:
        lane = e.mask[0]
        source, lane = (a, lane) if lane < t.lanes else (b, lane - t.lanes)
        return p.pure(f"extractelement {vector} {source}, i64 {lane}", source)
    mask = ", ".join(f"i32 {m}" if m >= 0 else "i32 poison" for m in e.mask)
    return p.pure(f"shufflevector {vector} {a}, {vector} {b}, <{e.type.lanes} x i32> <{mask}>", a, b)


def _print_reduce(p: Printer, e: HReduce) -> str:
    """Halves are combined until one lane is left; an odd lane is kept for the end."""
    value, n, dtype = p.value(e.a), e.a.type.lanes, e.type.dtype
    odd: list[str] = []
    while n > 1:
        vector = f"<{n} x {SCALARS[dtype]}>"
        if n % 2:
            odd.append(p.pure(f"extractelement {vector} {value}, i64 {n - 1}", value))
        half = n // 2
        low, high = (_slice(p, vector, value, start, half) for start in (0, half))
        value, n = _combine(p, e.op, Type(dtype, half), low, high), half
    for lane in odd:
        value = _combine(p, e.op, Type(dtype), value, lane)
    return value


def _slice(p: Printer, vector: str, value: str, start: int, count: int) -> str:
    if count == 1:
        return p.pure(f"extractelement {vector} {value}, i64 {start}", value)
    mask = ", ".join(f"i32 {start + i}" for i in range(count))
    return p.pure(f"shufflevector {vector} {value}, {vector} poison, <{count} x i32> <{mask}>", value)


def _combine(p: Printer, op: str, t: Type, a: str, b: str) -> str:
    kind = _kind(t)
    if kind == "f" and op in ("max", "min"):
        return _extremum(op)(p, Var.of("", None, t), a, b)
    if kind in "iu" and op in ("max", "min"):
        return _int_extremum(op)(p, Var.of("", None, t), a, b)
    table = {"f": _FLOAT, "b": _BOOL}.get(kind, _INT)
    if t.dtype in HALVES or op not in table:
        raise unsupported(f"no horizontal reduction {op} on {t.dtype}")
    return _binary_text(p, table[op], t, a, b)


def _print_cast(p: Printer, e: Cast) -> str:
    return convert(p, p.value(e.a), e.a.type, e.type, range_of(e.a))


_PRINT: dict[type, Callable[[Printer, Any], str]] = {
    Const: lambda p, e: constant(e.value, e.type),
    Var: _print_var,
    Bin: _print_bin,
    Un: _print_un,
    Fma: _print_fma,
    Select: _print_select,
    Cast: _print_cast,
    Load: print_load,
    Splat: _print_splat,
    Ramp: _print_ramp,
    Shuffle: _print_shuffle,
    HReduce: _print_reduce,
    Call: print_call,
}


def evaluate(p: Printer, e: Expr) -> str:
    """Print what an expression needs and give its operand."""
    show = _PRINT.get(type(e))
    if show is None:
        raise unsupported(f"no expression {type(e).__name__}")
    return show(p, e)
