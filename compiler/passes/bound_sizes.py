"""Give results of a size that only data tells the largest size, and carry what is valid of it as a value.

    p = NonZero[n](x)               p, n' = FindNonZero(x)              p: i64[rank, size of x], of which n' columns are valid
    y = Gather(v, p)            ->  y = Gather(v, p)
    s = Reduce[sum](y)              s = Reduce[sum](Select(iota < n', y, 0))
    return y: f32[n]                return Sized[n](y, [n'])

Why: memory is planned and kernels are made for sizes that are known before they run: fixed, or of open dimensions.  Behind the
valid part of a value lies anything that is in its type; every operator here either keeps it there or has it masked.  What does
neither is refused with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.bind import bind_dim, bind_op
from ...ir.compute import identity
from ...ir.dims import as_dim, equal_runs, normal_dim, symbols
from ...ir.errors import TargetError
from ...ir.expr import Bin, Var
from ...ir.graph import Builder, Graph, Node, Value
from ...ir.ops.bounded import Sized
from ...ir.ops.contract import MatMul
from ...ir.ops.data_sized import DataSized
from ...ir.ops.dim_tensor import DimTensor
from ...ir.ops.elementwise import Binary, Bitcast, Cast, Select, Unary
from ...ir.ops.movement import (
    Broadcast,
    Concat,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Pad,
    Reshape,
    Slice,
    Transpose,
)
from ...ir.ops.norm import Gelu, LayerNorm, LogSoftmax, RmsNorm, Softmax
from ...ir.ops.reduce import ArgReduce, CumSum, Reduce
from ...ir.ops.scatter import ScatterElements, ScatterND
from ...ir.types import DTYPES, Dim, is_integer

_LARGEST = 2**31  # bytes of one result of the largest size


def bound_sizes(graph: Graph) -> Graph:
    """Graphs without such operators are left alone.  Raises TargetError for what cannot be bounded."""
    if not any(isinstance(node.op, DataSized) for node in graph.nodes):
        return graph
    return _Replay(graph).run()


class _Replay:
    """counts: the symbolic size -> its value, i64[]; bounds: its largest value.  A value of the old graph with such a size
    has the largest size here."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.b = graph, Builder(graph.name)
        self.counts: dict[Var, Value] = {}
        self.bounds: dict[Var, Dim] = {}
        self.env: dict[Value, Value] = {v: self.b.input(v.name, v.type) for v in graph.inputs}
        self.node: Node = graph.nodes[0]

    def value(self, v: Value) -> Value:
        if v not in self.env:
            self.env[v] = self.b.constant(self.graph.constants[v], v.name)
        return self.env[v]

    def refuse(self, reason: str) -> TargetError:
        op, where = self.node.op, self.node.where
        return TargetError(
            f"{op.name} at {where!r}: {reason}, and how large that is, is only known when it runs; make what sizes it a "
            "constant of the model, or run the model with the interpreter"
        )

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self.node = node
            self.b.where = node.where
            made = self.replayed(node)
            self.env.update(zip(node.outputs, made, strict=True))
        outputs = [self.output(v) for v in self.graph.outputs]
        return self.b.graph(outputs, self.graph.output_names)

    def output(self, v: Value) -> Value:
        new = self.value(v)
        if not self.counted(v.type.shape):
            return new
        shape = self.b.add(Concat(0), *(self.b.add(Reshape((1,)), self.dim(d)) for d in v.type.shape))
        return self.b.add(Sized(v.type.shape), new, shape, name=v.name)

    def counted(self, dims: Sequence[Dim]) -> bool:
        return any(v in self.counts for v in symbols(dims))

    def replayed(self, node: Node) -> Sequence[Value]:
        inputs = [self.value(v) for v in node.inputs]
        if isinstance(node.op, DataSized):
            return self.data_sized(node, node.op, inputs)
        touched = any(self.counted(v.type.shape) for v in (*node.inputs, *node.outputs))
        if not touched and not (isinstance(node.op, DimTensor) and self.counted(node.op.dims)):
            return self.b.add_multi(node.op, *inputs, names=[v.name for v in node.outputs])
        rule = _RULES.get(type(node.op))
        if rule is None:
            raise self.refuse(f"it has no form for operands like {', '.join(str(v.type) for v in node.inputs)}")
        made = rule(self, node, bind_op(node.op, self.bounds), inputs)
        return (made,) if isinstance(made, Value) else made

    def data_sized(self, node: Node, op: DataSized, inputs: list[Value]) -> Sequence[Value]:
        for v in inputs:
            if not v.type.is_static and not op.takes_open:
                raise self.refuse(f"its operand is {v.type}")
        inputs = [self.masked(v, old, op.neutral) for v, old in zip(inputs, node.inputs, strict=True)]
        made, counts = op.bounded(self.b, *inputs)
        self.counts |= {d: count for d, count in zip(op.counts, counts, strict=True) if isinstance(d, Var)}
        for old, new in zip(node.outputs, made, strict=True):
            for d, n in zip(old.type.shape, new.type.shape, strict=True):
                if isinstance(d, Var) and d in op.counts:
                    self.bounds[d] = n
            if new.type.is_static and new.type.nbytes > _LARGEST:
                raise self.refuse(f"its result could be {new.type}, {new.type.nbytes} bytes; the limit is {_LARGEST}")
        return made

    # ---- sizes as values ----

    def integer(self, n: int) -> Value:
        return self.b.constant(np.array(n, np.int64))

    def dim(self, d: Dim) -> Value:
        """A dimension as i64[]."""
        d = as_dim(d)
        if isinstance(d, int):
            return self.integer(d)
        if not self.counted((d,)):  # open, but known before it runs
            return self.b.add(DimTensor((d,), ()))
        if isinstance(d, Var):
            return self.counts[d]
        if isinstance(d, Bin) and d.op in ("add", "sub", "mul", "div", "mod", "min", "max"):
            return self.b.add(Binary(d.op), self.dim(d.a), self.dim(d.b))
        raise self.refuse(f"a size is {d}")

    def valid(self, d: Dim, axis: int, rank: int) -> Value:
        """bool[1, .., n, .., 1]: what is valid along an axis."""
        n = bind_dim(d, self.bounds)
        positions = self.b.add(Iota(n, "i64"))
        shape = tuple(n if k == axis else 1 for k in range(rank))
        return self.b.add(Binary("lt"), self.b.add(Reshape(shape), positions), self.dim(d))

    def masked(self, v: Value, old: Value, neutral: Any, axes: Sequence[int] | None = None) -> Value:
        """The value with another element (None: refuse) behind what is valid along these axes, default all of them."""
        for axis, d in enumerate(old.type.shape):
            if (axes is None or axis in axes) and self.counted((d,)):
                if neutral is None:
                    raise self.refuse(f"its operand is {old.type}")
                fill = self.b.constant(np.array(neutral).astype(DTYPES[v.type.dtype].numpy))
                v = self.b.add(Select(), self.valid(d, axis, v.type.rank), v, fill)
        return v


