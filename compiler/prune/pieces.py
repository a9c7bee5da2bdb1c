"""A model in pieces: which nodes lie between one stage of layers and the next.

Layers that a stage holds do not depend on each other, so that each is looked at when all in front of it is done.  Piece s
computes what the layers of stage s read, from tensors that earlier pieces computed: every node runs once.

    x -> [query key value] -> attention -> [output] -> norm -> [up] -> gelu -> [down]        stages in brackets
         piece 0: -            piece 1: the three products, attention   piece 2: output, norm   ...

What depends on shapes and constants alone is not passed on but computed again in every piece that needs it: importing folds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ...frontend.onnx.structure import read_names
from ..onnx_edit import OnnxEdit
from .layers import Layer, exposed


@dataclass(frozen=True)
class Piece:
    """nodes: in execution order.  inputs: computed tensors (also the model's inputs) that they read.  outputs: what the layers
    of the stage or later pieces read, and is computed here.  carried: what the layers read that was computed before.
    last: tensors that no later piece reads."""

    layers: tuple[Layer, ...]
    nodes: tuple[NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    carried: tuple[str, ...]
    last: frozenset[str]

    def model(self, edit: OnnxEdit, values: dict[str, np.ndarray]) -> ModelProto:
        """With the constants that `edit` has now.  values: arrays of the inputs' types."""
        nodes = list(self.nodes)
        used = _read(nodes)
        graph = helper.make_graph(
            nodes, "piece",
            [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(values[n].dtype),
                                           [f"{n}.{d}" for d in range(values[n].ndim)]) for n in self.inputs],
            [onnx.ValueInfoProto(name=n) for n in self.outputs],
            [numpy_helper.from_array(np.asarray(edit.constants[n], order="C"), n) for n in used if n in edit.constants],
        )
        graph.initializer.extend(t for t in edit.graph.initializer if t.name in used)
        made = ModelProto()
        made.CopyFrom(edit.proto)
        made.graph.CopyFrom(graph)
        return made


def _read(nodes: Iterable[NodeProto]) -> list[str]:
    """What the nodes and their subgraphs read."""
    return list(dict.fromkeys(name for node in nodes for name in read_names(node)))


def make_stages(layers: Sequence[Layer], edit: OnnxEdit) -> list[list[Layer]]:
    """Runs of layers that do not depend on each other.  A residual that is not final when its layer's turn comes is dropped."""
    place = {layer.node.output[0]: 1 << n for n, layer in enumerate(layers)}
    above: dict[str, int] = {}  # of each tensor, the layers that it depends on, as bits
    for node in edit.nodes:
        bits = 0
        for name in _read([node]):
            bits |= above.get(name, 0)
        bits |= place.get(node.output[0], 0)
        above.update(dict.fromkeys(node.output, bits))
    stages: list[list[Layer]] = []
    done = current = 0
    for n, layer in enumerate(layers):
        if not stages or above.get(layer.source, 0) & current:
            stages.append([])
            done |= current
            current = 0
        ready = not above.get(layer.residual, 0) & ~done
        stages[-1].append(layer if ready else replace(layer, residual=""))
        current |= 1 << n
    return stages


def cut(stages: Sequence[Sequence[Layer]], edit: OnnxEdit) -> list[Piece]:
    """One piece per stage."""
    fixed = _fixed(edit)
    computed = {*edit.inputs, *(name for n in edit.nodes for name in n.output)}
    wanted = [tuple(exposed(stage)) for stage in stages]
    taken = _share_out(wanted, edit, fixed)
    made = [tuple(o for n in nodes for o in n.output if o) for nodes in taken]
    reads = [tuple(n for n in _read(nodes) if n in computed and n not in own) for nodes, own in zip(taken, made, strict=True)]
    pieces = []
    for s, stage in enumerate(stages):
        later = {n for names in (*reads[s + 1 :], *wanted[s + 1 :]) for n in names}
        outputs = tuple(o for o in made[s] if o in wanted[s] or (o in later and o not in fixed))
        carried = tuple(n for n in wanted[s] if n not in made[s])
        last = frozenset({*reads[s], *outputs, *carried} - later)
        pieces.append(Piece(tuple(stage), tuple(taken[s]), reads[s], outputs, carried, last))
    return pieces


def _share_out(wanted: Sequence[Sequence[str]], edit: OnnxEdit, fixed: set[str]) -> list[list[NodeProto]]:
    """The nodes of each piece."""
    nodes = list(edit.nodes)
    makers = {name: i for i, n in enumerate(nodes) for name in n.output if name}
    taken: set[int] = set()
    pieces = []
    for names in wanted:
        own: set[int] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            at = makers.get(name)
            if at is None or at in own or at in taken:
                continue
            own.add(at)
            if name not in fixed:  # others are part of every piece that needs them
                taken.add(at)
            todo += read_names(nodes[at])
        pieces.append([nodes[at] for at in sorted(own)])
    return pieces


def _fixed(edit: OnnxEdit) -> set[str]:
    """Tensors that follow from constants and the shapes of others."""
    found = set(edit.constants) | {t.name for t in edit.graph.initializer}
    for node in edit.nodes:
        if node.op_type in ("Shape", "Size") or all(n in found for n in _read([node])):
            found.update(node.output)
    return found
