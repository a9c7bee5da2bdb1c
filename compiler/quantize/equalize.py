"""Move the difference between channels from activations into weights, where every channel has its own scale.

    x -> MatMul W     ->     x / s -> MatMul (s * W)

One scale stands for all channels of x, so a channel with outliers coarsens every other one; dividing each by its s evens
them out.  s = peak(x)^a / peak(W)^(1-a) per channel (SmoothQuant, Xiao et al. 2022), a searched per tensor by the error
of the products themselves; a = 0 leaves the layer alone.

Where 1/s goes:
    a layer in front, through Relu or nothing      its weights and bias (cross-layer equalization, Nagel et al. 2019)
    LayerNormalization, if nothing else reads x    its scale and bias
    anything else, in front of matrix products     a Mul, which is fused into what quantizes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from ..onnx_edit import OnnxEdit, like
from .layers import Layer, Unit
from .products import Products, layer_products
from .ranges import Range, candidates
from .statistics import Histogram, Statistics
from .weights import channel_scales, nearest

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WORTH = 0.85  # of the error that may be left, to change the model
UNEVEN = 2.0  # how far the largest channel must stand out from the median one, in x or the weights, to be worth a search
_COLUMNS, _ROWS = 256, 256  # of the products on which a is tried
_HOMOGENEOUS = ("Relu", "LeakyRelu", "Identity", "MaxPool")  # f(x / s) = f(x) / s for s > 0


@dataclass(frozen=True)
class Equalized:
    """alpha: of the tensor; where: "weights", "norm" or "mul"; before, after: the relative squared error of the outputs."""

    alpha: float
    where: str
    before: float
    after: float


def equalize(edit: OnnxEdit, units: Sequence[Unit], layers: Sequence[Layer], found: Statistics) -> dict[str, Equalized]:
    """Change the model in place; what was done, by tensor.  The layers keep their names and tensors, but those behind a Mul
    read its output: call `find_layers` again."""
    by_output = {layer.added or layer.y: layer for layer in layers}
    done: dict[str, Equalized] = {}
    for unit in units:
        absorb = _absorber(edit, unit, by_output)
        if absorb is None:
            continue
        made = _best(edit, unit, found)
        if made is None:
            continue
        s, result = made
        where = absorb(1 / s)
        for name, layer in {layer.weight: layer for layer in unit.layers}.items():
            edit.constants[name] = layer.per_input(edit.constants[name], s)
        done[unit.tensor] = Equalized(result.alpha, where, result.before, result.after)
    return done


def _best(edit: OnnxEdit, unit: Unit, found: Statistics) -> tuple[np.ndarray, Equalized] | None:
    statistics = found.tensors.get(unit.tensor)
    if statistics is None or not np.isfinite(statistics.peak).all() or statistics.peak.size < 2:
        return None
    shared = {n for layer in unit.layers for n in (layer.weight,)}
    peak_w = np.max([layer.input_peak(edit.constants[layer.weight]) for layer in unit.layers], axis=0)
    peak_x = statistics.peak
    alive = (peak_x > 0) & (peak_w > 0)
    uneven = alive.any() and any(p[alive].max() >= UNEVEN * np.median(p[alive]) for p in (peak_x, peak_w))
    if not uneven or any(_users_of(edit, name) > 1 for name in shared):
        return None
    originals = {
        layer.name: layer_products(layer, edit.constants[layer.weight], found.rows_of(layer)).some(_ROWS, _COLUMNS)
        for layer in unit.layers
    }
    before = _error(unit, originals, np.ones_like(peak_x))
    best: tuple[float, float, np.ndarray] = (before, 0.0, np.ones_like(peak_x))
    for alpha in ALPHAS:
        s = np.ones_like(peak_x)
        s[alive] = peak_x[alive] ** alpha / peak_w[alive] ** (1 - alpha)
        s[alive] /= np.exp(np.log(s[alive]).mean())
        s = np.clip(s, 1e-3, 1e3).astype(np.float32)
        error = _error(unit, originals, s)
        if error < best[0]:
            best = error, alpha, s
    if best[0] > WORTH * before:
        return None
    return best[2], Equalized(best[1], "", before, best[0])


def _users_of(edit: OnnxEdit, name: str) -> int:
    return sum(name in n.input for n in edit.nodes)


def _error(unit: Unit, originals: Mapping[str, Products], s: np.ndarray) -> float:
    """The error of the layers' outputs with both operands in eight bits, after dividing x by s."""
    parts = []
    h = Histogram()
    for layer in unit.layers:
        whole = originals[layer.name]
        spread = layer.spread(s)
        scaled = whole.m * spread[:, :, None]
        scales = channel_scales(scaled, 8)
        parts.append((whole, whole.x / spread[:, None], nearest(scaled, scales, 8) * scales))
        h.add(parts[-1][1])

    def error(r: Range) -> float:
        return sum(whole.error(r.fake(x), m) for whole, x, m in parts)

    return min(error(r) for r in candidates(h))


