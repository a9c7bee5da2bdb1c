"""Share of integers that equal those of the model's own arithmetic, over a whole QDQ model, one step at a time.

    python benchmarks/accuracy/equal_integers.py reference MODEL.onnx INPUTS.npz FOLDER    # needs onnxruntime
    python benchmarks/accuracy/equal_integers.py compare MODEL.onnx INPUTS.npz FOLDER      # needs tilewright

ONNX Runtime without its optimizations gives every tensor that QuantizeLinear makes.  Then each of them is an input of the
model that Tilewright compiles: every step starts from the reference's integers, so a tie in one layer is not counted in all
that follow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper


def exposed(model: ModelProto) -> list[str]:
    """The tensors that QuantizeLinear makes, now outputs of the model."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    known = {o.name for o in model.graph.output}
    found = []
    for n in model.graph.node:
        if n.op_type == "QuantizeLinear" and n.output[0] not in known:
            zero = types.get(n.input[2], onnx.TensorProto.UINT8) if len(n.input) > 2 else onnx.TensorProto.UINT8
            model.graph.output.append(helper.make_tensor_value_info(n.output[0], zero, None))
            found.append(n.output[0])
    return found


def reference(model: ModelProto, inputs: dict[str, np.ndarray], place: Path) -> None:
    import onnxruntime as ort

    names = exposed(model)
    onnx.save_model(model, place / "exposed.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(place / "exposed.onnx"), options)
    results = session.run(names, {i.name: inputs[i.name] for i in session.get_inputs()})
    np.savez(place / "reference.npz", **{f"t{n}": a for n, a in enumerate(results)})
    print(f"{len(names)} quantized tensors, {sum(a.size for a in results)} elements")


def compare(model: ModelProto, inputs: dict[str, np.ndarray], place: Path) -> None:
    import tilewright

    names, arrays = exposed(model), np.load(place / "reference.npz")
    values = {name: arrays[f"t{n}"] for n, name in enumerate(names)}
    for n in model.graph.node:
        if n.op_type == "DequantizeLinear" and n.input[0] in values:
            a, name = values[n.input[0]], f"{n.input[0]}__given"
            if name not in inputs:
                inputs[name] = a
                kind = helper.np_dtype_to_tensor_dtype(a.dtype)
                model.graph.input.append(helper.make_tensor_value_info(name, kind, a.shape))
            n.input[0] = name
    constants = {t.name for t in model.graph.initializer}
    given = {i.name: inputs[i.name] for i in model.graph.input if i.name not in constants}
    module = tilewright.compile(model, shapes={k: a.shape for k, a in given.items()}).load(1)
    got = dict(zip([o.name for o in model.graph.output], module({s.name: given[s.name] for s in module.inputs}), strict=True))
    off = np.concatenate([np.abs(got[n].astype(np.int32) - values[n].astype(np.int32)).reshape(-1) for n in names])
    print(f"{100 * float((off == 0).mean()):.5f} % of {off.size} integers are equal, the largest difference is {off.max()}")


if __name__ == "__main__":
    run = {"reference": reference, "compare": compare}[sys.argv[1]]
    run(onnx.load(sys.argv[2]), dict(np.load(sys.argv[3])), Path(sys.argv[4]))
