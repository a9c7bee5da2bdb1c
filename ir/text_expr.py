"""The text form of expressions, and the words that all texts share.

From loosest to tightest binding; infix operators are left-associative:

    < <= == !=    |    ^    &    << >>    + -    * / // %    atoms
    atom = 3 | 1.0 | true | inf | name | f(x, ...) | buffer[i, ...] | (expression), with an optional `:type`

`//` and `%` are floor division and remainder of integers, `/` divides floats; for i64, `x - 3` stands for the canonical
`x + -3`.  A type is an element type and its lanes (`f32x8`); after a load `:8` gives the lanes alone.  Numbers without
a type are i64 or, with a point or an exponent, f32.  A name that is not a plain identifier or is a word of the grammar
stands in double quotes.  Parts that are used more than once in a large expression are named `$0`, `$1`, ...
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from .expr import I64, Bin, Call, Cast, Const, Expr, Fma, HReduce, Load, Ramp, Select, Shuffle, Splat, Type, Un, Var
from .traverse import children, walk
from .types import DTYPES

SYMBOLS: dict[str, tuple[str, int]] = {  # operator -> symbol, level; a higher level binds tighter
    "lt": ("<", 0), "le": ("<=", 0), "eq": ("==", 0), "ne": ("!=", 0), "or": ("|", 1), "xor": ("^", 2), "and": ("&", 3),
    "shl": ("<<", 4), "shr": (">>", 4), "add": ("+", 5), "sub": ("-", 5), "mul": ("*", 6), "div": ("//", 6),
    "mod": ("%", 6),
}
COMPARISONS = ("lt", "le", "eq", "ne")
UNARY_NAMES = ("neg", "abs", "rint", "floor", "ceil", "trunc", "sqrt", "not")
BINARY_NAMES = ("min", "max", "tdiv", "tmod", "sub")
FORMS = ("fma", "select", "splat", "ramp", "shuffle", "hreduce", "call")
WORDS = frozenset({
    "kernel", "for", "if", "else", "alloc", "async", "prefetch", "barrier", "read", "write", "do", "let", "in",
    "strides", "align", "attrs", "level", "on", "graph", "const", "return", "as", "at", "true", "false", "inf", "nan",
    "True", "False", "None", *UNARY_NAMES, *BINARY_NAMES, *FORMS, *DTYPES,
})
_ATOM = 7
_PLAIN = re.compile(r"[A-Za-z_][\w.]*\Z", re.ASCII)
_NAME_PARTS_ABOVE = 120  # nodes, counted with repetition


def show_name(name: str) -> str:
    return name if _PLAIN.match(name) and name not in WORDS else json.dumps(name)


def show_plain(name: str) -> str:
    """A name behind a `%`, where words of the grammar need no quotes."""
    return name if _PLAIN.match(name) else json.dumps(name)


def show_type(type: Type) -> str:
    return type.dtype if type.lanes == 1 else f"{type.dtype}x{type.lanes}"


def is_scaled(e: Expr) -> bool:
    """Whether e is an i64 product with a constant, as linear forms have them."""
    return isinstance(e, Bin) and e.op == "mul" and isinstance(e.b, Const)


def show_expr(e: Expr) -> str:
    """One line; large expressions define their repeated parts first, as `$0 = ...; $1 = ...; expression`."""
    names = shared_parts((e,))
    parts = [f"{names[p]} = {show_part(p, names)}" for p in names]
    return "; ".join([*parts, show_with(e, names)])


def shared_parts(roots: Iterable[Expr]) -> dict[Expr, str]:
    """Names for the repeated parts of large expressions, operands before users; empty for small ones."""
    roots = tuple(roots)
    size: dict[Expr, int] = {}
    uses: Counter[Expr] = Counter(roots)
    for root in roots:
        for x in walk(root):
            if x not in size:
                size[x] = 1 + sum(size[c] for c in children(x))
                uses.update(children(x))
    if sum(size[r] for r in roots) <= _NAME_PARTS_ABOVE:
        return {}
    repeated = [x for x in size if uses[x] > 1 and size[x] > 2]
    return {x: f"${i}" for i, x in enumerate(repeated)}


def show_with(e: Expr, names: Mapping[Expr, str], level: int = 0) -> str:
    """An expression where these parts are written by name, in parentheses if it binds looser than the level."""
    if e in names:
        return names[e]
    return show_part(e, names, level)


def show_part(e: Expr, names: Mapping[Expr, str], level: int = 0) -> str:
    """The same, but the expression itself is written out."""
    if isinstance(e, Bin) and e.op in SYMBOLS and not (e.op == "sub" and e.a.type == I64):
        own = SYMBOLS[e.op][1]
        text = _infix(e, names, own)
        return f"({text})" if own < level else text
    return _atom(e, names)


def _infix(e: Bin, names: Mapping[Expr, str], level: int) -> str:
    symbol, right = SYMBOLS[e.op][0], e.b
    if e.op == "div" and DTYPES[e.a.type.dtype].kind == "f":
        symbol = "/"
    tail = show_with(right, names, level + 1)
    if e.op == "add" and e.type == I64 and right not in names:
        minus = _negated(right, names)
        if minus is not None:
            symbol, tail = "-", minus
    space = "" if e.op == "mul" else " "
    divided = e.op == "mul" and isinstance(e.a, Bin) and e.a.op in ("div", "mod")  # (x // 4)*2 is clearer in parentheses
    return f"{show_with(e.a, names, level + divided)}{space}{symbol}{space}{tail}"


def _negated(e: Expr, names: Mapping[Expr, str]) -> str | None:
    """The text of -e where it reads better: a negative constant, or a product with one."""
    if isinstance(e, Const):
        return str(-e.value) if e.value < 0 else None
    if not (isinstance(e, Bin) and is_scaled(e)) or e.b.value >= 0 or isinstance(e.a, Const) or is_scaled(e.a):  # type: ignore[attr-defined]
        return None
    factor = -e.b.value  # type: ignore[attr-defined]
    return show_with(e.a, names, 6) + (f"*{factor}" if factor != 1 else "")


def _constant(e: Expr, value: object, type: Type) -> str:
    text = str(value).lower() if type.dtype == "bool" else repr(value)
    return text if type in (I64, Type("f32"), Type("bool")) else f"{text}:{show_type(type)}"


def _atom(e: Expr, names: Mapping[Expr, str]) -> str:
    def listed(*parts: Expr) -> str:
        return ", ".join(show_with(p, names) for p in parts)

    match e:
        case Const():
            return _constant(e, e.value, e.type)
        case Var():
            return show_name(e.name)
        case Load():
            return f"{show_name(e.buf.name)}[{listed(*e.idx)}]{_load_type(e)}"
        case Un():
            return f"{e.op}({listed(e.a)})"
        case Bin():
            return f"{e.op}({listed(e.a, e.b)})"
        case Fma():
            return f"fma({listed(e.a, e.b, e.c)})"
        case Select():
            return f"select({listed(e.cond, e.a, e.b)})"
        case Cast():
            return f"{e.type.dtype}({listed(e.a)})"
        case Splat():
            return f"splat({listed(e.a)}, {e.type.lanes})"
        case Ramp():
            return f"ramp({show_type(e.type)})"
        case Shuffle():
            return f"shuffle({listed(e.a, e.b)}, ({', '.join(map(str, e.mask))}))"
        case HReduce():
            return f"hreduce({e.op}, {listed(e.a)})"
        case Call():
            plain = _PLAIN.match(e.fn) and e.fn not in WORDS
            text = f"{e.fn}({listed(*e.args)})" if plain else f"call({', '.join([json.dumps(e.fn), listed(*e.args)])})"
            return text if e.args and e.type == e.args[0].type else f"{text}:{show_type(e.type)}"
    return f"<{type(e).__name__}>"


def _load_type(e: Load) -> str:
    if e.type.dtype != e.buf.dtype:
        return f":{show_type(e.type)}"
    return f":{e.type.lanes}" if e.type.lanes > 1 else ""
