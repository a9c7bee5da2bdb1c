"""Control flow: the graphs of If and Loop become nested steps on the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..ir.errors import InternalError, TargetError
from ..ir.graph import Graph, Node, Value
from ..ir.ops.control import If
from .program import Address, Branch, Call, Repeat, Step
from .storage import Place, Scope
from .views import Views, dense_strides, is_dense

if TYPE_CHECKING:
    from .lower import Lowering


def lower_control(lowering: Lowering, scope: Scope, node: Node) -> None:
    """Raises TargetError for operators that have no lowering yet."""
    if isinstance(node.op, If):
        _lower_if(lowering, scope, node, node.op)
        return
    raise TargetError(
        f"{node.op.name} at {node.where!r}: the target cannot run this operator yet; "
        "give the loop a constant trip count so that it can be unrolled, or run the model with the interpreter"
    )


def _lower_if(lowering: Lowering, scope: Scope, node: Node, op: If) -> None:
    captured = [_dense_place(lowering, scope, v, node) for v in node.inputs]
    outs = [lowering.place(scope, v) for v in node.outputs]
    condition = lowering.use(captured[0])
    for v, place in zip(node.outputs, outs, strict=True):
        if not is_dense(v.type.static_shape, place.strides):
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
    if is_dense(v.type.static_shape, place.strides):
        return place
    target = Place(lowering.new_root(v.name, v.type.nbytes), 0, dense_strides(v.type.static_shape))
    lowering.copy(scope, v.type, place, target, node)
    return target


def _lower_branch(
    lowering: Lowering, graph: Graph, captured: Sequence[Place], outs: Sequence[Place], node: Node
) -> tuple[Step, ...]:
    inner = Scope(graph, Views(graph, lowering.is_free))
    for v, place in zip(graph.inputs, captured, strict=True):
        inner.memory[v] = (place.root, place.offset)
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
