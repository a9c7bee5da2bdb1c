"""Products whose tiles bulk copies bring (sm_90a): in the emulator, with planted mistakes, in a library, and through nvcc."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codegen.gpu_groups import run, schedule
from suites.test_cuda import lower_graph
from targets.cuda.driven import driven_artifact, fake_driver
from targets.cuda.test_toolchain import needs_cuda
from tilewright.codegen.c_like import print_kernel
from tilewright.codegen.cuda import CUDA
from tilewright.codegen.cuda_program import module_text
from tilewright.codegen.machine_gpu import parse_gpu_machine
from tilewright.codegen.strategies.gpu import bulk, contract, persistent
from tilewright.codegen.strategies.gpu.bulk import BulkPipeline
from tilewright.codegen.strategies.gpu.tiles import tile_candidates
from tilewright.codegen.strategies.gpu.warpgroup import WarpgroupCore
from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.graph import Builder
from tilewright.ir.kernel import Barrier, Block, Do, For, If
from tilewright.ir.kernel_launch import split_launches
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.types import TensorType
from tilewright.targets.cuda.emulator.run import EmulationError
from tilewright.targets.cuda.images import compile_images
from tilewright.targets.cuda.loader import load_on
from tilewright.targets.cuda.toolchain import find_cuda_toolchain

HOPPER = parse_gpu_machine("cuda:sm_90a")


def halves(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("f2")


CASES: dict[str, tuple[Any, list[np.ndarray]]] = {
    "edges": (MatMul(), [halves(130, 200), halves(200, 136)]),
    "many stages": (MatMul(), [halves(64, 840), halves(840, 72)]),
    "batches": (MatMul(), [halves(3, 70, 96), halves(3, 96, 40)]),
    "conv 1 x 1": (Conv((1, 1), (0, 0, 0, 0), (1, 1), 1), [halves(2, 9, 9, 64), halves(1, 1, 64, 72), halves(72)]),
}


@pytest.mark.parametrize("name", CASES)
def test_products(name: str) -> None:
    op, arrays = CASES[name]
    got, made = run(op, arrays, range(1, len(arrays)), HOPPER)
    expected = op.evaluate(*arrays)[0].astype("f4")
    np.testing.assert_allclose(got.astype("f4"), expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    assert "brought by bulk copies" in made.note
    assert len(made.views) == 2


FEW = replace(HOPPER, processors=1)  # so that blocks have several tiles
STAYING: dict[str, tuple[tuple[int, int, int], str]] = {
    "tiles that all blocks have": ((256, 72, 128), "turn < 4"),
    "fewer tiles in the last turn": ((320, 328, 192), "turn < 8"),  # and stages that no tile begins with
}


@pytest.mark.parametrize("name", STAYING)
def test_blocks_that_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (m, k, n), loop = STAYING[name]
    smallest = tile_candidates("f16", "f32", True, FEW, True)[-1]
    monkeypatch.setattr(contract, "choose_tile", lambda *_: (smallest, ""))
    monkeypatch.setattr(persistent, "resident_blocks", lambda *_: 2)
    arrays = [halves(m, k), halves(k, n)]
    assert f"for {loop}" in str(schedule(MatMul(), arrays, (1,), FEW)[1])
    got, _ = run(MatMul(), arrays, (1,), FEW)
    expected = MatMul().evaluate(*arrays)[0].astype("f4")
    np.testing.assert_allclose(got.astype("f4"), expected, rtol=0, atol=2e-3 * np.abs(expected).max())


def test_warps_that_do_not_wait_for_their_sums_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = persistent._finish_pieces

    def wrong(*args: Any) -> Block:
        (loop,) = pieces(*args)
        assert isinstance(loop, For)
        return (replace(loop, body=tuple(s for s in loop.body if not isinstance(s, Barrier))),)

    monkeypatch.setattr(persistent, "_finish_pieces", wrong)
    op, arrays = CASES["edges"]
    with pytest.raises(EmulationError, match="race"):
        run(op, arrays, (1,), HOPPER)


def test_a_last_stage_that_is_not_given_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer needs it for the next tile."""
    consume = BulkPipeline.consume
    monkeypatch.setattr(BulkPipeline, "consume", lambda *a: consume(*a)[:-1])
    with pytest.raises(EmulationError, match="deadlock"):
        run(MatMul(), [halves(600, 72), halves(72, 256)], (1,), FEW)


