"""Weights of 4 and 8 bits on graphics processors: kernels in the emulator, and from the model to the kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from codegen.gpu_groups import MACHINE
from passes.test_block_products import n_bits
from targets.cuda.test_toolchain import needs_cuda
from tilewright.codegen.c_like import print_kernel
from tilewright.codegen.cuda import CUDA
from tilewright.codegen.cuda_program import module_text
from tilewright.codegen.program import all_calls
from tilewright.codegen.strategies.gpu.select import schedule_irregular
from tilewright.compiler.emulating import TARGET, cuda_program, emulate
from tilewright.compiler.options import make_options
from tilewright.frontend.onnx import import_model
from tilewright.ir.interpreter import run_graph
from tilewright.ir.kernel import Buffer, Kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.block_product import BlockMatMul
from tilewright.targets.cuda.emulator.run import emulate_kernel
from tilewright.targets.cuda.images import compile_images
from tilewright.targets.cuda.toolchain import find_cuda_toolchain

# rows, depth, columns, bits, group, zeros of their own
CASES = {
    "a token, 4 bits": (1, 1024, 64, 4, 32, False), "zeros": (3, 256, 32, 4, 16, True), "8 bits": (5, 200, 64, 8, 8, True),
    "one block": (16, 96, 32, 8, 96, False), "a word": (2, 8, 32, 4, 8, False),
}


def kernel_of(rows: int, depth: int, columns: int, bits: int, group: int, zeros: bool) -> tuple[BlockMatMul, Kernel]:
    op = BlockMatMul(bits, group, 0 if zeros else 2 ** (bits - 1))
    panels, blocks = columns // 32, depth // group
    shapes = [("f32", (rows, depth)), ("i32", (panels, depth // op.per_word, 32)), ("f32", (panels, blocks, 32))]
    ins = tuple(Buffer(f"x{n}", t, s) for n, (t, s) in enumerate([*shapes, *([shapes[2]] if zeros else [])]))
    made = schedule_irregular(op, (Buffer("y0", "f32", (rows, columns)),), ins, MACHINE)
    assert f"weights of {bits} bits" in made.note
    verify_kernel(made.kernel, scheduled=True)
    return op, made.kernel


@pytest.mark.parametrize("name", CASES)
def test_products(name: str) -> None:
    op, kernel = kernel_of(*CASES[name])
    rng = np.random.default_rng(0)
    arrays = []
    for b in kernel.buffers[1:]:
        if b.dtype == "i32":
            arrays.append(rng.integers(-(2**31), 2**31, b.static_shape).astype(np.int32))
        else:
            arrays.append(rng.standard_normal(b.static_shape).astype(np.float32))
    y = np.full(kernel.buffers[0].static_shape, np.nan, np.float32)
    emulate_kernel(kernel, {b.name: a for b, a in zip(kernel.buffers, [y, *arrays], strict=True)})
    (expected,) = op.evaluate(*arrays)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("level", [0, 4])
def test_a_model_keeps_its_narrow_weights(level: int) -> None:
    """Also where the model allows to round x to bytes, which this target does not."""
    model = n_bits(2, 128, 64, 4, 32, level)
    module = emulate(model)
    assert [c.ops for c in all_calls(module.program.steps)] == [("BlockMatMul",)]
    assert module.program.constant_bytes < 128 * 64  # not the 4 bytes each of floats
    many, _ = cuda_program(n_bits(20, 128, 64, 4, 32, level), make_options(TARGET))  # floats: every weight is used often
    assert [c.ops for c in all_calls(many.steps)] == [("MatMul",)]
    x = np.random.default_rng(1).normal(size=(2, 128)).astype(np.float32)
    (expected,) = run_graph(import_model(model), [x])
    rounded = 0.02 if level else 1e-5
    np.testing.assert_allclose(module(x)[0], expected, rtol=0, atol=rounded * np.abs(expected).max())


@needs_cuda
@pytest.mark.slow
def test_no_spills() -> None:
    functions = {}
    for n, case in enumerate(((1, 4096, 4096, 4, 32, False), (8, 4096, 1024, 4, 128, True), (16, 768, 768, 8, 64, True))):
        functions[f"p{n}"] = print_kernel(replace(kernel_of(*case)[1], name=f"p{n}"), CUDA).text
    (made,) = compile_images([module_text("", functions, functions)], ("sm_80", "sm_90"), find_cuda_toolchain())
    for image in made:
        assert not image.warnings
        assert all(r.spill_stores == r.spill_loads == r.stack == 0 for r in image.resources.values()), image.resources
