"""Weights of 8 bits, activations rounded to 8 bits by the range that each run finds: no samples are needed.

    Gemm(x, W, b)   ->   q, s, z = DynamicQuantizeLinear(x);  MatMulInteger(q, integers of W, z) * (s * scales of W) + b

The spelling is the standard's and runs in other engines too.  A range is that of a whole tensor, so one outlier costs all other
values bits: with samples, outlier channels are evened out first (`equalize`), what it loses is measured, and layers go back
to floats where the contract does not hold or integers are slower.  Convolutions stay in floats: their tensors' ranges are
known before a run (`quantize`), and looking for them in each costs more than it brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from ...ir.errors import OptionError
from ..onnx_edit import Model, OnnxEdit
from .activations import MEMORY, declared_inputs
from .calibrate import calibrated
from .equalize import equalize
from .judge import Judge, Metric, Verdict, make_judge
from .layers import Layer, find_layers, units_of
from .prepare import prepared
from .samples import Batch, Samples, Source, as_samples
from .statistics import Statistics
from .timing import measure, race, slower, times_by_name
from .weight_only import NarrowLayer, NarrowModel, allowed_drop, constant_bytes, model_outputs
from .weights import channel_scales, nearest

_HELD_OUT = 4


def quantize_dynamic(
    model: Model, data: Source | Samples | None = None, *, max_drop: float | None = None, metric: Metric = None,
    keep: Sequence[str] = (), timing: bool = True, memory: int = MEMORY, base_dir: Path | None = None,
) -> NarrowModel:
    """data: samples to even out channels with, to judge and to time by; without, every product with constant weights is
    quantized.  The rest as in `quantize`.  Raises OptionError for a model without such products."""
    edit = prepared(model, base_dir)
    original = edit.finish()
    layers, refused = _layers(edit, keep)
    if data is None:
        made = write_dynamic(edit, layers)
        return _result(edit, layers, None, refused, made, original)
    samples = as_samples(data, declared_inputs(original))
    calibration, rest = samples.split(_HELD_OUT)
    held = list(rest)
    found = calibrated(edit, layers, calibration, memory)
    if equalize(edit, units_of(layers), layers, found):
        layers, refused = _layers(edit, keep)
    judge = make_judge(held, model_outputs(original, held), metric)
    drop = allowed_drop(judge, max_drop, 1)
    trial = _Trial(edit, original, judge, held, drop)
    kept = trial.by_accuracy(layers, found)
    if timing:
        kept = trial.by_time(kept)
    for layer in layers:
        if layer not in kept:
            refused[layer.name] = trial.reasons[layer.name]
    made = write_dynamic(edit, kept)
    done = _result(edit, kept, found, refused, made, original)
    return replace(done, verdict=trial.verdict(made), max_drop=drop, signature=held[0].signature, notes=trial.notes)


def _result(
    edit: OnnxEdit, layers: Sequence[Layer], found: Statistics | None, refused: dict[str, str], made: ModelProto,
    original: ModelProto,
) -> NarrowModel:
    rows = [NarrowLayer(n.name, edit.constants[n.weight].size, _error(edit, n, found), "nearest") for n in layers]
    sizes = constant_bytes(original), constant_bytes(made)
    return NarrowModel(edit.name, made, 8, 0, rows, refused, None, 0.0, (), sizes)


def _layers(edit: OnnxEdit, keep: Sequence[str]) -> tuple[list[Layer], dict[str, str]]:
    found, refused = find_layers(edit)
    refused.update({n.name: "convolutions have static ranges: quantize with samples" for n in found if n.is_conv})
    refused.update({n.name: "it is kept in floats as asked" for n in found if n.name in keep})
    layers = [n for n in found if n.name not in refused]
    if not layers:
        raise OptionError(f"quantize: {edit.name} has no product for dynamic quantization: "
                          + ("; ".join(sorted(set(refused.values()))) or "no Gemm or MatMul"))
    return layers, refused


def _integers(edit: OnnxEdit, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """(weights [K, N] as i8, scales [N])"""
    w = layer.matrix(edit.constants[layer.weight])
    scales = channel_scales(w, 8)
    return nearest(w, scales, 8)[0].astype(np.int8), scales.reshape(-1)


def dynamic_rounding(x: np.ndarray) -> np.ndarray:
    """x as DynamicQuantizeLinear stores it: 8 bits from the least to the largest value, zero included."""
    low, high = min(0.0, float(x.min(initial=0.0))), max(0.0, float(x.max(initial=0.0)))
    scale = (high - low) / 255 or 1.0
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def _error(edit: OnnxEdit, layer: Layer, found: Statistics | None) -> float:
    """The squared change of the outputs on sampled rows, relative to them; without samples that of the weights."""
    w = layer.matrix(edit.constants[layer.weight])[0].astype(np.float64)
    q, scales = _integers(edit, layer)
    near = q * scales.astype(np.float64)
    if found is None:
        return float(np.square(near - w).sum() / max(np.square(w).sum(), 1e-30))
    x = found.rows_of(layer)[0].astype(np.float64)
    y = x @ w
    return float(np.square(dynamic_rounding(x) @ near - y).sum() / max(np.square(y).sum(), 1e-30))


@dataclass(eq=False)
class _Trial:
    """Decides which layers are integers.  reasons: by layer that is none; notes: what was measured."""

    edit: OnnxEdit
    original: ModelProto
    judge: Judge
    held: list[Batch]
    drop: float

    def __post_init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.notes: list[str] = []

    def verdict(self, made: ModelProto) -> Verdict:
        return self.judge.verdict(model_outputs(made, self.held))

    def by_accuracy(self, layers: Sequence[Layer], found: Statistics) -> list[Layer]:
        """The fewest layers with the largest errors are left out, by bisection."""
        worst = sorted(layers, key=lambda n: -_error(self.edit, n, found))
        low, high = 0, len(worst)  # with `high` left out it fits
        while low < high:
            middle = (low + high) // 2
            fits = self.verdict(write_dynamic(self.edit, worst[middle:])).drop <= self.drop
            low, high = (low, middle) if fits else (middle + 1, high)
        self.reasons.update({n.name: "accuracy" for n in worst[:low]})
        return [n for n in layers if n.name not in self.reasons]

    def by_time(self, layers: list[Layer]) -> list[Layer]:
        """Without the layers that integers make slower, if the whole is no slower then."""
        if not layers:
            return layers
        made, batch = write_dynamic(self.edit, layers), self.held[0]
        names = {f"{n.name}{end}": n.name for n in layers for end in ("", *_ENDS)}
        names.update({f"{n.x}_DynamicQuantize": n.name for n in reversed(layers)})
        (_, before), (_, after) = measure(self.original, batch), measure(made, batch)
        for units in slower(times_by_name(names, before, after), frozenset(n.name for n in layers)):
            fewer = [n for n in layers if n.name not in units]
            if len(fewer) == len(layers):
                continue
            less = write_dynamic(self.edit, fewer)
            floats, integers = race([less, made], batch)
            if floats <= integers:
                layers, made = fewer, less
                self.reasons.update(dict.fromkeys(units, "integers are slower"))
        plain, whole = race([self.original, made], batch)
        self.notes.append(f"one thread: {1e6 * plain:.4g} us -> {1e6 * whole:.4g} us ({plain / whole:.2f} x)")
        return layers


_ENDS = ("_integer", "_cast", "_scale", "_scaled", "_bias")


def write_dynamic(edit: OnnxEdit, layers: Sequence[Layer]) -> ModelProto:
    """The model with these layers quantized; `edit` is not changed."""
    e = edit.copy()
    by_name, made = {n.name: n for n in layers}, []
    read: dict[str, tuple[str, str, str]] = {}
    for node in list(e.nodes):
        layer = by_name.get(node.name)
        made += [node] if layer is None else _nodes(e, node, layer, read)
    e.replace_nodes(made)
    return e.finish()


def _nodes(e: OnnxEdit, node: NodeProto, layer: Layer, read: dict[str, tuple[str, str, str]]) -> list[NodeProto]:
    made: list[NodeProto] = []
    x, name = layer.x, layer.name
    if x not in read:
        q, s, z = read[x] = e.unique(f"{x}_q"), e.unique(f"{x}_scale"), e.unique(f"{x}_zero")
        made.append(helper.make_node("DynamicQuantizeLinear", [x], [q, s, z], e.unique(f"{x}_DynamicQuantize")))
    q, s, z = read[x]
    integers, scales = _integers(e, layer)
    weights, scale = e.constant(integers, f"{layer.weight}_q"), e.constant(scales, f"{layer.weight}_scale")
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
    sums, whole, both = (e.unique(f"{layer.y}_{end}") for end in ("sums", "whole", "scale"))
    last = e.unique(f"{layer.y}_scaled") if bias else layer.y
    made += [
        helper.make_node("MatMulInteger", [q, weights, z], [sums], e.unique(f"{name}_integer")),
        helper.make_node("Cast", [sums], [whole], e.unique(f"{name}_cast"), to=TensorProto.FLOAT),
        helper.make_node("Mul", [s, scale], [both], e.unique(f"{name}_scale")),
        helper.make_node("Mul", [whole, both], [last], e.unique(f"{name}_scaled")),
    ]
    if bias:
        made.append(helper.make_node("Add", [last, bias], [layer.y], e.unique(f"{name}_bias")))
    return made
