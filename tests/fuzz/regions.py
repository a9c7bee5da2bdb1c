"""Random quantized regions on FPGA: codes of the integer interpreter against those of the model.

    python tests/fuzz/regions.py FIRST COUNT      (PYTHONPATH must hold tests/)

All scales are powers of two and inputs lie on their grid, so that ties are frequent and every code is decided.  There is no C
simulation here: region number N takes some 10 ms.
"""

from __future__ import annotations

import collections
import json
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tilewright.compiler.options import make_options
from tilewright.compiler.pipeline import run_passes
from tilewright.compiler.progress import Stages
from tilewright.compiler.targets import find_target
from tilewright.frontend.onnx.importer import import_graph
from tilewright.frontend.onnx.reader import read_model
from tilewright.ir.errors import InternalError, TilewrightError
from tilewright.ir.interpreter import run_graph
from tilewright.targets.fpga import build
from tilewright.targets.fpga.options import FpgaOptions
from tilewright.targets.fpga.ranges import Ranges

_SCALES = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)
_STEPS = ("Neg", "Abs", "Floor", "Ceil", "Round", "Sign")
F32 = np.dtype(np.float32)


@dataclass
class Region:
    """A chain of products, sums and activations, quantized again and again."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, array: Any, dtype: Any = F32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"v{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def pick(self, items: tuple[Any, ...]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def quantized(self, x: str) -> str:
        """QuantizeLinear - DequantizeLinear."""
        signed = self.rng.random() < 0.5
        zero = self.rng.integers(-5, 6) if signed else self.rng.integers(90, 150)
        given = self.constant(self.pick(_SCALES)), self.constant(zero, np.int8 if signed else np.uint8)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *given), *given)

    def convolution(self, x: str, channels: int) -> tuple[str, int]:
        depthwise = self.rng.random() < 0.3
        outputs, groups = (channels, channels) if depthwise else (self.pick((1, 2, 4)), 1)
        k = self.pick((1, 3))
        w = self.constant(self.rng.integers(-30, 31, (outputs, channels // groups, k, k)), np.int8)
        if self.rng.random() < 0.5:
            scales = self.constant(self.rng.choice((1 / 16, 1 / 32, 1 / 8), outputs))
            w = self.op("DequantizeLinear", w, scales, self.constant(np.zeros(outputs), np.int8), axis=0)
        else:
            w = self.op("DequantizeLinear", w, self.constant(1 / 32), self.constant(0, np.int8))
        bias = (self.constant(self.rng.integers(-40, 40, outputs) / 8),) if self.rng.random() < 0.5 else ()
        return self.op("Conv", x, w, *bias, group=groups, pads=[k // 2] * 4), outputs

    def arithmetic(self, x: str, channels: int) -> str:
        shape = (1, channels, 1, 1) if self.rng.random() < 0.5 else ()
        operands = [x, self.constant(self.rng.integers(-12, 13, shape) / 4)]
        kind = self.pick(("Add", "Sub", "Mul", "Max", "Min"))
        return self.op(kind, *(operands if self.rng.random() < 0.7 else operands[::-1]))

    def joined(self, x: str, channels: int) -> tuple[str, int]:
        """Two tensors of codes, one made of the other."""
        left = self.quantized(x)
        right = self.quantized(self.op(self.pick(("Neg", "Relu", "Abs")), left))
        kind = self.pick(("Add", "Max", "Mul", "Sub", "Min", "Concat"))
        if kind == "Concat":
            return self.op(kind, left, right, axis=1), 2 * channels
        return self.op(kind, left, right), channels

    def activation(self, x: str, channels: int) -> str:
        match int(self.rng.integers(11)):
            case 0:
                return self.op("Relu", x)
            case 1:
                return self.op("LeakyRelu", x, alpha=self.pick((0.125, 0.25, 0.5)))
            case 2:
                low, high = self.rng.integers(-8, 1) / 2, self.rng.integers(1, 12) / 2
                return self.op("Clip", x, self.constant(low), self.constant(high))
            case 3:
                return self.op(self.pick(_STEPS), x)
            case 4:
                return self.op("MaxPool", x, kernel_shape=[1, 2])
            case 5:
                return self.op("HardSigmoid", x, alpha=0.25, beta=0.5)
            case 6:
                return self.op("Transpose", x, perm=[0, 1, 3, 2])
            case 7:
                return self.op("AveragePool", x, kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1)
            case 8:
                return self.op("PRelu", x, self.constant(self.rng.choice((0.25, 0.5, 0.125), (channels, 1, 1))))
            case 9:
                sides = self.constant([0, 0, 1, 0, 0, 0, 0, 1], np.int64)
                return self.op("Pad", x, sides, self.constant(self.rng.integers(-80, 81) / 16))
            case _:
                return x


def random_region(seed: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """Model number `seed`, and its input."""
    r = Region(np.random.default_rng(seed))
    channels = r.pick((1, 2, 4))
    shape = (1, channels, 3, 4)
    x = r.quantized("x")
    for _ in range(int(r.rng.integers(1, 4))):
        match r.pick(("product", "constant", "joined", "nothing")):
            case "product":
                x, channels = r.convolution(x, channels)
            case "constant":
                x = r.arithmetic(x, channels)
            case "joined":
                x, channels = r.joined(x, channels)
        x = r.quantized(r.activation(x, channels))
    result = helper.make_tensor_value_info(x, TensorProto.FLOAT, None)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(r.nodes, "q", [given], [result], r.constants)
    array = (r.rng.integers(-40, 41, shape) / 8).astype(np.float32)
    array.ravel()[:2] = 5, -5
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), array


def verdict(model: onnx.ModelProto, x: np.ndarray) -> str:
    """"ok", "declined: ...", "noted: ..." where the compiler itself says that codes may differ, or what is wrong."""
    options, target = make_options("fpga:u250"), find_target("fpga:u250")
    graph = import_graph(read_model(model), {"x": x.shape})
    (wanted,) = run_graph(graph, [x])
    native = target.native(target.machine_for(options))
    fused = run_passes(graph, options, Stages(lambda *_: None), lambda *_: None, target.passes_for(options), native)
    settings = FpgaOptions(max_error=1e9, calibration="x")
    try:
        build.require_ports(fused)
        lowered, _ = build._choose_bits(fused, Ranges(fused, [[x]], None), [[x]], settings)
    except InternalError:
        raise
    except TilewrightError as error:
        return f"declined: {str(error).splitlines()[0]}"
    design = build._unwired(lowered)
    (codes,) = design.run(build._encoded(design, [x]))
    got = design.out_ports[0].decode(codes, design.outputs[0])
    wrong = got != wanted
    if not wrong.any():
        return "ok"
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    kind = "noted" if any("may differ" in n for n in lowered.notes) else "wrong"
    return f"{kind}: {list(at)}: got {got[at]}, expected {wanted[at]}; {int(wrong.sum())} of {wrong.size}"


def main() -> int:
    first, count = (int(a) for a in sys.argv[1:3])
    kinds: collections.Counter[str] = collections.Counter()
    warnings.simplefilter("ignore")
    for seed in range(first, first + count):
        try:
            said = verdict(*random_region(seed))
        except Exception as error:
            said = f"failed: {type(error).__name__}: {error}"
        kinds[said.partition(":")[0]] += 1
        if said.startswith(("wrong", "failed")):
            print(seed, said, flush=True)
    print(json.dumps({"first": first, "regions": count, **kinds}))
    return int(kinds["wrong"] + kinds["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
