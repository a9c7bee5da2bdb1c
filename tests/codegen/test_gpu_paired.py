"""Weights with two zeros in any four along k, on sparse tensor cores: in the emulator, with planted mistakes, through nvcc."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from codegen.gpu_groups import MACHINE, aligned, group_of
from suites.test_cuda import lower_graph
from targets.cuda.test_toolchain import needs_cuda
from tilewright.codegen.c_like import print_kernel
from tilewright.codegen.cuda import CUDA
from tilewright.codegen.cuda_program import module_text, print_program
from tilewright.codegen.kernels import drop_unused_params
from tilewright.codegen.machine_gpu import GpuMachine, parse_gpu_machine
from tilewright.codegen.program import all_calls
from tilewright.codegen.strategies.gpu import contract, paired
from tilewright.codegen.strategies.gpu.select import schedule_group, with_sparsity
from tilewright.codegen.strategies.scheduled import Scheduled
from tilewright.ir.compute import Compute, acc_var
from tilewright.ir.expr import binary, cast, load
from tilewright.ir.graph import Builder
from tilewright.ir.kernel import Buffer
from tilewright.ir.kernel_launch import split_launches
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.types import TensorType
from tilewright.targets.cuda.emulator.run import EmulatedProgram, EmulationError, emulate_kernel
from tilewright.targets.cuda.images import compile_images
from tilewright.targets.cuda.toolchain import find_cuda_toolchain

RNG = np.random.default_rng(5)


def halves(*shape: int, dtype: Any = "f2") -> np.ndarray:
    return (RNG.standard_normal(shape) / 4).astype(dtype)


def pruned(w: np.ndarray) -> np.ndarray:
    """w[.., k, column] with the two smallest of any four along k replaced by zero, a few fours emptier than that."""
    k, columns = w.shape[-2:]
    fours = np.pad(w, [(0, 0)] * (w.ndim - 2) + [(0, -k % 4), (0, 0)]).reshape(*w.shape[:-2], -1, 4, columns)
    order = np.argsort(np.argsort(np.abs(fours.astype("f4")), -2), -2)
    each = (*order.shape[:-2], 1, columns)
    keep = order >= np.where(RNG.random(each) < 0.2, RNG.integers(2, 5, each), 2)
    return np.where(keep, fours, 0).reshape(*w.shape[:-2], -1, columns)[..., :k, :].astype(w.dtype)


def relu_of_bias(c: Compute, ins: tuple[Buffer, ...]) -> Compute:
    value = acc_var("f32") + cast(load(ins[-1], c.axes[-1]), "f32")
    return replace(c, finish=binary("max", value, 0))


def schedule(op: Any, arrays: list[np.ndarray], machine: GpuMachine = MACHINE, finish: Any = None) -> Scheduled:
    group = group_of(op, arrays, (1,), finish)
    made = schedule_group(with_sparsity(group, {"x1": arrays[1]}, machine), machine)
    kernel = drop_unused_params(made.kernel)
    verify_kernel(kernel, scheduled=True)
    return replace(made, kernel=kernel)


def run(made: Scheduled, arrays: list[np.ndarray], expected: np.ndarray) -> np.ndarray:
    packs = dict(made.packs)
    data = {}
    for b in made.kernel.buffers:
        if b.name in packs:
            data[b.name] = packs[b.name].apply(arrays[1])
        elif b.name.startswith("x"):
            data[b.name] = arrays[int(b.name[1:])]
        else:
            data[b.name] = np.full(b.static_shape, np.nan, expected.dtype if b.name == "y0" else "f4")
        data[b.name] = aligned(np.ascontiguousarray(data[b.name]))
    emulate_kernel(made.kernel, data)
    return data["y0"]


CASES: dict[str, tuple[Any, list[np.ndarray], Any]] = {
    "edges": (MatMul(), [halves(70, 104), pruned(halves(104, 88))], None),
    "bias and relu": (MatMul(), [halves(64, 128), pruned(halves(128, 96)), halves(96)], relu_of_bias),
    "bf16": (MatMul(), [halves(40, 96, dtype=ml_dtypes.bfloat16), pruned(halves(96, 40, dtype=ml_dtypes.bfloat16))], None),
    "few columns, deep": (MatMul(), [halves(16, 1024), pruned(halves(1024, 24))], None),
    "window": (Conv((1, 1), (1, 1, 1, 1), (1, 1), 1), [halves(1, 7, 9, 16), pruned(halves(3, 3, 16, 24))], None),
}


@pytest.mark.parametrize("name", CASES)
def test_products(name: str) -> None:
    op, arrays, finish = CASES[name]
    made = schedule(op, arrays, finish=finish)
    assert "mma_sp_m16n8k32" in made.note
    expected = op.evaluate(*(a.astype("f4") for a in arrays[:2]))[0]
    expected = np.maximum(expected + arrays[2].astype("f4"), 0) if finish else expected
    got = run(made, arrays, op.evaluate(*arrays[:2])[0])
    atol = (1e-2 if name == "bf16" else 2e-3) * np.abs(expected).max()
    np.testing.assert_allclose(got.astype("f4"), expected, rtol=0, atol=atol)


def test_every_tile_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """One product through the widest and the flattest tile, and parts of k."""
    arrays = [halves(24, 264), pruned(halves(264, 40))]
    expected = arrays[0].astype("f4") @ arrays[1].astype("f4")
    tiles = paired_tiles()
    for tile in (tiles[0], tiles[-1], replace(tiles[-1], splits=2)):
        monkeypatch.setattr(contract, "choose_tile", lambda *_, tile=tile: (tile, ""))
        got = run(schedule(MatMul(), arrays), arrays, expected.astype("f2"))
        np.testing.assert_allclose(got.astype("f4"), expected, rtol=0, atol=3e-3 * np.abs(expected).max())


def paired_tiles() -> list[Any]:
    return contract.tile_candidates("f16", "f32", True, MACHINE, False, True)


def test_weights_are_kept_exactly() -> None:
    """Values and places give the weights back, also where a four has fewer than two."""
    fours = paired._fours(pruned(halves(96, 20)).T)
    places = paired._places(fours)
    assert (places[..., 0] < places[..., 1]).all()
    back = np.zeros_like(fours)
    np.put_along_axis(back, places, np.take_along_axis(fours, places, -1), -1)
    np.testing.assert_array_equal(back, fours)


def test_other_weights_are_multiplied_as_dense_ones() -> None:
    w = pruned(halves(104, 88))
    w[:3, 5] = 1  # three of one four
    arrays = [halves(70, 104), w]
    assert "mma_sp" not in schedule(MatMul(), arrays).note
    arrays[1][2:4, 5] = 0
    assert "mma_sp" in schedule(MatMul(), arrays).note
    assert "wgmma" in schedule(MatMul(), arrays, parse_gpu_machine("cuda:sm_90a")).note
    assert "mma_sp" not in schedule(MatMul(), arrays, parse_gpu_machine("cuda:sm_75")).note


def test_places_that_do_not_increase_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    places = paired._places
    monkeypatch.setattr(paired, "_places", lambda fours: places(fours)[..., ::-1])
    op, arrays, _ = CASES["edges"]
    with pytest.raises(EmulationError, match=r"of row .* in the sparse operand do not increase"):
        run(schedule(op, arrays), arrays, op.evaluate(*arrays)[0])


def test_words_of_other_threads_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads of four give the words; with those of rows g and g + 8 exchanged the sums are others."""
    words = paired._words
    monkeypatch.setattr(paired, "_words", lambda *a: (lambda w: w >> 16 | w << 16)(words(*a)))
    op, arrays, _ = CASES["edges"]
    expected = op.evaluate(*arrays)[0].astype("f4")
    got = run(schedule(op, arrays), arrays, op.evaluate(*arrays)[0])
    assert np.abs(got.astype("f4") - expected).max() > 0.1


