"""Attention on tensor cores, in the emulator: heads that share keys, masks, causal, odd sizes; resources by nvcc."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from codegen.gpu_groups import MACHINE, aligned
from suites.test_cuda import lower_graph
from targets.cuda.test_toolchain import needs_cuda
from tilewright.codegen.c_like import print_kernel
from tilewright.codegen.cuda import CUDA
from tilewright.codegen.cuda_program import module_text, print_program
from tilewright.codegen.machine_gpu import GpuMachine, parse_gpu_machine
from tilewright.codegen.strategies.gpu import plain_attention, token_attention
from tilewright.codegen.strategies.gpu.select import is_native, schedule_group
from tilewright.codegen.strategies.scheduled import Group
from tilewright.ir.graph import Builder
from tilewright.ir.kernel import Barrier, Buffer, Kernel
from tilewright.ir.kernel_launch import split_launches
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.norm import Attention
from tilewright.ir.types import TensorType, dtype_of
from tilewright.targets.cuda.emulator.run import EmulatedProgram, EmulationError, emulate_kernel
from tilewright.targets.cuda.images import compile_images
from tilewright.targets.cuda.toolchain import find_cuda_toolchain

Shape = tuple[int, ...]
HALF = replace(MACHINE, precision="f16")
SMALL = replace(MACHINE, processors=2)  # filled by few blocks


def kernel_of(op: Attention, types: list[TensorType], machine: GpuMachine = MACHINE) -> Kernel:
    (out,) = op.infer(*types)
    ins = tuple(Buffer(f"x{n}", t.dtype, t.shape, align=16) for n, t in enumerate(types))
    y = Buffer("y0", out.dtype, out.shape, align=16)
    kernel = schedule_group(Group("attention", (), (y, *ins), op, ins), machine).kernel
    verify_kernel(kernel, scheduled=True)
    return kernel


# q, k, v, mask, causal, element type, machine
CASES: dict[str, tuple[Shape, Shape, Shape, Shape | None, bool, str, GpuMachine]] = {
    "plain": ((1, 2, 64, 32), (1, 2, 64, 32), (1, 2, 64, 32), None, False, "f2", MACHINE),
    "odd sizes, shared keys": ((2, 2, 70, 40), (2, 1, 90, 40), (2, 1, 90, 24), None, False, "f2", MACHINE),
    "mask": ((2, 2, 70, 64), (2, 2, 90, 64), (2, 2, 90, 64), (2, 1, 70, 90), False, "f2", MACHINE),
    "causal": ((1, 4, 70, 64), (1, 2, 90, 64), (1, 2, 90, 64), None, True, "f2", MACHINE),
    "f32": ((1, 2, 70, 64), (1, 2, 90, 64), (1, 2, 90, 64), None, False, "f4", MACHINE),
    "f32, odd sizes": ((2, 2, 9, 10), (2, 1, 75, 10), (2, 1, 75, 7), (2, 1, 9, 75), False, "f4", MACHINE),
    "f32, causal, shared keys": ((1, 4, 130, 40), (1, 2, 140, 40), (1, 2, 140, 24), None, True, "f4", MACHINE),
    "f32, wide": ((1, 1, 70, 160), (1, 1, 70, 160), (1, 1, 70, 160), (70,), False, "f4", MACHINE),
    "f32, one query, parts": ((1, 4, 1, 64), (1, 2, 700, 64), (1, 2, 700, 64), (700,), False, "f4", SMALL),
    "f32, few queries, odd widths": ((2, 6, 3, 20), (2, 2, 75, 20), (2, 2, 75, 9), (2, 6, 3, 75), True, "f4", SMALL),
    "one query, parts": ((1, 8, 1, 128), (1, 2, 300, 128), (1, 2, 300, 128), None, True, "f2", SMALL),
    "few queries, many heads": ((2, 5, 3, 40), (2, 1, 90, 40), (2, 1, 90, 24), (3, 90), True, "f2", MACHINE),
    "one query, one key": ((1, 2, 1, 6), (1, 2, 1, 6), (1, 2, 1, 6), None, False, "f2", MACHINE),
    "one query, wide": ((1, 1, 1, 272), (1, 1, 40, 272), (1, 1, 40, 264), None, False, "f2", MACHINE),
    "f32 in memory": ((1, 2, 40, 128), (1, 2, 90, 128), (1, 2, 90, 128), (90,), False, "f4", HALF),
}


@pytest.mark.parametrize("name", CASES)
def test_attention(name: str) -> None:
    q, k, v, mask, causal, dtype, machine = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(dtype) for s in (q, k, v)]
    if mask:
        # half of the keys have the least number; where the others have no weight at all, these are equal
        added = np.where(rng.random(mask) < 0.3, -np.inf, rng.standard_normal(mask))
        added[..., : mask[-1] // 2] = np.finfo(dtype).min
        added[..., mask[-1] // 2 :][rng.random(mask[:-1]) < 0.2] = -np.inf
        arrays.append(added.astype(dtype))
    op = Attention(0.2, causal)
    types = [TensorType(dtype_of(a), a.shape) for a in arrays]
    assert is_native(machine, op, tuple(types))
    (expected,) = op.evaluate(*arrays)
    data = {f"x{n}": aligned(a) for n, a in enumerate(arrays)} | {"y0": aligned(np.full(expected.shape, np.nan, dtype))}
    kernel = kernel_of(op, types, machine)
    assert ("parts" in name) == (len(split_launches(kernel)) == 2)
    data.update({b.name: aligned(np.full(b.static_shape, np.nan, "f4")) for b in kernel.buffers if b.name not in data})
    emulate_kernel(kernel, data)
    atol = 5e-6 if name.startswith("f32") and machine is not HALF else 3e-3
    np.testing.assert_allclose(data["y0"].astype(np.float64), expected.astype(np.float64), rtol=0, atol=atol)


def test_a_mask_of_one_number() -> None:
    """A constant scalar lies in the body of the group."""
    b = Builder("masked")
    q, k, v = (b.input(name, TensorType("f32", (1, 2, 3, 8))) for name in "qkv")
    y = b.add(Attention(1.0, False), q, k, v, b.constant(np.array(2.5, np.float32)))
    program = lower_graph(b.graph([y]))
    arrays = [np.random.default_rng(n).standard_normal((1, 2, 3, 8)).astype("f4") for n in range(3)]
    (got,) = EmulatedProgram(program, print_program(program, MACHINE)).run(arrays)
    (expected,) = Attention(1.0, False).evaluate(*arrays, np.array(2.5, np.float32))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_barrier_of_the_warp_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights go from thread to thread through shared memory."""
    weights = plain_attention._Rows.weights
    monkeypatch.setattr(plain_attention._Rows, "weights", lambda self: tuple(
        s for s in weights(self) if not isinstance(s, Barrier)))
    arrays = {name: aligned(np.ones((1, 1, 16, 32), "f4")) for name in ("y0", "x0", "x1", "x2")}
    with pytest.raises(EmulationError, match="race"):
        emulate_kernel(kernel_of(Attention(1.0, False), [TensorType("f32", (1, 1, 16, 32))] * 3), arrays)


