"""Reads the text form of kernels (`text.py` shows it).  Every wrong text raises ModelError with its line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ModelError
from .expr import Const, Expr, Type, Var
from .kernel import (
    Alloc,
    Barrier,
    Block,
    Buffer,
    Do,
    For,
    If,
    Kernel,
    Param,
    Prefetch,
    Read,
    Stmt,
    Store,
    Write,
    axis,
)
from .parse_expr import Named, Reader


@dataclass(frozen=True)
class Line:
    """One line: its number from 1, the spaces before it, and the rest."""

    number: int
    indent: int
    text: str

    def reader(self, names: Mapping[str, Named], skip: str = "") -> Reader:
        """A reader of what follows the text to skip; it counts columns from the start of the line."""
        start = self.indent + len(skip)
        return Reader(" " * start + self.text[len(skip) :], self.number, names)


class Lines:
    """The lines of a text that are not blank, with a cursor."""

    def __init__(self, text: str) -> None:
        self.lines = [
            Line(n, len(raw) - len(raw.lstrip()), raw.strip()) for n, raw in enumerate(text.splitlines(), 1) if raw.strip()
        ]
        self.at = 0

    def peek(self) -> Line | None:
        return self.lines[self.at] if self.at < len(self.lines) else None

    def next(self) -> Line:
        line = self.peek()
        if line is None:
            raise ModelError("text: it ends too early: expected another line")
        self.at += 1
        return line

    def done(self) -> None:
        line = self.peek()
        if line is not None:
            raise ModelError(f"text, line {line.number}: expected the end, got {line.text!r}")


def literal(r: Reader, scope: str = "") -> Any:
    """A number, text, True, False, None or a tuple; in an operator (scope: its module) also {expression} and named
    tuples."""
    if r.accept("("):
        parts: list[Any] = []
        while not r.accept(")"):
            parts.append(literal(r, scope))
            if not r.sees(")"):
                r.expect(",")
        return tuple(parts)
    if r.accept("{"):
        e = r.expression()
        r.expect("}")
        return e
    if r.token.kind == "string":
        return r.next().text
    for name, value in (("True", True), ("False", False), ("None", None)):
        if r.accept(name):
            return value
    if r.token.kind == "name" and not r.sees("inf", "nan"):
        made = getattr(sys.modules.get(scope), r.token.text, None)
        if not (isinstance(made, type) and issubclass(made, tuple)):
            raise r.fail("a value")
        r.next()
        return made(*literal_tuple(r, scope))
    e = r.atom()
    if not isinstance(e, Const):
        raise r.fail("a number")
    return e.value


def literal_tuple(r: Reader, scope: str = "") -> tuple[Any, ...]:
    """A `literal` that is a tuple."""
    value = literal(r, scope)
    if not isinstance(value, tuple):
        raise r.fail("a tuple before this")
    return value


def read_symbols(r: Reader, names: dict[str, Named]) -> None:
    """`[N < 8, M, ...]`, optional."""
    if not r.accept("["):
        return
    while not r.accept("]"):
        name = r.name()
        kind = Type(r.dtype()) if r.accept(":") else Type("i64")
        names[name] = Var.of(name, r.dim() if r.accept("<") else None, kind)
        if not r.sees("]"):
            r.expect(",")


# ---- kernels -----------------------------------------------------------------------------------------------------


def parse_kernel(text: str) -> Kernel:
    """The kernel that `show_kernel` printed.  Raises ModelError for other text."""
    lines = Lines(text)
    line = lines.next()
    names: dict[str, Named] = {}
    r = line.reader(names)
    r.expect("kernel")
    name = r.name()
    read_symbols(r, names)
    r.expect("(")
    params: list[Param] = []
    while not r.accept(")"):
        params.append(_param(r, names))
        if not r.sees(")"):
            r.expect(",")
    r.end()
    body = _block(lines, line.indent, names)
    lines.done()
    return Kernel(name, tuple(params), body)


def _param(r: Reader, names: dict[str, Named]) -> Param:
    name = r.name()
    if not r.sees(":"):
        found = r.lookup(name)
        if not isinstance(found, Var):
            raise r.fail(f"the type of {name}")
        return found
    names[name] = buf = _buffer(r, name)
    return buf


def _buffer(r: Reader, name: str) -> Buffer:
    """What follows the name of a buffer."""
    r.expect(":")
    dtype, shape = r.dtype(), r.dims()
    space = r.name() if r.accept("in") else "global"
    strides = literal_tuple(r) if r.accept("strides") else None
    align = r.integer() if r.accept("align") else 64
    attrs = literal_tuple(r) if r.accept("attrs") else ()
    return Buffer(name, dtype, shape, space, strides, align, attrs)


def _block(lines: Lines, outer: int, names: Mapping[str, Named]) -> Block:
    """The statements indented deeper than the line that owns them."""
    known = dict(names)
    found: list[Stmt] = []
    first = lines.peek()
    while (line := lines.peek()) is not None and line.indent > outer and first is not None:
        if line.indent != first.indent:
            raise ModelError(f"text, line {line.number}: expected {first.indent} spaces before it, got {line.indent}")
        made = _statement(lines, known)
        if made is not None:
            found.append(made)
    return tuple(found)


def _statement(lines: Lines, names: dict[str, Named]) -> Stmt | None:
    """The next statement with its block; a `let` only defines a name."""
    line = lines.next()
    r = line.reader(names)
    keyword = r.token.text if r.token.kind == "name" else ""
    made: Stmt | None
    if keyword in _STATEMENTS:
        r.next()
        made = _STATEMENTS[keyword](r, names)
    else:
        made = _store(r, "")
    r.end()
    if isinstance(made, For):
        return For(made.var, _block(lines, line.indent, {**names, made.var.name: made.var}), made.kind, made.attrs)
    if isinstance(made, If):
        then, other = _block(lines, line.indent, names), ()
        follows = lines.peek()
        if follows is not None and follows.text == "else" and follows.indent == line.indent:
            lines.next()
            other = _block(lines, line.indent, names)
        return If(made.cond, then, other)
    return made


def _store(r: Reader, mode: str) -> Stmt:
    buf = r.buffer()
    idx = _index(r)
    r.expect("=")
    return Store(buf, idx, r.expression(), mode)


def _index(r: Reader) -> tuple[Expr, ...]:
    r.expect("[")
    return r.expressions("]")


def _let(r: Reader, names: dict[str, Named]) -> None:
    name = r.name()
    r.expect("=")
    names[name] = r.expression()


def _for(r: Reader, names: dict[str, Named]) -> Stmt:
    name = r.name()
    r.expect("<")
    var = axis(name, r.dim())
    kind = r.name() if r.token.kind == "name" and not r.sees("attrs") else "serial"
    return For(var, (), kind, literal_tuple(r) if r.accept("attrs") else ())


def _if(r: Reader, names: dict[str, Named]) -> Stmt:
    return If(r.expression(), ())


def _alloc(r: Reader, names: dict[str, Named]) -> Stmt:
    name = r.name()
    names[name] = buf = _buffer(r, name)
    return Alloc(buf)


def _prefetch(r: Reader, names: dict[str, Named]) -> Stmt:
    buf, idx = r.buffer(), _index(r)
    return Prefetch(buf, idx, r.integer() if r.accept("level") else 2)


def _read(r: Reader, names: dict[str, Named]) -> Stmt:
    buf, idx = r.buffer(), _index(r)
    r.expect("=")
    return Read(r.buffer(), buf, idx)


def _write(r: Reader, names: dict[str, Named]) -> Stmt:
    stream = r.buffer()
    r.expect("=")
    return Write(stream, r.expression())


def _do(r: Reader, names: dict[str, Named]) -> Stmt:
    fn = r.name()
    r.expect("(")
    args, bufs = r.expressions(")"), []
    more = r.accept("on")
    while more:
        bufs.append(r.buffer())
        more = r.accept(",")
    return Do(fn, args, tuple(bufs))


_STATEMENTS: dict[str, Any] = {
    "let": _let, "for": _for, "if": _if, "alloc": _alloc, "prefetch": _prefetch, "read": _read, "write": _write,
    "do": _do, "async": lambda r, names: _store(r, "async"), "barrier": lambda r, names: Barrier(r.name()),
}
