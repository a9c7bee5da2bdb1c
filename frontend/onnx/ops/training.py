"""One step of an optimizer: ai.onnx.preview.training.  Operands: rate, step, then the tensors in groups, n of each."""

from __future__ import annotations

from ....ir.errors import ModelError
from ....ir.graph import Value
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op

DOMAIN = "ai.onnx.preview.training"


def _groups(xs: tuple[Value, ...], count: int) -> list[tuple[Value, ...]]:
    """Tensors x1.. g1.. h1.. as rows (x1, g1, h1), ..."""
    if not xs or len(xs) % count:
        raise ModelError(f"expected operands in groups of {count}, got {len(xs)}")
    n = len(xs) // count
    return [tuple(xs[k * n + i] for k in range(count)) for i in range(n)]


def _columns(rows: list[tuple[Value, ...]]) -> tuple[Value, ...]:
    return tuple(v for column in zip(*rows, strict=True) for v in column)


def _regularized(b: OnnxBuilder, x: Value, g: Value, norm: float) -> Value:
    return b.binary("add", b.binary("mul", x, norm), g) if norm else g


@onnx_op("Adagrad", since=1, domain=DOMAIN)
def adagrad(
    b: OnnxBuilder, rate: Value, step: Value, *xs: Value, decay_factor: float = 0.0, epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
) -> Outputs:  # fmt: skip
    rows: list[tuple[Value, ...]] = []
    for x, g, h in _groups(xs, 3):
        decayed = b.binary("add", b.binary("mul", b.cast(step, x.type.dtype), decay_factor), 1)
        r = b.binary("div", b.cast(rate, x.type.dtype), decayed)
        g = _regularized(b, x, g, norm_coefficient)
        squares = b.binary("add", h, b.binary("mul", g, g))
        root = b.binary("add", b.unary("sqrt", squares), epsilon)
        rows.append((b.binary("sub", x, b.binary("div", b.binary("mul", r, g), root)), squares))
    return _columns(rows)


@onnx_op("Adam", since=1, domain=DOMAIN)
def adam(
    b: OnnxBuilder, rate: Value, step: Value, *xs: Value, alpha: float = 0.9, beta: float = 0.999, epsilon: float = 0.0,
    norm_coefficient: float = 0.0, norm_coefficient_post: float = 0.0,
) -> Outputs:  # fmt: skip
    rows: list[tuple[Value, ...]] = []
    for x, g, v, h in _groups(xs, 4):
        dtype = x.type.dtype
        g = _regularized(b, x, g, norm_coefficient)
        v = b.binary("add", b.binary("mul", v, alpha), b.binary("mul", g, 1 - alpha))
        h = b.binary("add", b.binary("mul", h, beta), b.binary("mul", b.binary("mul", g, g), 1 - beta))
        root = b.binary("add", b.unary("sqrt", h), epsilon)
        r, t = b.cast(rate, dtype), b.cast(step, dtype)
        first, second = (b.binary("sub", b.scalar(1, dtype), b.binary("pow", b.scalar(k, dtype), t)) for k in (alpha, beta))
        corrected = b.binary("div", b.binary("mul", r, b.unary("sqrt", second)), first)
        r = b.select(b.binary("gt", t, 0), corrected, r)
        x = b.binary("sub", x, b.binary("mul", r, b.binary("div", v, root)))
        rows.append((b.binary("mul", x, 1 - norm_coefficient_post), v, h))
    return _columns(rows)


@onnx_op("Momentum", since=1, domain=DOMAIN)
def momentum(
    b: OnnxBuilder, rate: Value, step: Value, *xs: Value, alpha: float, beta: float, mode: str, norm_coefficient: float
) -> Outputs:
    if mode not in ("standard", "nesterov"):
        raise ModelError(f"attribute 'mode' must be standard or nesterov, got {mode!r}")
    rows: list[tuple[Value, ...]] = []
    for x, g, v in _groups(xs, 3):
        dtype = x.type.dtype
        g = _regularized(b, x, g, norm_coefficient)
        weight = b.select(b.binary("gt", step, 0), b.scalar(beta, dtype), b.scalar(1, dtype))
        v = b.binary("add", b.binary("mul", v, alpha), b.binary("mul", weight, g))
        move = v if mode == "standard" else b.binary("add", g, b.binary("mul", v, alpha))
        rows.append((b.binary("sub", x, b.binary("mul", b.cast(rate, dtype), move)), v))
    return _columns(rows)
