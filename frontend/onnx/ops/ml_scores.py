"""From raw scores to the outputs of classifiers and regressors of ai.onnx.ml: transforms, labels."""

from __future__ import annotations

import math

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.norm import Softmax
from ....ir.ops.reduce import ArgReduce, Reduce
from ..builder import OnnxBuilder

DOMAIN = "ai.onnx.ml"
_TINY = 1e-7  # SOFTMAX_ZERO: scores nearer to 0 than this stay near 0


def numbers(b: OnnxBuilder, x: Value) -> Value:
    """Rows of features as floats: f64 stays, everything else is f32."""
    if x.type.rank == 1:
        x = b.reshape(x, (1, *x.type.shape))
    if x.type.rank != 2:
        raise ModelError(f"expected rows of features, got {x.type}")
    return x if x.type.dtype == "f64" else b.cast(x, "f32")


def transformed(b: OnnxBuilder, scores: Value, transform: str) -> Value:
    """Scores [N, K] after `post_transform`."""
    if transform == "NONE":
        return scores
    if transform == "LOGISTIC":
        return b.unary("sigmoid", scores)
    if transform == "SOFTMAX":
        return b.add(Softmax(1), scores)
    if transform == "SOFTMAX_ZERO":
        return _softmax_zero(b, scores)
    if transform == "PROBIT":
        return _probit(b, scores)
    raise ModelError(f"attribute 'post_transform' is {transform!r}, which is not supported")


def _softmax_zero(b: OnnxBuilder, scores: Value) -> Value:
    """A softmax in which scores of 0 weigh nothing."""
    top = b.add(Reduce("max", (1,), True), scores)
    large = b.binary("gt", b.unary("abs", scores), _TINY)
    shrunk = b.binary("mul", scores, b.unary("exp", b.unary("neg", top)))
    powers = b.select(large, b.unary("exp", b.binary("sub", scores, top)), shrunk)
    total = b.add(Reduce("sum", (1,), True), powers)
    none = b.binary("eq", total, 0)
    share = b.binary("div", powers, b.select(none, b.scalar(1, scores.type.dtype), total))
    return b.select(none, b.scalar(0.5, scores.type.dtype), share)


def _probit(b: OnnxBuilder, scores: Value) -> Value:
    """sqrt(2) * erfinv(2 s - 1), by Winitzki's approximation, as the standard's reference has it."""
    x = b.binary("sub", b.binary("mul", scores, 2), 1)
    rest = b.binary("sub", b.scalar(1, x.type.dtype), b.binary("mul", x, x))
    log = b.unary("log", rest)
    v = b.binary("add", b.binary("mul", log, 0.5), 2 / (math.pi * 0.147))
    inner = b.binary("sub", b.binary("mul", v, v), b.binary("mul", log, 1 / 0.147))
    size = b.unary("sqrt", b.binary("sub", b.unary("sqrt", inner), v))
    signed = b.select(b.binary("lt", x, 0), b.unary("neg", size), size)
    signed = b.select(b.binary("eq", rest, 0), b.scalar(0, x.type.dtype), signed)
    return b.binary("mul", signed, 1.41421356)


def labels_of(b: OnnxBuilder, scores: Value, labels: tuple[int, ...] | tuple[str, ...]) -> Value:
    """The label of the largest score of every row, the first one of several."""
    return labels_at(b, b.add(ArgReduce("max", 1, False, False), scores), labels)


def labels_at(b: OnnxBuilder, best: Value, labels: tuple[int, ...] | tuple[str, ...]) -> Value:
    """The labels at these positions."""
    if labels == tuple(range(len(labels))):
        return best
    return b.gather(b.constant(np.array(labels, object if isinstance(labels[0], str) else np.int64)), best, 0)
