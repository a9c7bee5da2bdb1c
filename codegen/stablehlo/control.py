"""Control flow: If becomes `case`, Loop and Scan become `while`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir.errors import TargetError
from ...ir.graph import Graph, Value
from ...ir.ops.control import Fused, If, Loop, Scan
from ...ir.types import TensorType
from .elementwise import Scalars
from .writer import Ref, Region, Writer

if TYPE_CHECKING:
    from .emit import Emitter


def fused(e: Emitter, op: Fused, inputs: tuple[Value, ...]) -> tuple[Ref, ...]:
    return e.inline(op.body, [e.value(v) for v in inputs])


def if_(e: Emitter, op: If, inputs: tuple[Value, ...]) -> tuple[Ref, ...]:
    condition, *captured = (e.value(v) for v in inputs)
    branches = tuple(((), _branch(e, graph, captured)) for graph in (op.other, op.then))
    types = e.types_of(op, inputs)
    return e.w.generic("case", (e.w.convert(condition, "i32"),), types, "", branches)


def _branch(e: Emitter, graph: Graph, captured: list[Ref]) -> Region:
    return lambda: e.inline(graph, captured)


def loop(e: Emitter, op: Loop, inputs: tuple[Value, ...]) -> tuple[Ref, ...]:
    """Values of the `while`: the iteration, whether to go on, the carried values, the stacks of scanned ones."""
    w = e.w
    trips, go, *rest = (e.value(v) for v in inputs)
    carried, captured = rest[: op.carried], rest[op.carried :]
    stacked = e.types_of(op, inputs)[op.carried :]
    if not all(t.is_static for t in stacked):
        raise TargetError(
            f"Loop at {w.where!r}: the number of iterations, which sizes an output, is only known at run time; "
            "give the loop a constant trip count"
        )
    stacks = [w.splat(0, t.dtype, t.static_shape) for t in stacked]

    def condition(i: Ref, going: Ref, *_: Ref) -> tuple[Ref]:
        return (w.binary("and", w.compare("lt", i, trips), going),)

    def body(i: Ref, going: Ref, *values: Ref) -> tuple[Ref, ...]:
        made = e.inline(op.body, [i, going, *values[: op.carried], *captured])
        new = made[1 + op.carried :]
        kept = [put(w, s, x, i, 0) for s, x in zip(values[op.carried :], new, strict=True)]
        return (Scalars(w).add(i, 1), *made[: 1 + op.carried], *kept)

    return w.while_loop([w.splat(0, "i64"), go, *carried, *stacks], condition, body)[2:]


def scan(e: Emitter, op: Scan, inputs: tuple[Value, ...]) -> tuple[Ref, ...]:
    """Values of the `while`: the step, the states, the output sequences."""
    w = e.w
    given = [e.value(v) for v in inputs]
    n, m = op.states, op.states + len(op.input_axes)
    states, sequences, captured = given[:n], given[n:m], given[m:]
    steps = sequences[0].shape[op.input_axes[0]]
    outputs = [w.splat(0, t.dtype, t.static_shape) for t in e.types_of(op, inputs)[n:]]

    def place(i: Ref, reverse: bool) -> Ref:
        return Scalars(w).sub(steps - 1, i) if reverse else i

    def body(i: Ref, *values: Ref) -> tuple[Ref, ...]:
        rows = zip(sequences, op.input_axes, op.input_reverse, strict=True)
        slices = [get(w, x, place(i, back), axis) for x, axis, back in rows]
        made = e.inline(op.body, [*values[:n], *slices, *captured])
        ends = zip(values[n:], made[n:], op.output_axes, op.output_reverse, strict=True)
        kept = [put(w, s, x, place(i, back), axis) for s, x, axis, back in ends]
        return (Scalars(w).add(i, 1), *made[:n], *kept)

    return counted(w, steps, [*states, *outputs], body)


def counted(w: Writer, steps: int, start: Sequence[Ref], body: Region) -> tuple[Ref, ...]:
    """A `while` of a known number of steps; body is given the i32 step and the values, and gives the next of both."""
    begin = w.splat(0, "i32")
    return w.while_loop([begin, *start], lambda i, *_: (Scalars(w).op("lt", i, steps),), body)[1:]


def get(w: Writer, x: Ref, i: Ref, axis: int) -> Ref:
    """The slice of x at position i of an axis, without that axis."""
    zero = w.splat(0, i.dtype)
    starts = [i if d == axis else zero for d in range(len(x.shape))]
    sizes = [1 if d == axis else n for d, n in enumerate(x.shape)]
    return w.reshape(w.dynamic_slice(x, starts, sizes), (*x.shape[:axis], *x.shape[axis + 1 :]))


def put(w: Writer, x: Ref, part: Ref, i: Ref, axis: int) -> Ref:
    """x with a slice replaced."""
    zero = w.splat(0, i.dtype)
    starts = [i if d == axis else zero for d in range(len(x.shape))]
    update = w.reshape(part, [1 if d == axis else n for d, n in enumerate(x.shape)])
    return w.dynamic_update_slice(x, update, starts) if TensorType(x.dtype, x.shape).size else x
