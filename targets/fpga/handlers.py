"""One function per operator: what hardware it becomes.  `HANDLERS` is the table."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import numpy as np

from ...codegen.hls.body import BodyBuilder, Reg
from ...codegen.hls.design import Tensor
from ...codegen.hls.dot import ChannelDot, Dot, accumulator
from ...codegen.hls.elementwise import Map
from ...codegen.hls.fixed import Fixed, covering, exact_constant, holding
from ...codegen.hls.product import Product
from ...codegen.hls.route import Concat, Permute, permutation
from ...codegen.hls.rows import Norm, Reduce, Softmax, norm_shape
from ...codegen.hls.window import Window
from ...ir.graph import Node
from ...ir.ops import contract, movement, norm, recurrent, reduce, window
from ...ir.ops.base import Op
from .cells import attention, exp_table, recurrent_cell
from .elementwise import unsupported
from .lowering import Lowering

_SCALE_BITS = 26  # of the numbers behind sums of quantized weights
_GRID_LENGTH, _GRID_PARTS = 4, 16

# -- products


def dot(low: Lowering, node: Node, x: Tensor, w: np.ndarray, bias: np.ndarray, run_length: int) -> None:
    """w[O, K] and bias[O] as floats, applied to every K elements of x."""
    q, type, b, first = quantized_weights(low, w, bias, x.type)
    body, out, value = low.finish(node, first, len(w))
    low.env[value] = low.add(Dot(name=low.name("dot"), inputs=(x,), outputs=(out,), where=node.where, weights=q,
                                 weight_type=type, bias=b, body=body, run_length=run_length))


First = Callable[[BodyBuilder], Reg]


def quantized_weights(
    low: Lowering, w: np.ndarray, bias: np.ndarray, x: Fixed
) -> tuple[np.ndarray, Fixed, np.ndarray, First]:
    """Weights [O, K] and bias [O] as integers, the weights' type, and what begins the body.

    Weights that are integers times one number per row, as quantized models have them, stay these integers: the sum is
    exact, and the number and the bias follow it."""
    found = on_a_grid(w)
    if found is not None:
        integers, steps = found
        zero = np.zeros(len(bias), np.int64)
        acc = accumulator(integers, zero, x.low, x.high, x.frac)

        def scaled(b: BodyBuilder) -> Reg:
            y = b.binary("mul", b.input(acc), b.constant(_short(steps), _SCALE_BITS))
            return b.binary("add", y, b.constant(_short(bias), _SCALE_BITS)) if np.any(bias) else y

        return integers, holding(int(integers.min()), int(integers.max())), zero, scaled
    q, type = exact_constant(w, low.bits)
    frac = x.frac + type.frac
    b = Fixed(60, frac).quantize(bias) if np.any(bias) else np.zeros(len(bias), np.int64)
    acc = accumulator(q, b, x.low, x.high, frac)
    return q, type, b, lambda builder: builder.input(acc)


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
    a, b = low.constant(left), low.constant(right)
    shape = node.outputs[0].type.static_shape
    if b is not None and prod(b.shape[:-2]) == 1:
        w = b.reshape(b.shape[-2:]).T.astype(np.float64)
        dot(low, node, low.tensor(left), w, np.zeros(len(w)), w.shape[1])
        return
    if a is not None or b is not None:
        raise unsupported([node])
    x = low.spread(low.tensor(left), (*shape[:-2], *left.type.static_shape[-2:]), node.where)
    y = low.spread(low.tensor(right), (*shape[:-2], *right.type.static_shape[-2:]), node.where)
    k = x.shape[-1]
    reach = k * max(-x.type.low, x.type.high) * max(-y.type.low, y.type.high)
    acc = holding(-reach, reach, x.type.frac + y.type.frac)
    body, out, value = low.finish(node, lambda builder: builder.input(acc), 1)
    low.env[value] = low.add(Product(name=low.name("product"), inputs=(x, y), outputs=(out,), where=node.where, body=body))


def conv(low: Lowering, node: Node) -> None:
    op, x = node.op, low.tensor(node.inputs[0])
    assert isinstance(op, contract.Conv)
    w = low.constant(node.inputs[1])
    bias = low.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(node.outputs[0].type.static_shape[-1])
    if w is None or bias is None or len(op.strides) > 2:
        raise unsupported([node])
    channels, outputs = x.shape[-1], w.shape[-1]
    w, bias = w.astype(np.float64), bias.astype(np.float64)
    if op.groups == channels == outputs and channels > 1:
        depthwise(low, node, x, w.reshape(-1, channels), bias)
        return
    if op.groups > 1:
        w = _dense_groups(w, op.groups)
        low.notes.append(f"{node.where}: a convolution in {op.groups} groups is computed with zeros between them")
    flat = np.moveaxis(w, -1, 0).reshape(outputs, -1)
    if set(w.shape[:-2]) | set(op.strides) == {1} and not any(op.pads):
        dot(low, node, x, flat, bias, channels)
        return
    dot(low, node, cut_windows(low, node, x, op, w.shape[:-2], 0, False), flat, bias, channels)


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


def depthwise(low: Lowering, node: Node, x: Tensor, w: np.ndarray, bias: np.ndarray) -> None:
    op = node.op
    assert isinstance(op, contract.Conv)
    kernel = node.inputs[1].type.static_shape[:-2]
    q, type, b, first = quantized_weights(low, w.T, bias, x.type)
    windows = cut_windows(low, node, x, op, kernel, 0, True)
    body, out, value = low.finish(node, first, len(bias))
    low.env[value] = low.add(ChannelDot(
        name=low.name("depthwise"), inputs=(windows,), outputs=(out,), where=node.where, fn="dot", taps=len(w), body=body,
        weights=np.ascontiguousarray(q.T), weight_type=type, bias=b,
    ))


def pool(low: Lowering, node: Node) -> None:
    op, x = node.op, low.tensor(node.inputs[0])
    assert isinstance(op, window.Pool)
    if len(op.strides) > 2:
        raise unsupported([node])
    taps, shape = prod(op.kernel_shape), node.outputs[0].type.static_shape
    if op.kernel_shape == x.shape[1:-1] and not any(op.pads):
        reduce_rows(low, node, x, "mean" if op.fn == "avg" else "max", list(range(1, len(x.shape) - 1)))
        return
    is_max = op.fn == "max"
    windows = cut_windows(low, node, x, op, op.kernel_shape, x.type.low if is_max else 0, True)
    low_sum, high_sum = (x.type.low, x.type.high) if is_max else (taps * x.type.low, taps * x.type.high)

    def first(b: BodyBuilder) -> Reg:
        acc = b.input(holding(low_sum, high_sum, x.type.frac), low_sum, high_sum)
        if is_max:
            return acc
        return b.binary("mul", acc, b.constant(1.0 / _window_counts(op, x.shape, shape), max(low.bits, 16)))

    varies = not is_max and not op.count_include_pad and any(op.pads)
    body, out, value = low.finish(node, first, 0 if varies else shape[-1])
    low.env[value] = low.add(ChannelDot(name=low.name("pool"), inputs=(windows,), outputs=(out,), where=node.where,
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


# -- rows


def reduction(low: Lowering, node: Node) -> None:
    op, x = node.op, low.tensor(node.inputs[0])
    assert isinstance(op, reduce.Reduce)
    reduce_rows(low, node, x, op.fn, sorted(op.axes))


def reduce_rows(low: Lowering, node: Node, x: Tensor, name: str, all_axes: list[int]) -> None:
    """name: sum, mean, max or min; the axes must be neighbours."""
    axes = [d for d in all_axes if x.shape[d] > 1]
    between = [d for d in range(axes[0], axes[-1] + 1) if x.shape[d] > 1] if axes else []
    if name == "prod" or between != axes:
        raise unsupported([node])
    shape = node.outputs[0].type.static_shape
    first, last = (axes[0], axes[-1] + 1) if axes else (0, 0)
    count = prod(x.shape[first:last])
    fn = "sum" if name == "mean" else name
    scale = count if fn == "sum" else 1

    def begin(b: BodyBuilder) -> Reg:
        acc = b.input(holding(scale * x.type.low, scale * x.type.high, x.type.frac), scale * x.type.low, scale * x.type.high)
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


def normalise(low: Lowering, node: Node) -> None:
    op, x = node.op, low.tensor(node.inputs[0])
    assert isinstance(op, (norm.LayerNorm, norm.RmsNorm))
    shape = x.shape
    length = prod(shape[op.axis:])
    scale = low.constant(node.inputs[1])
    bias = low.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
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


# -- movement


def reshape(low: Lowering, node: Node) -> None:
    low.env[node.outputs[0]] = low.tensor(node.inputs[0]).reshaped(node.outputs[0].type.static_shape)


def transpose(low: Lowering, node: Node) -> None:
    op, x = node.op, low.tensor(node.inputs[0])
    assert isinstance(op, movement.Transpose)
    shape = node.outputs[0].type.static_shape
    moved = [d for d in op.perm if x.shape[d] > 1]
    if moved == sorted(moved):
        low.env[node.outputs[0]] = x.reshaped(shape)
        return
    outer, block, perm, inner = permutation(x.shape, op.perm)
    low.env[node.outputs[0]] = low.add(Permute(
        name=low.name("permute"), inputs=(x,), outputs=(Tensor(node.outputs[0].name, shape, x.type),), where=node.where,
        outer=outer, block=block, perm=perm, inner=inner,
    ))


def slice_(low: Lowering, node: Node) -> None:
    op, t = node.op, low.tensor(node.inputs[0])
    assert isinstance(op, movement.Slice)
    size = node.outputs[0].type.static_shape
    for d, (start, step) in enumerate(zip(op.starts, op.steps, strict=True)):
        index = [int(start) + i * step for i in range(size[d])]  # type: ignore[call-overload]
        t = low.pick(t, d, index, (*t.shape[:d], size[d], *t.shape[d + 1:]), where=node.where)
    low.env[node.outputs[0]] = t


def pad(low: Lowering, node: Node) -> None:
    op, t = node.op, low.tensor(node.inputs[0])
    assert isinstance(op, movement.Pad)
    fill = 0
    if op.mode == "constant":
        value = low.constant(node.inputs[1])
        if value is None:
            raise unsupported([node])
        fill = int(t.type.quantize(value.astype(np.float64).ravel())[0])
    for d, (before, after) in enumerate(zip(op.before, op.after, strict=True)):
        inside = np.arange(t.shape[d])
        if op.mode == "constant":
            index = np.pad(inside, (int(before), int(after)), constant_values=-1)  # type: ignore[call-overload]
        else:
            index = np.pad(inside, (int(before), int(after)), op.mode)  # type: ignore[call-overload]
        t = low.pick(t, d, index, (*t.shape[:d], len(index), *t.shape[d + 1:]), fill, node.where)
    low.env[node.outputs[0]] = t


def gather(low: Lowering, node: Node) -> None:
    op, t = node.op, low.tensor(node.inputs[0])
    assert isinstance(op, movement.Gather)
    index = low.constant(node.inputs[1])
    if index is None:
        raise unsupported([node])
    flat = np.where(index < 0, index + t.shape[op.axis], index).ravel()
    low.env[node.outputs[0]] = low.pick(t, op.axis, flat, node.outputs[0].type.static_shape, where=node.where)


def broadcast(low: Lowering, node: Node) -> None:
    low.env[node.outputs[0]] = low.spread(low.tensor(node.inputs[0]), node.outputs[0].type.static_shape, node.where)


def concat(low: Lowering, node: Node) -> None:
    """Operands of other types are rounded to the type of the result first, by maps of their own."""
    op = node.op
    assert isinstance(op, movement.Concat)
    parts = [low.tensor(v) for v in node.inputs]
    v = node.outputs[0]
    type = parts[0].type
    if len({t.type for t in parts}) > 1:
        type = low.types.of(v)
        parts = [retyped(low, t, type, node.where) for t in parts]
        type = holding(min(t.type.low for t in parts), max(t.type.high for t in parts), type.frac)
    shape = v.type.static_shape
    low.env[v] = low.add(Concat(name=low.name("concat"), inputs=tuple(parts), outputs=(Tensor(v.name, shape, type),),
                                where=node.where, outer=prod(shape[:op.axis])))


def retyped(low: Lowering, t: Tensor, type: Fixed, where: str) -> Tensor:
    """The tensor in the units of a type."""
    b = BodyBuilder()
    result = b.round(b.input(t.type), type)
    if result.type == t.type:
        return t
    out = Tensor(t.name, t.shape, result.type)
    return low.add(Map(name=low.name("map"), inputs=(t,), outputs=(out,), where=where, body=b.body(result)))


HANDLERS: dict[type[Op], Callable[[Lowering, Node], None]] = {
    contract.MatMul: matmul, contract.Conv: conv, window.Pool: pool, reduce.Reduce: reduction, norm.Softmax: softmax,
    norm.LayerNorm: normalise, norm.RmsNorm: normalise, norm.Attention: attention, recurrent.Lstm: recurrent_cell,
    recurrent.Gru: recurrent_cell, recurrent.Rnn: recurrent_cell, movement.Reshape: reshape, movement.Transpose: transpose,
    movement.Slice: slice_, movement.Pad: pad, movement.Gather: gather, movement.Broadcast: broadcast, movement.Concat: concat,
}
