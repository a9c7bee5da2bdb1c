"""Products, convolutions, windows, normalizations and recurrent operators."""

from __future__ import annotations

import numpy as np

from fuzz.draw import F16, F32, F64, I32, Draw, Operand, Refused, Tensor
from fuzz.operators_shape import some_axes


def weights(d: Draw, *shape: int, dtype: np.dtype = F32) -> Tensor:
    """Small ones, so that sums stay small."""
    return d.operand(d.array(shape, dtype, -6, 6))


def matmul(d: Draw, op: str) -> None:
    x = d.value((F32, F32, F64, F16, I32) if d.opset >= 9 else (F32, F64), lambda t: t.rank >= 1 and t.value.size > 0)
    n = x.shape[-1]
    if x.rank == 1:
        shape = d.pick(((n,), (n, 3)))
    else:
        batch = tuple(d.pick((1, m)) for m in x.shape[:-2])[d.int(0, max(0, x.rank - 2)) :]
        shape = (*(batch if d.chance(0.5) else ()), n, d.pick((1, 2, 5, 8, 16, 33)))
    y = d.pick([t for t in d.values if t.dtype == x.dtype and t.rank == 2 and t.shape[0] == n] or [None])
    y = y if y is not None and d.chance(0.4) else weights(d, *shape, dtype=x.dtype)
    d.node(op, x, y, exact=True)


def gemm(d: Draw, op: str) -> None:
    x = d.value((F32, F32, F64), lambda t: t.rank == 2 and t.value.size > 0)
    trans_a, trans_b = d.int(0, 1), d.int(0, 1)
    m, k = x.shape[::-1] if trans_a else x.shape
    n = d.pick((1, 3, 8, 17))
    w = weights(d, *((n, k) if trans_b else (k, n)), dtype=x.dtype)
    c = d.pick(((n,), (m, n), (1, n), (m, 1), (1,), None if d.opset >= 11 else (n,)))
    bias = (weights(d, *c, dtype=x.dtype),) if c is not None else ()
    extra = {"alpha": d.pick((1.0, 0.5, 2.0)), "beta": d.pick((1.0, 0.5, 0.0))} if d.chance(0.5) else {}
    d.node(op, x, w, *bias, transA=trans_a, transB=trans_b, exact=True, **extra)


def einsum(d: Draw, op: str) -> None:
    x = d.value((F32, F64), lambda t: t.rank == 3 and t.value.size > 0)
    b, i, j = x.shape
    equation, shape = d.pick((
        ("bij,bjk->bik", (b, j, 3)), ("bij,kj->bik", (2, j)), ("bij,bij->b", (b, i, j)), ("bij,j->bi", (j,)),
        ("...ij,jk->...ik", (j, 2)), ("bij,bkj->bki", (b, 2, j)), ("bij,i->bj", (i,)),
    ))  # fmt: skip
    d.node(op, x, weights(d, *shape, dtype=x.dtype), equation=equation, exact=True)


def window(d: Draw, sizes: tuple[int, ...], ceil: bool) -> dict[str, object]:
    """Kernel, strides, pads and dilations that fit spatial sizes."""
    kernel = [d.int(1, min(n, 4)) for n in sizes]
    extra: dict[str, object] = {"kernel_shape": kernel}
    if d.chance(0.6):
        extra["strides"] = [d.int(1, 3) for _ in sizes]
    form = d.int(0, 3)
    if form == 1:
        extra["pads"] = [d.int(0, k - 1) for k in kernel] + [d.int(0, k - 1) for k in kernel]
    elif form == 2:
        extra["auto_pad"] = d.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
    if d.chance(0.25) and form != 2:
        extra["dilations"] = [2 if n >= 2 * k - 1 and d.chance(0.5) else 1 for n, k in zip(sizes, kernel, strict=True)]
    if ceil and d.opset >= 10 and d.chance(0.3) and "auto_pad" not in extra:
        extra["ceil_mode"] = 1
    return extra


