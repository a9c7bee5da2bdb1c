"""Control flow: branches and loops over subgraphs.  Captured values become operands."""

from __future__ import annotations

from typing import Any

from onnx import GraphProto

from ....ir.errors import ModelError
from ....ir.expr import Expr, Var
from ....ir.graph import Value
from ....ir.ops.control import If, Loop, Scan
from ....ir.ops.elementwise import Binary, Cast
from ....ir.ops.movement import Reshape
from ....ir.types import Dim, TensorType
from ..builder import NotConstantError, OnnxBuilder, Subgraph, normal_axis
from ..table import Outputs, onnx_op

_MOST_UNROLLED = 1024  # iterations
_FOREVER = 2**63 - 1


@onnx_op("If", since=1)
def if_(b: OnnxBuilder, cond: Value, *, then_branch: GraphProto, else_branch: GraphProto) -> Outputs:
    """A known condition picks its branch now."""
    if cond in b.constants:
        return b.inline(then_branch if b.constants[cond].any() else else_branch, ())
    if _gives_sequences(then_branch):
        b.array(cond, "cond")
    then, other = b.subgraph(then_branch, ()), b.subgraph(else_branch, ())
    for i, (x, y) in enumerate(zip(then.outputs, other.outputs, strict=False)):
        if x.type != y.type:
            if _removes_one(b, cond, then_branch, else_branch):
                return b.inline(then_branch, ())
            raise ModelError(
                f"output {i} is {x.type} in one branch and {y.type} in the other, and the condition {cond} is computed "
                "from data; make the condition a constant, or bind the dimensions it is computed from (--shape, --dim)"
            )
    captured = list(dict.fromkeys([*then.captured, *other.captured]))
    op = If(then.graph(captured), other.graph(captured))
    return b.add_multi(op, b.reshape(cond, ()), *captured)


def _removes_one(b: OnnxBuilder, cond: Value, then: GraphProto, other: GraphProto) -> bool:
    """Whether this is x.squeeze(axis) as one exporter writes it: if dimension == 1: Squeeze(x), else: x.  With a symbolic
    dimension the model goes on with the squeezed value; that the dimension is 1 is then checked as for any Squeeze."""
    steps = [n.op_type for n in then.node if n.op_type != "Constant"]
    made = b.producers.get(cond)
    while made is not None and isinstance(made.op, (Reshape, Cast)):
        made = b.producers.get(made.inputs[0])
    if steps != ["Squeeze"] or [n.op_type for n in other.node] != ["Identity"] or made is None or made.op != Binary("eq"):
        return False
    sides = [b.elements(v) for v in made.inputs]
    found = [e.reshape(-1)[0] for e in sides if e is not None and e.size == 1]
    computed = any(isinstance(d, Expr) and not isinstance(d, Var) for d in found)  # not what the caller chooses
    return len(found) == 2 and computed and 1 in found


def _gives_sequences(branch: GraphProto) -> bool:
    """Whether an output is a sequence or optional: these exist while importing only."""
    return any(v.type.WhichOneof("value") not in (None, "tensor_type") for v in branch.output)


@onnx_op("Loop", since=1)
def loop(
    b: OnnxBuilder, trips: Value | None = None, cond: Value | None = None, *carried: Value, body: GraphProto
) -> Outputs:
    """A loop whose values change their shapes, or that needs the iteration's number to be known, is unrolled."""
    count = _FOREVER if trips is None else _known(b, trips)
    go = True if cond is None else _known(b, cond)
    if go is not None and not go:
        count = 0
    if not all(isinstance(v, Value) for v in carried):
        known = _need_known(b, NotConstantError("sequences or optionals are carried", ()), count, go, trips, cond)
        return _unrolled(b, body, carried, known)
    types = [v.type for v in carried]
    try:
        sub = b.subgraph(body, [TensorType("i64", ()), TensorType("bool", ()), *types])
    except NotConstantError as e:
        return _unrolled(b, body, carried, _need_known(b, e, count, go, trips, cond))
    always = go is not None and _always_true(sub)
    made = [v.type for v in sub.outputs]
    if len(made) < 1 + len(types):
        raise ModelError(f"the body gives {len(made)} values, at least {1 + len(types)} are carried")
    if made[1 : 1 + len(types)] != types:
        changes = f"carried values change from {_listed(types)} to {_listed(made[1 : 1 + len(types)])}"
        return _unrolled(b, body, carried, _need_known(b, NotConstantError(changes, ()), count, go, trips, cond))
    length: Dim = count if always and count is not None else Var.of(b.unique(f"{b.hint}_length"), None)
    captured = list(sub.captured)
    go_again = sub.b.reshape(sub.outputs[0], ())
    op = Loop(sub.graph(captured, (go_again, *sub.outputs[1:])), len(types), len(made) - 1 - len(types), length)
    first = b.scalar(_FOREVER, "i64") if trips is None else b.reshape(trips, ())
    start = b.scalar(True, "bool") if cond is None else b.reshape(cond, ())
    return b.add_multi(op, first, start, *carried, *captured)


