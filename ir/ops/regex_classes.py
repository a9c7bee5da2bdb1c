"""Sets of code points for regular expressions: rising ranges (first, last) that do not touch."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache

Ranges = tuple[tuple[int, int], ...]
LAST = 0x10FFFF


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Any ranges in the normal form."""
    made: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if made and low <= made[-1][1] + 1:
            made[-1] = made[-1][0], max(made[-1][1], high)
        else:
            made.append((low, high))
    return tuple(made)


def negated(ranges: Ranges) -> Ranges:
    made, start = [], 0
    for low, high in ranges:
        if start < low:
            made.append((start, low - 1))
        start = high + 1
    return tuple([*made, (start, LAST)] if start <= LAST else made)


def of_text(text: str) -> Ranges:
    return normal((ord(c), ord(c)) for c in text)


ANY: Ranges = ((0, LAST),)
NEWLINE: Ranges = ((10, 10),)
DIGIT: Ranges = ((48, 57),)
SPACE: Ranges = of_text("\t\n\f\r ")
WORD: Ranges = normal(((48, 57), (65, 90), (95, 95), (97, 122)))

POSIX: dict[str, Ranges] = {
    "alnum": normal(((48, 57), (65, 90), (97, 122))), "alpha": ((65, 90), (97, 122)), "ascii": ((0, 127),),
    "blank": of_text("\t "), "cntrl": ((0, 31), (127, 127)), "digit": DIGIT, "graph": ((33, 126),), "lower": ((97, 122),),
    "print": ((32, 126),), "punct": normal(((33, 47), (58, 64), (91, 96), (123, 126))), "space": of_text("\t\n\v\f\r "),
    "upper": ((65, 90),), "word": WORD, "xdigit": normal(((48, 57), (65, 70), (97, 102))),
}


@cache
def category(name: str) -> Ranges | None:
    """A general category of Unicode (L, Lu, Nd, ...); None if there is none of this name."""
    found: list[tuple[int, int]] = []
    for code in range(LAST + 1):
        if unicodedata.category(chr(code)).startswith(name):
            if found and found[-1][1] == code - 1:
                found[-1] = found[-1][0], code
            else:
                found.append((code, code))
    return tuple(found) or None


@cache
def _orbits() -> dict[int, frozenset[int]]:
    """Code point -> those that differ from it in case only, itself included."""
    same: dict[str, set[int]] = {}
    for code in range(LAST + 1):
        c = chr(code)
        key = c.upper().lower()
        if len(c.upper()) == len(key) == 1 and (c.lower() != c or c.upper() != c):
            same.setdefault(key, set()).update({code, ord(key), ord(c.upper())})
    return {code: frozenset(group) for group in same.values() for code in group if len(group) > 1}


def folded(ranges: Ranges) -> Ranges:
    """With everything that differs in case only."""
    more = [
        (other, other) for code, group in _orbits().items() if any(low <= code <= high for low, high in ranges)
        for other in group
    ]
    return normal((*ranges, *more))
