"""Rows of the operators that compute: element by element, reductions, contractions, windows, norms, attention."""

from __future__ import annotations

import numpy as np
from tilewright.ir.ops.contract import Conv, ConvTranspose, MatMul
from tilewright.ir.ops.elementwise import Binary, Bitcast, Cast, Select, Unary
from tilewright.ir.ops.norm import Attention, BatchNorm, Gelu, LayerNorm, LogSoftmax, RmsNorm, Softmax
from tilewright.ir.ops.reduce import ArgReduce, CumSum, Reduce
from tilewright.ir.ops.window import MaxPoolIndices, Pool
from tilewright.ir.types import DTYPES, NUMBERS

from suites.row import Row, Spec

F32, F16, BF16 = 2e-6, 2e-3, 1.6e-2  # tolerances: a few units in the last place


def f(*shape: int, low: float = -4, high: float = 4, dtype: str = "f32") -> Spec:
    return Spec(dtype, shape, low, high)


def literal(dtype: str, *values: object) -> np.ndarray:
    return np.array(values).astype(DTYPES[dtype].numpy)


NAN, INF = float("nan"), float("inf")
SPECIAL = literal("f32", 0.0, -0.0, 1.0, -1.0, 2.5, -2.5, INF, -INF, NAN)
PAIR_A = literal("f32", 1, NAN, 2, NAN, INF, -INF, 0.0, 5.5, -7.0)
PAIR_B = literal("f32", NAN, 1, -2, NAN, 1, -INF, 3.0, -2.0, 2.5)
SIGNED_A = literal("i32", 7, -7, 7, -7, 0, 2**31 - 1, -(2**31), 6)
SIGNED_B = literal("i32", 2, 2, -2, -2, 5, 1, 3, -3)

# Domains in which the functions of one float are tested; the default is -4..4.
DOMAINS = {
    "log": (0.1, 9), "sqrt": (0, 9), "asin": (-1, 1), "acos": (-1, 1), "acosh": (1, 9), "atanh": (-0.9, 0.9),
    "tan": (-1.4, 1.4), "reciprocal": (0.1, 4),
}
MATH = (
    "exp", "log", "sqrt", "erf", "tanh", "sigmoid", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh",
    "acosh", "atanh", "reciprocal",
)
EXACT = ("neg", "abs", "sign", "floor", "ceil", "rint", "isnan", "isinf")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def _unary_rows() -> list[Row]:
    rows = [Row(f"unary-{fn}", Unary(fn), (f(3, 5, low=lo, high=hi),), 4 * F32)
            for fn in MATH for lo, hi in [DOMAINS.get(fn, (-4, 4))]]
    rows += [Row(f"unary-{fn}-special", Unary(fn), (SPECIAL,)) for fn in EXACT]
    rows += [Row(f"unary-{fn}-special", Unary(fn), (SPECIAL,), F32)
             for fn in ("exp", "log", "sqrt", "erf", "tanh", "sigmoid", "reciprocal")]
    rows += [Row(f"unary-{fn}-halves", Unary(fn), (literal("f32", 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e30),))
             for fn in ("rint", "floor", "ceil")]
    rows += [Row(f"unary-{fn}-{d}", Unary(fn), (f(7, low=-9, high=9, dtype=d),))
             for fn in ("neg", "abs", "sign") for d in ("i8", "i64", "u8")]
    rows += [Row(f"unary-bitnot-{d}", Unary("bitnot"), (f(7, low=-9, high=9, dtype=d),)) for d in ("i8", "u16", "i64")]
    rows += [
        Row("unary-neg-wraps", Unary("neg"), (literal("i8", -128, 127, 0),)),
        Row("unary-not", Unary("not"), (f(2, 3, dtype="bool"),)),
        Row("unary-exp-f16", Unary("exp"), (f(9, dtype="f16"),), F16),
        Row("unary-tanh-bf16", Unary("tanh"), (f(9, dtype="bf16"),), BF16),
        Row("unary-sin-f64", Unary("sin"), (f(9, dtype="f64"),), 1e-14),
        Row("unary-neg-rank0", Unary("neg"), (f(),)),
        Row("unary-exp-empty", Unary("exp"), (f(2, 0, 3),), F32),
    ]
    return rows


