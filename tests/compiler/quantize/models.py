"""Small float models for the tests of quantization."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper


def model_of(nodes: list, inputs: dict, outputs: dict, constants: dict[str, np.ndarray], opset: int = 17) -> ModelProto:
    """inputs, outputs: shapes by name, f32."""
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in d.items()] for d in (inputs, outputs)]
    tensors = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "m", *values, initializer=tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def mlp(seed: int = 0, rows: int | str = "n", features: int = 24, hidden: int = 32, classes: int = 5) -> ModelProto:
    """Gemm - Relu - MatMul - Add - Relu - Gemm."""
    r = np.random.default_rng(seed)

    def w(*shape: int) -> np.ndarray:
        return (r.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["g1"], "fc1"),
        helper.make_node("Relu", ["g1"], ["r1"]),
        helper.make_node("MatMul", ["r1", "w2"], ["m2"], "fc2"),
        helper.make_node("Add", ["m2", "b2"], ["a2"]),
        helper.make_node("Relu", ["a2"], ["r2"]),
        helper.make_node("Gemm", ["r2", "w3", "b3"], ["y"], "fc3", transB=1),
    ]
    constants = {
        "w1": w(features, hidden), "b1": w(hidden), "w2": w(hidden, hidden), "b2": w(hidden),
        "w3": w(hidden, classes).T.copy(), "b3": w(classes),
    }
    return model_of(nodes, {"x": [rows, features]}, {"y": [rows, classes]}, constants)


def cnn(seed: int = 0, size: int = 12, classes: int = 4) -> ModelProto:
    """Conv + BatchNormalization + Relu, a depthwise block with a residual, MaxPool, GlobalAveragePool, Gemm."""
    r = np.random.default_rng(seed)

    def w(*shape: int) -> np.ndarray:
        return (r.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    one = np.abs(r.normal(1, 0.3, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c1", "s1", "o1", "m1", "v1"], ["n1"], "norm", epsilon=1e-5),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "dw", pads=[1, 1, 1, 1], group=16),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], "pw"),
        helper.make_node("Add", ["c3", "r1"], ["a3"], "residual"),
        helper.make_node("Relu", ["a3"], ["r3"]),
        helper.make_node("MaxPool", ["r3"], ["p3"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p3", "w4", "b4"], ["c4"], "last", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c4"], ["r4"]),
        helper.make_node("GlobalAveragePool", ["r4"], ["g4"]),
        helper.make_node("Flatten", ["g4"], ["f4"]),
        helper.make_node("Gemm", ["f4", "w5", "b5"], ["y"], "head", transB=1),
    ]
    constants = {
        "w1": w(16, 3, 3, 3), "s1": one, "o1": 0.1 * w(16), "m1": 0.1 * w(16), "v1": one[::-1].copy(),
        "w2": w(16, 1, 3, 3), "b2": 0.1 * w(16), "w3": w(16, 16, 1, 1), "b3": 0.1 * w(16),
        "w4": w(24, 16, 3, 3), "b4": 0.1 * w(24), "w5": w(classes, 24), "b5": 0.1 * w(classes),
    }
    return model_of(nodes, {"x": [1, 3, size, size]}, {"y": [1, classes]}, constants)
