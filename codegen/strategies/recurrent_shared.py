"""Recurrent cells whose units are shared among the threads: one step of all units, a barrier, the next step.

Every thread owns blocks of units.  For a block it computes all gates at once, from weights packed
[block][k][gate][unit of the block], and its new states on the spot; the state of the other units is read from the output
of the step before.  With the weights split over the cores each part stays in its core's second-level cache.

    for step: { for block (parallel): for sequence: gates = start + h[step - 1] @ w[block]; update the units; barrier }
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.compute import Compute, acc_var, lower_compute
from ...ir.dims import as_dim
from ...ir.expr import Const, Expr, Load, as_expr, binary, load, select
from ...ir.kernel import Alloc, Barrier, Block, Buffer, For, Kernel, Stmt, Store, axis, map_block, substitute_block
from ...ir.ops.recurrent import Gru, Lstm, Recurrent, Rnn, Step
from ...ir.traverse import rewrite
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, sink, split, unroll, vectorize
from .scheduled import Pack, Scheduled

SMALLEST_UNITS = 64  # below, a barrier costs more than the product of a step


def shares_units(op: Recurrent, ins: tuple[Buffer, ...], machine: Machine) -> bool:
    """Whether this form fits: all products of a step read the old state, all sequences have the same length."""
    units = ins[1].static_shape[0]
    one_product = isinstance(op, (Lstm, Rnn)) or (isinstance(op, Gru) and op.linear_before_reset)
    single = ins[1].dtype == "f32" and not op.lengths and ins[0].shape[0] != 0
    return one_product and single and units >= SMALLEST_UNITS and units % machine.lanes("f32") == 0


def schedule_shared(op: Recurrent, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], machine: Machine) -> Scheduled:
    units, lanes, gates = ins[1].static_shape[0], machine.lanes("f32"), op.gates
    most = max(1, (machine.vector_registers // 2) // (2 * gates))  # vectors per gate: half of the registers accumulate
    block = next(n * lanes for n in range(most, 0, -1) if units % (n * lanes) == 0)
    packed = Buffer("w", "f32", (units // block, units, gates, block))
    pack = Pack(ins[1].name, packed.static_shape, (0, 0), ((0, block), (1, 0), (0, units), (0, 1)))
    body = _Cell(op, outs, ins, packed, block).body()
    kernel = Kernel(op.name.lower(), (*outs, *(b for b in ins if b is not ins[1]), packed), body)
    kernel = sink(kernel, ["gate", "ui"])
    kernel = unroll(split(kernel, "ui", lanes, "vector", "lane"), "gate", "vector")
    steps = next(n for n in (4, 2, 1) if units % n == 0 and n * gates * (block // lanes) <= 16)
    kernel = unroll(split(kernel, "k", steps, "k", "step_k"), "step_k") if steps > 1 else kernel
    kernel = legalize_math(sink(split(kernel, "unit", lanes, "unit", "unit_lane"), ["unit_lane"]), machine)
    kernel = vectorize(kernel, "lane", "unit_lane")
    kernel = fma_contract(kernel) if machine.fma else kernel
    return Scheduled(kernel, (("w", pack),), f"blocks of {block} units shared by the threads, {gates} gates at once")


class _Cell:
    """Builds the loops from the operator's own update of a unit."""

    def __init__(self, op: Recurrent, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], packed: Buffer, block: int) -> None:
        self.op, self.packed, self.block = op, packed, block
        self.y, *self.states = outs
        self.xw, self.weights = ins[:2]
        rest = list(ins[2:])
        self.vector = rest.pop(0) if op.vector else None
        self.first = rest[: op.states]
        self.steps, self.batch, units = self.y.shape
        assert isinstance(units, int)
        self.units = units
        self.owner = axis("block", self.units // block)
        self.sequence = axis("sequence", self.batch)

    def over_blocks(self, body: Block, reverse: bool = False) -> For:
        return For(self.owner, (For(self.sequence, body),), "parallel", ("reverse",) if reverse else ())

    def body(self) -> Block:
        """Steps in pairs: each thread walks its blocks forwards in one and backwards in the next, so that what was read
        last is still in the cache when the weights do not all fit."""
        unit = axis("unit", self.block)
        at = self.owner * self.block + unit
        copies = tuple(
            Store(s, (self.sequence, at), load(f, self.sequence, at)) for s, f in zip(self.states, self.first, strict=True)
        )
        start = self.over_blocks((For(unit, copies),))
        body: list[Stmt] = [start, *self.step(as_expr(0), lambda k: load(self.first[0], self.sequence, k))]
        pairs, rest = as_dim((self.steps - 1) // 2), as_dim((self.steps - 1) % 2)
        if pairs != 0:
            pair = axis("pair", pairs)
            body.append(For(pair, (*self.later(pair * 2 + 1, True), *self.later(pair * 2 + 2))))
        last = self.later(as_expr(self.steps - 1), True)
        if rest == 1:
            body += last
        elif rest != 0:
            body.append(For(axis("odd", rest), last))
        return tuple(body)

    def later(self, number: Expr, reverse: bool = False) -> Block:
        before = self.time(number - 1)
        return self.step(number, lambda k: load(self.y, before, self.sequence, k), reverse)

    def time(self, number: Expr) -> Expr:
        return as_expr(self.steps) - 1 - number if self.op.reverse else number

    def step(self, number: Expr, state: Callable[[Expr], Expr], reverse: bool = False) -> Block:
        """One step of all units, and the barrier after it."""
        op, block, t, owner = self.op, self.block, self.time(number), self.owner
        gates = Buffer("gates", "f32", (op.gates, block), "stack")
        g, ui, k = axis("gate", op.gates), axis("ui", block), axis("k", self.units)
        column = g * self.units + owner * block + ui
        start: Expr = load(self.xw, t, self.sequence, column)
        if isinstance(op, Gru):  # the candidate's product is scaled by the reset gate before its input is added
            assert self.vector is not None
            start = select(binary("lt", g, 2), start, load(self.vector, owner * block + ui))
        product = Compute(
            gates, (g, ui), state(k) * load(self.packed, owner, k, g, ui), (k,), "add", acc_var("f32") + start
        )
        inner = (Alloc(gates), *lower_compute(product), self.update(t, owner, gates))
        return (self.over_blocks(inner, reverse), Barrier())

    def update(self, t: Expr, owner: Expr, gates: Buffer) -> For:
        """The operator's loop over the units, for one block of them, reading the gates of the block."""
        s = Step(self.xw, self.weights, self.vector, self.y, tuple(self.states), self.sequence, t)
        *_, loop = self.op.step(s)
        assert isinstance(loop, For)
        unit = axis("unit", self.block)
        offset = owner * self.block
        body = substitute_block(loop.body, {loop.var: offset + unit})

        def read(e: Expr) -> Expr | None:
            if not isinstance(e, Load) or e.buf.space != "stack":
                return None
            rest = e.idx[0] - offset - unit
            assert isinstance(rest, Const), e
            return load(gates, rest.value // self.units + (2 if e.buf.name == "inner" else 0), unit)

        return For(unit, map_block(body, None, lambda e: rewrite(e, read)))
