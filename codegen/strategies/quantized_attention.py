"""Attention between integers as one kernel, head by head and eight query rows at a time (see `attention`).

Both products add four bytes per instruction: keys are packed as words of four neighbours of the depth, values as words of
four neighbouring keys.  Zero points are corrected by sums of rows and columns, which the sums of a tile start with.  Scores
of a tile live as floats, weights as bytes, in the first-level cache.  Keys are padded to whole panels with scores of minus
infinity: their weight is the zero point of the weights, which multiplies to zero.
"""

from __future__ import annotations

from ...ir.compute import Compute, acc_var, lower_group
from ...ir.dims import as_dim
from ...ir.expr import Bin, Call, Const, Expr, Load, Splat, Type, as_expr, binary, call, cast, const, load, select, unary
from ...ir.kernel import Buffer, Kernel, axis
from ...ir.ops.quantized_attention import LEAST_TOTAL, QuantizedAttention
from ...ir.types import Dim, TensorType
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
from ..schedule.vectors import map_expressions
from .attention import ROWS, SMALLEST, AttentionSizes, attention_sizes
from .open_axes import tiles_of, typical
from .scheduled import Group, Scheduled

WORD = 4  # bytes that one instruction multiplies in a lane
OTHER_SIGN = 0x80808080 - (1 << 32)  # of the four bytes of a word
MOST_KEYS = 33025  # sums of 255 * 255 for each of them fit 32 bits
DOT = "vpdpbusd"


def takes_quantized_attention(types: tuple[TensorType, ...], machine: Machine) -> bool:
    """Whether this strategy fits q[B, H, M, D], k[B, H, S, D], v[B, H, S, E].  Batch, rows and keys may be open."""
    q, k, v = (t.shape for t in types[:3])
    heads, depth, width = q[1], k[3], v[3]
    if not (isinstance(heads, int) and isinstance(depth, int) and isinstance(width, int)) or DOT not in machine.calls:
        return False
    lanes = machine.lanes("i32")
    keys = typical(k[2])
    scratch = (keys + 2 * lanes) * (depth + width + 9 * ROWS)
    return (
        typical(q[2]) >= SMALLEST and lanes >= 8 and depth % (4 * WORD) == 0 and width % lanes == 0
        and keys <= MOST_KEYS and scratch <= 8 * machine.l2
    )


