"""Resource estimates: what a process and a FIFO take of a board, from counting; nothing here was synthesized.

Products: one DSP block for each pair of operand parts that fit its multiplier; products of few bits are logic.
Memories: block RAMs by the best of their aspect ratios; small constants are logic; large memories that need no initial
content are UltraRAM where there is some (its content cannot be part of a bitstream before Versal).
Logic: one LUT per bit of an adder or selector, and a fixed amount for the control of every process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from ...codegen.hls.design import Design, Memory, Process
from ...codegen.hls.emit import SHALLOW
from .boards import FAMILIES, RESOURCES, Board

_ASPECTS = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
_URAM = (4096, 72)
_SMALL_ROM = 64  # words of a constant that stay in logic
_SMALL_RAM = 1024  # bits of a memory that stay in logic
_LOGIC_PRODUCT = 36  # a product of a and b bits with a * b up to this is cheaper in logic
CONTROL = 90  # LUTs for the loop counters and the handshakes of a process


@dataclass(frozen=True)
class Usage:
    """Counts of each resource."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram18: int = 0
    uram: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, r) + getattr(other, r) for r in RESOURCES))


def total(usages: Iterable[Usage]) -> Usage:
    result = Usage()
    for u in usages:
        result = result + u
    return result


def product_usage(count: int, a: int, b: int, board: Board) -> Usage:
    """count products of signed a and b bits."""
    if not count:
        return Usage()
    if a * b <= _LOGIC_PRODUCT:
        return Usage(lut=count * (a * b + a + b) // 2)
    wide, narrow = FAMILIES[board.family]
    blocks = min(ceil((x - 1) / (wide - 1)) * ceil((y - 1) / (narrow - 1)) for x, y in ((a, b), (b, a)) if x > 1 and y > 1)
    return Usage(dsp=count * blocks)


def memory_usage(m: Memory, board: Board) -> Usage:
    if m.depth * m.width == 0:
        return Usage()
    if (m.constant and m.depth <= _SMALL_ROM) or m.depth * m.width <= _SMALL_RAM:
        return Usage(lut=m.width * ceil(m.depth / _SMALL_ROM))
    blocks = min(ceil(m.depth / d) * ceil(m.width / w) for d, w in _ASPECTS)
    ultra = ceil(m.depth / _URAM[0]) * ceil(m.width / _URAM[1])
    if board.uram and not m.constant and blocks >= 8 * ultra:
        return Usage(uram=ultra)
    return Usage(bram18=blocks)


def process_usage(p: Process, board: Board) -> Usage:
    cost = p.cost()
    parts = [product_usage(n, a, b, board) for n, a, b in cost.products]
    parts += [memory_usage(m, board) for m in cost.memories]
    used = total([*parts, Usage(lut=cost.adder_bits + CONTROL)])
    return used + Usage(ff=used.lut + used.lut // 4)


def fifo_usage(depth: int, width: int, board: Board) -> Usage:
    if depth * width <= SHALLOW:
        return Usage(lut=width * ceil(depth / 32) + 10, ff=10)
    used = memory_usage(Memory(depth, width), board)
    return used + Usage(lut=30, ff=30)


def design_usage(design: Design, board: Board) -> dict[str, Usage]:
    """Per process by name, and "fifos"."""
    lanes = design.lanes
    usage = {p.name: process_usage(p, board) for p in design.processes}
    usage["fifos"] = total(fifo_usage(design.depths.get(t, 2), n * t.type.bits, board) for t, n in lanes.items())
    return usage


def over(used: Usage, board: Board, limits: dict[str, float]) -> list[str]:
    """What is used beyond the limits, in words."""
    found = []
    for r in RESOURCES:
        allowed = int(getattr(board, r) * limits[r])
        if getattr(used, r) > allowed:
            found.append(f"{getattr(used, r)} {r.upper()} of {allowed} allowed ({limits[r]:.0%} of {getattr(board, r)})")
    return found
