"""Graphs for the FPGA target: one branch per kind of process, and random convolutional networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.elementwise import Binary, Select, Unary
from tilewright.ir.ops.movement import Broadcast, Concat, Gather, Pad, Reshape, Slice, Transpose
from tilewright.ir.ops.norm import Attention, LayerNorm, RmsNorm, Softmax
from tilewright.ir.ops.recurrent import Gru, Lstm, Rnn
from tilewright.ir.ops.reduce import Reduce
from tilewright.ir.ops.window import Pool
from tilewright.ir.types import TensorType


class Net:
    """A graph under construction with seeded weights."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = Builder("net")

    def input(self, *shape: int) -> Value:
        return self.b.input(f"x{len(self.b.inputs)}", TensorType("f32", shape))

    def weights(self, *shape: int, scale: float = 0.5) -> Value:
        return self.b.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def scalar(self, x: float) -> Value:
        return self.b.constant(np.float32(x))

    def conv(self, x: Value, outputs: int, k: int = 3, stride: int = 1, pad: int = 1, groups: int = 1) -> Value:
        channels = x.type.static_shape[-1]
        w = self.weights(k, k, channels // groups, outputs, scale=1.0 / (k * (channels // groups) ** 0.5))
        return self.b.add(Conv((stride, stride), (pad,) * 4, (1, 1), groups), x, w, self.weights(outputs))

    def relu(self, x: Value) -> Value:
        return self.b.add(Binary("max"), x, self.scalar(0.0))

    def pool(self, x: Value, fn: str, k: int = 2, stride: int = 2, pad: int = 0, counts: bool = False) -> Value:
        return self.b.add(Pool(fn, (k, k), (stride, stride), (pad,) * 4, (1, 1), counts), x)


def conv_relu(n: Net) -> Value:
    return n.relu(n.conv(n.input(1, 7, 6, 3), 4))


def strided_conv(n: Net) -> Value:
    return n.conv(n.input(1, 9, 8, 2), 6, k=3, stride=2)


def dilated_conv(n: Net) -> Value:
    x = n.input(2, 8, 8, 2)
    return n.b.add(Conv((1, 2), (2, 1, 0, 2), (2, 1), 1), x, n.weights(3, 2, 2, 4))


def conv_1d(n: Net) -> Value:
    x = n.input(1, 16, 2)
    return n.b.add(Conv((2,), (2, 1), (1,), 1), x, n.weights(5, 2, 4), n.weights(4))


def depthwise_prelu(n: Net) -> Value:
    y = n.conv(n.input(1, 6, 6, 4), 4, groups=4)
    slope = n.b.add(Binary("mul"), y, n.weights(4))
    return n.b.add(Select(), n.b.add(Binary("lt"), y, n.scalar(0.0)), slope, y)


def grouped_conv(n: Net) -> Value:
    return n.conv(n.input(1, 5, 5, 4), 6, groups=2)


def centred_frame(n: Net) -> Value:
    """The whole frame waits for its mean."""
    y = n.conv(n.input(1, 32, 32, 8), 8, k=1, pad=0)
    return n.b.add(Binary("sub"), y, n.b.add(Reduce("mean", (1, 2), True), y))


def pixels(n: Net) -> Value:
    """More elements than a port moves in a frame's time, one a cycle."""
    return n.conv(n.input(1, 16, 12, 4), 4, k=1, pad=0)


def wide_convs(n: Net) -> Value:
    """More weights than pixels."""
    return n.conv(n.relu(n.conv(n.input(1, 8, 8, 8), 64)), 32)


def pools(n: Net) -> Value:
    x = n.input(1, 7, 7, 4)
    parts = [n.pool(x, "max", 3, 2, 1), n.pool(x, "avg", 3, 2, 1), n.pool(x, "avg", 3, 2, 1, True)]
    return n.b.add(Concat(3), *parts)


def global_mean_dense(n: Net) -> Value:
    x = n.b.add(Reduce("mean", (1, 2), True), n.input(1, 4, 4, 6))
    y = n.b.add(MatMul(), x, n.weights(6, 5))
    return n.b.add(Reshape((1, 5)), n.b.add(Binary("add"), y, n.weights(5)))


def reductions(n: Net) -> Value:
    x = n.input(2, 3, 8)
    high = n.b.add(Reduce("max", (2,), True), x)
    total = n.b.add(Reduce("sum", (1,), True), x)
    return n.b.add(Binary("add"), n.b.add(Binary("sub"), x, high), total)


def residual(n: Net) -> Value:
    x = n.relu(n.conv(n.input(1, 6, 6, 2), 4))
    return n.relu(n.b.add(Binary("add"), x, n.conv(x, 4)))


def softmax(n: Net) -> Value:
    return n.b.add(Softmax(1), n.b.add(MatMul(), n.input(3, 8), n.weights(8, 5)))


def norms(n: Net) -> Value:
    x = n.input(1, 4, 12)
    y = n.b.add(LayerNorm(2, 1e-5), x, n.weights(12), n.weights(12))
    return n.b.add(RmsNorm(2, 1e-5), y, n.weights(12))


def attention(n: Net) -> Value:
    q, k, v = (n.input(1, heads, rows, 4) for heads, rows in ((4, 5), (2, 6), (2, 6)))
    return n.b.add(Attention(0.5, True), q, k, v)


def stream_product(n: Net) -> Value:
    return n.b.add(MatMul(), n.input(2, 3, 4), n.input(2, 4, 6))


def lstm(n: Net) -> Value:
    zero = n.b.constant(np.zeros((2, 5), np.float32))
    return n.b.add_multi(Lstm(True), n.input(4, 2, 20), n.weights(5, 20), zero, zero)[0]


def gru(n: Net) -> Value:
    first = n.weights(1, 4)
    x = n.input(5, 1, 12)
    y = n.b.add_multi(Gru(linear_before_reset=True), x, n.weights(4, 12), n.weights(4), first)[0]
    z = n.b.add_multi(Gru(), x, n.weights(4, 12), first)[0]
    return n.b.add(Binary("sub"), y, z)


def rnn_last(n: Net) -> Value:
    return n.b.add_multi(Rnn(), n.input(3, 2, 4), n.weights(4, 4), n.weights(2, 4))[1]


def movement(n: Net) -> Value:
    x = n.input(1, 4, 6, 2)
    y = n.b.add(Slice((0, 1, 5, 0), (1, 3, 3, 2), (1, 1, -2, 1)), x)
    y = n.b.add(Pad((0, 1, 0, 0), (0, 0, 2, 0), "constant"), y, n.scalar(0.5))
    y = n.b.add(Gather(2), y, n.b.constant(np.array([4, 0, 0, 2])))
    y = n.b.add(Transpose((0, 2, 1, 3)), y)
    y = n.b.add(Broadcast((3, 4, 4, 2)), y)
    return n.b.add(Pad((0, 1, 1, 0), (0, 1, 1, 0), "reflect"), y)


def functions(n: Net) -> Value:
    x = n.input(2, 8)
    y = n.b.add(Binary("mul"), n.b.add(Unary("sigmoid"), x), n.b.add(Unary("tanh"), n.input(2, 8)))
    return n.b.add(Binary("div"), y, n.b.add(Binary("add"), n.b.add(Unary("abs"), x), n.scalar(1.5)))


def constants_along_rows(n: Net) -> Value:
    x = n.b.add(Binary("mul"), n.input(1, 3, 4, 2), n.weights(3, 1, 1))
    return n.b.add(Binary("add"), n.b.add(Binary("mul"), x, n.weights(4, 1)), n.weights(3, 4, 2))


BRANCHES: tuple[Callable[[Net], Value], ...] = (
    conv_relu, strided_conv, dilated_conv, conv_1d, depthwise_prelu, grouped_conv, pools, global_mean_dense, reductions,
    residual, softmax, norms, attention, stream_product, lstm, gru, rnn_last, movement, functions, constants_along_rows,
)


def graph_of(*branches: Callable[[Net], Value], seed: int = 0) -> Graph:
    """One graph with an output per branch."""
    n = Net(seed)
    return n.b.graph([branch(n) for branch in branches])


def random_network(seed: int) -> Graph:
    """A few layers of a convolutional network, with forks and joins, then a dense layer."""
    n = Net(seed)
    draw = n.rng.integers
    values = [n.input(1, int(draw(5, 9)), int(draw(5, 9)), int(draw(1, 4)))]
    for _ in range(int(draw(2, 6))):
        x = values[int(draw(max(0, len(values) - 2), len(values)))]
        h, w, c = x.type.static_shape[1:]
        same = [v for v in values if v.type == x.type and v is not x]
        kind = int(draw(0, 9))
        if kind <= 2:
            y = n.relu(n.conv(x, int(draw(1, 7)), k=int(draw(1, 4)), stride=int(draw(1, 3)), pad=1))
        elif kind == 3:
            y = n.conv(x, c, groups=c)
        elif kind == 4 and min(h, w) >= 3:
            y = n.pool(x, ("max", "avg")[int(draw(0, 2))], int(draw(2, 4)), int(draw(1, 3)))
        elif kind == 5 and same:
            y = n.b.add(Binary(("add", "sub", "max", "mul")[int(draw(0, 4))]), x, same[0])
        elif kind == 6:
            y = n.b.add(Unary(("sigmoid", "tanh")[int(draw(0, 2))]), x)
        elif kind == 7:
            y = n.b.add(Concat(3), x, n.relu(n.conv(x, 2)))
        else:
            y = n.b.add(Binary("mul"), x, n.weights(c))
        values.append(y)
    x = values[-1]
    flat = n.b.add(Reshape((1, x.type.size)), x)
    y = n.b.add(MatMul(), flat, n.weights(x.type.size, 3, scale=1.0 / x.type.size**0.5))
    if draw(0, 2):
        y = n.b.add(Softmax(1), y)
    return n.b.graph([y])
