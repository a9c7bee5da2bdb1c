"""What the C-like printer is told about a language: tables of types, functions, loops and declarations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..ir.errors import InternalError
from .c_wrap import wrap_statement

Snippets = Mapping[str, str]


@dataclass(frozen=True)
class Dialect:
    """One C-like language.

    types: element type -> C type.  functions: (function, element type) -> call with {0}, {1}, ...; what is not listed is a
    function of the C library.  conversions: (from, to) -> text with {0}, for what a C cast does not do.
    bindings: loop kind -> the number of the block or thread that runs it.  before, inside: loop kind -> line before the loop,
    or first in its body; rolled: before a loop that compilers shall not unroll.
    spaces: buffer space -> what stands before a declaration; a space that is missing is refused.
    barriers: scope -> statement.  instructions: names that a `Do` may have, each a function of that name.
    signature: the head of a kernel, with {name}, {parameters}, {cluster} and {threads}, with the blocks that shall be
    resident after it.  restrict: after the `*` of a parameter that no
    other overlaps.  shared_limit: bytes of shared memory that declarations may take, beyond it one array is cut up.
    snippets: helper functions by name, printed if used; DEVICE in them becomes `device`.
    """

    name: str
    types: Mapping[str, str]
    functions: Mapping[tuple[str, str], str]
    conversions: Mapping[tuple[str, str], str]
    spaces: Mapping[str, str]
    signature: str
    restrict: str = " __restrict__"
    device: str = "static inline"
    bindings: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    rolled: str = "#pragma unroll 1"
    barriers: Mapping[str, str] = field(default_factory=dict)
    instructions: frozenset[str] = frozenset()
    shared_limit: int = 0
    snippets: Snippets = field(default_factory=dict)


def unsupported(message: str) -> InternalError:
    return InternalError(f"not printable as C: {message}")


def used_snippets(text: str, snippets: Snippets) -> list[str]:
    """The names of the helpers that a text uses, directly or through one another, in the order of the table.  A comment that
    mentions one does not use it."""
    used: set[str] = set()
    todo = [text]
    while todo:
        words = set(re.findall(r"[A-Za-z_]\w*", re.sub(r"(?m)^\s*//.*$", "", todo.pop())))
        for name in words & snippets.keys() - used:
            used.add(name)
            todo.append(snippets[name])
    return [name for name in snippets if name in used]


def snippet_text(names: Iterable[str], dialect: Dialect) -> str:
    texts = (dialect.snippets[n].replace("DEVICE", dialect.device).strip() for n in names)
    return "\n".join("\n".join(part for line in text.splitlines() for part in _shown(line)) + "\n" for text in texts)


def _shown(line: str) -> list[str]:
    """A line of a helper; a long one in parts, unless it has text in quotes."""
    indent = " " * (len(line) - len(line.lstrip()))
    return [line] if '"' in line else wrap_statement(line.lstrip(), indent)


_COMMENT = re.compile(r"[^A-Za-z0-9 _.,:;=+()<>\[\]{}/-]")


def comment_text(text: str, limit: int = 200) -> str:
    """Text of any origin that is safe in a // comment: printable ASCII, no backslash that would continue the line."""
    plain = _COMMENT.sub("_", text)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


# Words that cannot be names of variables in any of the dialects, or that would hide a function.
_WORDS = """
    alignas alignof and asm auto bool break case catch char class const constexpr continue default delete do double else enum
    explicit export extern false float for friend goto if inline int long main mutable namespace new not operator or private
    protected public register return short signed sizeof static struct switch template this throw true try typedef typename
    union unsigned using virtual void volatile while xor vec half min max abs exp log pow sin cos tan
    threadIdx blockIdx blockDim gridDim warpSize shared_memory stdin stdout stderr
"""
RESERVED = frozenset(_WORDS.split())


def identifier(name: str, taken: Iterable[str], also: frozenset[str] = RESERVED) -> str:
    """A name from a checked alphabet that is none of those taken; y0 stays y0 where nothing else claims it."""
    base = re.sub(r"[^A-Za-z0-9_]", "_", name, flags=re.ASCII) or "v"
    if not base[0].isalpha():
        base = "v" + base
    if base in also:
        base += "_"
    known = set(taken)
    if base not in known:
        return base
    return next(f"{base}_{n}" for n in range(2, len(known) + 3) if f"{base}_{n}" not in known)
