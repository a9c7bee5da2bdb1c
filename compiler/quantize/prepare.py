"""The float model in the form that is quantized: batch normalization inside of convolutions, weights as plain constants.

    Conv(x, W) -> BatchNormalization      ->   Conv(x, W * gain, bias)
    MatMul(x, Transpose(W))               ->   MatMul(x, W')

Operator sets before 13 have no integers with a scale per channel: such models are converted to it first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import NodeProto, version_converter

from ...ir.errors import OptionError
from ..onnx_edit import Model, OnnxEdit, attributes, like

OPSET, IR_VERSION = 13, 8  # before version 4, initializers had to be inputs as well


def prepared(model: Model, base_dir: Path | None = None) -> OnnxEdit:
    """What the model computes stays the same up to rounding.  Raises ModelError for what is no model, OptionError for an old
    one that cannot be converted."""
    edit = OnnxEdit(model, base_dir)
    edit.proto.ir_version = max(edit.proto.ir_version, IR_VERSION)
    if edit.opsets.get("", OPSET) < OPSET:
        try:
            edit = OnnxEdit(version_converter.convert_version(edit.finish(), OPSET))
        except RuntimeError as error:
            raise OptionError(
                f"quantize: the model has operator set {edit.opsets['']}, QDQ files need {OPSET}, and the onnx package cannot "
                f"convert it ({str(error)[:200]}); export it with a newer one"
            ) from error
    _prepare(edit)
    return edit


def _prepare(edit: OnnxEdit) -> None:
    _name_nodes(edit)
    _fold_constants(edit)
    _fold_batch_norms(edit)


def _name_nodes(edit: OnnxEdit) -> None:
    """Every node has a name, and no two the same: reports and settings refer to nodes by it."""
    seen: set[str] = set()
    for n in edit.nodes:
        name = n.name or f"{n.op_type}_{n.output[0]}"
        while name in seen:
            name += "_"
        n.name = name
        seen.add(name)


_FOLDED: dict[str, Callable[..., np.ndarray]] = {
    "Transpose": lambda a, x: np.transpose(x, a.get("perm")),
    "Identity": lambda a, x: x,
    "Reshape": lambda a, x, shape: x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(shape.tolist())]),
}


def _fold_constants(edit: OnnxEdit) -> None:
    kept = []
    outputs = set(edit.outputs)
    for n in edit.nodes:
        fold = _FOLDED.get(n.op_type) if not n.domain else None
        known = [edit.constants[i] for i in n.input if i in edit.constants]
        if fold is not None and len(known) == len(n.input) and n.output[0] not in outputs:
            edit.constants[n.output[0]] = np.ascontiguousarray(fold(attributes(n), *known))
        else:
            kept.append(n)
    edit.replace_nodes(kept)


def _fold_batch_norms(edit: OnnxEdit) -> None:
    users, outputs = edit.users(), set(edit.outputs)
    behind: dict[str, NodeProto] = {}  # convolution's output -> the normalization
    for n in edit.nodes:
        if n.op_type != "Conv" or n.output[0] in outputs or len(users.get(n.output[0], [])) != 1:
            continue
        user = users[n.output[0]][0]
        constant = all(name in edit.constants for name in (*n.input[1:], *user.input[1:]))
        if user.op_type == "BatchNormalization" and constant and not any(user.output[1:]):
            behind[n.output[0]] = user
    gone = {n.output[0] for n in behind.values()}
    edit.replace_nodes([
        _folded(edit, n, behind[n.output[0]]) if n.output[0] in behind else n
        for n in edit.nodes if n.output[0] not in gone
    ])


def _folded(edit: OnnxEdit, conv: NodeProto, norm: NodeProto) -> NodeProto:
    scale, offset, mean, var = (edit.constants[name].astype(np.float64) for name in norm.input[1:])
    w = edit.constants[conv.input[1]]
    bias = edit.constants[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else 0.0
    gain = scale / np.sqrt(var + attributes(norm).get("epsilon", 1e-5))
    folded = (w * gain.reshape(-1, *(1,) * (w.ndim - 1))).astype(np.float32)
    names = [
        edit.constant(folded, f"{conv.input[1]}_normalized"),
        edit.constant(((bias - mean) * gain + offset).astype(np.float32), f"{conv.name}_bias"),
    ]
    return like(conv, input=[conv.input[0], *names], output=[norm.output[0]])
