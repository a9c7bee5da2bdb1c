"""What pruning one layer alone costs at the model's outputs: measured, one run per layer.

The relative error of a layer's own outputs says little: errors of some layers vanish in what follows, others grow.  So each
layer in turn gets the weights that it would have at the target density, all others those of the original.  The weights are
inputs of one artifact, which is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from onnx import TensorProto, helper

from ..onnx_edit import OnnxEdit
from ..quantize.activations import ActivationRunner
from ..quantize.samples import Batch
from .layers import Layer
from .moments import Moments
from .patterns import Pattern
from .reconstruct import Refit, scores

BATCHES = 2  # that are run per layer
Progress = Callable[[str, int, int], None]


def output_costs(
    edit: OnnxEdit, layers: Sequence[Layer], moments: Mapping[str, Moments], pattern: Pattern, density: float,
    batches: Iterable[Batch], progress: Progress,
) -> dict[str, float]:
    """By layer: E||y' - y||^2 / E||y||^2 over the model's outputs.  batches: the first `BATCHES` are used."""
    weights = {name: edit.constants[name] for layer in layers for name in (layer.weight, layer.bias) if name}
    runner = ActivationRunner(_open(edit, weights).finish())
    used = [b for b, _ in zip(batches, range(BATCHES), strict=False)]
    wanted = [runner.run({**b.inputs, **weights}) for b in used]
    power = sum(float(np.square(y, dtype=np.float64).sum()) for v in wanted for y in _floats(v))
    found = {}
    for n, layer in enumerate(layers):
        progress("sensitivity", n, len(layers))
        changed = weights | _pruned(edit, layer, moments[layer.name], pattern, density)
        lost = 0.0
        for b, right in zip(used, wanted, strict=True):
            made = runner.run({**b.inputs, **changed})
            lost += sum(float(np.square(y - t, dtype=np.float64).sum())
                        for y, t in zip(_floats(made), _floats(right), strict=True))
        found[layer.name] = lost / max(power, 1e-30)
    runner.close()
    return found


def _floats(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [a for a in values.values() if a.dtype.kind == "f"]


def _open(edit: OnnxEdit, names: Iterable[str]) -> OnnxEdit:
    """The same model with these constants as inputs."""
    made = edit.copy()
    for name in names:
        made.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, made.constants.pop(name).shape))
    return made


def _pruned(edit: OnnxEdit, layer: Layer, moments: Moments, pattern: Pattern, density: float) -> dict[str, np.ndarray]:
    """Weights and bias of one layer, pruned at once and fitted."""
    made = edit.copy()
    original = layer.matrix(edit)
    own, _ = moments.normal(bool(layer.bias))
    mask = pattern.select(scores(original, own, "obd"), density)
    w = Refit(original, own, own @ original).solve(mask, original)
    layer.store(made, w)
    if layer.bias:
        bias = edit.constants[layer.bias]
        made.constants[layer.bias] = (bias + moments.offset(original, w).reshape(bias.shape)).astype(bias.dtype)
    return {name: made.constants[name] for name in (layer.weight, layer.bias) if name}
