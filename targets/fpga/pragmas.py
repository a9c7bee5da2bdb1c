"""The HLS pragmas that a kernel may have, with the options that UG1399 gives them, and where they mean something."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Pragma:
    """options: a pattern of everything behind the name.  place: "loop" (first in the body of a for), "function" (directly
    in a body), "declared" (behind the variable that it names), "top" (in the top function)."""

    options: str
    place: str


PRAGMAS = {
    "INTERFACE": Pragma(
        r"(m_axi port=\w+ offset=slave bundle=\w+ depth=\d+|axis port=\w+|s_axilite port=\w+|ap_ctrl_none port=return)", "top"),
    "DATAFLOW": Pragma(r"", "function"),
    "INLINE": Pragma(r"(off)?", "function"),
    "UNROLL": Pragma(r"", "loop"),
    "PIPELINE": Pragma(r"II=\d+", "loop"),
    "STREAM": Pragma(r"variable=\w+ depth=\d+", "declared"),
    "ARRAY_PARTITION": Pragma(r"variable=\w+ (complete|cyclic factor=([2-9]|\d\d+))( dim=\d+)?", "declared"),
    "ARRAY_RESHAPE": Pragma(r"variable=\w+ complete dim=2", "declared"),
    "AGGREGATE": Pragma(r"variable=\w+", "declared"),
    "BIND_STORAGE": Pragma(r"variable=\w+ (type=fifo impl=(bram|lutram|uram)|type=ram_s2p impl=uram)", "declared"),
    "DEPENDENCE": Pragma(r"variable=\w+ inter false", "declared"),
}
_TEXT = re.compile(r"\s*#pragma HLS (\w+) ?(.*)")


def read_pragma(line: str) -> tuple[str, dict[str, str]] | str:
    """The name and the options of a pragma's line; what is wrong with it, if it is not legal."""
    m = _TEXT.fullmatch(line.rstrip())
    if m is None or m.group(1) not in PRAGMAS:
        return f"an unknown pragma: {line.strip()}"
    if not re.fullmatch(PRAGMAS[m.group(1)].options, m.group(2)):
        return f"arguments that the pragma does not take: {line.strip()}"
    pairs = (part.partition("=") for part in m.group(2).split())
    return m.group(1), {name: value for name, _, value in pairs}