Rule = Callable[[_Replay, Node, Any, list[Value]], "Value | Sequence[Value]"]


def _each(r: _Replay, node: Node, op: Any, inputs: list[Value]) -> Sequence[Value]:
    """Elements stay where they are."""
    return r.b.add_multi(op, *inputs, names=[v.name for v in node.outputs])


def _reshape(r: _Replay, node: Node, op: Reshape, inputs: list[Value]) -> Value:
    """The valid part stays in front if a counted dimension is the first of those that are merged or cut together."""
    old, new = node.inputs[0].type.shape, node.outputs[0].type.shape
    for source, target in equal_runs(old, new):
        for shape, run in ((old, source), (new, target)):
            dims = [shape[d] for d in run if shape[d] != 1]
            if r.counted(dims[1:]):
                raise r.refuse(f"it makes {node.outputs[0].type} of {node.inputs[0].type}")
    return r.b.add(op, *inputs)


def _slice(r: _Replay, node: Node, op: Slice, inputs: list[Value]) -> Value:
    v, old = inputs[0], node.op
    assert isinstance(old, Slice)
    starts, sizes, steps = list(op.starts), list(op.sizes), list(op.steps)
    for axis, d in enumerate(node.inputs[0].type.shape):
        start, size = old.starts[axis], old.sizes[axis]
        if not r.counted((d, start, size)) or (isinstance(start, int) and steps[axis] > 0):
            continue
        positions = r.b.add(Binary("mul"), r.b.add(Iota(sizes[axis], "i64")), r.integer(steps[axis]))
        at = r.b.add(Binary("max"), r.b.add(Binary("add"), positions, r.dim(start)), r.integer(0))
        v = r.b.add(Gather(axis), v, at)
        starts[axis], steps[axis] = 0, 1
    return r.b.add(Slice(tuple(starts), tuple(sizes), tuple(steps)), v)


