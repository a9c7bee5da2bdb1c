"""Rows of the operators that move, scatter, select, resample and recur."""

from __future__ import annotations

import numpy as np
from tilewright.ir.ops.activations import ACTIVATIONS, Activation
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.grid_sample import PADDINGS, TAPS, GridSample
from tilewright.ir.ops.image import Resize
from tilewright.ir.ops.interpolation import COORDINATES, NEAREST
from tilewright.ir.ops.movement import (
    Broadcast,
    Concat,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Pad,
    Reshape,
    Slice,
    Transpose,
    Trilu,
)
from tilewright.ir.ops.recurrent import Gru, Lstm, Rnn
from tilewright.ir.ops.scatter import REDUCTIONS, ScatterElements, ScatterND
from tilewright.ir.ops.sort import TopK
from tilewright.ir.ops.trees import TreeStep
from tilewright.ir.types import DTYPES, NUMBERS

from suites.row import Row, Spec

NAN, INF = float("nan"), float("inf")


def f(*shape: int, dtype: str = "f32", low: float = -4, high: float = 4) -> Spec:
    return Spec(dtype, shape, low, high)


def indices(*shape: int, low: int, high: int, dtype: str = "i64") -> Spec:
    return Spec(dtype, shape, low, high)


def literal(dtype: str, *values: object) -> np.ndarray:
    return np.array(values).astype(DTYPES[dtype].numpy)


X = f(2, 3, 4)
RESHAPES = ((6, 4), (2, 12), (24,), (4, 6), (1, 2, 3, 1, 4), (3, 2, 4), (8, 3), (2, 3, 2, 2))
PADS = {"inner": ((0, 1, 2), (1, 0, 1)), "after": ((0, 0, 0), (0, 0, 3)), "none": ((0, 0, 0), (0, 0, 0))}
LARGE_PAD = ((0, 5, 0), (0, 7, 9))


def _layout_rows() -> list[Row]:
    rows = [Row(f"reshape-{'x'.join(map(str, s))}", Reshape(s), (X,)) for s in RESHAPES]
    rows += [Row(f"transpose-{''.join(map(str, p))}", Transpose(p), (X,))
             for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))]
    rows += [Row(f"transpose-{d}", Transpose((1, 0)), (f(3, 4, dtype=d),)) for d in NUMBERS]
    rows += [
        Row("reshape-to-rank0", Reshape(()), (f(1, 1),)),
        Row("reshape-empty", Reshape((3, 0)), (f(0, 5),)),
        Row("slice-steps", Slice((1, 2, 0), (1, 2, 2), (1, -1, 2)), (X,)),
        Row("slice-all-reversed", Slice((1, 2, 3), (2, 3, 4), (-1, -1, -1)), (X,)),
        Row("slice-empty", Slice((0, 1, 0), (2, 0, 4), (1, 1, 1)), (X,)),
        Row("concat-one", Concat(0), (X,)),
        Row("concat-three", Concat(1), (X, f(2, 1, 4), f(2, 5, 4))),
        Row("concat-last", Concat(2), (X, f(2, 3, 1))),
        Row("concat-with-empty", Concat(1), (f(2, 0, 4), X, f(2, 0, 4))),
        Row("concat-bool", Concat(0), (f(3, dtype="bool"), f(2, dtype="bool"))),
        Row("broadcast-rank", Broadcast((5, 2, 3, 4)), (X,)),
        Row("broadcast-middle", Broadcast((2, 3, 4)), (f(2, 1, 4),)),
        Row("broadcast-rank0", Broadcast((2, 3)), (f(),)),
        Row("trilu-upper", Trilu(True), (f(2, 4, 5), literal("i64", 1)[0])),
        Row("trilu-lower", Trilu(False), (f(2, 4, 5), literal("i64", -1)[0])),
        Row("trilu-lower-i32", Trilu(False), (f(5, 3, dtype="i32"), literal("i64", 0)[0])),
    ]
    rows += [Row(f"iota-{d}", Iota(7, d), ()) for d in ("i64", "i32", "u8", "f32", "bf16")]
    for name, (before, after) in PADS.items():
        rows.append(Row(f"pad-constant-{name}", Pad(before, after, "constant"), (X, f())))
        rows += [Row(f"pad-{m}-{name}", Pad(before, after, m), (X,)) for m in ("reflect", "edge", "wrap")]
    rows += [Row(f"pad-{m}-large", Pad(*LARGE_PAD, m), (X,)) for m in ("reflect", "edge", "wrap")]
    rows.append(Row("pad-reflect-one-element", Pad((2,), (1,), "reflect"), (f(1),)))
    rows.append(Row("pad-constant-empty", Pad((2,), (1,), "constant"), (f(0), f())))
    return rows


