"""Products and convolutions for graphics processors: every core and layout in the emulator, choices of the cost model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tilewright
from codegen.gpu_groups import MACHINE, run, schedule
from suites.test_cuda import fused, lower_graph
from targets.cuda.test_toolchain import needs_cuda
from tilewright.codegen.c_like import print_kernel
from tilewright.codegen.cuda import CUDA
from tilewright.codegen.cuda_program import module_text, print_program
from tilewright.codegen.lower import lower
from tilewright.codegen.machine_gpu import parse_gpu_machine
from tilewright.codegen.program import all_calls
from tilewright.codegen.strategies.choices import Choice
from tilewright.codegen.strategies.gpu import contract
from tilewright.codegen.strategies.gpu.staging import StagedTile
from tilewright.codegen.strategies.gpu.tiles import GpuTile, choose_tile, tile_candidates
from tilewright.codegen.strategies.gpu.warpgroup import WarpgroupCore
from tilewright.compiler.tuning_file import Found, add_entry, read_tuning
from tilewright.ir.compute import Compute, acc_var
from tilewright.ir.errors import OptionError
from tilewright.ir.expr import as_expr, binary, load
from tilewright.ir.graph import Builder
from tilewright.ir.kernel import Buffer, Do
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_launch import split_launches
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.types import TensorType
from tilewright.targets.cuda.emulator.run import EmulatedProgram, EmulationError
from tilewright.targets.cuda.images import compile_images
from tilewright.targets.cuda.toolchain import find_cuda_toolchain

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
HOPPER = parse_gpu_machine("cuda:sm_90a")
TF32 = replace(MACHINE, precision="tf32")
TOLERANCE = {"f32": 1e-5, "tf32": 5e-3, "f16": 2e-3, "bf16": 1e-2, "i32": 0.0}


def floats(*shape: int, dtype: str = "f4") -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def bytes_(*shape: int, dtype: str = "i1") -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(-100, 100, shape).astype("i1").view(dtype)


def conv(stride: int = 1, pad: int = 1, groups: int = 1) -> Conv:
    return Conv((stride, stride), (pad,) * 4, (1, 1), groups)


# name: operator, operands, weights, tolerance, machine
CASES: dict[str, tuple[Any, list[np.ndarray], tuple[int, ...], str, Any]] = {
    "f32": (MatMul(), [floats(40, 24), floats(24, 36)], (), "f32", MACHINE),
    "f32 weights": (MatMul(), [floats(70, 50), floats(50, 30)], (1,), "f32", MACHINE),
    "f32 batches": (MatMul(), [floats(3, 40, 33), floats(3, 33, 36)], (), "f32", MACHINE),
    "f64": (MatMul(), [floats(20, 24, dtype="f8"), floats(24, 36, dtype="f8")], (), "f32", MACHINE),
    "f32 without cp.async": (MatMul(), [floats(40, 24), floats(24, 36)], (), "f32", parse_gpu_machine("cuda:sm_75")),
    "f16": (MatMul(), [floats(64, 64, dtype="f2"), floats(64, 48, dtype="f2")], (), "f16", MACHINE),
    "f16 weights": (MatMul(), [floats(70, 50, dtype="f2"), floats(50, 36, dtype="f2")], (1,), "f16", MACHINE),
    "f16 odd": (MatMul(), [floats(70, 51, dtype="f2"), floats(51, 35, dtype="f2")], (), "f16", MACHINE),
    "tf32": (MatMul(), [floats(70, 52), floats(52, 35)], (1,), "tf32", TF32),
    "tf32 computed": (MatMul(), [floats(70, 51), floats(51, 36)], (), "tf32", TF32),
    "s8": (MatMul("i32"), [bytes_(70, 52), bytes_(52, 35)], (1,), "i32", MACHINE),
    "u8 computed": (MatMul("i32"), [bytes_(70, 52, dtype="u1"), bytes_(52, 35)], (), "i32", MACHINE),
    "conv f32": (conv(), [floats(2, 9, 9, 16), floats(3, 3, 16, 24), floats(24)], (1, 2), "f32", MACHINE),
    "conv f16 strided": (
        conv(2), [floats(2, 9, 9, 16, dtype="f2"), floats(3, 3, 16, 24, dtype="f2"), floats(24, dtype="f2")], (1, 2), "f16",
        MACHINE,
    ),
    "conv f16 of 3 channels": (
        conv(2, 3), [floats(1, 19, 19, 3, dtype="f2"), floats(7, 7, 3, 24, dtype="f2"), floats(24, dtype="f2")], (1, 2), "f16",
        MACHINE,
    ),
    "conv f16 of groups": (
        conv(1, 1, 4), [floats(2, 9, 9, 32, dtype="f2"), floats(3, 3, 8, 64, dtype="f2"), floats(64, dtype="f2")], (1, 2),
        "f16", MACHINE,
    ),
    "warpgroups": (MatMul(), [floats(130, 200, dtype="f2"), floats(200, 136, dtype="f2")], (1,), "f16", HOPPER),
    "warpgroups, conv": (
        conv(), [floats(2, 9, 9, 16, dtype="f2"), floats(3, 3, 16, 24, dtype="f2"), floats(24, dtype="f2")], (1, 2), "f16",
        HOPPER,
    ),
    "warpgroups, computed": (MatMul(), [floats(70, 80, dtype="f2"), floats(80, 72, dtype="f2")], (), "f16", HOPPER),
    "conv f32 1 x 1": (conv(1, 0), [floats(2, 5, 9, 16), floats(1, 1, 16, 24), floats(24)], (1, 2), "f32", MACHINE),
}


def check(got: np.ndarray, expected: np.ndarray, tolerance: str) -> None:
    wide = expected.astype(np.float64)
    np.testing.assert_allclose(got.astype(np.float64), wide, rtol=0, atol=TOLERANCE[tolerance] * np.abs(wide).max())


@pytest.mark.parametrize("name", CASES)
def test_products_in_the_emulator(name: str) -> None:
    op, arrays, constants, tolerance, machine = CASES[name]
    got, made = run(op, arrays, constants, machine)
    check(got, op.evaluate(*arrays)[0], tolerance)
    assert ("tensor cores" in made.note) == (tolerance != "f32")


@pytest.mark.parametrize("name", ["f32 weights", "f16", "tf32", "s8"])
def test_products_in_the_interpreter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, arrays, constants, tolerance, machine = CASES[name]
    arrays = [arrays[0][:20, :36], arrays[1][:36, :20]]
    got, _ = run(op, arrays, constants, machine, runner=run_kernel)
    check(got, op.evaluate(*arrays)[0], tolerance)


def force(monkeypatch: pytest.MonkeyPatch, **numbers: int) -> None:
    """The tile that the model chooses, with other numbers."""
    def chosen(sizes: Any, dtype: str, acc: str, matrix: bool, machine: Any, *rest: Any) -> tuple[GpuTile, str]:
        return replace(tile_candidates(dtype, acc, matrix, machine)[-1], **numbers), ""  # type: ignore[arg-type]

    monkeypatch.setattr(contract, "choose_tile", chosen)


@pytest.mark.parametrize("name", ["f32 weights", "f16"])
def test_k_in_parts_is_added_in_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, splits=3)
    op, _, constants, tolerance, machine = CASES[name]
    dtype = "f2" if tolerance == "f16" else "f4"
    arrays = [floats(20, 300, dtype=dtype), floats(300, 20, dtype=dtype)]
    got, made = run(op, arrays, constants, machine)
    again, _ = run(op, arrays, constants, machine)
    check(got, op.evaluate(*arrays)[0], tolerance)
    np.testing.assert_array_equal(got, again)
    assert dict(made.temporaries) == {"partial": 3 * 20 * 20 * 4}


@pytest.mark.parametrize("columns", [64, 128, 256])
def test_warpgroups_of_every_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = next(x for x in tile_candidates("bf16", "f32", True, HOPPER, True) if x.columns == columns)
    monkeypatch.setattr(contract, "choose_tile", lambda *_: (tile, ""))
    arrays = [floats(40, 72).astype(ml_dtypes.bfloat16), floats(72, 40).astype(ml_dtypes.bfloat16)]
    got, made = run(MatMul(), arrays, (1,), HOPPER)
    check(got, arrays[0].astype("f4") @ arrays[1].astype("f4"), "bf16")
    assert f"wgmma_m64n{columns}k16_bf16" in made.note


@pytest.mark.parametrize("mistake", ["wait", "swizzle"])
def test_mistakes_with_warpgroups_show(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums that are read too early are NaN; rows in another permutation give other numbers."""
    if mistake == "wait":
        monkeypatch.setattr(WarpgroupCore, "after_loop", lambda self: ())
    else:
        monkeypatch.setattr(StagedTile, "_permuted", lambda self, outer, inner: inner)
    op, arrays, constants, _, machine = CASES["warpgroups, conv"]
    got, _ = run(op, arrays, constants, machine)
    expected = op.evaluate(*arrays)[0]
    assert not np.allclose(got.astype("f4"), expected.astype("f4"), rtol=0.1, atol=0.1)


