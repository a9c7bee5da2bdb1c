"""The layers of an ONNX model that can be pruned: products and convolutions with constant weights.

A layer is seen as rows X[n, depth] times W[depth, outputs] plus a bias.  The depth of a convolution runs over
(window, input channel), the channel fastest, as the compiler has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from ..onnx_edit import OnnxEdit, attributes

SMALLEST = 1024  # weights; pruning fewer brings nothing


@dataclass(frozen=True, eq=False)
class Layer:
    """name: of the node, or of its output.  weight: name of the constant; source: of the tensor that it multiplies.
    bias: name of the constant that is added, "" if there is none.  residual: the tensor that its output is added to, "" if
    there is none (or the layer is a convolution)."""

    name: str
    node: NodeProto
    weight: str
    source: str
    bias: str
    residual: str = ""

    @property
    def is_convolution(self) -> bool:
        return self.node.op_type == "Conv"

    def _attributes(self) -> dict[str, Any]:
        return attributes(self.node)

    def matrix(self, edit: OnnxEdit) -> np.ndarray:
        """W[depth, outputs] as float64."""
        w = edit.constants[self.weight].astype(np.float64)
        if self.is_convolution:
            return np.moveaxis(w, 1, -1).reshape(w.shape[0], -1).T
        return w.T if self._attributes().get("transB") else w

    def store(self, edit: OnnxEdit, matrix: np.ndarray) -> None:
        old = edit.constants[self.weight]
        if self.is_convolution:
            outputs, channels, *kernel = old.shape
            made = np.moveaxis(matrix.T.reshape(outputs, *kernel, channels), -1, 1)
        else:
            made = matrix.T if self._attributes().get("transB") else matrix
        edit.constants[self.weight] = np.ascontiguousarray(made.astype(old.dtype))

    def rows(self, x: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
        """At most so many rows X[n, depth] of an input, drawn at random."""
        if not self.is_convolution:
            flat = x.reshape(-1, x.shape[-1])
            return flat if len(flat) <= most else flat[np.sort(rng.choice(len(flat), most, replace=False))]
        return _windows(x, self._attributes(), most, rng)


def _windows(x: np.ndarray, a: dict[str, Any], most: int, rng: np.random.Generator) -> np.ndarray:
    rank = x.ndim - 2
    kernel, strides = a["kernel_shape"], a.get("strides") or [1] * rank
    dilations, pads = a.get("dilations") or [1] * rank, a.get("pads") or [0] * (2 * rank)
    x = np.pad(x, [(0, 0), (0, 0), *((pads[d], pads[rank + d]) for d in range(rank))])
    sizes = [(x.shape[2 + d] - (kernel[d] - 1) * dilations[d] - 1) // strides[d] + 1 for d in range(rank)]
    total = x.shape[0] * int(np.prod(sizes))
    chosen = np.arange(total) if total <= most else np.sort(rng.choice(total, most, replace=False))
    image, *place = np.unravel_index(chosen, (x.shape[0], *sizes))
    taps = np.indices(kernel).reshape(rank, -1)
    index = [place[d][:, None] * strides[d] + taps[d][None, :] * dilations[d] for d in range(rank)]
    found = x[(image[:, None], slice(None), *index)]  # [n, taps, channels]: advanced indices come first
    return found.reshape(len(chosen), -1)


def find_layers(edit: OnnxEdit, smallest: int = SMALLEST) -> tuple[list[Layer], dict[str, str]]:
    """(layers in execution order, what stays as it is: node -> why)."""
    uses: dict[str, int] = {}
    for node in edit.nodes:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    users = edit.users()
    layers, skipped = [], {}
    for node in edit.nodes:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or node.domain:
            continue
        name = node.name or node.output[0]
        why = _obstacle(node, edit, uses, smallest)
        if why:
            skipped[name] = why
        else:
            bias = _bias(node, edit, users, uses)
            layers.append(Layer(name, node, node.input[1], node.input[0], bias, _residual(node, bias, edit, users)))
    return layers, skipped


def _obstacle(node: NodeProto, edit: OnnxEdit, uses: dict[str, int], smallest: int) -> str:
    w, a = edit.constants.get(node.input[1]), attributes(node)
    if w is None or node.input[0] in edit.constants:
        return "both operands are computed" if w is None else "the constant is the left operand"
    if w.dtype != np.float32:
        return f"weights of type {w.dtype}"
    if uses[node.input[1]] > 1:
        return "several nodes share the weights"
    if w.size < smallest:
        return f"only {w.size} weights"
    if node.op_type == "MatMul" and w.ndim != 2:
        return f"weights of {w.ndim} dimensions"
    if node.op_type == "Gemm" and (a.get("transA") or a.get("alpha", 1.0) != 1.0):
        return "a scaled or transposed left operand"
    if node.op_type == "Conv" and a.get("group", 1) != 1:
        return "a grouped convolution"
    if node.op_type == "Conv" and a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return "automatic padding"
    if node.op_type == "Conv" and "kernel_shape" not in a:
        node.attribute.add(name="kernel_shape", type=7).ints.extend(w.shape[2:])
    return ""


def _bias(node: NodeProto, edit: OnnxEdit, users: dict[str, list[NodeProto]], uses: dict[str, int]) -> str:
    """The constant that is added to each output, if nothing else reads it."""
    name = ""
    outputs = edit.constants[node.input[1]].shape[0 if node.op_type == "Conv" or attributes(node).get("transB") else -1]
    if node.op_type in ("Gemm", "Conv"):
        name = node.input[2] if len(node.input) > 2 else ""
        if node.op_type == "Gemm" and attributes(node).get("beta", 1.0) != 1.0:
            return ""
    else:
        readers = users.get(node.output[0], [])
        if len(readers) == 1 and readers[0].op_type == "Add" and node.output[0] not in edit.outputs:
            others = [n for n in readers[0].input if n != node.output[0]]
            name = others[0] if len(others) == 1 else ""
    found = edit.constants.get(name)
    fits = found is not None and found.size == outputs and found.shape[-1:] == (outputs,) and uses[name] == 1
    return name if fits else ""


def _residual(node: NodeProto, bias: str, edit: OnnxEdit, users: dict[str, list[NodeProto]]) -> str:
    """What a matrix product's output is added to: another computed value."""
    if node.op_type == "Conv":
        return ""
    name = node.output[0]
    if bias and node.op_type == "MatMul":
        name = users[name][0].output[0]
    readers = users.get(name, [])
    if len(readers) != 1 or readers[0].op_type != "Add" or name in edit.outputs:
        return ""
    others = [n for n in readers[0].input if n != name and n not in edit.constants]
    return others[0] if len(others) == 1 else ""


def exposed(layers: Sequence[Layer]) -> list[str]:
    """The tensors that moments are taken of."""
    return sorted({name for n in layers for name in (n.source, n.residual) if name})
