"""The pragmas of a kernel against its syntax tree: at a place where they mean something, about a variable of that scope."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .pragmas import PRAGMAS, read_pragma


@dataclass(frozen=True, eq=False)
class _Scope:
    """A function of the source: its lines, the first line of each loop's body, and the types of its variables."""

    name: str
    lines: range
    loops: dict[int, int]
    variables: dict[str, Any]


def _walk(cursor: Any) -> Iterator[Any]:
    for c in cursor.get_children():
        yield c
        yield from _walk(c)


def _scope(f: Any) -> _Scope:
    loops, variables = {}, {}
    for c in _walk(f):
        if c.kind.name == "FOR_STMT":
            body = list(c.get_children())[-1]
            if body.kind.name == "COMPOUND_STMT":
                first = next(iter(body.get_children()), None)
                loops[body.extent.start.line] = body.extent.end.line if first is None else first.extent.start.line
        elif c.kind.name in ("VAR_DECL", "PARM_DECL"):
            variables[c.spelling] = c.type
        elif c.kind.name == "DECL_REF_EXPR" and c.referenced is not None and c.referenced.kind.name == "VAR_DECL":
            variables.setdefault(c.spelling, c.referenced.type)
    return _Scope(f.spelling, range(f.extent.start.line, f.extent.end.line + 1), loops, variables)


def pragma_faults(source: str, functions: Sequence[Any], top: str) -> list[str]:
    """functions: the definitions in this source."""
    scopes = [_scope(f) for f in functions]
    found = []
    for number, line in enumerate(source.splitlines(), 1):
        if not line.lstrip().startswith("#pragma"):
            continue
        read = read_pragma(line)
        if isinstance(read, str):
            found.append(f"line {number}: {read}")
            continue
        scope = next((s for s in scopes if number in s.lines), None)
        if scope is None:
            found.append(f"line {number}: outside of a function: {line.strip()}")
            continue
        found += [f"line {number}: {fault}: {line.strip()}" for fault in _misplaced(*read, number, scope, top)]
    return found


def _misplaced(name: str, options: dict[str, str], number: int, scope: _Scope, top: str) -> list[str]:
    place = PRAGMAS[name].place
    if place == "loop" and not any(start < number < first for start, first in scope.loops.items()):
        return [f"{name} is not at the top of a loop"]
    if place == "top" and scope.name != top:
        return ["an interface of a function that is not the top one"]
    if name == "INTERFACE":
        port = options["port"]
        return [] if port == "return" or port in scope.variables else [f"no argument is called {port}"]
    if name == "DATAFLOW" and scope.loops:
        return ["loops beside the processes of a dataflow"]
    if place == "declared":
        t = scope.variables.get(options["variable"])
        return [f"no variable is called {options['variable']}"] if t is None else _wrong_kind(name, options, t)
    return []


def _wrong_kind(name: str, options: dict[str, str], t: Any) -> list[str]:
    """A partition needs an array with that dimension, a FIFO a stream."""
    is_stream = "stream<" in t.get_canonical().spelling
    if name == "STREAM" or options.get("type") == "fifo":
        return [] if is_stream else ["not a stream"]
    rank, sizes = 0, []
    while t.kind.name == "CONSTANTARRAY":
        sizes.append(t.element_count)
        t, rank = t.element_type, rank + 1
    if name in ("ARRAY_PARTITION", "ARRAY_RESHAPE", "DEPENDENCE", "BIND_STORAGE") and not rank:
        return ["not an array"]
    dim = int(options.get("dim", 1))
    if name in ("ARRAY_PARTITION", "ARRAY_RESHAPE") and dim > rank:
        return [f"an array of {rank} dimensions has no dimension {dim}"]
    if "factor" in options and int(options["factor"]) > sizes[dim - 1]:
        return [f"more parts than the {sizes[dim - 1]} elements"]
    return []
