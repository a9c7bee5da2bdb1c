"""Products and the depthwise convolutions of their images, lowered as one kernel where that is expected to pay.

    y = Fused[contract](x, w);  p = Pad(y);  z = Fused[contract](p, v)   ->   one call; y and p have no memory

The pairs are found in the graph by who reads what; `strategies/expanded.py` decides and has the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..ir.compute import Compute
from ..ir.graph import Graph, Node, Value
from ..ir.kernel import Buffer, coefficient
from ..ir.ops.contract import Conv
from ..ir.ops.control import Fused
from ..ir.ops.movement import Pad
from .border import border_group
from .compose import compose
from .cost import cost_of
from .machine import Machine
from .program import Cost
from .storage import Place, Scope, memory_dtype
from .strategies.expanded import Expansion, is_expansion, schedule_expansion
from .strategies.scheduled import Group

if TYPE_CHECKING:
    from .lower import Lowering


@dataclass(frozen=True)
class Pair:
    product: Node
    pad: Node
    depthwise: Node


def find_pairs(lowering: Lowering, scope: Scope) -> dict[Node, Made | None]:
    """The nodes that are not lowered on their own.  With the last one of a pair all of it is; the others stand for None."""
    made: dict[Node, Made | None] = {}
    if isinstance(lowering.machine, Machine) and lowering.panels is None and not lowering.symbols:
        for pair in _pairs(scope.graph, scope.views.copied):
            one = _expansion(lowering, scope, pair, lowering.machine)
            if one is not None:
                made |= {pair.product: None, pair.pad: None, pair.depthwise: one}
    return made


def _pairs(graph: Graph, copied: dict[Node, tuple[int, ...]]) -> list[Pair]:
    """A product whose image nothing but a depthwise convolution reads, through a border that is not copied."""
    users, makers = graph.users(), graph.producers
    found = []

    def only_reader(v: Value) -> Node | None:
        readers = users.get(v, ())
        return readers[0] if len(readers) == 1 and v not in graph.outputs else None

    for pad in graph.nodes:
        if not isinstance(pad.op, Pad) or copied.get(pad):
            continue
        product, (padded,) = makers.get(pad.inputs[0]), pad.outputs
        depthwise = only_reader(padded)
        if product is None or depthwise is None or only_reader(pad.inputs[0]) is not pad:
            continue
        if _conv(product) is None or len(product.outputs) > 1 or depthwise.inputs.count(padded) != 1:
            continue
        conv = _conv(depthwise)
        if conv is not None and conv.groups == padded.type.shape[-1] and padded.type.rank == 4:
            found.append(Pair(product, pad, depthwise))
    return found


def _conv(node: Node) -> Conv | None:
    """The convolution of a group that is computed by products."""
    if not isinstance(node.op, Fused) or node.op.kind not in ("contract", "means"):
        return None
    found = [n.op for n in node.op.body.nodes if isinstance(n.op, Conv)]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class Made:
    """One kernel for a pair: what is computed, on which memory."""

    pair: Pair
    expansion: Expansion
    group: Group
    places: dict[str, Place]
    arrays: dict[str, np.ndarray]


def _expansion(lowering: Lowering, scope: Scope, pair: Pair, machine: Machine) -> Made | None:
    pad = pair.pad.op
    assert isinstance(pad, Pad)
    (padded,), (y,) = pair.pad.outputs, pair.product.outputs
    sizes = (*padded.type.shape, *y.type.shape, *pad.before)
    if not all(isinstance(n, int) for n in sizes) or pad.before[0] or pad.before[3]:
        return None
    image = Buffer("image", padded.type.dtype, padded.type.shape)
    places, outer, arrays = lowering.operands(scope, pair.product, ("f", "e"))
    more, others, more_arrays = lowering.operands(scope, pair.depthwise)
    (expand,) = _compose(pair.product, outer)
    alone = Group("contract", (expand,), tuple(outer.values()), constants=frozenset(arrays))
    sparse = lowering.strategies.with_sparsity(alone, arrays, machine, lowering.accuracy).sparse
    if sparse is not None and sparse.pays:
        return None
    expand = replace(expand, out=image, index=tuple(i + b for i, b in zip(expand.out_index, pad.before, strict=True)))
    window, *means = _compose(pair.depthwise, {**others, padded: image})
    step, taps = _rows(window, image)
    constants = frozenset((*arrays, *more_arrays))
    border = scope.graph.constants[pair.pad.inputs[1]].reshape(-1)[0].item()
    inside, (_, top, left, _) = y.type.static_shape, pad.before
    e = Expansion(expand, window, next(iter(means), None), image, border, inside, top, left, step, taps)  # type: ignore[arg-type]
    if not is_expansion(e, constants, machine):
        return None
    params = [b for v, b in outer.items() if v is not y] + [b for v, b in others.items() if v is not padded]
    computes = (*border_group(pad, image, y.type, border).computes, expand, window, *means)
    group = Group("expanded", computes, tuple(params), constants=constants)
    return Made(pair, e, group, {**places, **more}, {**arrays, **more_arrays})


def lower_pair(lowering: Lowering, scope: Scope, one: Made | None) -> None:
    if one is None:
        return
    machine, pair = lowering.machine, one.pair
    assert isinstance(machine, Machine)
    made = lowering.kernels.scheduled(one.group, lambda: schedule_expansion(one.group, one.expansion, machine))
    places = dict(one.places)
    lowering.place_constants(made, places, one.arrays)
    first, last = (cost_of(n, lowering.typical) for n in (pair.product, pair.depthwise))
    between = pair.pad.outputs[0].type.nbytes
    cost = Cost(first.macs + last.macs, first.bytes_read + last.bytes_read - between, last.bytes_written)
    where = ", ".join(n.where for n in (pair.product, pair.depthwise) if n.where)
    lowering.emit(scope, made, places, replace(pair.depthwise, where=where), cost, one.arrays)


def _rows(window: Compute, image: Buffer) -> tuple[int, int]:
    """(stride, taps) of a window along the rows of its image; zeros where they do not show."""
    row = image.static_shape[2] * image.static_shape[3]
    reads = [r for r in window.reads() if r.buf == image]
    if len(window.axes) != 4 or not window.reduce:
        return 0, 0
    steps = {coefficient(image, r.idx, window.axes[1]) for r in reads}
    step, taps = steps.pop() if len(steps) == 1 else None, window.reduce[0].extent
    return (step // row, taps) if isinstance(step, int) and isinstance(taps, int) and step % row == 0 else (0, 0)


def _compose(node: Node, outer: Mapping[Value, Buffer]) -> tuple[Compute, ...]:
    assert isinstance(node.op, Fused)
    return compose(node.op.body, group_buffers(node, outer), node.op.kind)


def group_buffers(node: Node, outer: Mapping[Value, Buffer]) -> dict[Value, Buffer]:
    """The buffers of the values inside of a group.  outer: those of its operands and results."""
    assert isinstance(node.op, Fused)
    body = node.op.body
    pairs = zip((*body.inputs, *body.outputs), (*node.inputs, *node.outputs), strict=True)
    buffers = {inner: outer[v] for inner, v in pairs}
    for n, inner in enumerate(body.nodes):
        for v in inner.outputs:
            buffers.setdefault(v, Buffer(f"t{n}", memory_dtype(v.type.dtype), v.type.shape, "stack"))
    for n, v in enumerate(body.constants):
        buffers[v] = Buffer(f"c{n}", v.type.dtype, v.type.shape)
    return buffers
