"""Find composites that a model spells out, and write them as one operator.

    d = x - mean(x); y = d / sqrt(mean(d * d) + e) * s + t   ->   y = LayerNorm(x, s, t)
    y = x * reciprocal(sqrt(mean(x * x) + e)) * s            ->   y = RmsNorm(x, s)
    e = exp(x - max(x)); y = e / sum(e)                      ->   y = Softmax(x)
    y = MatMul(Softmax(MatMul(q, k^T) * c + mask), v)        ->   y = Attention(q, k, v, mask)     (recognise_attention)

Why: a composite has a kernel, or a fused group, of its own.  The patterns are those that remain after `simplify`:
constants on the right, powers as products.  They are matched in the old graph; a composite is written only if it leaves
nothing of the pattern behind.
"""

from __future__ import annotations

import numpy as np

from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.elementwise import Binary, Unary
from ...ir.ops.norm import LayerNorm, RmsNorm, Softmax
from ...ir.ops.reduce import Reduce
from ...ir.types import DTYPES
from .matching import function_of, leading_ones, made_by, uniform
from .recognise_attention import attention
from .replay import Replay, replay


def recognise(graph: Graph) -> Graph:
    """Norms and softmaxes first, then what is made of them."""
    graph = replay(graph, _norm_or_softmax)
    graph = rewrite_graph(graph, _RecogniseScales(graph))
    return replay(graph, attention)


def _norm_or_softmax(r: Replay, node: Node) -> Value | None:
    if not isinstance(node.op, Binary) or node.op.fn not in ("mul", "div"):
        return None
    return _softmax(r, node) or _norm(r, node)


# ---- softmax -----------------------------------------------------------------------------------------------------


def _softmax(r: Replay, node: Node) -> Value | None:
    g = r.graph
    quotient = _quotient(r, node)
    if quotient is None:
        return None
    e, total = quotient
    summed = made_by(g, total, Reduce)
    exponent = function_of(g, e, Unary, "exp")
    if summed is None or exponent is None or summed[1] != (e,) or r.uses[e] != 2 or not summed[0].keepdims:
        return None
    if summed[0].fn != "sum" or len(summed[0].axes) != 1:
        return None
    (x,) = exponent
    centred = function_of(g, x, Binary, "sub")
    if centred is not None:
        top = made_by(g, centred[1], Reduce)
        if top is not None and top[1] == (centred[0],) and top[0] == Reduce("max", summed[0].axes, True):
            x = centred[0]
    return r.b.add(Softmax(summed[0].axes[0]), *r.new(x))


def _quotient(r: Replay, node: Node) -> tuple[Value, Value] | None:
    """(a, b) if the node computes a / b, as a division or as a product with a reciprocal that only it reads."""
    a, b = node.inputs
    if node.op == Binary("div"):
        return a, b
    if node.op == Binary("mul"):
        for x, y in ((a, b), (b, a)):
            inverse = function_of(r.graph, y, Unary, "reciprocal")
            if inverse is not None and r.uses[y] == 1:
                return x, inverse[0]
    return None


# ---- norms -------------------------------------------------------------------------------------------------------


def _norm(r: Replay, node: Node) -> Value | None:
    """y / sqrt(mean(y * y) + epsilon): a LayerNorm if y = x - mean(x), else a RmsNorm; scaled by 1."""
    quotient = _quotient(r, node)
    root = function_of(r.graph, quotient[1], Unary, "sqrt") if quotient else None
    added = function_of(r.graph, root[0], Binary, "add") if root else None
    epsilon = uniform(r.graph, added[1]) if added else None
    if quotient is None or added is None or epsilon is None:
        return None
    y = quotient[0]
    axis = _mean_axis(r, added[0])
    square = made_by(r.graph, added[0], Reduce)
    if axis is None or square is None or function_of(r.graph, square[1][0], Binary, "mul") != (y, y):
        return None
    dtype = y.type.dtype
    one = r.b.constant(np.ones((), DTYPES[dtype].numpy))
    centred = function_of(r.graph, y, Binary, "sub")
    mean = made_by(r.graph, centred[1], Reduce) if centred else None
    if centred is not None and mean is not None and mean[1] == centred[:1] and _mean_axis(r, centred[1]) == axis:
        zero = r.b.constant(np.zeros((), DTYPES[dtype].numpy))
        return r.b.add(LayerNorm(axis, float(epsilon)), *r.new(centred[0]), one, zero)
    return r.b.add(RmsNorm(axis, float(epsilon)), *r.new(y), one)


def _mean_axis(r: Replay, v: Value) -> int | None:
    """The first axis, if the value is a mean over all axes from there on that keeps them."""
    made = made_by(r.graph, v, Reduce)
    if made is None or made[0].fn != "mean" or not made[0].keepdims or not made[0].axes:
        return None
    first, rank = min(made[0].axes), made[1][0].type.rank
    return first if sorted(made[0].axes) == list(range(first, rank)) else None


class _RecogniseScales:
    """A rule that takes the multiplication and the addition after a norm into it.  It looks at new values, so that both
    are taken in one replay; the norm must have no other user in the old graph."""

    def __init__(self, graph: Graph) -> None:
        self.uses = Replay(graph).uses

    def __call__(self, b: Builder, node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if not isinstance(node.op, Binary) or node.op.fn not in ("mul", "add"):
            return None
        for i in (0, 1):
            v, other = inputs[i], inputs[1 - i]
            if self.uses[node.inputs[i]] != 1 or v.type != node.outputs[0].type:
                continue
            made = _scaled(b, v, other) if node.op.fn == "mul" else _shifted(b, v, other)
            if made is not None:
                return made
        return None


def _scaled(b: Builder, v: Value, scale: Value) -> Value | None:
    for kind in (LayerNorm, RmsNorm):
        made = made_by(b, v, kind)
        if made is None or not _is_parameter(b, scale, v.type.rank - made[0].axis):
            continue
        x, old, *bias = made[1]
        unbiased = all(uniform(b, c) == 0 for c in bias)
        if uniform(b, old) == 1 and unbiased:
            return b.add(made[0], x, scale, *bias)
    return None


def _shifted(b: Builder, v: Value, shift: Value) -> Value | None:
    made = made_by(b, v, LayerNorm)
    if made is None or not _is_parameter(b, shift, v.type.rank - made[0].axis) or uniform(b, made[1][2]) != 0:
        return None
    return b.add(made[0], *made[1][:2], shift)


def _is_parameter(b: Builder, v: Value, rank: int) -> bool:
    """A constant that spans the normalised axes only."""
    return v in b.constants and v.type.rank - leading_ones(v.type.shape) <= rank
