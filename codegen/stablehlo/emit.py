"""From a graph to a StableHLO module: one rule per operator, weights as arguments.

    module = emit_module(graph)        # .text, and .weights: the arrays that follow the inputs as arguments

A composite operator without a rule is written as what it expands into.  Small constants stand in the text; everything
over `INLINE_BYTES` becomes an argument, so that a runtime puts the weights on the device once.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.errors import InternalError, TargetError
from ...ir.graph import Builder, Graph, Node, Value
from ...ir.kernel import Buffer
from ...ir.ops.base import Op, form_of
from ...ir.ops.block_product import BlockMatMul
from ...ir.ops.contract import Conv, ConvTranspose, MatMul
from ...ir.ops.control import Fused, If, Loop, Scan
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
    Trilu,
)
from ...ir.ops.quantize import Saturate
from ...ir.ops.recurrent import Gru, Lstm, Rnn
from ...ir.ops.reduce import ArgReduce, CumSum, Reduce
from ...ir.ops.scatter import ScatterElements, ScatterND
from ...ir.ops.sort import TopK
from ...ir.ops.window import MaxPoolIndices, Pool
from ...ir.types import TensorType, is_float
from . import block_product, contract, control, movement, quantize, recurrent, reduce
from .elementwise import binary, conversion, unary
from .exprs import write_compute
from .text import identifier, quoted, type_text, types_text, uniform
from .writer import Ref, Writer

INLINE_BYTES = 1024
Rule = Callable[["Emitter", Any, tuple[Value, ...]], Any]


@dataclass(frozen=True)
class Argument:
    """An argument or result of the module: the model's name of it, its type, and the array if it is a weight.
    donated: the number of the output that takes its memory.  split: the mesh axis over which each dimension is split."""

    name: str
    type: TensorType
    array: np.ndarray | None = None
    donated: int | None = None
    split: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Module:
    """A StableHLO module with the function @main.  arguments: the inputs in the model's order, then the weights."""

    text: str
    arguments: tuple[Argument, ...]
    outputs: tuple[Argument, ...]

    @property
    def inputs(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.array is None)

    @property
    def weights(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.array is not None)

    @property
    def operations(self) -> int:
        """How many StableHLO operations the text has, constants and returns left out."""
        skipped = ("stablehlo.constant", "stablehlo.return")
        lines = [line for line in self.text.splitlines() if "stablehlo." in line and " = " in line]
        return sum(1 for line in lines if not any(s in line for s in skipped))


