"""Regular expressions in the syntax of RE2, as programs of a nondeterministic automaton: matching takes time linear in the
text, whatever the expression is.

A program is i32[1 + 3 n + 2 m]: n, then n instructions (operation, a, b), then m ranges (first, last code point), rising.

    MATCH          the text matches if it ends here
    SET a b        one code point in the b ranges from a on, then the next instruction
    SPLIT a b      go on at instructions a and b
    JUMP a         go on at instruction a
    CHECK a        go on if the assertion a holds here

`tw_text.c` runs the same programs.  What RE2 has not (backward references, looking around) is refused; \\C is refused too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ModelError
from .regex_classes import WORD, Ranges
from .regex_parser import Alternatives, Assertion, Node, Repeat, Sequence_, Set, parse

MATCH, SET, SPLIT, JUMP, CHECK = range(5)
BEGIN_TEXT, END_TEXT, BEGIN_LINE, END_LINE, BOUNDARY, NO_BOUNDARY = range(6)
_ASSERTIONS = {"\\A": BEGIN_TEXT, "\\z": END_TEXT, "^": BEGIN_LINE, "$": END_LINE, "\\b": BOUNDARY, "\\B": NO_BOUNDARY}
_LONGEST = 100_000  # instructions


@dataclass(frozen=True)
class Program:
    instructions: tuple[tuple[int, int, int], ...]
    ranges: tuple[tuple[int, int], ...]

    def array(self) -> np.ndarray:
        flat = [len(self.instructions), *(x for i in self.instructions for x in i), *(x for r in self.ranges for x in r)]
        return np.array(flat, np.int32)

    @staticmethod
    def of(array: np.ndarray) -> Program:
        flat = [int(x) for x in array]
        end = 1 + 3 * flat[0]
        code = tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(1, end, 3))
        return Program(code, tuple(zip(flat[end::2], flat[end + 1 :: 2], strict=True)))


class _Compiler:
    def __init__(self) -> None:
        self.code: list[tuple[int, int, int]] = []
        self.ranges: list[tuple[int, int]] = []
        self.sets: dict[Ranges, int] = {}

    def add(self, op: int, a: int = 0, b: int = 0) -> int:
        if len(self.code) >= _LONGEST:
            raise ModelError(f"the regular expression needs more than {_LONGEST} instructions")
        self.code.append((op, a, b))
        return len(self.code) - 1

    def emit(self, node: Node) -> None:
        match node:
            case Set(ranges=ranges):
                if ranges not in self.sets:
                    self.sets[ranges] = len(self.ranges)
                    self.ranges += ranges
                self.add(SET, self.sets[ranges], len(ranges))
            case Assertion(name=name):
                self.add(CHECK, _ASSERTIONS[name])
            case Sequence_(parts=parts):
                for part in parts:
                    self.emit(part)
            case Alternatives(parts=parts):
                self.alternatives(parts)
            case Repeat():
                self.repeat(node)

    def alternatives(self, parts: Sequence[Node]) -> None:
        ends = []
        for part in parts[:-1]:
            split = self.add(SPLIT)
            self.emit(part)
            ends.append(self.add(JUMP))
            self.code[split] = (SPLIT, split + 1, len(self.code))
        self.emit(parts[-1])
        for end in ends:
            self.code[end] = (JUMP, len(self.code), 0)

    def repeat(self, node: Repeat) -> None:
        for _ in range(node.low):
            self.emit(node.part)
        if node.high is None:
            split = self.add(SPLIT)
            self.emit(node.part)
            self.add(JUMP, split)
            self.code[split] = (SPLIT, split + 1, len(self.code))
            return
        splits = []
        for _ in range(node.high - node.low):
            splits.append(self.add(SPLIT))
            self.emit(node.part)
        for split in splits:
            self.code[split] = (SPLIT, split + 1, len(self.code))


def compile_pattern(pattern: str) -> Program:
    """Raises ModelError for text that is no expression of RE2."""
    compiler = _Compiler()
    compiler.emit(parse(pattern))
    compiler.add(MATCH)
    return Program(tuple(compiler.code), tuple(compiler.ranges))


def _is_word(code: int) -> bool:
    return any(low <= code <= high for low, high in WORD)


_HOLDS: dict[int, Callable[[int, int], bool]] = {  # of the code points before and after, -1: none
    BEGIN_TEXT: lambda before, after: before < 0,
    END_TEXT: lambda before, after: after < 0,
    BEGIN_LINE: lambda before, after: before in (-1, 10),
    END_LINE: lambda before, after: after in (-1, 10),
    BOUNDARY: lambda before, after: _is_word(before) != _is_word(after),
    NO_BOUNDARY: lambda before, after: _is_word(before) == _is_word(after),
}


def matches(program: Program, text: str) -> bool:
    """Whether the whole text matches: all states of the automaton at once, one code point after the other."""
    codes = [-1, *map(ord, text), -1]
    states = _reached(program, [0], codes[0], codes[1])
    for at in range(1, len(codes) - 1):
        code = codes[at]
        taken = [i + 1 for i in states if program.instructions[i][0] == SET and _in_set(program, i, code)]
        states = _reached(program, taken, code, codes[at + 1])
    return any(program.instructions[i][0] == MATCH for i in states)


def _in_set(program: Program, at: int, code: int) -> bool:
    _, start, count = program.instructions[at]
    return any(low <= code <= high for low, high in program.ranges[start : start + count])


def _reached(program: Program, starts: Iterable[int], before: int, after: int) -> set[int]:
    """The instructions that are reached without taking a code point."""
    seen: set[int] = set()
    stack = list(starts)
    while stack:
        i = stack.pop()
        if i in seen:
            continue
        seen.add(i)
        op, a, b = program.instructions[i]
        if op == SPLIT:
            stack += (a, b)
        elif op == JUMP:
            stack.append(a)
        elif op == CHECK and _HOLDS[a](before, after):
            stack.append(i + 1)
    return seen

