"""Products with constant weights, and of two streams: convolutions, matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ...codegen.hls.body import BodyBuilder, Reg
from ...codegen.hls.channels import ChannelDot
from ...codegen.hls.dot import Dot, accumulator, sum_range
from ...codegen.hls.fixed import Fixed, covering, exact_constant, holding
from ...codegen.hls.product import Product
from ...codegen.hls.tensor import Tensor
from ...codegen.hls.window import Window
from ...ir.errors import ModelError
from ...ir.graph import Node, Value
from ...ir.ops import contract, window
from .elementwise import unsupported
from .lowering import Lowering
from .quantized import Coded, Source

_GRID_LENGTH, _GRID_PARTS = 4, 16

@dataclass(frozen=True, eq=False)
class Weights:
    """values: floats, or with steps the integers of a model that is quantized: values * steps[last axis]."""

    values: np.ndarray
    steps: np.ndarray | None = None


def weights_of(low: Lowering, v: Value) -> Weights | None:
    """A constant operand; None if it is a stream."""
    array, grid = low.constant(v), low.grids.get(v)
    if array is None:
        return None
    steps = None if grid is None else grid.per_output()
    if grid is not None and steps is not None:
        return Weights(grid.integers.astype(np.float64), steps)
    return Weights(array.astype(np.float64))


def dot(low: Lowering, node: Node, x: Coded, w: Weights, bias: np.ndarray, run_length: int) -> None:
    """w[K, O] and bias[O] as floats, applied to every K elements of x."""
    q, type, b, first = quantized_weights(low, w, bias, x)
    body, out, value = low.finish(node, first, len(q))
    low.env[value] = low.add(Dot(name=low.name("dot"), inputs=(x.tensor,), outputs=(out,), where=node.where, weights=q,
                                 weight_type=type, bias=b, body=body, run_length=run_length))


First = Callable[[BodyBuilder], "Reg | Source"]


def quantized_weights(
    low: Lowering, w: Weights, bias: np.ndarray, x: Coded
) -> tuple[np.ndarray, Fixed, np.ndarray, First]:
    """Weights [K, O] as integers [O, K], their type, the bias [O] in the accumulator, and what begins the body.

    Weights that are integers times one number per output, as quantized models have them, stay these integers: the sum is
    exact, and the number and the bias follow it.  So do weights on a stream of codes."""
    t = x.tensor.type
    rows = np.ascontiguousarray(w.values.T)
    if low.reloadable:
        return _exchangeable(low, rows, bias, x)
    found = (rows.astype(np.int64), w.steps) if w.steps is not None else on_a_grid(rows)
    if found is None and (x.zero or x.scale != t.step):
        q, type = exact_constant(rows, low.bits)
        found = q, np.full(len(q), type.step)
    if found is not None:
        integers, steps = found
        zeros = -x.zero * integers.sum(1)
        acc = accumulator(integers, zeros, t.low, t.high, 0)
        low_sum, high_sum = sum_range(integers, zeros, t)
        return (integers, holding(int(integers.min()), int(integers.max())), zeros,
                lambda b: Source(b.input(acc, low_sum, high_sum), x.scale * np.asarray(steps, np.float64), bias))
    q, type = exact_constant(rows, low.bits)
    frac = t.frac + type.frac
    b = Fixed(60, frac).quantize(bias) if np.any(bias) else np.zeros(len(bias), np.int64)
    acc = accumulator(q, b, t.low, t.high, frac)
    return q, type, b, lambda builder: builder.input(acc)


def _exchangeable(low: Lowering, rows: np.ndarray, bias: np.ndarray, x: Coded) -> tuple[np.ndarray, Fixed, np.ndarray, First]:
    """Weights in a type that reaches twice as far as they do, and an accumulator for any weights of that type and biases
    that are not larger than their sums."""
    t, reach = x.tensor.type, 2 * float(np.abs(rows).max(initial=1e-6))
    if x.zero or x.scale != t.step:
        raise ModelError("fpga: weights can be exchanged (--reloadable) in float models only; this one has codes of its own")
    type = covering(-reach, reach, low.bits)
    frac = t.frac + type.frac
    b = Fixed(60, frac).quantize(bias)
    most = rows.shape[1] * -type.low * max(-t.low, t.high)
    most += max(most, 2 * int(np.abs(b).max(initial=0)))
    return type.quantize(rows), type, b, lambda builder: builder.input(holding(-most, most, frac))


def on_a_grid(w: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Integers of at most 8 bits and a step per row whose products are the weights up to the rounding of f32, if there
    are such; rows that are too short to tell do not count."""
    if w.shape[1] < _GRID_LENGTH:
        return None
    integers, steps = np.zeros(w.shape, np.int64), np.ones(len(w))
    for row, values in enumerate(w):
        sizes = np.abs(values[values != 0])
        if sizes.size == 0:
            continue
        for part in range(1, _GRID_PARTS + 1):
            step = sizes.min() / part
            codes = values / step
            if np.abs(codes).max() <= 128 and np.abs(codes - np.rint(codes)).max() < 1e-4 * part:
                integers[row], steps[row] = np.rint(codes).astype(np.int64), step
                break
        else:
            return None
    return integers, steps


