"""Depthwise convolution of bytes and of bf16: words of four rows, spread weights, parameters in the order of the sums,
joined pixels."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.native_program import NativeProgram, compile_texts, lower_graph, optimise, program_text
from passes.test_lower_quantization import Model
from tilewright.codegen.lower import lower
from tilewright.codegen.machine import parse_machine
from tilewright.codegen.program import Program, all_calls
from tilewright.compiler.passes.lower_quantization import lower_quantization
from tilewright.compiler.passes.narrow_storage import narrow_storage
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.interpreter import run_graph
from tilewright.ir.kernel import Kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.elementwise import Binary
from tilewright.ir.types import TensorType
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


BF16 = {  # channels, window, stride, size
    "whole-block": (32, 3, 1, 13), "blocks-and-rest": (144, 3, 1, 9), "stride": (96, 3, 2, 13), "two-pixels": (16, 3, 1, 12),
    "large-window": (64, 7, 1, 9), "few-channels": (6, 3, 1, 9), "odd-channels": (33, 3, 1, 9),
}


def _bf16_graph(channels: int, window: int, stride: int, size: int) -> Graph:
    """A product, clip(depthwise convolution + bias), a product, with what lies between them in 16 bits."""
    rng, b = np.random.default_rng(0), Builder("bf16")
    x = b.input("x", TensorType("f32", (1, 8, size, 8)))
    constant = lambda *shape: b.constant(rng.uniform(-0.5, 0.5, shape).astype(np.float32))  # noqa: E731
    spread = b.add(MatMul(), x, constant(8, channels))
    conv = Conv((stride, stride), (0,) * 4, (1, 1), channels)
    bias = [constant(channels)] if channels != 16 else []
    y = b.add(conv, spread, constant(window, window, 1, channels), *bias)
    y = b.add(Binary("min"), b.add(Binary("max"), y, b.constant(np.float32(-1))), b.constant(np.float32(1)))
    graph = b.graph([b.add(MatMul(), y, constant(channels, 16))])
    return narrow_storage(optimise(graph, host_machine(), ("expand_composites", "fuse")), precision="bf16")


@pytest.mark.parametrize("name", BF16)
def test_channels_of_bf16_two_by_two(name: str) -> None:
    graph, machine = _bf16_graph(*BF16[name]), host_machine()
    shape = tuple(int(d) for d in graph.inputs[0].type.shape)  # type: ignore[arg-type]
    array = np.random.default_rng(1).uniform(-2, 2, shape).astype(np.float32)
    (expected,) = run_graph(graph, [array])
    for accuracy in ("default", "strict"):
        program = lower(graph, machine, accuracy=accuracy)
        spread = "vdpbf16ps" in machine.calls and name != "odd-channels" and accuracy == "default"
        assert (len(_depthwise(program)) == 1) == spread
        native = NativeProgram(program, compile_texts([program_text(program, "p", machine)], machine), "p.tw_main")
        for threads in (1, 2):
            (got,) = native.run([array], threads)
            np.testing.assert_allclose(got, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def _depthwise(program: Program) -> list[Kernel]:
    notes = ("weights spread", "four rows in a word")
    return [program.kernels[c.kernel] for c in all_calls(program.steps) if any(n in c.cost.schedule for n in notes)]
