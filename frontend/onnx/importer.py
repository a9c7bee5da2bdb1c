"""Model to Graph: nodes in order, one op function each; subgraphs and function bodies are scopes within it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import FunctionProto, GraphProto, NodeProto, TensorProto, helper
from onnx.defs import OpSchema, onnx_opset_version

from ...ir.errors import InternalError, ModelError, TilewrightError
from ...ir.graph import Graph, Value
from ...ir.types import TensorType
from .attributes import (
    check_counts,
    check_extension_counts,
    describe,
    find_schema,
    read_attributes,
    read_extension_attributes,
)
from .builder import NarrowTensor, NotConstantError, OnnxBuilder, Subgraph, TensorMap, TensorSequence, check_size
from .functions import Body, FunctionKey, call_body, function_table, standard_body
from .inputs import Ranges, Shapes, bind_inputs, declared_shapes
from .reader import ModelFile, normal_domain
from .structure import outer_names, sorted_nodes
from .structured import given_inputs
from .support import require_few, require_supported
from .table import Imported, OpFunction, Outputs, Standard, accepts_narrow, find_op
from .tensors import NARROW, TensorReader, read_sparse

_DEEPEST = 32  # nested function calls and subgraphs
_SPARSE_LIMIT = 2**30  # bytes
_MOVES = ("Constant", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Gather", "Expand")

@dataclass(frozen=True, eq=False)
class Context:
    """What all scopes of a model share."""

    tensors: TensorReader
    functions: Mapping[FunctionKey, FunctionProto]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))  # of nodes as they are imported


def import_graph(
    model: ModelFile, shapes: Shapes | None = None, dims: Mapping[str, int] | None = None, ranges: Ranges | None = None
) -> Graph:
    """The graph of a model with its inputs bound to these shapes.  ranges: of dimensions that stay open; here they count for
    the sizes of decoded images, which have the names of `ops.image_file`.  Raises ModelError, OptionError (`bind_inputs`)."""
    proto = model.proto.graph
    images = {f"{n.output[0]}_{what}" for n in proto.node if n.op_type == "ImageDecoder" and n.output
              for what in ("height", "width")}
    sizes = {n: (size, size) for n, size in (dims or {}).items() if n in images}
    sizes |= {n: r for n, r in (ranges or {}).items() if n in images}
    require_supported(model)
    if not proto.output:
        raise ModelError(f"{model.name}: the model has no outputs")
    context = Context(model.tensors, function_table(model.proto))
    scope = Scope(OnnxBuilder(model.name), context, model.opsets, model.name)
    scope.b.declared, scope.b.sizes = declared_shapes(proto), sizes
    initialized = scope.read_initializers(proto)
    given = given_inputs([v for v in proto.input if v.name not in initialized], shapes or {}, dims or {})
    inputs = [tensor for v in given for tensor in v.tensors]
    types = {v.name: v.type.tensor_type.elem_type for v in inputs}
    taken = {*sizes, *(name for v in given for name in v.dims)}
    for name, t in bind_inputs(inputs, shapes, {n: d for n, d in (dims or {}).items() if n not in taken}).items():
        check_size(t, name)
        code = types[name]
        value = scope.b.input(name, t)
        scope.define(name, NarrowTensor(value, code) if code in NARROW else value)
    for v in given:
        if v.kind != "tensor":
            scope.define(v.name, _structured(v.kind, [scope.tensor(t.name, f"input {t.name!r}") for t in v.tensors]))
    scope.run(proto.node)
    outputs = dict(pair for v in proto.output for pair in _output(scope, v.name))
    return scope.b.graph(list(outputs.values()), list(outputs))


def _structured(kind: str, tensors: Sequence[Value]) -> Imported:
    if kind == "absent":
        return None
    return TensorMap(*tensors) if kind == "map" else TensorSequence(tuple(tensors))


def _output(scope: Scope, name: str) -> list[tuple[str, Value]]:
    """An output of the model as tensors: a sequence is one for each item, an empty optional none."""
    x = scope.lookup(name)
    if isinstance(x, TensorSequence):
        return [(f"{name}.{i}", v) for i, v in enumerate(x.items)]
    if isinstance(x, TensorMap):
        return [(f"{name}.keys", x.keys), (f"{name}.values", x.values)]
    if x is None:
        return []
    return [(name, x.value if isinstance(x, NarrowTensor) else x)]


class Scope:
    """Names of one graph or function body.  A subgraph's scope has a parent, from which it captures values."""

    def __init__(
        self, b: OnnxBuilder, context: Context, opsets: Mapping[str, int], where: str,
        parent: Scope | None = None, depth: int = 0,
    ) -> None:  # fmt: skip
        if depth > _DEEPEST:
            raise ModelError(f"{where}: more than {_DEEPEST} functions or subgraphs within each other")
        self.b, self.context, self.opsets, self.where = b, context, opsets, where
        self.parent, self.depth = parent, depth
        self.names: dict[str, Imported] = {}
        self.captured: dict[Value, Value] = {}

    # ---- names ----

    def define(self, name: str, value: Imported) -> None:
        if name in self.names:
            raise ModelError(f"{self.where}: value {name!r} is defined twice")
        self.names[name] = value

    def knows(self, name: str) -> bool:
        return name in self.names or (self.parent is not None and self.parent.knows(name))

    def lookup(self, name: str) -> Imported:
        """What a name stands for.  A value of an outer graph becomes a constant or an input of this one."""
        if name in self.names:
            return self.names[name]
        if self.parent is None:
            raise ModelError(f"{self.where}: no value is called {name!r}; the model is incomplete")
        outer = self.parent.lookup(name)
        self.names[name] = outer if self.parent.b is self.b else self._capture(outer)
        return self.names[name]

    def _capture(self, outer: Imported) -> Imported:
        if outer is None:
            return None
        if isinstance(outer, NarrowTensor):
            return NarrowTensor(self._captured_value(outer.value), outer.code)
        if isinstance(outer, TensorMap):
            return TensorMap(self._captured_value(outer.keys), self._captured_value(outer.values))
        if isinstance(outer, TensorSequence):
            return TensorSequence(tuple(self._captured_value(v) for v in outer.items))
        return self._captured_value(outer)

    def _captured_value(self, outer: Value) -> Value:
        assert self.parent is not None
        if outer in self.parent.b.constants:
            return self.b.constant(self.parent.b.constants[outer], outer.name)
        if outer not in self.captured:
            inner = self.captured[outer] = self.b.input(outer.name, outer.type)
            if outer in self.parent.b.symbolic:
                self.b.symbolic[inner] = self.parent.b.symbolic[outer]
        return self.captured[outer]

    def tensor(self, name: str, what: str) -> Value:
        value = self.lookup(name)
        if not isinstance(value, Value):
            raise ModelError(f"{self.where}: {what} is not a tensor")
        return value

    # ---- contents ----

    def read_initializers(self, graph: GraphProto) -> set[str]:
        names: set[str] = set()
        for t in graph.initializer:
            array = self.context.tensors.read(t, f"{self.where}: initializer {t.name!r}")
            value = self.b.constant(array, t.name)
            self.define(t.name, NarrowTensor(value, t.data_type) if t.data_type in NARROW else value)
            names.add(t.name)
        for s in graph.sparse_initializer:
            name = s.values.name
            array = read_sparse(self.context.tensors, s, f"{self.where}: initializer {name!r}", _SPARSE_LIMIT)
            self.define(name, self.b.constant(array, name))
            names.add(name)
        return names

    def run(self, nodes: Iterable[NodeProto]) -> None:
        nodes = list(nodes)
        outer = {name for name in outer_names(nodes) if self.knows(name)}
        for node in sorted_nodes(nodes, {*self.names, *outer}, self.where):
            self._import_node(node)

    def _import_node(self, node: NodeProto) -> None:
        operands = [self.lookup(name) if name else None for name in node.input]
        b = self.b
        require_few(next(self.context.numbers), describe(node))
        saved = b.node, b.where, b.hint, b.wanted, b.subgraph, b.inline, b.standard, b.named
        b.node = describe(node)
        b.where = f"{saved[1]}/{node.name}" if saved[1] and node.name else node.name or saved[1] or node.op_type
        b.hint = next((name for name in node.output if name), node.op_type)
        b.wanted = tuple(bool(name) for name in node.output)
        b.subgraph, b.inline, b.standard, b.named = self._subgraph, self._inline, self._standard, self.lookup
        try:
            made = self._apply(node, operands)
        except TilewrightError as e:
            raise _located(e, b.node) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
            raise InternalError(f"{b.node}: the importer failed: {type(e).__name__}: {e}") from e
        finally:
            b.node, b.where, b.hint, b.wanted, b.subgraph, b.inline, b.standard, b.named = saved
        results = made if isinstance(made, tuple) else (made,)
        for name, value in zip(node.output, results, strict=False):
            if name:
                self.define(name, value)
        for name in node.output[len(results) :]:
            if name:
                raise ModelError(f"{describe(node)}: output {name!r} is not supported; remove what reads it")

    def _apply(self, node: NodeProto, operands: list[Imported]) -> Outputs:
        domain = normal_domain(node.domain)
        f = self.context.functions.get((domain, node.op_type, node.overload))
        opset = self.opsets.get(domain, 0)
        if f is None:
            schema = find_schema(node, opset)
            function = find_op(domain, node.op_type, opset)
            if schema is not None:
                check_counts(node, schema)
                _check_kinds(schema, operands)
            if function is not None:
                if schema is not None:
                    attributes = read_attributes(node, schema, self.context.tensors)
                else:
                    check_extension_counts(node, function)
                    _require_tensors(operands)
                    attributes = read_extension_attributes(node, function, self.context.tensors)
                made = self._made(node, function, operands, attributes)
                if not isinstance(made, Standard):
                    return made
            f = standard_body(node, opset, operands)
        if f is None:
            raise ModelError(f"{describe(node)}: not supported in opset {opset}")
        return self._call(call_body(node, f, self.opsets), operands)

    def _made(
        self, node: NodeProto, function: OpFunction, operands: Sequence[Imported], attributes: Mapping[str, Any]
    ) -> Outputs | Standard:
        """What a function gives; types of less than a byte pass through those that only move elements."""
        codes = {x.code for x in operands if isinstance(x, NarrowTensor)}
        if node.op_type == "Constant" and not node.domain:
            codes = {a.t.data_type for a in node.attribute if a.t.data_type in NARROW}
        if not codes or accepts_narrow(function):
            return function(self.b, *operands, **attributes)
        if node.domain or node.op_type not in _MOVES or len(codes) > 1:
            _refuse_narrow(operands)
        made = function(self.b, *(x.value if isinstance(x, NarrowTensor) else x for x in operands), **attributes)
        (code,) = codes
        results = made if isinstance(made, tuple) else (made,)
        return tuple(NarrowTensor(v, code) if isinstance(v, Value) else v for v in results)  # pyright: ignore

    def _call(self, body: Body, operands: Sequence[Imported]) -> Outputs:
        scope = Scope(self.b, self.context, body.opsets, self.b.node, None, self.depth + 1)
        padded = [*operands, *[None] * (len(body.inputs) - len(operands))]
        for name, value in zip(body.inputs, padded, strict=True):
            scope.define(name, value)
        declared, self.b.declared = self.b.declared, {}  # of the graph's names, not those of the body
        scope.run(body.nodes)
        self.b.declared = declared
        wanted = zip(body.outputs, self.b.wanted, strict=False)  # a body may leave out what a call does not ask for
        return tuple(scope.lookup(name) if used else None for name, used in wanted)

    def _standard(self, operator: str, operands: Sequence[Imported], outputs: int, **attributes: Any) -> Outputs:
        """An operator as the newest standard defines it by others."""
        names = [f"x{n}" if v is not None else "" for n, v in enumerate(operands)]
        node = helper.make_node(operator, names, [f"y{n}" for n in range(outputs)], **attributes)
        newest = onnx_opset_version()
        f = standard_body(node, newest, operands)
        if f is None:
            raise ModelError(f"{describe(node)}: this version of onnx does not define it; install a newer one")
        return self._call(call_body(node, f, {**self.opsets, "": newest}), operands)

    # ---- subgraphs ----

    def _inline(self, graph: GraphProto, operands: Sequence[Imported] = ()) -> tuple[Imported, ...]:
        """The outputs of a subgraph whose nodes are added to this graph."""
        scope = Scope(self.b, self.context, self.opsets, self.b.node, self, self.depth + 1)
        return scope._fill(graph, operands)

    def _fill(self, graph: GraphProto, operands: Sequence[Imported]) -> tuple[Imported, ...]:
        initialized = self.read_initializers(graph)
        inputs = [v.name for v in graph.input if v.name not in initialized]
        if len(inputs) != len(operands):
            raise ModelError(f"{self.where}: the subgraph takes {len(inputs)} values, it is given {len(operands)}")
        for name, value in zip(inputs, operands, strict=True):
            self.define(name, value)
        self.run(graph.node)
        return tuple(self.lookup(v.name) for v in graph.output)

    def _subgraph(self, graph: GraphProto, types: Sequence[TensorType]) -> Subgraph:
        b = OnnxBuilder(graph.name or "body")
        scope = Scope(b, self.context, self.opsets, self.b.node, self, self.depth + 1)
        initialized = {t.name for t in graph.initializer}
        names = [v.name for v in graph.input if v.name not in initialized]
        names += ["extra"] * (len(types) - len(names))  # `_fill` says that there are too many
        scope._fill(graph, [b.input(n, t) for n, t in zip(names, types, strict=False)])
        outputs = (scope.tensor(v.name, f"output {v.name!r} of the subgraph") for v in graph.output)
        return Subgraph(b, tuple(outputs), scope.captured)


