"""The text form of kernels and graphs.  `parse.py` and `parse_graph.py` read it back; what was parsed prints the same.

    kernel matmul[M < 512](C: f32[M, 16], A: f32[M, 8], B: f32[8, 16], M)      symbolic sizes, then the parameters
      for m < M parallel
        alloc acc: f32[16] in register
        for n < 16 unroll
          acc[n] = 0.0
        ...

    graph main[N](%x: f32[N, 3])
      %c = const f32[3] (1.0, 2.0, 3.0)
      %w = const f32[64, 64] sha256 "0123456789abcdef"
      %y = Binary(fn="add")(%x, %c) : f32[N, 3] at "node of the model"
      return %y as "probabilities"

The graphs in the fields of an operator follow its line, indented.  Expressions are described in `text_expr.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass

import numpy as np

from .expr import I64, Expr, Var
from .graph import Graph, Node, Value
from .kernel import Alloc, Barrier, Block, Buffer, Do, For, If, Kernel, Prefetch, Read, Stmt, Store, Write, values_of
from .text_expr import shared_parts, show_expr, show_name, show_part, show_plain, show_with
from .traverse import walk
from .types import Dim, dtype_of

__all__ = ["SMALL_CONSTANT", "content_hash", "show_expr", "show_graph", "show_kernel"]

SMALL_CONSTANT = 16  # elements; larger constants are printed as a hash


def content_hash(array: np.ndarray) -> str:
    """16 hexadecimal digits that identify element type, shape and content."""
    digest = hashlib.sha256(f"{dtype_of(array)} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


# ---- kernels -----------------------------------------------------------------------------------------------------


def show_kernel(kernel: Kernel) -> str:
    params = [show_name(p.name) if isinstance(p, Var) else _buffer(p) for p in kernel.params]
    head = f"kernel {show_name(kernel.name)}{_symbols(_kernel_symbols(kernel))}({', '.join(params)})"
    return "\n".join([head, *_block(kernel.body, "  ")]) + "\n"


def _dims(dims: Iterable[Dim]) -> str:
    return "[" + ", ".join(str(d) for d in dims) + "]"


def _symbols(found: Iterable[Var]) -> str:
    texts = []
    for v in found:
        extent = "" if v.extent is None else f" < {v.extent}"
        texts.append(f"{show_name(v.name)}{'' if v.type == I64 else f': {v.type.dtype}'}{extent}")
    return f"[{', '.join(texts)}]" if texts else ""


def _buffer(b: Buffer) -> str:
    text = f"{show_name(b.name)}: {b.dtype}{_dims(b.shape)}"
    text += f" in {b.space}" if b.space != "global" else ""
    text += f" strides {show_value(b.strides)}" if b.strides is not None else ""
    text += f" align {b.align}" if b.align != 64 else ""
    return text + (f" attrs {show_value(b.attrs)}" if b.attrs else "")


def _roots(s: Stmt) -> tuple[Expr, ...]:
    """The expressions of a statement itself, and of the shape of what it allocates."""
    return tuple(d for d in s.buf.shape if isinstance(d, Expr)) if isinstance(s, Alloc) else values_of(s)


def _block(block: Block, indent: str) -> Iterator[str]:
    for s in block:
        names = {} if isinstance(s, (For, Alloc)) else shared_parts(_roots(s))
        for part, name in names.items():
            yield f"{indent}let {name} = {show_part(part, names)}"

        def listed(parts: Iterable[Expr], names: dict[Expr, str] = names) -> str:
            return ", ".join(show_with(p, names) for p in parts)

        yield indent + _line(s, listed)
        if isinstance(s, For):
            yield from _block(s.body, indent + "  ")
        elif isinstance(s, If):
            yield from _block(s.then, indent + "  ")
            if s.other:
                yield indent + "else"
                yield from _block(s.other, indent + "  ")


def _line(s: Stmt, listed: Callable[[Iterable[Expr]], str]) -> str:
    match s:
        case For():
            kind = "" if s.kind == "serial" else f" {s.kind}"
            attrs = f" attrs {show_value(s.attrs)}" if s.attrs else ""
            return f"for {show_name(s.var.name)} < {s.var.extent}{kind}{attrs}"
        case If():
            return f"if {listed((s.cond,))}"
        case Alloc():
            return f"alloc {_buffer(s.buf)}"
        case Store():
            mode = f"{s.mode} " if s.mode else ""
            return f"{mode}{show_name(s.buf.name)}[{listed(s.idx)}] = {listed((s.value,))}"
        case Prefetch():
            level = f" level {s.level}" if s.level != 2 else ""
            return f"prefetch {show_name(s.buf.name)}[{listed(s.idx)}]{level}"
        case Barrier():
            return f"barrier {s.scope}"
        case Read():
            return f"read {show_name(s.buf.name)}[{listed(s.idx)}] = {show_name(s.stream.name)}"
        case Write():
            return f"write {show_name(s.stream.name)} = {listed((s.value,))}"
        case Do():
            bufs = " on " + ", ".join(show_name(b.name) for b in s.bufs) if s.bufs else ""
            return f"do {show_name(s.fn)}({listed(s.args)}){bufs}"
    return f"<{type(s).__name__}>"


def _kernel_symbols(kernel: Kernel) -> list[Var]:
    """The variables that no loop binds, each after those that its extent is made of."""
    found: dict[Var, None] = {}
    for p in kernel.params:
        _collect(p.shape if isinstance(p, Buffer) else (p,), frozenset(), found)
    _collect_block(kernel.body, frozenset(), found)
    return list(found)


def _collect(dims: Iterable[Dim], bound: frozenset[Var], found: dict[Var, None]) -> None:
    for d in dims:
        for v in walk(d) if isinstance(d, Expr) else ():
            if isinstance(v, Var) and v not in bound and v not in found:
                _collect([v.extent] if isinstance(v.extent, Expr) else [], bound, found)
                found[v] = None


def _collect_block(block: Block, bound: frozenset[Var], found: dict[Var, None]) -> None:
    for s in block:
        _collect(_roots(s), bound, found)
        if isinstance(s, For):
            _collect_block(s.body, bound | {s.var}, found)
        elif isinstance(s, If):
            _collect_block(s.then, bound, found)
            _collect_block(s.other, bound, found)


# ---- graphs ------------------------------------------------------------------------------------------------------


def show_graph(graph: Graph) -> str:
    return "\n".join(_graph(graph, "")) + "\n"


def _graph(graph: Graph, indent: str) -> Iterator[str]:
    names = _value_names(graph)
    inputs = ", ".join(f"{names[v]}: {v.type}" for v in graph.inputs)
    yield f"{indent}graph {show_name(graph.name)}{_symbols(_graph_symbols(graph))}({inputs})"
    indent += "  "
    for v, array in graph.constants.items():
        yield f"{indent}{names[v]} = const {v.type} {_content(array)}"
    for node in graph.nodes:
        yield indent + _node(node, names)
        for name, inner in _fields(node.op):
            if isinstance(inner, Graph):
                lines = _graph(inner, indent + "  ")
                yield f"{indent}  {name} {next(lines).lstrip()}"
                yield from lines
    results = []
    for v, name in zip(graph.outputs, graph.output_names, strict=True):
        results.append(names[v] if names[v] == f"%{show_plain(name)}" else f"{names[v]} as {json.dumps(name)}")
    yield f"{indent}return {', '.join(results)}".rstrip()


def _value_names(graph: Graph) -> dict[Value, str]:
    """One text per value, made unique where several values have one name."""
    taken: set[str] = set()
    names: dict[Value, str] = {}
    defined = [*graph.inputs, *graph.constants, *(v for n in graph.nodes for v in n.outputs)]
    undefined = [*(v for n in graph.nodes for v in n.inputs), *graph.outputs]  # of an invalid graph
    for v in (*defined, *undefined):
        if v not in names:
            name, count = v.name, 1
            while name in taken:
                name, count = f"{v.name}.{count}", count + 1
            taken.add(name)
            names[v] = f"%{show_plain(name)}"
    return names


def _fields(op: object) -> list[tuple[str, object]]:
    return [(f.name, getattr(op, f.name)) for f in fields(op)] if is_dataclass(op) else []  # type: ignore[arg-type]


def _node(node: Node, names: dict[Value, str]) -> str:
    attributes = ", ".join(f"{name}={show_value(value)}" for name, value in _fields(node.op))
    inputs = ", ".join(names[v] for v in node.inputs)
    types = ", ".join(str(v.type) for v in node.outputs)
    where = f" at {json.dumps(node.where)}" if node.where else ""
    outputs = ", ".join(names[v] for v in node.outputs)
    return f"{outputs} = {type(node.op).__name__}({attributes})({inputs}) : {types}{where}"


def _content(array: np.ndarray) -> str:
    if array.size > SMALL_CONSTANT:
        return f'sha256 "{content_hash(array)}"'
    integer = array.dtype.kind in "iub"
    return show_value(tuple(int(x) if integer else float(x) for x in array.ravel()))


def show_value(value: object) -> str:
    """An attribute: text, numbers, tuples, named tuples; symbolic dimensions in braces; `graph` for a graph."""
    match value:
        case str():
            return json.dumps(value)
        case tuple() if hasattr(value, "_fields"):
            return f"{type(value).__name__}({', '.join(map(show_value, value))})"
        case tuple():
            return f"({', '.join(map(show_value, value))}{',' if len(value) == 1 else ''})"
        case Expr():
            return f"{{{value}}}"
        case Graph():
            return "graph"
        case np.generic():
            return repr(value.item())
    return repr(value)


def _graph_symbols(graph: Graph) -> list[Var]:
    found: dict[Var, None] = {}

    def attribute(value: object) -> None:
        if isinstance(value, tuple):
            for part in value:
                attribute(part)
        elif isinstance(value, Expr):
            _collect([value], frozenset(), found)
        elif isinstance(value, Graph):
            found.update(dict.fromkeys(_graph_symbols(value)))

    for v in graph.inputs:
        _collect(v.type.shape, frozenset(), found)
    for node in graph.nodes:
        for _, value in _fields(node.op):
            attribute(value)
        for v in node.outputs:
            _collect(v.type.shape, frozenset(), found)
    return list(found)
