"""From the graph to processes: one per fused group, with every type chosen.

Transposes right behind an input or before an output are left to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...codegen.hls.design import Process
from ...codegen.hls.fixed import covering, holding
from ...codegen.hls.ports import STEPS, InPort, OutPort, Quantizer
from ...codegen.hls.tensor import Tensor
from ...ir.errors import ModelError
from ...ir.graph import Graph, Node, Value
from ...ir.ops.elementwise import Binary
from ...ir.ops.movement import Reshape, Transpose
from ...ir.ops.quantize import Dequantize, Quantize
from .elementwise import MARGIN, Types
from .handlers import HANDLERS
from .lowering import Lowering
from .quantized import Coded, scalar_pair
from .ranges import Ranges


@dataclass(frozen=True)
class Lowered:
    """Processes that are not connected yet, and what the host sees."""

    processes: tuple[Process, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    in_ports: tuple[InPort, ...]
    out_ports: tuple[OutPort, ...]
    types: Types
    notes: tuple[str, ...]


def lower_graph(graph: Graph, ranges: Ranges, bits: int, margin: float = MARGIN, reloadable: bool = False) -> Lowered:
    """margin: how far beyond the calibrated range every type reaches.  reloadable: products take any weights and biases of
    their types.

    Raises ModelError for operators without hardware and for inputs of unknown size."""
    low = Lowering(graph, ranges, bits, Types(ranges.of, bits, margin), reloadable=reloadable)
    inputs = [_input(low, v) for v in graph.inputs]
    sources = [_output_source(low, v) for v in graph.outputs]
    for v, (_, perm) in zip(graph.outputs, sources, strict=True):
        if perm:
            low.done.add(low.graph.producers[v])
    taken = [source for source, _ in sources]
    low.raw = {v for v in taken if taken.count(v) == 1 and (len(low.users.get(v, ())) == (v not in graph.outputs))}
    low.run(HANDLERS)
    outputs, out_ports = [], []
    for v, (source, perm) in zip(graph.outputs, sources, strict=True):
        scale, offset, steps = low.affine.get(source, (None, None, ()))
        if source in low.codes:
            c = low.codes[source]
            scale, offset = np.array([c.scale]), np.array([-c.zero * c.scale])
        outputs.append(low.codes[source].tensor if source in low.codes else low.tensor(source))
        affine = None if scale is None or offset is None else (scale, offset)
        out_ports.append(OutPort(v.type.static_shape, perm, affine, steps))
    ports = tuple(port for _, port in inputs)
    return Lowered(tuple(low.processes), tuple(t for t, _ in inputs), tuple(outputs), ports, tuple(out_ports), low.types,
                   tuple(dict.fromkeys(low.notes)))


def _input(low: Lowering, v: Value) -> tuple[Tensor, InPort]:
    """The tensor that the kernel reads for an input of the model, and what the host does to it.

    Transposes, and what a quantized model does up to its first codes, are left to the host."""
    if not v.type.is_static:
        raise ModelError(f"fpga: input {v.name!r} is {v.type}; hardware needs sizes: give --dim or --shape")
    shape = v.type.static_shape
    codes = _quantized_input(low, v)
    if codes is not None:
        return codes
    perms = {n.op.perm if isinstance(n.op, Transpose) else () for n in low.users.get(v, [])}
    perm = perms.pop() if len(perms) == 1 and v not in low.graph.outputs else ()
    t = Tensor(v.name, tuple(shape[p] for p in perm) if perm else shape, covering(*_reach(low.ranges, v), low.bits))
    for node in low.users.get(v, []) if perm else []:
        low.env[node.outputs[0]] = t
    if not perm:
        low.env[v] = t
    return t, InPort(shape, perm)


def _quantized_input(low: Lowering, v: Value) -> tuple[Tensor, InPort] | None:
    """Steps with constants, reshapes and one transpose, up to a Quantize that is the only reader."""
    constants = low.graph.constants
    steps: list[tuple[str, float]] = []
    passed: list[Node] = []
    perm: tuple[int, ...] = ()
    reshaped, x = False, v
    while True:
        users = low.users.get(x, [])
        if len(users) != 1 or x in low.graph.outputs:
            return None
        (node,) = users
        op = node.op
        passed.append(node)
        if isinstance(op, Quantize):
            break
        if isinstance(op, Reshape):
            reshaped = True
        elif isinstance(op, Transpose) and not perm and not reshaped:
            perm = op.perm
        elif isinstance(op, Binary) and op.fn in STEPS:
            c = next((constants[i] for i in node.inputs if i in constants), None)
            if c is None or c.size != 1 or (op.fn in ("sub", "div") and node.inputs[0] in constants):
                return None
            steps.append((op.fn, float(c.reshape(()))))
        else:
            return None
        x = node.outputs[0]
    pair = scalar_pair(passed[-1], constants)
    if pair is None:
        return None
    low.done.update(passed)
    result, perm = _past(low, passed[-1].outputs[0], perm, reshaped)
    t = Tensor(v.name, result.type.static_shape, holding(op.low, op.high))
    if result == passed[-1].outputs[0]:
        low.env[result] = t
    else:
        low.codes[result] = Coded(t, *pair)
    return t, InPort(v.type.static_shape, perm, tuple(steps), Quantizer(*pair, op.low, op.high))


def _past(low: Lowering, v: Value, perm: tuple[int, ...], reshaped: bool) -> tuple[Value, tuple[int, ...]]:
    """Over the Dequantize behind codes and a transpose behind that, if these are the only readers."""
    (node, *more) = low.users.get(v, []) or [None]
    if more or node is None or not isinstance(node.op, Dequantize) or perm or reshaped:
        return v, perm
    pair, users = scalar_pair(node, low.graph.constants), low.users.get(node.outputs[0], [])
    source = low.graph.producers[v]
    if pair is None or pair != scalar_pair(source, low.graph.constants) or len(users) != 1:
        return v, perm
    if not isinstance(users[0].op, Transpose):
        return v, perm
    low.done |= {node, users[0]}
    return users[0].outputs[0], users[0].op.perm


def _reach(ranges: Ranges, v: Value) -> tuple[float, float]:
    return ranges.of.get(v, (-1.0, 1.0))


def _output_source(low: Lowering, v: Value) -> tuple[Value, tuple[int, ...]]:
    """What the kernel gives for an output, and how the host permutes that."""
    node = low.graph.producers.get(v)
    if node is None or not isinstance(node.op, Transpose) or low.users.get(v) or low.graph.outputs.count(v) > 1:
        return v, ()
    return node.inputs[0], node.op.perm