def test_a_model_with_pruned_weights() -> None:
    """Found while lowering, packed by the artifact's constants."""
    b = Builder("pruned")
    x, w = halves(3, 24, 128), pruned(halves(128, 64))
    program = lower_graph(b.graph([b.add(MatMul(), b.input("x", TensorType("f16", x.shape)), b.constant(w))]))
    (call,) = all_calls(program.steps)
    assert "mma_sp_m16n8k32_f16" in call.cost.schedule
    (got,) = EmulatedProgram(program, print_program(program, MACHINE)).run([x])
    np.testing.assert_allclose(got.astype("f4"), x.astype("f4") @ w.astype("f4"), rtol=0, atol=5e-3)


@needs_cuda
@pytest.mark.slow
def test_no_spills() -> None:
    functions = {}
    for n, (m, k, columns) in enumerate(((4096, 4096, 4096), (128, 768, 3072), (50, 512, 64))):
        made = schedule(MatMul(), [np.zeros((m, k), "f2"), np.zeros((k, columns), "f2")])
        assert "mma_sp" in made.note
        for part in split_launches(replace(made.kernel, name=f"p{n}_product")):
            functions[part.name] = print_kernel(part, CUDA).text
    (images,) = compile_images([module_text("", functions, functions)], ("sm_80", "sm_90"), find_cuda_toolchain())
    for image in images:
        assert not image.warnings
        assert all(r.spill_stores == r.spill_loads == r.stack == 0 for r in image.resources.values())
