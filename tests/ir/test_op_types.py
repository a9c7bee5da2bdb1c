"""What `infer` accepts, symbolic dimensions included, what it refuses in which words, and kernels over symbolic sizes."""

from __future__ import annotations

import numpy as np
import pytest
from suites.lowered import buffers, expanded
from suites.row import check, type_of
from tilewright.ir.compute import lower_group
from tilewright.ir.errors import InternalError, ModelError
from tilewright.ir.expr import Expr
from tilewright.ir.graph import Builder
from tilewright.ir.interpreter import run_graph
from tilewright.ir.kernel import Kernel, axis
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.ops.base import Op, form_of
from tilewright.ir.ops.contract import Conv, ConvTranspose, MatMul
from tilewright.ir.ops.elementwise import BINARY, UNARY, Binary, Cast, Select, Unary
from tilewright.ir.ops.norm import Attention, BatchNorm, Gelu, LayerNorm, Softmax
from tilewright.ir.ops.quantized_attention import QuantizedAttention
from tilewright.ir.ops.reduce import ArgReduce, CumSum, Reduce
from tilewright.ir.ops.window import MaxPoolIndices, Pool
from tilewright.ir.types import DTYPES, NUMBERS, Dim, TensorType

N, M, H = axis("N", None), axis("M", None), axis("H", None)


def t(*shape: Dim, dtype: str = "f32") -> TensorType:
    return TensorType(dtype, shape)


ADD = Binary("add")
CONV = Conv((2, 1), (1, 1, 0, 1), (1, 2), 1)
BYTES_ATTENTION = QuantizedAttention(1.0, (1, 2, 3), (), (0.01, 0, 0, 255), 1.0, (0, 0, 255))


def u(*shape: Dim) -> TensorType:
    return t(*shape, dtype="u8")


