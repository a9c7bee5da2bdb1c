"""Maps, windows, rows, columns and transposes for graphics processors, in the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from codegen.gpu_groups import MACHINE, aligned, run
from suites.test_cuda import lower_graph
from tilewright.codegen.cuda_program import print_program
from tilewright.codegen.strategies.gpu.select import schedule_irregular
from tilewright.ir.graph import Builder
from tilewright.ir.kernel import Buffer
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.movement import Transpose
from tilewright.ir.ops.norm import LayerNorm, Softmax
from tilewright.ir.ops.reduce import ArgReduce, Reduce
from tilewright.ir.ops.window import Pool
from tilewright.ir.types import TensorType, dtype_of
from tilewright.targets.cuda.emulator.run import EmulatedProgram, emulate_kernel


def floats(*shape: int, dtype: str = "f4") -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def depthwise(channels: int, stride: int = 1) -> Conv:
    return Conv((stride, stride), (1, 1, 1, 1), (1, 1), channels)


# name: operator, operands, weights, what the schedule says
CASES: dict[str, tuple[Any, list[np.ndarray], tuple[int, ...], str]] = {
    "map": (Unary("exp"), [floats(3, 40)], (), "4 elements a thread"),
    "map of 16 bits": (Unary("exp"), [floats(3, 40, dtype="f2")], (), "8 elements a thread"),
    "map of odd size": (Binary("add"), [floats(3, 41), floats(1, 41)], (), "an element a thread"),
    "transpose": (Transpose((0, 2, 1)), [floats(3, 40, 50)], (), "through shared memory"),
    "transpose far": (Transpose((2, 0, 1)), [floats(33, 4, 50)], (), "through shared memory"),
    "depthwise": (depthwise(16), [floats(2, 9, 8, 16), floats(3, 3, 1, 16), floats(16)], (1, 2), "4 elements a thread"),
    "depthwise strided": (
        depthwise(16, 2), [floats(2, 9, 8, 16, dtype="f2"), floats(3, 3, 1, 16, dtype="f2"), floats(16, dtype="f2")], (1, 2),
        "8 elements a thread",
    ),
    "max pool": (Pool("max", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False), [floats(2, 9, 9, 8)], (), "4 elements a thread"),
    "average pool": (Pool("avg", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False), [floats(2, 9, 9, 8)], (), "4 elements"),
    "mean of pixels": (Reduce("mean", (1, 2), True), [floats(2, 7, 7, 24)], (), "columns of 49"),
    "mean of rows": (Reduce("mean", (2,), True), [floats(2, 7, 100)], (), "a warp a row"),
    "short rows": (Reduce("max", (2,), True), [floats(2, 7, 24)], (), "8 threads a row"),
    "rows of two warps": (Reduce("max", (1,), True), [floats(2, 1664)], (), "64 threads a row"),
    "long rows": (Reduce("max", (2,), False), [floats(2, 7, 5000)], (), "256 threads a row"),
    "one long row": (Reduce("sum", (0, 1), False), [floats(170, 300)], (), "1024 threads a row"),
    "vector by matrix": (MatMul(), [floats(1, 200), floats(200, 300)], (), "columns of 200"),
    "vector by weights": (MatMul(), [floats(1, 200), floats(200, 300)], (1,), "300 rows of 200"),
    "few rows by weights": (MatMul(), [floats(3, 200, dtype="f2"), floats(200, 30, dtype="f2")], (1,), "90 rows of 200"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_operator(name: str) -> None:
    op, arrays, constants, note = CASES[name]
    got, made = run(op, arrays, constants)
    expected = op.evaluate(*arrays)[0].astype(np.float64)
    tolerance = 2e-3 if arrays[0].dtype == np.float16 else 1e-5
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert note in made.note


def test_neighbouring_positions_share_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.codegen.strategies.gpu import maps

    monkeypatch.setattr(maps, "ENOUGH_THREADS", 0)
    op, arrays, constants, _ = CASES["depthwise"]
    got, made = run(op, arrays, constants)
    np.testing.assert_allclose(got, op.evaluate(*arrays)[0], rtol=0, atol=1e-5)
    assert "4 positions" in made.note


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("fn", ["max", "min"])
@pytest.mark.parametrize("shape", [(3, 40), (5, 40, 3), (2, 5000)])
def test_positions(shape: tuple[int, ...], fn: str, last: bool) -> None:
    array = np.random.default_rng(0).integers(-5, 5, shape).astype("f4")
    array.reshape(-1)[::37] = np.nan
    op = ArgReduce(fn, 1, False, last)
    (expected,) = op.evaluate(array)
    x, y = (Buffer(n, dtype_of(a), a.shape, align=16) for n, a in (("x0", array), ("y0", expected)))
    made = schedule_irregular(op, (y,), (x,), MACHINE)
    verify_kernel(made.kernel, scheduled=True)
    data = {"x0": aligned(array), "y0": aligned(np.full(expected.shape, -1, np.int64))}
    emulate_kernel(made.kernel, data)
    np.testing.assert_array_equal(data["y0"], expected)


@pytest.mark.parametrize("shape", [(6, 96), (5, 3, 40), (3, 2500), (40, 7)])
def test_softmax_and_layer_norm_are_one_launch(shape: tuple[int, ...]) -> None:
    b = Builder("rows")
    x = b.input("x", TensorType("f32", shape))
    scale, bias = (b.constant(floats(shape[-1])) for _ in range(2))
    graph = b.graph([b.add(Softmax(len(shape) - 1), x), b.add(LayerNorm(len(shape) - 1, 1e-5), x, scale, bias)])
    program = lower_graph(graph, MACHINE)
    source = print_program(program, MACHINE)
    assert len(source.functions) == 2
    array = aligned(floats(*shape))
    found = EmulatedProgram(program, source).run([array])
    e = np.exp(array - array.max(-1, keepdims=True))
    centred = array - array.mean(-1, keepdims=True)
    norm = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * floats(shape[-1]) + floats(shape[-1])
    np.testing.assert_allclose(found[0], e / e.sum(-1, keepdims=True), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[1], norm, rtol=1e-4, atol=1e-5)


def test_threads_beyond_the_last_row_read_nothing() -> None:
    """Values of rows are computed by every thread of a warp, also by those that have no row."""
    b = Builder("few rows")
    x, y = b.input("x", TensorType("f32", (2, 8))), b.input("y", TensorType("f32", (2, 1)))
    rest = b.add(Binary("sub"), b.add(Reduce("max", (1,), True), x), y)
    program = lower_graph(b.graph([b.add(Unary("exp"), rest), rest]), MACHINE)
    arrays = [floats(2, 8), floats(2, 1)]
    found = EmulatedProgram(program, print_program(program, MACHINE)).run(arrays)
    expected = arrays[0].max(1, keepdims=True) - arrays[1]
    np.testing.assert_allclose(found[0], np.exp(expected), rtol=1e-6)
    np.testing.assert_array_equal(found[1], expected)