def _known(b: OnnxBuilder, v: Value) -> int | None:
    return b.integer(v, "M or cond") if v in b.constants else None


def _always_true(sub: Subgraph) -> bool:
    """Whether the body's condition stays what it was at the start, true."""
    v = sub.outputs[0]
    return v is sub.b.inputs[1] or (v in sub.b.constants and bool(sub.b.constants[v].all()))


def _listed(types: list[TensorType]) -> str:
    return ", ".join(map(str, types)) or "nothing"


def _need_known(
    b: OnnxBuilder, problem: NotConstantError, count: int | None, go: int | None, trips: Value | None, cond: Value | None
) -> int:
    """The trip count, for a loop that must be unrolled because of a problem.  Raises NotConstantError if it is not known
    how often the loop runs."""
    if count is None and trips is not None:
        b.array(trips, "M")
    if go is None and cond is not None:
        b.array(cond, "cond")
    if count is None:
        raise NotConstantError(f"{problem}; this needs a constant trip count", problem.inputs)
    return count


def _unrolled(b: OnnxBuilder, body: GraphProto, carried: tuple[Value, ...], count: int) -> Outputs:
    """Iterations one after the other, until the condition is known to be false."""
    values: tuple[Any, ...] = carried
    scanned: list[list[Value]] = []
    for i in range(count):
        if i == _MOST_UNROLLED:
            raise ModelError(f"the loop must be unrolled, but runs more than {_MOST_UNROLLED} times")
        cond, *made = b.inline(body, (b.scalar(i, "i64"), b.scalar(True, "bool"), *values))
        values, slices = tuple(made[: len(carried)]), made[len(carried) :]
        scanned = scanned or [[] for _ in slices]
        for row, v in zip(scanned, slices, strict=True):
            row.append(b.reshape(v, (1, *v.type.shape)))
        if not b.array(cond, "the condition that the body gives").any():
            break
    if not count:
        raise ModelError("a loop that never runs and changes shapes is not supported")
    return (*values, *(b.concat(row, 0) for row in scanned))


@onnx_op("Scan", since=9)
def scan(
    b: OnnxBuilder, *operands: Value, body: GraphProto, num_scan_inputs: int,
    scan_input_axes: tuple[int, ...] | None = None, scan_input_directions: tuple[int, ...] | None = None,
    scan_output_axes: tuple[int, ...] | None = None, scan_output_directions: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    states = len(operands) - num_scan_inputs
    if states < 0 or num_scan_inputs < 1:
        raise ModelError(f"attribute 'num_scan_inputs' is {num_scan_inputs}, there are {len(operands)} operands")
    axes = _filled(scan_input_axes, num_scan_inputs, "scan_input_axes")
    axes = tuple(normal_axis(a, v.type.rank) for a, v in zip(axes, operands[states:], strict=True))
    slices = [_without(v.type, axis) for v, axis in zip(operands[states:], axes, strict=True)]
    sub = b.subgraph(body, [*(v.type for v in operands[:states]), *slices])
    made = [v.type for v in sub.outputs[states:]]
    out_axes = _filled(scan_output_axes, len(made), "scan_output_axes")
    captured = list(sub.captured)
    op = Scan(
        sub.graph(captured), states, axes,
        tuple(map(bool, _filled(scan_input_directions, num_scan_inputs, "scan_input_directions"))),
        tuple(normal_axis(a, t.rank + 1) for a, t in zip(out_axes, made, strict=True)),
        tuple(map(bool, _filled(scan_output_directions, len(made), "scan_output_directions"))),
    )  # fmt: skip
    return b.add_multi(op, *operands, *captured)


@onnx_op("Scan", since=8)
def scan_batched(
    b: OnnxBuilder, lengths: Value | None, *operands: Value, body: GraphProto, num_scan_inputs: int,
    directions: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    """Every operand has a batch in front, whose elements are scanned on their own, all over the whole length."""
    batch = operands[0].type.shape[0] if operands and operands[0].type.rank else None
    if lengths is not None or not isinstance(batch, int) or not 1 <= batch <= _MOST_UNROLLED:
        raise ModelError("Scan of opset 8 needs a known batch and no sequence_lens; convert the model to opset 9 or newer")
    rows = []
    for i in range(batch):
        own = [b.reshape(b.slice(x, 0, i, 1), x.type.shape[1:]) for x in operands]
        made = scan(b, *own, body=body, num_scan_inputs=num_scan_inputs, scan_input_directions=directions)
        rows.append([b.reshape(v, (1, *v.type.shape)) for v in made])  # type: ignore[union-attr]
    return tuple(b.concat(list(column), 0) for column in zip(*rows, strict=True))


def _filled(values: tuple[int, ...] | None, count: int, what: str) -> tuple[int, ...]:
    if values is not None and len(values) != count:
        raise ModelError(f"attribute {what!r} must have {count} numbers, got {list(values)}")
    return values or (0,) * count


def _without(t: TensorType, axis: int) -> TensorType:
    return TensorType(t.dtype, t.shape[:axis] + t.shape[axis + 1 :])
