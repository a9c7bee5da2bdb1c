"""Whether the rows of a model are independent: what its outputs say about one row depends on that row of the inputs only,
so that rows may be added and cut off again.

Proven on the loop-level meaning.  An axis of a value carries the rows if every operator reads all of its operands at the
same row and uses the row for nothing else; a reduction over rows, a product of them, a position among them ends the proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod

import numpy as np

from ..ir.compute import Compute
from ..ir.expr import Expr, Load, Type, Var, const
from ..ir.graph import Builder, Graph, Node, Value
from ..ir.kernel import Buffer
from ..ir.ops.base import form_of
from ..ir.ops.control import Fused
from ..ir.ops.movement import Broadcast, Iota, Reshape, Slice
from ..ir.ops.recurrent import Recurrent
from ..ir.ops.reduce import ArgReduce
from ..ir.ops.sort import TopK
from ..ir.traverse import rewrite, uses

_SIZED = (Reshape, Broadcast, Slice, Iota)  # their attributes hold sizes


@dataclass(frozen=True)
class Rows:
    """Dimension `axis` has `inner` elements a row, rows outermost."""

    axis: int
    inner: int = 1


class NotProvenError(Exception):
    """Why rows may depend on each other."""


def row_axes(few: Graph, many: Graph, rows: tuple[int, int]) -> tuple[dict[int, Rows], dict[int, Rows]]:
    """Where the rows are in the inputs and in the outputs, by number, of one model imported for two numbers of rows, both
    above 1.  Raises NotProvenError."""
    _check_same(few, many)
    inputs = {i: _axis_of(a, b, rows) for i, (a, b) in enumerate(zip(few.inputs, many.inputs, strict=True))}
    inputs = {i: r for i, r in inputs.items() if r is not None}
    env: dict[Value, Rows | None] = {v: inputs.get(i) for i, v in enumerate(few.inputs)}
    made = _graph(few, env, rows[0])
    outputs = {}
    for i, (a, b, r) in enumerate(zip(few.outputs, many.outputs, made, strict=True)):
        if r is not None:
            outputs[i] = r
        elif a.type != b.type:
            raise NotProvenError(f"output {few.output_names[i]!r} has rows that come from no input")
    return inputs, outputs  # type: ignore[return-value]


def _axis_of(a: Value, b: Value, rows: tuple[int, int]) -> Rows | None:
    pairs = [(n, *sizes) for n, sizes in enumerate(zip(a.type.static_shape, b.type.static_shape, strict=True))]
    different = [(n, x, y) for n, x, y in pairs if x != y]
    if not different:
        return None
    if len(different) > 1 or different[0][1:] != rows:
        raise NotProvenError(f"the shape of input {a.name!r} depends on the rows in another way")
    return Rows(different[0][0])


def _check_same(few: Graph, many: Graph) -> None:
    """That the number of rows is nowhere but in sizes: not in a constant, not in an attribute."""
    if [type(n.op) for n in few.nodes] != [type(n.op) for n in many.nodes]:
        raise NotProvenError("the graph depends on the number of rows")
    for a, b in zip(few.nodes, many.nodes, strict=True):
        if not isinstance(a.op, _SIZED):
            names = [f.name for f in fields(a.op) if f.repr]  # type: ignore[arg-type]  # operators are dataclasses
            if any(getattr(a.op, name) != getattr(b.op, name) for name in names):
                raise NotProvenError(f"{a.op.name} at {a.where!r} depends on the number of rows")
        for x, y in zip(a.inputs, b.inputs, strict=True):
            if x in few.constants and not _same_constant(few.constants[x], many.constants.get(y)):
                raise NotProvenError(f"a constant of {a.op.name} at {a.where!r} depends on the number of rows")


def _same_constant(a: np.ndarray, b: np.ndarray | None) -> bool:
    if b is None or a.ndim != b.ndim:
        return False
    for axis, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)):
        if x != y:
            if not (_uniform(a, axis) and _uniform(b, axis)):
                return False
            a, b = a.take([0], axis), b.take([0], axis)
    return a.tobytes() == b.tobytes()


def _uniform(array: np.ndarray, axis: int) -> bool:
    return array.shape[axis] > 0 and bool((array == array.take([0], axis)).all())


def _graph(graph: Graph, env: dict[Value, Rows | None], rows: int) -> list[Rows | None]:
    for node in graph.nodes:
        given = [env.get(v) for v in node.inputs]
        made: Sequence[Rows | None] = [None] * len(node.outputs)
        if any(r is not None for r in given):
            made = _node(graph, node, given, rows)
        env.update(zip(node.outputs, made, strict=True))
    return [env.get(v) for v in graph.outputs]


def _node(graph: Graph, node: Node, given: Sequence[Rows | None], rows: int) -> Sequence[Rows | None]:
    op = node.op
    if isinstance(op, Reshape):
        (r,) = given
        assert r is not None
        return [_reshaped(r, node.inputs[0].type.static_shape, node.outputs[0].type.static_shape, rows)]
    if isinstance(op, Fused):
        return _graph(op.body, dict(zip(op.body.inputs, given, strict=True)), rows)
    form = form_of(op)
    if form == "expand":
        b = Builder(op.name)
        inputs = [
            b.constant(graph.constants[v], v.name) if v in graph.constants else b.input(v.name, v.type) for v in node.inputs
        ]
        body = b.graph(op.expand(b, *inputs))
        free = [(v, r) for v, r in zip(inputs, given, strict=True) if v in body.inputs]
        return _graph(body, dict(free), rows)
    if form == "compute":
        out, *ins = (Buffer(f"b{n}", v.type.dtype, v.type.shape) for n, v in enumerate((*node.outputs, *node.inputs)))
        arrays = {b: graph.constants[v] for b, v in zip(ins, node.inputs, strict=True) if v in graph.constants}
        try:
            return [_computed(op.compute(out, *ins), dict(zip(ins, given, strict=True)), arrays, rows)]
        except NotProvenError as error:
            raise NotProvenError(f"{op.name} at {node.where!r}: {error}") from None
    if isinstance(op, (ArgReduce, TopK)) and given[0] is not None and given[0].axis != op.axis:
        gone = isinstance(op, ArgReduce) and not op.keepdims and op.axis < given[0].axis
        return [Rows(given[0].axis - gone, given[0].inner)] * len(node.outputs)
    if isinstance(op, Recurrent):
        weights = given[1 : 2 + bool(op.vector)]
        others = zip(node.inputs, given, strict=True)
        if not any(weights) and all(r is None or r == _recurrent_rows(v) for v, r in others):
            return [_recurrent_rows(v) for v in node.outputs]
    raise NotProvenError(f"{op.name} at {node.where!r} may mix rows")


def _recurrent_rows(v: Value) -> Rows:
    """Sequences are [T, B, ...], states [B, H]."""
    return Rows(1 if v.type.rank == 3 else 0)


def _reshaped(r: Rows, before: tuple[int, ...], after: tuple[int, ...], rows: int) -> Rows:
    outer, each = prod(before[: r.axis]), r.inner * prod(before[r.axis + 1 :])
    for axis, size in enumerate(after):
        if prod(after[:axis]) == outer and size % rows == 0 and size // rows * prod(after[axis + 1 :]) == each:
            return Rows(axis, size // rows)
    raise NotProvenError(f"a reshape from {list(before)} to {list(after)} mixes rows with other dimensions")


def _computed(c: Compute, given: Mapping[Buffer, Rows | None], arrays: Mapping[Buffer, np.ndarray], rows: int) -> Rows:
    loads = [x for x in c.reads() if given.get(x.buf) is not None]
    found = {(x.idx[given[x.buf].axis], given[x.buf].inner) for x in loads}  # type: ignore[union-attr]
    row, inner = next(iter(found), (None, 1))
    if len(found) != 1 or not isinstance(row, Var) or row not in c.axes or row.extent != rows * inner:
        raise NotProvenError("a result is computed of several rows")

    def without(e: Expr) -> Expr | None:
        """Reads at this row as reads of no row in particular."""
        if not isinstance(e, Load):
            return None
        r, array = given.get(e.buf), arrays.get(e.buf)
        places = {r.axis} if r is not None else set()
        if array is not None:
            places = {n for n, i in enumerate(e.idx) if i is row and _uniform(array, n)}
        none = const(0, Type("i64"))
        return Load.of(e.buf, tuple(none if n in places else i for n, i in enumerate(e.idx)), e.type)

    parts = [c.body, *([c.finish] if c.finish is not None else []), *([c.init] if isinstance(c.init, Expr) else [])]
    if any(uses(rewrite(e, without), row) for e in parts):
        raise NotProvenError("a result depends on the number of its row")
    places = [n for n, i in enumerate(c.out_index) if i is row]
    others = [i for i in c.out_index if i is not row]
    if len(places) != 1 or any(uses(i, row) for i in others):
        raise NotProvenError("a result is written to another row")
    return Rows(places[0], inner)