class Emitter:
    """The state of one emission: the writer, values of the graph by name, and the weights seen so far.
    precision: of products, DEFAULT (bf16 passes on a TPU) or HIGHEST."""

    def __init__(self, precision: str = "DEFAULT") -> None:
        self.w = Writer()
        self.precision = precision
        self.weights: dict[Ref, tuple[Value, np.ndarray]] = {}
        self._by_array: dict[int, Ref] = {}
        self._env: ChainMap[Value, Ref] = ChainMap()
        self._constants: ChainMap[Value, np.ndarray] = ChainMap()
        self._producers: ChainMap[Value, Node] = ChainMap()

    # -- what the rules ask for

    def value(self, v: Value) -> Ref:
        if v in self._env:
            return self._env[v]
        array = self._constants[v]
        if uniform(array) and array.size:
            return self.w.splat(array.reshape(-1)[0], v.type.dtype, array.shape)
        return self.w.constant(array, v.type.dtype) if array.nbytes <= INLINE_BYTES else self._weight(v, array)

    def operand(self, v: Value, shape: Sequence[int]) -> Ref:
        """The value broadcast to a shape, as NumPy does."""
        array = self.constant_of(v)
        if array is not None and uniform(array):
            return self.w.splat(array.reshape(-1)[0], v.type.dtype, shape)
        return self.w.broadcast_to(self.value(v), shape)

    def constant_of(self, v: Value) -> np.ndarray | None:
        return None if v in self._env else self._constants.get(v)

    def producer(self, v: Value) -> Node | None:
        """The node of the graph at hand, or of one around it, that makes the value."""
        return self._producers.get(v)

    def types_of(self, op: Op, inputs: Sequence[Value]) -> tuple[TensorType, ...]:
        return op.infer(*(v.type for v in inputs))

    def type_of(self, op: Op, inputs: Sequence[Value]) -> TensorType:
        return self.types_of(op, inputs)[0]

    def narrowed(self, inputs: Sequence[Value], to: str) -> list[Ref]:
        """Operands of a product; bytes that were widened to i32 for it as the bytes that they are, since XLA adds
        products of bytes in i32 by itself.  to: the type that the operator names for its sums, if any."""
        if to:
            signed = all(v.type.dtype == "i8" for v in inputs)
            return [self.value(v) if signed else self.w.convert(self.value(v), to) for v in inputs]
        sources = [self._narrow_source(v) for v in inputs]
        if all(s is not None for s in sources) and len({s.type.dtype for s in sources if s is not None}) == 1:
            return [self.value(s) for s in sources if s is not None]
        return [self.value(v) for v in inputs]

    def _narrow_source(self, v: Value) -> Value | None:
        """An i8 value whose conversion to i32 is v."""
        array = self.constant_of(v)
        if v.type.dtype != "i32":
            return None
        if array is not None:
            return self._narrow_constant(v, array)
        node = self._producers.get(v)
        widened = node is not None and isinstance(node.op, Cast) and node.inputs[0].type.dtype == "i8"
        return node.inputs[0] if widened and node is not None else None

    def _narrow_constant(self, v: Value, array: np.ndarray) -> Value | None:
        if array.size == 0 or array.min() < -128 or array.max() > 127:
            return None
        narrow = Value(v.name, TensorType("i8", v.type.shape))
        self._constants[narrow] = array.astype(np.int8)
        return narrow

    def _weight(self, v: Value, array: np.ndarray) -> Ref:
        if id(array) not in self._by_array:
            ref = Ref(self.w.unique(v.name), v.type)
            self._by_array[id(array)] = ref
            self.weights[ref] = (v, array)
        return self._by_array[id(array)]

    # -- graphs

    def inline(self, graph: Graph, arguments: Sequence[Ref]) -> tuple[Ref, ...]:
        """The operations of a graph at this place."""
        saved = self._env, self._constants, self._producers
        self._env = self._env.new_child(dict(zip(graph.inputs, arguments, strict=True)))
        self._constants = self._constants.new_child(dict(graph.constants))
        self._producers = self._producers.new_child(dict(graph.producers))
        try:
            for node in graph.nodes:
                self._node(node)
            return tuple(self.value(v) for v in graph.outputs)
        finally:
            self._env, self._constants, self._producers = saved

    def _node(self, node: Node) -> None:
        w = self.w
        w.where = node.where or w.where
        w.hint = node.outputs[0].name
        made = self._apply(node)
        refs = (made,) if isinstance(made, Ref) else tuple(made)
        for v, ref in zip(node.outputs, refs, strict=True):
            if ref.type != v.type:
                raise InternalError(f"StableHLO: {node.op} at {node.where!r}: {v!r} was written as {ref.type}")
        self._env.update(zip(node.outputs, refs, strict=True))

    def _apply(self, node: Node) -> Ref | Sequence[Ref]:
        rule = RULES.get(type(node.op))
        if rule is not None:
            return rule(self, node.op, node.inputs)
        form = form_of(node.op)
        if form == "expand":
            b = Builder(node.op.name)
            inputs = [b.input(v.name, v.type) for v in node.inputs]
            return self.inline(b.graph(node.op.expand(b, *inputs)), [self.value(v) for v in node.inputs])
        if form == "compute":
            out, *ins = (Buffer(v.name, v.type.dtype, v.type.shape) for v in (*node.outputs, *node.inputs))
            buffers = {b: self.value(v) for b, v in zip(ins, node.inputs, strict=True)}
            return write_compute(self.w, node.op.compute(out, *ins), buffers)
        raise TargetError(f"{node.op.name} at {node.where!r}: this operator has no translation to StableHLO")


def _unary(e: Emitter, op: Unary, inputs: tuple[Value, ...]) -> Ref:
    return unary(e.w, op.fn, e.value(inputs[0]))


def _binary(e: Emitter, op: Binary, inputs: tuple[Value, ...]) -> Ref:
    """XLA divides by constants through their reciprocals, one rounding more.  Where a single number is divided (the scale
    of a dynamic quantization, whose zero point is often halfway between two integers) a barrier hides the constant."""
    out = e.type_of(op, inputs)
    a, b = (e.operand(v, out.static_shape) for v in inputs)
    if op.fn == "div" and out.size == 1 and is_float(out.dtype) and e.constant_of(inputs[1]) is not None:
        b = e.w.barrier(b)
    return binary(e.w, op.fn, a, b)


def _select(e: Emitter, op: Select, inputs: tuple[Value, ...]) -> Ref:
    shape = e.type_of(op, inputs).static_shape
    return e.w.select(*(e.operand(v, shape) for v in inputs))


def _cast(e: Emitter, op: Cast, inputs: tuple[Value, ...]) -> Ref:
    return conversion(e.w, e.value(inputs[0]), op.to)


def _bitcast(e: Emitter, op: Bitcast, inputs: tuple[Value, ...]) -> Ref:
    x = e.value(inputs[0])
    return x if x.dtype == op.to else e.w.simple("bitcast_convert", (x,), e.type_of(op, inputs))


def _dim_tensor(e: Emitter, op: DimTensor, inputs: tuple[Value, ...]) -> Ref:
    return e.w.constant(op.evaluate()[0], "i64")


