"""The dataflow of a top function: calls of processes in order, every stream written by one and read by another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any


def _walk(cursor: Any) -> Iterator[Any]:
    for c in cursor.get_children():
        yield c
        yield from _walk(c)


def _directions(f: Any) -> list[str]:
    """Per argument of a process: what it does with that stream, "read", "write", "both" or nothing."""
    used: dict[str, set[str]] = {}
    for c in _walk(f):
        if c.kind.name == "MEMBER_REF_EXPR" and c.spelling in ("read", "write"):
            for x in c.get_children():
                if x.kind.name == "DECL_REF_EXPR":
                    used.setdefault(x.spelling, set()).add(c.spelling)
    return ["both" if len(used.get(a.spelling, ())) > 1 else "".join(used.get(a.spelling, ())) for a in f.get_arguments()]


def stream_faults(top: Any, functions: Mapping[str, Any]) -> list[str]:
    """Nothing but declarations of streams and calls stands in the top function."""
    body = next((c for c in top.get_children() if c.kind.name == "COMPOUND_STMT"), None)
    if body is None:
        return ["the top function has no body"]
    streams: dict[str, Counter[str]] = {}
    found: list[str] = []
    for c in body.get_children():
        if c.kind.name == "DECL_STMT":
            streams |= {v.spelling: Counter() for v in c.get_children()}
        elif c.kind.name == "CALL_EXPR" and c.referenced is not None and c.referenced.get_usr() in functions:
            ends = _directions(functions[c.referenced.get_usr()])
            for argument, end in zip(c.get_arguments(), ends, strict=False):
                if argument.spelling not in streams:
                    continue
                if end == "read" and not streams[argument.spelling]["write"]:
                    found.append(f"line {c.location.line}: {argument.spelling} is read before it is written")
                streams[argument.spelling][end] += 1
        else:
            found.append(f"line {c.location.line}: something else than a process in the dataflow")
    for name, ends in streams.items():
        if ends != {"read": 1, "write": 1}:
            writers, readers = ends["write"] + ends["both"], ends["read"] + ends["both"]
            found.append(f"stream {name}: {writers} writers and {readers} readers, expected one writer and one reader")
    return found
