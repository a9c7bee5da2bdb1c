"""Control flow: the graphs of If and Loop become nested steps on the same memory.

    for i < trips while go:    Repeat(body, counter, trips, go): the body's kernels at fixed addresses, then
        s, y = body(i, s)        copy y to row [i] of the stack; copy the new s over the old one

Carried values lie where the loop's outputs lie.  A kernel takes addresses that are fixed at compile time, so rows of what
is scanned are read by gathers at the counter, and written by a copy whose index is loaded from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..ir.compute import Compute
from ..ir.dims import symbols
from ..ir.errors import InternalError, TargetError
from ..ir.expr import load
from ..ir.graph import Graph, Node, Value
from ..ir.kernel import axis
from ..ir.ops.control import BOOL, I64, If, Loop
from ..ir.types import TensorType
from .program import Address, Branch, Call, Repeat, Step
from .sizing import bytes_of
from .storage import Place, Scope
from .strategies.scheduled import Group
from .views import Views, dense_strides, is_dense

if TYPE_CHECKING:
    from .lower import Lowering


def lower_control(lowering: Lowering, scope: Scope, node: Node) -> None:
    """Raises TargetError for a loop whose number of iterations sizes an output and is only known when it runs."""
    match node.op:
        case If():
            _lower_if(lowering, scope, node, node.op)
        case Loop():
            _lower_loop(lowering, scope, node, node.op)
        case _:
            raise InternalError(f"{node.op.name} at {node.where!r} is no control flow that has steps")


def _lower_if(lowering: Lowering, scope: Scope, node: Node, op: If) -> None:
    captured = [_dense_place(lowering, scope, v, node) for v in node.inputs]
    outs = [lowering.place(scope, v) for v in node.outputs]
    condition = lowering.use(captured[0])
    for v, place in zip(node.outputs, outs, strict=True):
        if not is_dense(v.type.shape, place.strides):
            raise InternalError(f"the output {v.name} of {node.op.name} must be dense")
    for place in (*captured, *outs):
        lowering.use(place)
    branches = [_lower_branch(lowering, g, captured[1:], outs, node) for g in (op.then, op.other)]
    for place in (*captured, *outs):
        lowering.use(place)  # alive through both branches
    scope.steps.append(Branch(condition, branches[0], branches[1], node.where))
    lowering.clock += 1


def _dense_place(lowering: Lowering, scope: Scope, v: Value, node: Node) -> Place:
    place = lowering.place(scope, v)
    if is_dense(v.type.shape, place.strides):
        return place
    target = Place(lowering.new_root(v.name, bytes_of(v.type)), 0, dense_strides(v.type.shape))
    lowering.copy(scope, v.type, place, target, node)
    return target


def _lower_branch(
    lowering: Lowering, graph: Graph, captured: Sequence[Place], outs: Sequence[Place], node: Node
) -> tuple[Step, ...]:
    inner = _inner_scope(lowering, graph, captured)
    later = []
    for v, place in zip(graph.outputs, outs, strict=True):
        if v in inner.memory or v in graph.constants:
            later.append((v, place))
        else:
            inner.memory[v] = (place.root, place.offset)
    lowering.lower_scope(inner)
    for v, place in later:  # an output that is a captured value or a constant
        lowering.copy(inner, v.type, lowering.place(inner, v), place, node)
    return tuple(inner.steps)


def _inner_scope(lowering: Lowering, graph: Graph, inputs: Sequence[Place]) -> Scope:
    scope = Scope(graph, Views(graph, lowering.is_free))
    for v, place in zip(graph.inputs, inputs, strict=True):
        scope.memory[v] = (place.root, place.offset)
    return scope


def _lower_loop(lowering: Lowering, scope: Scope, node: Node, op: Loop) -> None:
    known = {s.var for s in lowering.symbols}
    for v in node.outputs:
        if any(d not in known for d in symbols(v.type.shape)):
            raise TargetError(
                f"Loop at {node.where!r}: {v.name} is {v.type}: how often the loop runs sizes it, and is only known when it "
                "runs; give the loop a constant trip count and a condition that stays true, or run the model with the "
                "interpreter"
            )
    trips = _dense_place(lowering, scope, node.inputs[0], node)
    start = [lowering.place(scope, v) for v in node.inputs[1 : 2 + op.carried]]
    captured = [_dense_place(lowering, scope, v, node) for v in node.inputs[2 + op.carried :]]
    outs = [lowering.place(scope, v) for v in node.outputs]
    counter = Place(lowering.new_root("counter", I64.nbytes), 0, ())
    state = [Place(lowering.new_root("condition", BOOL.nbytes), 0, ()), *outs[: op.carried]]
    types = [v.type for v in op.body.outputs[: 1 + op.carried]]
    for t, source, target in zip(types, start, state, strict=True):
        lowering.copy(scope, t, source, target, node)
    around = (trips, counter, *state, *captured, *outs)
    for place in around:
        lowering.use(place)
    inner = _inner_scope(lowering, op.body, [counter, *state, *captured])
    lowering.lower_scope(inner)
    for v, stack in zip(op.body.outputs[1 + op.carried :], outs[op.carried :], strict=True):
        _write_row(lowering, inner, v.type, lowering.place(inner, v), stack, counter, op, node)
    _carry(lowering, inner, op, state, node)
    addresses = [lowering.use(place) for place in around]  # alive through every iteration
    scope.steps.append(Repeat(tuple(inner.steps), addresses[1], addresses[0], addresses[2], node.where))
    lowering.clock += 1


def _write_row(
    lowering: Lowering, scope: Scope, type: TensorType, row: Place, stack: Place, counter: Place, op: Loop, node: Node
) -> None:
    """stack[counter] = row"""
    length = op.length
    if 0 in (*type.shape, length):
        return
    x, i = lowering.buffer("x0", type, row), lowering.buffer("x1", I64, counter)
    y = lowering.buffer("y0", TensorType(type.dtype, (length, *type.shape)), stack)
    axes = tuple(axis(f"i{n}", d) for n, d in enumerate(type.shape))
    group = Group("map", (Compute(y, axes, load(x, *axes), index=(load(i), *axes)),), (y, x, i))
    places = {"x0": row, "x1": counter, "y0": stack}
    lowering.emit(scope, lowering.schedule(group), places, node, lowering.moving(type))


def _carry(lowering: Lowering, scope: Scope, op: Loop, state: Sequence[Place], node: Node) -> None:
    """The condition and the carried values of the next iteration, over those of this one.  Where a new value is an old
    one, that is saved first: values may change places."""
    olds = op.body.inputs[1 : 2 + op.carried]
    moves = []
    for old, new, target in zip(olds, op.body.outputs, state, strict=False):
        if new is old:
            continue
        source = lowering.place(scope, new)
        if new in olds:
            saved = Place(lowering.new_root(new.name, bytes_of(new.type)), 0, dense_strides(new.type.shape))
            lowering.copy(scope, new.type, source, saved, node)
            source = saved
        moves.append((new.type, source, target))
    for t, source, target in moves:
        lowering.copy(scope, t, source, target, node)


def resolve_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with every reference to a root replaced by its address."""
    done: list[Step] = []
    for s in steps:
        if isinstance(s, Call):
            done.append(Call(s.kernel, tuple(_resolve(a) for a in s.args), s.where, s.ops, s.cost))
        elif isinstance(s, Branch):
            done.append(Branch(_resolve(s.condition), resolve_steps(s.then), resolve_steps(s.other), s.where))
        elif isinstance(s, Repeat):
            trip = None if s.trip_count is None else _resolve(s.trip_count)
            condition = None if s.condition is None else _resolve(s.condition)
            done.append(Repeat(resolve_steps(s.body), _resolve(s.counter), trip, condition, s.where))
    return tuple(done)


def _resolve(a: object) -> Address:
    return a.resolve()  # type: ignore[attr-defined]