def test_copies_that_the_matrix_unit_does_not_see_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WarpgroupCore, "before_barrier", lambda self: ())
    op, arrays, constants, _, machine = CASES["warpgroups, conv"]
    with pytest.raises(EmulationError, match="fence_async_proxy"):
        run(op, arrays, constants, machine)


def test_a_stage_that_is_filled_while_it_is_read_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WarpgroupCore, "in_flight", 0)
    multiply = WarpgroupCore.multiply
    lagging = Do("wgmma_wait", (as_expr(1),))
    monkeypatch.setattr(WarpgroupCore, "multiply", lambda *a: (*multiply(*a)[:-1], lagging))
    arrays = [floats(64, 800, dtype="f2"), floats(800, 64, dtype="f2")]
    try:
        got, _ = run(MatMul(), arrays, (1,), HOPPER)
    except EmulationError as error:
        assert "race" in str(error)
    else:
        assert np.isnan(got.astype("f4")).any()


def test_an_epilogue_reads_its_own_operand() -> None:
    def finish(c: Compute, ins: tuple[Buffer, ...]) -> Compute:
        value = binary("max", acc_var("f32") + load(ins[-1], *c.axes), 0.0)
        return replace(c, finish=value)

    arrays = [floats(40, 24), floats(24, 36), floats(40, 36)]
    got, _ = run(MatMul(), arrays, (1,), finish=finish)
    check(got, np.maximum(arrays[0] @ arrays[1] + arrays[2], 0), "f32")


