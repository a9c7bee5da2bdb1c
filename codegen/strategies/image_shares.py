"""What threads share of an image in blocks of channels: rows come first, so that a thread finds in its cache what it wrote.

Threads take equal parts of one loop over rows and blocks, in order.  Blocks outermost reuse weights best, and keep apart
lines that lie a power of two from each other; but then each thread has other channels of all rows, and half of what it reads
was written by another.  Where blocks do not begin on cache lines, threads would even write to the same ones.
"""

from __future__ import annotations

from ...ir.expr import Expr, Var

LINE = 64  # bytes


def row_and_block(share: Var, rows: int, blocks: int, block_bytes: int, image_bytes: int) -> tuple[Expr, Expr]:
    """The row and the block of one share of rows * blocks.  block_bytes: of a pixel in a block; image_bytes: of a pixel."""
    if blocks > 1 and (block_bytes % LINE or image_bytes % LINE):
        return share // blocks, share % blocks
    halves = 2 if rows % 2 == 0 else 1
    half, flat = share // (rows // halves * blocks), share % (rows // halves * blocks)
    return half * (rows // halves) + flat % (rows // halves), flat // (rows // halves)
