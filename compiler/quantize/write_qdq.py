"""The quantized model as a standard ONNX file: QuantizeLinear and DequantizeLinear around what is computed in integers.

    x -> Conv(W, b)   ->   x -> Q -> DQ -> Conv(DQ(integers of W), DQ(integers of b))

Activations are u8 with one scale and zero point, weights i8 with a scale per output channel, biases of Conv and Gemm i32
with the product of both scales.  Q and DQ stand on a tensor once, for all who read it in integers; where x is an image, those
that join or pool it read the quantized one too, so that no float copy of it is stored.

`write_switched` makes the model in which every unit is quantized or not as the run says, by one bool per unit: it tells
what each unit costs in accuracy, and what any selection costs, with one compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from ..onnx_edit import OnnxEdit, like
from .plan import LayerPlan, UnitPlan

IMAGE_READERS = ("Add", "MaxPool", "Concat", "GlobalAveragePool", "AveragePool")  # read what is quantized, if of rank 4
SWITCH = "tilewright_quantized_"


def write_qdq(edit: OnnxEdit, plans: Mapping[str, UnitPlan], images: frozenset[str] = frozenset()) -> ModelProto:
    """The model with these units quantized.  images: tensors that are also read quantized by `IMAGE_READERS`."""
    return _Writer(edit, plans, images).write()


def write_switched(edit: OnnxEdit, plans: Mapping[str, UnitPlan], images: frozenset[str]) -> tuple[ModelProto, dict[str, str]]:
    """The model with a bool input per unit; its name by the tensor of the unit."""
    writer = _Writer(edit, plans, images, switched=True)
    return writer.write(), writer.switches


class _Writer:
    def __init__(self, edit: OnnxEdit, plans: Mapping[str, UnitPlan], images: frozenset[str], switched: bool = False) -> None:
        self.edit = edit.copy()
        self.images, self.plans = images, plans
        self.layer_plans = {p.layer.name: (u, p) for u in plans.values() for p in u.layers}
        self.made: list[NodeProto] = []
        self.read: dict[str, str] = {}  # tensor -> its quantized and dequantized copy
        self.chosen: dict[str, str] = {}  # the same, or the tensor itself, as the switch says
        self.switches = {x: f"{SWITCH}{n}" for n, x in enumerate(plans)} if switched else {}
        self.corrected: dict[str, np.ndarray] = {}
        for _, p in self.layer_plans.values():
            if p.layer.added and p.correction is not None:
                self.corrected[p.layer.added] = self.edit.constants[p.layer.bias] + p.correction

    def write(self) -> ModelProto:
        e = self.edit
        for name in self.switches.values():
            e.graph.input.append(helper.make_tensor_value_info(name, TensorProto.BOOL, []))
        for x in e.inputs:
            self._quantize(x)
        for node in list(e.nodes):
            self._add(node)
            for name in node.output:
                self._quantize(name)
        e.replace_nodes(self.made)
        return e.finish()

    def _op(self, kind: str, inputs: list[str], output: str, name: str, **attributes: Any) -> str:
        output = self.edit.unique(output)
        self.made.append(helper.make_node(kind, inputs, [output], self.edit.unique(name), **attributes))
        return output

    def _quantize(self, x: str) -> None:
        """The nodes behind a tensor that is quantized."""
        plan = self.plans.get(x)
        if plan is None or x in self.read:
            return
        e = self.edit
        scale = e.constant(np.array(plan.range.scale, np.float32), f"{x}_scale")
        zero = e.constant(np.array(plan.range.zero, np.uint8), f"{x}_zero")
        q = self._op("QuantizeLinear", [x, scale, zero], f"{x}_q", f"{x}_Q")
        self.read[x] = self._op("DequantizeLinear", [q, scale, zero], f"{x}_dq", f"{x}_DQ")
        if x in self.switches and x in self.images:
            self.chosen[x] = self.either(x, self.read[x], x)

    def either(self, x: str, quantized: str, plain: str) -> str:
        """What the switch of a unit chooses."""
        return self._op("Where", [self.switches[x], quantized, plain], f"{quantized}_or_not", f"{quantized}_Where")

    def _add(self, node: NodeProto) -> None:
        found = self.layer_plans.get(node.name)
        if found is not None:
            return self._layer(node, *found)
        inputs = [self._read_by(node, name) for name in node.input]
        if node.output and node.output[0] in self.corrected:
            inputs = self._with_correction(node, inputs)
        self.made.append(like(node, input=inputs))
        return None

    def _read_by(self, node: NodeProto, name: str) -> str:
        if node.op_type in IMAGE_READERS and name in self.images and name in self.read:
            return self.chosen.get(name, self.read[name])
        return name

    def _with_correction(self, node: NodeProto, inputs: list[str]) -> list[str]:
        vector = self.corrected[node.output[0]]
        plan = next((u, p) for u, p in self.layer_plans.values() if p.layer.added == node.output[0])
        name = self.edit.constant(vector, f"{plan[1].layer.bias}_corrected")
        if self.switches:
            name = self.either(plan[0].unit.tensor, name, plan[1].layer.bias)
        return [name if i == plan[1].layer.bias else i for i in inputs]

    def _layer(self, node: NodeProto, unit: UnitPlan, plan: LayerPlan) -> None:
        layer, x = plan.layer, unit.unit.tensor
        inputs = [self.read[x], self._weights(plan)]
        bias = self._bias(unit, plan)
        inputs += [bias] if bias else []
        behind = plan.correction if layer.kind == "MatMul" and not layer.added else None
        if x not in self.switches and behind is None:
            self.made.append(like(node, input=inputs))
            return
        y = node.output[0]
        output = self.edit.unique(f"{y}_quantized")
        self.made.append(like(node, input=inputs, output=[output], name=self.edit.unique(f"{layer.name}_quantized")))
        last: Callable[..., Any] = self.made.append
        if behind is not None:
            vector = self.edit.constant(behind, f"{layer.name}_correction")
            if x not in self.switches:
                last(helper.make_node("Add", [output, vector], [y], self.edit.unique(f"{layer.name}_Add")))
                return
            output = self._op("Add", [output, vector], f"{output}_corrected", f"{layer.name}_Add")
        plain = self.edit.unique(f"{y}_plain")
        last(like(node, output=[plain]))
        last(helper.make_node("Where", [self.switches[x], output, plain], [y], self.edit.unique(f"{layer.name}_Where")))

    def _weights(self, plan: LayerPlan) -> str:
        e, layer = self.edit, plan.layer
        integers = e.constant(plan.integers, f"{layer.weight}_q")
        scales = e.constant(plan.scales, f"{layer.weight}_scale")
        zeros = e.constant(np.zeros(plan.scales.shape, np.int8), f"{layer.weight}_zero")
        return self._op(
            "DequantizeLinear", [integers, scales, zeros], f"{layer.weight}_dq", f"{layer.weight}_DQ", axis=layer.channels
        )

    def _bias(self, unit: UnitPlan, plan: LayerPlan) -> str:
        """Of a Conv or a Gemm: in i32, if it fits there."""
        layer, e = plan.layer, self.edit
        if layer.added or (layer.kind == "MatMul"):
            return ""
        if not layer.bias and plan.correction is None:
            return ""
        b = e.constants[layer.bias].astype(np.float64) if layer.bias else np.zeros(plan.scales.size)
        b = b.reshape(-1) + (0.0 if plan.correction is None else plan.correction)
        scale = (np.float64(unit.range.scale) * plan.scales).astype(np.float32)
        whole = np.rint(b / scale)
        if np.abs(whole).max(initial=0) > 2**30 or b.size != plan.scales.size:
            return e.constant(b.astype(np.float32), f"{layer.name}_bias")
        integers = e.constant(whole.astype(np.int32), f"{layer.name}_bias_q")
        scales = e.constant(scale, f"{layer.name}_bias_scale")
        return self._op("DequantizeLinear", [integers, scales], f"{layer.name}_bias_dq", f"{layer.name}_bias_DQ", axis=0)