def _binary_rows() -> list[Row]:
    nonzero = f(3, 5, low=0.5, high=4)
    rows = [Row(f"binary-{fn}", Binary(fn), (f(3, 5), nonzero)) for fn in ("add", "sub", "mul", "div", "max", "min")]
    rows += [Row(f"binary-{fn}", Binary(fn), (f(3, 5), nonzero), F32) for fn in ("mod", "fmod")]
    rows += [Row(f"binary-{fn}-special", Binary(fn), (PAIR_A, PAIR_B)) for fn in ("max", "min", *COMPARISONS)]
    rows += [Row(f"binary-{fn}-i32", Binary(fn), (SIGNED_A, SIGNED_B))
             for fn in ("add", "sub", "mul", "div", "mod", "fmod", "max", "min", *COMPARISONS)]
    rows += [Row(f"binary-{fn}-{d}", Binary(fn), (f(9, low=-99, high=99, dtype=d), f(9, low=1, high=9, dtype=d)))
             for fn in ("add", "mul", "div", "mod", "lt") for d in ("i8", "i64", "u8", "u32")]
    rows += [Row(f"binary-{fn}-{d}", Binary(fn), (f(9, low=-99, high=99, dtype=d), f(9, low=-9, high=9, dtype=d)))
             for fn in ("bitand", "bitor", "bitxor") for d in ("i8", "i64", "u16")]
    rows += [Row(f"binary-{fn}-bool", Binary(fn), (f(2, 4, dtype="bool"), f(4, dtype="bool")))
             for fn in ("and", "or", "xor", "eq", "ne")]
    rows += [Row(f"binary-{fn}-{d}", Binary(fn), (literal(d, 1, 3, 200, 255), literal(d, 0, 1, 7, 70)))
             for fn in ("shl", "shr") for d in ("u8", "u32", "u64")]
    rows += [
        Row("binary-pow", Binary("pow"), (f(3, 5, low=0.1), f(3, 5)), 1e-5),
        Row("binary-pow-special", Binary("pow"), (literal("f32", 0, 2, -2, NAN, 0), literal("f32", 0, -1, 3, 0, 2)), F32),
        Row("binary-pow-i64", Binary("pow"), (f(9, low=-5, high=5, dtype="i64"), f(9, low=0, high=9, dtype="i64"))),
        Row("binary-mod-signs", Binary("mod"), (literal("f32", 5.5, -5.5, 5.5, -5.5), literal("f32", 2, 2, -2, -2))),
        Row("binary-fmod-signs", Binary("fmod"), (literal("f32", 5.5, -5.5, 5.5, -5.5), literal("f32", 2, 2, -2, -2))),
        Row("binary-add-wraps", Binary("add"), (literal("u8", 250, 3), literal("u8", 10, 4))),
        Row("binary-mul-f16", Binary("mul"), (f(9, dtype="f16"), f(9, dtype="f16"))),
        Row("binary-add-bf16", Binary("add"), (f(9, dtype="bf16"), f(9, dtype="bf16"))),
        Row("binary-div-f64", Binary("div"), (f(9, dtype="f64"), f(9, low=1, dtype="f64"))),
        Row("binary-broadcast-row", Binary("add"), (f(3, 5), f(5))),
        Row("binary-broadcast-both", Binary("sub"), (f(4, 1, 5), f(3, 1))),
        Row("binary-broadcast-scalar", Binary("mul"), (f(), f(2, 3))),
        Row("binary-rank0", Binary("add"), (f(), f())),
        Row("binary-unit", Binary("add"), (f(1, 1), f(1))),
        Row("binary-empty", Binary("add"), (f(0, 3), f(1, 3))),
    ]
    return rows


def _select_cast_rows() -> list[Row]:
    rows = [
        Row("select", Select(), (f(2, 3, dtype="bool"), f(2, 3), f(2, 3))),
        Row("select-broadcast", Select(), (f(2, 1, dtype="bool"), f(3), f(4, 1, 1))),
        Row("select-i8", Select(), (f(5, dtype="bool"), f(5, dtype="i8"), f(dtype="i8"))),
        Row("select-nan", Select(), (literal("bool", 1, 0), literal("f32", NAN, NAN), literal("f32", 1, 2))),
        Row("select-f16", Select(), (f(4, dtype="bool"), f(4, dtype="f16"), f(4, dtype="f16"))),
    ]
    rows += [Row(f"cast-{a}-{b}", Cast(b), (f(7, low=0 if "u" in a + b else -9, high=9, dtype=a),))
             for a in ("f32", "f16", "bf16", "i64", "i8", "u8", "bool", "f64") for b in NUMBERS]
    rows += [
        Row("cast-truncates", Cast("i32"), (literal("f32", 1.9, -1.9, 0.5, -0.5),)),
        Row("cast-bool-nan", Cast("bool"), (literal("f32", NAN, 0.0, -0.0, 0.1),)),
        Row("cast-bf16-rounds", Cast("bf16"), (literal("f32", 1.00390625, 1.01171875, INF, NAN),)),
        Row("cast-wraps", Cast("i8"), (literal("i32", 127, 128, 255, -129),)),
    ]
    rows += [Row(f"bitcast-{a}-{b}", Bitcast(b), (f(2, 19, dtype=a),))
             for a, b in (("f32", "i32"), ("i32", "f32"), ("f64", "u64"), ("u8", "i8"), ("f16", "u16"), ("u16", "bf16"))]
    return rows


