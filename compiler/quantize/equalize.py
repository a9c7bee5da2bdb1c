"""Move the difference between channels from activations into weights, where every channel has its own scale.

    x -> MatMul W     ->     x / s -> MatMul (s * W)

One scale stands for all channels of x, so a channel with outliers coarsens every other one; dividing each by its s evens
them out.  s = peak(x)^a / peak(W)^(1-a) per channel (SmoothQuant, Xiao et al. 2022), a searched per tensor by the error
of the products themselves; a = 0 leaves the layer alone.

Where 1/s goes:
    a layer in front, through Relu or nothing      its weights and bias (cross-layer equalization, Nagel et al. 2019)
    LayerNormalization, if nothing else reads x    its scale and bias
    anything else, in front of matrix products     a Mul, which is fused into what quantizes

Where a layer in front makes x element by element, the channels that stand out most are split instead (`split_channels`):
the weights of what reads x stay fine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, helper

from ..onnx_edit import OnnxEdit, like
from .layers import Layer, Unit
from .products import Products, layer_products
from .ranges import Range, candidates
from .split_channels import COPIES, FEWEST, copied, source_of_copies, widen
from .statistics import Histogram, Statistics
from .weights import channel_scales, nearest

SPLIT_WORTH = 0.8  # of the error that may be left, to split channels as well
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
WORTH = 0.85  # of the error that may be left, to change the model
UNEVEN = 2.0  # how far the largest channel must stand out from the median one, in x or the weights, to be worth a search
_COLUMNS, _ROWS = 256, 256  # of the products on which a is tried
_HOMOGENEOUS = ("Relu", "LeakyRelu", "Identity", "MaxPool")  # f(x / s) = f(x) / s for s > 0


@dataclass(frozen=True)
class Equalized:
    """alpha: of the tensor, 0: not evened; where: "weights", "norm" or "mul"; before, after: the relative squared error of the
    outputs; split: how many channels stand there in copies."""

    alpha: float
    where: str
    before: float
    after: float
    split: int = 0


@dataclass(frozen=True, eq=False)
class _Evened:
    """s: what each channel is divided by; n: how many copies of it there are."""

    s: np.ndarray
    n: np.ndarray

    @property
    def of(self) -> np.ndarray:
        """The channel that each copy is of."""
        return np.repeat(np.arange(len(self.n)), self.n)

    @property
    def factor(self) -> np.ndarray:
        """What each copy of x is multiplied with; the weights of each channel are, with s."""
        return (1 / (self.s * self.n))[self.of].astype(np.float32)


def equalize(edit: OnnxEdit, units: Sequence[Unit], layers: Sequence[Layer], found: Statistics) -> dict[str, Equalized]:
    """Change the model and its statistics in place; what was done, by the tensor that is evened now.  The layers keep their
    names and tensors, but those behind a Mul read its output: call `find_layers` again."""
    by_output = {layer.added or layer.y: layer for layer in layers}
    done: dict[str, Equalized] = {}
    for unit in units:
        absorb = _absorber(edit, unit, by_output)
        if absorb is None:
            continue
        source = source_of_copies(edit, unit, by_output)
        made = _best(edit, unit, found, source is not None)
        if made is None:
            continue
        evened, result = made
        if result.split:
            assert source is not None
            widen(edit, source, unit, evened.of)
        where, tensor = absorb(evened.factor)
        for name, layer in {layer.weight: layer for layer in unit.layers}.items():
            edit.constants[name] = layer.per_input(edit.constants[name], evened.s[evened.of])
        found.scale(unit.layers, tensor, evened.factor, evened.of)
        done[tensor] = replace(result, where=where)
    return done


def _best(edit: OnnxEdit, unit: Unit, found: Statistics, may_split: bool) -> tuple[_Evened, Equalized] | None:
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
    plain = _Evened(np.ones_like(peak_x), np.ones(peak_x.shape, np.int64))
    before = _error(unit, originals, plain)
    best: tuple[float, float, _Evened] = (before, 0.0, plain)
    splits = (0, COPIES) if may_split and alive.sum() >= FEWEST else (0,)
    for copies in splits:
        least = best[0] * (SPLIT_WORTH if copies else 1.0)
        for alpha in (0.0, *ALPHAS) if copies else ALPHAS:
            s = _divisors(peak_x, peak_w, alive, alpha)
            evened = _Evened(s, copied(np.where(alive, peak_x / s, 0.0), copies))
            error = _error(unit, originals, evened)
            if error < min(least, best[0]):
                best = error, alpha, evened
    if best[0] > WORTH * before:
        return None
    return best[2], Equalized(best[1], "", before, best[0], int((best[2].n > 1).sum()))


def _divisors(peak_x: np.ndarray, peak_w: np.ndarray, alive: np.ndarray, alpha: float) -> np.ndarray:
    s = np.ones_like(peak_x)
    if alpha:
        s[alive] = peak_x[alive] ** alpha / peak_w[alive] ** (1 - alpha)
        s[alive] /= np.exp(np.log(s[alive]).mean())
    return np.clip(s, 1e-3, 1e3).astype(np.float32)


def _users_of(edit: OnnxEdit, name: str) -> int:
    return sum(name in n.input for n in edit.nodes)


def _error(unit: Unit, originals: Mapping[str, Products], evened: _Evened) -> float:
    """The error of the layers' outputs with both operands in eight bits."""
    parts = []
    h = Histogram()
    for layer in unit.layers:
        whole = originals[layer.name]
        spread = layer.spread(evened.s)
        x, scaled = whole.x / spread[:, None], whole.m * spread[:, :, None]
        if len(evened.of) > len(evened.s):
            x, scaled = (x / evened.n.astype(np.float32))[..., evened.of], scaled[:, evened.of]
        scales = channel_scales(scaled, 8)
        parts.append((whole, x, nearest(scaled, scales, 8) * scales))
        h.add(parts[-1][1])

    def error(r: Range) -> float:
        return sum(whole.error(r.fake(x), m) for whole, x, m in parts)

    return min(error(r) for r in candidates(h))


# ---- where 1/s goes --------------------------------------------------------------------------------------------------

Absorb = Callable[[np.ndarray], tuple[str, str]]


def _absorber(edit: OnnxEdit, unit: Unit, by_output: Mapping[str, Layer]) -> Absorb | None:
    """A function that multiplies x by a factor per channel and says where, and what the unit's tensor is called then."""
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
                return lambda factor: (_into_layer(edit, layer, factor), unit.tensor)
        if node is not None and node.op_type == "LayerNormalization" and _is_plain_norm(edit, node):
            return lambda factor: (_into_norm(edit, node, factor), unit.tensor)
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

    def absorb(factor: np.ndarray) -> tuple[str, str]:
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
        return "mul", scaled

    return absorb