def test_a_barrier_between_warps_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the warps have found of a token goes through shared memory."""
    across = token_attention._Plan.across_warps
    monkeypatch.setattr(token_attention._Plan, "across_warps", lambda *args: tuple(
        s for s in across(*args) if not isinstance(s, Barrier)))
    arrays = {name: aligned(np.ones((1, 1, n, 32), "f4")) for name, n in (("y0", 1), ("x0", 1), ("x1", 16), ("x2", 16))}
    types = [TensorType("f32", (1, 1, n, 32)) for n in (1, 16, 16)]
    with pytest.raises(EmulationError, match="race"):
        emulate_kernel(kernel_of(Attention(1.0, False), types), arrays)


def test_what_is_expanded_instead() -> None:
    def types(shape: Shape, dtype: str = "f32") -> tuple[TensorType, ...]:
        return (TensorType(dtype, shape),) * 3

    op = Attention(1.0, False)
    assert not is_native(HALF, op, types((1, 2, 64, 320)))
    assert not is_native(MACHINE, op, types((1, 2, 64, 32), "f64"))
    assert is_native(HALF, op, types((1, 2, 64, 256)))  # in f32
    assert not is_native(replace(parse_gpu_machine("cuda:sm_75"), precision="f16"), op, types((1, 2, 64, 32)))


@needs_cuda
@pytest.mark.slow
def test_attention_has_no_spills() -> None:
    functions = {}
    for n, (shape, causal) in enumerate((((8, 12, 128, 64), False), ((8, 12, 1024, 64), True), ((1, 32, 512, 128), True))):
        kernel = kernel_of(Attention(0.1, causal), [TensorType("f16", shape)] * 3)
        name = f"p{n}_attention"
        functions[name] = print_kernel(replace(kernel, name=name), CUDA).text
    for n, shape in enumerate(((8, 12, 128, 64), (1, 32, 512, 128), (1, 4, 200, 256), (1, 4, 200, 32))):
        kernel = kernel_of(Attention(0.1, n == 1), [TensorType("f32", shape)] * 3)
        functions[f"f{n}_attention"] = print_kernel(replace(kernel, name=f"f{n}_attention"), CUDA).text
    for n, (heads, groups, depth, dtype) in enumerate(((32, 8, 128, "f16"), (32, 32, 64, "f32"), (32, 4, 128, "f32"))):
        types = [TensorType(dtype, (1, h, rows, depth)) for h, rows in ((heads, 1), (groups, 4096), (groups, 4096))]
        for part in split_launches(replace(kernel_of(Attention(0.1, False), types), name=f"t{n}_attention")):
            printed = print_kernel(part, CUDA)
            functions[printed.name] = printed.text
    (made,) = compile_images([module_text("", functions, functions)], ("sm_80", "sm_90"), find_cuda_toolchain())
    for image in made:
        assert not image.warnings
        assert all(r.spill_stores == r.spill_loads == 0 for r in image.resources.values())
