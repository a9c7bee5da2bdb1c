"""ResNet-50 and a BERT layer, twice each: as an ONNX model, and as a user of jax would write them, channels last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, width, stride of the first


class Model:
    """Grows an ONNX model, node by node."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        array = self.rng.standard_normal(shape, np.float32) * np.float32(0.05)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, values: list[int]) -> str:
        name = f"shape{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def finish(self, x: tuple[int, ...], y: str, shape: tuple[int, ...], name: str) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
        outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resnet50_onnx(batch: int = 1, stages: tuple[tuple[int, int, int], ...] = STAGES, size: int = 224) -> onnx.ModelProto:
    m = Model()

    def conv(x: str, before: int, after: int, k: int, stride: int) -> str:
        weights = m.weight(after, before, k, k), m.weight(after)
        return m.add("Conv", x, *weights, kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4)

    x = m.add("Relu", conv("x", 3, 64, 7, 2))
    x = m.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for blocks, width, first in stages:
        for b in range(blocks):
            stride, out = (first if b == 0 else 1), 4 * width
            y = m.add("Relu", conv(x, channels, width, 1, 1))
            y = m.add("Relu", conv(y, width, width, 3, stride))
            y = conv(y, width, out, 1, 1)
            shortcut = conv(x, channels, out, 1, stride) if b == 0 else x
            x, channels = m.add("Relu", m.add("Add", y, shortcut)), out
    x = m.add("Flatten", m.add("GlobalAveragePool", x))
    y = m.add("Gemm", x, m.weight(1000, channels), m.weight(1000), transB=1)
    return m.finish((batch, 3, size, size), y, (batch, 1000), "resnet")


def resnet50_jax(stages: tuple[tuple[int, int, int], ...] = STAGES) -> tuple[Callable[..., Any], list[tuple[int, ...]]]:
    """The function of (x[N, H, W, 3], weights), and the shapes of the weights."""
    import jax.numpy as jnp
    from jax import lax

    shapes: list[tuple[int, ...]] = []

    def declare(before: int, after: int, k: int) -> None:
        shapes.extend([(k, k, before, after), (after,)])

    declare(3, 64, 7)
    channels = 64
    for blocks, width, _ in stages:
        for b in range(blocks):
            declare(channels, width, 1)
            declare(width, width, 3)
            declare(width, 4 * width, 1)
            if b == 0:
                declare(channels, 4 * width, 1)
            channels = 4 * width
    shapes.extend([(channels, 1000), (1000,)])

    def network(x: Any, weights: list[Any]) -> Any:
        rest = iter(weights)

        def conv(x: Any, stride: int) -> Any:
            w, bias = next(rest), next(rest)
            pads = [(w.shape[0] // 2,) * 2] * 2
            y = lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return y + bias

        x = jnp.maximum(conv(x, 2), 0)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
        for blocks, _, first in stages:
            for b in range(blocks):
                stride = first if b == 0 else 1
                y = jnp.maximum(conv(x, 1), 0)
                y = jnp.maximum(conv(y, stride), 0)
                y = conv(y, 1)
                x = jnp.maximum(y + (conv(x, stride) if b == 0 else x), 0)
        return jnp.mean(x, axis=(1, 2)) @ next(rest) + next(rest)

    return network, shapes


def bert_onnx(
    layers: int = 1, batch: int = 1, tokens: int = 128, width: int = 768, heads: int = 12
) -> onnx.ModelProto:
    m = Model()

    def dense(x: str, before: int, after: int) -> str:
        return m.add("Add", m.add("MatMul", x, m.weight(before, after)), m.weight(after))

    def split(x: str) -> str:
        parts = m.add("Reshape", x, m.constant([batch, tokens, heads, width // heads]))
        return m.add("Transpose", parts, perm=[0, 2, 1, 3])

    x = "x"
    for _ in range(layers):
        q, k, v = (split(dense(x, width, width)) for _ in range(3))
        scores = m.add("MatMul", q, m.add("Transpose", k, perm=[0, 1, 3, 2]))
        scores = m.add("Div", scores, _scalar(m, float(np.sqrt(width // heads))))
        y = m.add("MatMul", m.add("Softmax", scores, axis=-1), v)
        y = m.add("Reshape", m.add("Transpose", y, perm=[0, 2, 1, 3]), m.constant([batch, tokens, width]))
        x = _norm(m, m.add("Add", x, dense(y, width, width)), width)
        y = dense(x, width, 4 * width)
        half = m.add("Mul", y, _scalar(m, 0.5))
        error = m.add("Erf", m.add("Div", y, _scalar(m, float(np.sqrt(2)))))
        y = m.add("Mul", half, m.add("Add", error, _scalar(m, 1.0)))
        x = _norm(m, m.add("Add", x, dense(y, 4 * width, width)), width)
    return m.finish((batch, tokens, width), x, (batch, tokens, width), "bert")


def _scalar(m: Model, value: float) -> str:
    name = f"s{len(m.weights)}"
    m.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return name


def _norm(m: Model, x: str, width: int) -> str:
    return m.add("LayerNormalization", x, m.weight(width), m.weight(width), axis=-1, epsilon=1e-12)


def bert_jax(width: int = 768, heads: int = 12) -> tuple[Callable[..., Any], list[tuple[int, ...]]]:
    """One layer: the function of (x[B, T, width], weights), and the shapes of the weights."""
    import jax
    import jax.numpy as jnp

    def norm(x: Any, scale: Any, bias: Any) -> Any:
        wide = x.astype(jnp.float32)
        mean = jnp.mean(wide, -1, keepdims=True)
        variance = jnp.mean(jnp.square(wide - mean), -1, keepdims=True)
        return ((wide - mean) * jax.lax.rsqrt(variance + 1e-12) * scale + bias).astype(x.dtype)

    def network(x: Any, weights: list[Any]) -> Any:
        rest = iter(weights)

        def dense(x: Any) -> Any:
            return x @ next(rest) + next(rest)

        def split(x: Any) -> Any:
            return x.reshape(*x.shape[:2], heads, width // heads).transpose(0, 2, 1, 3)

        q, k, v = (split(dense(x)) for _ in range(3))
        scores = q @ k.transpose(0, 1, 3, 2) / float(np.sqrt(width // heads))
        y = jax.nn.softmax(scores.astype(jnp.float32), -1).astype(x.dtype) @ v
        x = norm(x + dense(y.transpose(0, 2, 1, 3).reshape(x.shape)), next(rest), next(rest))
        return norm(x + dense(jax.nn.gelu(dense(x), approximate=False)), next(rest), next(rest))

    square, vector = (width, width), (width,)
    attention = [square, vector] * 4
    return network, [*attention, vector, vector, (width, 4 * width), (4 * width,), (4 * width, width), vector, vector, vector]