def _reduce_rows() -> list[Row]:
    axes = {"last": (2,), "first": (0,), "two": (0, 2), "all": (0, 1, 2), "none": ()}
    rows = [Row(f"reduce-{fn}-{name}-{'keep' if keep else 'drop'}", Reduce(fn, at, keep), (f(2, 3, 4),), 4 * F32)
            for fn in ("sum", "mean") for name, at in axes.items() for keep in (False, True)]
    rows += [Row(f"reduce-{fn}", Reduce(fn, (1,), False), (f(3, 5),), 4 * F32) for fn in ("prod", "max", "min")]
    rows += [Row(f"reduce-{fn}-{d}", Reduce(fn, (1,), True), (f(3, 4, low=-40, high=40, dtype=d),))
             for fn in ("sum", "prod", "mean", "max", "min") for d in ("i8", "i64", "u8")]
    rows += [Row(f"reduce-{fn}-bool", Reduce(fn, (1,), False), (f(4, 2, dtype="bool"),)) for fn in ("max", "min")]
    rows += [Row(f"reduce-{fn}-empty", Reduce(fn, (1,), False), (f(2, 0),)) for fn in ("sum", "prod", "mean", "max", "min")]
    rows += [Row(f"reduce-{fn}-nan", Reduce(fn, (0,), False), (PAIR_A,)) for fn in ("max", "min", "sum")]
    rows += [
        Row("reduce-max-i8-empty", Reduce("max", (0,), False), (f(0, 2, dtype="i8"),)),
        Row("reduce-sum-no-rows", Reduce("sum", (1,), True), (f(0, 3),)),
        Row("reduce-sum-rank0", Reduce("sum", (), False), (f(),)),
        Row("reduce-sum-f16", Reduce("sum", (1,), False), (f(2, 64, low=50, high=100, dtype="f16"),), F16),
        Row("reduce-mean-bf16", Reduce("mean", (0,), True), (f(9, 2, dtype="bf16"),), BF16),
        Row("reduce-mean-negative", Reduce("mean", (0,), False), (literal("i32", -3, -4),)),
    ]
    ties = np.array([[1, 3, 3, 2, 1], [5, 5, 5, 5, 5]], np.float32)
    nans = np.array([[1, NAN, 3, NAN], [NAN, 1, 2, 3]], np.float32)
    for fn in ("max", "min"):
        for last in (False, True):
            end = "last" if last else "first"
            rows += [
                Row(f"arg{fn}-{end}-ties", ArgReduce(fn, 1, False, last), (ties,)),
                Row(f"arg{fn}-{end}-nan", ArgReduce(fn, 1, True, last), (nans,)),
                Row(f"arg{fn}-{end}-i32", ArgReduce(fn, 0, True, last), (f(4, 2, 3, low=-2, high=2, dtype="i32"),)),
            ]
    rows += [
        Row("argmax-middle", ArgReduce("max", 1, True, False), (f(2, 5, 3),)),
        Row("argmax-f16", ArgReduce("max", 0, False, False), (f(6, dtype="f16"),)),
        Row("argmax-no-rows", ArgReduce("max", 1, False, False), (f(0, 3),)),
    ]
    for exclusive in (False, True):
        for reverse in (False, True):
            name = f"{'exclusive' if exclusive else 'inclusive'}-{'reverse' if reverse else 'forward'}"
            rows += [Row(f"cumsum-{name}-{a}", CumSum(a, exclusive, reverse), (f(2, 4, 3),), F32) for a in (0, 1, 2)]
            rows += [Row(f"cumsum-{name}-i8", CumSum(0, exclusive, reverse), (f(9, low=-99, high=99, dtype="i8"),))]
    rows += [
        Row("cumsum-f16", CumSum(0, False, False), (f(20, low=0, high=100, dtype="f16"),), F16),
        Row("cumsum-empty", CumSum(0, True, False), (f(0, 2),)),
    ]
    return rows


