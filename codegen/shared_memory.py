"""Places of shared arrays: what lives in sibling blocks of statements shares memory, as the stack of a function would.

    { Alloc(a); ... }  Barrier("block")  { Alloc(b); ... }   ->   a and b at offset 0

A schedule that ends one block and begins another puts a barrier between; the emulator finds a missing one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir.kernel import Alloc, Block, Buffer, For, If
from ..ir.types import DTYPES
from .c_address import elements_held

ALIGN = Buffer("", "u8", ()).align  # of a buffer that says nothing


@dataclass
class SharedLayout:
    """offsets: of each Alloc by its identity.  total: bytes of all; separate: what they would take side by side."""

    offsets: dict[int, int] = field(default_factory=dict)
    total: int = 0
    separate: int = 0


def layout_shared(body: Block) -> SharedLayout:
    """Offsets in whole 16 bytes; of a buffer that asks for more than others, in that."""
    layout = SharedLayout()
    _place(body, 0, layout)
    return layout


def _place(block: Block, offset: int, layout: SharedLayout) -> None:
    for s in block:
        match s:
            case Alloc() if s.buf.space == "shared":
                size = -(-elements_held(s.buf) * DTYPES[s.buf.dtype].size // 16) * 16
                offset = -(-offset // s.buf.align) * s.buf.align if s.buf.align > ALIGN else offset
                layout.offsets[id(s)] = offset
                layout.separate += size
                offset += size
                layout.total = max(layout.total, offset)
            case For():
                _place(s.body, offset, layout)
            case If():
                _place(s.then, offset, layout)
                _place(s.other, offset, layout)