def _gather_rows() -> list[Row]:
    return [
        Row("gather-rows", Gather(0), (f(5, 3), indices(4, low=-5, high=4))),
        Row("gather-matrix-of-indices", Gather(1), (X, indices(2, 2, low=-3, high=2, dtype="i32"))),
        Row("gather-one", Gather(2), (X, indices(low=-4, high=3))),
        Row("gather-unsigned", Gather(0), (f(5, 3), indices(4, low=0, high=4, dtype="u8"))),
        Row("gather-outside-is-clamped", Gather(0), (f(5, 3), literal("i64", -100, 5, 100, -6))),
        Row("gather-elements", GatherElements(1), (X, indices(1, 5, 3, low=-3, high=2))),
        Row("gather-elements-last", GatherElements(2), (X, indices(2, 3, 6, low=-4, high=3, dtype="i32"))),
        Row("gather-nd-slices", GatherND(0), (X, literal("i64", [0, -1], [1, 2], [-2, 0]))),
        Row("gather-nd-elements", GatherND(0), (X, literal("i64", [0, -1, 3], [1, 2, 0]))),
        Row("gather-nd-batch", GatherND(1), (X, literal("i64", [0], [-1]))),
        Row("gather-nd-batch-rows", GatherND(1), (X, indices(2, 5, 1, low=-3, high=2))),
        Row("gather-nd-whole", GatherND(0), (f(3, 2), indices(2, 0, low=0, high=0))),
    ]


def _tree_rows() -> list[Row]:
    """20 random nodes that lead to each other; column 7 of 6 counts as the last."""
    rng = np.random.default_rng(5)
    flags, columns, targets = (rng.integers(0, high, 20).astype(np.uint64) for high in (8, 8, 19))
    links = flags | columns << np.uint64(3) | targets << np.uint64(6)
    values = rng.integers(-2, 3, 20) / 2
    words = links << np.uint64(32) | values.astype(np.float32).view(np.uint32)
    rows = literal("f32", *[[NAN, 0.5, -1, 1, 0, NAN], [INF, -INF, 0, 0.5, 1, -0.5]] * 9)
    at = indices(18, 21, low=0, high=19, dtype="i32")
    rows_64 = rows.astype(np.float64)
    return [
        Row("tree-step-f32", TreeStep(0, 3, equal=True, missing=True), (rows, words, at)),
        Row("tree-step-f64", TreeStep(0, 3, equal=True, missing=True), (rows_64, links, values, at)),
        Row("tree-step-plain", TreeStep(0, 3, equal=False, missing=False), (rows, words & ~np.uint64(6 << 32), at)),
        Row("tree-step-roots", TreeStep(17, 3, equal=True, missing=True), (rows, words)),
    ]


