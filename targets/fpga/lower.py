"""From the graph to processes: one per fused group, with every type chosen.

Transposes right behind an input or before an output are left to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...codegen.hls.design import Process, Tensor
from ...codegen.hls.fixed import covering
from ...ir.errors import ModelError
from ...ir.graph import Graph, Node, Value
from ...ir.ops.movement import Transpose
from .elementwise import MARGIN, Types
from .handlers import HANDLERS
from .lowering import Lowering
from .ranges import Ranges


@dataclass(frozen=True)
class Lowered:
    """Processes that are not connected yet, and what the host sees.  perms: of the host's arrays; empty: as they are."""

    processes: tuple[Process, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    input_perms: tuple[tuple[int, ...], ...]
    output_perms: tuple[tuple[int, ...], ...]
    types: Types
    notes: tuple[str, ...]


def lower_graph(graph: Graph, ranges: Ranges, bits: int, margin: float = MARGIN) -> Lowered:
    """margin: how far beyond the calibrated range every type reaches.

    Raises ModelError for operators without hardware and for inputs of unknown size."""
    low = Lowering(graph, ranges, bits, Types(ranges.of, bits, margin))
    inputs, input_perms = [], []
    for v in graph.inputs:
        if not v.type.is_static:
            raise ModelError(f"fpga: input {v.name!r} is {v.type}; hardware needs sizes: give --dim or --shape")
        perm = _host_transpose(low, v)
        shape = v.type.static_shape
        t = Tensor(v.name, tuple(shape[p] for p in perm) if perm else shape, covering(*_reach(ranges, v), bits))
        for node in low.users.get(v, []) if perm else []:
            low.env[node.outputs[0]] = t
        if not perm:
            low.env[v] = t
        inputs.append(t)
        input_perms.append(perm)
    sources = [_output_source(graph, low.users, v) for v in graph.outputs]
    for v, (_, perm) in zip(graph.outputs, sources, strict=True):
        if perm:
            low.done.add(graph.producers[v])
    low.run(HANDLERS)
    outputs = tuple(low.tensor(source) for source, _ in sources)
    return Lowered(tuple(low.processes), tuple(inputs), outputs, tuple(input_perms),
                   tuple(perm for _, perm in sources), low.types, tuple(low.notes))


def _reach(ranges: Ranges, v: Value) -> tuple[float, float]:
    return ranges.of.get(v, (-1.0, 1.0))


def _host_transpose(low: Lowering, v: Value) -> tuple[int, ...]:
    """The permutation that every reader of an input begins with, or none."""
    perms = {n.op.perm if isinstance(n.op, Transpose) else () for n in low.users.get(v, [])}
    return perms.pop() if len(perms) == 1 and v not in low.graph.outputs else ()


def _output_source(graph: Graph, users: dict[Value, list[Node]], v: Value) -> tuple[Value, tuple[int, ...]]:
    """What the kernel gives for an output, and how the host permutes that."""
    node = graph.producers.get(v)
    if node is None or not isinstance(node.op, Transpose) or users.get(v) or graph.outputs.count(v) > 1:
        return v, ()
    return node.inputs[0], node.op.perm