def _contract_rows() -> list[Row]:
    def conv(id: str, x: Spec, w: Spec, *, strides=(), pads=(), dilations=(), groups=1, bias=False, tol=8 * F32) -> Row:
        s = len(x.shape) - 2
        op = Conv(strides or (1,) * s, pads or (0,) * 2 * s, dilations or (1,) * s, groups)
        more = (Spec(x.dtype, (w.shape[-1],)),) if bias else ()
        return Row(f"conv-{id}", op, (x, w, *more), tol)

    def transposed(id: str, x: Spec, w: Spec, *, strides=(), pads=(), dilations=(), groups=1, extra=(), bias=False) -> Row:
        s = len(x.shape) - 2
        op = ConvTranspose(strides or (1,) * s, pads or (0,) * 2 * s, dilations or (1,) * s, groups, extra or (0,) * s)
        more = (Spec(x.dtype, (w.shape[-2] * groups,)),) if bias else ()
        return Row(f"convtranspose-{id}", op, (x, w, *more), F16 * 4 if x.dtype == "f16" else 8 * F32)

    return [
        Row("matmul", MatMul(), (f(3, 4), f(4, 5)), 8 * F32),
        Row("matmul-batch", MatMul(), (f(2, 3, 4), f(2, 4, 5)), 8 * F32),
        Row("matmul-broadcast", MatMul(), (f(2, 1, 3, 4), f(3, 4, 2)), 8 * F32),
        Row("matmul-i32", MatMul(), (f(3, 4, dtype="i32"), f(4, 2, dtype="i32"))),
        Row("matmul-i8-wraps", MatMul(), (f(3, 4, low=-99, high=99, dtype="i8"), f(4, 2, low=-99, high=99, dtype="i8"))),
        Row("matmul-f16", MatMul(), (f(3, 32, dtype="f16"), f(32, 2, dtype="f16")), 2 * F16),
        Row("matmul-bf16", MatMul(), (f(3, 8, dtype="bf16"), f(8, 2, dtype="bf16")), BF16),
        Row("matmul-f64", MatMul(), (f(3, 8, dtype="f64"), f(8, 2, dtype="f64")), 1e-13),
        Row("matmul-no-depth", MatMul(), (f(3, 0), f(0, 2))),
        Row("matmul-no-rows", MatMul(), (f(0, 3), f(3, 2))),
        conv("1x1", f(1, 3, 3, 4), f(1, 1, 4, 5)),
        conv("3x3", f(1, 5, 6, 2), f(3, 3, 2, 3), bias=True),
        conv("3x3-pads", f(1, 4, 4, 2), f(3, 3, 2, 2), pads=(1, 1, 1, 1), bias=True),
        conv("uneven-pads", f(1, 4, 5, 1), f(2, 3, 1, 2), pads=(0, 2, 1, 0)),
        conv("strides", f(2, 7, 6, 2), f(3, 2, 2, 2), strides=(2, 3)),
        conv("strides-pads", f(1, 6, 6, 2), f(3, 3, 2, 2), strides=(2, 2), pads=(1, 1, 1, 1)),
        conv("dilations", f(1, 7, 7, 1), f(3, 2, 1, 2), dilations=(2, 3), pads=(1, 0, 1, 0)),
        conv("groups", f(1, 4, 4, 4), f(2, 2, 2, 6), groups=2, bias=True),
        conv("depthwise", f(1, 4, 4, 3), f(3, 3, 1, 3), groups=3, pads=(1, 1, 1, 1), bias=True),
        conv("depthwise-multiplier", f(1, 4, 4, 2), f(2, 2, 1, 4), groups=2),
        conv("1d", f(2, 8, 3), f(3, 3, 2), strides=(2,), pads=(1, 2), bias=True),
        conv("3d", f(1, 3, 4, 3, 2), f(2, 2, 2, 2, 2), pads=(1, 0, 0, 0, 0, 1)),
        conv("i32", f(1, 4, 4, 2, dtype="i32"), f(2, 2, 2, 2, dtype="i32"), pads=(1, 0, 0, 1), bias=True, tol=None),
        conv("f16", f(1, 4, 4, 4, dtype="f16"), f(3, 3, 4, 2, dtype="f16"), bias=True, tol=4 * F16),
        conv("no-images", f(0, 4, 4, 2), f(3, 3, 2, 3)),
        transposed("shuffle", f(1, 3, 2, 3), f(2, 2, 4, 3), strides=(2, 2), bias=True),
        transposed("shuffle-1d", f(2, 3, 2), f(3, 2, 2), strides=(3,)),
        transposed("3x3", f(1, 3, 3, 2), f(3, 3, 2, 2)),
        transposed("strides", f(1, 3, 4, 2), f(3, 3, 2, 2), strides=(2, 2), pads=(1, 1, 1, 1), extra=(1, 0), bias=True),
        transposed("cut", f(1, 4, 2), f(2, 3, 2), strides=(2,), pads=(2, 1)),
        transposed("cut-plain", f(1, 6, 2), f(2, 1, 2), pads=(2, 3)),
        transposed("gaps", f(1, 3, 2), f(1, 2, 2), strides=(3,), extra=(2,)),
        transposed("dilations", f(1, 3, 3, 1), f(2, 3, 2, 1), dilations=(2, 1), strides=(1, 2)),
        transposed("groups", f(1, 3, 3, 4), f(2, 2, 3, 4), groups=2, bias=True),
        transposed("depthwise", f(1, 3, 3, 3), f(3, 3, 1, 3), groups=3, strides=(2, 2), pads=(1, 1, 1, 1)),
        transposed("f16", f(1, 3, 3, 2, dtype="f16"), f(2, 2, 2, 2, dtype="f16"), strides=(2, 2), bias=True),
    ]


