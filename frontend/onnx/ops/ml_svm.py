"""Support vector machines of ai.onnx.ml."""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.expr import Var
from ....ir.graph import Graph, Value
from ....ir.ops.contract import MatMul
from ....ir.ops.control import Loop
from ....ir.ops.reduce import ArgReduce, Reduce
from ....ir.types import TensorType
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op
from .ml import Floats, Ints, Strings, linear_rows, matrix
from .ml_scores import DOMAIN, labels_at, labels_of, numbers, transformed

_MOST_CLASSES = 64  # that probabilities are made for: every step of their iteration is one of each class
_LEAST = 1e-7  # probability of one of two classes


@onnx_op("SVMRegressor", since=1, domain=DOMAIN)
def svm_regressor(
    b: OnnxBuilder, x: Value, *, coefficients: Floats | None = None, kernel_params: Floats | None = None,
    kernel_type: str = "LINEAR", n_supports: int = 0, one_class: int = 0, post_transform: str = "NONE",
    rho: Floats | None = None, support_vectors: Floats | None = None,
) -> Outputs:  # fmt: skip
    rows = b.cast(numbers(b, x), "f32")
    if not rho:
        raise ModelError("attribute 'rho' is empty")
    if n_supports:
        kernel = _kernel(b, rows, matrix(support_vectors, n_supports, "support_vectors", "f32"), kernel_type, kernel_params)
        weights = matrix(coefficients, n_supports, "coefficients", "f32")
        y = b.add(MatMul(), kernel, b.constant(weights))
    else:
        y = linear_rows(b, rows, 1, coefficients, None)
    y = b.binary("add", y, rho[0])
    if one_class:
        y = b.select(b.binary("gt", y, 0), b.scalar(1, "f32"), b.scalar(-1, "f32"))
    return transformed(b, y, post_transform)


def _kernel(b: OnnxBuilder, x: Value, vectors: np.ndarray, kind: str, params: Floats | None) -> Value:
    """The kernel of every row with every support vector, [N, supports]."""
    gamma, offset, degree = params if params and len(params) == 3 else (0.0, 0.0, 0.0)
    if kind == "RBF":
        pairs = b.binary("sub", b.reshape(x, (x.type.shape[0], 1, x.type.shape[1])), b.constant(vectors))
        distance = b.add(Reduce("sum", (2,), False), b.binary("mul", pairs, pairs))
        return b.unary("exp", b.binary("mul", distance, -gamma))
    y = b.add(MatMul(), x, b.constant(np.ascontiguousarray(vectors.T)))
    if kind == "LINEAR":
        return y
    y = b.binary("add", b.binary("mul", y, gamma), offset)
    if kind == "SIGMOID":
        return b.unary("tanh", y)
    if kind != "POLY":
        raise ModelError(f"attribute 'kernel_type' is {kind!r}, expected LINEAR, POLY, RBF or SIGMOID")
    return b.binary("pow", y, int(degree))


@onnx_op("SVMClassifier", since=1, domain=DOMAIN)
def svm_classifier(
    b: OnnxBuilder, x: Value, *, classlabels_ints: Ints | None = None, classlabels_strings: Strings | None = None,
    coefficients: Floats | None = None, kernel_params: Floats | None = None, kernel_type: str = "LINEAR",
    post_transform: str = "NONE", prob_a: Floats | None = None, prob_b: Floats | None = None, rho: Floats | None = None,
    support_vectors: Floats | None = None, vectors_per_class: Ints | None = None,
) -> Outputs:  # fmt: skip
    """With support vectors every two classes are compared, and the class that wins most often is the label; the scores are
    those of the comparisons, or with prob_a and prob_b the probabilities that fit them.  Without them a linear model."""
    rows = b.cast(numbers(b, x), "f32")
    labels = classlabels_ints or classlabels_strings or ()
    count = len(labels)
    if count < 2 or not rho:
        raise ModelError(f"expected two classes at least, and rho; got {count} classes and {len(rho or ())} numbers")
    if not any(vectors_per_class or ()):
        if count == 2:
            raise ModelError("a linear model of two classes: runtimes disagree about its labels; use LinearClassifier")
        scores = b.binary("add", linear_rows(b, rows, count, coefficients, None), rho[0])
        return labels_of(b, scores, labels), transformed(b, scores, post_transform)
    sizes = vectors_per_class or ()
    if len(sizes) != count or min(sizes) < 0:
        raise ModelError(f"attribute 'vectors_per_class' has {len(sizes)} entries for {count} classes")
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    if len(rho) != len(pairs):
        raise ModelError(f"attribute 'rho' has {len(rho)} entries for {len(pairs)} pairs of classes")
    vectors = matrix(support_vectors, sum(sizes), "support_vectors", "f32")
    kernel = _kernel(b, rows, vectors, kernel_type, kernel_params)
    weights = _pair_weights(matrix(coefficients, count - 1, "coefficients", "f32"), sizes, pairs)
    scores = b.binary("add", b.add(MatMul(), kernel, b.constant(weights)), b.constant(np.array(rho, np.float32)))
    best = b.add(ArgReduce("max", 1, False, False), _votes(b, scores, count, pairs))
    if prob_a:
        scores = _probabilities(b, scores, count, pairs, prob_a, prob_b or ())
    elif count == 2:
        if post_transform.startswith("SOFTMAX"):
            raise ModelError(f"attribute 'post_transform' is {post_transform}: runtimes disagree about it for two classes")
        scores = scores if post_transform == "PROBIT" else b.concat((b.unary("neg", scores), scores), 1)
    return labels_at(b, best, labels), transformed(b, scores, post_transform)


