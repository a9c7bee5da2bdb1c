"""What synthesis would refuse, found in the generated text.

The kernel is written in a regular subset, which is what makes these checks exact: constant loop bounds, no recursion, no
dynamic memory, no calls of the system, known pragmas at places where they mean something, and every stream of the top
function with one writer and one reader.  `clang_lint` looks at the syntax tree instead, where libclang is installed.
"""

from __future__ import annotations

import re
from collections import Counter

from .pragmas import PRAGMAS, read_pragma

_FORBIDDEN = {
    r"\b(new|delete|malloc|calloc|realloc|free|alloca)\b": "dynamic memory",
    r"\bstd::": "a standard library that is not synthesizable",
    r"\b(printf|fopen|fread|fwrite|system|exit|abort|getenv|time|rand)\s*\(": "a call of the system",
    r"\b(throw|try|catch|virtual|dynamic_cast|goto|asm)\b": "a construct that synthesis does not have",
    r"\b(while|do)\b": "a loop without constant bounds",
    r"\b(float|double)\b": "floating point",
}
_FOR = re.compile(r"for \((?:int|long) (\w+) = -?\d+; (\w+) (?:<|>=|<=|>) -?\d+; (?:\+\+|--)?(\w+)(?: [-+]= \d+)?\)")
_FUNCTION = re.compile(r"^(?:static |extern \"C\" |inline )+[\w:<>, ]+?[ &](\w+)\((.*)\) \{$", re.MULTILINE)
_CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


def lint(source: str, top: str) -> list[str]:
    """Faults of a kernel's text, with line numbers; none: an empty list."""
    found: list[str] = []
    lines = source.splitlines()
    for number, line in enumerate(lines, 1):
        code = line.split("//")[0]
        if code.lstrip().startswith("#pragma"):
            found += _pragma(code.strip(), number, lines)
            continue
        for pattern, what in _FORBIDDEN.items():
            if re.search(pattern, code):
                found.append(f"line {number}: {what}: {code.strip()}")
        if re.search(r"\bfor\b", code):
            m = _FOR.search(code)
            if m is None or len(set(m.groups())) != 1:
                found.append(f"line {number}: a loop without constant bounds: {code.strip()}")
        array = re.search(r"\w+\[([^\]]*)\](\[[^\]]*\])*;", code)
        if array and re.match(r"\s*(static |const )*(tw::|int|long)[\w:<>, ]* \w+\[", code) and not array.group(1).isdigit():
            found.append(f"line {number}: an array of variable size: {code.strip()}")
    return found + _recursion(source) + _streams(source, top)


def _pragma(text: str, number: int, lines: list[str]) -> list[str]:
    read = read_pragma(text)
    if isinstance(read, str):
        return [f"line {number}: {read}"]
    if PRAGMAS[read[0]].place == "loop":
        before = next((x for x in reversed(lines[:number - 1]) if x.strip() and not x.startswith("#pragma")), "")
        if not re.search(r"\bfor \(.*\{$", before):
            return [f"line {number}: {read[0]} is not at the top of a loop: {text}"]
    return []


def functions(source: str) -> dict[str, str]:
    """Name -> body of every function that is defined at the top level."""
    starts = list(_FUNCTION.finditer(source))
    found: dict[str, str] = {}
    for m in starts:
        end = source.find("\n}", m.end())
        found[m.group(1)] = found.get(m.group(1), "") + source[m.end():end]
    return found


def _recursion(source: str) -> list[str]:
    bodies = functions(source)
    calls = {name: {c for c in _CALL.findall(body) if c in bodies} for name, body in bodies.items()}
    found = []
    for name in calls:
        reached, frontier = set(), [name]
        while frontier:
            for called in calls[frontier.pop()]:
                if called not in reached:
                    reached.add(called)
                    frontier.append(called)
        if name in reached:
            found.append(f"{name}: calls itself, directly or through {', '.join(sorted(reached - {name})) or 'nothing else'}")
    return found


def _streams(source: str, top: str) -> list[str]:
    body = functions(source).get(top)
    if body is None:
        return [f"no function {top}"]
    declared = re.findall(r"static tw::stream<.*> (\w+);", body)
    uses: Counter[str] = Counter()
    for call in re.findall(r"^  \w+\((.*)\);$", body, re.MULTILINE):
        uses.update(a.strip() for a in call.split(","))
    return [f"stream {name}: {uses[name]} ends, expected one writer and one reader" for name in declared if uses[name] != 2]
