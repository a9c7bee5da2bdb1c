"""The syntax of RE2's regular expressions as a tree."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Union

from ..errors import ModelError
from .regex_classes import ANY, DIGIT, LAST, NEWLINE, POSIX, SPACE, WORD, Ranges, category, folded, negated, normal

_DEEPEST = 100  # groups within each other
_MOST = 1000  # repetitions, as in RE2
_CLASSES = {"d": DIGIT, "s": SPACE, "w": WORD}
_CONTROLS = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_COUNTS = re.compile(r"\{(\d+)(,(\d*))?\}")
_FLAGS = re.compile(r"\?([imsU]*)(?:-([imsU]+))?([:)])")
_NAME = re.compile(r"\?P?<[A-Za-z_]\w*>")


@dataclass(frozen=True)
class Set:
    ranges: Ranges


@dataclass(frozen=True)
class Assertion:
    r"""name: \A \z ^ $ \b \B, the third and fourth of lines."""

    name: str


@dataclass(frozen=True)
class Sequence_:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alternatives:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """high: None is without end.  Whether as few or as many as possible makes no difference where all has to match."""

    part: Node
    low: int
    high: int | None


Node = Union[Set, Assertion, Sequence_, Alternatives, Repeat]


@dataclass(frozen=True)
class _Flags:
    i: bool = False
    m: bool = False
    s: bool = False
    U: bool = False


def parse(pattern: str) -> Node:
    """Raises ModelError, with the place, for what RE2 refuses."""
    parser = _Parser(_without_quotes(pattern))
    node = parser.alternatives(_Flags(), 0)
    if parser.at < len(parser.text):
        raise parser.wrong("a ')' without '('")
    return node


def _without_quotes(pattern: str) -> str:
    r"""What stands between \Q and \E, each character with its own escape."""
    made: list[str] = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("\\Q", at):
            end = pattern.find("\\E", at)
            quoted = pattern[at + 2 :] if end < 0 else pattern[at + 2 : end]
            made += [c if c.isalnum() or c == "_" or not c.isascii() else "\\" + c for c in quoted]
            at = len(pattern) if end < 0 else end + 2
        else:
            width = 2 if pattern[at] == "\\" else 1
            made.append(pattern[at : at + width])
            at += width
    return "".join(made)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def wrong(self, what: str) -> ModelError:
        return ModelError(f"regular expression {self.text!r}: {what} at character {self.at}")

    def next(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def skip(self, literal: str) -> bool:
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        return False

    def alternatives(self, flags: _Flags, depth: int) -> Node:
        parts: list[list[Node]] = [[]]
        while self.next() and self.next() != ")":
            if self.skip("|"):
                parts.append([])
            elif self.text.startswith("(?", self.at) and self._is_flags():
                flags = self._group_flags(flags)
            else:
                parts[-1].append(self.repeated(flags, depth))
        made = [Sequence_(tuple(p)) for p in parts]
        return made[0] if len(made) == 1 else Alternatives(tuple(made))

    def _is_flags(self) -> bool:
        found = _FLAGS.match(self.text, self.at + 1)
        return found is not None and found[3] == ")"

    def _group_flags(self, flags: _Flags) -> _Flags:
        found = _FLAGS.match(self.text, self.at + 1)
        assert found is not None
        self.at = found.end()
        return _changed(flags, found)

    def repeated(self, flags: _Flags, depth: int) -> Node:
        node = self.atom(flags, depth)
        while True:
            counts = self._counts()
            if counts is None:
                return node
            self.skip("?")
            node = Repeat(node, *counts)

    def _counts(self) -> tuple[int, int | None] | None:
        for symbol, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.skip(symbol):
                return counts
        found = _COUNTS.match(self.text, self.at)
        if found is None:
            return None
        low = int(found[1])
        high = low if found[2] is None else int(found[3]) if found[3] else None
        if low > _MOST or (high is not None and not low <= high <= _MOST):
            raise self.wrong(f"a repetition {found[0]}, expected counts that rise up to {_MOST}")
        self.at = found.end()
        return low, high

    def atom(self, flags: _Flags, depth: int) -> Node:
        c = self.next()
        if c in "*+?":
            raise self.wrong(f"{c!r} without anything to repeat")
        self.at += 1
        if c == "(":
            return self.group(flags, depth)
        if c == "[":
            return Set(self.bracket(flags))
        if c == ".":
            return Set(ANY if flags.s else negated(NEWLINE))
        if c == "^":
            return Assertion("^" if flags.m else "\\A")
        if c == "$":
            return Assertion("$" if flags.m else "\\z")
        if c == "\\":
            return self.escape(flags)
        return self.literal(ord(c), flags)

    def literal(self, code: int, flags: _Flags) -> Set:
        ranges: Ranges = ((code, code),)
        return Set(folded(ranges) if flags.i else ranges)

    def group(self, flags: _Flags, depth: int) -> Node:
        if depth >= _DEEPEST:
            raise self.wrong(f"more than {_DEEPEST} groups within each other")
        found = _FLAGS.match(self.text, self.at)
        name = _NAME.match(self.text, self.at)
        if found is not None and found[3] == ":":
            self.at = found.end()
            flags = _changed(flags, found)
        elif name is not None:
            self.at = name.end()
        elif self.next() == "?":
            raise self.wrong("a group of a kind that RE2 does not have")
        node = self.alternatives(flags, depth + 1)
        if not self.skip(")"):
            raise self.wrong("a '(' without ')'")
        return node

    def escape(self, flags: _Flags) -> Node:
        c = self.next()
        if c and c in "AzbB":
            self.at += 1
            return Assertion("\\" + c)
        ranges = self._class(flags)
        if ranges is not None:
            return Set(ranges)
        return self.literal(self._code(), flags)

    def _class(self, flags: _Flags) -> Ranges | None:
        r"""What follows \ if it is a class: d, D, s, S, w, W, pN, p{Name}, P..."""
        c = self.next()
        if c and c.lower() in _CLASSES:
            self.at += 1
            ranges = _CLASSES[c.lower()]
            return ranges if c.islower() else negated(ranges)
        if not c or c not in "pP":
            return None
        self.at += 1
        found = re.compile(r"\{(\^?)(\w+)\}|()([A-Z])").match(self.text, self.at)
        name = (found[2] or found[4]) if found is not None else ""
        ranges = ANY if name == "Any" else category(name) if name and len(name) <= 2 else None
        if found is None or ranges is None:
            raise self.wrong("a class of Unicode that is not known; general categories like \\p{L} and \\p{Nd} are")
        self.at = found.end()
        ranges = folded(ranges) if flags.i else ranges
        return negated(ranges) if (c == "P") != bool(found[1]) else ranges

    def _code(self) -> int:
        r"""The code point of what follows \."""
        c = self.next()
        found = re.compile(r"x([0-9A-Fa-f]{2})|x\{([0-9A-Fa-f]{1,6})\}|(0[0-7]{0,2}|[1-7][0-7]{2})").match(self.text, self.at)
        if found is not None:
            self.at = found.end()
            code = int(found[3], 8) if found[3] else int(found[1] or found[2], 16)
            if code > LAST:
                raise self.wrong("a number that is no character")
            return code
        if c in _CONTROLS and c:
            self.at += 1
            return _CONTROLS[c]
        if not c or c == "_" or (c.isalnum() and c.isascii()) or not c.isascii():
            raise self.wrong(f"an escape \\{c} that RE2 does not have")
        self.at += 1
        return ord(c)

    def bracket(self, flags: _Flags) -> Ranges:
        opposite = self.skip("^")
        found: list[tuple[int, int]] = []
        first = True
        while first or self.next() != "]":
            if not self.next():
                raise self.wrong("a '[' without ']'")
            found += self._item(flags)
            first = False
        self.at += 1
        ranges = normal(found)
        ranges = folded(ranges) if flags.i else ranges
        return negated(ranges) if opposite else ranges

    def _item(self, flags: _Flags) -> Ranges:
        named = re.compile(r"\[:(\^?)(\w+):\]").match(self.text, self.at)
        if named is not None:
            if named[2] not in POSIX:
                raise self.wrong(f"a class {named[0]} that is not known")
            self.at = named.end()
            return negated(POSIX[named[2]]) if named[1] else POSIX[named[2]]
        if self.text.startswith("\\", self.at):
            self.at += 1
            ranges = self._class(flags)
            if ranges is not None:
                return ranges
            self.at -= 1
        low = self._bound()
        if self.next() != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return ((low, low),)
        self.at += 1
        high = self._bound()
        if high < low:
            raise self.wrong("a range that falls")
        return ((low, high),)

    def _bound(self) -> int:
        if self.skip("\\"):
            return self._code()
        c = self.next()
        if not c:
            raise self.wrong("a '[' without ']'")
        self.at += 1
        return ord(c)


def _changed(flags: _Flags, found: re.Match[str]) -> _Flags:
    on, off = dict.fromkeys(found[1] or "", True), dict.fromkeys(found[2] or "", False)
    return replace(flags, **on, **off)
