"""Control flow in Relax, which has a conditional and calls of functions, and no loops.

A branch is a function.  A loop is a ladder of functions over its state (iteration, whether to go on, carried values,
stacks of scanned ones), each of which runs the one below twice, so that calls are nested no deeper than the ladder:

    rung(0) = if go on: step                    at most 1 iteration
    rung(n) = if go on: rung(n - 1) twice       at most 2^n
"""

# pyright: reportMissingImports=false
# TVM is optional, and not for every Python: checked against where it is installed.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax as _relax

from ...ir.errors import TargetError
from ...ir.graph import Builder, Graph, Node, Value, inline_graph
from ...ir.ops.control import BOOL, I64, If, Loop
from ...ir.ops.elementwise import Binary, Select
from ...ir.ops.movement import Reshape
from ...ir.types import TensorType
from .exprs import relax_type

relax: Any = _relax
_RUNGS = 63  # trip counts are i64


@dataclass(frozen=True)
class Function:
    """A Relax function that gives a tuple.  It takes what the graph takes, then the weights that the graph needs."""

    symbol: Any
    weights: tuple[tuple[TensorType, np.ndarray], ...]


Emit = Callable[[str, Graph], Function]


def functions_of(bb: Any, node: Node, constants: Mapping[Value, np.ndarray], emit: Emit) -> tuple[Function, ...]:
    """What must be there before the node is written: a function for each branch, or the ladder of a loop."""
    match node.op:
        case If(then, other):
            return emit("then", then), emit("else", other)
        case Loop():
            step = emit("step", step_graph(node))
            trips = constants.get(node.inputs[0])
            rungs = _RUNGS if trips is None else max(0, int(trips) - 1).bit_length()
            return (_ladder(bb, node, step, rungs),)
    return ()


def step_graph(node: Node) -> Graph:
    """One iteration: (iteration, go on, carried, stacks, trip count, captured) -> the next of the first four.

    Raises TargetError if only the run tells how large the stacks are.
    """
    op, types = node.op, [v.type for v in node.inputs]
    assert isinstance(op, Loop)
    if op.scanned and not isinstance(op.length, int):
        raise TargetError(
            f"Loop at {node.where!r}: the number of iterations, which sizes an output, is only known at run time; give the "
            "loop a constant trip count"
        )
    b = Builder(op.body.name)
    i, go = b.input("iteration", I64), b.input("go", BOOL)
    carried = [b.input(f"carried{n}", t) for n, t in enumerate(types[2 : 2 + op.carried])]
    stacks = [b.input(f"stack{n}", v.type) for n, v in enumerate(node.outputs[op.carried :])]
    trips = b.input("trips", I64)
    captured = [b.input(f"captured{n}", t) for n, t in enumerate(types[2 + op.carried :])]
    going, *made = inline_graph(b, op.body, i, go, *carried, *captured)
    after = b.add(Binary("add"), i, b.constant(np.array(1)))
    kept = [_put(b, s, x, i) for s, x in zip(stacks, made[op.carried :], strict=True)]
    going = b.add(Binary("and"), going, b.add(Binary("lt"), after, trips))
    outputs = [after, going, *made[: op.carried], *kept]
    return b.graph(outputs, [f"next{n}" for n in range(len(outputs))])


def _put(b: Builder, stack: Value, x: Value, i: Value) -> Value:
    """The stack with x at position i of its first axis."""
    length, *shape = stack.type.static_shape
    place = np.arange(length).reshape(length, *(1 for _ in shape))
    here = b.add(Binary("eq"), b.constant(place), i)
    return b.add(Select(), here, b.add(Reshape((1, *shape)), x), stack)


def start_graph() -> Graph:
    """(trip count, condition) -> whether there is a first iteration."""
    b = Builder("start")
    trips, go = b.input("trips", I64), b.input("go", BOOL)
    return b.graph([b.add(Binary("and"), go, b.add(Binary("lt"), b.constant(np.array(0)), trips))], ["go"])


def state_types(node: Node) -> list[TensorType]:
    """What a loop hands from one iteration to the next: iteration, go on, carried values, stacks."""
    return [I64, BOOL, *(v.type for v in node.outputs)]


def _ladder(bb: Any, node: Node, step: Function, rungs: int) -> Function:
    """The highest rung, which runs at most 2^rungs iterations."""
    op, types = node.op, state_types(node)
    assert isinstance(op, Loop)
    shared = [I64, *(v.type for v in node.inputs[2 + op.carried :]), *(t for t, _ in step.weights)]
    below = step.symbol
    for n in range(rungs + 1):
        state, same = _variables("state", types), _variables("shared", shared)
        with bb.function(f"rung{n}", private=True):
            go_on = _twice(below, state, same, types) if n else relax.Call(below, [*state, *same])
            below = bb.emit_func_output(bb.emit(relax.If(state[1], go_on, relax.Tuple(state))), params=[*state, *same])
    return Function(below, step.weights)


def _twice(function: Any, state: Sequence[Any], same: Sequence[Any], types: Sequence[TensorType]) -> Any:
    """function(function(state))"""
    both = relax.TupleType([relax_type(t) for t in types])
    once, parts, result = relax.Var("once", both), _variables("part", types), relax.Var("twice", both)
    bindings = [relax.VarBinding(once, relax.Call(function, [*state, *same]))]
    bindings += [relax.VarBinding(p, relax.TupleGetItem(once, n)) for n, p in enumerate(parts)]
    bindings.append(relax.VarBinding(result, relax.Call(function, [*parts, *same])))
    return relax.SeqExpr([relax.BindingBlock(bindings)], result)


def _variables(name: str, types: Sequence[TensorType]) -> list[Any]:
    return [relax.Var(f"{name}{n}", relax_type(t)) for n, t in enumerate(types)]
