"""Expressions as C text: operators with the parentheses they need, helper functions where C's meaning differs.

i64 scalars whose bounds fit are `int`, the others `long long`.  Integer arithmetic on data wraps, as NumPy's: it goes
through helpers, since overflow of signed integers has no meaning in C.  A value that a statement uses more than once gets
a name, so that the text is not larger than the expression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.expr import I64, Bin, Call, Cast, Const, Expr, Fma, Load, Ramp, Select, Splat, Type, Un, Var, bounds
from ..ir.kernel import Buffer
from ..ir.traverse import children, walk
from ..ir.types import DTYPES
from .c_address import INT_MAX, FlatAddress, added, flat_address, is_flat, is_narrow, place_roots
from .c_dialect import Dialect, unsupported

POSTFIX, UNARY, MULTIPLY, ADD, SHIFT, RELATION, EQUALITY, AND, XOR, OR, LOGIC_AND, LOGIC_OR, TERNARY = range(16, 3, -1)
_LONG_SUM = 8  # nodes of an index that is named where it is used twice

_INFIX: dict[str, tuple[str, int]] = {
    "add": ("+", ADD), "sub": ("-", ADD), "mul": ("*", MULTIPLY), "div": ("/", MULTIPLY), "mod": ("%", MULTIPLY),
    "lt": ("<", RELATION), "le": ("<=", RELATION), "eq": ("==", EQUALITY), "ne": ("!=", EQUALITY), "and": ("&", AND),
    "or": ("|", OR), "xor": ("^", XOR),
}
_BOOL = {"add": "or", "max": "or", "mul": "and", "min": "and", "and": "and", "or": "or", "xor": "xor", "ne": "xor"}
_BOOL_INFIX = {"and": ("&&", LOGIC_AND), "or": ("||", LOGIC_OR), "xor": ("!=", EQUALITY)}
_COMPARE = ("lt", "le", "eq", "ne")
_WRAPPING = {"add": "wrap_add", "sub": "wrap_sub", "mul": "wrap_mul"}
_HELPERS = {
    "min": "minimum", "max": "maximum", "div": "floor_div", "mod": "floor_mod", "tdiv": "trunc_div", "tmod": "trunc_mod",
    "shl": "shift_left", "shr": "shift_right",
}
_UNARY = {"rint": "rint", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "sqrt": "sqrt", "abs": "fabs"}
_SUFFIX = {"i32": "", "i16": "", "i8": "", "u32": "u", "u16": "", "u8": "", "u64": "ull", "i64": ""}


class ExprPrinter:
    """The expressions of one kernel.  names: C names of variables and buffers.  line: appends a statement."""

    def __init__(self, dialect: Dialect, line: Callable[[str], None], fresh: Callable[[str], str]) -> None:
        self.dialect, self.line, self.fresh = dialect, line, fresh
        self.names: dict[Var | Buffer, str] = {}
        self.values: dict[Expr, str] = {}
        self.narrow: dict[Expr, bool] = {}
        self.shared: set[Expr] = set()
        self.lane = ""
        self.in_address = False

    # ---- statements' values

    def begin(self, *roots: Expr) -> None:
        """Start a statement with these expressions: name the scalars that they share, and those whose text is long."""
        self.values, self.lane = {}, ""
        uses: dict[Expr, int] = {}
        nodes = printed_nodes(*roots)
        for node in nodes:
            for c in operands(node):
                uses[c] = uses.get(c, 0) + 1
        for r in roots:
            uses[r] = uses.get(r, 0) + (roots.count(r) > 1)
        self.shared = {n for n in nodes if uses.get(n, 0) > 1 and _worth_a_name(n)}
        self.name_shared(nodes, 1)

    def name_shared(self, nodes: list[Expr], lanes: int) -> None:
        """Name the shared values of that many lanes; vectors are named inside of the loop over their lanes."""
        for n in nodes:
            if n.type.lanes == lanes and n in self.shared and n not in self.values:
                self.name(n)

    def name(self, e: Expr) -> str:
        text = self.expr(e)
        name = self.fresh("t")
        self.line(f"const {self.type_of(e)} {name} = {text};")
        self.values[e] = name
        return name

    def type_of(self, e: Expr) -> str:
        """The C type of a scalar, or of one lane."""
        if e.type == I64:
            return "int" if is_narrow(e, self.narrow) else "long long"
        return self.ctype(e.type.dtype)

    def ctype(self, dtype: str) -> str:
        if dtype not in self.dialect.types:
            raise unsupported(f"{self.dialect.name} has no element type {dtype}")
        return self.dialect.types[dtype]

    # ---- text

    def expr(self, e: Expr, level: int = 0) -> str:
        """The text of a value, in parentheses if it binds less tightly than `level`."""
        if e in self.values:
            return self.values[e]
        text, own = self.text(e)
        if len(text) > 90 and (e.type.lanes == 1 or self.lane) and not isinstance(e, Const | Var):
            name = self.fresh("t")
            self.line(f"const {self.type_of(e)} {name} = {text};")
            self.values[e] = name
            return name
        return text if own >= level else f"({text})"

    def text(self, e: Expr) -> tuple[str, int]:
        match e:
            case Const():
                return self.constant(e)
            case Var():
                if e not in self.names:
                    raise unsupported(f"the variable {e.name} is used outside its loop")
                return self.names[e], POSTFIX
            case Bin():
                return self.binary(e)
            case Un():
                return self.unary(e)
            case Fma():
                suffix = "f" if e.type.dtype == "f32" else ""
                return self.call(f"fma{suffix}", e.a, e.b, e.c)
            case Select():
                cond, a = self.expr(e.cond, LOGIC_OR), self.expr(e.a, LOGIC_OR)
                return f"{cond} ? {a} : {self.expr(e.b, TERNARY)}", TERNARY
            case Cast():
                return self.cast(e)
            case Load():
                return self.load(e)
            case Call():
                return self.function(e)
            case Splat():
                return (self.values[e.a], POSTFIX) if e.a in self.values else self.text(e.a)
            case Ramp():
                return self.lane, POSTFIX
        raise unsupported(f"{type(e).__name__} of {e.type.lanes} lanes")

    def call(self, name: str, *args: Expr) -> tuple[str, int]:
        return f"{name}({', '.join(self.expr(a) for a in args)})", POSTFIX

    # ---- constants

    def constant(self, e: Any) -> tuple[str, int]:
        dtype, value = e.type.dtype, e.value
        if dtype == "bool":
            return ("true" if value else "false"), POSTFIX
        if DTYPES[dtype].kind == "f":
            return self.float_constant(value, dtype)
        if value in (-(2**31), -(2**63)) and dtype in ("i32", "i64"):
            low = value == -(2**63)
            return f"(-{-(value + 1)}{'ll' if low else ''} - 1)", POSTFIX
        suffix = "ll" if dtype == "i64" and abs(value) > INT_MAX else _SUFFIX[dtype]
        return f"{value}{suffix}", UNARY if value < 0 else POSTFIX

    def float_constant(self, value: float, dtype: str) -> tuple[str, int]:
        if dtype in ("f16", "bf16"):
            rounded = float(DTYPES[dtype].numpy.type(value))
            return self.dialect.conversions["f32", dtype].format(self.float_constant(rounded, "f32")[0]), POSTFIX
        if value != value:
            return f"NAN_{dtype.upper()}", POSTFIX
        if value in (float("inf"), float("-inf")):
            return f"{'-' if value < 0 else ''}INFINITY_{dtype.upper()}", UNARY
        text = repr(value) if dtype == "f64" else np.format_float_positional(np.float32(value), unique=True, trim="0")
        if dtype == "f32" and len(text) > 12:
            text = str(np.format_float_scientific(np.float32(value), unique=True, trim="0"))
        return text + ("f" if dtype == "f32" else ""), UNARY if text.startswith("-") else POSTFIX

    # ---- operators

    def binary(self, e: Bin) -> tuple[str, int]:
        dtype, kind = e.a.type.dtype, DTYPES[e.a.type.dtype].kind
        if kind == "b" and e.op == "eq" and isinstance(e.b, Const) and not e.b.value:
            return f"!{self.expr(e.a, UNARY)}", UNARY
        if kind == "b" and e.op in _BOOL:
            return self.infix(e, *_BOOL_INFIX[_BOOL[e.op]])
        if dtype in ("f16", "bf16"):
            raise unsupported(f"arithmetic on {dtype} ({e.op}): legalize the kernel first")
        if e.op in _COMPARE or (kind == "f" and e.op in ("add", "sub", "mul", "div")):
            return self.infix(e, *_INFIX[e.op])
        if kind == "f":
            return self.float_helper(e, dtype)
        if e.a.type == I64:
            return self.index(e)
        if e.op in ("and", "or", "xor") or (dtype in ("u32", "u64") and e.op in _WRAPPING):
            return self.infix(e, *_INFIX[e.op])
        return self.call(f"{(_HELPERS | _WRAPPING)[e.op]}<{self.ctype(dtype)}>", e.a, e.b)

    def infix(self, e: Bin, op: str, level: int) -> tuple[str, int]:
        """Both sides bind at least as tightly; the right side of an operator that is not associative more so."""
        tight = level + (op not in ("+", "*", "&&", "||") or DTYPES[e.a.type.dtype].kind == "f")
        if level == EQUALITY:  # C does not need parentheses around comparisons and conjunctions, readers and warnings do
            level_of_sides = tight = RELATION + 1
        else:
            level_of_sides = level
        a, b = self.expr(e.a, level_of_sides), self.expr(e.b, tight)
        if op == "||":
            a, b = (f"({x})" if self._is_conjunction(c) else x for x, c in ((a, e.a), (b, e.b)))
        return f"{a} {op} {b}", level

    def _is_conjunction(self, e: Expr) -> bool:
        return isinstance(e, Bin) and e not in self.values and _BOOL.get(e.op) == "and" and e.type.dtype == "bool"

    def float_helper(self, e: Bin, dtype: str) -> tuple[str, int]:
        suffix = "f" if dtype == "f32" else ""
        if e.op == "tmod":
            return self.call(f"fmod{suffix}", e.a, e.b)
        if e.op == "tdiv":
            return f"trunc{suffix}({self.expr(e.a, MULTIPLY)} / {self.expr(e.b, MULTIPLY + 1)})", POSTFIX
        if e.op not in ("min", "max", "mod"):
            raise unsupported(f"no operation {e.op} on {dtype}")
        return self.call("float_mod" if e.op == "mod" else _HELPERS[e.op], e.a, e.b)

    def index(self, e: Bin) -> tuple[str, int]:
        """i64 scalars: plain operators where bounds prove them right, else helpers in 64 bits."""
        narrow = is_narrow(e, self.narrow)
        low = bounds(e.a)[0]
        positive = isinstance(e.b, Const) and e.b.value > 0 and low is not None and low >= 0
        wide = f"<{'int' if narrow else 'long long'}>"
        if e.op in ("div", "mod") and positive:
            return self.infix(e, *_INFIX[e.op])
        if e.op in ("and", "or", "xor"):
            return self.infix(e, *_INFIX[e.op])
        known = narrow or self.in_address or bounds(e) != (None, None)
        if e.op in _WRAPPING and (known or not any(isinstance(x, Load) for x in walk(e))):
            return self.plain(e, narrow)
        return self.call((_HELPERS | _WRAPPING)[e.op] + wide, e.a, e.b)

    def plain(self, e: Bin, narrow: bool) -> tuple[str, int]:
        """add, sub, mul of i64; the left side is widened if the result may not fit what both sides fit."""
        op, level = _INFIX[e.op]
        if e.op == "add" and isinstance(e.b, Const) and e.b.value < 0 and e.b.value > -(2**63):
            return f"{self.expr(e.a, level)} - {-e.b.value}", level
        left = self.expr(e.a, level)
        product = e.b if isinstance(e.b, Bin) and e.b.op == "mul" and e.b not in self.values else None
        factor = product.b.value if product is not None and isinstance(product.b, Const) else 0
        if product is not None and e.op == "add" and narrow and -(2**31) < factor < 0:
            times = f" * {-factor}" if factor < -1 else ""
            return f"{left} - {self.expr(product.a, MULTIPLY if times else level + 1)}{times}", level
        if not narrow and is_narrow(e.a, self.narrow) and is_narrow(e.b, self.narrow):
            left = f"(long long){self.expr(e.a, UNARY)}"
        return f"{left} {op} {self.expr(e.b, level + (e.op == 'sub'))}", level

    def unary(self, e: Un) -> tuple[str, int]:
        dtype, kind = e.type.dtype, DTYPES[e.type.dtype].kind
        if dtype in ("f16", "bf16"):
            raise unsupported(f"arithmetic on {dtype} ({e.op}): legalize the kernel first")
        if e.op == "not":
            ctype = "" if kind == "b" else f"({self.ctype(dtype)})"
            return f"{ctype}{'!' if kind == 'b' else '~'}{self.expr(e.a, UNARY)}", UNARY
        if e.op == "neg" and kind == "f":
            return f"-{self.expr(e.a, POSTFIX)}", UNARY
        if e.op == "neg":
            return f"wrap_sub<{self.ctype(dtype)}>(0, {self.expr(e.a)})", POSTFIX
        if kind == "f" and e.op in _UNARY:
            return self.call(_UNARY[e.op] + ("f" if dtype == "f32" else ""), e.a)
        if e.op == "abs":
            return self.call(f"wrap_abs<{self.ctype(dtype)}>", e.a) if kind == "i" else (self.expr(e.a), 0)
        raise unsupported(f"no operation {e.op} on {dtype}")

    # ---- conversions and calls

    def cast(self, e: Cast) -> tuple[str, int]:
        source = e.a.type.dtype
        by_function = (source, e.type.dtype) in self.dialect.conversions
        return self.convert(self.expr(e.a, 0 if by_function else UNARY), source, e.type, e)

    def convert(self, text: str, source: str, to: Type, e: Cast) -> tuple[str, int]:
        halves = ("f16", "bf16")
        known = self.dialect.conversions.get((source, to.dtype))
        if known is not None:
            return known.format(text), POSTFIX
        if source in halves:
            return self.convert(self.dialect.conversions[source, "f32"].format(text), "f32", to, e)
        if to.dtype in halves:
            return self.convert(f"(float){text}", "f32", to, e)
        if to.dtype == "bool":
            return f"{text} != 0", EQUALITY
        if DTYPES[source].kind == "f" and DTYPES[to.dtype].kind != "f":
            return f"to_integer<{self.ctype(to.dtype)}>({text})", POSTFIX
        if to == I64:
            return (text, UNARY) if is_narrow(e, self.narrow) else (f"(long long){text}", UNARY)
        return f"({self.ctype(to.dtype)}){text}", UNARY

    def function(self, e: Call) -> tuple[str, int]:
        dtype = e.type.dtype
        args = [self.expr(a) for a in e.args]
        if e.fn == "bitcast":
            return f"bits_as<{self.ctype(dtype)}>({args[0]})", POSTFIX
        known = self.dialect.functions.get((e.fn, dtype))
        if known is not None:
            return known.format(*args), POSTFIX
        if dtype not in ("f32", "f64"):
            if e.fn == "pow" and DTYPES[dtype].kind in "iu":
                return f"integer_power<{self.ctype(dtype)}>({', '.join(args)})", POSTFIX
            raise unsupported(f"no function {e.fn} on {dtype}: legalize the kernel first")
        return f"{e.fn}{'f' if dtype == 'f32' else ''}({', '.join(args)})", POSTFIX

    # ---- memory

    def load(self, e: Load) -> tuple[str, int]:
        if any(i.type.lanes > 1 for i in e.idx):
            return self.place(e.buf, e.idx), POSTFIX  # one lane of a gather
        if e.type.lanes > 1:
            return self.lane_of(e), POSTFIX
        if e.type.dtype == e.buf.dtype:
            return self.place(e.buf, e.idx), POSTFIX
        return f"*(const {self.ctype(e.type.dtype)} *)&{self.place(e.buf, e.idx)}", UNARY

    def lane_of(self, e: Load) -> str:
        """One lane of a vector load from an array that is taken apart; others are named before the loop over lanes."""
        if e.buf.space in ("register", "stack") and e.type.dtype == e.buf.dtype:
            return self.place(e.buf, e.idx, self.lane)
        raise unsupported(f"a vector load from {e.buf.name} ({e.buf.space}) inside an expression of single lanes")

    def place(self, buf: Buffer, idx: tuple[Expr, ...], lane: str = "") -> str:
        """The element at an index, as an lvalue; lane: what is added to the last dimension."""
        name = self.names.get(buf)
        if name is None:
            raise unsupported(f"buffer {buf.name} is used where it is not allocated")
        if not buf.shape and not is_flat(buf):
            return name
        outer, self.in_address = self.in_address, True  # an address never wraps around
        texts = [self.number(flat_address(buf, idx))] if is_flat(buf) else [self.expr(i) for i in idx]
        self.in_address = outer
        if lane:
            texts[-1] = lane if texts[-1] == "0" else f"{texts[-1]} + {lane}"
        return name + "".join(f"[{t}]" for t in texts)

    def number(self, address: FlatAddress) -> str:
        """One number made of coordinates."""
        text, is_sum = "", False
        for e, size in address.parts:
            own = self.expr(e, MULTIPLY if size > 1 and not address.nested else ADD)
            if not address.nested:
                text = added(text, f"{own} * {size}" if size > 1 else own)
                continue
            zero = isinstance(e, Const) and e.value == 0
            times = f" * {size}" if size > 1 else ""
            scaled = (f"({text})" if is_sum and times else text) + times if text else ""
            text = scaled if zero and scaled else added(scaled, own)
            plain = isinstance(e, Bin) and e.op in ("add", "sub") and e not in self.values
            is_sum = not zero or (is_sum and not times) if scaled else plain
        return text


def operands(e: Expr) -> tuple[Expr, ...]:
    """The operands that the text of a node is made of."""
    if isinstance(e, Load) and is_flat(e.buf):
        return place_roots(e.buf, e.idx)
    return children(e)


def printed_nodes(*roots: Expr) -> list[Expr]:
    """Every distinct node that is printed, operands before users."""
    seen: dict[Expr, None] = {}

    def visit(e: Expr) -> None:
        if e not in seen:
            for c in operands(e):
                visit(c)
            seen[e] = None

    for r in roots:
        visit(r)
    return list(seen)


def _worth_a_name(e: Expr) -> bool:
    if isinstance(e, Const | Var | Ramp | Splat):
        return False
    if isinstance(e, Load):
        return e.buf.space not in ("register", "stack") or e.type.lanes > 1
    if e.type == I64 and isinstance(e, Bin):
        if e.op in ("add", "sub", "mul"):
            return sum(1 for _ in walk(e)) >= _LONG_SUM
        return not (isinstance(e.a, Var) and isinstance(e.b, Const))
    return not (isinstance(e, Un) and e.op == "neg")
