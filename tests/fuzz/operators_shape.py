"""Operators that move elements, and reductions."""

from __future__ import annotations

import numpy as np

from fuzz.draw import F32, F64, FLOATS, I32, I64, Draw, Refused, Tensor

REDUCTIONS = {
    "ReduceSum": True, "ReduceMax": True, "ReduceMin": True, "ReduceMean": False, "ReduceProd": True, "ReduceL1": True,
    "ReduceSumSquare": True, "ReduceL2": False, "ReduceLogSumExp": False, "ReduceLogSum": False,
}  # fmt: skip


def divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def some_axes(d: Draw, rank: int, most: int = 9) -> list[int]:
    axes = [a for a in range(rank) if d.chance(0.4)][:most] or ([d.int(0, rank - 1)] if rank else [])
    return [a - rank if d.chance(0.3) else a for a in axes]


def axes_form(d: Draw, op: str, since: int, axes: list[int]) -> tuple[tuple[Tensor, ...], dict[str, object]]:
    """Axes as an operand from an opset on, as an attribute before."""
    return ((d.ints(axes),), {}) if d.opset >= since else ((), {"axes": axes})


def reshape(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.value.size > 0)
    left, shape = x.value.size, []
    for _ in range(d.int(0, 3)):
        shape.append(d.pick(divisors(left)))
        left //= shape[-1]
    shape.append(left)
    shape = [shape[i] for i in d.rng.permutation(len(shape))]
    if d.chance(0.4):
        shape[d.int(0, len(shape) - 1)] = -1
    elif x.rank and shape[0] == x.shape[0] and d.chance(0.5):
        shape[0] = 0
    d.node(op, x, d.ints(shape), exact=True)


def flatten(d: Draw, op: str) -> None:
    x = d.value(d.types(op))
    d.node(op, x, axis=d.int(0 if d.opset < 11 else -x.rank, x.rank), exact=True)


def transpose(d: Draw, op: str) -> None:
    x = d.value(d.types(op))
    extra = {"perm": [int(p) for p in d.rng.permutation(x.rank)]} if x.rank and d.chance(0.9) else {}
    d.node(op, x, exact=True, **extra)


def squeeze(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: 1 in t.shape)
    axes = [a for a, n in enumerate(x.shape) if n == 1 and d.chance(0.7)]
    operands, extra = axes_form(d, op, 13, axes) if axes else ((), {})
    d.node(op, x, *operands, exact=True, **extra)


def unsqueeze(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank < 5)
    rank = x.rank + d.int(1, 2)
    axes = [int(a) for a in d.rng.permutation(rank)[: rank - x.rank]]
    if d.opset >= 11 and d.chance(0.3):
        axes[0] -= rank
    operands, extra = axes_form(d, op, 13, axes if d.opset >= 13 else sorted(axes))
    d.node(op, x, *operands, exact=True, **extra)


def slice_(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank > 0)
    axes = some_axes(d, x.rank)
    starts, ends, steps = [], [], []
    for a in axes:
        n = x.shape[a]
        step = d.pick((1, 1, 1, 2, 3, -1, -2)) if d.opset >= 10 else 1
        start = d.int(-n - 1, n + 1)
        end = d.pick((n, 2**31, -1, d.int(-n - 1, n + 1))) if step > 0 else d.pick((-n - 1, -(2**31), 0, d.int(-n - 1, n)))
        starts, ends, steps = [*starts, start], [*ends, end], [*steps, step]
    if d.opset < 10:
        d.node(op, x, axes=axes, starts=starts, ends=ends, exact=True)
    else:
        extra = (d.ints(steps),) if any(s != 1 for s in steps) or d.chance(0.5) else ()
        d.node(op, x, d.ints(starts), d.ints(ends), d.ints(axes), *extra, exact=True)


def concat(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank > 0)
    axis = d.int(0, x.rank - 1)
    others = []
    for _ in range(d.int(0, 3)):
        fits = [t for t in d.values if t.dtype == x.dtype and t.rank == x.rank
                and all(a == axis or n == m for a, (n, m) in enumerate(zip(t.shape, x.shape, strict=True)))]  # fmt: skip
        shape = tuple(d.int(0, 4) if a == axis else n for a, n in enumerate(x.shape))
        others.append(d.pick(fits) if fits and d.chance(0.7) else d.operand(d.array(shape, x.dtype)))
    d.node(op, x, *others, axis=axis if d.opset < 11 or d.chance(0.7) else axis - x.rank, exact=True)


