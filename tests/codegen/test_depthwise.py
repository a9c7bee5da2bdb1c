"""Depthwise convolution of bytes: words of four rows, spread weights, parameters in the order of the sums, joined pixels."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.native_program import NativeProgram, compile_texts, lower_graph, program_text
from passes.test_lower_quantization import Model
from tilewright.codegen.machine import parse_machine
from tilewright.codegen.program import Program, all_calls
from tilewright.compiler.passes.lower_quantization import lower_quantization
from tilewright.ir.graph import Graph
from tilewright.ir.interpreter import run_graph
from tilewright.ir.kernel import Kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.contract import Conv
from tilewright.targets.cpu.host import host_machine

CASES = {
    "whole-block": (64, 3, 1, 11, "u8"), "blocks-and-rest": (144, 3, 1, 7, "u8"), "stride": (96, 3, 2, 13, "u8"),
    "two-pixels": (32, 3, 1, 12, "u8"), "odd-pixels": (32, 3, 1, 11, "u8"), "few-channels": (8, 3, 1, 16, "u8"),
    "large-window": (64, 7, 1, 9, "u8"), "signed": (68, 3, 1, 9, "i8"), "odd-channels": (30, 3, 1, 9, "u8"),
    "four-rows": (64, 4, 1, 9, "u8"), "two-rows": (48, 2, 1, 9, "u8"), "wide": (80, 3, 1, 40, "i8"),
}


def _graph(channels: int, window: int, stride: int, size: int, dtype: str) -> Graph:
    m = Model()
    pad = window // 2
    x = m.pair(m.input(1, 5, size, channels), 0.02, 20, dtype)
    bias = m.b.constant(np.linspace(-1, 1, channels).astype(np.float32))
    conv = Conv((stride, stride), (pad,) * 4, (1, 1), channels)
    y = m.b.add(conv, x, m.weights(window, window, 1, channels, axis=3), bias)
    return m.b.graph([m.quantize(y, 0.05, 77, dtype)])


@pytest.mark.parametrize("name", CASES)
def test_machine_code(name: str) -> None:
    g = _graph(*CASES[name])
    program = lower_graph(lower_quantization(g))
    machine = host_machine()
    assert (len(_depthwise(program)) == 1) == ("vpdpbusd" in machine.calls and name != "odd-channels")
    native = NativeProgram(program, compile_texts([program_text(program, "p", machine)], machine), "p.tw_main")
    shape = tuple(int(d) for d in g.inputs[0].type.shape)  # type: ignore[arg-type]
    array = np.random.default_rng(1).uniform(-2, 2, shape).astype(np.float32)
    (expected,) = run_graph(g, [array])
    for threads in (1, 2):
        (got,) = native.run([array], threads)
        assert got.dtype == expected.dtype
        assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1
        assert (got != expected).mean() < 0.01


@pytest.mark.parametrize("machine", ["znver5", "alderlake", "neoverse-v1"])
def test_kernels_of_machines(machine: str) -> None:
    (kernel,) = _depthwise(lower_graph(lower_quantization(_graph(*CASES["blocks-and-rest"])), parse_machine(f"cpu:{machine}")))
    verify_kernel(kernel, scheduled=True)


def _depthwise(program: Program) -> list[Kernel]:
    notes = ("weights spread", "four rows in a word")
    return [program.kernels[c.kernel] for c in all_calls(program.steps) if any(n in c.cost.schedule for n in notes)]
