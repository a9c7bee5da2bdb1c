"""Kernels that differ in scales and zero points alone: one function, a table for each call, the same results."""

from __future__ import annotations

import numpy as np
from codegen.gpu_groups import MACHINE
from suites.test_cuda import lower_graph
from tilewright.codegen.cuda_program import print_program
from tilewright.codegen.program import Program, all_calls
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.elementwise import Binary
from tilewright.ir.ops.quantize import Quantize
from tilewright.ir.types import TensorType
from tilewright.targets.cuda.emulator.run import EmulatedProgram

SCALES = ((0.35, 3), (0.41, 5), (0.41, 5), (0.125, 0))


def quantized(scales: tuple[tuple[float, int], ...] = SCALES) -> Graph:
    """An input for each scale and zero point, quantized and scaled; one is shifted by a number that all have."""
    b = Builder("quantized")
    made = []
    for n, (scale, zero) in enumerate(scales):
        x = b.input(f"x{n}", TensorType("f32", (40,)))
        shifted = b.add(Binary("add"), x, _number(b, 0.75))
        made.append(b.add(Quantize("u8", 0, 255), shifted, _number(b, scale), b.constant(np.array(zero, np.uint8))))
    return b.graph(made)


def _number(b: Builder, value: float) -> Value:
    return b.constant(np.array(value, np.float32))


def run(program: Program, arrays: list[np.ndarray]) -> list[np.ndarray]:
    return EmulatedProgram(program, print_program(program, MACHINE)).run(arrays)


def test_one_function_for_all_scales() -> None:
    graph = quantized()
    program = lower_graph(graph)
    calls = list(all_calls(program.steps))
    assert len(calls) == 4
    assert calls[0].kernel == calls[1].kernel == calls[2].kernel != calls[3].kernel  # without a zero point: no addition
    first, second, third = (c.args for c in calls[:3])
    assert first[-1] != second[-1] == third[-1]
    text = print_program(program, MACHINE).text
    assert "numbers_f32[" in text and "numbers_i32[" in text
    assert "0.75f" in text  # what all have stays in the text
    arrays = [np.random.default_rng(n).standard_normal(40).astype("f4") * 5 for n in range(4)]
    for got, expected in zip(run(program, arrays), run_graph(graph, arrays), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_numbers_of_one_kernel_stay_in_its_text() -> None:
    program = lower_graph(quantized(SCALES[:1]))
    assert "numbers" not in print_program(program, MACHINE).text
    assert program.constant_bytes == lower_graph(quantized(SCALES[:1] * 2)).constant_bytes == 0
