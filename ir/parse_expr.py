"""Reads the text form of expressions (`text_expr.py` has the grammar).

Nodes are rebuilt exactly as they were printed, without simplification, so that printing gives the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple, Union

from .errors import ModelError
from .expr import (
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
    const,
)
from .kernel import Buffer
from .text_expr import BINARY_NAMES, COMPARISONS, SYMBOLS, UNARY_NAMES, is_scaled
from .types import DTYPES, Dim

Named = Union[Buffer, Expr]
_TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")'
    r"|(?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][\w.]*|\$\d+)"
    r"|(?P<symbol><<|>>|<=|==|!=|//|[-+*/%&|^<=()\[\]{},:;]))",
    re.ASCII,
)
_BY_SYMBOL = {symbol: (op, level) for op, (symbol, level) in SYMBOLS.items()} | {"/": ("div", 6)}
_TYPE = re.compile(r"(?P<dtype>[a-z]+\d*)(?:x(?P<lanes>\d+))?\Z")


class Token(NamedTuple):
    """kind: string, number, name, symbol or end; a string's text is its content."""

    kind: str
    text: str
    column: int


class Reader:
    """A cursor over the tokens of one line.  names: what the line may refer to."""

    def __init__(self, text: str, line: int, names: Mapping[str, Named]) -> None:
        self.line = line
        self.names = names
        self.tokens = list(self._split(text))
        self.at = 0

    def _split(self, text: str) -> list[Token]:
        found, position = [], 0
        text = text.rstrip()
        while position < len(text):
            m = _TOKEN.match(text, position)
            if m is None:
                column = len(text) - len(text[position:].lstrip()) + 1
                raise ModelError(f"text, line {self.line}, column {column}: unexpected {text[column - 1 :][:10]!r}")
            kind = str(m.lastgroup)
            word = m.group(kind)
            found.append(Token(kind, json.loads(word) if kind == "string" else word, m.start(kind) + 1))
            position = m.end()
        return [*found, Token("end", "the end of the line", len(text) + 1)]

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def fail(self, expected: str) -> ModelError:
        t = self.token
        return ModelError(f"text, line {self.line}, column {t.column}: expected {expected}, got {t.text!r}")

    def next(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def sees(self, *texts: str) -> bool:
        """Whether an unquoted token with one of these texts comes next."""
        return self.token.kind in ("name", "symbol") and self.token.text in texts

    def accept(self, text: str) -> bool:
        if self.sees(text):
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.fail(repr(text))

    def end(self) -> None:
        if self.token.kind != "end":
            raise self.fail("the end of the line")

    def name(self) -> str:
        if self.token.kind not in ("name", "string"):
            raise self.fail("a name")
        return self.next().text

    def integer(self) -> int:
        if self.token.kind != "number" or not self.token.text.isdigit():
            raise self.fail("an integer")
        return int(self.next().text)

    def dtype(self) -> str:
        if self.token.text not in DTYPES:
            raise self.fail("an element type")
        return self.next().text

    def type(self, default: Type) -> Type:
        """After a colon: a type, or lanes alone of the default element type."""
        if self.token.kind == "number":
            return default.with_lanes(self.integer())
        m = _TYPE.match(self.token.text)
        if self.token.kind != "name" or m is None or m["dtype"] not in DTYPES:
            raise self.fail("a type")
        self.next()
        return Type(m["dtype"], int(m["lanes"] or 1))

    def dim(self) -> Dim:
        e = self.expression()
        return e.value if isinstance(e, Const) else e

    def dims(self) -> tuple[Dim, ...]:
        self.expect("[")
        found: list[Dim] = []
        while not self.accept("]"):
            found.append(self.dim())
            if not self.sees("]"):
                self.expect(",")
        return tuple(found)

    def lookup(self, name: str) -> Named:
        if name not in self.names:
            self.at -= 1
            raise self.fail("a name that is defined here")
        return self.names[name]

    def buffer(self) -> Buffer:
        found = self.lookup(self.name())
        if not isinstance(found, Buffer):
            self.at -= 1
            raise self.fail("a buffer")
        return found

    # ---- expressions -------------------------------------------------------------------------------------------------

    def expressions(self, close: str) -> tuple[Expr, ...]:
        """Comma-separated expressions up to a closing symbol, which is consumed."""
        found: list[Expr] = []
        while not self.accept(close):
            found.append(self.expression())
            if not self.sees(close):
                self.expect(",")
        return tuple(found)

    def expression(self, level: int = 0) -> Expr:
        left = self.atom()
        while self.token.kind == "symbol" and _BY_SYMBOL.get(self.token.text, ("", -1))[1] >= level:
            op, own = _BY_SYMBOL[self.next().text]
            left = self._infix(op, left, self.expression(own + 1))
        return left

    def _infix(self, op: str, a: Expr, b: Expr) -> Expr:
        if op == "sub" and a.type == I64:
            return Bin.of("add", a, _minus(b), I64)
        return self._binary(op, a, b)

    def _binary(self, op: str, a: Expr, b: Expr) -> Expr:
        if a.type != b.type:
            raise ModelError(f"text, line {self.line}: operands of {op} have types {a.type} and {b.type}: {a} and {b}")
        return Bin.of(op, a, b, Type("bool", a.type.lanes) if op in COMPARISONS else a.type)

    def atom(self) -> Expr:
        if self.accept("("):
            inner = self.expression()
            self.expect(")")
            return inner
        if self.token.kind == "number" or self.sees("-", "inf", "nan", "true", "false"):
            return self._constant()
        quoted = self.token.kind == "string"
        name = self.name()
        if self.accept("["):
            self.at -= 2
            buf = self.buffer()
            self.expect("[")
            return self._load(buf, self.expressions("]"))
        if not quoted and self.accept("("):
            return self._form(name)
        found = self.lookup(name)
        if isinstance(found, Buffer):
            self.at -= 1
            raise self.fail("a variable")
        return found

    def _constant(self) -> Expr:
        sign = "-" if self.accept("-") else ""
        text = sign + self.next().text
        if text in ("true", "false"):
            default, value = Type("bool"), text == "true"
        elif re.fullmatch(r"-?\d+", text):
            default, value = I64, int(text)
        else:
            try:
                default, value = Type("f32"), float(text)
            except ValueError:
                self.at -= 1
                raise self.fail("a number") from None
        return const(value, self.type(default) if self.accept(":") else default)

    def _load(self, buf: Buffer, idx: tuple[Expr, ...]) -> Expr:
        own = Type(buf.dtype)
        return Load.of(buf, idx, self.type(own) if self.accept(":") else own)

    def _form(self, name: str) -> Expr:
        """What follows `name(`."""
        if name == "ramp":
            kind = self.type(I64)
            self.expect(")")
            return Ramp.of(kind)
        if name == "hreduce":
            op = self.name()
            self.expect(",")
            (a,) = self._arguments(name, 1)
            return HReduce.of(op, a, a.type.with_lanes(1))
        if name == "shuffle":
            a, b = self.expression(), self._after_comma()
            self.expect(",")
            self.expect("(")
            mask = tuple(int(x.value) for x in self.expressions(")"))  # type: ignore[attr-defined]
            self.expect(")")
            return Shuffle.of(a, b, mask, a.type.with_lanes(len(mask)))
        if name == "splat":
            a = self.expression()
            self.expect(",")
            lanes = self.integer()
            self.expect(")")
            return Splat.of(a, a.type.with_lanes(lanes))
        if name == "call":
            name = self.name()
            self.accept(",")
            return self._call(name)
        if name in DTYPES:
            (a,) = self._arguments(name, 1)
            return Cast.of(a, Type(name, a.type.lanes))
        if name in UNARY_NAMES:
            (a,) = self._arguments(name, 1)
            return Un.of(name, a, a.type)
        if name in BINARY_NAMES:
            return self._binary(name, *self._arguments(name, 2))
        if name in ("fma", "select"):
            a, b, c = self._arguments(name, 3)
            return Fma.of(a, b, c, c.type) if name == "fma" else Select.of(a, b, c, b.type)
        return self._call(name)

    def _after_comma(self) -> Expr:
        self.expect(",")
        return self.expression()

    def _arguments(self, name: str, count: int) -> tuple[Expr, ...]:
        found = self.expressions(")")
        if len(found) != count:
            raise self.fail(f"{count} arguments of {name} before this")
        return found

    def _call(self, fn: str) -> Expr:
        args = self.expressions(")")
        own = args[0].type if args else I64
        return Call.of(fn, args, self.type(own) if self.accept(":") else own)


def _minus(e: Expr) -> Expr:
    """-e as linear forms have it: a negative constant, or a product with one."""
    if isinstance(e, Const):
        return const(-e.value)
    if isinstance(e, Bin) and is_scaled(e):
        return Bin.of("mul", e.a, const(-e.b.value), I64)  # type: ignore[attr-defined]
    return Bin.of("mul", e, const(-1), I64)


def parse_expr(text: str, names: Mapping[str, Named]) -> Expr:
    """The expression that `show_expr` printed; names: its variables and buffers.  Raises ModelError for other text."""
    *parts, last = _statements(text)
    known = dict(names)
    for part in parts:
        r = Reader(part, 1, known)
        name = r.name()
        r.expect("=")
        known[name] = r.expression()
        r.end()
    r = Reader(last, 1, known)
    result = r.expression()
    r.end()
    return result


def _statements(text: str) -> list[str]:
    return re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^;"])+', text)
