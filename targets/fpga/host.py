"""FPGA machines by name: `fpga:BOARD` or `fpga:BOARD@MHZ`; the board is a name of `boards.BOARDS` or a .toml file."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.errors import OptionError
from .boards import BOARDS, Board, find_board

DEFAULT = "pynq-z2"


@dataclass(frozen=True)
class FpgaMachine:
    """name: as reports say it.  mhz: the planned clock."""

    name: str
    board: Board
    mhz: float


def machines() -> dict[str, str]:
    """What may follow `fpga:`, with what it is."""
    return {b.name: f"{b.part}, {b.lut} LUT, {b.dsp} DSP, {b.bram18} BRAM18, {b.uram} URAM, planned at {b.mhz:g} MHz"
            for b in BOARDS.values()}


def resolve_machine(spec: str) -> FpgaMachine:
    """Raises OptionError for an unknown board or a clock that is no number."""
    _, _, rest = spec.partition(":")
    name, at, clock = rest.partition("@")
    board = find_board(name or DEFAULT)
    try:
        mhz = float(clock) if at else float(board.mhz)
    except ValueError:
        mhz = 0.0
    if not 1 <= mhz <= 1000:
        raise OptionError(f"target {spec!r}: expected a clock from 1 to 1000 MHz after @, as in fpga:{board.name}@150")
    return FpgaMachine(f"{board.name}@{mhz:g}", board, mhz)
