"""Recognise scaled dot-product attention.

    s = MatMul(q * c, Transpose[.., D, S](k) * c); p = Softmax(s + mask); y = MatMul(p, v)
    ->   y = Attention[scale = c * c](q, k, v, mask)

- Factors may stand before or after the product, also above the reshapes and transposes of q and k.
- Leading dimensions become [B, H]: one of them is H, none is B = H = 1.
- Heads of k and v that are repeated for groups of query heads (Reshape(Broadcast(Reshape(k)))) are taken unrepeated.
- Exporters guard the softmax against rows that are masked whole: p' = Select(isnan(p), 0, p).  Without such rows the
  guard does nothing (for finite scores); if the mask is computed, it becomes a Select on the rows of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.graph import Node, Value
from ...ir.ops.contract import MatMul
from ...ir.ops.elementwise import Binary, Select, Unary
from ...ir.ops.movement import Broadcast, Reshape, Transpose
from ...ir.ops.norm import Attention, Softmax
from ...ir.ops.reduce import Reduce
from ...ir.types import Dim, is_float
from .layout import identity, reshape, transpose
from .matching import function_of, made_by, scalar, uniform
from .replay import Replay


@dataclass(frozen=True)
class _Scores:
    """q: [.., M, D] and keys: [.., D, S] with their product times scale, plus mask."""

    q: Value
    keys: Value
    scale: float
    mask: Value | None


def attention(r: Replay, node: Node) -> Value | None:
    """The rule: for the second product, the whole attention."""
    if not isinstance(node.op, MatMul) or not is_float(node.outputs[0].type.dtype):
        return None
    weights, guarded = _unguarded(r, node.inputs[0])
    softmax = made_by(r.graph, weights, Softmax)
    if softmax is None or softmax[0].axis != weights.type.rank - 1:
        return None
    scores = _scores(r, softmax[1][0])
    if scores is None or not _fits(scores, node):
        return None
    return _write(r, node, scores, guarded)


def _unguarded(r: Replay, v: Value) -> tuple[Value, bool]:
    """(p, True) for Select(isnan(p), 0, p) that only one node reads, else (v, False)."""
    made = made_by(r.graph, v, Select)
    if made is None or r.uses[v] != 1:
        return v, False
    condition, zero, p = made[1]
    guards = function_of(r.graph, condition, Unary, "isnan") == (p,) and uniform(r.graph, zero) == 0
    return (p, True) if guards and r.uses[p] == 2 else (v, False)


# ---- the scores --------------------------------------------------------------------------------------------------


def _scores(r: Replay, v: Value) -> _Scores | None:
    """The pattern above the softmax; every value in it has one user."""
    mask: Value | None = None
    added = function_of(r.graph, v, Binary, "add") if r.uses[v] == 1 else None
    if added is not None:
        for product, other in (added, added[::-1]):
            found = _scaled_product(r, product)
            if found is not None:
                mask, v = other, product
                break
    found = _scaled_product(r, v)
    if found is None:
        return None
    (q, keys), scale = found
    if mask is not None and not _broadcasts_into(mask, v):
        return None
    return _Scores(q, keys, scale, mask)


def _scaled_product(r: Replay, v: Value) -> tuple[tuple[Value, ...], float] | None:
    v, scale = _without_factor(r, v)
    made = made_by(r.graph, v, MatMul)
    return (made[1], scale) if made is not None and r.uses[v] == 1 else None


def _without_factor(r: Replay, v: Value) -> tuple[Value, float]:
    """(x, c) for x * c or x / (1 / c) with one finite number c != 0 that only one node reads, else (v, 1)."""
    made = made_by(r.graph, v, Binary)
    if made is None or made[0].fn not in ("mul", "div") or r.uses[v] != 1:
        return v, 1.0
    x, factor = made[1]
    number = uniform(r.graph, factor)
    if number is None or not np.isfinite(float(number)) or float(number) == 0 or x.type != v.type:
        return v, 1.0
    return x, float(number) if made[0].fn == "mul" else 1 / float(number)


def _broadcasts_into(mask: Value, scores: Value) -> bool:
    """Whether adding the mask leaves the shape of the scores."""
    pairs = zip(reversed(mask.type.shape), reversed(scores.type.shape), strict=False)
    return mask.type.rank <= scores.type.rank and all(m in (1, n) for m, n in pairs)


def _fits(scores: _Scores, node: Node) -> bool:
    """Ranks of 2 to 4 with equal leading dimensions."""
    q, keys, v = scores.q.type, scores.keys.type, node.inputs[1].type
    return 2 <= q.rank <= 4 and q.rank == keys.rank == v.rank and q.shape[:-2] == keys.shape[:-2] == v.shape[:-2]


# ---- the result --------------------------------------------------------------------------------------------------


def _write(r: Replay, node: Node, scores: _Scores, guarded: bool) -> Value | None:
    b = r.b
    q, q_scale = _unscaled(r, scores.q)
    keys, k_scale = _unscaled(r, scores.keys)
    swap = (*identity(keys.type.rank - 2), keys.type.rank - 1, keys.type.rank - 2)
    if not _is_view(r, keys):
        return None
    (v,) = r.new(node.inputs[1])
    k, v = _as_heads(r, transpose(b, keys, swap)), _as_heads(r, v)
    shared_k, shared_v = _without_repeats(r, k), _without_repeats(r, v)
    if shared_k.type.shape[1] == shared_v.type.shape[1]:
        k, v = shared_k, shared_v
    mask = () if scores.mask is None else r.new(scores.mask)
    wide = [_as_heads(r, m) for m in mask]
    y = b.add(Attention(scores.scale * q_scale * k_scale, False), _as_heads(r, q), k, v, *wide)
    if guarded and not all(_spares_every_row(r, m) for m in mask):
        y = _guard(r, y, *wide)
    return reshape(b, y, node.outputs[0].type.shape)


def _is_view(r: Replay, keys: Value) -> bool:
    """Whether taking the keys row by row adds no Transpose."""
    return keys in r.b.constants or bool(made_by(r.b, keys, Transpose) or made_by(r.b, keys, Reshape))


def _unscaled(r: Replay, old: Value) -> tuple[Value, float]:
    """The new value without a factor that stands above its reshapes and transposes, and that factor."""
    x, scale = _without_factor(r, old)
    if x is not old:
        inner, more = _unscaled(r, x)
        return inner, scale * more
    node = r.graph.producers.get(old)
    if node is not None and isinstance(node.op, (Reshape, Transpose)) and r.uses[old] == 1:
        inner, scale = _unscaled(r, node.inputs[0])
        if scale != 1:
            op = node.op
            return (transpose(r.b, inner, op.perm) if isinstance(op, Transpose) else reshape(r.b, inner, op.shape)), scale
    return r.new(old)[0], 1.0


def _as_heads(r: Replay, x: Value) -> Value:
    """[B, H, rows, columns]"""
    return reshape(r.b, x, (1,) * (4 - x.type.rank) + x.type.shape)


def _without_repeats(r: Replay, x: Value) -> Value:
    """x[B, H, S, D] with groups of equal heads as x[B, G, S, D]; x itself where there are none."""
    turned = made_by(r.b, x, Transpose)
    merged, perm = (turned[1][0], turned[0].perm) if turned else (x, identity(4))
    joined = made_by(r.b, merged, Reshape)
    repeated = made_by(r.b, joined[1][0], Broadcast) if joined else None
    if repeated is None or len(repeated[0].shape) != 5:
        return x
    (source,), shape = repeated[1], repeated[0].shape
    heads = perm[1]
    unrepeated = (*shape[: heads + 1], 1, *shape[heads + 2 :])
    if (1,) * (5 - source.type.rank) + source.type.shape != unrepeated or not _joins(shape, merged.type.shape, heads):
        return x
    return transpose(r.b, reshape(r.b, source, (*shape[: heads + 1], *shape[heads + 2 :])), perm)


def _joins(wide: tuple[Dim, ...], merged: tuple[Dim, ...], axis: int) -> bool:
    """Whether a Reshape joins an axis with the next one, and leaves the others."""
    return merged[:axis] == wide[:axis] and merged[axis + 1 :] == wide[axis + 2 :]


def _spares_every_row(r: Replay, mask: Value) -> bool:
    """Whether the mask is a constant without a row that is -inf throughout."""
    constant = r.b.constants.get(mask)
    return constant is not None and not np.any(np.max(constant, axis=-1, initial=-np.inf) == -np.inf)


def _guard(r: Replay, y: Value, mask: Value) -> Value:
    """y with zeros in the rows whose mask is -inf throughout."""
    dtype = y.type.dtype
    top = r.b.add(Reduce("max", (3,), True), mask)
    dead = r.b.add(Binary("eq"), top, scalar(r.b, -np.inf, dtype))
    return r.b.add(Select(), dead, scalar(r.b, 0, dtype), y)
