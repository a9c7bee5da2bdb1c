"""`channel_words`: three channels of bytes become words of four where they are made, with machine code to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.native_program import NativeProgram, compile_texts, lower_graph, program_text
from passes.meaning import counts, f32, number, preserved
from tilewright.codegen.program import all_calls
from tilewright.compiler.passes.channel_words import channel_words
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.elementwise import Binary
from tilewright.ir.ops.movement import Pad, Transpose
from tilewright.ir.ops.quantize import Saturate
from tilewright.ir.types import TensorType
from tilewright.targets.cpu.host import host_machine


def _image(columns: int, channels: int = 3, dtype: str = "u8", batch: int = 1) -> Graph:
    b = Builder("image")
    low, high = (0, 255) if dtype == "u8" else (-128, 127)
    x = b.add(Saturate(dtype, low, high, 7), b.input("x", f32(batch, channels, 5, columns)))
    x = b.add(Transpose((0, 2, 3, 1)), x)
    return b.graph([b.add(Pad((0, 1, 0, 0), (0, 1, 2, 4 - channels), "constant"), x, number(b, 7, dtype))])


@pytest.mark.parametrize("columns, channels, dtype, batch", [(37, 3, "u8", 1), (16, 3, "i8", 2), (5, 2, "u8", 1)])
def test_bytes_are_stored_as_words(columns: int, channels: int, dtype: str, batch: int) -> None:
    g = _image(columns, channels, dtype, batch)
    after = preserved(g, channel_words)
    assert counts(after)["Pad"] == 2
    program = lower_graph(after)
    kernels = [program.kernels[c.kernel] for c in all_calls(program.steps)]
    assert any("words" in str(k) for k in kernels)
    machine = host_machine()
    native = NativeProgram(program, compile_texts([program_text(program, "p", machine)], machine), "p.tw_main")
    x = np.random.default_rng(3).uniform(-150, 300, g.inputs[0].type.static_shape).astype(np.float32)
    for threads in (1, 2):
        np.testing.assert_array_equal(native.run([x], threads)[0], run_graph(g, [x])[0])


def test_conditions_are_no_bytes() -> None:
    b = Builder("conditions")
    x = b.input("x", f32(1, 4, 5, 6))
    g = b.graph([b.add(Transpose((0, 2, 3, 1)), b.add(Binary("lt"), x, number(b, 0.0)))])
    program, machine = lower_graph(g), host_machine()
    native = NativeProgram(program, compile_texts([program_text(program, "p", machine)], machine), "p.tw_main")
    array = np.random.default_rng(3).standard_normal((1, 4, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(native.run([array])[0], run_graph(g, [array])[0])


def test_what_is_not_computed_byte_by_byte_stays() -> None:
    b = Builder("given")
    x = b.input("x", TensorType("u8", (1, 5, 6, 3)))
    g = b.graph([b.add(Pad((0, 1, 1, 0), (0, 1, 1, 1), "constant"), x, number(b, 7, "u8"))])
    assert counts(preserved(g, channel_words))["Pad"] == 1
