"""What synthesis would refuse, found in the syntax tree that libclang makes of a kernel.

Everything that the top function reaches, templates included, is searched for dynamic memory, calls of functions without a
body, recursion, loops without constant bounds, arrays of variable size, floating point and other constructs that hardware
does not have; every pragma must be one that the tool knows, at a place where it means something, and name a variable of the
right kind; every stream of the dataflow has one writer and one reader.  The vendor's headers, which are not needed, are
replaced by declarations.

    pip install tilewright[fpga]

Without libclang the patterns of `lint.py` look for the same faults in the text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .clang_pragmas import pragma_faults
from .clang_streams import stream_faults

_HEADERS = Path(__file__).parent / "lint_headers"
_ARGUMENTS = ("-std=c++14", "-DTW_VITIS", "-nostdinc", "-nostdinc++", "-Isrc", "-Iweights", "-Ilint", "-Wno-everything")
_SYSTEM = {
    "stdlib.h": "void* malloc(unsigned long); void* calloc(unsigned long, unsigned long); void* realloc(void*, unsigned long);"
                "void free(void*); void exit(int); int system(const char*); char* getenv(const char*);",
    "stdio.h": "int printf(const char*, ...); void* fopen(const char*, const char*);",
}
_VENDOR = ("ap_int.h", "ap_axi_sdata.h", "hls_stream.h")
_ERROR = 3  # of clang's severities
_LIBRARY = "a library that is not synthesizable: "
_MEMORY = ("malloc", "calloc", "realloc", "free", "alloca")
_UNBOUNDED, _EXCEPTION, _DYNAMIC = "a loop without constant bounds", "an exception", "a type that is known at run time"
_CONSTRUCTS = {
    "CXX_NEW_EXPR": "dynamic memory", "CXX_DELETE_EXPR": "dynamic memory", "WHILE_STMT": _UNBOUNDED, "DO_STMT": _UNBOUNDED,
    "CXX_FOR_RANGE_STMT": "a loop over a range", "GOTO_STMT": "goto", "INDIRECT_GOTO_STMT": "goto", "ASM_STMT": "assembly",
    "CXX_TRY_STMT": _EXCEPTION, "CXX_CATCH_STMT": _EXCEPTION, "CXX_THROW_EXPR": _EXCEPTION, "CXX_DYNAMIC_CAST_EXPR": _DYNAMIC,
    "CXX_TYPEID_EXPR": _DYNAMIC, "LAMBDA_EXPR": "a lambda",
}
_FUNCTIONS = ("FUNCTION_DECL", "CXX_METHOD", "CONSTRUCTOR", "FUNCTION_TEMPLATE", "CONVERSION_FUNCTION")


def available() -> bool:
    return importlib.util.find_spec("clang") is not None and importlib.util.find_spec("clang.cindex") is not None


def clang_lint(files: Mapping[str, bytes], top: str) -> list[str]:
    """Faults of a project's kernel, with file and line; none: an empty list.  Needs libclang (`available`)."""
    from clang.cindex import Index

    source = f"src/{top}.cpp"
    texts = {n: d.decode() for n, d in files.items() if n.split("/")[0] in ("src", "weights") and n.endswith((".h", ".cpp"))}
    texts |= {f"lint/{p.name}": p.read_text() for p in _HEADERS.iterdir()}
    texts |= {f"lint/{n}": t for n, t in _SYSTEM.items()}
    texts |= {f"lint/c{n[:-2]}": f'#include "{n}"' for n in _SYSTEM}
    texts["lint/cstdint"] = '#include "stdint.h"'
    unit = Index.create().parse(source, args=list(_ARGUMENTS), unsaved_files=list(texts.items()))
    broken = [f"{_at(d.location)}: {_LIBRARY * ('file not found' in d.spelling)}{d.spelling}"
              for d in unit.diagnostics if d.severity >= _ERROR]
    if broken:
        return broken
    functions = _defined(unit)
    roots = [c for c in functions.values() if c.spelling == top]
    if not roots:
        return [f"no function {top}"]
    faults, calls = [], {}
    waiting, seen = [roots[0]], {roots[0].get_usr()}
    while waiting:
        f = waiting.pop()
        found, called = _body(f, functions)
        faults += found
        calls[f.get_usr()] = {c.get_usr() for c in called}
        for c in called:
            if c.get_usr() not in seen:
                seen.add(c.get_usr())
                waiting.append(c)
    faults += _recursion(calls, functions) + _globals(unit)
    faults += pragma_faults(texts[source], [f for f in functions.values() if f.location.file.name == source], top)
    return sorted(set(faults + stream_faults(roots[0], functions)))