def _check_kinds(schema: OpSchema, operands: Sequence[Imported]) -> None:
    """Raises ModelError for a sequence or map where a tensor is expected, a tensor where one of them is, and for an absent
    value where one is required."""
    for n, value in enumerate(operands):
        formal = schema.inputs[min(n, len(schema.inputs) - 1)]
        if isinstance(value, TensorSequence) and not any("seq(" in t for t in formal.types):
            raise ModelError(f"input {n} ({formal.name}) must be a tensor, got a sequence")
        if isinstance(value, (Value, NarrowTensor)) and all(t.startswith("seq(") for t in formal.types):
            raise ModelError(f"input {n} ({formal.name}) must be a sequence, got a tensor")
        if isinstance(value, TensorMap) != all(t.startswith("map(") for t in formal.types):
            wrong = "must be no map" if isinstance(value, TensorMap) else "must be a map"
            raise ModelError(f"input {n} ({formal.name}) {wrong}")
        optional = any("optional(" in t for t in formal.types)
        if value is None and formal.option != OpSchema.FormalParameterOption.Optional and not optional:
            raise ModelError(f"input {n} ({formal.name}) is absent")


def _require_tensors(operands: Sequence[Imported]) -> None:
    """Operators that are not in the standard take tensors alone."""
    for n, x in enumerate(operands):
        if isinstance(x, (TensorSequence, TensorMap)):
            raise ModelError(f"input {n} must be a tensor, got a {'map' if isinstance(x, TensorMap) else 'sequence'}")


def _refuse_narrow(operands: Sequence[Imported]) -> None:
    for n, x in enumerate(operands):
        if isinstance(x, NarrowTensor):
            raise ModelError(f"input {n} is {TensorProto.DataType.Name(x.code)}, which this operator does not take")


def _located(e: TilewrightError, node: str) -> TilewrightError:
    """The same error, its message starting with the node, unless it names one already."""
    message = str(e)
    if not isinstance(e, ModelError) or message.startswith("node "):
        return e
    if isinstance(e, NotConstantError):
        return NotConstantError(f"{node}: {message}", e.inputs)
    return ModelError(f"{node}: {message}")