def split(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank > 0 and max(t.shape) > 1)
    axis = d.int(0, x.rank - 1)
    n = x.shape[axis]
    if d.opset >= 18 and d.chance(0.4):
        count = d.int(1, min(n, 4)) if n else 1
        if n and -(-n // count) * (count - 1) < n:
            d.node(op, x, axis=axis, num_outputs=count, outputs=count, exact=True)
        return
    sizes = []
    while n > 0 and len(sizes) < 3:
        sizes.append(d.int(0 if d.opset >= 13 else 1, n))
        n -= sizes[-1]
    sizes.append(n)
    sizes = [s for s in sizes if s > 0] or [0]
    if d.opset >= 13:
        d.node(op, x, d.ints(sizes), axis=axis, outputs=len(sizes), exact=True)
    else:
        d.node(op, x, axis=axis, split=sizes, outputs=len(sizes), exact=True)


def pad(d: Draw, op: str) -> None:
    x = d.value((F32, F64) if d.opset < 11 else d.types(op), lambda t: t.rank > 0 and t.value.size > 0)
    mode = d.pick(("constant", "constant", "reflect", "edge", *(("wrap",) if d.opset >= 19 else ())))
    most = [2 if mode in ("constant", "edge") else max(0, min(2, n - 1)) for n in x.shape]
    low = -1 if mode == "constant" and min(x.shape) > 2 else 0
    pads = [d.int(min(low, m), m) for m in (*most, *most)]
    if d.opset < 11:
        d.node(op, x, pads=pads, mode=mode, exact=True, **({"value": 0.5} if mode == "constant" else {}))
        return
    fill = (d.const(d.array((), x.dtype)),) if mode == "constant" and d.chance(0.6) else ()
    if d.opset >= 18 and fill and d.chance(0.3):
        axes = [a for a in range(x.rank) if d.chance(0.6)] or [0]
        pads = [pads[a] for a in axes] + [pads[a + x.rank] for a in axes]
        fill = (*fill, d.ints([a - x.rank if d.chance(0.3) else a for a in axes]))
    d.node(op, x, d.ints(pads), *fill, mode=mode, exact=True)


def expand(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.value.size < 500)
    shape = [d.int(1, 4) if n == 1 else d.pick((n, n, 1)) for n in x.shape]
    if d.chance(0.4) and len(shape) < 5:
        shape.insert(0, d.int(1, 3))
    d.node(op, x, d.ints(shape), exact=True)


def tile(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank > 0 and t.value.size < 300)
    d.node(op, x, d.ints([d.pick((1, 1, 2, 3)) for _ in x.shape]), exact=True)


def gather(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank > 0 and t.value.size > 0)
    axis = d.int(0, x.rank - 1)
    n, low = x.shape[axis], 0 if d.opset < 11 else -x.shape[axis]
    shape = d.pick(((), (1,), (3,), (2, 2)))
    if op == "GatherElements":
        shape = tuple(d.int(1, 4) if a == axis else d.int(1, m) for a, m in enumerate(x.shape))
    at = d.rng.integers(low, n, shape).astype(d.pick((np.int64, np.int32)))
    d.node(op, x, d.operand(at), axis=axis if d.chance(0.7) else axis - x.rank, exact=True)


def gather_nd(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank > 0 and t.value.size > 0)
    batch = d.int(0, min(1, x.rank - 1)) if d.opset >= 12 else 0
    depth = d.int(1, x.rank - batch)
    shape = (*x.shape[:batch], *d.pick(((2,), (3,), (1, 2))), depth)
    at = np.stack([d.rng.integers(-n if d.opset >= 11 else 0, n, shape[:-1]) for n in x.shape[batch : batch + depth]], -1)
    extra = {"batch_dims": batch} if d.opset >= 12 and batch else {}
    d.node(op, x, d.operand(at.astype(np.int64)), exact=True, **extra)


def scatter_elements(d: Draw, op: str) -> None:
    x = d.value((*FLOATS[:2], I32, I64), lambda t: t.rank > 0 and t.value.size > 0)
    axis = d.int(0, x.rank - 1)
    shape = tuple(d.int(1, n) for n in x.shape)
    order = [d.rng.permutation(x.shape[axis])[: shape[axis]] for _ in range(int(np.prod(shape)) // shape[axis])]
    moved = np.array(order, np.int64).reshape([n for a, n in enumerate(shape) if a != axis] + [shape[axis]])
    extra = {}
    if d.opset >= 16 and d.chance(0.5):
        extra = {"reduction": d.pick(("add", "mul", *(("max", "min") if d.opset >= 18 else ())))}
    at = np.ascontiguousarray(np.moveaxis(moved, -1, axis))
    d.node(op, x, d.operand(at), d.operand(d.array(shape, x.dtype)), axis=axis, exact=True, **extra)


def scatter_nd(d: Draw, op: str) -> None:
    x = d.value((*FLOATS[:2], I32, I64), lambda t: t.rank > 0 and t.value.size > 0)
    depth = d.int(1, x.rank)
    places = int(np.prod(x.shape[:depth]))
    count = d.int(1, min(4, places))
    flat = d.rng.permutation(places)[:count]
    at = np.stack(np.unravel_index(flat, x.shape[:depth]), -1).astype(np.int64)
    extra = {}
    if d.opset >= 16 and d.chance(0.5):
        extra = {"reduction": d.pick(("add", "mul", *(("max", "min") if d.opset >= 18 else ())))}
    d.node(op, x, d.operand(at), d.operand(d.array((count, *x.shape[depth:]), x.dtype)), exact=True, **extra)


def depth_space(d: Draw, op: str) -> None:
    block = d.pick((1, 2, 3))
    if op == "DepthToSpace":
        x = d.value(d.types(op), lambda t: t.rank == 4 and t.shape[1] % (block * block) == 0 and t.value.size > 0)
        extra = {"mode": d.pick(("DCR", "CRD"))} if d.opset >= 11 else {}
    else:
        x, extra = d.value(d.types(op), lambda t: t.rank == 4 and t.shape[2] % block + t.shape[3] % block == 0), {}
    d.node(op, x, blocksize=block, exact=True, **extra)


def trilu(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank >= 2)
    k = (d.const(d.int(-3, 3), I64),) if d.chance(0.6) else ()
    d.node(op, x, *k, upper=d.int(0, 1), exact=True)


def reverse_sequence(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank >= 2 and t.value.size > 0)
    batch = d.int(0, 1)
    lengths = d.rng.integers(1, x.shape[1 - batch] + 1, (x.shape[batch],))
    d.node(op, x, d.operand(lengths.astype(np.int64)), batch_axis=batch, time_axis=1 - batch, exact=True)


def shape_of(d: Draw, op: str) -> None:
    x = d.value(d.types(op))
    extra = {"start": d.int(-2, 2), "end": d.int(-2, 5)} if op == "Shape" and d.opset >= 15 and d.chance(0.4) else {}
    d.node(op, x, exact=True, **extra)


def reshape_by_shape(d: Draw, op: str) -> None:
    """Shape arithmetic as exporters write it: Shape - Gather - Concat - Reshape."""
    x = d.value((F32, F64, I64), lambda t: t.rank >= 2 and t.value.size > 0)
    (shape,) = d.node("Shape", x, exact=True, keep=False)
    (first,) = d.node("Gather", shape, d.const([0], I64), axis=0, exact=True, keep=False)
    (new,) = d.node("Concat", first, d.ints([-1]), axis=0, exact=True, keep=False)
    d.node("Reshape", x, new, exact=True)


def constant_of_shape(d: Draw, op: str) -> None:
    from onnx import numpy_helper

    value = numpy_helper.from_array(d.array((1,), d.pick((F32, I64, I32))))
    d.node(op, d.ints(d.shape()), value=value, exact=True)


def range_(d: Draw, op: str) -> None:
    dtype = d.pick((I64, I32, F32))
    start, step = d.int(-4, 4), d.pick((-2, -1, 1, 2))
    d.node(op, *(d.const(v, dtype) for v in (start, start + step * d.int(0, 9), step)), exact=True)


def eye_like(d: Draw, op: str) -> None:
    d.node(op, d.value((F32, F64, I32, I64), lambda t: t.rank == 2), k=d.int(-2, 2), exact=True)


def one_hot(d: Draw, op: str) -> None:
    depth = d.int(1, 6)
    at = d.rng.integers(-depth if d.opset >= 11 else 0, depth, d.shape(0, 2)).astype(np.int64)
    dtype = d.pick((F32, I64, I32))
    d.node(op, d.operand(at), d.const(depth, I64), d.const(d.array((2,), dtype)), axis=-1, exact=True)


def reduction(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.value.size > 0)
    if op in ("ReduceLogSum", "ReduceLogSumExp", "ReduceProd") and x.dtype not in FLOATS:
        raise Refused("meaning of integers")
    if op == "ReduceLogSum":
        (x,) = d.node("Abs", x, exact=True, keep=False)
        (x,) = d.node("Add", x, d.const(0.5, x.dtype), exact=True, keep=False)
    axes = some_axes(d, x.rank)
    if d.opset < 11:
        axes = [a % x.rank for a in axes]
    extra: dict[str, object] = {"keepdims": d.int(0, 1)} if d.chance(0.7) else {}
    operands: tuple[Tensor, ...] = ()
    if axes and d.chance(0.85):
        operands, more = axes_form(d, op, 13 if op == "ReduceSum" else 18, sorted(set(axes)))
        extra |= more
    elif d.opset >= (13 if op == "ReduceSum" else 18) and d.chance(0.4):
        extra["noop_with_empty_axes"] = 1
    d.node(op, x, *operands, exact=REDUCTIONS[op], **extra)


def arg_reduction(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank > 0 and t.value.size > 0, exact=True)
    extra = {"select_last_index": d.int(0, 1)} if d.opset >= 12 and d.chance(0.4) else {}
    d.node(op, x, axis=d.int(0, x.rank - 1), keepdims=d.int(0, 1), exact=True, **extra)


def cumulative(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank > 0)
    axis = d.const(d.int(-x.rank, x.rank - 1), d.pick((I64, I32)))
    d.node(op, x, axis, exclusive=d.int(0, 1), reverse=d.int(0, 1), exact=True)


def top_k(d: Draw, op: str) -> None:
    x = d.value(d.types(op) if d.opset >= 11 else (F32, F64), lambda t: t.rank > 0 and t.value.size > 0, exact=True)
    axis = d.int(0, x.rank - 1)
    k = d.int(1, x.shape[axis])
    if d.opset < 10:
        d.node(op, x, axis=axis, k=k, outputs=2, exact=True)
    else:
        extra = {"largest": d.int(0, 1), "sorted": 1} if d.opset >= 11 else {}
        d.node(op, x, d.ints([k]), axis=axis, outputs=2, exact=True, **extra)


def non_zero(d: Draw, op: str) -> None:
    """Of what is known, so that the size of the result is."""
    d.node(op, d.const(d.array(d.shape(1, 2), d.pick((F32, I64)), -1, 1)), exact=True)


def compress(d: Draw, op: str) -> None:
    x = d.value(d.types(op), lambda t: t.rank > 0 and t.value.size > 0)
    axis = d.int(0, x.rank - 1)
    d.node(op, x, d.const(d.rng.integers(0, 2, x.shape[axis]).astype(bool)), axis=axis, exact=True)


ROWS = {
    "Reshape": reshape, "Flatten": flatten, "Transpose": transpose, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Slice": slice_,
    "Concat": concat, "Split": split, "Pad": pad, "Expand": expand, "Tile": tile, "Gather": gather, "GatherElements": gather,
    "GatherND": gather_nd, "ScatterElements": scatter_elements, "ScatterND": scatter_nd, "DepthToSpace": depth_space,
    "SpaceToDepth": depth_space, "Trilu": trilu, "ReverseSequence": reverse_sequence, "Shape": shape_of, "Size": shape_of,
    "ConstantOfShape": constant_of_shape, "Range": range_, "EyeLike": eye_like, "OneHot": one_hot,
    **dict.fromkeys(REDUCTIONS, reduction), "ArgMax": arg_reduction, "ArgMin": arg_reduction, "CumSum": cumulative,
    "TopK": top_k, "NonZero": non_zero, "Compress": compress,
}  # fmt: skip
PATTERNS = {"shape arithmetic": reshape_by_shape}
