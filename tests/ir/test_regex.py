"""Regular expressions: programs match what Python's own expressions match where both have the same syntax."""

from __future__ import annotations

import random
import re

import pytest
from tilewright.ir.errors import ModelError
from tilewright.ir.ops.regex import Program, compile_pattern, matches

CASES: dict[str, str] = {
    "": "", "abc": "abc ab abcd", "a|b|": "a b c", "(?:ab)+c?": "ab ababc abc c", "a{2,3}": "a aa aaa aaaa",
    "a{2,}": "a aa aaaaa",
    "a{0}": "a", "[a-c]+": "abc abd", "[^a-c]": "a d ß", "[]a]+": "]a] b", "[a\\]-]+": "a]- b", r"\d+\.\d*": "3.14 3. .5",
    r"\w+@\w+\.com": "me@here.com me@.com", r"(\W|^)[\w.\-]{0,25}@(yahoo|gmail)\.com(\W|$)": "account@gmail.com x@hotmail.com",
    "^a.c$": "abc a\nc axc", "(?s)a.c": "a\nc abc", "(?m)^a$\n^b$": "a\nb", r"\ba\b": "a ab", r"a\Bb": "ab a", "é+": "éé e",
    "a*?b+?": "aab b", r"\x41\t": "A\t At", "(?P<n>x)y": "xy x", "(a*)*": "aaaa b", "(a|a)*b": "aaaaab aaaa", "x?y?z?": "xz zy",
}  # fmt: skip


@pytest.mark.parametrize("pattern", CASES)
def test_matches_as_python_does(pattern: str) -> None:
    program = compile_pattern(pattern)
    assert Program.of(program.array()) == program
    for text in ["", *CASES[pattern].split(" ")]:
        assert matches(program, text) == (re.fullmatch(pattern, text, re.ASCII) is not None), text


OURS: dict[str, tuple[str, bool]] = {
    r"\pL+": ("aßЖ", True), r"\p{Lu}\P{Lu}": ("Aa", True), r"\p{^L}": ("1", True), "[[:alpha:]_]+": ("ab_", True),
    "[[:^digit:]]": ("1", False), r"\Qa.b\E+": ("a.bb", True), "(?i)straße": ("STRASSE", False), "(?i)ÉCOLE": ("école", True),
    "(?i:a)b": ("AB", False), "(?i)[k-l]": ("\N{KELVIN SIGN}", True), r"\x{1F600}": ("😀", True), r"a\z": ("a", True),
    r"\141": ("a", True), "(?i)a(?-i)b": ("Ab", True), "a(?i)b|c": ("C", True),
}  # fmt: skip


@pytest.mark.parametrize("pattern", OURS)
def test_what_python_does_not_have(pattern: str) -> None:
    text, expected = OURS[pattern]
    assert matches(compile_pattern(pattern), text) == expected


@pytest.mark.parametrize("pattern", [
    "(", ")", "a**b(", "*a", "[a", "[b-a]", r"\1", "(?=a)", "(?<!a)b", r"\C", r"\p{Nope}", "a{2,1}", "a{1001}", r"\x{110000}",
    "\\",
    "(" * 200 + ")" * 200, "((a{1000}){1000}){1000}", "[[:nope:]]", r"\y",
])  # fmt: skip
def test_what_is_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(ModelError, match="regular expression"):
        compile_pattern(pattern)


def random_pattern(rng: random.Random, depth: int) -> str:
    kind = rng.randrange(8 if depth else 3)
    if kind < 3:
        return rng.choice(["a", "b", "[ab]", "[^a]", ".", r"\w", "c"])
    parts = [random_pattern(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    if kind < 5:
        return "".join(parts)
    return f"({'|'.join(parts)})" + (rng.choice(["*", "+", "?", "{1,2}"]) if kind > 5 else "")


def test_random_expressions_match_as_python_does() -> None:
    rng = random.Random(5)
    for _ in range(300):
        pattern = random_pattern(rng, 3)
        program = compile_pattern(pattern)
        for _ in range(8):
            text = "".join(rng.choice("abc") for _ in range(rng.randrange(6)))
            assert matches(program, text) == (re.fullmatch(pattern, text) is not None), (pattern, text)
