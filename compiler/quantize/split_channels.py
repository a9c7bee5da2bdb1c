"""Split channels that stand far out into copies, each of which carries a part.

    x[c] -> W[c]     ->     x[c] / n -> W[c],  n times

One channel with outliers coarsens the range of all, and moved into its weights it coarsens theirs (`equalize`).  Copies
leave the weights as they are (outlier channel splitting, Zhao et al. 2019).  They cost as many more inputs of a product, so
there are few: `COPIES`, a vector of a wide register file.

Copies of x come for nothing where a product in front makes x through operations on single elements: its outputs are copied.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from ..onnx_edit import OnnxEdit
from .layers import Layer, Unit

COPIES = 16  # more of them are hardly better, and kernels want whole vectors
FEWEST = 4 * COPIES  # channels that are worth it
_ELEMENTWISE = frozenset((
    "Abs", "Add", "Cast", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign",
    "Sqrt", "Sub", "Swish", "Tanh", "ThresholdedRelu",
))


def copied(peak: np.ndarray, copies: int = COPIES) -> np.ndarray:
    """How often each channel shall stand there: the one with the largest part gets one more, until all copies are given."""
    n = np.ones(peak.shape, np.int64)
    for _ in range(copies):
        n[np.argmax(peak / n)] += 1
    return n


def source_of_copies(edit: OnnxEdit, unit: Unit, by_output: Mapping[str, Layer]) -> Layer | None:
    """The product whose outputs can be copied, or None: operations on single elements lead from it to the unit's tensor,
    and nothing else reads what is in between."""
    if any(layer.is_conv for layer in unit.layers) or unit.tensor in edit.inputs:
        return None
    producers, users, outputs = edit.producers(), edit.users(), set(edit.outputs)
    seen: dict[str, NodeProto] = {}
    found: Layer | None = None
    todo = [unit.tensor]
    while todo:
        name = todo.pop()
        layer = by_output.get(name)
        if layer is not None and (found is None or found is layer):
            found = layer
            continue
        node = producers.get(name)
        if layer is not None or node is None or node.op_type not in _ELEMENTWISE or node.domain or name in outputs:
            return None
        if name in seen:
            continue
        seen[name] = node
        for i in node.input:
            if i in edit.constants:
                if edit.constants[i].size != 1:
                    return None
            elif i:
                todo.append(i)
    if found is None or found.is_conv or not _owned(edit, found):
        return None
    inside = {id(n) for n in seen.values()} | {id(n) for n in edit.nodes if n.name in {m.name for m in unit.layers}}
    between = [*seen, found.added or found.y]
    closed = all(name not in outputs and all(id(n) in inside for n in users.get(name, [])) for name in between)
    return found if closed else None


def _owned(edit: OnnxEdit, layer: Layer) -> bool:
    names = [layer.weight, *([layer.bias] if layer.bias else [])]
    inputs = [i for n in edit.nodes for i in n.input]
    return all(inputs.count(n) == 1 for n in names) and (not layer.bias or edit.constants[layer.bias].ndim == 1)


def widen(edit: OnnxEdit, source: Layer, unit: Unit, of: np.ndarray) -> None:
    """Channel i of the tensor becomes a whole copy of what was channel of[i]; the products sum copies, so divide them."""
    edit.constants[source.weight] = np.ascontiguousarray(np.take(edit.constants[source.weight], of, axis=source.channels))
    if source.bias:
        edit.constants[source.bias] = edit.constants[source.bias][of]
    for name, layer in {layer.weight: layer for layer in unit.layers}.items():
        edit.constants[name] = np.ascontiguousarray(np.take(edit.constants[name], of, axis=1 - layer.channels))
