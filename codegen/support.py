"""Operators that C functions of the artifact run (strings): a kernel that is one call, on dense arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..ir.errors import TargetError
from ..ir.expr import as_expr
from ..ir.graph import Node, Value
from ..ir.kernel import Buffer, Do, Kernel
from ..ir.ops.movement import Reshape
from ..ir.types import Dim, TensorType
from .cost import cost_of
from .machine import Machine
from .program import Cost
from .sizing import bytes_of
from .storage import Place, Scope
from .strategies.scheduled import Scheduled
from .views import dense_strides, is_dense

if TYPE_CHECKING:
    from .lower import Lowering


def lower_support(lowering: Lowering, scope: Scope, node: Node) -> None:
    """Raises TargetError on machines without the support code."""
    require_support(lowering, node.op.name, node.where)
    outs = [_dense(lowering, v, lowering.place(scope, v)) for v in node.outputs]
    ins = [_source(lowering, scope, v, node) for v in dict.fromkeys(node.inputs)]
    places = dict(zip(dict.fromkeys(node.inputs), ins, strict=True))
    function, numbers = node.op.support(*(v.type for v in node.inputs))
    buffers = {v: lowering.buffer(f"x{n}", v.type, places[v]) for n, v in enumerate(places)}
    results = [lowering.buffer(f"y{n}", v.type, place) for n, (v, place) in enumerate(zip(node.outputs, outs, strict=True))]
    made = call_of(function, (*results, *(buffers[v] for v in node.inputs)), numbers)
    named = {b.name: places[v] for v, b in buffers.items()} | {
        b.name: place for b, place in zip(results, outs, strict=True)
    }
    lowering.emit(scope, made, named, node, cost_of(node, lowering.typical))
    for v, place in zip(node.outputs, outs, strict=True):
        target = lowering.place(scope, v)
        if target != place:
            lowering.copy(scope, v.type, place, target, node)


def call_of(function: str, buffers: Sequence[Buffer], numbers: Sequence[Dim]) -> Scheduled:
    """A kernel that calls the function on its parameters, each given once."""
    call = Do(function, tuple(as_expr(n) for n in numbers), tuple(buffers))
    return Scheduled(Kernel(function, tuple(dict.fromkeys(buffers)), (call,)), note="support code")


def require_support(lowering: Lowering, what: str, where: str) -> None:
    machine = lowering.machine
    if not isinstance(machine, Machine):
        raise TargetError(
            f"target {machine.name}: {what} at {where!r}: strings and image files need the support code of a processor's "
            "library; compile for cpu, or leave the part of the model that has them to one that is"
        )


def write_texts(lowering: Lowering, scope: Scope, array: np.ndarray, target: Place) -> None:
    """The step that writes the addresses of constant strings, which lie one behind the other among the constants."""
    require_support(lowering, "a constant", scope.graph.name)
    texts = [text.encode("utf-8", "surrogateescape") for text in array.reshape(-1).tolist()]
    wrong = next((text for text in texts if b"\0" in text), None)
    if wrong is not None:
        raise TargetError(f"the string {wrong!r} of the model contains a zero byte, which ends strings in an artifact")
    if not texts:
        return
    data = np.frombuffer(b"".join(text + b"\0" for text in texts), np.uint8)
    out = lowering.buffer("y0", TensorType("str", (len(texts),)), target)
    source = Place(lowering.constant_root(data), 0, (1,))
    blob = lowering.buffer("x0", TensorType("u8", data.shape), source)
    made = call_of("tw_text_constants", (out, blob), (len(texts),))
    node = Node(Reshape((len(texts),)), (), (), "constant strings")
    lowering.emit(scope, made, {"y0": target, "x0": source}, node, Cost(0, data.nbytes, 0))


def _source(lowering: Lowering, scope: Scope, v: Value, node: Node) -> Place:
    place = lowering.place(scope, v)
    dense = _dense(lowering, v, place)
    if dense != place:
        lowering.copy(scope, v.type, place, dense, node)
    return dense


def _dense(lowering: Lowering, v: Value, place: Place) -> Place:
    """The place, or a new one where it is not dense."""
    if is_dense(v.type.shape, place.strides):
        return place
    return Place(lowering.new_root(v.name, bytes_of(v.type)), 0, dense_strides(v.type.shape))
