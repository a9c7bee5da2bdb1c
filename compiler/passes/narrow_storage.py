"""Keep intermediate values in 16 bits: half the memory traffic, and products of pairs where the machine has them.

    y = Fused[contract](x, w)           y16 = Fused[contract](x16, w16) with { y = Cast[bf16](Conv(Cast[f32](x16), ..)) }
    z = Fused[rows](y)            ->    z16 = Fused[rows](y16)

Runs after fusion, on what crosses the borders of groups: inside a group everything is computed in f32, so a value is
rounded once where it is stored.  Only what a product or attention multiplies is narrowed, and the weights of products:
sums that only flow on (the residual stream of a transformer), other constants, graph inputs and outputs, and what
irregular operators and control flow read or write stay in f32.
"""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np

from ...ir.graph import Graph, Node, Value
from ...ir.ops.contract import Conv, MatMul
from ...ir.ops.control import Fused
from ...ir.ops.elementwise import Cast
from ...ir.ops.movement import Broadcast, Concat, Pad, Reshape, Slice, Transpose
from ...ir.ops.norm import Attention
from ...ir.types import TensorType

NUMPY_TYPES = {"bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}
_VIEWS = (Reshape, Transpose, Slice, Broadcast, Concat, Pad)


def narrow_storage(graph: Graph, *, precision: str = "f32") -> Graph:
    """precision: "bf16" and "f16" store in that type, the others change nothing."""
    return _Narrowing(graph, precision).run() if precision in NUMPY_TYPES else graph


def _has_one_type(n: Node) -> bool:
    """Attention whose operands have the type of its result."""
    return isinstance(n.op, Fused) and n.op.kind == "attention" and isinstance(n.op.body.nodes[0].op, Attention)


class _Narrowing:
    """narrow: the values that are stored in 16 bits.  Values that views connect are all narrow, or none is."""

    def __init__(self, graph: Graph, dtype: str) -> None:
        self.graph, self.dtype = graph, dtype
        self.constants = dict(graph.constants)
        self._made: dict[tuple[int, str], Value] = {}
        self.narrow = self._find()
        self.values: dict[Value, Value] = {}

    def _find(self) -> set[Value]:
        g = self.graph
        kept = set(g.inputs) | set(g.outputs)
        parent: dict[Value, Value] = {}

        def root(v: Value) -> Value:
            while v in parent:
                v = parent[v]
            return v

        def join(values: Iterable[Value]) -> None:
            first, *rest = [root(v) for v in values]
            for v in rest:
                if v is not first and root(v) is not root(first):
                    parent[root(v)] = root(first)

        wide: set[Value] = set(kept)
        candidates = [v for n in g.nodes for v in n.outputs if v.type.dtype == "f32"]
        for n in g.nodes:
            floats = [v for v in (*n.inputs, *n.outputs) if v.type.dtype == "f32"]
            if isinstance(n.op, _VIEWS):
                data = [v for v in floats if v not in g.constants]
                if data:
                    join(data)
            elif _has_one_type(n):
                data = [v for v in floats if v not in g.constants]
                join(data)
            elif not isinstance(n.op, Fused) or n.op.kind == "attention":
                wide.update(floats)
        blocked = {root(v) for v in wide}
        multiplied = {root(v) for v in self._multiplied()}
        return {v for v in candidates if root(v) not in blocked and root(v) in multiplied}

    def _multiplied(self) -> Iterable[Value]:
        """What products read as their left operand, and what attention reads."""
        for n in self.graph.nodes:
            if not isinstance(n.op, Fused):
                continue
            outer = dict(zip(n.op.body.inputs, n.inputs, strict=True))
            for m in n.op.body.nodes:
                if isinstance(m.op, (Conv, MatMul)) and m.inputs[0] in outer:
                    yield outer[m.inputs[0]]
                elif isinstance(m.op, Attention):
                    yield from (outer[v] for v in m.inputs if v in outer)

    def run(self) -> Graph:
        g = self.graph
        nodes = tuple(self._node(n) for n in g.nodes)
        used = {v for n in nodes for v in n.inputs} | set(g.outputs)
        constants = {v: a for v, a in self.constants.items() if v in used}
        return Graph(g.name, g.inputs, g.outputs, nodes, constants, g.output_names)

    def _value(self, v: Value) -> Value:
        if v not in self.narrow:
            return v
        if v not in self.values:
            self.values[v] = Value(v.name, TensorType(self.dtype, v.type.shape))
        return self.values[v]

    def _constant(self, v: Value) -> Value:
        """The constant in 16 bits."""
        key = (id(v), self.dtype)
        if key not in self._made:
            array = self.graph.constants[v].astype(NUMPY_TYPES[self.dtype])
            made = Value(v.name, TensorType(self.dtype, v.type.shape))
            self._made[key] = made
            self.constants[made] = array
        return self._made[key]

    def _node(self, n: Node) -> Node:
        outputs = tuple(self._value(v) for v in n.outputs)
        if isinstance(n.op, _VIEWS):
            narrow = outputs[0] is not n.outputs[0]
            inputs = tuple(
                self._constant(v) if narrow and v in self.graph.constants and v.type.dtype == "f32" else self._value(v)
                for v in n.inputs
            )
            return Node(n.op, inputs, outputs, n.where)
        if isinstance(n.op, Fused):
            if n.op.kind == "attention":
                return self._attention(n, outputs) if _has_one_type(n) else n
            return self._fused(n, n.op, outputs)
        return n

    def _attention(self, n: Node, outputs: tuple[Value, ...]) -> Node:
        """All operands have the type of the output."""
        assert isinstance(n.op, Fused)
        narrow = outputs[0] is not n.outputs[0]
        inputs = tuple(
            self._constant(v) if narrow and v in self.graph.constants else self._value(v) for v in n.inputs
        )
        (inner,) = n.op.body.nodes
        assert isinstance(inner.op, Attention)
        replaced = {
            old: Value(old.name, new.type)
            for old, new in zip((*n.op.body.inputs, *n.op.body.outputs), (*inputs, *outputs), strict=True)
        }
        constants = {v: a.astype(NUMPY_TYPES[self.dtype]) if narrow else a for v, a in n.op.body.constants.items()}
        moved = {v: Value(v.name, TensorType(self.dtype if narrow else v.type.dtype, v.type.shape)) for v in constants}
        node = Node(
            inner.op, tuple(replaced.get(v) or moved[v] for v in inner.inputs), tuple(replaced[v] for v in inner.outputs),
            inner.where,
        )
        body = Graph(
            n.op.body.name, tuple(replaced[v] for v in n.op.body.inputs), tuple(replaced[v] for v in n.op.body.outputs),
            (node,), {moved[v]: a for v, a in constants.items()},
        )
        return Node(Fused(body, n.op.kind), inputs, outputs, n.where)

    def _fused(self, n: Node, op: Fused, outputs: tuple[Value, ...]) -> Node:
        """Casts at the borders of the group."""
        weights = {m.inputs[1] for m in op.body.nodes if isinstance(m.op, (Conv, MatMul))}
        inputs, inner_inputs, nodes = [], [], []
        env: dict[Value, Value] = {}
        for outer, inner in zip(n.inputs, op.body.inputs, strict=True):
            constant = outer in self.graph.constants and inner in weights and outer.type.dtype == "f32"
            new = self._constant(outer) if constant else self._value(outer)
            inputs.append(new)
            if new is outer:
                inner_inputs.append(inner)
                continue
            narrow = Value(inner.name, new.type)
            inner_inputs.append(narrow)
            env[inner] = Value(f"{inner.name}.f32", inner.type)
            nodes.append(Node(Cast("f32"), (narrow,), (env[inner],), n.where))
        results = {}
        for m in op.body.nodes:
            nodes.append(Node(m.op, tuple(env.get(v, v) for v in m.inputs), m.outputs, m.where))
        for inner, old, new in zip(op.body.outputs, n.outputs, outputs, strict=True):
            results[inner] = inner
            if new is not old:
                results[inner] = Value(inner.name, new.type)
                nodes.append(Node(Cast(self.dtype), (inner,), (results[inner],), n.where))
        body = Graph(
            op.body.name, tuple(inner_inputs), tuple(results[v] for v in op.body.outputs), tuple(nodes), op.body.constants
        )
        return Node(Fused(body, op.kind), tuple(inputs), outputs, n.where)
