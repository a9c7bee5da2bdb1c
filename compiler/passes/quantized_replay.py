"""The replay of `lower_quantization`: records of old values, and what every rule asks about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Union

import numpy as np

from ...ir.graph import Builder, Graph, Node, Value
from ...ir.ops.base import Op
from ...ir.ops.contract import MatMul
from ...ir.ops.elementwise import Binary, Select, Unary
from ...ir.ops.quantize import integer_range
from ...ir.types import TensorType
from .expand_composites import Native
from .quantized_values import (
    STORAGES,
    Affine,
    Centred,
    Function,
    Integers,
    Record,
    Storage,
    Weights,
    materialize,
    moved,
)

SHOWN = 3  # names in a note
Note = Callable[[str], None]
Rule = Callable[..., "Record | None"]
Movable = Union[Integers, Centred, Affine]


class Replay:
    """The state of the replay.  ranges: bounds of stored integers that are narrower than their type.  has_products:
    whether floats of products are worth replacing.  has_tables: whether the machine reads tables of bytes fast."""

    def __init__(
        self, graph: Graph, rules: Mapping[type[Op], Rule], storage: Storage | None, has_tables: bool, note: Note,
        native: Native | None = None,
    ) -> None:
        self.graph, self.rules, self.note = graph, rules, note
        self.storage, self.has_products = storage or STORAGES[0], storage is not None
        self.has_tables, self.native = has_tables, native
        self.b = Builder(graph.name)
        self.records: dict[Value, Record] = {}
        self.ranges: dict[Value, tuple[int, int]] = {}
        self.refused: dict[str, list[str]] = {}
        self.uses = Counter(v for n in graph.nodes for v in n.inputs) + Counter(graph.outputs)

    def run(self) -> Graph:
        g, b = self.graph, self.b
        self.records = {v: b.input(v.name, v.type) for v in g.inputs}
        for node in g.nodes:
            b.where = node.where
            rule = self.rules.get(type(node.op))
            made = rule(self, node.op, node) if rule is not None else None
            if made is None and isinstance(node.op, (Unary, Binary, Select)):
                made = function_of_bytes(self, node.op, node)
            if made is not None:
                self.records[node.outputs[0]] = made
                continue
            inputs = [self.value(v) for v in node.inputs]
            outputs = b.add_multi(node.op, *inputs, names=[v.name for v in node.outputs], where=node.where)
            self.records.update(zip(node.outputs, outputs, strict=True))
        for reason, names in ((reason, names) for reason, names in self.refused.items() if names):
            listed = ", ".join(map(repr, names[:SHOWN])) + (", .." if len(names) > SHOWN else "")
            self.note(f"quantization: {len(names)} products stay in floats ({listed}): {reason}")
        return b.graph([self.value(v) for v in g.outputs], g.output_names)

    def record(self, old: Value) -> Record:
        if old not in self.records:
            self.records[old] = self.b.constant(self.graph.constants[old], old.name)
        return self.records[old]

    def value(self, old: Value) -> Value:
        return materialize(self.b, self.record(old))

    def array(self, old: Value) -> np.ndarray | None:
        """The constant that a value is."""
        r = self.record(old)
        if isinstance(r, Weights):
            return r.integers.astype(np.float32) * r.scale
        return self.b.constants.get(r) if isinstance(r, Value) else None

    def moved(self, r: Movable, stored: Value, *sources: Movable) -> Record:
        """The record over integers that were moved; sources: where they come from, if not from r alone."""
        bounds = [self.range(x.stored) for x in sources or (r,)]
        self.ranges[stored] = (min(low for low, _ in bounds), max(high for _, high in bounds))
        return moved(r, stored)

    def is_worth(self, x: Value, w: Value) -> bool:
        """Whether the machine gains from a product of two operands, of a MatMul or a Conv, in integers."""
        types = TensorType(self.storage.activations, x.type.shape), TensorType(self.storage.weights, w.type.shape)
        return self.native is None or self.native(MatMul("i32"), types)

    def range(self, stored: Value) -> tuple[int, int]:
        return self.ranges.get(stored, integer_range(stored.type.dtype))


def one(array: np.ndarray | None) -> np.ndarray | None:
    """The number of an array of one element."""
    return array.reshape(()) if array is not None and array.size == 1 else None


def function_of_bytes(s: Replay, op: Unary | Binary | Select, node: Node) -> Function | None:
    """An operator on values of one tensor of bytes and on numbers: its results for all of them."""
    records = [s.record(v) for v in node.inputs]
    stored = next((r.stored for r in records if isinstance(r, (Function, Affine))), None)
    if stored is None or not s.has_tables or stored.type.dtype != "u8" or node.outputs[0].type.shape != stored.type.shape:
        return None
    tables = [_table(s, r, stored) for r in records]
    if any(t is None for t in tables):
        return None
    results = np.broadcast_to(op.evaluate(*tables)[0], (256,))  # type: ignore[arg-type]
    costly = isinstance(op, Unary) or any(isinstance(r, Function) and r.costly for r in records)

    def make() -> Value:
        return s.b.add(op, *(materialize(s.b, r) for r in records), where=node.where)

    return Function(stored, results, costly, make)


def _table(s: Replay, r: Record, stored: Value) -> np.ndarray | None:
    """The values of a record for all bytes of a tensor, or the number that it is."""
    if isinstance(r, Function):
        return r.table if r.stored is stored else None
    if isinstance(r, Affine):
        if r.stored is not stored or isinstance(r.zero, Value) or isinstance(r.scale, Value):
            return None
        return (np.arange(256, dtype=np.int64) - r.zero).astype(np.float32) * np.float32(r.scale)
    array = s.b.constants.get(r) if isinstance(r, Value) else None
    return array.reshape(()) if array is not None and array.size == 1 else None
