"""Recurrent cells, one direction each: Lstm, Gru, Rnn.

The product of the inputs with their weights, with all biases, is a MatMul outside: a cell is given xw[T, B, G*H] and
the recurrent weights r[H, G*H], and computes h @ r itself.  T steps, B sequences, H units, G gates in ONNX's order.
Outputs: y[T, B, H], then the last states [B, H].  A reversed cell reads and writes from the last step to the first.
With `lengths` the last operand is lengths[B] (i32), the number of steps of each sequence: a reversed cell begins
there, y is zero behind it, the last state is the one reached.  Half floats are computed in f32, the state is rounded
each step.  `clip` bounds the operand of every activation; 0 means no bound.

The kernel is parallel over sequences; a step is a product into scratch memory and a loop over units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from ..dims import as_dim
from ..errors import InternalError
from ..expr import Expr, Type, as_expr, binary, cast, const, load
from ..kernel import Alloc, Block, Buffer, For, If, Kernel, axis, store
from ..types import Dim, TensorType, is_float
from .activations import Activation, activate, activation_expr, require_activation
from .arithmetic import arithmetic_dtype, read, widen
from .base import Op
from .operands import require, require_count

T = TypeVar("T")
SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")


@dataclass(frozen=True)
class Recurrent(Op):
    """What the cells share.  Operands: xw, r, a vector of the cell where it has one, the initial states, lengths."""

    gates: ClassVar[int]
    states: ClassVar[int]

    reverse: bool = False
    activations: tuple[Activation, ...] = ()
    clip: float = 0.0
    lengths: bool = False

    @property
    def vector(self) -> int:
        """How many times H elements the extra vector has; 0 if there is none."""
        return 0

    @property
    def functions(self) -> int:
        """How many activations the cell has."""
        raise InternalError(f"{self.name} has no functions")

    def cell(self, xw: np.ndarray, r: np.ndarray, vector: np.ndarray | None, *states: np.ndarray) -> list[np.ndarray]:
        """One step: the new states, h first, from xw[N, G*H] and states[N, H], all in the arithmetic type."""
        raise InternalError(f"{self.name} has no cell")

    def step(self, s: Step) -> Block:
        """The loops of one step of one sequence; they end by `s.finish` for every unit."""
        raise InternalError(f"{self.name} has no step")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2 + bool(self.vector) + self.states + self.lengths)
        require(len(self.activations) == self.functions, self, "expected {} activations", self.functions)
        for a in self.activations:
            require_activation(a)
        xw, r = types[:2]
        ranks = (xw.rank, r.rank) == (3, 2)
        require(ranks and is_float(xw.dtype), self, "expected floats xw[T, B, G*H] and r[H, G*H], got {}, {}", xw, r)
        steps, batch, width = xw.shape
        units = r.shape[0]
        state = TensorType(xw.dtype, (batch, units))
        wanted = [xw, TensorType(xw.dtype, (units, as_dim(units * self.gates)))]
        wanted += [TensorType(xw.dtype, (as_dim(units * self.vector),))] if self.vector else []
        wanted += [state] * self.states + [TensorType("i32", (batch,))] * self.lengths
        require(list(types) == wanted and width == wanted[1].shape[1], self, "expected {}, got {}", wanted, types)
        return (TensorType(xw.dtype, (steps, batch, units)), *[state] * self.states)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        xw, r, vector, first, lengths = self.operands(arrays)
        steps, batch, _ = xw.shape
        ends = np.full(batch, steps) if lengths is None else np.clip(lengths, 0, steps)
        states = [s.copy() for s in first]
        y = np.zeros((steps, batch, r.shape[0]), xw.dtype)
        weights, extra = widen(r), None if vector is None else widen(vector)
        with np.errstate(all="ignore"):
            for step in range(steps):
                (rows,) = np.nonzero(step < ends)
                t = ends[rows] - 1 - step if self.reverse else np.full(len(rows), step)
                new = self.cell(widen(xw[t, rows]), weights, extra, *(widen(s[rows]) for s in states))
                for state, value in zip(states, new, strict=True):
                    state[rows] = value.astype(xw.dtype)
                y[t, rows] = states[0][rows]
        return (y, *states)

    def operands(self, given: Sequence[T]) -> tuple[T, T, T | None, list[T], T | None]:
        """xw, r, vector or None, states, lengths or None."""
        xw, r, *rest = given
        vector = rest.pop(0) if self.vector else None
        return xw, r, vector, rest[: self.states], rest[self.states] if self.lengths else None

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        xw, r, vector, first, lengths = self.operands(ins)
        y, *states = outs
        batch, unit, number = axis("sequence", y.shape[1]), axis("unit", y.shape[2]), axis("step", y.shape[0])
        steps = as_expr(y.shape[0])
        end = steps if lengths is None else binary("min", binary("max", cast(load(lengths, batch), "i64"), 0), steps)
        t = end - 1 - number if self.reverse else number
        body = self.step(Step(xw, r, vector, y, tuple(states), batch, t))
        if lengths is not None:
            zero = For(unit, (store(y, (number, batch, unit), const(0, Type(y.dtype))),))
            body = (If(binary("lt", number, end), body), If(binary("le", end, number), (zero,)))
        copy = (store(s, (batch, unit), load(f, batch, unit)) for s, f in zip(states, first, strict=True))
        loops = For(batch, (For(unit, tuple(copy)), For(number, body)), "parallel")
        return Kernel(self.name.lower(), (*outs, *ins), (loops,))


@dataclass(frozen=True)
class Step:
    """One step of one sequence: its buffers, the sequence and the step."""

    xw: Buffer
    r: Buffer
    vector: Buffer | None
    y: Buffer
    states: tuple[Buffer, ...]
    batch: Expr
    t: Expr

    @property
    def units(self) -> Dim:
        return self.y.shape[2]

    def scratch(self, name: str, count: int) -> Buffer:
        """A buffer for count values per unit."""
        return Buffer(name, arithmetic_dtype(self.y.dtype), (as_dim(self.units * count),), "stack")

    def at(self, gate: int, unit: Expr) -> Expr:
        return as_expr(self.units) * gate + unit

    def input(self, u: Expr) -> Expr:
        return read(self.xw, self.t, self.batch, u)

    def state(self, unit: Expr, number: int = 0) -> Expr:
        return read(self.states[number], self.batch, unit)

    def product(self, into: Buffer, start: Callable[[Expr], Expr], state: Callable[[Expr], Expr], gate: int) -> Block:
        """into[u] = start(u) + sum over k of state(k) * r[k, gate * H + u]."""
        u, k = axis("column", into.shape[0]), axis("k", self.units)
        acc = Buffer("acc", into.dtype, (), "register")
        add = store(acc, (), load(acc) + state(k) * read(self.r, k, self.at(gate, u)))
        return (For(u, (Alloc(acc), store(acc, (), start(u)), For(k, (add,)), store(into, (u,), load(acc)))),)

    def finish(self, unit: Expr, *values: Expr) -> Block:
        """Store the new states of a unit, and h as the output."""
        rounded = [cast(v, self.y.dtype) for v in values]
        kept = tuple(store(s, (self.batch, unit), v) for s, v in zip(self.states, rounded, strict=True))
        return (store(self.y, (self.t, self.batch, unit), rounded[0]), *kept)


@dataclass(frozen=True)
class Lstm(Recurrent):
    """Gates i o f c, states h and c, activations of the gates, of the candidate, of the cell.  The extra vector are the
    peephole weights p[3*H] of i, o and f.  input_forget: the forget gate is 1 - i."""

    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    activations: tuple[Activation, ...] = (SIGMOID, TANH, TANH)
    peepholes: bool = False
    input_forget: bool = False

    @property
    def vector(self) -> int:
        return 3 if self.peepholes else 0

    @property
    def functions(self) -> int:
        return 3

    def cell(self, xw: np.ndarray, r: np.ndarray, vector: np.ndarray | None, *states: np.ndarray) -> list[np.ndarray]:
        h, c = states
        f, g, k = (lambda x, a=a: activate(a, self.clip, x) for a in self.activations)
        i_in, o_in, f_in, c_in = np.split(xw + h @ r, 4, -1)
        p_i, p_o, p_f = (0, 0, 0) if vector is None else np.split(vector, 3)
        i = f(i_in + p_i * c)
        forget = 1 - i if self.input_forget else f(f_in + p_f * c)
        c = forget * c + i * g(c_in)
        return [f(o_in + p_o * c) * k(c), c]

    def step(self, s: Step) -> Block:
        f, g, k = (lambda x, a=a: activation_expr(a, self.clip, x) for a in self.activations)
        gates = s.scratch("gates", 4)
        u = axis("unit", s.units)
        cell = Buffer("cell", gates.dtype, (), "register")

        def gate(number: int, c: Expr) -> Expr:
            x = load(gates, s.at(number, u))
            return x if s.vector is None else x + read(s.vector, s.at(number, u)) * c

        old = s.state(u, 1)
        i = f(gate(0, old))
        forget = 1.0 - i if self.input_forget else f(gate(2, old))
        new = forget * old + i * g(load(gates, s.at(3, u)))
        h = f(gate(1, load(cell))) * k(load(cell))
        update = (Alloc(cell), store(cell, (), new), *s.finish(u, h, load(cell)))
        return (Alloc(gates), *s.product(gates, s.input, s.state, 0), For(u, update))


@dataclass(frozen=True)
class Gru(Recurrent):
    """Gates z r h, state h, activations of the gates and of the candidate.  linear_before_reset: the reset gate scales
    h @ r_h + rb, with the extra vector rb[H], instead of h."""

    gates: ClassVar[int] = 3
    states: ClassVar[int] = 1

    activations: tuple[Activation, ...] = (SIGMOID, TANH)
    linear_before_reset: bool = False

    @property
    def vector(self) -> int:
        return 1 if self.linear_before_reset else 0

    @property
    def functions(self) -> int:
        return 2

    def cell(self, xw: np.ndarray, r: np.ndarray, vector: np.ndarray | None, *states: np.ndarray) -> list[np.ndarray]:
        (h,) = states
        f, g = (lambda x, a=a: activate(a, self.clip, x) for a in self.activations)
        n = h.shape[1]
        z, reset = np.split(f(xw[:, : 2 * n] + h @ r[:, : 2 * n]), 2, -1)
        inner = (reset * h) @ r[:, 2 * n :] if vector is None else reset * (h @ r[:, 2 * n :] + vector)
        return [(1 - z) * g(xw[:, 2 * n :] + inner) + z * h]

    def step(self, s: Step) -> Block:
        f, g = (lambda x, a=a: activation_expr(a, self.clip, x) for a in self.activations)
        gates, inner, scaled = s.scratch("gates", 2), s.scratch("inner", 1), s.scratch("scaled", 1)
        u = axis("unit", s.units)
        z, reset = f(load(gates, u)), f(load(gates, s.at(1, u)))
        head = (Alloc(gates), Alloc(inner), *s.product(gates, s.input, s.state, 0))
        rb = s.vector
        if rb is not None:
            middle = s.product(inner, lambda v: read(rb, v), s.state, 2)
            candidate = g(s.input(s.at(2, u)) + reset * load(inner, u))
        else:
            scale = For(u, (store(scaled, (u,), reset * s.state(u)),))
            start: Callable[[Expr], Expr] = lambda v: s.input(s.at(2, v))  # noqa: E731
            middle = (Alloc(scaled), scale, *s.product(inner, start, lambda k: load(scaled, k), 2))
            candidate = g(load(inner, u))
        return (*head, *middle, For(u, s.finish(u, (1.0 - z) * candidate + z * s.state(u))))


@dataclass(frozen=True)
class Rnn(Recurrent):
    """One gate, state h, one activation."""

    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1

    activations: tuple[Activation, ...] = (TANH,)

    @property
    def functions(self) -> int:
        return 1

    def cell(self, xw: np.ndarray, r: np.ndarray, vector: np.ndarray | None, *states: np.ndarray) -> list[np.ndarray]:
        return [activate(self.activations[0], self.clip, xw + states[0] @ r)]

    def step(self, s: Step) -> Block:
        gate = s.scratch("gate", 1)
        u = axis("unit", s.units)
        new = activation_expr(self.activations[0], self.clip, load(gate, u))
        return (Alloc(gate), *s.product(gate, s.input, s.state, 0), For(u, s.finish(u, new)))
