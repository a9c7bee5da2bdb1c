"""Reads the text form of graphs (`text.py` shows it).  Every wrong text raises ModelError with its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np

from . import ops
from .errors import ModelError
from .graph import Graph, Node, Value
from .ops.base import Op
from .parse import Line, Lines, literal, literal_tuple, read_symbols
from .parse_expr import Named, Reader
from .text import content_hash
from .types import DTYPES, TensorType


def parse_graph(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that `show_graph` printed.  constants: the arrays that the text has by hash, by `content_hash`.
    Raises ModelError for other text and for a constant that is missing."""
    lines = Lines(text)
    found = _GraphReader(lines, constants or {}).graph({})
    lines.done()
    return found


@lru_cache(maxsize=1)
def _operators() -> dict[str, type[Op]]:
    """Every operator class of `ir.ops`, by name."""
    found: dict[str, type[Op]] = {}
    for module in iter_modules(ops.__path__):
        for value in vars(import_module(f"{ops.__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Op) and is_dataclass(value):
                found[value.__name__] = value
    return found


class _GraphReader:
    def __init__(self, lines: Lines, constants: Mapping[str, np.ndarray]) -> None:
        self.lines = lines
        self.stored = constants
        self.symbols: dict[str, Named] = {}
        self.values: dict[str, Value] = {}
        self.constants: dict[Value, np.ndarray] = {}
        self.nodes: list[Node] = []

    def graph(self, symbols: Mapping[str, Named], prefix: str = "") -> Graph:
        """The graph whose first line comes next, after this text."""
        head = self.lines.next()
        self.symbols = dict(symbols)
        r = head.reader(self.symbols, prefix)
        r.expect("graph")
        name = r.name()
        read_symbols(r, self.symbols)
        r.expect("(")
        inputs: list[Value] = []
        while not r.accept(")"):
            r.expect("%")
            input_name = r.name()
            r.expect(":")
            inputs.append(self.define(input_name, self.type(r)))
            if not r.sees(")"):
                r.expect(",")
        r.end()
        while True:
            line = self.lines.next()
            r = line.reader(self.symbols)
            if r.accept("return"):
                outputs, names = self.results(r)
                return Graph(name, tuple(inputs), outputs, tuple(self.nodes), self.constants, names)
            self.definition(r, line)

    def type(self, r: Reader) -> TensorType:
        return TensorType(r.dtype(), r.dims())

    def define(self, name: str, type: TensorType) -> Value:
        if name in self.values:
            raise ModelError(f"text: value %{name} is defined twice")
        self.values[name] = v = Value(name, type)
        return v

    def value(self, r: Reader) -> Value:
        r.expect("%")
        if r.token.text not in self.values:
            raise r.fail("a value that is defined before")
        return self.values[r.name()]

    def results(self, r: Reader) -> tuple[tuple[Value, ...], tuple[str, ...]]:
        outputs: list[Value] = []
        names: list[str] = []
        while r.token.kind != "end":
            outputs.append(self.value(r))
            names.append(r.name() if r.accept("as") else outputs[-1].name)
            if r.token.kind != "end":
                r.expect(",")
        return tuple(outputs), tuple(names)

    def definition(self, r: Reader, line: Line) -> None:
        names = []
        while not r.accept("="):
            r.expect("%")
            names.append(r.name())
            if not r.sees("="):
                r.expect(",")
        if r.accept("const"):
            type = self.type(r)
            self.constants[self.define(names[0], type)] = self.content(r, type)
            r.end()
            return
        op_name, attributes = self.attributes(r)
        r.expect("(")
        inputs = []
        while not r.accept(")"):
            inputs.append(self.value(r))
            if not r.sees(")"):
                r.expect(",")
        r.expect(":")
        outputs = []
        for i, name in enumerate(names):
            if i:
                r.expect(",")
            outputs.append(self.define(name, self.type(r)))
        where = r.name() if r.accept("at") else ""
        r.end()
        for name, value in attributes.items():
            if value is Graph:
                attributes[name] = _GraphReader(self.lines, self.stored).graph(self.symbols, name)
        try:
            op = _operators()[op_name](**attributes)
        except TypeError as e:
            raise ModelError(f"text, line {line.number}: {op_name}: {e}") from e
        self.nodes.append(Node(op, tuple(inputs), tuple(outputs), where))

    def attributes(self, r: Reader) -> tuple[str, dict[str, Any]]:
        """`Name(field=value, ...)`; Graph stands for one that follows below."""
        if r.token.text not in _operators():
            raise r.fail("an operator")
        op = r.name()
        scope = _operators()[op].__module__
        found: dict[str, Any] = {}
        r.expect("(")
        while not r.accept(")"):
            name = r.name()
            r.expect("=")
            found[name] = Graph if r.accept("graph") else literal(r, scope)
            if not r.sees(")"):
                r.expect(",")
        return op, found

    def content(self, r: Reader, type: TensorType) -> np.ndarray:
        if not r.accept("sha256"):
            return np.array(literal_tuple(r)).astype(DTYPES[type.dtype].numpy).reshape(type.static_shape)
        key = r.name()
        array = self.stored.get(key)
        if array is None or content_hash(array) != key:
            raise ModelError(f"text, line {r.line}: no constant with the hash {key!r} was given; pass it in `constants`")
        return array
