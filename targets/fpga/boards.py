"""FPGA boards as data: part, resources, planning clock.

`verified` names the numbers that were read in a vendor document or in the board tables of FINN and hls4ml; all others
are from memory and marked so in every report.  Clocks are planning values, not measured limits.  A board of one's own
is a TOML file:

    name = "my-board"
    part = "xczu7ev-ffvc1156-2-e"
    lut = 230400
    ff = 460800
    dsp = 1728
    bram18 = 624
    uram = 96
    mhz = 200
    family = "ultrascale+"        # 7-series, ultrascale+, versal
    kind = "zynq"                 # zynq, alveo, fpga
    gbs = 19.2                    # gigabytes a second of the memory; half of it is used
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...ir.errors import OptionError, TargetError

FAMILIES = {"7-series": (25, 18), "ultrascale+": (27, 18), "versal": (27, 24)}
"""Signed operands of one DSP block, in bits."""
KINDS = ("zynq", "alveo", "fpga")
RESOURCES = ("lut", "ff", "dsp", "bram18", "uram")
USABLE = {"lut": 0.7, "ff": 0.5, "dsp": 0.8, "bram18": 0.8, "uram": 0.8}
"""The part of each resource that a design should take at most, so that it can still be routed (FINN's guide)."""


@dataclass(frozen=True)
class Board:
    """Counts of the whole device; slr: dies it consists of; gbs: gigabytes a second of its memory.
    verified: fields that were checked against a source."""

    name: str
    part: str
    lut: int
    ff: int
    dsp: int
    bram18: int
    uram: int
    mhz: float
    memory: str
    family: str
    kind: str
    slr: int = 1
    gbs: float = 1.0
    verified: tuple[str, ...] = ()

    @property
    def from_memory(self) -> tuple[str, ...]:
        """The facts that nobody checked."""
        return tuple(f for f in ("part", *RESOURCES, "gbs") if f not in self.verified)


_ROWS = (
    Board("pynq-z2", "xc7z020clg400-1", 53_200, 106_400, 220, 280, 0, 100, "512 MB DDR3", "7-series", "zynq",
          gbs=2.1, verified=("part", "lut", "ff", "dsp", "bram18")),
    Board("arty-a7-100t", "xc7a100tcsg324-1", 63_400, 126_800, 240, 270, 0, 100, "256 MB DDR3L", "7-series", "fpga", gbs=1.3),
    Board("ultra96-v2", "xczu3eg-sbva484-1-i", 70_560, 141_120, 360, 432, 0, 200, "2 GB LPDDR4", "ultrascale+", "zynq",
          gbs=4.2, verified=("part", "dsp")),
    Board("kv260", "xck26-sfvc784-2LV-c", 117_120, 234_240, 1_248, 288, 64, 200, "4 GB DDR4", "ultrascale+", "zynq",
          gbs=19.2, verified=("part", "dsp", "bram18", "uram")),
    Board("zcu102", "xczu9eg-ffvb1156-2-e", 274_080, 548_160, 2_520, 1_824, 0, 200, "4 GB + 512 MB DDR4", "ultrascale+",
          "zynq", gbs=19.2, verified=("part", "dsp", "bram18")),
    Board("zcu104", "xczu7ev-ffvc1156-2-e", 230_400, 460_800, 1_728, 624, 96, 200, "2 GB DDR4", "ultrascale+", "zynq",
          gbs=19.2, verified=("part", "dsp")),
    Board("zcu111", "xczu28dr-ffvg1517-2-e", 425_280, 850_560, 4_272, 2_160, 80, 200, "4 + 4 GB DDR4", "ultrascale+",
          "zynq", gbs=19.2, verified=("part", "dsp", "bram18", "uram")),
    Board("u50", "xcu50-fsvh2104-2-e", 872_000, 1_743_000, 5_952, 2_688, 640, 300, "8 GB HBM2", "ultrascale+", "alveo", 2, 316),
    Board("u200", "xcu200-fsgd2104-2-e", 1_182_000, 2_364_000, 6_840, 4_320, 960, 300, "64 GB DDR4", "ultrascale+", "alveo",
          3, 77, ("part",)),
    Board("u250", "xcu250-figd2104-2L-e", 1_728_000, 3_456_000, 12_288, 5_376, 1_280, 300, "64 GB DDR4", "ultrascale+",
          "alveo", 4, 77, ("part",)),
    Board("u280", "xcu280-fsvh2892-2L-e", 1_304_000, 2_607_000, 9_024, 4_032, 960, 300, "8 GB HBM2 + 32 GB DDR4",
          "ultrascale+", "alveo", 3, 460, ("part",)),
    Board("vck190", "xcvc1902-vsva2197-2MP-e-S", 899_840, 1_799_680, 1_968, 1_934, 463, 300, "8 GB DDR4 + LPDDR4", "versal",
          "zynq", gbs=25.6, verified=("part",)),
)
BOARDS = {b.name: b for b in _ROWS}


def find_board(text: str) -> Board:
    """A board by name or the path of a .toml file.  Raises OptionError."""
    if text.endswith(".toml"):
        return read_board(Path(text))
    if text not in BOARDS:
        raise OptionError(f"fpga: no board is called {text!r}; there are {', '.join(BOARDS)}, or a .toml file of yours")
    return BOARDS[text]


def read_board(path: Path) -> Board:
    """Raises OptionError for a file that is missing, is no TOML, or lacks a field."""
    try:
        import tomllib  # pyright: ignore[reportMissingImports]  # of Python 3.11
    except ImportError as error:
        raise TargetError("fpga: board files need Python 3.11 or newer, which reads TOML") from error
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"fpga: cannot read the board {path}: {error}") from error
    data = {"ff": 2 * data.get("lut", 0), "uram": 0, "memory": "", "gbs": 1.0, "kind": "fpga", "family": "ultrascale+", **data}
    known = {f.name: f.type for f in fields(Board)} | {"verified": ""}
    wrong = sorted(set(data) - set(known))
    missing = [f for f in ("name", "part", "lut", "dsp", "bram18", "mhz") if f not in data]
    if wrong or missing:
        absent, strange = ", ".join(missing) or "nothing", ", ".join(wrong) or "nothing"
        raise OptionError(f"fpga: board {path}: missing {absent}, unknown {strange}")
    numbers = all(isinstance(data[f], (int, float)) and data[f] >= 0 for f in (*RESOURCES, "mhz", "gbs")) and data["mhz"] > 0
    words = all(isinstance(data[f], str) and _plain(data[f]) for f in ("name", "part"))
    if not numbers or not words or data["family"] not in FAMILIES or data["kind"] not in KINDS:
        raise OptionError(
            f"fpga: board {path}: counts must not be negative, mhz positive, name and part of letters, digits and -, "
            f"family one of {', '.join(FAMILIES)}, kind one of {', '.join(KINDS)}"
        )
    return Board(**{**data, "verified": tuple(data.get("verified", ()))})


def _plain(text: str) -> bool:
    return bool(text) and all(c.isascii() and (c.isalnum() or c in "-_.") for c in text)
