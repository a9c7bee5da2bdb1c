"""From a graph to a Relax module, for build scripts and for the `tvm` target.

    module, weights = to_tvm(graph)             # main(inputs..., weights...), weights as NumPy arrays in order
    executable = tvm.compile(module, tvm.target.Target("llvm"))

Operators that Relax has with the same meaning become those, so that TVM's own patterns and libraries find them; every
other one becomes a TIR function made of its loop-level meaning.
"""

# pyright: reportMissingImports=false
# TVM is optional, and not for every Python: checked against where it is installed.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax as _relax

from ...ir.errors import TargetError
from ...ir.graph import Builder, Graph, Node, Value, inline_graph, rewrite_graph
from ...ir.kernel import Buffer, Kernel
from ...ir.ops.base import Op, form_of
from ...ir.ops.contract import Conv, MatMul
from ...ir.ops.control import Fused, If, Loop, Scan
from ...ir.ops.elementwise import Binary, Unary
from ...ir.ops.movement import Broadcast, Concat, Reshape, Transpose
from ...ir.ops.norm import Softmax
from ...ir.ops.reduce import Reduce
from ...ir.types import DTYPES, TensorType
from .control import Function, functions_of, start_graph, state_types
from .exprs import NAMES, relax_type
from .kernels import compute_tensor, computed, loops, needs_loops

relax: Any = _relax  # its own annotations leave out what its functions convert: untyped from here on
R = relax.op
Rule = Callable[[Any, list[Any]], Any]
_UNARY = {
    "exp": R.exp, "log": R.log, "sqrt": R.sqrt, "tanh": R.tanh, "sigmoid": R.sigmoid, "erf": R.erf, "sin": R.sin,
    "cos": R.cos, "floor": R.floor, "ceil": R.ceil, "neg": R.negative,
}
_BINARY = {"add": R.add, "sub": R.subtract, "mul": R.multiply, "div": R.divide}
_REDUCE = {"sum": R.sum, "mean": R.mean}
_CONV = {1: (R.nn.conv1d, "NWC", "WIO"), 2: (R.nn.conv2d, "NHWC", "HWIO"), 3: (R.nn.conv3d, "NDHWC", "DHWIO")}
_WIDE = ("f32", "f64")
LARGE = 1024  # bytes; larger constants become parameters


def _conv(op: Conv, x: list[Any]) -> Any:
    apply, data, kernel = _CONV[len(op.strides)]
    return apply(
        x[0], x[1], strides=list(op.strides), padding=list(op.pads), dilation=list(op.dilations), groups=op.groups,
        data_layout=data, kernel_layout=kernel,
    )


_RULES: dict[type[Op], Rule] = {
    MatMul: lambda op, x: R.matmul(*x), Conv: _conv,
    Reshape: lambda op, x: R.reshape(x[0], list(op.shape)),
    Transpose: lambda op, x: R.permute_dims(x[0], list(op.perm)),
    Concat: lambda op, x: R.concat(x, op.axis),
    Broadcast: lambda op, x: R.broadcast_to(x[0], list(op.shape)),
    Softmax: lambda op, x: R.nn.softmax(x[0], op.axis),
    Unary: lambda op, x: _UNARY[op.fn](*x),
    Binary: lambda op, x: _BINARY[op.fn](*x),
    Reduce: lambda op, x: _REDUCE[op.fn](x[0], list(op.axes), op.keepdims),
}
_MOVES = (Reshape, Transpose, Concat, Broadcast)


def has_relax_operator(op: Op, types: Sequence[TensorType]) -> bool:
    """Whether Relax has the operator with exactly our meaning for these operands."""
    if any(0 in t.shape for t in types):
        return False
    if isinstance(op, _MOVES):
        return types[0].rank > 0 and types[0].dtype != "bool"
    if type(op) not in _RULES or any(t.dtype not in _WIDE for t in types):
        return False
    match op:
        case Unary():
            return op.fn in _UNARY
        case Binary():
            return op.fn in _BINARY
        case Reduce():
            return op.fn in _REDUCE and bool(op.axes)
        case Conv():
            return len(op.strides) in _CONV
    return True


