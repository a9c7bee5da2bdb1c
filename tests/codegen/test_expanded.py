"""A product and the depthwise convolution of its image as one kernel, which keeps the rows between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from codegen.native_program import compile_program, optimise
from passes.meaning import array, f32
from tilewright.codegen.lower import lower
from tilewright.codegen.machine import Machine
from tilewright.codegen.program import Program, all_calls
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.contract import Conv
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.reduce import Reduce
from tilewright.targets.cpu.host import host_machine

PASSES = ("explicit_padding", "fuse", "row_means")


def small(l2: int = 4096) -> Machine:
    """A machine in whose cache few images fit."""
    return replace(host_machine(), l2=l2)


def silu(b: Builder, y: Value) -> Value:
    return b.add(Binary("mul"), y, b.add(Unary("sigmoid"), y))


def graph(
    shape: tuple[int, int, int, int], width: int, taps: int, stride: int, pads: tuple[int, int, int, int], *,
    first: Conv | None = None, means: bool = False, shown: bool = False,
) -> Graph:
    """A product to `width` channels, and a depthwise convolution with these taps, stride and pads."""
    b = Builder()
    x = b.input("x", f32(*shape))
    op = first or Conv((1, 1), (0, 0, 0, 0), (1, 1), 1)
    size = 1 if first is None else 3
    y = silu(b, b.add(op, x, b.constant(array(size, size, shape[-1], width, seed=1)), b.constant(array(width, seed=2))))
    depthwise = Conv((stride, stride), pads, (1, 1), width)
    z = silu(b, b.add(depthwise, y, b.constant(array(taps, taps, 1, width, seed=3)), b.constant(array(width, seed=4))))
    outputs = [z] + ([b.add(Reduce("mean", (1, 2), True), z)] if means else []) + ([y] if shown else [])
    return b.graph(outputs)


def expanded(program: Program) -> int:
    return sum("ring" in c.cost.schedule for c in all_calls(program.steps))


CASES = {
    "stride 1": graph((1, 28, 19, 8), 32, 3, 1, (1, 1, 1, 1)),
    "two images": graph((2, 30, 12, 12), 24, 3, 1, (1, 1, 1, 1)),
    "stride 2, border after the image alone": graph((1, 28, 28, 8), 16, 3, 2, (0, 0, 1, 1)),
    "five taps, channels that do not fill vectors, means": graph((1, 56, 15, 8), 20, 5, 1, (2, 2, 2, 2), means=True),
    "rows that make no pairs of blocks": graph((1, 33, 17, 8), 16, 3, 1, (1, 1, 1, 1)),
    "after a convolution of stride 2": graph((1, 60, 34, 3), 16, 3, 1, (1, 1, 1, 1),
                                             first=Conv((2, 2), (1, 1, 1, 1), (1, 1), 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pair(case: str) -> None:
    """The results are those of two kernels, bit by bit, for any number of threads."""
    g = CASES[case]
    machine = small()
    program = lower(optimise(g, machine, PASSES), machine)
    assert expanded(program) == 1, [c.cost.schedule for c in all_calls(program.steps)]
    x = np.random.default_rng(7).standard_normal(g.inputs[0].type.static_shape).astype(np.float32)
    wanted = run_graph(g, [x])
    apart = compile_program(lower(optimise(g, host_machine(), PASSES), host_machine())).run([x], 2)
    native = compile_program(program)
    for threads in (1, 2, 3, 7):
        for got, want, other in zip(native.run([x], threads), wanted, apart, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
            np.testing.assert_array_equal(got, other)


def test_pairs_that_stay_two_kernels() -> None:
    """Where the image fits in the cache, is read by others, or where most rows would be computed twice."""
    fits = CASES["stride 1"]
    machine = small(1 << 20)
    assert expanded(lower(optimise(fits, machine, PASSES), machine)) == 0
    for g in (graph((1, 40, 20, 8), 32, 3, 1, (1, 1, 1, 1), shown=True), graph((1, 10, 40, 8), 32, 5, 1, (2, 2, 2, 2))):
        assert expanded(lower(optimise(g, small(), PASSES), small())) == 0
