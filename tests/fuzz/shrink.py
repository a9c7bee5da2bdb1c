"""A failing model made small: fewer outputs, then fewer nodes; what a removed node made becomes an input of that value."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import helper

from fuzz.draw import CODES, Tensor, captured

_TRIES = 60


def shrink(model: onnx.ModelProto, tensors: Mapping[str, Tensor], fails: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto:
    """The smallest model found that still fails; the model itself if nothing can go."""
    nodes, outputs, tries = list(model.graph.node), [v.name for v in model.graph.output], 0

    def attempt(kept: list[onnx.NodeProto], wanted: list[str]) -> bool:
        nonlocal nodes, outputs, tries
        if not kept or not wanted or tries >= _TRIES:
            return False
        tries += 1
        if not fails(cut(model, kept, wanted, tensors)):
            return False
        nodes, outputs = kept, wanted
        return True

    for name in list(outputs):
        if len(outputs) > 1 and attempt(_needed(nodes, [name]), [name]):
            break
    changed = True
    while changed and len(nodes) > 1 and tries < _TRIES:
        changed = False
        last = [n for n in nodes if any(o in outputs for o in n.output)]
        for node in [*[n for n in nodes if n not in last], *last]:
            made = set(node.output)
            kept = [n for n in nodes if n is not node]
            if any(o in made for o in outputs):
                read = [i for i in node.input if i and i not in made and not tensors[i].constant and _producer(kept, i)]
                options = [[i] for i in read]
            else:
                options = [outputs]
            if any(attempt(_needed(kept, wanted), wanted) for wanted in options):
                changed = True
                break
    return cut(model, nodes, outputs, tensors)


def _producer(nodes: list[onnx.NodeProto], name: str) -> bool:
    return any(name in n.output for n in nodes)


def _needed(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    names, kept = set(outputs), []
    for node in reversed(nodes):
        if names.intersection(node.output):
            kept.append(node)
            names.update(node.input, captured(node))
    return kept[::-1]


def cut(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], outputs: list[str], tensors: Mapping[str, Tensor]
) -> onnx.ModelProto:  # fmt: skip
    """The nodes as a model."""
    made = {o for n in nodes for o in n.output}
    read = dict.fromkeys(i for n in nodes for i in (*n.input, *captured(n)) if i in tensors and i not in made)
    constants = [t for t in model.graph.initializer if t.name in read]
    named = {t.name for t in constants}
    inputs = [helper.make_tensor_value_info(n, CODES[tensors[n].dtype], tensors[n].shape) for n in read if n not in named]
    results = [helper.make_tensor_value_info(n, CODES[tensors[n].dtype], None) for n in outputs]
    graph = helper.make_graph(nodes, "random", inputs, results, constants)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