class _Emitter:
    """Emits the nodes of one function into a block builder.  functions: what the control flow of its nodes calls."""

    def __init__(self, bb: Any, functions: Mapping[Value, tuple[Function, ...]]) -> None:
        self.bb = bb
        self.functions = functions
        self.weights: list[tuple[TensorType, np.ndarray]] = []
        self.parameters: list[Any] = []
        self._by_array: dict[int, Any] = {}

    def graph(self, graph: Graph, arguments: Sequence[Any]) -> list[Any]:
        env: dict[Value, Any] = dict(zip(graph.inputs, arguments, strict=True))

        def value(v: Value) -> Any:
            if v not in env:
                env[v] = self._constant(v, graph.constants[v])
            return env[v]

        for node in graph.nodes:
            made = self._node(node, [value(v) for v in node.inputs])
            env.update(zip(node.outputs, made, strict=True))
        return [value(v) for v in graph.outputs]

    def _constant(self, v: Value, array: np.ndarray) -> Any:
        if array.size == 0:  # TVM writes constants without elements, and cannot read them
            return self.bb.emit(R.zeros(list(array.shape), NAMES[v.type.dtype]))  # pyright: ignore
        if array.nbytes <= LARGE:
            return relax.const(np.asarray(array, order="C"), NAMES[v.type.dtype])
        return self._weight(v.type, array)

    def _weight(self, t: TensorType, array: np.ndarray) -> Any:
        if id(array) not in self._by_array:
            self._by_array[id(array)] = relax.Var(f"weight_{len(self.weights)}", relax_type(t))
            self.parameters.append(self._by_array[id(array)])
            self.weights.append((t, array))
        return self._by_array[id(array)]

    def _node(self, node: Node, x: list[Any]) -> list[Any]:
        op, types, types_out = node.op, [v.type for v in node.inputs], [v.type for v in node.outputs]
        if isinstance(op, Fused):
            return self.graph(op.body, x)
        if has_relax_operator(op, types):
            y = self.bb.emit(_RULES[type(op)](op, x))
            return [self.bb.emit(R.add(y, x[2])) if isinstance(op, Conv) and len(x) > 2 else y]
        form = form_of(op)
        if form == "expand":
            b = Builder(op.name)
            inputs = [b.input(v.name, v.type) for v in node.inputs]
            return self.graph(b.graph(op.expand(b, *inputs)), x)
        if form == "compute":
            return [self._compute(node, x)]
        if form == "kernel":
            return self._kernel(node, x)
        if isinstance(op, If):
            then, other = (self._call_function(f, x[1:]) for f in self.functions[node.outputs[0]])
            return self._parts(relax.If(x[0], then, other), types_out)
        if isinstance(op, Loop):
            return self._loop(node, op, x)
        where = f" at {node.where!r}" if node.where else ""
        raise TargetError(f"{op.name}{where}: the size of its result is only known when it runs; TVM needs known sizes here")

    def _loop(self, node: Node, op: Loop, x: list[Any]) -> list[Any]:
        (ladder,) = self.functions[node.outputs[0]]
        trips, go, *rest = x
        (going,) = self.graph(start_graph(), [trips, go])
        stacks = [self._zeros(v.type) for v in node.outputs[op.carried :]]
        state = [relax.const(0, "int64"), going, *rest[: op.carried], *stacks]
        made = self._call_function(ladder, [*state, trips, *rest[op.carried :]])
        return self._parts(made, state_types(node))[2:]

    def _call_function(self, f: Function, x: Sequence[Any]) -> Any:
        return relax.Call(f.symbol, [*x, *(self._weight(t, a) for t, a in f.weights)])

    def _parts(self, made: Any, types: Sequence[TensorType]) -> list[Any]:
        whole = self.bb.emit(made)
        return [self.bb.emit(relax.TupleGetItem(whole, i)) for i in range(len(types))]

    def _zeros(self, t: TensorType) -> Any:
        return self.bb.emit(R.zeros(list(t.static_shape), NAMES[t.dtype]))

    def _compute(self, node: Node, x: list[Any]) -> Any:
        (v,) = node.outputs
        if v.type.size == 0:
            return self._zeros(v.type)
        out, *ins = _buffers(node)
        computation = node.op.compute(out, *ins)
        if any(a.extent == 0 for a in computation.reduce):  # nothing is read
            nothing = [np.zeros(i.type.static_shape, DTYPES[i.type.dtype].numpy) for i in node.inputs]
            return relax.const(np.asarray(node.op.evaluate(*nothing)[0], order="C"), NAMES[v.type.dtype])
        if needs_loops(computation):
            return self._call(node, computed(node.op.name.lower(), (*ins, out), computation), x)[0]
        return self.bb.emit_te(
            lambda *tensors: compute_tensor(computation, dict(zip(ins, tensors, strict=True))), *x,
            primfunc_name_hint=node.op.name.lower(),
        )

    def _kernel(self, node: Node, x: list[Any]) -> list[Any]:
        count = len(node.outputs)
        if all(v.type.size == 0 for v in node.outputs):
            return [self._zeros(v.type) for v in node.outputs]
        every = _buffers(node)
        kernel = node.op.kernel(tuple(every[:count]), tuple(every[count:]))
        # Parameters of a call come inputs first.
        order = (*every[count:], *every[:count])
        return self._call(node, Kernel(kernel.name, order, kernel.body), x)

    def _call(self, node: Node, kernel: Kernel, x: list[Any]) -> list[Any]:
        """A call of a kernel whose parameters are the inputs, then the outputs."""
        count = len(node.outputs)
        symbol = self.bb.add_func(loops(kernel), kernel.name)
        types = [relax_type(v.type) for v in node.outputs]
        made = self.bb.emit(relax.call_tir(symbol, tuple(x), types if count > 1 else types[0]))
        return [made] if count == 1 else [self.bb.emit(relax.TupleGetItem(made, i)) for i in range(count)]