def _concat(r: _Replay, node: Node, op: Concat, inputs: list[Value]) -> Value:
    """Where the parts end is known when it runs: the elements are gathered from the parts in their largest sizes."""
    whole = r.b.add(op, *inputs)
    olds = [v.type.shape[op.axis] for v in node.inputs]
    if not r.counted(olds[:-1]):
        return whole
    i = at = r.b.add(Iota(whole.type.shape[op.axis], "i64"))
    end: Value | None = None
    behind: Dim = 0  # where the next part starts in `whole`
    for d, v in zip(olds[:-1], inputs, strict=False):
        end = r.dim(d) if end is None else r.b.add(Binary("add"), end, r.dim(d))
        behind = normal_dim(behind + v.type.shape[op.axis])
        shift = r.b.add(Binary("sub"), r.dim(behind), end)
        at = r.b.add(Select(), r.b.add(Binary("lt"), i, end), at, r.b.add(Binary("add"), i, shift))
    return r.b.add(Gather(op.axis), whole, at)


def _from_the_end(r: _Replay, node: Node, op: Any, inputs: list[Value]) -> Value:
    """Negative indices count from the end of what is valid."""
    x, indices = inputs
    d = node.inputs[0].type.shape[op.axis]
    if r.counted((d,)) and DTYPES[indices.type.dtype].kind == "i":
        wide = r.b.add(Cast("i64"), indices) if indices.type.dtype != "i64" else indices
        negative = r.b.add(Binary("lt"), wide, r.integer(0))
        indices = r.b.add(Select(), negative, r.b.add(Binary("add"), wide, r.dim(d)), wide)
    if isinstance(op, GatherElements):
        for axis, (n, m) in enumerate(zip(node.inputs[0].type.shape, node.inputs[1].type.shape, strict=True)):
            if axis != op.axis and r.counted((n,)) and n is not m:
                raise r.refuse(f"its operands are {node.inputs[0].type} and {node.inputs[1].type}")
    return r.b.add(op, x, indices)


def _gather_nd(r: _Replay, node: Node, op: GatherND, inputs: list[Value]) -> Value:
    """Indices behind the valid ones find something, somewhere."""
    data, indices = (v.type.shape for v in node.inputs)
    if r.counted(data) or r.counted(indices[-1:]) or r.counted(indices[: op.batch_dims]):
        raise r.refuse(f"its operands are {node.inputs[0].type} and {node.inputs[1].type}")
    return r.b.add(op, *inputs)


def _reduce(r: _Replay, node: Node, op: Reduce, inputs: list[Value]) -> Value:
    old = node.inputs[0]
    counted = [a for a in op.axes if r.counted((old.type.shape[a],))]
    if not counted:
        return r.b.add(op, *inputs)
    dtype = inputs[0].type.dtype
    if op.fn == "mean":
        if is_integer(dtype):
            raise r.refuse(f"it is the mean of {old.type}")
        total = r.b.add(Reduce("sum", op.axes, op.keepdims), r.masked(inputs[0], old, 0, op.axes))
        count = r.integer(1)
        for a in op.axes:
            count = r.b.add(Binary("mul"), count, r.dim(old.type.shape[a]))
        return r.b.add(Binary("div"), total, r.b.add(Cast(dtype), count))
    combine = {"sum": "add", "prod": "mul"}.get(op.fn, op.fn)
    return r.b.add(op, r.masked(inputs[0], old, identity(combine, dtype), op.axes))