def _at(location: Any) -> str:
    return f"{location.file.name if location.file else '?'} line {location.line}"


def _ours(cursor: Any) -> bool:
    return cursor.location.file is not None and not cursor.location.file.name.startswith("lint/")


def _defined(unit: Any) -> dict[str, Any]:
    """Every function with a body, by USR."""
    found: dict[str, Any] = {}

    def visit(cursor: Any) -> None:
        for c in cursor.get_children():
            if not _ours(c):
                continue
            kind = c.kind.name
            if kind in _FUNCTIONS and c.is_definition():
                found[c.get_usr()] = c
            elif kind in ("NAMESPACE", "LINKAGE_SPEC", "STRUCT_DECL", "CLASS_DECL", "CLASS_TEMPLATE", "UNEXPOSED_DECL",
                          "CLASS_TEMPLATE_PARTIAL_SPECIALIZATION"):
                visit(c)

    visit(unit.cursor)
    return found


def _walk(cursor: Any) -> Iterator[Any]:
    for c in cursor.get_children():
        yield c
        yield from _walk(c)


def _body(f: Any, functions: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """The faults inside of a function, and the functions of ours that it calls."""
    faults: list[str] = []
    called: list[Any] = []
    names: dict[str, list[Any]] = {}
    for c in functions.values():
        names.setdefault(c.spelling, []).append(c)
    for c in _walk(f):
        kind = c.kind.name
        if kind in _CONSTRUCTS:
            faults.append(f"{_at(c.location)}: {_CONSTRUCTS[kind]}")
        elif kind == "FOR_STMT":
            faults += _loop(c)
        elif kind == "CALL_EXPR":
            fault, target = _call(c, functions)
            faults += fault
            called += target
        elif kind == "OVERLOADED_DECL_REF":  # a call inside of a template: whatever has this name
            called += names.get(c.spelling, [])
        if kind in ("VAR_DECL", "PARM_DECL"):
            faults += _variable(c)
    return faults, called


def _call(c: Any, functions: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    target = c.referenced
    if target is None:  # inside of a template, or through a pointer
        indirect = any(x.kind.name == "DECL_REF_EXPR" and x.referenced is not None and "(*)" in x.type.spelling
                       for x in list(c.get_children())[:1])
        return ([f"{_at(c.location)}: a call through a pointer"] if indirect else []), []
    general = functions.get(target.get_usr()) or functions.get(_template(target))
    if general is not None:
        return [], [general]
    kind = target.kind.name
    if kind in ("VAR_DECL", "PARM_DECL"):
        return [f"{_at(c.location)}: a call through a pointer"], []
    of = target.location.file
    if kind in ("CONSTRUCTOR", "CONVERSION_FUNCTION") or (of is not None and Path(of.name).name in _VENDOR):
        return [], []
    if (kind == "CXX_METHOD" and target.is_default_method()) or target.spelling.startswith("operator"):
        return [], []
    what = "dynamic memory" if target.spelling in _MEMORY else "a call of the system"
    return [f"{_at(c.location)}: {what}: {target.spelling}"], []


def _template(target: Any) -> str:
    from clang.cindex import conf

    general = conf.lib.clang_getSpecializedCursorTemplate(target)  # pyright: ignore[reportAttributeAccessIssue]
    return "" if general is None else general.get_usr()


def _variable(c: Any) -> list[str]:
    t = c.type.get_canonical()
    found = []
    if t.kind.name in ("VARIABLEARRAY", "INCOMPLETEARRAY") and c.kind.name == "VAR_DECL":
        found.append(f"{_at(c.location)}: an array of variable size: {c.spelling}")
    if t.kind.name in ("FLOAT", "DOUBLE", "LONGDOUBLE", "HALF"):
        found.append(f"{_at(c.location)}: floating point: {c.spelling}")
    if t.kind.name == "POINTER" and t.get_pointee().kind.name in ("POINTER", "FUNCTIONPROTO"):
        found.append(f"{_at(c.location)}: a pointer to a pointer or a function: {c.spelling}")
    return found


def _loop(c: Any) -> list[str]:
    """for (int i = CONSTANT; i < CONSTANT; i += CONSTANT), and nothing in the body changes i."""
    fault = [f"{_at(c.location)}: {_UNBOUNDED}"]
    parts = list(c.get_children())
    if len(parts) != 4 or parts[0].kind.name != "DECL_STMT":
        return fault
    declared = [v for v in parts[0].get_children() if v.kind.name == "VAR_DECL"]
    if len(declared) != 1 or not all(_constant(x, None) for x in declared[0].get_children()):
        return fault
    counter = declared[0]
    if parts[1].kind.name != "BINARY_OPERATOR" or not _constant(parts[1], counter):
        return fault
    if parts[2].kind.name not in ("UNARY_OPERATOR", "COMPOUND_ASSIGNMENT_OPERATOR") or not _constant(parts[2], counter):
        return fault
    changes = [x for x in _walk(parts[3]) if _changes(x, counter)]
    return [f"{_at(x.location)}: a loop changes its own counter {counter.spelling}" for x in changes]


def _constant(c: Any, counter: Any) -> bool:
    """Only constants, and the counter of the loop, are named."""
    for x in (c, *_walk(c)):
        if x.kind.name == "CALL_EXPR":
            return False
        if x.kind.name != "DECL_REF_EXPR" or x.referenced is None or (counter is not None and x.referenced == counter):
            continue
        if x.referenced.kind.name not in ("TEMPLATE_NON_TYPE_PARAMETER", "ENUM_CONSTANT_DECL"):
            return False
    return True


def _changes(x: Any, counter: Any) -> bool:
    if x.kind.name == "COMPOUND_ASSIGNMENT_OPERATOR" or (x.kind.name == "UNARY_OPERATOR" and (
            any(t.spelling in ("++", "--", "&") for t in x.get_tokens()))):
        first = next(iter(x.get_children()), None)
    elif x.kind.name == "BINARY_OPERATOR":
        children = list(x.get_children())
        between = [t.spelling for t in x.get_tokens() if children[0].extent.end.offset <= t.extent.start.offset]
        first = children[0] if between[:1] == ["="] else None
    else:
        return False
    return first is not None and first.kind.name == "DECL_REF_EXPR" and first.referenced == counter


def _recursion(calls: Mapping[str, set[str]], functions: Mapping[str, Any]) -> list[str]:
    found = []
    for name in calls:
        reached, frontier = set(), [name]
        while frontier:
            for called in calls.get(frontier.pop(), ()):
                if called not in reached:
                    reached.add(called)
                    frontier.append(called)
        if name in reached:
            f = functions[name]
            found.append(f"{_at(f.location)}: {f.spelling} calls itself, directly or through others")
    return found


def _globals(unit: Any) -> list[str]:
    """Processes share nothing but streams."""
    return [f"{_at(c.location)}: a variable that all functions share: {c.spelling}" for c in unit.cursor.get_children()
            if c.kind.name == "VAR_DECL" and _ours(c) and not _is_const(c.type)]


def _is_const(t: Any) -> bool:
    while t.kind.name == "CONSTANTARRAY":
        t = t.element_type
    return t.is_const_qualified()