def _scatter_rows() -> list[Row]:
    rows: list[Row] = []
    for r in REDUCTIONS:
        rows += [
            Row(f"scatter-elements-{r}", ScatterElements(1, r), (f(4, 5, 3), indices(3, 7, 2, low=-5, high=4), f(3, 7, 2))),
            Row(f"scatter-elements-{r}-1d", ScatterElements(0, r), (f(6), indices(9, low=-6, high=5, dtype="i32"), f(9))),
            Row(f"scatter-nd-{r}", ScatterND(r), (f(4, 5, 3), indices(6, 2, low=-4, high=3), f(6, 3))),
            Row(f"scatter-nd-{r}-elements", ScatterND(r), (f(4, 3), indices(2, 5, 2, low=-3, high=2), f(2, 5))),
        ]
        rows += [Row(f"scatter-elements-{r}-{d}", ScatterElements(0, r),
                     (f(6, dtype=d), indices(9, low=0, high=5), f(9, dtype=d))) for d in ("bf16", "i64", "u8")]
    outside = (f(4, 3), literal("i64", [4], [0], [-5], [-1]), f(4, 3))
    rows.append(Row("scatter-nd-outside-is-dropped", ScatterND("add"), outside))
    rows.append(Row("scatter-elements-outside-is-dropped", ScatterElements(0, "none"),
                    (f(4), literal("i64", 4, 1, -5), f(3))))
    return rows


def _sort_rows() -> list[Row]:
    special = literal("f32", [3, NAN, 1, 3, INF, -INF, NAN, 3], [0.0, -0.0, 2, 2, 2, 1, 1, NAN])
    rows: list[Row] = []
    for name, largest in (("largest", True), ("smallest", False)):
        rows += [Row(f"top-{name}-{k}-of-13", TopK(1, k, largest), (f(4, 13, 3),)) for k in (0, 1, 2, 5, 13)]
        rows += [Row(f"top-{name}-special-{k}", TopK(1, k, largest), (special,)) for k in (2, 5, 8)]
        rows += [Row(f"top-{name}-ties-{d}", TopK(0, 6, largest), (f(40, dtype=d, low=0, high=5),))
                 for d in ("i32", "i64", "u8", "i8")]
        rows += [Row(f"top-{name}-{d}", TopK(1, 3, largest), (f(2, 9, dtype=d),)) for d in ("f16", "bf16", "f64")]
    return rows


def resize(axes: tuple[int, ...], shape: tuple[int, ...], scales: tuple[float, ...], **fields: object) -> Resize:
    """Sizes from scales, as ONNX rounds them."""
    sizes = tuple(int(shape[d] * s) for d, s in zip(axes, scales, strict=True))
    return Resize(axes, sizes, scales, **fields)  # type: ignore[arg-type]


def _resize_rows() -> list[Row]:
    shape = (1, 4, 5, 2)
    x, axes, roi = f(*shape), (1, 2), (0.1, -0.2, 0.9, 1.1)
    scalings = {"up": (2.0, 1.6), "down": (0.5, 0.6)}
    rows: list[Row] = []
    for coordinates in COORDINATES:
        extra = {"roi": roi, "extrapolation": 9.5} if coordinates == "tf_crop_and_resize" else {}
        for mode in ("nearest", "linear", "cubic"):
            for name, scales in scalings.items():
                op = resize(axes, shape, scales, mode=mode, coordinates=coordinates, **extra)
                rows.append(Row(f"resize-{mode}-{coordinates}-{name}", op, (x,), None if mode == "nearest" else 1e-5))
    for rounding in NEAREST:
        rows.append(Row(f"resize-{rounding}", resize((0,), (9,), (0.7,), mode="nearest", nearest=rounding), (f(9),)))
    for mode in ("linear", "cubic"):
        for name, fields in {"antialias": {"antialias": True}, "excluded": {"exclude_outside": True}}.items():
            op = resize(axes, shape, (0.5, 0.4), mode=mode, **fields)
            rows.append(Row(f"resize-{mode}-{name}", op, (x,), 1e-5))
    rows += [Row(f"resize-linear-{d}", resize((0, 1), (3, 4), (2, 2), mode="linear"), (f(3, 4, dtype=d, high=120),), t)
             for d, t in (("u8", None), ("i32", None), ("f16", 2e-3), ("bf16", 1.6e-2), ("f64", 1e-12))]
    doubled = resize((1, 2), (1, 3, 4, 2), (2.0, 3.0), mode="nearest", coordinates="asymmetric", nearest="floor")
    rows.append(Row("resize-nearest-repeats", doubled, (f(1, 3, 4, 2),)))
    return rows