def _window_rows() -> list[Row]:
    def pool(fn: str, id: str, x: Spec, kernel: tuple[int, ...], strides=(), pads=(), dilations=(), include=False) -> Row:
        s = len(kernel)
        op = Pool(fn, kernel, strides or (1,) * s, pads or (0,) * 2 * s, dilations or (1,) * s, include)
        return Row(f"{fn}pool-{id}", op, (x,), F16 if x.dtype == "f16" else 4 * F32)

    rows: list[Row] = []
    for fn in ("max", "avg"):
        rows += [
            pool(fn, "plain", f(1, 5, 5, 2), (2, 3)),
            pool(fn, "strides", f(2, 6, 6, 2), (2, 2), (2, 2)),
            pool(fn, "pads", f(1, 4, 5, 2), (3, 3), (2, 2), (1, 1, 1, 1)),
            pool(fn, "ceil", f(1, 5, 5, 1), (2, 2), (2, 2), (0, 0, 1, 1)),
            pool(fn, "unused-pad", f(1, 4, 4, 1), (2, 2), (2, 2), (0, 0, 1, 1)),
            pool(fn, "dilations", f(1, 7, 7, 1), (2, 3), (2, 1), (1, 2, 1, 3), (3, 2)),
            pool(fn, "1d", f(1, 7, 3), (3,), (2,), (1, 1)),
            pool(fn, "3d", f(1, 3, 3, 3, 2), (2, 2, 2), (1, 1, 1), (1, 0, 0, 0, 1, 0)),
            pool(fn, "f16", f(1, 4, 4, 2, dtype="f16"), (2, 2)),
            pool(fn, "global", f(1, 4, 3, 2), (4, 3)),
        ]
    rows += [
        pool("avg", "include", f(1, 4, 4, 2), (3, 3), (2, 2), (1, 1, 1, 1), include=True),
        pool("avg", "include-uneven", f(1, 5, 4, 1), (2, 2), (2, 2), (1, 0, 0, 1), include=True),
        pool("max", "negative", f(1, 4, 4, 2, low=-9, high=-1), (3, 3), (1, 1), (1, 1, 1, 1)),
        pool("max", "i8", f(1, 4, 4, 2, low=-99, high=-1, dtype="i8"), (3, 3), (1, 1), (1, 1, 1, 1)),
        pool("max", "u8", f(1, 4, 4, 2, low=1, high=99, dtype="u8"), (2, 2), (2, 2), (1, 1, 1, 1)),
        Row("maxpool-nan", Pool("max", (2,), (1,), (0, 0), (1,), False), (PAIR_A.reshape(1, 9, 1),)),
    ]
    rows += [Row(f"maxpoolindices-{name}", op, (x,)) for name, op, x in (
        ("plain", MaxPoolIndices((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False), f(2, 4, 4, 3)),
        ("ties", MaxPoolIndices((2, 2), (1, 1), (0, 0, 0, 0), (1, 1), False), f(1, 4, 5, 2, low=0, high=2, dtype="i8")),
        ("pads", MaxPoolIndices((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False), f(1, 5, 4, 2)),
        ("columns", MaxPoolIndices((2, 3), (2, 1), (0, 1, 1, 0), (1, 1), True), f(2, 5, 4, 2)),
        ("dilations", MaxPoolIndices((2, 2), (1, 1), (0, 0, 0, 0), (2, 3), False), f(1, 5, 6, 1)),
        ("nan", MaxPoolIndices((2,), (1,), (0, 0), (1,), False), PAIR_A.reshape(1, 9, 1)),
    )]
    return rows


def _norm_rows() -> list[Row]:
    def attention(id: str, q: Spec, k: Spec, v: Spec, *mask: Spec, causal: bool = False, tol: float = 4 * F32) -> Row:
        return Row(f"attention-{id}", Attention(0.5, causal), (q, k, v, *mask), tol)

    c = f(4, low=0.5, high=2)
    rows = [Row(f"{name}-{axis}", op(axis), (f(2, 3, 4),), 4 * F32)
            for name, op in (("softmax", Softmax), ("logsoftmax", LogSoftmax)) for axis in (0, 1, 2)]
    rows += [
        Row("softmax-large", Softmax(0), (literal("f32", 1000, 1001, -1000),), F32),
        Row("softmax-masked", Softmax(0), (literal("f32", 1, -INF, 2),), F32),
        Row("softmax-f16", Softmax(1), (f(2, 5, dtype="f16"),), F16),
        Row("logsoftmax-bf16", LogSoftmax(1), (f(2, 5, dtype="bf16"),), BF16),
        Row("softmax-no-rows", Softmax(1), (f(0, 5),)),
        Row("layernorm", LayerNorm(1, 1e-5), (f(3, 4), f(4), f(4)), 16 * F32),
        Row("layernorm-two-axes", LayerNorm(1, 1e-3), (f(2, 3, 4), f(3, 4), f(3, 4)), 16 * F32),
        Row("layernorm-f16", LayerNorm(2, 1e-5), (f(2, 3, 8, dtype="f16"), f(8, dtype="f16"), f(8, dtype="f16")), 4 * F16),
        Row("rmsnorm", RmsNorm(1, 1e-5), (f(3, 4), f(4)), 8 * F32),
        Row("rmsnorm-bf16", RmsNorm(1, 1e-5), (f(3, 8, dtype="bf16"), f(8, dtype="bf16")), BF16),
        Row("batchnorm", BatchNorm(1e-5), (f(2, 3, 3, 4), f(4), f(4), f(4), c), 16 * F32),
        Row("batchnorm-rank2", BatchNorm(1e-3), (f(5, 4), f(4), f(4), f(4), c), 16 * F32),
        Row("gelu", Gelu("none"), (f(3, 5),), 4 * F32),
        Row("gelu-tanh", Gelu("tanh"), (f(3, 5),), 4 * F32),
        Row("gelu-f16", Gelu("none"), (f(9, dtype="f16"),), F16),
        attention("plain", f(2, 2, 3, 4), f(2, 2, 5, 4), f(2, 2, 5, 6)),
        attention("mask", f(1, 2, 3, 4), f(1, 2, 3, 4), f(1, 2, 3, 4), f(3, 3)),
        attention("causal", f(1, 2, 4, 3), f(1, 2, 4, 3), f(1, 2, 4, 3), causal=True),
        attention("causal-cache", f(1, 1, 2, 3), f(1, 1, 5, 3), f(1, 1, 5, 2), causal=True),
        attention("grouped", f(1, 4, 2, 3), f(1, 2, 5, 3), f(1, 2, 5, 3), f(4, 1, 5), causal=True),
        attention("one-group", f(2, 3, 2, 3), f(2, 1, 4, 3), f(2, 1, 4, 3)),
        attention("f16", *[f(1, 2, 3, 4, dtype="f16")] * 3, tol=F16),
        attention("causal-few-keys", f(1, 1, 3, 2), f(1, 1, 2, 2), f(1, 1, 2, 2), causal=True),
    ]
    return rows


ROWS: tuple[Row, ...] = (
    *_unary_rows(), *_binary_rows(), *_select_cast_rows(), *_reduce_rows(), *_contract_rows(), *_window_rows(),
    *_norm_rows(),
)
