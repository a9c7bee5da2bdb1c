"""The rules of `channels_last`: one operator below a Transpose becomes a Transpose below the operator.

    Reduce[2, 3](Transpose[0, 3, 1, 2](x))   ->  Transpose[0, 3, 1, 2](Reduce[1, 2](x))
    Transpose(x) + c: [8, 1, 1]              ->  Transpose(x + Transpose^-1(c))
    Reshape[1, 8, 6](Transpose[0, 3, 1, 2](x: [1, 2, 3, 8]))  ->  Transpose[0, 2, 1](Reshape[1, 6, 8](x))

A value v is seen as Transpose(perm)(base); base and perm come from the node that made it.  A rule weighs two costs, both
in elements moved: that of bringing the operands into the layout it would compute in, and that of what the users of the
result want (`Sinking.later`).  It returns None to leave the node as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from ...ir.graph import Builder, Node, Value
from ...ir.ops.base import Op
from ...ir.ops.contract import MatMul
from ...ir.ops.elementwise import Binary, Cast, Select, Unary
from ...ir.ops.image import Resize
from ...ir.ops.movement import Broadcast, Concat, Gather, Pad, Reshape, Slice, Transpose
from ...ir.ops.norm import BatchNorm, Gelu, LayerNorm, LogSoftmax, RmsNorm, Softmax
from ...ir.ops.quantize import Dequantize, Quantize, Saturate
from ...ir.ops.reduce import ArgReduce, CumSum, Reduce
from ...ir.ops.refine import Refine
from ...ir.types import TensorType
from .layout import Perm, broadcast, compose, elements, identity, inverse, moves, permuted, reshape, transpose
from .matching import leading_ones, made_by
from .reshape_layout import plan_reshape


@dataclass(eq=False)
class Sinking:
    """The state of one replay.  demands: the layouts in which the users of an old value want it.  anchored: old values
    that some user reads as they are.  moved: the transposes (base, perm) that some node reads."""

    demands: Mapping[Value, frozenset[Perm]]
    anchored: frozenset[Value]
    b: Builder = field(init=False)
    moved: set[tuple[Value, Perm]] = field(default_factory=set)

    def see(self, v: Value) -> tuple[Value, Perm]:
        made = made_by(self.b, v, Transpose)
        return (v, identity(v.type.rank)) if made is None else (made[1][0], made[0].perm)

    def later(self, old: Value, perm: Perm) -> int:
        """Elements that will be moved for the users of a result, if it is a Transpose(perm)."""
        different = 0
        for wanted in self.demands.get(old, ()):
            stored = permuted(old.type.shape, inverse(perm))
            different += moves(stored, compose(perm, inverse(wanted)))
        return different * elements(old.type)

    def plain_cost(self, old: Value, v: Value) -> int:
        """Elements moved to read an operand as it is."""
        base, perm = self.see(v)
        free = old in self.anchored or (base, perm) in self.moved or not moves(base.type.shape, perm)
        return 0 if free or base in self.b.constants else elements(v.type)

    def stay(self, node: Node, inputs: Sequence[Value]) -> None:
        """Note that the node reads its operands as they are."""
        self.moved.update(self.see(v) for v in inputs if made_by(self.b, v, Transpose))

    # ---- operands of several ranks, in the layout of the result --------------------------------------------------

    def placement(self, v: Value, perm: Perm) -> tuple[Value, Perm]:
        """(u, q) so that Transpose(q)(u) is the operand for a computation whose result is Transpose(perm)'d; the
        operand has at most as many axes as perm."""
        base, own = self.see(v)
        missing = len(perm) - v.type.rank
        extended = (*range(missing), *(missing + a for a in own))
        wide = reshape(self.b, base, (1,) * missing + base.type.shape)
        return wide, compose(extended, inverse(perm))

    def place(self, v: Value, perm: Perm, trim: bool) -> Value:
        """The operand in that layout; trim: a constant without leading axes of size 1, which broadcasting adds."""
        u, q = self.placement(v, perm)
        if moves(u.type.shape, q):
            self.moved.add((u, q))
        placed = transpose(self.b, u, q)
        trim = trim and v in self.b.constants
        return reshape(self.b, placed, placed.type.shape[leading_ones(placed.type.shape) :]) if trim else placed

    def place_cost(self, old: Value, v: Value, perm: Perm) -> int:
        if perm == identity(len(perm)):
            return self.plain_cost(old, v)
        u, q = self.placement(v, perm)
        free = v in self.b.constants or (u, q) in self.moved or not moves(u.type.shape, q)
        return 0 if free else elements(v.type)


Sink = Callable[..., Union[Value, None]]  # of (Sinking, op, node, inputs)


# ---- several operands --------------------------------------------------------------------------------------------


def _best_layout(s: Sinking, node: Node, inputs: Sequence[Value]) -> Perm:
    """The layout of the result that moves the fewest elements.  Where equal: that of the largest transposed operand,
    then the plain one, then what users want."""
    rank = node.outputs[0].type.rank
    found: dict[Perm, None] = {}
    for v in sorted(inputs, key=lambda v: -elements(v.type)):
        missing = rank - v.type.rank
        _, own = s.see(v)
        if own != identity(v.type.rank):
            found[(*range(missing), *(missing + a for a in own))] = None
    wanted = sorted(s.demands.get(node.outputs[0], ()))
    return min((*found, identity(rank), *wanted), key=lambda p: _total_cost(s, node, inputs, p))


def _total_cost(s: Sinking, node: Node, inputs: Sequence[Value], perm: Perm) -> int:
    operands = sum(s.place_cost(old, v, perm) for old, v in zip(node.inputs, inputs, strict=True))
    return operands + s.later(node.outputs[0], perm)


def sink_elementwise(s: Sinking, op: Op, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    perm = _best_layout(s, node, inputs)
    if perm == identity(len(perm)):
        return None
    whole = {v for v in inputs if v.type.rank == len(perm) and v not in s.b.constants}
    operands = (s.place(v, perm, trim=bool(whole - {v})) for v in inputs)
    return transpose(s.b, s.b.add(op, *operands), perm)


def sink_concat(s: Sinking, op: Concat, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    perm = _best_layout(s, node, inputs)
    if perm == identity(len(perm)):
        return None
    parts = (s.place(v, perm, trim=False) for v in inputs)
    return transpose(s.b, s.b.add(Concat(perm[op.axis]), *parts), perm)


def sink_broadcast(s: Sinking, op: Broadcast, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    perm = _best_layout(s, node, inputs)
    if perm == identity(len(perm)):
        return None
    repeated = broadcast(s.b, s.place(inputs[0], perm, trim=False), permuted(op.shape, inverse(perm)))
    return transpose(s.b, repeated, perm)


# ---- one operand that is transposed ------------------------------------------------------------------------------

# (op, perm of the first operand, all operand types) -> (op over the base, perm of the result), or None
Move = Callable[..., Union[tuple[Op, Perm], None]]


def _along_axis(op: Softmax | LogSoftmax | CumSum, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm]:
    return replace(op, axis=perm[op.axis]), perm


def _same(op: Op, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm]:
    return op, perm


def _without(perm: Perm, axes: Sequence[int]) -> Perm:
    """The permutation of what is left when the axes (of the transposed value) are removed."""
    left = [perm[a] for a in range(len(perm)) if a not in axes]
    return tuple(sorted(left).index(a) for a in left)


def _reduce(op: Reduce, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm]:
    moved = replace(op, axes=tuple(sorted(perm[a] for a in op.axes)))
    return moved, perm if op.keepdims else _without(perm, op.axes)


def _arg_reduce(op: ArgReduce, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm]:
    return replace(op, axis=perm[op.axis]), perm if op.keepdims else _without(perm, (op.axis,))


def _slice(op: Slice, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm]:
    back = inverse(perm)
    return Slice(permuted(op.starts, back), permuted(op.sizes, back), tuple(op.steps[a] for a in back)), perm


def _pad(op: Pad, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm]:
    back = inverse(perm)
    return Pad(permuted(op.before, back), permuted(op.after, back), op.mode), perm


def _refine(op: Refine, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm]:
    return Refine(permuted(op.shape, inverse(perm))), perm


def _gather(op: Gather, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm]:
    axis, new = perm[op.axis], types[1].rank

    def after(a: int) -> int:
        return a if a < axis else a + new - 1

    kept = [after(perm[a]) for a in range(len(perm))]
    return Gather(axis), (*kept[: op.axis], *range(axis, axis + new), *kept[op.axis + 1 :])


def _resize(op: Resize, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm]:
    return replace(op, axes=tuple(perm[a] for a in op.axes)), perm


def _trailing(op: LayerNorm | RmsNorm, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm] | None:
    """The axes from op.axis on must stay where they are, and scale and bias must not reach beyond them."""
    fixed = all(perm[a] == a for a in range(op.axis, len(perm)))
    small = all(t.rank - leading_ones(t.shape) <= len(perm) - op.axis for t in types[1:])
    return (op, perm) if fixed and small else None


def _last_axis(op: BatchNorm, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm] | None:
    return (op, perm) if perm[-1] == len(perm) - 1 else None


def _matmul(op: MatMul, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm] | None:
    """The leading axes of the left operand only count rows, if the right one is a matrix."""
    return (op, perm) if types[1].rank == 2 and perm[-1] == len(perm) - 1 else None


def _quantization(op: Quantize | Dequantize, perm: Perm, types: tuple[TensorType, ...]) -> tuple[Op, Perm] | None:
    """Blocks have parameters of x's rank, which would have to move too."""
    return None if op.block else (replace(op, axis=perm[op.axis] if perm else 0), perm)