def _buffers(node: Node) -> list[Buffer]:
    """One per output, then one per input, with distinct names."""
    values = (*node.outputs, *node.inputs)
    return [Buffer(f"b{i}", v.type.dtype, v.type.static_shape) for i, v in enumerate(values)]


def to_tvm(graph: Graph) -> tuple[Any, list[np.ndarray]]:
    """The module and its weights.  `main` takes the inputs, then the weights, and gives a tuple.

    Raises TargetError for a size that is not known.
    """
    for v in (*graph.inputs, *graph.outputs):
        if not v.type.is_static:
            raise TargetError(f"{v.name}: TVM needs known sizes here, got {v.type}; bind them with dims or shapes")
    for v in (*graph.inputs, *graph.constants, *(v for node in graph.nodes for v in node.outputs)):
        if v.type.dtype == "str":
            raise TargetError(f"{v.name}: TVM has no strings; use the target cpu")
    bb = relax.BlockBuilder()
    made = _function(bb, "main", graph)
    module = bb.get()
    if len(module.get_global_vars()) > 1:  # functions with control flow were not written as dataflow
        module = relax.transform.ConvertToDataflow()(module)
    return module, [array for _, array in made.weights]


def _function(bb: Any, name: str, graph: Graph) -> Function:
    """The graph as a function of the module that is being built, after those that it calls."""
    graph = _expanded(graph)
    functions = {
        node.outputs[0]: functions_of(bb, node, graph.constants, lambda name, body: _function(bb, name, body))
        for node in graph.nodes if isinstance(node.op, (If, Loop))
    }
    emitter = _Emitter(bb, functions)
    inputs = [relax.Var(f"input_{i}", relax_type(v.type)) for i, v in enumerate(graph.inputs)]
    outer = name == "main"
    with bb.function(name, attrs={"num_input": len(inputs)} if outer else None, private=not outer):
        if functions:  # a call that may not return is no dataflow
            results = emitter.graph(graph, inputs)
        else:
            with bb.dataflow():
                results = [bb.emit_output(r) for r in emitter.graph(graph, inputs)]
        symbol = bb.emit_func_output(relax.Tuple(results), params=[*inputs, *emitter.parameters])
    return Function(symbol, tuple(emitter.weights))


def _expanded(graph: Graph) -> Graph:
    """The graph with every Scan as the Loop that it is, and fused groups as their nodes."""
    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> Any:
        if isinstance(node.op, Scan):
            return node.op.expand(b, *inputs)
        return inline_graph(b, node.op.body, *inputs) if isinstance(node.op, Fused) else None

    return rewrite_graph(graph, rule)