def test_the_choice_of_tiles() -> None:
    large, _ = choose_tile((1, 4096, 4096, 4096), "f16", "f32", True, MACHINE)
    assert large.rows * large.columns >= 128 * 128
    assert large.splits == 1
    deep, _ = choose_tile((1, 196, 256, 2304), "f16", "f32", True, MACHINE)
    assert deep.splits > 1
    narrow, _ = choose_tile((1, 802816, 16, 147), "f16", "f32", True, MACHINE)
    assert narrow.columns <= 64
    for tile in tile_candidates("f16", "f32", True, parse_gpu_machine("cuda:sm_86")):
        assert tile.shared_bytes(2, 4) <= 99 * 1024


def test_measured_tiles_are_used(tmp_path: Path) -> None:
    b = Builder("product")
    graph = b.graph([b.add(MatMul(), b.input("a", TensorType("f32", (64, 48))), b.constant(floats(48, 40)))])
    (plain,) = all_calls(lower_graph(graph, MACHINE).steps)
    path, file_machine = tmp_path / "t.jsonl", replace(MACHINE, precision="f32")
    add_entry(path, file_machine, plain.cost.key, Found(Choice(tile_rows=64, tile_columns=32, stages=3, splits=2), 0.1, "s"))
    choices = {key: f.choice for key, f in read_tuning(path, file_machine).items()}
    assert read_tuning(path, TF32) == {}
    program = lower(fused(graph, MACHINE), MACHINE, choices=choices)
    (tuned,) = all_calls(program.steps)
    assert tuned.cost.choice == choices[plain.cost.key] != plain.cost.choice
    assert tuned.cost.schedule.startswith("measured: product of 64 x 40 x 48 by f32 arithmetic: tiles of 64 x 32")
    array = floats(64, 48)
    (got,) = EmulatedProgram(program, print_program(program, MACHINE)).run([array])
    check(got, array @ floats(48, 40), "f32")