MOVES: Mapping[type[Op], Move] = {
    Softmax: _along_axis, LogSoftmax: _along_axis, CumSum: _along_axis, Gelu: _same, Reduce: _reduce,
    ArgReduce: _arg_reduce, Slice: _slice, Pad: _pad, Gather: _gather, LayerNorm: _trailing,
    RmsNorm: _trailing, BatchNorm: _last_axis, MatMul: _matmul, Resize: _resize,
    Quantize: _quantization, Dequantize: _quantization, Refine: _refine,
}


def sink_single(s: Sinking, op: Op, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    base, perm = s.see(inputs[0])
    moved = MOVES[type(op)](op, perm, tuple(v.type for v in inputs)) if base is not inputs[0] else None
    if moved is None:
        return None
    inner, result = moved
    old = node.outputs[0]
    if s.later(old, result) > s.plain_cost(node.inputs[0], inputs[0]) + s.later(old, identity(old.type.rank)):
        return None
    return transpose(s.b, s.b.add(inner, base, *inputs[1:]), result)


def sink_reshape(s: Sinking, op: Reshape, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """Where runs of axes are merged or split in place; else the base is brought into an order in which they are, if
    the users of the result gain from it."""
    base, perm = s.see(inputs[0])
    old = node.outputs[0]
    plan = plan_reshape(inputs[0].type.shape, perm, old.type.shape) if base is not inputs[0] else None
    if plan is None:
        return None
    moved = elements(old.type) if moves(base.type.shape, plan.order) else 0
    stay = s.plain_cost(node.inputs[0], inputs[0]) + s.later(old, identity(old.type.rank))
    sink = moved + s.later(old, plan.perm)
    if sink > stay or (sink == stay and moved):
        return None
    ordered = transpose(s.b, base, plan.order)
    if moved:
        s.moved.add((base, plan.order))
    return transpose(s.b, reshape(s.b, ordered, plan.shape), plan.perm)


def sink_transpose(s: Sinking, op: Transpose, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    return transpose(s.b, inputs[0], op.perm)


SINKS: Mapping[type[Op], Sink] = {
    **dict.fromkeys((Unary, Binary, Select, Cast, Saturate), sink_elementwise),
    **dict.fromkeys(MOVES, sink_single),
    Concat: sink_concat,
    Broadcast: sink_broadcast,
    Transpose: sink_transpose,
    Reshape: sink_reshape,
}