def image(d: Draw, dtypes: tuple[np.dtype, ...] = (F32,), channels: int = 0) -> Tensor:
    """[N, C, *sizes] with 1 to 3 sizes."""
    def fits(t: Tensor) -> bool:
        return 3 <= t.rank <= 5 and t.value.size > 0 and (not channels or t.shape[1] == channels)

    if d.chance(0.3) or not any(fits(t) and t.dtype in dtypes for t in d.values):
        sizes = d.pick(((7,), (6, 5), (9, 9), (8, 8), (4, 3, 5), (12, 7)))
        return d.input(d.array((d.int(1, 2), channels or d.pick((1, 2, 3, 4, 8, 16)), *sizes), d.pick(dtypes)))
    return d.value(dtypes, fits)


def convolution(d: Draw, op: str) -> None:
    x = image(d, (F32, F32, F64))
    channels, sizes = x.shape[1], x.shape[2:]
    groups = d.pick([g for g in (1, 1, 2, channels) if channels % g == 0])
    outputs = groups * d.pick((1, 2, 3, 4))
    extra = window(d, sizes, False)
    w = weights(d, outputs, channels // groups, *extra["kernel_shape"], dtype=x.dtype)  # type: ignore[misc]
    bias = (weights(d, outputs, dtype=x.dtype),) if d.chance(0.5) else ()
    d.node(op, x, w, *bias, group=groups, exact=True, **extra)


def transposed(d: Draw, op: str) -> None:
    x = image(d, (F32, F64))
    channels, sizes = x.shape[1], x.shape[2:]
    groups = d.pick([g for g in (1, 2, channels) if channels % g == 0])
    kernel = [d.int(1, 3) for _ in sizes]
    strides = [d.int(1, 3) for _ in sizes]
    extra: dict[str, object] = {"kernel_shape": kernel, "strides": strides, "group": groups}
    if d.chance(0.5):
        extra["pads"] = [d.int(0, (k - 1) // 2) for k in kernel] * 2
        extra["output_padding"] = [d.int(0, s - 1) for s in strides]
    elif d.chance(0.4):
        extra["auto_pad"] = d.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
        extra["strides"] = [min(s, k) for s, k in zip(strides, kernel, strict=True)]  # beyond that the standard is silent
    if d.chance(0.2):
        extra["dilations"] = [d.int(1, 2) for _ in sizes]
    per_group = d.int(1, 3)
    w = weights(d, channels, per_group, *kernel, dtype=x.dtype)
    bias = (weights(d, groups * per_group, dtype=x.dtype),) if d.chance(0.5) else ()
    d.node(op, x, w, *bias, exact=True, **extra)


def pool(d: Draw, op: str) -> None:
    x = image(d, (F32, F64))
    extra = window(d, x.shape[2:], True)
    if op == "AveragePool" or (op == "LpPool" and d.opset < 18):
        if d.opset < 19:
            extra.pop("dilations", None)
        if op == "LpPool":
            extra.pop("ceil_mode", None)
    elif op == "MaxPool" and d.opset < 10:
        extra.pop("dilations", None)
    if op == "AveragePool" and d.chance(0.4):
        extra["count_include_pad"] = 1
    if op == "MaxPool":
        d.node(op, x, exact=True, outputs=2 if x.exact and d.opset >= 8 and d.chance(0.3) else 1, **extra)
    else:
        d.node(op, x, **({"p": d.int(1, 3)} if op == "LpPool" else {}), **extra)


def global_pool(d: Draw, op: str) -> None:
    d.node(op, image(d, (F32, F64)), exact=op == "GlobalMaxPool")


def batch_norm(d: Draw, op: str) -> None:
    x = image(d, (F32, F64))
    n = x.shape[1]
    scale, bias, mean = (weights(d, n, dtype=x.dtype) for _ in range(3))
    var = d.const(np.abs(d.array((n,), x.dtype)) + x.dtype.type(0.5))
    d.node(op, x, scale, bias, mean, var, epsilon=d.pick((1e-5, 1e-3)))


def channel_norm(d: Draw, op: str) -> None:
    x = image(d)
    n = x.shape[1]
    if op == "InstanceNormalization":
        d.node(op, x, weights(d, n), weights(d, n), epsilon=1e-2)
    elif op == "GroupNormalization":
        groups = d.pick([g for g in (1, 2, 4) if n % g == 0])
        size = n if d.opset >= 21 else groups
        d.node(op, x, weights(d, size), weights(d, size), num_groups=groups, epsilon=1e-2)
    elif op == "LRN":
        d.node(op, x, size=d.pick((1, 3, 5)), alpha=1e-2, beta=0.75, bias=1.0)
    else:
        d.node(op, x, axes=[0, *range(2, x.rank)])


def last_norm(d: Draw, op: str) -> None:
    x = d.value((F32, F32, F64), lambda t: t.rank >= 1 and t.value.size > 0 and t.shape[-1] > 1)
    axis = d.int(max(-x.rank, -2), -1)
    operands: tuple[Operand, ...] = (weights(d, *x.shape[axis:], dtype=x.dtype),)
    if op == "LayerNormalization" and d.chance(0.6):
        operands = (*operands, weights(d, *x.shape[axis:], dtype=x.dtype))
    if op == "LpNormalization":
        d.node(op, x, axis=d.int(-x.rank, -1), p=d.int(1, 2))
    else:
        d.node(op, x, *operands, axis=axis, epsilon=1e-2)


def softmax(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank >= 1 and t.value.size > 0, exact=op == "Hardmax")
    d.node(op, x, axis=d.int(0 if d.opset < 11 else -x.rank, x.rank - 1), exact=op == "Hardmax")


def recurrent(d: Draw, op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    x = d.value((F32,), lambda t: t.rank == 3 and 0 < t.value.size <= 600)
    steps, batch, size = x.shape
    hidden, direction = d.pick((1, 3, 4, 8)), d.pick(("forward", "reverse", "bidirectional"))
    n = 2 if direction == "bidirectional" else 1
    operands: list[Operand] = [x, weights(d, n, gates * hidden, size), weights(d, n, gates * hidden, hidden)]
    operands.append(weights(d, n, 2 * gates * hidden) if d.chance(0.6) else None)
    lengths = d.chance(0.3)
    operands.append(d.operand(d.rng.integers(1, steps + 1, (batch,)).astype(np.int32)) if lengths else None)
    operands.append(weights(d, n, batch, hidden) if d.chance(0.4) else None)
    extra: dict[str, object] = {"hidden_size": hidden, "direction": direction}
    if op == "LSTM":
        operands.append(weights(d, n, batch, hidden) if d.chance(0.4) else None)
        operands.append(weights(d, n, 3 * hidden) if d.chance(0.3) else None)
        extra |= {"input_forget": 1} if d.chance(0.2) else {}
    if op == "GRU":
        extra["linear_before_reset"] = d.int(0, 1)
    if d.chance(0.2):
        extra["clip"] = 2.0
    while operands[-1] is None:
        operands.pop()
    d.node(op, *operands, outputs=3 if op == "LSTM" else 2, **extra)


def resize(d: Draw, op: str) -> None:
    x = image(d)
    sizes = x.shape[2:]
    if op == "Upsample" or d.opset < 11:
        scales = d.const([1, 1, *(d.pick((1, 2, 3)) for _ in sizes)], F32)
        mode = d.pick(("nearest", "linear")) if len(sizes) == 2 else "nearest"
        if op == "Upsample" and d.opset < 9:
            d.node(op, x, mode=mode, scales=[float(s) for s in scales.value])
        else:
            d.node(op, x, scales, mode=mode)
        return
    mode = d.pick(("nearest", "linear", "cubic") if len(sizes) == 2 else ("nearest", "linear"))
    extra: dict[str, object] = {"mode": mode}
    extra["coordinate_transformation_mode"] = d.pick(("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"))
    if mode == "nearest":
        extra["nearest_mode"] = d.pick(("round_prefer_floor", "floor", "ceil", "round_prefer_ceil"))
        extra["coordinate_transformation_mode"] = d.pick(("half_pixel", "asymmetric"))
    roi = d.const(np.zeros(0, np.float32)) if d.opset < 13 else None
    if d.chance(0.5):
        scales = d.const([1, 1, *(d.pick((0.5, 1, 1.5, 2, 3)) for _ in sizes)], F32)
        d.node(op, x, roi, scales, **extra)
    else:
        empty = d.const(np.zeros(0, np.float32)) if d.opset < 13 else None
        d.node(op, x, roi, empty, d.ints([*x.shape[:2], *(d.int(1, 2 * n) for n in sizes)]), **extra)


def attention(d: Draw, op: str) -> None:
    heads, size, rows, columns = d.pick((1, 2, 4)), d.pick((4, 8, 16)), d.int(1, 6), d.int(1, 9)
    batch, shared = d.int(1, 2), d.pick((1, heads))
    q, k, v = (d.operand(d.array((batch, h, n, size), F32)) for h, n in ((heads, rows), (shared, columns), (shared, columns)))
    mask = (d.operand(d.array((rows, columns), F32)),) if d.chance(0.3) else ()
    d.node(op, q, k, v, *mask, **({"is_causal": 1} if d.chance(0.4) else {}), **({"softcap": 2.0} if d.chance(0.2) else {}))


def determinant(d: Draw, op: str) -> None:
    n = d.int(1, 4)
    d.node(op, d.operand(d.array((*d.shape(0, 1), n, n), F32) + np.eye(n, dtype=np.float32) * 4))


def grid_sample(d: Draw, op: str) -> None:
    x = d.input(d.array((1, d.int(1, 3), d.int(2, 6), d.int(2, 6)), F32))
    grid = d.operand((d.rng.uniform(-1.1, 1.1, (1, d.int(1, 4), d.int(1, 4), 2))).astype(np.float32))
    mode = d.pick(("bilinear", "bicubic")) if d.opset < 20 else d.pick(("linear", "cubic"))
    d.node(op, x, grid, mode=mode, padding_mode=d.pick(("zeros", "border", "reflection")), align_corners=d.int(0, 1))


def mean_variance(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank >= 2 and t.value.size > 4)
    axes = tuple(sorted({a % x.rank for a in some_axes(d, x.rank)}))
    if x.value.std(axes).min() < 0.05:
        raise Refused("rounding divided by rounding")
    d.node(op, x, axes=list(axes))


def negative_log_likelihood(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank >= 2 and t.value.size > 0)
    if not x.value.size:
        raise Refused("empty")
    classes = d.rng.integers(0, x.shape[1], (x.shape[0], *x.shape[2:])).astype(np.int64)
    weight = (d.const(np.abs(d.array((x.shape[1],), F32)) + np.float32(0.5)),) if d.chance(0.4) else ()
    d.node(op, x, d.operand(classes), *weight, reduction=d.pick(("none", "sum", "mean")))


ROWS = {
    "MatMul": matmul, "Gemm": gemm, "Einsum": einsum, "Conv": convolution, "ConvTranspose": transposed, "MaxPool": pool,
    "AveragePool": pool, "LpPool": pool, "GlobalAveragePool": global_pool, "GlobalMaxPool": global_pool,
    "BatchNormalization": batch_norm, "InstanceNormalization": channel_norm, "GroupNormalization": channel_norm,
    "LRN": channel_norm, "MeanVarianceNormalization": mean_variance, "LayerNormalization": last_norm,
    "RMSNormalization": last_norm, "LpNormalization": last_norm, "Softmax": softmax, "LogSoftmax": softmax, "Hardmax": softmax,
    "LSTM": recurrent, "GRU": recurrent, "RNN": recurrent, "Resize": resize, "Upsample": resize, "Attention": attention,
    "Det": determinant, "GridSample": grid_sample, "NegativeLogLikelihoodLoss": negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": negative_log_likelihood,
}  # fmt: skip
