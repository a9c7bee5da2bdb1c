"""Long statements as lines that people read: broken after commas and before operators, the loosest and least nested."""

from __future__ import annotations

import re

COLUMNS = 120
_CONTINUED = "    "  # more than the first line
_TIGHT = {"+": 1, "-": 1, "*": 2, "/": 2, "%": 2}  # operators that are kept together longer than others
_BREAK = re.compile(r" (?=(?:&&|\|\||[?:+*/%^|&<>=-]|==|<=|>=|!=|<<|>>) )|(?<=[,;]) (?!\d+>)")


def wrap_statement(text: str, indent: str) -> list[str]:
    """A statement as lines of at most COLUMNS characters, where it has places to break; directives and comments as they are."""
    lines = []
    room = COLUMNS - len(indent)
    if text.startswith(("#", "//")):
        return [indent + text]
    while len(text) > room:
        at = _place(text, room)
        if at is None:
            break
        lines.append(indent + text[:at])
        text = text[at + 1 :]
        if len(lines) == 1:
            indent += _CONTINUED
            room -= len(_CONTINUED)
    return [*lines, indent + text]


def _place(text: str, room: int) -> int | None:
    """The space to break at: in the second half of the line, as little nested as can be, at the loosest operator, the last
    of such."""
    depths = []
    depth = 0
    for c in text[: room + 1]:
        depths.append(depth)
        depth += (c in "([{") - (c in ")]}")
    places = [m.start() for m in _BREAK.finditer(text, 0, room + 2) if room // 2 <= m.start() <= room]
    return min(places, key=lambda i: (depths[i], _TIGHT.get(text[i + 1], 0), -i), default=None)
