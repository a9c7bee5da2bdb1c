"""Attention of a quantized model as one operator on integers.

    s = MatMul(q, kT) * c; s = Dequantize(Quantize(s)) * d + mask; p = Dequantize(Quantize(Softmax(s))); y = MatMul(p, v)
    ->   y = QuantizedAttention(q, k, v, mask)      q, k, v: integers; with Quantize(y), its result are integers too

where q, kT and v are dequantized.  The pair on s, the factors and the mask may be missing, and there may be pairs on what the
softmax reads and directly on its result; a guard against rows without keys (Select(isnan(p), 0, p)) is part of the operator.
Elementwise functions of one value that stand below the reshapes and transposes of heads change places with them, so that the
product in front computes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ...ir.graph import Builder, Node, Value
from ...ir.ops.contract import MatMul
from ...ir.ops.elementwise import Binary, Cast, Select, Unary
from ...ir.ops.movement import Reshape, Transpose
from ...ir.ops.norm import Softmax
from ...ir.ops.quantize import Dequantize, Lookup, Quantize, Saturate
from ...ir.ops.quantized_attention import QuantizedAttention
from .layout import identity, reshape, transpose
from .matching import function_of, made_by, uniform
from .quantized_replay import Replay, one
from .quantized_values import BYTES, Affine, Attended, Storage, stored_as

STORAGE = Storage("u8", "i8")
MOST_KEYS = 33025  # sums of 255 * 255 for each of them fit 32 bits


@dataclass(frozen=True)
class _Grid:
    """What a pair of Quantize and Dequantize does: clamp(rint(x / step) + zero, low, high), less zero, times step."""

    x: Value
    step: float
    zero: int
    low: int
    high: int
    dtype: str


def quantized_attention(s: Replay, node: Node) -> Attended | None:
    """The rule: for the second product, the whole attention."""
    if s.native is None or s.storage != STORAGE or node.inputs[0].type.rank not in (3, 4):
        return None
    v = _operand(s, node.inputs[1])
    weights = _grid(s, node.inputs[0])
    if v is None or weights is None:
        return None
    result, uses = _unguarded(s, weights.x)
    shares = _grid(s, result, uses)
    softmax = made_by(s.graph, result if shares is None else shares.x, Softmax)
    if softmax is None or softmax[0].axis != node.inputs[0].type.rank - 1:
        return None
    sums = _grid(s, softmax[1][0])
    found = _scores(s, softmax[1][0] if sums is None else sums.x)
    if found is None:
        return None
    product, scale, scores, mask = found
    q, keys = (_operand(s, x) for x in product.inputs)
    shapes = [x.type.shape for x in (*product.inputs, node.inputs[1])]
    if q is None or keys is None or len({tuple(shape[:-2]) for shape in shapes}) != 1:
        return None
    shift = s.storage.shift(weights.dtype)
    op = QuantizedAttention(
        scale * float(q.scale) * float(keys.scale), tuple(int(r.zero) for r in (q, keys, v)), scores,  # type: ignore[arg-type]
        (weights.step, weights.zero + shift, weights.low + shift, weights.high + shift), weights.step * float(v.scale), (),  # type: ignore[arg-type]
        *(() if g is None else (g.step, g.zero, g.low, g.high) for g in (sums, shares)),
    )
    return _attended(s, node, op, (q, keys, v), mask, product)


def _attended(
    s: Replay, node: Node, op: QuantizedAttention, records: tuple[Affine, ...], mask: Value | None, product: Node
) -> Attended | None:
    q, keys, v = (_heads(s.b, views_last(s.b, r.stored)) for r in records)
    k = views_last(s.b, transpose(s.b, keys, (*identity(2), 3, 2)))
    more = () if mask is None else (s.value(mask),)
    keys_known = k.type.shape[2]
    few = not isinstance(keys_known, int) or keys_known <= MOST_KEYS
    if not few or not s.native(op, tuple(x.type for x in (q, k, v, *more))):  # type: ignore[misc]
        return None
    for names in s.refused.values():
        if product.where in names:
            names.remove(product.where)
    shape = node.outputs[0].type.shape

    def make(gain: float, result: tuple[int, ...]) -> Value:
        made = s.b.add(replace(op, gain=op.gain * gain, result=result), q, k, v, *more, where=node.where)
        return reshape(s.b, made, shape)

    return Attended(make)


def _heads(b: Builder, v: Value) -> Value:
    return v if v.type.rank == 4 else reshape(b, v, (1, *v.type.shape))


def _operand(s: Replay, old: Value) -> Affine | None:
    """Bytes with known parameters; the left ones as they are multiplied."""
    r = s.record(old)
    known = isinstance(r, Affine) and r.stored.type.dtype in BYTES
    if not known or isinstance(r.zero, Value) or isinstance(r.scale, Value):  # pyright: ignore
        return None
    return stored_as(s.b, r, s.storage)  # type: ignore[arg-type, return-value]


def _read_once(s: Replay, v: Value) -> bool:
    return s.uses[v] == 1


def _grid(s: Replay, v: Value, uses: int = 1) -> _Grid | None:
    """The pair that made a value that is read so often, both of one scale and zero point for the whole tensor."""
    back = made_by(s.graph, v, Dequantize)
    forth = made_by(s.graph, back[1][0], Quantize) if back is not None and s.uses[v] == uses else None
    if back is None or forth is None or not _read_once(s, back[1][0]) or forth[0].to not in BYTES:
        return None
    numbers = []
    for operands in (back[1], forth[1]):
        scale, zero = one(s.array(operands[1])), one(s.array(operands[2])) if len(operands) > 2 else np.zeros((), np.int64)
        if scale is None or zero is None or scale.dtype != np.float32 or not 2.0**-126 <= float(scale) <= 2.0**126:
            return None
        numbers.append((float(scale), int(zero)))
    if numbers[0] != numbers[1]:
        return None
    (step, zero), op = numbers[0], forth[0]
    return _Grid(forth[1][0], step, zero, op.low, op.high, op.to)


def _unguarded(s: Replay, v: Value) -> tuple[Value, int]:
    """(p, its readers) for Select(isnan(p), 0, p), else (v, 1)."""
    made = made_by(s.graph, v, Select)
    if made is None or not _read_once(s, v):
        return v, 1
    condition, zero, p = made[1]
    guards = function_of(s.graph, condition, Unary, "isnan") == (p,) and uniform(s.graph, zero) == 0
    return (p, 2) if guards else (v, 1)


def _factor(s: Replay, v: Value) -> tuple[Value, float]:
    """(x, c) for x * c or x / (1 / c), else (v, 1)."""
    made = made_by(s.graph, v, Binary)
    if made is None or made[0].fn not in ("mul", "div") or not _read_once(s, v):
        return v, 1.0
    x, c = made[1]
    number = one(s.array(c))
    if number is None or x.type != v.type or not np.isfinite(number) or number <= 0:
        return v, 1.0
    return x, float(number) if made[0].fn == "mul" else 1 / float(number)


def _scores(s: Replay, v: Value) -> tuple[Node, float, tuple[float, ...], Value | None] | None:
    """(the first product, its factor, the pair below it and the factor below that, the mask) of what a softmax reads."""
    found = _product(s, v)
    if found is not None:
        return (*found, None)
    added = function_of(s.graph, v, Binary, "add") if _read_once(s, v) else None
    for product, mask in (added, added[::-1]) if added is not None else ():
        found = _product(s, product)
        if found is not None and _broadcasts(mask, v):
            return (*found, mask)
    return None


def _product(s: Replay, v: Value) -> tuple[Node, float, tuple[float, ...]] | None:
    v, factor = _factor(s, v)
    grid = _grid(s, v)
    scores: tuple[float, ...] = ()
    if grid is not None:
        scores = (grid.step, grid.zero, grid.low, grid.high, grid.step * factor)
        v, factor = _factor(s, grid.x)
    made = s.graph.producers.get(v)
    multiplies = made is not None and isinstance(made.op, MatMul) and not made.op.to and _read_once(s, v)
    return (made, factor, scores) if multiplies else None  # type: ignore[return-value]


def _broadcasts(mask: Value, scores: Value) -> bool:
    pairs = zip(reversed(mask.type.shape), reversed(scores.type.shape), strict=False)
    return mask.type.rank <= scores.type.rank and mask.type.dtype == "f32" and all(m in (1, n) for m, n in pairs)


# ---- functions of one value below reshapes and transposes ----------------------------------------------------------------


def views_last(b: Builder, v: Value) -> Value:
    """f(view(x)) -> view(f(x)), for a chain of elementwise functions of one value and of numbers, and of reshapes and
    transposes.  A transpose that moves elements would otherwise be part of their loops."""
    chain: list[Callable[[Value], Value]] = []
    while True:
        inner = _inner(b, v)
        if inner is None:
            break
        v, again = inner
        chain.append(again)
    views: list[Node] = []
    while (node := b.producers.get(v)) is not None and isinstance(node.op, (Reshape, Transpose)):
        views.append(node)
        v = node.inputs[0]
    for again in reversed(chain):
        v = again(v)
    for node in reversed(views):
        v = b.add(node.op, v, where=node.where)
    return v


def _inner(b: Builder, v: Value) -> tuple[Value, Callable[[Value], Value]] | None:
    """The value that an elementwise operator reads beside numbers, and that operator on another one; None for views and
    all else."""
    node = b.producers.get(v)
    if node is None or not isinstance(node.op, (Unary, Binary, Cast, Saturate, Lookup)):
        return None
    operands = node.inputs[:1] if isinstance(node.op, Lookup) else node.inputs
    moving = [x for x in operands if x.type.shape == v.type.shape and x not in b.constants]
    fixed = all(x in moving or (x in b.constants and b.constants[x].size == 1 and x.type.rank == 0) for x in operands)
    if len(moving) != 1 or not fixed:
        return None

    def again(x: Value) -> Value:
        return b.add(node.op, *(x if old is moving[0] else old for old in node.inputs), where=node.where)

    return moving[0], again
