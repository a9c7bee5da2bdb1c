"""NaN, infinities, zeros of both signs, subnormal and extreme numbers: machine code gives what NumPy gives.

What differs is stated in docs/reliability.md: the sign of a zero where an operator makes or chooses one, and floats that an
integer type cannot hold, which NumPy leaves to the processor.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from codegen.native_program import NativeProgram, compile_texts, lower_graph, program_text
from tilewright.ir.graph import Builder, Value
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.elementwise import Binary, Cast, Select, Unary
from tilewright.ir.ops.norm import LogSoftmax, Softmax
from tilewright.ir.ops.reduce import ArgReduce, CumSum, Reduce
from tilewright.ir.ops.window import Pool
from tilewright.ir.types import DTYPES, TensorType, dtype_of
from tilewright.targets.cpu.host import host_machine

UNARY = (
    "neg", "abs", "exp", "log", "sqrt", "erf", "tanh", "sigmoid", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "asinh", "acosh", "atanh", "floor", "ceil", "rint", "sign", "reciprocal", "isnan", "isinf",
)  # fmt: skip
BINARY = ("add", "sub", "mul", "div", "pow", "mod", "fmod", "max", "min", "lt", "le", "gt", "ge", "eq", "ne")
NUMBERS = (
    np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1.1754944e-38, -1.1754944e-38, 3.4e38, -3.4e38, 1.0, -1.0,
    0.5, 2.0, -2.5, 3.0, 88.0, -88.0, -104.0, 710.0, 1e-20, 1e20, 3.5, -0.25,
)  # fmt: skip
ROWS = (
    [np.nan, 1, 2, 3] * 5, [1, np.nan, 2, 3] * 5, [np.inf, 1, 2, 3] * 5, [-np.inf, 1, np.inf, 3] * 5, [-np.inf] * 20,
    [1e-40] * 20, [3e38] * 20, [1, -1] * 10,
)  # fmt: skip
TOLERANCE = {"f32": 2e-5, "f64": 2e-5, "f16": 2e-3, "bf16": 2e-2}
SMALLEST = 1e-42  # of f32 numbers this small, the last bits are not compared


def cases(dtype: str) -> list[tuple[Op, tuple[np.ndarray, ...]]]:
    t = DTYPES[dtype].numpy
    x = np.array(NUMBERS).astype(t)
    first, second = (a.copy() for a in np.meshgrid(x, x))
    rows = np.array(ROWS).astype(t)
    made: list[tuple[Op, tuple[np.ndarray, ...]]] = [(Unary(fn), (x,)) for fn in UNARY]
    made += [(Binary(fn), (first, second)) for fn in BINARY]
    made += [(Reduce(fn, (1,), False), (rows,)) for fn in ("sum", "mean", "prod", "max", "min")]
    made += [(op, (rows,)) for op in (Softmax(1), LogSoftmax(1), CumSum(1, False, False))]
    made += [(ArgReduce(fn, 1, False, False), (rows,)) for fn in ("max", "min")]
    made += [(Cast(to), (x,)) for to in ("bool", "f64", "f32", "f16", "bf16") if to != dtype]
    made.append((Select(), (first > 0, first, second)))
    image = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1).astype(t)
    image[0, 2, 2, 0], image[0, 0, 4, 0] = np.nan, -np.inf
    made += [(Pool(fn, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), False), (image,)) for fn in ("max", "avg")]
    if dtype in ("f32", "f64"):
        a, b = np.ones((4, 5), t), np.ones((5, 17), t)
        a[0, 1], a[1, 2], a[2, 3], b[2, 3] = np.nan, np.inf, 1e-40, 0
        made.append((MatMul(), (a, b)))
    return made


def run(rows: list[tuple[Op, tuple[np.ndarray, ...]]]) -> list[np.ndarray]:
    """All of them as one program."""
    b = Builder("special")
    known: dict[int, Value] = {}
    arrays = []
    outputs = []
    for op, operands in rows:
        for a in operands:
            if id(a) not in known:
                known[id(a)] = b.input(f"x{len(known)}", TensorType(dtype_of(a), a.shape))
                arrays.append(a)
        outputs += b.add_multi(op, *(known[id(a)] for a in operands))
    program = lower_graph(b.graph(outputs, [f"y{i}" for i in range(len(outputs))]))
    engine = compile_texts([program_text(program, "p", host_machine())], host_machine())
    return NativeProgram(program, engine, "p.tw_main").run(arrays, 1)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_as_in_numpy(dtype: str) -> None:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's about these values
        rows = cases(dtype)
        wrong = []
        for (op, operands), got in zip(rows, run(rows), strict=True):
            want = op.evaluate(*operands)[0]
            assert got.dtype == want.dtype
            a, b = got.astype(np.float64), want.astype(np.float64)
            near = np.abs(a - b) <= TOLERANCE[dtype] * np.abs(b) + SMALLEST
            different = ~((np.isnan(a) & np.isnan(b)) | (a == b) | near)
            places = map(tuple, np.argwhere(different).tolist())
            wrong += [f"{op}{place}: got {a[place]}, NumPy has {b[place]}" for place in places]
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("to", ["i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8"])
def test_casts_to_integers_saturate(to: str) -> None:
    """The standard leaves open what becomes of a float that the type cannot hold; here it is the nearest number, of NaN 0."""
    x = np.array([*NUMBERS, 255.0, 256.0, -129.0, 65536.0, 2.0**31, 2.0**63, -(2.0**63)], np.float32)
    info = np.iinfo(DTYPES[to].numpy)
    (got,) = run([(Cast(to), (x,))])
    for v, g in zip(x.tolist(), got.tolist(), strict=True):
        want = 0 if v != v else info.max if v >= info.max else info.min if v <= info.min else int(v)
        assert g == want, f"{v} as {to}"
