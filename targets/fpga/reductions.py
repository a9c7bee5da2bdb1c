"""Pools, reductions, softmax, normalisation."""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt

import numpy as np

from ...codegen.hls.body import BodyBuilder, Reg
from ...codegen.hls.channels import ChannelDot
from ...codegen.hls.fixed import covering, holding
from ...codegen.hls.rows import Norm, Reduce, Softmax, norm_shape
from ...codegen.hls.tensor import Tensor
from ...ir.graph import Node
from ...ir.ops import norm, reduce, window
from .cells import exp_table
from .elementwise import unsupported
from .lowering import Lowering
from .products import cut_windows
from .quantized import Source


def pool(low: Lowering, node: Node) -> None:
    op, x = node.op, low.operand(node.inputs[0])
    assert isinstance(op, window.Pool)
    if len(op.strides) > 2:
        raise unsupported([node])
    if op.fn == "avg" and any(op.pads):
        x = replace(x, tensor=low.reaching(x.tensor, x.zero, node.where))
    t, taps, shape = x.tensor.type, prod(op.kernel_shape), node.outputs[0].type.static_shape
    if op.kernel_shape == x.tensor.shape[1:-1] and not any(op.pads):
        reduce_rows(low, node, "mean" if op.fn == "avg" else "max", list(range(1, len(x.tensor.shape) - 1)))
        return
    is_max = op.fn == "max"
    windows = cut_windows(low, node, x.tensor, op, op.kernel_shape, t.low if is_max else x.zero, True)
    low_sum, high_sum = (t.low, t.high) if is_max else (taps * t.low, taps * t.high)

    def first(b: BodyBuilder) -> Reg | Source:
        frac = 0 if node.inputs[0] in low.codes else t.frac
        acc = b.input(holding(low_sum, high_sum, frac), low_sum, high_sum)
        if is_max:
            return acc
        counts = _window_counts(op, x.tensor.shape, shape)
        if node.inputs[0] in low.codes:
            return Source(acc, x.scale / counts, -taps * x.zero * x.scale / counts)
        return b.binary("mul", acc, b.constant(1.0 / counts, max(low.bits, 16)))

    varies = not is_max and not op.count_include_pad and any(op.pads)
    if is_max and node.inputs[0] in low.codes:
        b = BodyBuilder()
        body, out, value = b.body(first(b)), Tensor(node.outputs[0].name, shape, t), node.outputs[0]  # type: ignore[arg-type]
        low.codes[value] = replace(x, tensor=out)
    else:
        body, out, value = low.finish(node, first, 0 if varies else shape[-1])
        low.env[value] = out
    low.add(ChannelDot(name=low.name("pool"), inputs=(windows,), outputs=(out,), where=node.where,
                       fn="max" if is_max else "sum", taps=taps, body=body))


def _window_counts(op: window.Pool, shape: tuple[int, ...], out: tuple[int, ...]) -> np.ndarray:
    """By how much each sum is divided: a scalar, or per element of the result if the border does not count."""
    if op.count_include_pad or not any(op.pads):
        return np.array(float(prod(op.kernel_shape)))
    total = np.ones(())
    for d, n in enumerate(shape[1:-1]):
        at = np.arange(out[d + 1])[:, None] * op.strides[d] - op.pads[d] + np.arange(op.kernel_shape[d]) * op.dilations[d]
        total = total[..., None] * ((at >= 0) & (at < n)).sum(1)
    return np.broadcast_to(total[None, ..., None], out).astype(np.float64)


def reduction(low: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, reduce.Reduce)
    reduce_rows(low, node, op.fn, sorted(op.axes))


def reduce_rows(low: Lowering, node: Node, name: str, all_axes: list[int]) -> None:
    """name: sum, mean, max or min; the axes must be neighbours."""
    coded = low.operand(node.inputs[0])
    x, is_code = coded.tensor, node.inputs[0] in low.codes
    axes = [d for d in all_axes if x.shape[d] > 1]
    between = [d for d in range(axes[0], axes[-1] + 1) if x.shape[d] > 1] if axes else []
    if name == "prod" or between != axes:
        raise unsupported([node])
    shape = node.outputs[0].type.static_shape
    first, last = (axes[0], axes[-1] + 1) if axes else (0, 0)
    count = prod(x.shape[first:last])
    fn = "sum" if name == "mean" else name
    scale = count if fn == "sum" else 1

    def begin(b: BodyBuilder) -> Reg | Source:
        acc = b.input(holding(scale * x.type.low, scale * x.type.high, x.type.frac), scale * x.type.low, scale * x.type.high)
        if is_code:
            step = coded.scale / count if name == "mean" else coded.scale
            return Source(acc, np.array([step]), np.array([-scale * coded.zero * step]))
        return b.binary("mul", acc, b.constant(np.array(1.0 / count), max(low.bits, 16))) if name == "mean" else acc

    inner = prod(x.shape[last:])
    body, out, value = low.finish(node, begin, inner if shape and shape[-1] == inner else 1)
    low.env[value] = low.add(Reduce(name=low.name("reduce"), inputs=(x,), outputs=(out,), where=node.where, fn=fn,
                                    outer=prod(x.shape[:first]), count=count, inner=inner, body=body))


def softmax(low: Lowering, node: Node) -> None:
    x = low.tensor(node.inputs[0])
    table = exp_table(low, x.type)
    out = Tensor(node.outputs[0].name, x.shape, covering(0.0, 1.0, low.bits + 1))
    low.env[node.outputs[0]] = low.add(Softmax(name=low.name("softmax"), inputs=(x,), outputs=(out,), where=node.where,
                                               table=table))


def _of_one_row(factors: np.ndarray | None, row: tuple[int, ...]) -> np.ndarray | None:
    """Constants that are the same for every row, without the dimensions in front; None for others."""
    if factors is None or factors.ndim <= len(row):
        return factors
    front = factors.ndim - len(row)
    return factors.reshape(factors.shape[front:]) if all(n == 1 for n in factors.shape[:front]) else None


def normalise(low: Lowering, node: Node) -> None:
    op, x = node.op, low.tensor(node.inputs[0])
    assert isinstance(op, (norm.LayerNorm, norm.RmsNorm))
    shape = x.shape
    length = prod(shape[op.axis:])
    scale = _of_one_row(low.constant(node.inputs[1]), shape[op.axis:])
    bias = _of_one_row(low.constant(node.inputs[2]), shape[op.axis:]) if len(node.inputs) > 2 else np.zeros(1)
    if scale is None or bias is None:
        raise unsupported([node])
    reach = sqrt(length)
    scaled = covering(-reach, reach, low.bits + 3)
    lift, epsilon, drop = norm_shape(length, x.type, op.epsilon, scaled)

    def first(b: BodyBuilder) -> Reg:
        y = b.input(scaled)
        gain = np.broadcast_to(scale, shape[op.axis:])
        if not np.all(gain == 1):
            y = b.binary("mul", y, b.constant(_short(gain), low.bits))
        offset = np.broadcast_to(bias, shape[op.axis:]) if bias.size > 1 else bias
        return b.binary("add", y, b.constant(_short(offset), low.bits)) if np.any(offset) else y

    body, out, value = low.finish(node, first, length)
    rows = x.reshaped((x.size // length, length))
    low.env[value] = low.add(Norm(name=low.name("norm"), inputs=(rows,), outputs=(out,), where=node.where, body=body,
                                  epsilon=epsilon, lift=lift, drop=drop, centre=isinstance(op, norm.LayerNorm)))


def _short(a: np.ndarray) -> np.ndarray:
    return a.ravel()[:1] if np.all(a == a.ravel()[0]) else a