ACCEPTED: list[tuple[Op, tuple[TensorType, ...], TensorType]] = [
    (ADD, (t(N, 3), t(N, 1)), t(N, 3)),
    (ADD, (t(N), t(1)), t(N)),
    (ADD, (t(1, 4), t(N * 2, 1)), t(N * 2, 4)),
    (ADD, (t(N + 1), t(1 + N)), t(N + 1)),
    (Binary("lt"), (t(N), t(N)), t(N, dtype="bool")),
    (Unary("isnan"), (t(N),), t(N, dtype="bool")),
    (Cast("i8"), (t(N),), t(N, dtype="i8")),
    (Select(), (t(N, 1, dtype="bool"), t(M), t(1, M)), t(N, M)),
    (Reduce("sum", (0, 2), True), (t(N, 3, M),), t(1, 3, 1)),
    (Reduce("sum", (0, 2), False), (t(N, 3, M),), t(3)),
    (ArgReduce("max", 0, False, False), (t(N, M),), t(M, dtype="i64")),
    (CumSum(0, False, False), (t(N),), t(N)),
    (MatMul(), (t(N, 1, 4, M), t(H, M, 5)), t(N, H, 4, 5)),
    (CONV, (t(N, H, 8, 2), t(3, 3, 2, 4)), t(N, (H - 2) // 2 + 1, 6, 4)),
    (ConvTranspose((2,), (1, 0), (1,), 1, (0,)), (t(N, H, 2), t(3, 5, 2)), t(N, H * 2, 5)),
    (Pool("avg", (2,), (2,), (0, 1), (1,), False), (t(N, H, 3),), t(N, (H - 1) // 2 + 1, 3)),
    (MaxPoolIndices((2,), (2,), (0, 0), (1,), False), (t(N, 4, 3),), t(N, 2, 3, dtype="i64")),
    (LayerNorm(1, 1e-5), (t(N, M), t(M), t(M)), t(N, M)),
    (Attention(1.0, True), (t(N, 4, M, 8), t(N, 2, H, 8), t(N, 2, H, 6), t(M, H)), t(N, 4, M, 6)),
    (BYTES_ATTENTION, (u(N, 4, M, 8), u(N, 4, H, 8), u(N, 4, H, 6), t(M, H)), u(N, 4, M, 6)),
]


@pytest.mark.parametrize("op, types, expected", ACCEPTED, ids=lambda x: str(x) if isinstance(x, (Op, TensorType)) else "")
def test_symbolic_types(op: Op, types: tuple[TensorType, ...], expected: TensorType) -> None:
    assert op.infer(*types) == (expected,)


REFUSED: list[tuple[Op, tuple[TensorType, ...], str]] = [
    (ADD, (t(3), t(4)), r"Binary: shapes \[3\] and \[4\] do not broadcast: 3 meets 4"),
    (ADD, (t(N), t(M)), r"do not broadcast: N meets M"),
    (ADD, (t(N), t(3)), r"do not broadcast: N meets 3"),
    (ADD, (t(3), t(3, dtype="f16")), r"one element type, got f32\[3\], f16\[3\]; cast one"),
    (ADD, (t(3),), r"expected 2 operands, got 1"),
    (ADD, (t(3, dtype="bool"), t(3, dtype="bool")), r"operands of add must be floats or .*, got bool\[3\]; cast it"),
    (Unary("exp"), (t(3, dtype="i32"),), r"the operand of exp must be floats, got i32\[3\]"),
    (Unary("not"), (t(3),), r"must be bool"),
    (Binary("shl"), (t(3, dtype="i32"), t(3, dtype="i32")), r"must be unsigned integers"),
    (Select(), (t(3), t(3), t(3)), r"the condition must be bool"),
    (Reduce("sum", (3,), True), (t(2, 2),), r"axis 3 is outside of f32\[2, 2\]"),
    (Reduce("sum", (0, 0), True), (t(2, 2),), r"axes \(0, 0\) are not distinct"),
    (Reduce("median", (0,), True), (t(2, 2),), r"unknown function 'median', expected one of sum"),
    (Reduce("mean", (0,), True), (t(0, dtype="i32"),), r"the integer mean of no elements"),
    (ArgReduce("max", 0, True, False), (t(0, 3),), r"axis 0 of f32\[0, 3\] has no elements"),
    (MatMul(), (t(3, 4), t(5, 6)), r"inner dimensions of f32\[3, 4\] and f32\[5, 6\] differ"),
    (MatMul(), (t(3), t(3, 6)), r"at least 2 dimensions"),
    (CONV, (t(1, 8, 8, 3), t(3, 3, 2, 4)), r"1 groups do not divide the channels"),
    (CONV, (t(1, 1, 8, 2), t(3, 3, 2, 4)), r"a window of 3 does not fit into spatial dimension 0 of size 1"),
    (CONV, (t(1, 8, 8, 2), t(3, 3, 2, 4), t(5)), r"one element per output channel, 4, got f32\[5\]"),
    (CONV, (t(1, 8, 2), t(3, 2, 4)), r"strides must be 1 integers of at least 1, got \(2, 1\)"),
    (CONV, (t(8, 2), t(3, 4)), r"expected x\[N, \*spatial, C\]"),
    (Conv((1,), (-1, 0), (1,), 1), (t(1, 8, 2), t(3, 2, 4)), r"pads must be 2 integers of at least 0, got \(-1, 0\)"),
    (Pool("avg", (2,), (1,), (0, 0), (1,), False), (t(1, 4, 2, dtype="i8"),), r"operand of avg must be floats"),
    (Pool("sum", (2,), (1,), (0, 0), (1,), False), (t(1, 4, 2),), r"unknown function 'sum'"),
    (ConvTranspose((1,), (3, 3), (1,), 1, (0,)), (t(1, 2, 2), t(3, 4, 2)), r"spatial dimension 0 of the result has size -2"),
    (LayerNorm(1, 1e-5), (t(3, 4), t(3), t(4)), r"do not broadcast"),
    (LayerNorm(1, 1e-5), (t(1, 4), t(3, 4), t(4)), r"f32\[3, 4\] does not broadcast to f32\[1, 4\]"),
    (BatchNorm(1e-5), (t(1, 4), t(1), t(4), t(4), t(4)), r"expected one number per channel"),
    (Gelu("fast"), (t(3),), r"approximate is 'fast', expected none or tanh"),
    (Softmax(2), (t(3, 4),), r"axis 2 is outside"),
    (Attention(1.0, False), (t(1, 3, 4, 8), t(1, 2, 4, 8), t(1, 2, 4, 8)), r"the 3 heads of q must be a multiple of the 2"),
    (BYTES_ATTENTION, (u(1, 2, 4, 8), t(1, 2, 4, 8), u(1, 2, 4, 8)), r"expected u8, and bytes for k and v"),
    (BYTES_ATTENTION, (u(1, 2, 4, 8), u(1, 2, 4, 7), u(1, 2, 4, 8)), r"do not fit"),
    (BYTES_ATTENTION, (*(u(1, 2, 4, 8),) * 3, t(4, 3)), r"do not broadcast|is no f32 that broadcasts"),
    (Attention(1.0, False), (t(1, 2, 4, 8), t(1, 2, 4, 7), t(1, 2, 4, 8)), r"do not fit"),
]


@pytest.mark.parametrize("op, types, message", REFUSED, ids=lambda x: str(x) if isinstance(x, (Op, str)) else "")
def test_refused_types(op: Op, types: tuple[TensorType, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        op.infer(*types)


def test_unknown_functions_are_bugs() -> None:
    with pytest.raises(InternalError, match="Unary has no function 'wave'"):
        Unary("wave").infer(t(3))
    with pytest.raises(InternalError, match="unknown element type 'f8'"):
        Cast("f8").infer(t(3))


@pytest.mark.parametrize("table, op", [(UNARY, Unary), (BINARY, Binary)])
def test_tables_cover_every_kind_they_name(table: dict, op: type) -> None:
    for fn, function in table.items():
        for dtype, info in ((d, DTYPES[d]) for d in NUMBERS):
            types = [t(2, dtype=dtype)] * (1 if op is Unary else 2)
            if info.kind not in function.kinds:
                with pytest.raises(ModelError):
                    op(fn).infer(*types)
                continue
            (out,) = op(fn).infer(*types)
            arrays = [np.ones(2, info.numpy)] * len(types)
            assert type_of(op(fn).evaluate(*arrays)[0]) == out
            (o,), ins = buffers("out", (out,)), buffers("in", tuple(types))
            assert op(fn).compute(o, *ins).result(op(fn).compute(o, *ins).body).type.dtype == out.dtype


# Operands with symbolic dimensions, their values, and the sizes that these give.
SYMBOLIC: list[tuple[str, Op, tuple[TensorType, ...], dict[Expr, int]]] = [
    ("add", ADD, (t(N, 3), t(1, 3)), {N: 2}),
    ("sum", Reduce("sum", (0,), True), (t(N, M),), {N: 3, M: 2}),
    ("mean", Reduce("mean", (0, 1), False), (t(N, M),), {N: 3, M: 2}),
    ("argmax", ArgReduce("max", 1, False, True), (t(N, M, 2),), {N: 3, M: 4}),
    ("cumsum", CumSum(0, False, True), (t(N, M),), {N: 3, M: 4}),
    ("matmul", MatMul(), (t(N, M, 3), t(3, H)), {N: 2, M: 3, H: 2}),
    ("conv", CONV, (t(N, H, 5, 2), t(3, 3, 2, 3), t(3)), {N: 2, H: 4}),
    ("maxpool", Pool("max", (3, 2), (2, 1), (1, 0, 1, 1), (1, 1), False), (t(N, H, M, 2),), {N: 1, H: 5, M: 3}),
    ("avgpool", Pool("avg", (3, 2), (2, 2), (1, 0, 1, 1), (1, 2), False), (t(N, H, M, 2),), {N: 1, H: 4, M: 5}),
    ("indices", MaxPoolIndices((3,), (2,), (1, 1), (1,), False), (t(N, H, 2),), {N: 2, H: 5}),
    ("transposed", ConvTranspose((2,), (1, 0), (2,), 1, (1,)), (t(N, H, 2), t(3, 3, 2), t(3)), {N: 2, H: 4}),
    ("shuffle", ConvTranspose((2, 2), (0,) * 4, (1, 1), 1, (0, 0)), (t(N, H, 3, 2), t(2, 2, 3, 2)), {N: 1, H: 2}),
    ("layernorm", LayerNorm(1, 1e-5), (t(N, M), t(M), t(M)), {N: 2, M: 5}),
    ("attention", Attention(0.5, True), (t(N, 4, M, 3), t(N, 2, H, 3), t(N, 2, H, 3)), {N: 2, M: 2, H: 5}),
]


@pytest.mark.parametrize("op, types, sizes", [pytest.param(*s[1:], id=s[0]) for s in SYMBOLIC])
def test_lowering_with_symbolic_sizes(op: Op, types: tuple[TensorType, ...], sizes: dict[Expr, int]) -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal([sizes.get(d, d) for d in x.shape]).astype(np.float32) for x in types]  # type: ignore
    expected = op.evaluate(*arrays)
    if form_of(op) == "expand":
        got = run_graph(expanded(op, types), arrays)
    else:
        outs, ins = buffers("out", op.infer(*types)), buffers("in", types)
        if form_of(op) == "kernel":
            made = op.kernel(outs, ins)
        else:
            made = lower_group("k", (*outs, *ins), (op.compute(outs[0], *ins),))
        kernel = Kernel(made.name, (*made.params, *sizes), made.body)  # type: ignore[arg-type]
        got = [np.zeros_like(e) for e in expected]
        named = {b.name: a for b, a in zip((*outs, *ins), (*got, *arrays), strict=True)}
        run_kernel(kernel, named, {v.name: n for v, n in sizes.items()})  # type: ignore[attr-defined]
    for a, e in zip(got, expected, strict=True):
        check(a, e, 1e-5)


def test_a_window_without_pads_reads_plainly() -> None:
    """No select and no clamp, so that schedules see affine reads; and no select where the end padding is not reached."""
    for op, types in (
        (Conv((1, 1), (0,) * 4, (1, 1), 1), (t(1, 4, 4, 2), t(3, 3, 2, 2))),
        (Conv((1, 1), (0,) * 4, (1, 1), 2), (t(N, H, M, 4), t(3, 3, 2, 4))),
        (Pool("max", (2, 2), (2, 2), (0, 0, 1, 1), (1, 1), False), (t(1, 4, 4, 2),)),
        (Pool("avg", (2, 2), (2, 2), (0,) * 4, (1, 1), False), (t(N, H, M, 2),)),
    ):
        text = str(op.compute(buffers("out", op.infer(*types))[0], *buffers("in", types)).body)
        assert not any(word in text for word in ("select", "min(", "max(")), text


def test_weights_of_a_transposed_convolution_do_not_depend_on_x() -> None:
    """They are made of constants alone, so that they fold."""
    b = Builder()
    x, w = b.input("x", t(1, 4, 2)), b.constant(np.ones((3, 5, 2), np.float32))
    ConvTranspose((2,), (1, 1), (1,), 1, (0,)).expand(b, x, w)
    conv = next(n for n in b.nodes if isinstance(n.op, Conv))
    weights, inputs = conv.inputs[1], set()
    while weights in b.producers:
        inputs.add(b.producers[weights].op.name)
        weights = b.producers[weights].inputs[0]
    assert weights is w and inputs == {"Slice", "Reshape", "Transpose"}
