"""Resource estimates: what a process and a FIFO take of a board, from counting; nothing here was synthesized.

Products: one DSP block for each pair of operand parts that fit its multiplier; products of few bits are logic.
Memories: logic where that is cheap, else block RAMs by the best of their aspect ratios; working memories and
FIFOs are UltraRAM where that saves most (its content cannot be part of a bitstream before Versal).
Logic: one LUT per bit of an adder or selector, and a fixed amount for the control of every process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from ...codegen.hls.design import Design, Memory, Process
from ...codegen.hls.emit import stream_names
from ...codegen.hls.storage import SHALLOW, blocks, in_logic, luts
from .boards import FAMILIES, RESOURCES, Board

URAM_WORD = 72
_URAM = (4096, URAM_WORD)
_WORTH = 2.5  # blocks that one UltraRAM must save
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


def memory_usage(m: Memory, ultra: bool = False) -> Usage:
    """ultra: in UltraRAM, if it can be there at all and blocks would be needed."""
    if m.depth * m.width == 0:
        return Usage()
    if in_logic(m.depth, m.width):
        return Usage(lut=luts(m.depth, m.width))
    if ultra and not m.constant:
        return Usage(uram=ceil(m.depth / _URAM[0]) * ceil(m.width / _URAM[1]))
    return Usage(bram18=blocks(m.depth, m.width))


def process_usage(p: Process, board: Board, ultra: bool = False) -> Usage:
    """ultra: its working memories are UltraRAM."""
    cost = p.cost()
    parts = [product_usage(n, a, b, board) for n, a, b in cost.products]
    parts += [memory_usage(m, ultra) for m in cost.memories]
    used = total([*parts, Usage(lut=cost.adder_bits + CONTROL)])
    return used + Usage(ff=used.lut + used.lut // 4 + cost.register_bits)


def fifo_usage(depth: int, width: int, ultra: bool = False) -> Usage:
    if depth * width <= SHALLOW:
        return Usage(lut=width * ceil(depth / 32) + 10, ff=10)
    return memory_usage(Memory(depth, width), ultra) + Usage(lut=30, ff=30)


def place_memories(design: Design, board: Board, limits: dict[str, float]) -> frozenset[str]:
    """The processes and streams whose memories go to UltraRAM: where one saves the most blocks, as long as there are any."""
    lanes, left = design.lanes, int(board.uram * limits["uram"])
    names = stream_names(design)
    gains: list[tuple[float, str, int]] = []

    def offer(name: str, plain: Usage, ultra: Usage) -> None:
        saved = plain.bram18 - ultra.bram18
        if ultra.uram and saved >= _WORTH * ultra.uram:
            gains.append((-saved / ultra.uram, name, ultra.uram))

    for p in design.processes:
        if p.buffer:
            offer(p.name, process_usage(p, board), process_usage(p, board, True))
    for t, n in lanes.items():
        shape = design.depths.get(t, 2), n * t.type.bits
        offer(names[t], fifo_usage(*shape), fifo_usage(*shape, True))
    chosen = set()
    for _, name, count in sorted(gains):
        if count <= left:
            chosen.add(name)
            left -= count
    return frozenset(chosen)


def design_usage(design: Design, board: Board) -> dict[str, Usage]:
    """Per process by name, and "fifos"; memories are where `design.ultra` says."""
    lanes, names = design.lanes, stream_names(design)
    usage = {p.name: process_usage(p, board, p.name in design.ultra) for p in design.processes}
    usage["fifos"] = total(
        fifo_usage(design.depths.get(t, 2), n * t.type.bits, names[t] in design.ultra) for t, n in lanes.items()
    )
    return usage


def over(used: Usage, board: Board, limits: dict[str, float]) -> list[str]:
    """What is used beyond the limits, in words."""
    found = []
    for r in RESOURCES:
        allowed = int(getattr(board, r) * limits[r])
        if getattr(used, r) > allowed:
            found.append(f"{getattr(used, r)} {r.upper()} of {allowed} allowed ({limits[r]:.0%} of {getattr(board, r)})")
    return found