@pytest.mark.parametrize("columns", [128, 256])
def test_wide_tiles(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = next(x for x in tile_candidates("f16", "f32", True, HOPPER, True) if x.columns == columns)
    monkeypatch.setattr(contract, "choose_tile", lambda *_: (tile, ""))
    arrays = [halves(40, 136), halves(136, 40)]
    got, _ = run(MatMul(), arrays, (1,), HOPPER)
    np.testing.assert_allclose(got.astype("f4"), arrays[0].astype("f4") @ arrays[1].astype("f4"), rtol=0, atol=0.1)


CLUSTERS: dict[str, list[np.ndarray]] = {
    "edges": [halves(250, 200), halves(200, 136)],
    "one column of tiles": [halves(128, 136), halves(136, 104)],
    "batches": [halves(3, 120, 96), halves(3, 96, 136)],
    "several tiles a block": [halves(384, 328), halves(328, 192)],
}


def in_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tiles, as wide as those that blocks share, on a machine with room for two blocks."""
    tile = next(x for x in tile_candidates("f16", "f32", True, FEW, True) if (x.rows, x.columns) == (64, 128))
    monkeypatch.setattr(contract, "choose_tile", lambda *_: (tile, ""))
    monkeypatch.setattr(persistent, "resident_blocks", lambda *_: 2)


@pytest.mark.parametrize("name", CLUSTERS)
def test_blocks_that_share_an_operand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_clusters(monkeypatch)
    arrays = CLUSTERS[name]
    got, made = run(MatMul(), arrays, (1,), FEW)
    assert "those of the right operand for 2 blocks at once" in made.note
    expected = MatMul().evaluate(*arrays)[0].astype("f4")
    np.testing.assert_allclose(got.astype("f4"), expected, rtol=0, atol=2e-3 * np.abs(expected).max())


def test_an_odd_number_of_rows_of_tiles_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    in_clusters(monkeypatch)
    made, kernel = schedule(MatMul(), [halves(130, 72), halves(72, 136)], (1,), FEW)
    assert made.views and "cluster" not in print_kernel(kernel, CUDA).text


def arrivals_at_home(self: BulkPipeline, step: Expr) -> Do:
    """Both threads of a warp tell their own block alone."""
    return Do("mbarrier_arrive", (bulk._place(self.empty, step % self.stages),))


def without_the_last_meeting(self: BulkPipeline) -> Block:
    return ()


def whole_copies(self: BulkPipeline, at: tuple[Expr, Expr, Expr], stage: Expr) -> Block:
    """Every block brings its part to itself alone."""
    (share,) = copy_right(self, at, stage)
    assert isinstance(share, Do)
    return (Do("bulk_copy_2d", share.args[:-1]),)


def the_same_part(self: BulkPipeline, at: tuple[Expr, Expr, Expr], stage: Expr) -> Block:
    return copy_right(replace(self, rank=as_expr(0)), at, stage)


def fewer_arrivals(self: BulkPipeline) -> Block:
    """As if the warps of one block were all that read a stage."""
    first, meeting = start(self)
    assert isinstance(first, If)
    (loop, fence) = first.then
    assert isinstance(loop, For)
    full, empty = loop.body
    assert isinstance(empty, Do)
    made = replace(loop, body=(full, replace(empty, args=(empty.args[0], as_expr(self.consumers)))))
    return (replace(first, then=(made, fence)), meeting)


def without_the_first_meeting(self: BulkPipeline) -> Block:
    return start(self)[:-1]


copy_right, start = BulkPipeline.copy_right, BulkPipeline.start
SHARING_MISTAKES = {
    "the other block is not told": ("give_back", arrivals_at_home, "race"),
    "a block ends while the other one writes to it": ("end", without_the_last_meeting, "all threads of which have returned"),
    "a part is not shared": ("copy_right", whole_copies, "deadlock"),
    "both bring the same part": ("copy_right", the_same_part, "race"),
    "a stage is free when one block is done": ("start", fewer_arrivals, "race|more than 4 arrivals"),
    "barriers are used before the other block has made them": ("start", without_the_first_meeting, "not initialised"),
}


@pytest.mark.parametrize("mistake", SHARING_MISTAKES)
def test_mistakes_of_sharing_are_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_clusters(monkeypatch)
    method, wrong, message = SHARING_MISTAKES[mistake]
    monkeypatch.setattr(BulkPipeline, method, wrong)
    with pytest.raises(EmulationError, match=message):
        run(MatMul(), CLUSTERS["several tiles a block"], (1,), FEW)


def without(block: Block, fn: str) -> Block:
    """The block without the calls of a function."""
    made: list[Any] = []
    for s in block:
        if isinstance(s, For):
            made.append(replace(s, body=without(s.body, fn)))
        elif isinstance(s, If):
            made.append(replace(s, then=without(s.then, fn), other=without(s.other, fn)))
        elif not (isinstance(s, Do) and s.fn == fn):
            made.append(s)
    return tuple(made)


def leave_out(monkeypatch: pytest.MonkeyPatch, method: str, fn: str) -> None:
    whole = getattr(BulkPipeline, method)
    monkeypatch.setattr(BulkPipeline, method, lambda *a: without(whole(*a), fn))


MISTAKES = {
    "the consumers do not wait": ("consume", "mbarrier_wait", "race"),
    "the producer does not wait": ("produce", "mbarrier_wait", "race"),
    "the consumers do not tell": ("consume", "mbarrier_arrive", "deadlock"),
    "nobody expects the bytes": ("produce", "mbarrier_expect", "deadlock"),
    "copies are left out": ("produce", "bulk_copy_2d", "deadlock"),
    "barriers are not made visible": ("start", "fence_mbarrier_init", "not made visible to bulk copies"),
    "no barriers": ("start", "mbarrier_init", "not initialised"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, fn, message = MISTAKES[mistake]
    leave_out(monkeypatch, method, fn)
    op, arrays = CASES["many stages"]
    with pytest.raises(EmulationError, match=message):
        run(op, arrays, (1,), HOPPER)


def test_a_stage_given_back_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage that the matrix unit still reads, instead of the one before."""
    monkeypatch.setattr(WarpgroupCore, "in_flight", 0)
    multiply = WarpgroupCore.multiply
    monkeypatch.setattr(WarpgroupCore, "multiply", lambda *a: (*multiply(*a)[:-1], Do("wgmma_wait", (as_expr(1),))))
    op, arrays = CASES["many stages"]
    with pytest.raises(EmulationError, match="race"):
        run(op, arrays, (1,), HOPPER)


def test_wrong_counts_of_bytes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    produce = BulkPipeline.produce

    def wrong(self: BulkPipeline, *a: Any) -> Block:
        (loop,) = produce(self, *a)
        assert isinstance(loop, For)
        wait, expect, *copies = loop.body
        assert isinstance(expect, Do)
        return (replace(loop, body=(wait, replace(expect, args=(expect.args[0], as_expr(64))), *copies)),)

    monkeypatch.setattr(BulkPipeline, "produce", wrong)
    op, arrays = CASES["edges"]
    with pytest.raises(EmulationError, match=r"expects 64 bytes, copies of \d+ were started"):
        run(op, arrays, (1,), HOPPER)


def test_operands_that_bulk_copies_cannot_bring() -> None:
    """A window is no matrix; rows that do not begin at multiples of 16 bytes have no map."""
    window = Conv((1, 1), (1, 1, 1, 1), (1, 1), 1)
    for op, arrays in ((window, [halves(1, 9, 9, 64), halves(3, 3, 64, 72), halves(72)]),
                       (MatMul(), [halves(70, 92), halves(92, 72)])):
        made, _ = schedule(op, arrays, range(1, len(arrays)), HOPPER)
        assert not made.views
        got, _ = run(op, arrays, range(1, len(arrays)), HOPPER)
        expected = op.evaluate(*arrays)[0].astype("f4")
        np.testing.assert_allclose(got.astype("f4"), expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    assert bulk.MOST_BOX == 256


def test_the_library_describes_its_memory_to_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host code as it ships makes the maps at each launch, for weights, arena and what the caller gives."""
    b = Builder("two")
    x, w, v = halves(4, 70, 64), halves(64, 128) / 8, halves(128, 72) / 8
    y = b.add(MatMul(), b.add(MatMul(), b.input("x", TensorType("f16", x.shape)), b.constant(w)), b.constant(v))
    program = lower_graph(b.graph([y]), HOPPER)
    driver = fake_driver()
    monkeypatch.setenv("TILEWRIGHT_CUDA_DRIVER", driver.path)
    driver.fake_reset()
    driver.fake_gpu(1, 9, 0)
    place = driven_artifact(program, HOPPER, name="two").save(tmp_path / "two")
    expected = (x.astype("f4") @ w.astype("f4")).astype("f2").astype("f4") @ v.astype("f4")
    for graph in (True, False):
        driver.fake_reset()
        driver.fake_gpu(1, 9, 0)
        with load_on(place, 0, graph=graph) as module:
            (got,) = module(x)
            np.testing.assert_allclose(got.astype("f4"), expected, rtol=0, atol=2e-3 * np.abs(expected).max())
        assert driver.fake_calls(b"cuTensorMapEncodeTiled") == 4
    driver.fake_fail(b"cuTensorMapEncodeTiled", 1)
    with load_on(place, 0) as module, pytest.raises(Exception, match="CUDA_ERROR"):
        module(x)
    driver.fake_reset()


@needs_cuda
@pytest.mark.slow
def test_no_spills_and_no_serialised_products() -> None:
    """ptxas warns where it has to serialise the instructions of the matrix unit."""
    functions = {}
    for n, (m, k, columns) in enumerate(((4096, 4096, 4096), (8192, 768, 3072), (128, 4096, 512))):
        arrays = [np.zeros((m, k), "f2"), np.zeros((k, columns), "f2")]
        for part in split_launches(schedule(MatMul(), arrays, (1,), HOPPER)[1]):
            part = replace(part, name=f"p{n}_{part.name}")
            functions[part.name] = print_kernel(part, CUDA).text
    ((image,),) = compile_images([module_text("", functions, functions)], ("sm_90a",), find_cuda_toolchain())
    assert not image.warnings
    assert all(r.spill_stores == r.spill_loads == r.stack == 0 for r in image.resources.values())
