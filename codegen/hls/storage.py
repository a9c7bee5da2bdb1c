"""Where memories go: logic or block RAM, by what each would take."""

from __future__ import annotations

from math import ceil

ASPECTS = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Depth and width of an 18-kbit block."""
LOGIC_DEPTH = 64  # words of one bit that a LUT keeps
SHALLOW = 1024  # bits of a FIFO up to which the tool's own choice is good
LUTS_PER_BLOCK = 150  # logic that is rather spent than a block; devices have a few hundred LUTs for each


def blocks(depth: int, width: int) -> int:
    """18-kbit blocks of a memory, in the best aspect."""
    return min(ceil(depth / d) * ceil(width / w) for d, w in ASPECTS)


def luts(depth: int, width: int) -> int:
    """LUTs of the same memory in logic."""
    return width * ceil(depth / LOGIC_DEPTH)


def in_logic(depth: int, width: int) -> bool:
    return luts(depth, width) <= LUTS_PER_BLOCK * blocks(depth, width)


def fifo_store(depth: int, width: int) -> str:
    """What a FIFO is asked to be made of; empty: the tool's own choice."""
    if depth * width <= SHALLOW:
        return ""
    return "lutram" if in_logic(depth, width) else "bram"