def test_tiles_that_the_machine_does_not_have() -> None:
    b = Builder("product")
    graph = b.graph([b.add(MatMul(), b.input("a", TensorType("f32", (64, 48))), b.constant(floats(48, 40)))])
    (plain,) = all_calls(lower_graph(graph, MACHINE).steps)
    with pytest.raises(OptionError, match="no tile of 48 x 48"):
        lower(fused(graph, MACHINE), MACHINE, choices={plain.cost.key: Choice(tile_rows=48, tile_columns=48)})
    with pytest.raises(OptionError, match=r"tune: kernels for GPUs are measured by benchmarks/gpu\.py"):
        tilewright.compile(DIGITS, target="cuda:sm_80", tune=1, cache=False)


@needs_cuda
@pytest.mark.slow
def test_large_products_have_no_spills() -> None:
    zeros = np.zeros
    square = [zeros((4096, 4096), "f4"), zeros((4096, 4096), "f4")]
    halves = [a.astype("f2") for a in square]
    image = [zeros((64, 28, 28, 128), "f2"), zeros((3, 3, 128, 128), "f2"), zeros(128, "f2")]
    first = [zeros((64, 224, 224, 3), "f2"), zeros((7, 7, 3, 64), "f2"), zeros(64, "f2")]
    cases: list[tuple[Any, list[np.ndarray], tuple[int, ...], Any]] = [
        (MatMul(), square, (), MACHINE), (MatMul(), halves, (), MACHINE), (MatMul(), halves, (1,), MACHINE),
        (MatMul(), square, (1,), TF32), (MatMul("i32"), [a.astype("i1") for a in square], (1,), MACHINE),
        (conv(), image, (1, 2), MACHINE), (conv(2, 3), first, (1, 2), MACHINE),
        (MatMul(), [zeros((128, 768)).astype("f4"), zeros((768, 768), "f4")], (1,), MACHINE),
    ]
    functions = {}
    for n, (op, arrays, constants, machine) in enumerate(cases):
        for part in split_launches(schedule(op, arrays, constants, machine)[1]):
            part = replace(part, name=f"p{n}_{part.name}")
            functions[part.name] = print_kernel(part, CUDA).text
    (made,) = compile_images([module_text("", functions, functions)], ("sm_80", "sm_90"), find_cuda_toolchain())
    for image_ in made:
        assert not image_.warnings
        assert {n: (r.spill_stores, r.spill_loads) for n, r in image_.resources.items() if r.spill_stores + r.spill_loads} == {}


@needs_cuda
@pytest.mark.slow
def test_warpgroups_have_no_spills() -> None:
    halves = [np.zeros((4096, 4096), "f2")] * 2
    image = [np.zeros((64, 28, 28, 128), "f2"), np.zeros((3, 3, 128, 128), "f2"), np.zeros(128, "f2")]
    functions = {}
    for n, (op, arrays, constants) in enumerate(((MatMul(), halves, (1,)), (conv(), image, (1, 2)))):
        (part,) = split_launches(schedule(op, arrays, constants, HOPPER)[1])
        functions[f"p{n}_product"] = print_kernel(replace(part, name=f"p{n}_product"), CUDA).text
    ((image_,),) = compile_images([module_text("", functions, functions)], ("sm_90a",), find_cuda_toolchain())
    assert not image_.warnings
    assert all(r.spill_stores == r.spill_loads == 0 for r in image_.resources.values())