def _grid_rows() -> list[Row]:
    rows: list[Row] = []
    for mode in TAPS:
        for padding in PADDINGS:
            for corners in (False, True):
                name = f"grid-{mode}-{padding}-{'corners' if corners else 'edges'}"
                inputs = (f(2, 4, 5, 3), f(2, 3, 2, 2, low=-2.2, high=2.2))
                rows.append(Row(name, GridSample(mode, padding, corners), inputs, 2e-5))
        lost = literal("f32", [[[NAN, 0.0], [INF, -INF], [0.25, NAN], [1e9, -1e9]]])
        rows.append(Row(f"grid-{mode}-lost", GridSample(mode, "zeros", False), (f(1, 3, 4, 2), lost), 2e-5))
    volume = (f(1, 2, 3, 4, 2), f(1, 2, 2, 2, 3, low=-1.3, high=1.3))
    rows.append(Row("grid-linear-volume", GridSample("linear", "border", True), volume, 2e-5))
    rows.append(Row("grid-nearest-u8", GridSample("nearest", "zeros", False),
                    (f(1, 3, 4, 2, dtype="u8", high=99), f(1, 2, 3, 2, low=-1.3, high=1.3))))
    return rows


def _cell(name: str, op: Op, gates: int, states: int, vector: int = 0, lengths: bool = False, dtype: str = "f32",
          tolerance: float = 1e-5) -> Row:
    """T = 4 steps, B = 3 sequences, H = 5 units."""

    def a(*shape: int) -> Spec:
        return f(*shape, dtype=dtype, low=-1, high=1)

    inputs = [a(4, 3, gates * 5), a(5, gates * 5)] + [a(vector * 5)] * bool(vector) + [a(3, 5)] * states
    last = (literal("i32", 4, 0, 3),) if lengths else ()
    return Row(name, op, (*inputs, *last), tolerance)


def _recurrent_rows() -> list[Row]:
    rows: list[Row] = []
    for reverse, way in ((False, "forward"), (True, "reverse")):
        rows += [
            _cell(f"lstm-{way}", Lstm(reverse=reverse), 4, 2),
            _cell(f"lstm-{way}-lengths", Lstm(reverse=reverse, lengths=True), 4, 2, lengths=True),
            _cell(f"gru-{way}", Gru(reverse=reverse), 3, 1),
            _cell(f"gru-{way}-lengths", Gru(reverse=reverse, lengths=True), 3, 1, lengths=True),
            _cell(f"gru-{way}-linear", Gru(reverse=reverse, linear_before_reset=True), 3, 1, 1),
            _cell(f"rnn-{way}", Rnn(reverse=reverse), 1, 1),
            _cell(f"rnn-{way}-lengths", Rnn(reverse=reverse, lengths=True), 1, 1, lengths=True),
        ]
    rows += [_cell(f"rnn-{fn}", Rnn(activations=(Activation(fn, 0.3, 0.4),)), 1, 1) for fn in ACTIVATIONS]
    rows += [
        _cell("lstm-peepholes", Lstm(peepholes=True), 4, 2, 3),
        _cell("lstm-clip-coupled", Lstm(clip=0.5, input_forget=True), 4, 2),
        _cell("lstm-f64", Lstm(), 4, 2, dtype="f64", tolerance=1e-12),
        _cell("gru-f16", Gru(), 3, 1, dtype="f16", tolerance=4e-3),
        _cell("lstm-bf16", Lstm(), 4, 2, dtype="bf16", tolerance=3e-2),
    ]
    return rows


ROWS: tuple[Row, ...] = (
    *_layout_rows(), *_gather_rows(), *_tree_rows(), *_scatter_rows(), *_sort_rows(), *_resize_rows(), *_grid_rows(),
    *_recurrent_rows(),
)
