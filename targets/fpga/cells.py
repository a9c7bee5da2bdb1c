"""Attention and recurrent cells: the types inside of them and their bodies."""

from __future__ import annotations

from math import ceil, log, log2

import numpy as np

from ...codegen.hls.body import Body, BodyBuilder, Reg
from ...codegen.hls.dot import accumulator
from ...codegen.hls.fixed import Fixed, covering, exact_constant, holding
from ...codegen.hls.product import Attention
from ...codegen.hls.recurrent import Recurrent
from ...codegen.hls.table import Table, make_table
from ...codegen.hls.tensor import Tensor
from ...ir.graph import Node
from ...ir.ops import norm, recurrent
from ...ir.ops.activations import Activation, activate
from .elementwise import unsupported
from .lowering import Lowering


def exp_table(low: Lowering, x: Fixed) -> Table:
    """exp(-d) of a difference d of two codes of x, which is clipped where exp is below half a unit."""
    result = covering(0.0, 1.0, low.bits + 2)
    furthest = log(2) * (result.frac + 1)
    codes = min(x.high - x.low, ceil(furthest / x.step))
    operand = Fixed(min(18, max(1, ceil(log2(codes + 1)))), x.frac, False)
    return make_table(low.table_name(), lambda d: np.exp(-d), operand, result, "exp(-x)")


def attention(low: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, norm.Attention)
    q, k, v = (low.tensor(x) for x in node.inputs[:3])
    mask = low.constant(node.inputs[3]) if len(node.inputs) > 3 else np.zeros(())
    if mask is None:
        raise unsupported([node])
    depth, rows, keys = q.shape[-1], q.shape[2], k.shape[2]
    limit = depth * max(-q.type.low, q.type.high) * max(-k.type.low, k.type.high)
    reach = low.ranges.cells.get((node, "score"), (-1.0, 1.0))
    b = BodyBuilder()
    acc = b.input(holding(-limit, limit, q.type.frac + k.type.frac))
    wanted = covering(min(reach[0] * low.types.margin, 0.0), max(reach[1] * low.types.margin, 0.0), low.bits)
    score = b.round(b.binary("mul", acc, b.constant(np.array(op.scale), 18)), wanted)
    table = exp_table(low, score.type)
    share = covering(0.0, 1.0, low.bits + 1)
    total = keys * share.high * max(-v.type.low, v.type.high)
    body, out, value = low.finish(node, lambda c: c.input(holding(-total, total, share.frac + v.type.frac)), 1)
    low.env[value] = low.add(Attention(
        name=low.name("attention"), inputs=(q, k, v), outputs=(out,), where=node.where, score=b.body(score), table=table,
        share=share, body=body, mask=_mask(low, node, op, mask, (rows, keys), score, table),
    ))


def _mask(
    low: Lowering, node: Node, op: norm.Attention, mask: np.ndarray, shape: tuple[int, int], score: Reg, table: Table
) -> np.ndarray | None:
    """The additive mask and the causal one in units of the scores; far below everything is far enough."""
    if prod_leading(mask.shape) > 1:
        raise unsupported([node])
    full = np.broadcast_to(mask.reshape(mask.shape[-2:]), shape).astype(np.float64)
    if op.causal:
        full = np.where(np.tril(np.ones(shape, bool), shape[1] - shape[0]), full, -np.inf)
    if not np.any(full):
        return None
    lowest = -(score.high - score.low + table.operand.high) * 2
    codes = np.nan_to_num(full, neginf=-1e30) * 2.0**score.frac
    return np.maximum(np.floor(codes + 0.5), lowest).astype(np.int64)


def prod_leading(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[:-2], dtype=np.int64))


CELLS = {recurrent.Lstm: "lstm", recurrent.Gru: "gru", recurrent.Rnn: "rnn"}


def recurrent_cell(low: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, recurrent.Recurrent)
    cell = CELLS[type(op)]
    if isinstance(op, recurrent.Gru) and op.linear_before_reset:
        cell = "gru_linear"
    plain = not op.lengths and not getattr(op, "peepholes", False) and not getattr(op, "input_forget", False)
    xw = low.tensor(node.inputs[0])
    rest = [low.constant(v) for v in node.inputs[1:]]
    if not plain or any(a is None for a in rest):
        raise unsupported([node])
    r, *others = [np.asarray(a, np.float64) for a in rest]
    vector = others.pop(0) if op.vector else None
    make = _CellBuilder(low, node, op, xw.type, _state_types(low, node, len(others)))
    q, weight_type = exact_constant(r.T, low.bits)
    frac = make.states[0].frac + weight_type.frac
    bias = np.zeros(len(q), np.int64)
    if vector is not None:
        bias[-len(vector):] = Fixed(60, frac).quantize(vector)
    h = make.states[0]
    acc = accumulator(q, bias, h.low, h.high, frac)
    outs = [Tensor(node.outputs[0].name, node.outputs[0].type.static_shape, h)]
    outs += [Tensor(v.name, v.type.static_shape, t) for v, t in zip(node.outputs[1:], make.states, strict=True)]
    process = Recurrent(
        name=low.name(cell), inputs=(xw,), outputs=tuple(outs), where=node.where, cell=cell, reverse=op.reverse, weights=q,
        weight_type=weight_type, bias=bias, accumulator=acc, gather=make.gather(acc), product=make.inner(acc),
        reset=make.reset() if cell == "gru" else None, update=make.update(cell),
        first=tuple(t.quantize(s) for t, s in zip(make.states, others, strict=True)),
    )
    low.add(process)
    low.env.update(zip(node.outputs, outs, strict=True))