RULES: dict[type[Op], Rule] = {
    Unary: _unary, Binary: _binary, Select: _select, Cast: _cast, Bitcast: _bitcast,
    DimTensor: _dim_tensor,
    MatMul: contract.matmul, Conv: contract.conv, ConvTranspose: contract.conv_transpose, Pool: contract.pool,
    MaxPoolIndices: contract.max_pool_indices,
    Reshape: movement.reshape, Transpose: movement.transpose, Slice: movement.slice_, Concat: movement.concat,
    Pad: movement.pad, Broadcast: movement.broadcast, Gather: movement.gather, Iota: movement.iota,
    GatherElements: movement.gather_elements, GatherND: movement.gather_nd, Trilu: movement.trilu,
    Reduce: reduce.reduce, ArgReduce: reduce.arg_reduce, CumSum: reduce.cumsum, TopK: reduce.top_k,
    ScatterElements: reduce.scatter_elements, ScatterND: reduce.scatter_nd,
    Saturate: quantize.saturate, BlockMatMul: block_product.block_matmul,
    Lstm: recurrent.recurrent, Gru: recurrent.recurrent, Rnn: recurrent.recurrent,
    If: control.if_, Loop: control.loop, Scan: control.scan, Fused: control.fused,
}


def emit_module(
    graph: Graph, *, precision: str = "DEFAULT", donated: Mapping[str, str] | None = None,
    shardings: Mapping[Value, tuple[str | None, ...]] | None = None, mesh: tuple[str, int] = ("", 1),
) -> Module:
    """The module of a graph with static shapes.

    donated: input name -> name of the output that takes over its memory (same type).  shardings: inputs, outputs and
    constants that are split -> the mesh axis of each dimension; mesh: the axis and how many devices it has.
    Raises TargetError for an operator or a shape that StableHLO cannot say.
    """
    for v in (*graph.inputs, *graph.outputs):
        if not v.type.is_static:
            raise TargetError(f"{v.name}: StableHLO for XLA needs known sizes, got {v.type}; bind them with dims or shapes")
    for v in (*graph.inputs, *graph.constants, *(v for node in graph.nodes for v in node.outputs)):
        if v.type.dtype == "str":
            raise TargetError(f"{v.name}: XLA has no strings; use the target cpu")
    e = Emitter(precision)
    inputs = [Ref(e.w.unique(v.name), v.type) for v in graph.inputs]
    results = e.inline(graph, inputs)
    split = shardings or {}
    numbering = {name: i for i, name in enumerate(graph.output_names)}
    taken = {i: numbering[o] for i, o in (donated or {}).items()}
    arguments = [Argument(v.name, v.type, None, taken.get(v.name), split.get(v, ())) for v in graph.inputs]
    arguments += [
        Argument(name, v.type, array, None, split.get(v, ()))
        for name, (v, array) in zip(_distinct(v.name for v, _ in e.weights.values()), e.weights.values(), strict=True)
    ]
    outputs = tuple(
        Argument(n, v.type, None, None, split.get(v, ())) for n, v in zip(graph.output_names, graph.outputs, strict=True)
    )
    return Module(_text(graph.name, e, [*inputs, *e.weights], arguments, results, outputs, mesh), tuple(arguments), outputs)


def _distinct(names: Iterable[str]) -> list[str]:
    seen: dict[str, int] = {}
    made = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        made.append(f"{name}#{count}" if count else name)
    return made


def _text(
    name: str, e: Emitter, refs: Sequence[Ref], arguments: Sequence[Argument], results: Sequence[Ref],
    outputs: Sequence[Argument], mesh: tuple[str, int],
) -> str:
    axis, devices = mesh
    many = devices > 1
    head = ",\n    ".join(_argument_text(r, a, many) for r, a in zip(refs, arguments, strict=True))
    given = ", ".join(type_text(a.type) + _attributes(a, many) for a in outputs)
    attributes = f" attributes {{mhlo.num_partitions = {devices} : i32}}" if many else ""
    values = ", ".join(r.name for r in results)
    tail = f"    return {values} : {types_text(r.type for r in results)}" if results else "    return"
    declared = [f'  sdy.mesh @mesh = <["{axis}"={devices}]>'] if many else []
    return "\n".join([
        f"module @{identifier(name)}{attributes} {{", *declared, f"  func.func public @main({head}) -> ({given}) {{",
        *(f"  {line}" for line in e.w.lines), tail, "  }", "}", "",
    ])


def _argument_text(ref: Ref, argument: Argument, many: bool) -> str:
    return f"{ref.name}: {type_text(ref.type)}{_attributes(argument, many)} loc({quoted(argument.name)})"


def _attributes(argument: Argument, many: bool) -> str:
    """many: on several devices every argument says how it lies there, else the partitioner splits it as it likes."""
    parts = []
    if many:
        split = argument.split or (None,) * argument.type.rank
        dims = ", ".join("{}" if axis is None else f'{{"{axis}"}}' for axis in split)
        parts.append(f"sdy.sharding = #sdy.sharding<@mesh, [{dims}]>")
    if argument.donated is not None:
        parts.append(f"tf.aliasing_output = {argument.donated} : i32")
    return f" {{{', '.join(parts)}}}" if parts else ""