def matmul(low: Lowering, node: Node) -> None:
    left, right = node.inputs
    w = weights_of(low, right)
    shape = node.outputs[0].type.static_shape
    if w is not None and prod(w.values.shape[:-2]) == 1:
        k, outputs = w.values.shape[-2:]
        dot(low, node, low.operand(left), replace(w, values=w.values.reshape(k, outputs)), np.zeros(outputs), k)
        return
    if w is not None or low.constant(left) is not None:
        raise unsupported([node])
    x = low.spread(low.tensor(left), (*shape[:-2], *left.type.static_shape[-2:]), node.where)
    y = low.spread(low.tensor(right), (*shape[:-2], *right.type.static_shape[-2:]), node.where)
    k = x.shape[-1]
    reach = k * max(-x.type.low, x.type.high) * max(-y.type.low, y.type.high)
    acc = holding(-reach, reach, x.type.frac + y.type.frac)
    body, out, value = low.finish(node, lambda builder: builder.input(acc), 1)
    low.env[value] = low.add(Product(name=low.name("product"), inputs=(x, y), outputs=(out,), where=node.where, body=body))


def conv(low: Lowering, node: Node) -> None:
    op, x = node.op, low.operand(node.inputs[0])
    assert isinstance(op, contract.Conv)
    w = weights_of(low, node.inputs[1])
    bias = low.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(node.outputs[0].type.static_shape[-1])
    if w is None or bias is None or len(op.strides) > 2:
        raise unsupported([node])
    if any(op.pads):
        x = replace(x, tensor=low.reaching(x.tensor, x.zero, node.where))
    channels, outputs = x.tensor.shape[-1], w.values.shape[-1]
    kernel, bias = w.values.shape[:-2], bias.astype(np.float64)
    if op.groups == channels == outputs and channels > 1:
        depthwise(low, node, x, replace(w, values=w.values.reshape(-1, channels)), bias)
        return
    values = w.values
    if op.groups > 1:
        values = _dense_groups(values, op.groups)
        low.notes.append(f"{node.where}: a convolution in {op.groups} groups is computed with zeros between them")
    flat = replace(w, values=values.reshape(-1, outputs))
    if {*kernel, *op.strides} != {1} or any(op.pads):
        x = replace(x, tensor=cut_windows(low, node, x.tensor, op, kernel, x.zero, False))
    dot(low, node, x, flat, bias, channels)


def _dense_groups(w: np.ndarray, groups: int) -> np.ndarray:
    """w[*k, C / groups, O] with zeros where a group does not read."""
    *kernel, per, outputs = w.shape
    dense = np.zeros((*kernel, per * groups, outputs))
    step = outputs // groups
    for g in range(groups):
        dense[..., g * per:(g + 1) * per, g * step:(g + 1) * step] = w[..., g * step:(g + 1) * step]
    return dense


def cut_windows(
    low: Lowering, node: Node, x: Tensor, op: contract.Conv | window.Pool, kernel: tuple[int, ...], fill: int, by_channel: bool
) -> Tensor:
    """The stream of windows.  One spatial dimension becomes rows of a single pixel."""
    rank = len(op.strides)
    n, *spatial, c = x.shape
    size = node.outputs[0].type.static_shape[1:-1]
    two = (1,) if rank == 1 else ()
    image = x.reshaped((n, *spatial, *two, c))
    k, s, d = ((*kernel, *two), (*op.strides, *two), (*op.dilations, *two))
    before = (*op.pads[:rank], *(0 for _ in two))
    reach = (k[0] - 1) * d[0] + 1
    if before[0] > reach:  # more border than a window spans: the rows that see nothing are added by a pick
        raise unsupported([node])
    out = Tensor(x.name + "_windows", (n, *size, *two, prod(k) * c), x.type)
    return low.add(Window(name=low.name("window"), inputs=(image,), outputs=(out,), where=node.where, kernel=(k[0], k[1]),
                          strides=(s[0], s[1]), dilations=(d[0], d[1]), before=(before[0], before[1]),
                          size=(out.shape[1], out.shape[2]), fill=fill, by_channel=by_channel))


def depthwise(low: Lowering, node: Node, x: Coded, w: Weights, bias: np.ndarray) -> None:
    """w[taps, C]."""
    op = node.op
    assert isinstance(op, contract.Conv)
    kernel = node.inputs[1].type.static_shape[:-2]
    q, type, b, first = quantized_weights(low, w, bias, x)
    windows = cut_windows(low, node, x.tensor, op, kernel, x.zero, True)
    body, out, value = low.finish(node, first, len(bias))
    low.env[value] = low.add(ChannelDot(
        name=low.name("depthwise"), inputs=(windows,), outputs=(out,), where=node.where, fn="dot", taps=q.shape[1], body=body,
        weights=np.ascontiguousarray(q.T), weight_type=type, bias=b,
    ))


