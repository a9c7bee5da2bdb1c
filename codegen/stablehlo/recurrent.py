"""Recurrent cells as `while`: one product of the state per step, gates by the cell's own formulas.

With lengths, a reversed cell runs over the mirrored sequences; steps behind the end of a sequence keep its state and
give zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.expr import Type as ExprType
from ...ir.expr import Var
from ...ir.graph import Value
from ...ir.ops.activations import Activation, activation_expr
from ...ir.ops.arithmetic import arithmetic_dtype
from ...ir.ops.recurrent import Gru, Lstm, Recurrent
from ...ir.types import TensorType
from .control import counted, get, put
from .elementwise import Scalars
from .exprs import ExprWriter
from .movement import gather_op
from .writer import Ref

if TYPE_CHECKING:
    from .emit import Emitter


def recurrent(e: Emitter, op: Recurrent, inputs: tuple[Value, ...]) -> tuple[Ref, ...]:
    w, s = e.w, Scalars(e.w)
    xw, r, vector, first, lengths = op.operands([e.value(v) for v in inputs])
    cell = _Cell(e, op, w.convert(r, arithmetic_dtype(r.dtype)), vector)
    steps, batch, _ = xw.shape
    units = r.shape[0]
    ends = None
    if lengths is not None:
        ends = s.op("min", s.op("max", lengths, 0), steps)
        if op.reverse:
            xw = _mirrored(e, xw, ends)
    backwards = op.reverse and ends is None

    def body(i: Ref, y: Ref, *states: Ref) -> tuple[Ref, ...]:
        t = s.sub(steps - 1, i) if backwards else i
        new = cell.step(get(w, xw, t, 0), states)
        out = new[0]
        if ends is not None:
            going = w.compare("lt", w.broadcast(i, (batch,), ()), ends)
            here = w.broadcast(going, out.shape, (0,))
            new = [w.select(here, a, b) for a, b in zip(new, states, strict=True)]
            out = s.where(here, out, 0)
        return (s.add(i, 1), put(w, y, out, t, 0), *new)

    y, *states = counted(w, steps, [w.splat(0, xw.dtype, (steps, batch, units)), *first], body)
    if ends is not None and op.reverse:
        behind = w.compare("ge", w.iota(y.shape, 0, "i32"), w.broadcast(ends, y.shape, (1,)))
        y = s.where(behind, 0, _mirrored(e, y, ends))
    return (y, *states)


def _mirrored(e: Emitter, x: Ref, ends: Ref) -> Ref:
    """Each sequence of x[T, B, N] from its end to its begin; what lies behind the end is of no use."""
    w, s = e.w, Scalars(e.w)
    steps, batch, width = x.shape
    place = w.binary("subtract", w.broadcast(ends, (steps, batch), (1,)), w.iota((steps, batch), 0, "i32"))
    place = s.op("max", s.sub(place, 1), 0)
    return gather_op(
        w, x, w.reshape(place, (steps, batch, 1)), x.type, offset=[2], collapsed=[0], mapped=[0], index_axis=2,
        sizes=[1, 1, width], batch=[1], index_batch=[1],
    )


class _Cell:
    """One step of all sequences, in the arithmetic type."""

    def __init__(self, e: Emitter, op: Recurrent, r: Ref, vector: Ref | None) -> None:
        self.e, self.w, self.s, self.op, self.r = e, e.w, Scalars(e.w), op, r
        self.vector = None if vector is None else e.w.convert(vector, r.dtype)
        self.units = r.shape[0]

    def step(self, xw: Ref, states: tuple[Ref, ...]) -> list[Ref]:
        wide = [self.w.convert(x, self.r.dtype) for x in states]
        x = self.w.convert(xw, self.r.dtype)
        if isinstance(self.op, Lstm):
            new = self._lstm(self.op, x, *wide)
        elif isinstance(self.op, Gru):
            new = self._gru(self.op, x, *wide)
        else:
            new = [self._activate(self.op.activations[0], self.s.add(x, self._product(wide[0], self.r)))]
        return [self.w.convert(v, xw.dtype) for v in new]

    def _lstm(self, op: Lstm, xw: Ref, h: Ref, c: Ref) -> list[Ref]:
        s = self.s
        f, g, k = op.activations
        gates = s.add(xw, self._product(h, self.r))
        i_in, o_in, f_in, c_in = (self._gate(gates, n) for n in range(4))
        i = self._activate(f, self._peep(i_in, c, 0))
        forget = s.sub(1, i) if op.input_forget else self._activate(f, self._peep(f_in, c, 2))
        cell = s.add(s.mul(forget, c), s.mul(i, self._activate(g, c_in)))
        return [s.mul(self._activate(f, self._peep(o_in, cell, 1)), self._activate(k, cell)), cell]

    def _peep(self, x: Ref, c: Ref, number: int) -> Ref:
        if self.vector is None:
            return x
        weights = self.w.slice_axis(self.vector, 0, number * self.units, (number + 1) * self.units)
        return self.s.add(x, self.s.mul(self.w.broadcast_to(weights, c.shape), c))

    def _gru(self, op: Gru, xw: Ref, h: Ref) -> list[Ref]:
        s, w, n = self.s, self.w, self.units
        f, g = op.activations
        both = self._product(h, w.slice_axis(self.r, 1, 0, 2 * n))
        gates = self._activate(f, s.add(w.slice_axis(xw, 1, 0, 2 * n), both))
        z, reset = self._gate(gates, 0), self._gate(gates, 1)
        last = w.slice_axis(self.r, 1, 2 * n, 3 * n)
        if self.vector is None:
            inner = self._product(s.mul(reset, h), last)
        else:
            inner = s.mul(reset, s.add(self._product(h, last), w.broadcast_to(self.vector, h.shape)))
        candidate = self._activate(g, s.add(self._gate(xw, 2), inner))
        return [s.add(s.mul(s.sub(1, z), candidate), s.mul(z, h))]

    def _gate(self, x: Ref, number: int) -> Ref:
        return self.w.slice_axis(x, 1, number * self.units, (number + 1) * self.units)

    def _product(self, a: Ref, b: Ref) -> Ref:
        precision = self.e.precision
        attributes = f"contracting_dims = [1] x [0], precision = [{precision}, {precision}]"
        return self.w.simple("dot_general", (a, b), TensorType(a.dtype, (a.shape[0], b.shape[1])), attributes)

    def _activate(self, activation: Activation, x: Ref) -> Ref:
        variable = Var.of("x", None, ExprType(x.dtype))
        return ExprWriter(self.w, x.shape, {variable: x}).write(activation_expr(activation, self.op.clip, variable))
