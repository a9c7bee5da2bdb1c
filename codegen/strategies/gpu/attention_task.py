"""What every strategy for attention needs of the operator: its buffers, and the scores as the exponents of their weights.

    weight of key j for query i = 2 ** (exponent(i, j) - the largest exponent of i)
    exponent = (scale * q_i k_j + mask) * log2(e)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ....ir.expr import Expr, all_of, as_expr, binary, cast, const, fma, load, select
from ....ir.kernel import Buffer
from ....ir.ops.norm import Attention
from ..scheduled import Group

LOG2_E = math.log2(math.e)
LEAST = -2.3e38  # of masks; times log2(e) it is a number yet
HALVES = ("f16", "bf16")


@dataclass(frozen=True)
class AttentionTask:
    """The operator on q[B, H, M, D], k[B, G, S, D], v[B, G, S, E] and a mask broadcast to [B, H, M, S]; out[B, H, M, E]."""

    op: Attention
    q: Buffer
    k: Buffer
    v: Buffer
    mask: Buffer | None
    out: Buffer

    @property
    def keys(self) -> int:
        return self.k.static_shape[2]

    @property
    def sharing(self) -> int:
        """Heads of queries that read the same keys and values."""
        return self.q.static_shape[1] // self.k.static_shape[1]

    def steps(self, tile: Expr, queries: int, at_once: int) -> Expr:
        """How many pieces of `at_once` keys the queries of a tile see."""
        every = -(-self.keys // at_once)
        if not self.op.causal:
            return as_expr(every)
        last = tile * queries + (queries + self.keys - self.q.static_shape[2] + at_once - 1)
        return binary("min", last / at_once, every)

    def exponent(self, score: Expr, batch: Expr, head: Expr, query: Expr, key: Expr, step: int) -> Expr:
        """Of one sum q k: minus infinity where the query does not see the key.  step: keys beyond the last one occur if
        their number is no multiple of it; queries beyond the last one get what nobody reads."""
        rows = self.q.static_shape[2]
        scale = const(self.op.scale * LOG2_E, "f32")
        value = score * scale
        if self.mask is not None:
            full = (batch, head, binary("min", query, rows - 1), binary("min", key, self.keys - 1))
            sizes = self.mask.static_shape
            index = tuple(i if size > 1 else as_expr(0) for i, size in zip(full[4 - len(sizes):], sizes, strict=True))
            value = fma(score, scale, _exponent(cast(load(self.mask, *index), "f32")))
        seen = [binary("lt", key, self.keys)] if self.keys % step else []
        if self.op.causal:
            seen.append(binary("le", key, query + (self.keys - rows)))
        return select(all_of(seen), value, const(float("-inf"), "f32")) if seen else value


def _exponent(mask: Expr) -> Expr:
    """mask * log2(e), finite where the mask is: a row in which all keys have the least number has equal weights."""
    return select(binary("lt", float("-inf"), mask), binary("max", mask, LEAST) * LOG2_E, mask)


def attention_task(group: Group) -> AttentionTask:
    """The task of a group that is one operator."""
    assert isinstance(group.op, Attention)
    q, k, v, *mask = group.operands
    out = next(p for p in group.params if p.name.startswith("y"))
    return AttentionTask(group.op, q, k, v, mask[0] if mask else None, out)