def _state_types(low: Lowering, node: Node, count: int) -> list[Fixed]:
    found = []
    for n in range(count):
        a, b = low.ranges.cells[(node, f"state{n}")]
        found.append(covering(min(a, -1e-3) * low.types.margin, b * low.types.margin, low.bits))
    return found


class _CellBuilder:
    """The bodies of one cell.  gate: the type of every pre-activation."""

    def __init__(self, low: Lowering, node: Node, op: recurrent.Recurrent, xw: Fixed, states: list[Fixed]) -> None:
        self.low, self.op, self.xw, self.states = low, op, xw, states
        self.gate = self._range(node, "gates")
        self.product = self._range(node, "inner")
        self.made: dict[tuple[Activation, Fixed], Table] = {}

    def _range(self, node: Node, what: str) -> Fixed:
        a, b = self.low.ranges.cells[(node, what)]
        return covering(min(a, -1e-3) * self.low.types.margin, b * self.low.types.margin, self.low.bits)

    def gather(self, acc: Fixed) -> Body:
        b = BodyBuilder()
        x, s = b.input(self.xw), b.input(acc)
        return b.body(b.round(b.binary("add", x, s), self.gate))

    def inner(self, acc: Fixed) -> Body:
        b = BodyBuilder()
        return b.body(b.round(b.input(acc), self.product))

    def activate(self, b: BodyBuilder, number: int, x: Reg, type: Fixed) -> Reg:
        """An activation of the cell on codes of a type."""
        a, clip = self.op.activations[number], self.op.clip
        x = b.round(x, type)
        key = (a, x.type)
        if key not in self.made:
            y = activate(a, clip, x.type.real(np.arange(x.type.low, x.type.high + 1, max(1, 2**x.type.bits >> 14))))
            result = covering(float(min(0.0, y.min())), float(y.max()), self.low.bits)
            self.made[key] = make_table(self.low.table_name(), lambda v: activate(a, clip, v), x.type, result, a.fn)
        return b.table(x, self.made[key])

    def reset(self) -> Body:
        b = BodyBuilder()
        r, h = b.input(self.gate), b.input(self.states[0])
        return b.body(b.round(b.binary("mul", self.activate(b, 0, r, self.gate), h), self.states[0]))

    def update(self, cell: str) -> tuple[Body, ...]:
        if cell == "lstm":
            return self._lstm()
        b = BodyBuilder()
        if cell == "rnn":
            x, _ = b.input(self.gate), b.input(self.states[0])
            return (b.body(b.round(self.activate(b, 0, x, self.gate), self.states[0])),)
        if cell == "gru_linear":
            z, r, x, inner = b.input(self.gate), b.input(self.gate), b.input(self.xw), b.input(self.product)
            h = b.input(self.states[0])
            scaled = b.binary("mul", self.activate(b, 0, r, self.gate), inner)
            candidate = b.binary("add", x, scaled)
        else:
            z, candidate = b.input(self.gate), b.input(self.gate)
            h = b.input(self.states[0])
        n = self.activate(b, 1, candidate, self.gate)
        z = self.activate(b, 0, z, self.gate)
        kept = b.binary("mul", z, b.binary("sub", h, n))  # (1 - z) * n + z * h
        return (b.body(b.round(b.binary("add", n, kept), self.states[0])),)

    def _lstm(self) -> tuple[Body, ...]:
        h_body, c_body = BodyBuilder(), BodyBuilder()
        i, _, f, g = (c_body.input(self.gate) for _ in range(4))
        c = [c_body.input(t) for t in self.states][1]
        new = c_body.binary(
            "add", c_body.binary("mul", self.activate(c_body, 0, f, self.gate), c),
            c_body.binary("mul", self.activate(c_body, 0, i, self.gate), self.activate(c_body, 1, g, self.gate)),
        )
        new = c_body.round(new, self.states[1])
        _, o, _, _ = (h_body.input(self.gate) for _ in range(4))
        for t in self.states:
            h_body.input(t)
        cell = h_body.input(new.type)
        h = h_body.binary("mul", self.activate(h_body, 0, o, self.gate), self.activate(h_body, 2, cell, new.type))
        return h_body.body(h_body.round(h, self.states[0])), c_body.body(new)