class _Sizes(AttentionSizes):
    @property
    def words(self) -> int:
        """Of the depth."""
        return self.depth // WORD

    @property
    def key_words(self) -> Dim:
        """Words of padded keys."""
        return as_dim(self.blocks * (self.panel // WORD))

    @property
    def tile(self) -> int:
        """Words of the depth, and keys, that change places at once."""
        n = self.lanes
        while self.words % n:
            n //= 2
        return n


def _dot(unsigned: Expr, signed: Expr) -> Expr:
    """Four products of bytes, added."""
    return Call.of(DOT, (const(0, "i32"), unsigned, signed), Type("i32"))


def _ones() -> Expr:
    return const(0x01010101, "i32")


def _joined(parts: list[Expr]) -> Expr:
    """The word of four bytes, the first lowest."""
    word, *rest = (binary("and", cast(b, "i32"), 255) for b in parts)
    for i, one in enumerate(rest, 1):
        word = binary("or", word, binary("shl", one, 8 * i))
    return word


class _Attention:
    """The computations.  k and v are stored signed: other bytes are moved by 128, and their zero points with them."""

    def __init__(self, op: QuantizedAttention, out: Buffer, operands: tuple[Buffer, ...], z: _Sizes) -> None:
        self.op, self.out, self.z = op, out, z
        self.q, self.k, self.v, *self.mask = operands
        self.zq, zk, zv = op.zeros
        self.zk, self.zv = (zero - 128 if b.dtype == "u8" else zero for zero, b in ((zk, self.k), (zv, self.v)))
        self.step, zero, *bounds = op.weights
        self.zero, self.low, self.high = int(zero), *map(float, bounds)
        self.p, self.m, self.j = axis("p", z.shares), axis("m", z.rows), axis("j", z.padded)
        self.b, self.h = self.p // (z.heads * z.chunks), self.p // z.chunks % z.heads
        self.row = self.p % z.chunks * as_expr(z.rows) + self.m

        def stack(name: str, dtype: str, *shape: Dim) -> Buffer:
            return Buffer(name, dtype, (z.shares, *shape), "stack")

        self.packed_k = stack("kp", "i32", z.blocks, z.words, z.panel)
        self.packed_v = stack("vp", "i32", z.width // z.value_panel, z.key_words, z.value_panel)
        self.sums_k, self.sums_v = stack("ks", "i32", z.padded), stack("vs", "i32", z.width)
        self.scores, self.e = stack("s", "f32", z.rows, z.padded), stack("e", "f32", z.rows, z.padded)
        self.weights = stack("w", "u8", z.rows, z.padded)
        self.most, self.total = stack("mx", "f32", z.rows), stack("sm", "f32", z.rows)
        self.sums_q, self.sums_w = stack("qs", "i32", z.rows), stack("ws", "i32", z.rows)

    def computes(self) -> tuple[Compute, ...]:
        wanted = [self._pack_k(), self._pack_v()]
        wanted += [self._sums_k()] if self.zq else []
        wanted += [self._sums_v()] if self.zero else []
        wanted += [self._sums_q()] if self.zk else []
        wanted += [self._score(), *self._softmax(), self._rounded()]
        wanted += [self._sums_w()] if self.zv else []
        return (*wanted, self._product())

    def _key(self, s: Expr) -> Expr:
        """Padding keys read the last one."""
        return s if self.z.padded == self.z.keys else binary("min", s, as_expr(self.z.keys) - 1)

    def _pack_k(self) -> Compute:
        z, n = self.z, self.z.tile
        kb, kv, ki = axis("kb", z.blocks), axis("kv", z.panel // n), axis("ki", n)
        kt, kd = axis("kt", z.words // n), axis("kd", n)
        at, word = kb * z.panel + kv * n + ki, kt * n + kd
        body = self._word(self.k, (self.b, self.h, self._key(at)), word)
        if self.k.dtype == "u8":
            body = binary("xor", body, const(OTHER_SIGN, "i32"))
        return Compute(self.packed_k, (self.p, kb, kv, kt, ki, kd), body, index=(self.p, kb, word, kv * n + ki))

    def _pack_v(self) -> Compute:
        z = self.z
        vb, vr, vv = axis("vb", z.width // z.value_panel), axis("vr", z.key_words), axis("vv", z.value_panel // z.lanes)
        vl = axis("vl", z.lanes)
        column = vb * z.value_panel + vv * z.lanes + vl
        body = _joined([load(self.v, self.b, self.h, self._key(vr * WORD + i), column) for i in range(WORD)])
        if self.v.dtype == "u8":
            body = binary("xor", body, const(OTHER_SIGN, "i32"))
        return Compute(self.packed_v, (self.p, vb, vr, vv, vl), body, index=(self.p, vb, vr, vv * z.lanes + vl))

    def _sums_k(self) -> Compute:
        """What the scores of a key start with: D zq zk - zq * its sum."""
        z = self.z
        kb, kw, kl, kd = axis("kb", z.blocks), axis("cv", z.panel // z.lanes), axis("cl", z.lanes), axis("cd", z.words)
        key = kw * z.lanes + kl
        finish = acc_var("i32") * -self.zq + z.words * WORD * self.zq * self.zk
        return Compute(
            self.sums_k, (self.p, kb, kw, kl), _dot(_ones(), self.packed_k[self.p, kb, kd, key]), (kd,), "add", finish,
            (self.p, kb * z.panel + key),
        )

    def _sums_v(self) -> Compute:
        """What the results of a column start with: S zw zv - zw * its sum."""
        z = self.z
        vb, vw, vl, vr = axis("vb", z.width // z.value_panel), axis("cv", z.value_panel // z.lanes), axis("cl", z.lanes), axis(
            "cr", z.key_words)
        column = vw * z.lanes + vl
        finish = acc_var("i32") * -self.zero + cast(as_expr(z.padded), "i32") * (self.zero * self.zv)
        return Compute(
            self.sums_v, (self.p, vb, vw, vl), _dot(_ones(), self.packed_v[self.p, vb, vr, column]), (vr,), "add", finish,
            (self.p, vb * z.value_panel + column),
        )

    def _sums_q(self) -> Compute:
        """What the scores of a row start with: - zk * its sum."""
        n = self.z.tile
        qo, ql = axis("qo", self.z.words // n), axis("ql", n)
        return Compute(
            self.sums_q, (self.p, self.m), _dot(self._word(self.q, (self.b, self.h, self.row), qo * n + ql), _ones()),
            (qo, ql), "add", acc_var("i32") * -self.zk,
        )

    @staticmethod
    def _word(buf: Buffer, lead: tuple[Expr, ...], word: Expr) -> Expr:
        """Four neighbours along the last axis."""
        if buf.strides is None or buf.strides[-1] == 1:
            return Load.of(buf, (*lead, word * WORD), Type("i32"))
        return _joined([load(buf, *lead, word * WORD + i) for i in range(WORD)])

    def _score(self) -> Compute:
        z, op = self.z, self.op
        so, si, d = axis("so", z.blocks), axis("si", z.panel), axis("d", z.words)
        key = so * z.panel + si
        parts = ([self.sums_k[self.p, key]] if self.zq else []) + ([self.sums_q[self.p, self.m]] if self.zk else [])
        score: Expr = cast(acc_var("i32"), "f32") * op.scores_scale
        if op.scores:
            score = _rounded(score, *op.scores[1:4]) * op.scores[4]
        hidden = const(float("-inf"), "f32")
        if self.mask:
            shape = self.mask[0].shape
            full = (self.b, self.h, self.row, self._key(key))[4 - len(shape) :]
            idx = (as_expr(0) if n == 1 else i for n, i in zip(shape, full, strict=True))
            score = score + load(self.mask[0], *idx)
        if op.sums:
            score = _rounded(score * (1 / op.sums[0]), *op.sums[1:]) * op.sums[0]
        if z.padded != z.keys:
            score = select(binary("lt", key, as_expr(z.keys)), score, hidden)
        words = _dot(self._word(self.q, (self.b, self.h, self.row), d), self.packed_k[self.p, so, d, si])
        return Compute(
            self.scores, (self.p, self.m, so, si), words, (d,), "add", score, (self.p, self.m, key), _sum(parts))

    def _softmax(self) -> list[Compute]:
        p, m, j = self.p, self.m, self.j
        safe = binary("max", self.most[p, m], -3.0e38)  # a row without any key has weights of zero
        share = 1.0 / (binary("max", acc_var("f32"), LEAST_TOTAL) * self.op.share_step)
        return [
            Compute(self.most, (p, m), self.scores[p, m, j], (j,), "max"),
            Compute(self.e, (p, m, j), call("exp", self.scores[p, m, j] - safe)),
            Compute(self.total, (p, m), self.e[p, m, j], (j,), "add", share),
        ]

    def _rounded(self) -> Compute:
        p, m, j = self.p, self.m, self.j
        share: Expr = self.e[p, m, j] * self.total[p, m]
        if self.op.shares:
            share = _rounded(share, *self.op.shares[1:]) * (self.op.shares[0] / self.step)
        whole = cast(_rounded(share, self.zero, self.low, self.high), "i32")
        return Compute(self.weights, (p, m, j), cast(whole + self.zero if self.zero else whole, "u8"))

    def _sums_w(self) -> Compute:
        """What the results of a row start with: - zv * the sum of its weights."""
        n = self.z.panel // WORD
        wo, wl = axis("wo", self.z.blocks), axis("wl", n)
        return Compute(
            self.sums_w, (self.p, self.m), _dot(self._word(self.weights, (self.p, self.m), wo * n + wl), _ones()),
            (wo, wl), "add", acc_var("i32") * -self.zv,
        )

    def _product(self) -> Compute:
        z, op = self.z, self.op
        co, ci, r = axis("co", z.width // z.value_panel), axis("ci", z.value_panel), axis("r", z.key_words)
        column = co * z.value_panel + ci
        parts = ([self.sums_v[self.p, column]] if self.zero else []) + ([self.sums_w[self.p, self.m]] if self.zv else [])
        y: Expr = cast(acc_var("i32"), "f32") * op.gain
        if op.result:
            zero, low, high = op.result
            whole = cast(_rounded(y, zero, low, high), "i32")
            y = cast(whole + zero if zero else whole, "u8")
        words = _dot(self._word(self.weights, (self.p, self.m), r), self.packed_v[self.p, co, r, ci])
        return Compute(
            self.out, (self.p, self.m, co, ci), words, (r,), "add", y, (self.b, self.h, self.row, column), _sum(parts))


def _rounded(x: Expr, zero: float, low: float, high: float) -> Expr:
    """Half to even, within the bounds, less the zero point."""
    return unary("rint", binary("min", float(high - zero), binary("max", float(low - zero), x)))


def _sum(parts: list[Expr]) -> Expr | None:
    return None if not parts else parts[0] if len(parts) == 1 else parts[0] + parts[1]


def schedule_quantized_attention(group: Group, machine: Machine) -> Scheduled:
    assert isinstance(group.op, QuantizedAttention)
    q, k, v = group.operands[:3]
    z = _Sizes(**vars(attention_sizes(q, k, v, machine)))
    (out,) = [p for p in group.params if p.name.startswith("y")]
    attention = _Attention(group.op, out, group.operands, z)
    kernel = _merge(lower_group("quantized_attention", group.params, attention.computes()), attention)
    kernel = sink(sink(kernel, ["si"]), ["ci"])
    kernel = sink(kernel, ["cl"]) if attention.zq or attention.zero else kernel
    kernel = merge(kernel, "j")  # exponentials and their sum
    kernel = rfactor(split(kernel, "j", z.lanes, "jo", "jl"), "jo", "jl")
    kernel = rfactor(kernel, "wo", "wl") if attention.zv else kernel
    kernel = rfactor(kernel, "qo", "ql") if attention.zk else kernel
    kernel, _ = tiles_of(kernel, axis("m", z.rows), ROWS, "mi")
    kernel = sink(kernel, ["mi"])
    kernel = transpose_tile(kernel, "ki", "kd")
    lanes = [name for name, used in (("jl", True), ("wl", attention.zv), ("ql", attention.zk)) if used]
    for name in ("si", "ci", *lanes):
        kernel = reorder(kernel, [name, "mi"], ["mi", name])
    kernel = split(split(kernel, "si", z.lanes, "nv", "nl"), "ci", z.lanes, "nv", "nl")
    kernel = split(split(kernel, "d", 4), "r", 4)
    kernel = unroll(kernel, "mi", "nv", "di", "ri")
    more = ["cl"] if attention.zq or attention.zero else []
    kernel = vectorize(legalize_math(parallel(kernel, "p"), machine), "nl", "vl", *lanes, *more)
    kernel = map_expressions(fma_contract(kernel) if machine.fma else kernel, _accumulate)
    return Scheduled(kernel, note=f"integers, heads in parallel, {ROWS} rows at a time, keys in panels of {z.panel}")


def _accumulate(e: Expr) -> Expr | None:
    """total + dot(0, a, b)  ->  dot(total, a, b)"""
    if not (isinstance(e, Bin) and e.op == "add" and isinstance(e.b, Call) and e.b.fn == DOT):
        return None
    start = e.b.args[0]
    start = start.a if isinstance(start, Splat) else start
    return Call.of(DOT, (e.a, *e.b.args[1:]), e.type) if isinstance(start, Const) and start.value == 0 else None


def _merge(kernel: Kernel, a: _Attention) -> Kernel:
    """One loop over heads, one over rows; temporaries live inside them."""
    kernel = merge(merge(kernel, "p"), "m")
    used = [(a.packed_k, "p", "stack", 1), (a.packed_v, "p", "stack", 1)]
    used += [(a.sums_k, "p", "stack", 1)] if a.zq else []
    used += [(a.sums_v, "p", "stack", 1)] if a.zero else []
    used += [(b, "m", "stack", 2) for b in (a.scores, a.e, a.weights)]
    used += [(b, "m", "register", 2) for b in (a.most, a.total)]
    used += [(a.sums_q, "m", "register", 2)] if a.zk else []
    used += [(a.sums_w, "m", "register", 2)] if a.zv else []
    for buf, loop, space, dims in used:
        kernel = localize(kernel, buf.name, loop, space, dims)
    return kernel
