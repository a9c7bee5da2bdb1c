"""Attention as one kernel: softmax(scale * q k^T + mask) v, head by head, eight query rows at a time.

For each head the keys are packed transposed and the values in panels, once, in scratch memory; then for each tile of
rows the scores of all keys are computed into scratch, turned into weights, and multiplied into the values.  No array of
queries times keys exists.  It is seven computations, merged by the schedules of any group; keys are padded to whole
panels with scores of minus infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.compute import Compute, acc_var, lower_group
from ...ir.dims import as_dim, multiply_dims
from ...ir.expr import Expr, as_expr, binary, call, cast, const, load, select
from ...ir.kernel import Buffer, Kernel, axis
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


def _computes(op: Attention, out: Buffer, operands: tuple[Buffer, ...], z: AttentionSizes) -> tuple[Compute, ...]:
    q, k, v, *mask = operands
    p, m, j = axis("p", z.shares), axis("m", z.rows), axis("j", z.padded)
    b, h, row = p // (z.heads * z.chunks), p // z.chunks % z.heads, p % z.chunks * as_expr(z.rows) + m
    g = h // (z.heads // z.groups)
    blocks = z.blocks
    packed_k = Buffer("kp", "f32", (z.shares, blocks, z.depth, z.panel), "stack")
    packed_v = Buffer("vp", "f32", (z.shares, z.width // z.value_panel, z.padded, z.value_panel), "stack")
    scores = Buffer("s", "f32", (z.shares, z.rows, z.padded), "stack")
    weights = Buffer("e", "f32", scores.shape, "stack")
    most, total = (Buffer(n, "f32", (z.shares, z.rows), "stack") for n in ("mx", "sm"))

    def key(s: Expr) -> Expr:  # padding keys read the last one
        return s if z.padded == z.keys else binary("min", s, as_expr(z.keys) - 1)

    kb, kv, ki = axis("kb", blocks), axis("kv", z.panel // z.lanes), axis("ki", z.lanes)
    kt, kd = axis("kt", z.depth // z.lanes), axis("kd", z.lanes)
    at, deep = kb * z.panel + kv * z.lanes + ki, kt * z.lanes + kd
    pack_k = Compute(
        packed_k, (p, kb, kv, kt, ki, kd), cast(load(k, b, g, key(at), deep), "f32"), index=(p, kb, deep, kv * z.lanes + ki)
    )
    vb, vr, vv = axis("vb", z.width // z.value_panel), axis("vr", z.padded), axis("vv", z.value_panel // z.lanes)
    vl = axis("vl", z.lanes)
    pack_v = Compute(
        packed_v, (p, vb, vr, vv, vl), cast(load(v, b, g, key(vr), vb * z.value_panel + vv * z.lanes + vl), "f32"),
        index=(p, vb, vr, vv * z.lanes + vl),
    )
    so, si, d = axis("so", blocks), axis("si", z.panel), axis("d", z.depth)
    finish = _finish(op, mask, z, (b, h, row), so * z.panel + si)
    score = Compute(
        scores, (p, m, so, si), cast(load(q, b, h, row, d), "f32") * packed_k[p, so, d, si], (d,), "add", finish,
        (p, m, so * z.panel + si),
    )
    highest = Compute(most, (p, m), scores[p, m, j], (j,), "max")
    safe = binary("max", most[p, m], LEAST)  # a row without any key gives 0 / 0, not inf - inf
    weight = Compute(weights, (p, m, j), call("exp", scores[p, m, j] - safe))
    summed = Compute(total, (p, m), weights[p, m, j], (j,), "add")
    co, ci, r = axis("co", z.width // z.value_panel), axis("ci", z.value_panel), axis("r", z.padded)
    product = Compute(
        out, (p, m, co, ci), weights[p, m, r] * packed_v[p, co, r, ci], (r,), "add",
        acc_var("f32") * (1.0 / total[p, m]), (b, h, row, co * z.value_panel + ci),
    )
    return pack_k, pack_v, score, highest, weight, summed, product


def _finish(op: Attention, mask: list[Buffer], z: AttentionSizes, at: tuple[Expr, Expr, Expr], key: Expr) -> Expr:
    """Scale, mask, causality and padding of one score."""
    score: Expr = acc_var("f32") * op.scale
    hidden = const(float("-inf"), "f32")
    if mask:
        shape = mask[0].shape
        inside = binary("min", key, as_expr(z.keys) - 1) if z.padded != z.keys else key
        full = (*at, inside)[4 - len(shape) :]
        score = score + cast(load(mask[0], *(as_expr(0) if n == 1 else i for n, i in zip(shape, full, strict=True))), "f32")
    if op.causal:
        shift = as_expr(z.keys) - as_expr(z.rows) * z.chunks
        score = select(binary("le", key, at[2] + shift), score, hidden)
    if z.padded != z.keys:
        score = select(binary("lt", key, as_expr(z.keys)), score, hidden)
    return score


def schedule_attention(group: Group, machine: Machine) -> Scheduled:
    assert isinstance(group.op, Attention)
    q, k, v = group.operands[:3]
    z = attention_sizes(q, k, v, machine)
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
    kernel = split(split(kernel, "d", steps), "r", 4)
    kernel = unroll(kernel, "mi", "nv", "di", "ri")
    kernel = vectorize(legalize_math(parallel(kernel, "p"), machine), "nl", "jl", "vl")
    kernel = fma_contract(kernel) if machine.fma else kernel
    return Scheduled(kernel, note=f"heads in parallel, {ROWS} rows at a time, keys in panels of {z.panel}")


def _merge(kernel: Kernel) -> Kernel:
    """One loop over heads, one over rows; temporaries live inside them."""
    kernel = merge(merge(kernel, "p"), "m")
    for name in ("kp", "vp"):
        kernel = localize(kernel, name, "p", "stack", 1)
    for name in ("s", "e"):
        kernel = localize(kernel, name, "m", "stack", 2)
    for name in ("mx", "sm"):
        kernel = localize(kernel, name, "m", "register", 2)
    return kernel