def _arg_reduce(r: _Replay, node: Node, op: ArgReduce, inputs: list[Value]) -> Value:
    old = node.inputs[0]
    if r.counted((old.type.shape[op.axis],)):
        if op.last:
            raise r.refuse(f"it looks for the last extremum of {old.type}")
        inputs = [r.masked(inputs[0], old, identity(op.fn, inputs[0].type.dtype), (op.axis,))]
    return r.b.add(op, *inputs)


def _cum_sum(r: _Replay, node: Node, op: CumSum, inputs: list[Value]) -> Value:
    return r.b.add(op, r.masked(inputs[0], node.inputs[0], 0, (op.axis,)) if op.reverse else inputs[0])


def _softmax(r: _Replay, node: Node, op: Softmax | LogSoftmax, inputs: list[Value]) -> Value:
    return r.b.add(op, r.masked(inputs[0], node.inputs[0], -np.inf, (op.axis,)))


def _norm(r: _Replay, node: Node, op: LayerNorm | RmsNorm, inputs: list[Value]) -> Value:
    if r.counted(node.inputs[0].type.shape[op.axis :]):
        raise r.refuse(f"it normalizes along {node.inputs[0].type}")
    return r.b.add(op, *inputs)


def _matmul(r: _Replay, node: Node, op: MatMul, inputs: list[Value]) -> Value:
    x, w = inputs
    x = r.masked(x, node.inputs[0], 0, (x.type.rank - 1,))
    return r.b.add(op, x, r.masked(w, node.inputs[1], 0, (w.type.rank - 2,)))


def _dim_tensor(r: _Replay, node: Node, op: DimTensor, inputs: list[Value]) -> Value:
    old = node.op
    assert isinstance(old, DimTensor)
    parts = [r.b.add(Reshape((1,)), r.dim(d)) for d in old.dims]
    return r.b.add(Reshape(old.shape), r.b.add(Concat(0), *parts) if len(parts) > 1 else parts[0])


def _pad(r: _Replay, node: Node, op: Pad, inputs: list[Value]) -> Value:
    for axis, d in enumerate(node.inputs[0].type.shape):
        if r.counted((d, op.before[axis], op.after[axis])) and (op.before[axis] != 0 or op.after[axis] != 0):
            raise r.refuse(f"it pads {node.inputs[0].type}")
    return r.b.add(op, *inputs)


def _scatter_nd(r: _Replay, node: Node, op: ScatterND, inputs: list[Value]) -> Value:
    """Updates that are not valid go outside of the data, where they are dropped."""
    data, indices, updates = inputs
    olds = [v.type.shape for v in node.inputs]
    if r.counted(olds[0]) or r.counted(olds[2][len(olds[1]) - 1 :]) or r.counted(olds[1][-1:]):
        raise r.refuse(f"its operands are {', '.join(str(v.type) for v in node.inputs)}")
    outside = 2**31 - 1 if DTYPES[indices.type.dtype].size >= 4 else None
    return r.b.add(op, data, r.masked(indices, node.inputs[1], outside), updates)


def _scatter_elements(r: _Replay, node: Node, op: ScatterElements, inputs: list[Value]) -> Value:
    data, indices, updates = inputs
    if r.counted(node.inputs[0].type.shape):
        raise r.refuse(f"its operand is {node.inputs[0].type}")
    outside = 2**31 - 1 if DTYPES[indices.type.dtype].size >= 4 else None
    return r.b.add(op, data, r.masked(indices, node.inputs[1], outside), updates)


_RULES: dict[type, Rule] = {
    **dict.fromkeys((Unary, Binary, Select, Cast, Bitcast, Transpose, Broadcast, Iota, Gelu), _each),
    Reshape: _reshape, Slice: _slice, Concat: _concat, Gather: _from_the_end, GatherElements: _from_the_end,
    GatherND: _gather_nd,
    Reduce: _reduce, ArgReduce: _arg_reduce, CumSum: _cum_sum, Softmax: _softmax, LogSoftmax: _softmax, LayerNorm: _norm,
    RmsNorm: _norm, MatMul: _matmul, DimTensor: _dim_tensor, Pad: _pad, ScatterND: _scatter_nd,
    ScatterElements: _scatter_elements,
}  # fmt: skip
