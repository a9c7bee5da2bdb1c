"""Maps whose bytes form words of four: pixels of an image, its channels innermost, made of planes.

    for y, x: for c < 4: out[y, x, c] = f(in[c, y, x])
    ->  for y, x in vectors: out[y, x, 0]:4n = bitcast(f(in[0, y, x]:n) | f(in[1, y, x]:n) << 8 | ..)

Planes are read and words are written contiguously, where single bytes would be scattered.
"""

from __future__ import annotations

from ...ir.expr import Call, Expr, Load, Type, Var, as_expr, binary, cast
from ...ir.kernel import Alloc, Buffer, For, Kernel, Stmt, Store, coefficient
from ...ir.traverse import substitute
from ..schedule import cut, has_loop, reorder, split
from ..schedule.rewrite import on_loops
from ..schedule.vectors import vectorize_loop
from .nests import fuse_outer, memory_accesses, perfect_loops

WORD = 4


def schedule_words(kernel: Kernel, lanes: int) -> Kernel | None:
    """The kernel of one map, a perfect nest, or None if its bytes form no words.  lanes: of 32 bits."""
    loops, body = perfect_loops(kernel.body)
    if not loops or len(body) != 1 or not isinstance(body[0], Store):
        return None
    found = _axes(body[0], [f.var for f in loops])
    if found is None or lanes < 4:
        return None
    channel, pixel = found
    names = [f.var.name for f in loops]
    outer = [n for n in names if n not in (channel.name, pixel.name)]
    kernel = reorder(kernel, names, [*outer, pixel.name, channel.name])
    if outer:
        kernel, _ = fuse_outer(kernel, outer)
    count, main = pixel.extent, pixel.name
    assert isinstance(count, int)
    if count > lanes and count % lanes:
        kernel, main = cut(kernel, main, count // lanes * lanes, "whole", "rest"), "whole"
    kernel = split(kernel, main, min(lanes, count), f"{main}o", "lane")
    for name in ("lane", "rest"):
        if has_loop(kernel, name):
            kernel = on_loops(kernel, name, lambda s, k=kernel: _words(k, s))  # type: ignore[misc]
    return kernel


def _words(kernel: Kernel, pixels: For) -> list[Stmt]:
    """The loop of pixels around that of the bytes of one: all bytes as one vector."""
    (channels,) = pixels.body
    assert isinstance(channels, For) and isinstance(pixels.var.extent, int)
    (st,) = channels.body
    assert isinstance(st, Store)
    lane, n = pixels.var, pixels.var.extent
    word: Expr | None = None
    for i in range(WORD):
        byte = binary("and", cast(substitute(st.value, {channels.var: as_expr(i)}), "i32"), 255)
        byte = binary("shl", byte, 8 * i) if i else byte
        word = byte if word is None else binary("or", word, byte)
    assert word is not None
    words = Buffer("words", "i32", (n,), "register")
    made = vectorize_loop(kernel, For(lane, (Store(words, (lane,), word),)))
    at = tuple(substitute(i, {lane: as_expr(0), channels.var: as_expr(0)}) for i in st.idx)
    joined = Call.of("bitcast", (Load.of(words, (as_expr(0),), Type("i32", n)),), Type(st.buf.dtype, n * WORD))
    return [Alloc(words), *made, Store(st.buf, at, joined)]


def _axes(st: Store, axes: list[Var]) -> tuple[Var, Var] | None:
    """(channels, pixels): bytes of a word, and words, contiguous in the output; pixels contiguous in what is read."""
    if st.buf.dtype not in ("u8", "i8") or st.buf.space == "register":
        return None
    steps = {v: coefficient(st.buf, st.idx, v) for v in axes}
    channel = next((v for v in axes if steps[v] == 1 and v.extent == WORD), None)
    pixel = next((v for v in axes if steps[v] == WORD), None)
    if channel is None or pixel is None:
        return None
    read = [a for a in memory_accesses((st,)) if not a.writes]
    plain = all(isinstance(v.extent, int) for v in axes)
    return (channel, pixel) if plain and any(coefficient(a.buf, a.idx, pixel) == 1 for a in read) else None
