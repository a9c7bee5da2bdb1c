"""Scales and biases of normalisations, re-estimated for the pruned model.

After pruning, what a normalisation gives out drifts from what it gave.  Its scale and bias are per channel, so the best ones
are a line fitted per channel: teacher = a * student + c, scale' = a * scale, bias' = a * bias + c, with `a` held near 1 by
how well the line fits.

LayerNormalization is not among them: the layers around it are fitted to the original's values in all their inputs and outputs,
and lines on top of that made MiniLM worse.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from ..onnx_edit import OnnxEdit
from ..quantize.activations import ActivationRunner
from ..quantize.samples import Samples

_AXIS = {"BatchNormalization": 1, "GroupNormalization": 1, "InstanceNormalization": 1}


def find_norms(edit: OnnxEdit) -> list[NodeProto]:
    """Nodes whose scale and bias are float32 vectors that nothing else reads."""
    uses: dict[str, int] = {}
    for node in edit.nodes:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1

    def own(name: str) -> bool:
        a = edit.constants.get(name)
        return a is not None and a.dtype == np.float32 and a.ndim == 1 and uses[name] == 1

    return [n for n in edit.nodes if n.op_type in _AXIS and len(n.input) > 2 and own(n.input[1]) and own(n.input[2])]


def refit_norms(
    edit: OnnxEdit, norms: list[NodeProto], teacher: ActivationRunner, student: ActivationRunner, samples: Samples
) -> None:
    """Both runners expose the first output of every norm."""
    sums: dict[str, np.ndarray] = {}
    for batch in samples:
        t, s = teacher.run(batch.inputs), student.run(batch.inputs)
        for node in norms:
            name, axis = node.output[0], _AXIS[node.op_type]
            a, b = (np.moveaxis(v[name].astype(np.float64), axis, -1).reshape(-1, v[name].shape[axis]) for v in (s, t))
            found = np.stack([np.full(a.shape[1], len(a), float), a.sum(0), b.sum(0), (a * a).sum(0), (a * b).sum(0)])
            sums[name] = sums.get(name, 0.0) + found
    for node in norms:
        count, a, b, aa, ab = sums[node.output[0]]
        n = np.maximum(count, 1)
        variance, covariance = aa / n - (a / n) ** 2, ab / n - a * b / n**2
        ridge = 0.05 * variance + 1e-12
        slope = (covariance + ridge) / (variance + ridge)
        shift = b / n - slope * a / n
        scale, bias = edit.constants[node.input[1]], edit.constants[node.input[2]]
        edit.constants[node.input[1]] = (scale * slope).astype(np.float32)
        edit.constants[node.input[2]] = (bias * slope + shift).astype(np.float32)
