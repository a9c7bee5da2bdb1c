"""What synthesis would refuse, found in the generated text.

The kernel is written in a regular subset, which is what makes these checks exact: constant loop bounds, no recursion, no
dynamic memory, no calls of the system, known pragmas at places where they mean something, and every stream of the top
function with one writer and one reader.
"""

from __future__ import annotations

import re
from collections import Counter

_FORBIDDEN = {
    r"\b(new|delete|malloc|calloc|realloc|free|alloca)\b": "dynamic memory",
    r"\bstd::": "a standard library that is not synthesizable",
    r"\b(printf|fopen|fread|fwrite|system|exit|abort|getenv|time|rand)\s*\(": "a call of the system",
    r"\b(throw|try|catch|virtual|dynamic_cast|goto|asm)\b": "a construct that synthesis does not have",
    r"\b(while|do)\b": "a loop without constant bounds",
    r"\b(float|double)\b": "floating point",
}
PRAGMAS = {
    "INTERFACE": r"(m_axi|s_axilite) port=\w+( offset=slave bundle=\w+ depth=\d+)?",
    "DATAFLOW": r"", "INLINE": r"", "UNROLL": r"", "PIPELINE": r"II=\d+",
    "STREAM": r"variable=\w+ depth=\d+", "ARRAY_PARTITION": r"variable=\w+ (complete|cyclic factor=\d+)( dim=\d+)?",
    "BIND_STORAGE": r"variable=\w+ (type=fifo impl=(bram|lutram|uram)|type=ram_s2p impl=uram)", "AGGREGATE": r"variable=\w+",
    "ARRAY_RESHAPE": r"variable=\w+ complete dim=2", "DEPENDENCE": r"variable=\w+ inter false",
}
_FOR = re.compile(r"for \((?:int|long) (\w+) = -?\d+; (\w+) (?:<|>=|<=|>) -?\d+; (?:\+\+|--)?(\w+)(?: [-+]= \d+)?\)")
_FUNCTION = re.compile(r"^(?:static |extern \"C\" |inline )+[\w:<>, ]+?[ &](\w+)\((.*)\) \{$", re.MULTILINE)
_CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_LOOP_PRAGMAS = ("PIPELINE", "UNROLL")


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
    m = re.fullmatch(r"#pragma HLS (\w+) ?(.*)", text)
    if m is None or m.group(1) not in PRAGMAS:
        return [f"line {number}: an unknown pragma: {text}"]
    if not re.fullmatch(PRAGMAS[m.group(1)], m.group(2)):
        return [f"line {number}: arguments that the pragma does not take: {text}"]
    if m.group(1) in _LOOP_PRAGMAS:
        before = next((x for x in reversed(lines[:number - 1]) if x.strip() and not x.startswith("#pragma")), "")
        if not re.search(r"\bfor \(.*\{$", before):
            return [f"line {number}: {m.group(1)} is not at the top of a loop: {text}"]
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
