"""The activation functions of recurrent cells: NumPy meaning and expression, by their ONNX names in lower case."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import ModelError
from ..expr import Expr, binary, call, const, select, unary


class Activation(NamedTuple):
    """A function of `ACTIVATIONS` and its parameters, where it has any."""

    fn: str
    alpha: float = 0.0
    beta: float = 0.0


class Function(NamedTuple):
    """Both of (x, alpha, beta)."""

    numpy: Callable[[np.ndarray, float, float], np.ndarray]
    expr: Callable[[Expr, float, float], Expr]


def _positive(x: Expr) -> Expr:
    return binary("max", x, 0)


def _where_negative(x: Expr, value: Expr, other: Expr) -> Expr:
    return select(binary("lt", x, 0), value, other)


def _softplus(x: Expr) -> Expr:
    return _positive(x) + call("log", call("exp", -unary("abs", x)) + 1.0)


ACTIVATIONS: dict[str, Function] = {
    "affine": Function(lambda x, a, b: a * x + b, lambda x, a, b: x * a + b),
    "relu": Function(lambda x, a, b: np.maximum(x, 0), lambda x, a, b: _positive(x)),
    "leakyrelu": Function(
        lambda x, a, b: np.where(x < 0, a * x, x), lambda x, a, b: _where_negative(x, x * a, x)
    ),
    "thresholdedrelu": Function(
        lambda x, a, b: np.where(x > a, x, 0),
        lambda x, a, b: select(binary("lt", a, x), x, const(0, x.type)),
    ),
    "tanh": Function(lambda x, a, b: np.tanh(x), lambda x, a, b: call("tanh", x)),
    "scaledtanh": Function(lambda x, a, b: a * np.tanh(b * x), lambda x, a, b: call("tanh", x * b) * a),
    "sigmoid": Function(lambda x, a, b: 1 / (1 + np.exp(-x)), lambda x, a, b: call("sigmoid", x)),
    "hardsigmoid": Function(
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda x, a, b: binary("min", binary("max", x * a + b, 0), 1),
    ),
    "elu": Function(
        lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
        lambda x, a, b: _where_negative(x, (call("exp", x) - 1.0) * a, x),
    ),
    "softsign": Function(lambda x, a, b: x / (1 + np.abs(x)), lambda x, a, b: x / (unary("abs", x) + 1.0)),
    "softplus": Function(lambda x, a, b: np.logaddexp(x, 0), lambda x, a, b: _softplus(x)),
}


def require_activation(activation: Activation) -> None:
    """Raises ModelError for a function that is not in the table."""
    if activation.fn not in ACTIVATIONS:
        raise ModelError(f"unknown activation {activation.fn!r}, expected one of {', '.join(ACTIVATIONS)}")


def activate(activation: Activation, clip: float, x: np.ndarray) -> np.ndarray:
    """The function of an array, clipped to -clip..clip before (0: not clipped)."""
    x = np.clip(x, -clip, clip) if clip else x
    return ACTIVATIONS[activation.fn].numpy(x, activation.alpha, activation.beta).astype(x.dtype)


def activation_expr(activation: Activation, clip: float, x: Expr) -> Expr:
    """`activate` as an expression."""
    x = binary("max", binary("min", x, clip), -clip) if clip else x
    return ACTIVATIONS[activation.fn].expr(x, activation.alpha, activation.beta)
