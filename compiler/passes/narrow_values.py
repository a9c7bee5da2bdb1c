"""Compute in 16 bits wherever that is what a user of `--precision bf16` expects, for targets that take whole graphs.

    y = Conv(x: f32, w: f32)                ->   y = Conv(Cast[bf16](x), w: bf16)
    z = Binary(add)(y: bf16, r: f32)        ->   z = Binary(add)(y, Cast[bf16](r)): bf16
    p = Unary(sin)(Binary(mul)(t, f))       ->   the same: nothing here comes from a product

Products and convolutions get 16-bit operands, as do large tables that rows are picked from; what is computed from their
results stays in 16 bits; everything else, such as positions and masks, stays in f32.  A product over a single element is
no product but an outer one, mostly of positions and frequencies, and stays as well.  Composites and sums still compute in
f32 inside.  Inputs and outputs of the graph keep their types.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...ir.graph import Builder, Graph, Node, Value
from ...ir.ops.base import Op
from ...ir.ops.contract import Conv, ConvTranspose, MatMul
from ...ir.ops.elementwise import Binary, Cast, Select, Unary
from ...ir.ops.image import Resize
from ...ir.ops.movement import (
    Broadcast,
    Concat,
    Gather,
    GatherElements,
    GatherND,
    Pad,
    Reshape,
    Slice,
    Transpose,
    Trilu,
)
from ...ir.ops.norm import Attention, BatchNorm, Gelu, LayerNorm, LogSoftmax, RmsNorm, Softmax
from ...ir.ops.reduce import ArgReduce, Reduce
from ...ir.ops.scatter import ScatterElements, ScatterND
from ...ir.ops.sort import TopK
from ...ir.ops.window import MaxPoolIndices, Pool
from ...ir.types import DTYPES

PRODUCTS = (MatMul, Conv, ConvTranspose, Attention)
FOLLOWERS = (
    Unary, Binary, Select, Pool, MaxPoolIndices, Reduce, ArgReduce, Softmax, LogSoftmax, LayerNorm, RmsNorm, BatchNorm,
    Gelu, Reshape, Transpose, Slice, Concat, Pad, Broadcast, Gather, GatherElements, GatherND, Trilu, ScatterElements,
    ScatterND, TopK, Resize,
)
"""Operators whose floating-point operands and results are all of one type, that of what they are given."""
_LEAST_TABLE = 1 << 16  # elements


def narrow_values(graph: Graph, *, precision: str = "f32") -> Graph:
    """precision: the 16-bit type; the others change nothing."""
    return graph if precision in ("f32", "tf32") else _Narrowing(graph, precision).run()


class _Narrowing:
    """One replay.  The value that stands for an old one may be of the 16-bit type where the old one is f32."""

    def __init__(self, graph: Graph, dtype: str) -> None:
        self.graph, self.dtype = graph, dtype
        self.b = Builder(graph.name)
        self.values: dict[Value, Value] = {}

    def run(self) -> Graph:
        g, b = self.graph, self.b
        self.values = {v: b.input(v.name, v.type) for v in g.inputs}
        for node in g.nodes:
            b.where = node.where
            made = b.add_multi(*self._rebuilt(node), names=[v.name for v in node.outputs], where=node.where)  # pyright: ignore
            self.values.update(zip(node.outputs, made, strict=True))
        return b.graph([self._as(v, v.type.dtype) for v in g.outputs], g.output_names)

    def _rebuilt(self, node: Node) -> tuple[Op | Value, ...]:
        """The operator and its operands."""
        op, floats = node.op, [v for v in node.inputs if v.type.dtype == "f32"]
        narrow = isinstance(op, PRODUCTS) and bool(floats) and not _is_outer(op, node.inputs)
        if isinstance(op, FOLLOWERS):
            narrow = any(self._is_narrow(v) for v in floats) or self._is_embedding(node)
        wanted = self.dtype if narrow else "f32"
        return (op, *(self._as(v, wanted if v.type.dtype == "f32" else v.type.dtype) for v in node.inputs))

    def _is_narrow(self, v: Value) -> bool:
        return v in self.values and self.values[v].type.dtype == self.dtype

    def _is_embedding(self, node: Node) -> bool:
        """Rows picked from a large table of weights."""
        array = self.graph.constants.get(node.inputs[0]) if isinstance(node.op, Gather) else None
        return array is not None and array.dtype == np.float32 and array.size >= _LEAST_TABLE

    def _as(self, v: Value, dtype: str) -> Value:
        """The new value in an element type; constants are converted now."""
        array = self.graph.constants.get(v)
        if array is not None:
            return self.b.constant(self._constant(array, dtype), v.name)
        new = self.values[v]
        return new if new.type.dtype == dtype else self.b.add(Cast(dtype), new)

    def _constant(self, array: np.ndarray, dtype: str) -> np.ndarray:
        numpy = DTYPES[dtype].numpy
        if array.dtype == numpy:
            return array
        with np.errstate(over="ignore"):
            return array.astype(numpy)


def _is_outer(op: Op, inputs: Iterable[Value]) -> bool:
    return isinstance(op, MatMul) and next(iter(inputs)).type.shape[-1] == 1
