"""Attention as one kernel: softmax(scale * q k^T + mask) v, head by head, eight query rows at a time.

For each head the keys are packed transposed and the values in panels, once, in scratch memory; then for each tile of
rows the scores of all keys are computed into scratch, turned into weights, and multiplied into the values.  No array of
queries times keys exists.  It is seven computations, merged by the schedules of any group; keys are padded to whole
vectors with scores of minus infinity: where half of the last panel would be padding, it is one vector wide.  Panels without
padding have a loop of their own.

Threads share the heads, or, if these are few, the tiles of all heads, so that three heads keep two threads busy; each packs
the heads that it meets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

from ...ir.compute import Compute, acc_var, lower_group
from ...ir.dims import as_dim, multiply_dims
from ...ir.expr import Expr, as_expr, binary, call, cast, const, load, select
from ...ir.kernel import Alloc, Buffer, For, If, Kernel, Store, axis, substitute_block, walk_block
from ...ir.ops.norm import Attention
from ...ir.types import Dim
from ..machine import Machine
from ..math import legalize_math
from ..schedule import (
    fma_contract,
    localize,
    merge,
    parallel,
    reorder,
    rfactor,
    sink,
    split,
    transpose_tile,
    unroll,
    vectorize,
)
from .open_axes import tiles_of, typical
from .scheduled import Group, Scheduled

LEAST = -3.4028234663852886e38  # masks may hold it, for keys that count only where every key is masked
ROWS = 8  # query rows at a time: with two vectors of keys, sixteen accumulators
STEPS = 4  # of the product with the values, unrolled
MANY_HEADS = 8  # that threads share evenly enough
SMALLEST = 4  # fewer query rows do not pay for packing the keys


Shape = tuple[Dim, ...]


def takes_attention(op: Attention, q: Shape, k: Shape, v: Shape, machine: Machine) -> bool:
    """Whether this strategy fits shapes q[B, H, M, D], k[B, G, S, D], v[B, G, S, E]; the operator is expanded otherwise.
    Batch, rows and keys may be open."""
    lanes = machine.lanes("f32")
    heads, groups, depth, width = q[1], k[1], k[3], v[3]
    if not (isinstance(heads, int) and isinstance(groups, int) and isinstance(depth, int) and isinstance(width, int)):
        return False
    scratch = 4 * (typical(k[2]) + 2 * lanes) * (depth + width + 2 * ROWS)
    return typical(q[2]) >= SMALLEST and depth % lanes == 0 and width % lanes == 0 and scratch <= 8 * machine.l2


@dataclass(frozen=True)
class AttentionSizes:
    batch: Dim
    heads: int
    groups: int
    rows: Dim
    keys: Dim
    depth: int
    width: int
    chunks: int
    lanes: int
    panel: int
    value_panel: int

    @property
    def blocks(self) -> Dim:
        """Panels of keys, the last one padded."""
        return as_dim((self.keys + (self.panel - 1)) // self.panel)

    @property
    def padded(self) -> Dim:
        return as_dim(self.blocks * self.panel)

    @property
    def shares(self) -> Dim:
        return multiply_dims([self.batch, self.heads * self.chunks])


def chunks_of(batch: Dim, heads: int, rows: Dim) -> int:
    """Parts of the query rows that threads share, where there are few heads; 1 where how many is open."""
    chunks = 1
    if isinstance(batch, int) and isinstance(rows, int):
        while batch * heads * chunks < 8 and rows % (2 * chunks) == 0 and rows // (2 * chunks) >= 2 * ROWS:
            chunks *= 2
    return chunks


def attention_sizes(q: Buffer, k: Buffer, v: Buffer, machine: Machine) -> AttentionSizes:
    batch, heads, rows, depth = q.shape
    groups, keys, width = *k.shape[1:3], v.shape[3]
    assert isinstance(heads, int) and isinstance(groups, int) and isinstance(depth, int) and isinstance(width, int)
    lanes = machine.lanes("f32")
    chunks = chunks_of(batch, heads, rows)
    wide = 2 * lanes if machine.vector_registers >= 32 else lanes
    panel = wide if not isinstance(keys, int) or keys > lanes else lanes
    value_panel = wide if width % wide == 0 else lanes
    return AttentionSizes(batch, heads, groups, as_dim(rows // chunks), keys, depth, width, chunks, lanes, panel, value_panel)


@dataclass(frozen=True)
class _Keys:
    """Panels of keys of one width: packed as `name`, the first one begins with key `start`."""

    name: str
    start: Dim
    blocks: Dim
    panel: int


def _panels_of_keys(z: AttentionSizes) -> list[_Keys]:
    """All of one width, or a last one that is a vector wide, where that is enough; of an open number there is none or one."""
    if not isinstance(z.keys, int) and z.lanes < z.panel:
        wide = as_dim((z.keys + (z.lanes - 1)) // z.panel)
        return [_Keys("kp", 0, wide, z.panel), _Keys("kq", as_dim(wide * z.panel), as_dim(z.blocks - wide), z.lanes)]
    last = z.keys % z.panel if isinstance(z.keys, int) else 0
    if not (0 < last <= z.lanes < z.panel) or not isinstance(z.blocks, int):
        return [_Keys("kp", 0, z.blocks, z.panel)]
    whole = z.blocks - 1
    return [_Keys("kp", 0, whole, z.panel), _Keys("kq", whole * z.panel, 1, z.lanes)]


def _computes(op: Attention, out: Buffer, operands: tuple[Buffer, ...], z: AttentionSizes) -> tuple[Compute, ...]:
    q, k, v, *mask = operands
    parts = _panels_of_keys(z)
    padded = as_dim(sum((as_expr(part.blocks) * part.panel for part in parts), as_expr(0)))
    steps = as_dim((z.keys + (STEPS - 1)) // STEPS * STEPS)
    p, m, j = axis("p", z.shares), axis("m", z.rows), axis("j", padded)
    b, h, row = p // (z.heads * z.chunks), p // z.chunks % z.heads, p % z.chunks * as_expr(z.rows) + m
    g = h // (z.heads // z.groups)
    packed_v = Buffer("vp", "f32", (z.shares, z.width // z.value_panel, steps, z.value_panel), "stack")
    scores = Buffer("s", "f32", (z.shares, z.rows, padded), "stack")
    weights = Buffer("e", "f32", scores.shape, "stack")
    most, total = (Buffer(n, "f32", (z.shares, z.rows), "stack") for n in ("mx", "sm"))

    def key(s: Expr) -> Expr:  # padding keys read the last one
        return s if padded == z.keys else binary("min", s, as_expr(z.keys) - 1)

    packing, scoring = [], []
    for part in parts:
        packed_k = Buffer(part.name, "f32", (z.shares, part.blocks, z.depth, part.panel), "stack")
        kb, kv, ki = axis("kb", part.blocks), axis("kv", part.panel // z.lanes), axis("ki", z.lanes)
        kt, kd = axis("kt", z.depth // z.lanes), axis("kd", z.lanes)
        at, deep = as_expr(part.start) + kb * part.panel + kv * z.lanes + ki, kt * z.lanes + kd
        packing.append(Compute(
            packed_k, (p, kb, kv, kt, ki, kd), cast(load(k, b, g, key(at), deep), "f32"), index=(p, kb, deep, kv * z.lanes + ki)
        ))
        whole = as_dim((z.keys - part.start) // part.panel) if part.start == 0 or isinstance(z.keys, int) else 0
        for first, count, padding in ((0, whole, False), (whole, as_dim(part.blocks - whole), True)):
            if count == 0:
                continue
            so, si, d = axis("so", count), axis("si", part.panel), axis("d", z.depth)
            block = so + as_expr(first)
            column = as_expr(part.start) + block * part.panel + si
            finish = _finish(op, mask, z, (b, h, row), column, padding)
            scoring.append(Compute(
                scores, (p, m, so, si), cast(load(q, b, h, row, d), "f32") * packed_k[p, block, d, si], (d,), "add", finish,
                (p, m, column),
            ))
    vb, vr, vv = axis("vb", z.width // z.value_panel), axis("vr", steps), axis("vv", z.value_panel // z.lanes)
    vl = axis("vl", z.lanes)
    pack_v = Compute(
        packed_v, (p, vb, vr, vv, vl), cast(load(v, b, g, key(vr), vb * z.value_panel + vv * z.lanes + vl), "f32"),
        index=(p, vb, vr, vv * z.lanes + vl),
    )
    highest = Compute(most, (p, m), scores[p, m, j], (j,), "max")
    safe = binary("max", most[p, m], LEAST)  # a row without any key gives 0 / 0, not inf - inf
    weight = Compute(weights, (p, m, j), call("exp" if mask else "exp2", scores[p, m, j] - safe))
    summed = Compute(total, (p, m), weights[p, m, j], (j,), "add")
    co, ci, r = axis("co", z.width // z.value_panel), axis("ci", z.value_panel), axis("r", steps)
    product = Compute(
        out, (p, m, co, ci), weights[p, m, r] * packed_v[p, co, r, ci], (r,), "add",
        acc_var("f32") * (1.0 / total[p, m]), (b, h, row, co * z.value_panel + ci),
    )
    return *packing, pack_v, *scoring, highest, weight, summed, product


def _finish(
    op: Attention, mask: list[Buffer], z: AttentionSizes, at: tuple[Expr, Expr, Expr], key: Expr, padded: bool
) -> Expr:
    """Scale, mask and causality of one score, which without a mask is that of a power of two: it costs less.  padded: of a
    panel that may reach beyond the keys."""
    score: Expr = acc_var("f32") * (op.scale if mask else op.scale / log(2))
    hidden = const(float("-inf"), "f32")
    if mask:
        shape = mask[0].shape
        inside = binary("min", key, as_expr(z.keys) - 1) if padded else key
        full = (*at, inside)[4 - len(shape) :]
        score = score + cast(load(mask[0], *(as_expr(0) if n == 1 else i for n, i in zip(shape, full, strict=True))), "f32")
    if op.causal:
        shift = as_expr(z.keys) - as_expr(z.rows) * z.chunks
        score = select(binary("le", key, at[2] + shift), score, hidden)
    if padded:
        score = select(binary("lt", key, as_expr(z.keys)), score, hidden)
    return score


def schedule_attention(group: Group, machine: Machine) -> Scheduled:
    assert isinstance(group.op, Attention)
    q, k, v = group.operands[:3]
    z = replace(attention_sizes(q, k, v, machine), rows=q.shape[2], chunks=1)
    (out,) = [p for p in group.params if p.name.startswith("y")]
    computes = _computes(group.op, out, group.operands, z)
    kernel = _merge(lower_group("attention", group.params, computes))
    kernel = sink(sink(kernel, ["si"]), ["ci"])
    kernel = rfactor(split(kernel, "j", z.lanes, "jo", "jl"), "jo", "jl")
    kernel, _ = tiles_of(kernel, axis("m", z.rows), ROWS, "mi")
    kernel = sink(kernel, ["mi"])
    kernel = transpose_tile(kernel, "ki", "kd") if z.lanes > 1 else kernel
    for name in ("si", "ci", "jl"):
        kernel = reorder(kernel, [name, "mi"], ["mi", name])
    kernel = split(split(kernel, "si", z.lanes, "nv", "nl"), "ci", z.lanes, "nv", "nl")
    steps = 4 if z.depth % 4 == 0 else 1
    kernel = split(split(kernel, "d", steps), "r", STEPS)
    kernel = unroll(kernel, "mi", "nv", "di", "ri")
    known = isinstance(z.shares, int) and isinstance(z.rows, int)
    tiles = known and (z.shares < MANY_HEADS or z.shares % 2 == 1)  # type: ignore[operator]
    kernel = _share_tiles(kernel) if tiles else parallel(kernel, "p")
    kernel = vectorize(legalize_math(kernel, machine), "nl", "jl", "vl")
    kernel = fma_contract(kernel) if machine.fma else kernel
    shared = "tiles of all heads" if tiles else "heads"
    return Scheduled(kernel, note=f"{shared} in parallel, {ROWS} rows at a time, keys in panels of {z.panel}")


def _merge(kernel: Kernel) -> Kernel:
    """One loop over heads, one over rows; temporaries live inside them."""
    kernel = merge(merge(kernel, "p"), "m")
    for name in ("kp", "kq", "vp"):
        if any(isinstance(s, Alloc) and s.buf.name == name for s in walk_block(kernel.body)):
            kernel = localize(kernel, name, "p", "stack", 1)
    for name in ("s", "e"):
        kernel = localize(kernel, name, "m", "stack", 2)
    for name in ("mx", "sm"):
        kernel = localize(kernel, name, "m", "register", 2)
    return kernel


def _share_tiles(kernel: Kernel) -> Kernel:
    """for p: { pack; for t: tile }  ->  for (p, t) in parallel: { if p is not packed: pack; tile }

    The tiles of a head are those of all loops over rows, one after the other; there are as many in every head.
    """
    (heads,) = kernel.body
    assert isinstance(heads, For) and isinstance(heads.var.extent, int)
    allocs = [s for s in heads.body if isinstance(s, Alloc)]
    rows = [s for s in heads.body if isinstance(s, For) and s.var.name.startswith("m")]
    pack = tuple(s for s in heads.body if s not in allocs and s not in rows)
    counts = [s.var.extent for s in rows if isinstance(s.var.extent, int)]
    total = sum(counts)
    share, head = axis("share", heads.var.extent * total), Buffer("packed", "i64", (1,), "stack")
    p, tile = share // total, share % total
    body, first = (), total
    for s, n in zip(reversed(rows), reversed(counts), strict=True):
        first -= n
        here = substitute_block(s.body, {s.var: tile - first})
        body = (If(binary("lt", tile, as_expr(first + n)), here, body),) if body else here
    packed = If(binary("ne", head[0], p), (*pack, Store(head, (as_expr(0),), p)))
    inner = substitute_block((packed, *body), {heads.var: p})
    none = Store(head, (as_expr(0),), as_expr(-1))
    return replace(kernel, body=(*allocs, Alloc(head), none, For(share, inner, "parallel")))