# ---- where 1/s goes --------------------------------------------------------------------------------------------------

Absorb = Callable[[np.ndarray], str]


def _absorber(edit: OnnxEdit, unit: Unit, by_output: Mapping[str, Layer]) -> Absorb | None:
    """A function that multiplies x by a factor per channel and says where."""
    users, producers, outputs = edit.users(), edit.producers(), set(edit.outputs)
    readers = {layer.name for layer in unit.layers}
    alone = unit.tensor not in outputs and all(n.name in readers for n in users.get(unit.tensor, []))
    if alone:
        name, node = unit.tensor, producers.get(unit.tensor)
        while node is not None and node.op_type in _HOMOGENEOUS and name not in by_output:
            name = node.input[0]
            if name in outputs or len(users.get(name, [])) != 1:
                return _multiplied(edit, unit)
            node = producers.get(name)
        if name in by_output and name not in (outputs - {unit.tensor}):
            layer = by_output[name]
            if _owns_constants(edit, layer):
                return lambda factor: _into_layer(edit, layer, factor)
        if node is not None and node.op_type == "LayerNormalization" and _is_plain_norm(edit, node):
            return lambda factor: _into_norm(edit, node, factor)
    return _multiplied(edit, unit)


def _owns_constants(edit: OnnxEdit, layer: Layer) -> bool:
    names = [layer.weight, *([layer.bias] if layer.bias else [])]
    return all(_users_of(edit, n) == 1 for n in names)


def _is_plain_norm(edit: OnnxEdit, node: NodeProto) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    return axis == -1 and all(n in edit.constants and _users_of(edit, n) == 1 for n in node.input[1:] if n)


def _into_layer(edit: OnnxEdit, layer: Layer, factor: np.ndarray) -> str:
    w = edit.constants[layer.weight]
    shape = [1] * w.ndim
    shape[layer.channels] = -1
    edit.constants[layer.weight] = (w * factor.reshape(shape)).astype(np.float32)
    if layer.bias:
        edit.constants[layer.bias] = (edit.constants[layer.bias] * factor).astype(np.float32)
    return "weights"


def _into_norm(edit: OnnxEdit, node: NodeProto, factor: np.ndarray) -> str:
    for name in node.input[1:]:
        if name:
            edit.constants[name] = (edit.constants[name] * factor).astype(np.float32)
    return "norm"


def _multiplied(edit: OnnxEdit, unit: Unit) -> Absorb | None:
    if any(layer.is_conv for layer in unit.layers):
        return None

    def absorb(factor: np.ndarray) -> str:
        names = {layer.name for layer in unit.layers}
        vector = edit.constant(factor.astype(np.float32), f"{unit.tensor}_factor")
        scaled = edit.unique(f"{unit.tensor}_even")
        nodes: list[NodeProto] = []
        for n in edit.nodes:
            if n.name in names:
                if not any(scaled in m.output for m in nodes):
                    nodes.append(helper.make_node("Mul", [unit.tensor, vector], [scaled], f"{unit.name}_even"))
                n = like(n, input=[scaled, *n.input[1:]])
            nodes.append(n)
        edit.replace_nodes(nodes)
        return "mul"

    return absorb
