"""Recurrent layers: per direction one product with the input weights, biases added, then the core cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.activations import Activation
from ....ir.ops.contract import MatMul
from ....ir.ops.recurrent import Gru, Lstm, Recurrent, Rnn
from ....ir.types import Dim
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

# ONNX's default parameters of the activations that have any.
_DEFAULTS = {
    "affine": (1.0, 0.0), "leakyrelu": (0.01, 0.0), "thresholdedrelu": (1.0, 0.0), "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5), "elu": (1.0, 0.0),
}  # fmt: skip
_TWO_PARAMETERS = ("affine", "scaledtanh", "hardsigmoid")


@dataclass(frozen=True, eq=False)
class Layer:
    """The operands that the three operators share, time first.  Sizes: T steps, B sequences, D directions."""

    x: Value  # [T, B, I]
    w: Value  # [D, G*H, I]
    r: Value  # [D, G*H, H]
    bias: Value | None  # [D, 2*G*H]
    lengths: Value | None  # [B]
    states: tuple[Value | None, ...]  # [D, B, H] each
    units: int
    batch_first: bool
    directions: tuple[bool, ...]

    @property
    def batch(self) -> Dim:
        return self.x.type.shape[1]


def _layer(
    b: OnnxBuilder, operands: Sequence[Value | None], states: Sequence[Value | None], direction: str,
    hidden_size: int | None, layout: int,
) -> Layer:  # fmt: skip
    """operands: X, W, R, B, sequence_lens."""
    x, w, r, bias, lengths = operands
    if direction not in DIRECTIONS:
        raise ModelError(f"attribute 'direction' must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if layout not in (0, 1):
        raise ModelError(f"attribute 'layout' must be 0 or 1, got {layout}")
    count = len(DIRECTIONS[direction])
    assert x is not None and w is not None and r is not None
    units = r.type.shape[-1] if r.type.rank == 3 else None
    fits = x.type.rank == w.type.rank == r.type.rank == 3 and w.type.shape[0] == r.type.shape[0] == count
    if not fits or not isinstance(units, int) or hidden_size not in (None, units):
        raise ModelError(
            f"X {x.type}, W {w.type} and R {r.type} do not fit direction {direction!r} and hidden_size {hidden_size}"
        )
    for name, v, rank in (("B", bias, 2), *(("initial state", s, 3) for s in states)):
        if v is not None and v.type.rank != rank:
            raise ModelError(f"{name} must have {rank} dimensions, got {v.type}")
    if layout:
        x = b.transpose(x, (1, 0, 2))
        states = [None if s is None else b.transpose(s, (1, 0, 2)) for s in states]
    if lengths is not None and _full(b, lengths, x.type.shape[0]):
        lengths = None
    return Layer(x, w, r, bias, lengths, tuple(states), units, bool(layout), DIRECTIONS[direction])


def _full(b: OnnxBuilder, lengths: Value, steps: Dim) -> bool:
    """Whether every sequence is known to have all steps."""
    known = b.elements(lengths)
    return known is not None and all(n is steps or (isinstance(n, int) and n == steps) for n in known.reshape(-1))


def _one(b: OnnxBuilder, v: Value, direction: int) -> Value:
    """The entry of a direction."""
    return b.reshape(b.slice(v, 0, direction, 1), v.type.shape[1:])


def _run(
    b: OnnxBuilder, layer: Layer, cell: Callable[[int], Recurrent], gates: int,
    vector: Callable[[int], Value | None], recurrent_bias_from: int,
) -> Outputs:  # fmt: skip
    """cell, vector: by direction.  recurrent_bias_from: the first gate whose recurrent bias is not added outside."""
    h = layer.units
    made: list[tuple[Value, ...]] = []
    for d in range(len(layer.directions)):
        weights = b.transpose(_one(b, layer.w, d), (1, 0))
        xw = b.add(MatMul(), layer.x, weights)
        if layer.bias is not None:
            row = _one(b, layer.bias, d)
            recurrent = b.slice(row, 0, gates * h, recurrent_bias_from * h)
            if recurrent_bias_from < gates:
                rest = b.broadcast(b.scalar(0, row.type.dtype), ((gates - recurrent_bias_from) * h,))
                recurrent = b.concat([recurrent, rest], 0)
            xw = b.binary("add", xw, b.binary("add", b.slice(row, 0, 0, gates * h), recurrent))
        extra = vector(d)
        zero = b.scalar(0, layer.x.type.dtype)
        states = [
            b.broadcast(zero, (layer.batch, h)) if s is None else _one(b, s, d) for s in layer.states
        ]
        operands = [xw, b.transpose(_one(b, layer.r, d), (1, 0)), *([extra] if extra is not None else []), *states]
        operands += [] if layer.lengths is None else [b.cast(layer.lengths, "i32")]
        made.append(b.add_multi(cell(d), *operands))
    return _collected(b, layer, made)


def _collected(b: OnnxBuilder, layer: Layer, made: Sequence[tuple[Value, ...]]) -> Outputs:
    """Y [T, D, B, H] and the last states [D, B, H]; with batches first [B, T, D, H] and [B, D, H]."""
    ys = [b.reshape(y, (y.type.shape[0], 1, *y.type.shape[1:])) for y, *_ in made]
    y = b.concat(ys, 1)
    lasts = [b.concat([b.reshape(s, (1, *s.type.shape)) for s in each], 0) for each in zip(*(m[1:] for m in made), strict=True)]
    if layer.batch_first:
        y = b.transpose(y, (2, 0, 1, 3))
        lasts = [b.transpose(s, (1, 0, 2)) for s in lasts]
    return (y, *lasts)


def _activations(
    names: Sequence[str] | None, alphas: Sequence[float] | None, betas: Sequence[float] | None, defaults: Sequence[str],
    directions: int,
) -> list[tuple[Activation, ...]]:  # fmt: skip
    """Per direction.  The parameters are consumed in order by those functions that have some."""
    given = [n.lower() for n in names or [*defaults] * directions]
    if len(given) != len(defaults) * directions:
        raise ModelError(f"attribute 'activations' must have {len(defaults) * directions} names, got {given}")
    first, second = list(alphas or ()), list(betas or ())
    made: list[Activation] = []
    for name in given:
        alpha, beta = _DEFAULTS.get(name, (0.0, 0.0))
        if name in _DEFAULTS and first:
            alpha = first.pop(0)
        if name in _TWO_PARAMETERS and second:
            beta = second.pop(0)
        made.append(Activation(name, alpha, beta))
    return [tuple(made[i : i + len(defaults)]) for i in range(0, len(made), len(defaults))]


@onnx_op("LSTM", since=7)
def lstm(
    b: OnnxBuilder, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
    h: Value | None = None, c: Value | None = None, p: Value | None = None, *,
    activation_alpha: tuple[float, ...] | None = None, activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None, clip: float = 0.0, direction: str = "forward",
    hidden_size: int | None = None, input_forget: int = 0, layout: int = 0,
) -> Outputs:  # fmt: skip
    layer = _layer(b, (x, w, r, bias, lengths), (h, c), direction, hidden_size, layout)
    if p is not None and p.type.rank != 2:
        raise ModelError(f"P must have 2 dimensions, got {p.type}")
    names = ("sigmoid", "tanh", "tanh")
    functions = _activations(activations, activation_alpha, activation_beta, names, len(layer.directions))

    def cell(d: int) -> Recurrent:
        return Lstm(
            layer.directions[d], functions[d], clip, layer.lengths is not None, p is not None, bool(input_forget)
        )

    return _run(b, layer, cell, 4, lambda d: None if p is None else _one(b, p, d), 4)


@onnx_op("GRU", since=7)
def gru(
    b: OnnxBuilder, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
    h: Value | None = None, *, activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None, activations: tuple[str, ...] | None = None, clip: float = 0.0,
    direction: str = "forward", hidden_size: int | None = None, layout: int = 0, linear_before_reset: int = 0,
) -> Outputs:  # fmt: skip
    """linear_before_reset: the reset gate scales the candidate's recurrent bias too, so it goes to the cell."""
    layer = _layer(b, (x, w, r, bias, lengths), (h,), direction, hidden_size, layout)
    functions = _activations(
        activations, activation_alpha, activation_beta, ("sigmoid", "tanh"), len(layer.directions)
    )
    inner = bool(linear_before_reset)

    def cell(d: int) -> Recurrent:
        return Gru(layer.directions[d], functions[d], clip, layer.lengths is not None, inner)

    def candidate_bias(d: int) -> Value | None:
        if not inner:
            return None
        if bias is None:
            return b.broadcast(b.scalar(0, x.type.dtype), (layer.units,))
        return b.slice(_one(b, bias, d), 0, 5 * layer.units, layer.units)

    return _run(b, layer, cell, 3, candidate_bias, 2 if inner else 3)


@onnx_op("RNN", since=7)
def rnn(
    b: OnnxBuilder, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
    h: Value | None = None, *, activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None, activations: tuple[str, ...] | None = None, clip: float = 0.0,
    direction: str = "forward", hidden_size: int | None = None, layout: int = 0,
) -> Outputs:  # fmt: skip
    layer = _layer(b, (x, w, r, bias, lengths), (h,), direction, hidden_size, layout)
    if activations is not None:
        activations = activations[: len(layer.directions)]  # the schema's default has one for each of two directions
    functions = _activations(activations, activation_alpha, activation_beta, ("tanh",), len(layer.directions))

    def cell(d: int) -> Recurrent:
        return Rnn(layer.directions[d], functions[d], clip, layer.lengths is not None)

    return _run(b, layer, cell, 1, lambda d: None, 1)
