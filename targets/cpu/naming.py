"""Names and text of a model in generated sources.

Everything that comes from a model is hostile until it passes here: identifiers are made of letters, digits and
underscores, string literals are escaped byte by byte, and comments keep printable ASCII only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# PREFIX_create and the like must not be functions of the system: pthread_create, timer_create, tw_main.
_RESERVED = frozenset({"pthread", "thrd", "timer", "epoll", "mtx", "cnd", "sem", "tw", "std"})
_PREFIX_LENGTH = 64
_PLAIN = re.compile(rb"[A-Za-z0-9 _.,:;=+*()<>\[\]{}|!#%&'~^$@-]")


def c_prefix(name: str) -> str:
    """The prefix of a model's C functions and files: a C identifier of 1 to 64 characters.  A good one is kept."""
    prefix = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:_PREFIX_LENGTH].rstrip("_")
    if not prefix or prefix[0].isdigit() or prefix.partition("_")[0] in _RESERVED:
        return f"model_{prefix}".rstrip("_")[:_PREFIX_LENGTH]
    return prefix


def text_bytes(text: str) -> bytes:
    """UTF-8 of a text of any origin: undecodable bytes come back as they were, NUL becomes the two characters \\0."""
    text = text.replace("\0", "\\0")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def c_string(text: str) -> str:
    """A C string literal.  Octal escapes of three digits cannot swallow the character after them, and with `?`, quotes
    and backslashes among them no trigraph, quote or line end survives."""
    return '"' + "".join(
        chr(byte) if _PLAIN.match(bytes((byte,))) else f"\\{byte:03o}" for byte in text_bytes(text)
    ) + '"'


def comment_text(text: str) -> str:
    """Text that is safe inside a C comment of either kind: printable ASCII, without what ends comments or lines."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in " _.,:;=+()<>[]{}-" else "_" for c in text)[:200]


def distinct_identifiers(names: Iterable[str], prefix: str) -> list[str]:
    """One identifier for each name: `prefix` in front, so that none is a keyword; numbered where two would be equal."""
    taken: set[str] = set()
    result = []
    for name in names:
        base = f"{prefix}_{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')[:_PREFIX_LENGTH]}".rstrip("_")
        identifier, count = base, 1
        while identifier in taken:
            count += 1
            identifier = f"{base}_{count}"
        taken.add(identifier)
        result.append(identifier)
    return result