def _pair_weights(coefficients: np.ndarray, sizes: Ints, pairs: list[tuple[int, int]]) -> np.ndarray:
    """[vectors, pairs]: a pair sums over the vectors of its two classes; a vector has one coefficient per other class."""
    if coefficients.shape[1] != sum(sizes):
        raise ModelError(f"attribute 'coefficients' has {coefficients.shape} entries for {sum(sizes)} vectors")
    starts = np.cumsum((0, *sizes))
    weights = np.zeros((sum(sizes), len(pairs)), np.float32)
    for p, (i, j) in enumerate(pairs):
        for own, other in ((i, j - 1), (j, i)):
            part = slice(starts[own], starts[own + 1])
            weights[part, p] = coefficients[other, part]
    return weights


def _votes(b: OnnxBuilder, scores: Value, count: int, pairs: list[tuple[int, int]]) -> Value:
    """How many pairs each class wins, [N, K]; the first of a pair wins if its score is positive."""
    won, lost = np.zeros((len(pairs), count), np.float32), np.zeros((len(pairs), count), np.float32)
    for p, (i, j) in enumerate(pairs):
        won[p, i] = lost[p, j] = 1
    first = b.cast(b.binary("gt", scores, 0), "f32")
    second = b.binary("sub", b.scalar(1, "f32"), first)
    return b.binary("add", b.add(MatMul(), first, b.constant(won)), b.add(MatMul(), second, b.constant(lost)))


# ---- probabilities: pairwise coupling (Wu, Lin, Weng 2004, second approach, as LIBSVM has it) ----


def _probabilities(
    b: OnnxBuilder, scores: Value, count: int, pairs: list[tuple[int, int]], slopes: Floats, offsets: Floats
) -> Value:
    """The p[N, K] with the least sum over pairs of (r_ji p_i - r_ij p_j)^2, r_ij = P(class i | class i or j)."""
    if not len(slopes) == len(offsets) == len(pairs) or count > _MOST_CLASSES:
        raise ModelError(
            f"{len(slopes)} and {len(offsets)} numbers for the probabilities of {len(pairs)} pairs of at most "
            f"{_MOST_CLASSES} classes"
        )
    a, c = (b.constant(np.array(v, np.float32)) for v in (slopes, offsets))
    logits = b.unary("neg", b.binary("add", b.binary("mul", scores, a), c))
    r = b.binary("min", b.binary("max", b.unary("sigmoid", logits), _LEAST), 1 - _LEAST)
    columns: dict[tuple[int, int], Value] = {}
    for p, (i, j) in enumerate(pairs):
        columns[i, j] = b.slice(r, 1, p, 1)
        columns[j, i] = b.binary("sub", b.scalar(1, "f32"), columns[i, j])
    rows = []
    for t in range(count):
        squares = [b.binary("mul", columns[j, t], columns[j, t]) for j in range(count) if j != t]
        total = squares[0]
        for s in squares[1:]:
            total = b.binary("add", total, s)
        row = [total if j == t else b.unary("neg", b.binary("mul", columns[j, t], columns[t, j])) for j in range(count)]
        rows.append(b.reshape(b.concat(row, 1), (scores.type.shape[0], 1, count)))
    q = b.concat(rows, 1)  # [N, K, K]
    body = _coupling(q.type, count)
    start = b.broadcast(b.scalar(1 / count, "f32"), (scores.type.shape[0], count))
    turns, go = b.scalar(max(100, count), "i64"), b.scalar(True, "bool")
    return b.add_multi(Loop(body, 1, 0, Var.of(b.unique(f"{b.hint}_turns"), None)), turns, go, start, q)[0]


def _coupling(q_type: TensorType, count: int) -> Graph:
    """One turn: rows whose error is small stay; the others move along each coordinate to its minimum."""
    b = OnnxBuilder("coupling")
    n = q_type.shape[0]
    b.input("turn", TensorType("i64", ()))
    b.input("go", TensorType("bool", ()))
    p, q = b.input("p", TensorType("f32", (n, count))), b.input("q", q_type)
    qp = b.reshape(b.add(MatMul(), q, b.reshape(p, (n, count, 1))), (n, count))
    pqp = b.add(Reduce("sum", (1,), True), b.binary("mul", p, qp))
    error = b.add(Reduce("max", (1,), True), b.unary("abs", b.binary("sub", qp, pqp)))
    moves = b.binary("ge", error, 0.005 / count)
    new = p
    for t in range(count):
        row = b.reshape(b.slice(q, 1, t, 1), (n, count))
        own, here = b.slice(row, 1, t, 1), b.slice(qp, 1, t, 1)
        diff = b.binary("div", b.binary("sub", pqp, here), own)
        grown = b.binary("add", diff, 1)
        gain = b.binary("mul", diff, b.binary("add", b.binary("mul", diff, own), b.binary("mul", here, 2)))
        pqp = b.binary("div", b.binary("add", pqp, gain), b.binary("mul", grown, grown))
        step = b.binary("mul", diff, b.constant(np.eye(count, dtype=np.float32)[t]))
        new = b.binary("div", b.binary("add", new, step), grown)
        qp = b.binary("div", b.binary("add", qp, b.binary("mul", diff, row)), grown)
    go_on = b.cast(b.add(Reduce("max", (0, 1), False), b.cast(moves, "u8")), "bool")
    return b.graph((go_on, b.select(moves, new, p)))
