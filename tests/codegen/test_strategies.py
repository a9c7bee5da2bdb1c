"""Strategies on small odd shapes: tails of panels and tiles, one row, one column, operands that are views."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from codegen.scheduled_ops import MACHINES, Operand, run_op, run_scheduled, schedule_op
from ml_dtypes import bfloat16
from tilewright.codegen.strategies.product import find_product
from tilewright.codegen.strategies.scheduled import Pack, Scheduled
from tilewright.codegen.strategies.tiles import choose_tile, spread, tile_cycles
from tilewright.ir.compute import Compute, acc_var
from tilewright.ir.expr import Expr, binary, call, const
from tilewright.ir.kernel import Alloc, Buffer, walk_block
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.norm import Attention
from tilewright.ir.ops.quantized_attention import QuantizedAttention
from tilewright.ir.ops.recurrent import Gru, Lstm, Rnn
from tilewright.ir.ops.window import Pool
from tilewright.ir.types import DTYPES

each_machine = pytest.mark.parametrize("machine", MACHINES)


def exact(*shape: int, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    """Multiples of 1/8 of few bits: sums of products are exact in any order."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.integers(-16, 17, shape) / 8).astype(dtype)


def conv(stride: int = 1, dilation: int = 1, groups: int = 1, rank: int = 2) -> Conv:
    return Conv((stride,) * rank, (0,) * (2 * rank), (dilation,) * rank, groups)


# ---- products


MATMULS = [
    ((5, 7), (7, 70)), ((1, 16), (16, 40)), ((1, 9), (9, 5)), ((17, 3), (3, 4)), ((13, 1), (1, 33)), ((33, 5), (5, 16)),
    ((2, 9, 8), (2, 8, 20)), ((2, 3, 9, 4), (4, 35)), ((9, 4), (3, 4, 20)), ((2, 1, 3, 4), (1, 3, 4, 18)),
    ((3, 1, 4), (3, 4, 17)), ((64, 6), (6, 8)), ((50, 12), (12, 49)), ((1, 1), (1, 4)),
]  # fmt: skip


@each_machine
@pytest.mark.parametrize("shapes", MATMULS, ids=str)
def test_products(shapes: tuple[tuple[int, ...], ...], machine: str) -> None:
    made = run_op(MatMul(), *(exact(*s) for s in shapes), machine=machine)
    assert made.packs or shapes[0][-2] <= 4  # few rows read a computed operand where it lies


@pytest.mark.parametrize("shapes", [((64, 20), (20, 150)), ((60, 33), (33, 96))], ids=str)
def test_products_by_halves_of_the_rows(shapes: tuple[tuple[int, ...], ...]) -> None:
    made = run_op(MatMul(), *(exact(*s) for s in shapes))
    assert "halves of the rows" in made.note


def test_convolutions_by_halves_of_the_rows() -> None:
    made = run_op(conv(), exact(1, 8, 9, 16), exact(1, 1, 16, 96))
    assert "halves of the rows" in made.note
    assert "halves" not in run_op(conv(), exact(1, 7, 9, 16), exact(1, 1, 16, 96)).note


@pytest.mark.parametrize("shapes", [((3, 9), (9, 1)), ((1, 5), (5, 1)), ((2, 7, 4), (2, 4, 3)), ((1, 1), (1, 1))], ids=str)
def test_products_of_few_columns_are_reductions(shapes: tuple[tuple[int, ...], ...]) -> None:
    made = run_op(MatMul(), *(exact(*s) for s in shapes))
    assert not made.packs


@each_machine
@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int64, np.uint8])
def test_products_of_other_types(dtype: type, machine: str) -> None:
    x, y = (np.abs(exact(*s) * 8).astype(dtype) for s in ((5, 6), (6, 21)))
    run_op(MatMul(), x, y, machine=machine)


@pytest.mark.parametrize("shapes", [((5, 6), (6, 17)), ((3, 8), (8, 40)), ((4, 7), (7, 20))], ids=str)
def test_products_of_bf16_pairs(shapes: tuple[tuple[int, ...], ...]) -> None:
    """An even depth takes the instruction, also for a tail of one column."""
    made = run_op(MatMul(), *(exact(*s, dtype=bfloat16) for s in shapes), machine="sapphirerapids")
    assert ("vdpbf16ps" in str(made.kernel)) is (shapes[0][1] % 2 == 0)


@each_machine
@pytest.mark.parametrize("left, right", [*itertools.product(((0, 1, 2), (0, 2, 1), (1, 0, 2)), repeat=2)])
def test_operands_that_are_views(left: tuple[int, ...], right: tuple[int, ...], machine: str) -> None:
    x, y = Operand(exact(2, 9, 6), left, gap=3), Operand(exact(2, 6, 21), right, gap=1)
    run_op(MatMul(), x, y, machine=machine)


@pytest.mark.parametrize("shapes", [((7, 6), (6, 1)), ((2, 9, 8), (2, 8, 1)), ((30, 40), (40, 1))], ids=str)
def test_a_matrix_times_a_vector_reads_the_matrix_where_it_lies(shapes: tuple[tuple[int, ...], ...]) -> None:
    made = run_op(MatMul(), *(exact(*s) for s in shapes))
    assert (made.packs, made.note) == ((), "reduction")


def test_an_operand_that_is_repeated() -> None:
    x = Operand(exact(9, 6))
    x.array = np.broadcast_to(x.array, (3, 9, 6))
    x.strides = (0, 6, 1)
    run_op(MatMul(), x, exact(3, 6, 20))


CONVOLUTIONS = [
    (conv(), (1, 9, 9, 5), (3, 3, 5, 24)), (conv(2), (2, 9, 11, 4), (3, 3, 4, 33)), (conv(), (1, 7, 7, 6), (1, 1, 6, 32)),
    (conv(), (1, 6, 6, 3), (3, 3, 3, 17)), (conv(dilation=2), (1, 9, 8, 3), (3, 2, 3, 20)),
    (conv(groups=2), (1, 8, 8, 8), (3, 3, 4, 32)), (conv(groups=3), (2, 5, 4, 6), (2, 2, 2, 12)),
    (conv(rank=1), (1, 20, 4), (3, 4, 10)), (conv(rank=3), (1, 4, 5, 4, 2), (2, 2, 2, 2, 9)),
    (conv(2), (1, 7, 7, 3), (1, 1, 3, 16)), (conv(), (3, 3, 3, 4), (3, 3, 4, 40)), (conv(), (1, 5, 40, 3), (2, 5, 3, 8)),
]  # fmt: skip


@each_machine
@pytest.mark.parametrize("op, x, w", CONVOLUTIONS, ids=lambda v: str(v) if isinstance(v, tuple) else v.name)
def test_convolutions(op: Conv, x: tuple[int, ...], w: tuple[int, ...], machine: str) -> None:
    run_op(op, exact(*x), exact(*w), exact(w[-1]), machine=machine)
    if machine == "x86-64-v4":
        run_op(op, Operand(exact(*x), gap=3), exact(*w))


def relu_and_residual(c: Compute, buffers: dict[str, Buffer]) -> Compute:
    total: Expr = acc_var(c.acc) + buffers["e0"][tuple(c.axes)] * buffers["e1"][c.axes[-1]]
    return replace(c, finish=binary("max", total, const(0, c.acc)))


def silu(c: Compute, buffers: dict[str, Buffer]) -> Compute:
    return replace(c, finish=acc_var(c.acc) * call("sigmoid", acc_var(c.acc)))


@each_machine
@pytest.mark.parametrize("rows, columns", [(1, 40), (13, 21), (30, 64)])
def test_epilogues_are_applied_to_the_sums(rows: int, columns: int, machine: str) -> None:
    x, w, e, s = exact(rows, 5), exact(5, columns), exact(rows, columns, seed=1), exact(columns)
    operands = [Operand(x), Operand(w)]
    made = schedule_op(MatMul(), operands, MACHINES[machine], relu_and_residual, [Operand(e, (1, 0)), Operand(s)])
    np.testing.assert_array_equal(run_scheduled(*made)[0], np.maximum(x @ w + e * s, 0))
    made = schedule_op(MatMul(), operands, MACHINES[machine], silu)
    np.testing.assert_allclose(run_scheduled(*made)[0], (x @ w) / (1 + np.exp(-(x @ w))), rtol=2e-6, atol=1e-6)


def test_the_roles_of_axes() -> None:
    """Batch axes are in both operands, rows in the left only; neighbours that are one run are joined."""
    x, w, y = Buffer("x", "f32", (2, 3, 9, 8)), Buffer("w", "f32", (2, 3, 8, 20)), Buffer("y", "f32", (2, 3, 9, 20))
    p = find_product(MatMul().compute(y, x, w))
    assert p is not None
    assert ([v.extent for v in p.batch], [v.extent for v in p.rows], p.columns.extent) == ([6], [9], 20)
    shared = find_product(MatMul().compute(y, x, Buffer("w", "f32", (8, 20))))
    assert shared is not None
    assert ([v.extent for v in shared.batch], [v.extent for v in shared.rows]) == ([], [54])
    assert shared.left.buf is x
    turned = find_product(MatMul().compute(Buffer("y", "f32", (9, 9)), *[Buffer("x", "f32", (9, 9))] * 2))
    assert turned is not None
    assert turned.left is not turned.right


# ---- windows


WINDOWS: list[tuple[Op, tuple[tuple[int, ...], ...]]] = [
    (conv(groups=20), ((1, 10, 12, 20), (3, 3, 1, 20), (20,))), (conv(2, groups=5), ((1, 9, 9, 5), (3, 3, 1, 5))),
    (conv(groups=16), ((2, 5, 20, 16), (3, 3, 1, 16))), (conv(groups=40, dilation=2), ((1, 7, 7, 40), (3, 3, 1, 40))),
    (conv(groups=18, rank=1), ((2, 9, 18), (4, 1, 18))), (conv(groups=7), ((1, 11, 3, 7), (9, 3, 1, 7))),
    (Pool("max", (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False), ((1, 8, 8, 19),)),
    (Pool("avg", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False), ((1, 8, 8, 16),)),
    (Pool("avg", (3, 3), (1, 1), (1, 0, 1, 2), (1, 2), True), ((2, 6, 9, 33),)),
    (Pool("max", (3,), (2,), (0, 0), (1,), False), ((3, 9, 4),)),
    (Pool("avg", (2, 2, 2), (1, 1, 1), (0,) * 6, (1, 1, 1), False), ((1, 4, 3, 5, 17),)),
]  # fmt: skip


@each_machine
@pytest.mark.parametrize("op, shapes", WINDOWS, ids=lambda v: str(v) if isinstance(v, tuple) else v.name)
def test_windows(op: Op, shapes: tuple[tuple[int, ...], ...], machine: str) -> None:
    made = run_op(op, *(exact(*s) for s in shapes), machine=machine, tolerance=1e-6)
    assert "pixels" in made.note
    run_op(op, Operand(exact(*shapes[0]), gap=2), *(exact(*s) for s in shapes[1:]), machine=machine, tolerance=1e-6)


# ---- attention


def heads(b: int, h: int, rows: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((b, h, rows, d)).astype(np.float32)


ATTENTION = {  # (rows, keys, heads, groups, depth, width), causal, shape of the mask
    "plain": ((9, 20, 2, 2, 16, 32), False, None),
    "whole-panels": ((16, 32, 1, 1, 16, 16), False, None),
    "many-heads": ((9, 20, 8, 8, 16, 32), False, None),
    "narrow-last-panel": ((9, 37, 3, 3, 16, 16), True, (9, 37)),
    "few-keys": ((8, 3, 2, 2, 16, 16), False, None),
    "grouped": ((11, 17, 4, 2, 16, 16), False, None),
    "causal": ((32, 32, 1, 1, 16, 16), True, None),
    "causal-with-cache": ((5, 21, 1, 1, 32, 16), True, None),
    "mask": ((4, 18, 1, 1, 16, 16), False, (4, 18)),
    "mask-of-keys": ((13, 18, 1, 1, 16, 48), True, (1, 1, 1, 18)),
    "mask-of-all": ((5, 7, 2, 2, 16, 16), False, (2, 2, 5, 7)),
    "causal-few-keys": ((9, 6, 1, 1, 16, 16), True, None),
}


@each_machine
@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name: str, machine: str) -> None:
    (rows, keys, h, g, depth, width), causal, mask = ATTENTION[name]
    batch = 2 if mask else 1
    q, k, v = heads(batch, h, rows, depth), heads(batch, g, keys, depth, 1), heads(batch, g, keys, width, 2)
    extra = []
    if mask:
        extra = [np.where(np.random.default_rng(3).random(mask) < 0.2, -np.inf, 0.5).astype(np.float32)]
    run_op(Attention(0.25, causal), q, k, v, *extra, machine=machine, tolerance=2e-6)


@each_machine
def test_keys_that_the_least_number_masks_count_where_all_are_masked(machine: str) -> None:
    """As exporters write masks: a row of nothing but padding is the mean of its values."""
    q, k, v = heads(1, 2, 9, 16), heads(1, 2, 20, 16, 1), heads(1, 2, 20, 16, 2)
    mask = np.where(np.arange(20) < 12, 0, np.finfo(np.float32).min).astype(np.float32) * np.ones((9, 1), np.float32)
    mask[3], mask[4], mask[5, 1:] = np.finfo(np.float32).min, -3.2e38, -np.inf
    run_op(Attention(0.25, False), q, k, v, mask, machine=machine, tolerance=2e-6)


def test_attention_of_views() -> None:
    """Heads lie side by side in the rows of one matrix."""
    q, k, v = (Operand(heads(2, 2, rows, 16), (0, 2, 1, 3)) for rows in (9, 20, 20))
    run_op(Attention(0.25, False), q, k, v, tolerance=2e-6)


def test_attention_of_half_precision() -> None:
    q, k, v = (heads(1, 2, rows, 16).astype(np.float16) for rows in (9, 20, 20))
    run_op(Attention(0.25, False), q, k, v, tolerance=2e-3)


QUANTIZED_ATTENTION = {  # (rows, keys, heads, depth, width), (dtype of k, of v), zeros, mask
    "one-panel": ((16, 32, 2, 64, 64), ("u8", "u8"), (130, 121, 140), None),
    "padded": ((9, 20, 2, 16, 16), ("u8", "i8"), (130, 121, 0), (1, 1, 1, 20)),
    "signed": ((9, 40, 1, 32, 48), ("i8", "i8"), (128, 0, 0), None),
    "mask-of-rows": ((12, 33, 1, 48, 32), ("i8", "u8"), (0, 3, 128), (1, 1, 12, 33)),
}


@pytest.mark.parametrize("name", QUANTIZED_ATTENTION)
def test_quantized_attention(name: str) -> None:
    (rows, keys, h, depth, width), kinds, zeros, mask = QUANTIZED_ATTENTION[name]
    rng = np.random.default_rng(len(name))
    shapes = ((1, h, rows, depth), (1, h, keys, depth), (1, h, keys, width))
    types = (DTYPES[t].numpy for t in ("u8", *kinds))
    q, k, v = (rng.integers(0, 256, s).astype(np.uint8).view(t) for s, t in zip(shapes, types, strict=True))
    extra = [np.where(rng.random(mask) < 0.2, -np.inf, 0.5).astype(np.float32)] if mask else []
    for weights, scores, result in (
        ((1 / 400, 0, 0, 255), (0.0125, 129, 0, 255, 0.02), (138, 0, 255)), ((1 / 127, 128, 0, 255), (), ()),
    ):
        more = () if result else ((0.3, 200, 0, 255), (1 / 90, 5, 0, 255))
        op = QuantizedAttention(2e-5, zeros, scores, weights, 0.02 if result else 1e-3, result, *more)
        run_op(op, q, k, v, *extra, machine="znver5", tolerance=None if result else 2e-6)


def test_quantized_attention_of_views() -> None:
    """Heads lie side by side in the rows of one matrix, or bytes that are multiplied together do not lie side by side."""
    rng = np.random.default_rng(2)
    for perm in ((0, 2, 1, 3), (0, 1, 3, 2)):
        q, k, v = (Operand(rng.integers(0, 256, (1, 2, rows, 16)).astype(np.uint8), perm) for rows in (9, 20, 20))
        op = QuantizedAttention(2e-5, (130, 121, 140), (), (1 / 400, 0, 0, 255), 0.02, (138, 0, 255))
        run_op(op, q, k, v, machine="znver5")


# ---- recurrences


CELLS = {
    "lstm": (Lstm(), 4, 32, 0, 2), "lstm-tail": (Lstm(), 4, 20, 0, 2), "lstm-few-units": (Lstm(), 4, 5, 0, 2),
    "lstm-peepholes": (Lstm(peepholes=True), 4, 16, 3, 2), "gru": (Gru(), 3, 16, 0, 1), "gru-tail": (Gru(), 3, 5, 0, 1),
    "gru-linear": (Gru(linear_before_reset=True), 3, 48, 1, 1), "gru-odd": (Gru(), 3, 17, 0, 1),
    "rnn-reverse": (Rnn(reverse=True), 1, 16, 0, 1), "rnn-one-unit": (Rnn(), 1, 1, 0, 1),
}  # fmt: skip


@each_machine
@pytest.mark.parametrize("name", CELLS)
def test_recurrences(name: str, machine: str) -> None:
    check_cell(*CELLS[name], steps=2, dtype=np.float32, machine=machine)


@pytest.mark.parametrize("name", CELLS)
def test_recurrences_of_double_precision(name: str) -> None:
    check_cell(*CELLS[name], steps=2, dtype=np.float64, machine="x86-64-v3")


SHARED = {
    "lstm": (Lstm(), 4, 64, 0, 2), "gru": (Gru(linear_before_reset=True), 3, 128, 1, 1), "rnn": (Rnn(), 1, 64, 0, 1),
    "lstm-reverse-peepholes": (Lstm(reverse=True, peepholes=True), 4, 64, 3, 2),
}  # fmt: skip


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", SHARED)
def test_recurrences_whose_units_are_shared_by_threads(name: str, steps: int) -> None:
    made = check_cell(*SHARED[name], steps=steps, dtype=np.float32, machine="x86-64-v4")
    assert "shared by the threads" in made.note


def check_cell(
    op: Op, gates: int, units: int, vectors: int, states: int, *, steps: int, dtype: type, machine: str
) -> Scheduled:
    rng = np.random.default_rng(5)
    shapes = [(steps, 2, gates * units), (units, gates * units), *[(vectors * units,)] * (vectors > 0), *[(2, units)] * states]
    arrays = [(rng.standard_normal(s) * min(0.4, 3 / units)).astype(dtype) for s in shapes]
    return run_op(op, *arrays, machine=machine, tolerance=4e-6)


# ---- tiles


@each_machine
@pytest.mark.parametrize("lanes_of", ["f32", "f64"])
def test_tiles_fit_in_the_registers(lanes_of: str, machine: str) -> None:
    m = MACHINES[machine]
    lanes = m.lanes(lanes_of)
    for rows, columns, depth in itertools.product((1, 2, 5, 8, 13, 56, 4096), (1, 4, 16, 33, 64, 100, 768), (1, 9, 512, 4608)):
        tile = choose_tile(rows, columns, depth, lanes, m)
        assert 1 <= tile.rows <= rows
        assert 1 <= tile.vectors <= -(-columns // lanes)
        assert tile.rows * tile.vectors + tile.vectors + 2 <= m.vector_registers
        assert np.isfinite(tile_cycles(tile.rows, tile.vectors, depth, m.vector_registers, True))


def test_large_products_use_most_registers() -> None:
    tile = choose_tile(512, 768, 768, 16, MACHINES["x86-64-v4"])
    assert tile.rows * tile.vectors >= 20
    assert choose_tile(512, 768, 768, 8, MACHINES["x86-64-v3"]).rows * 1 >= 3


@pytest.mark.parametrize("total", range(1, 60))
@pytest.mark.parametrize("most", [1, 2, 5, 8, 28])
def test_spread_covers_the_whole_with_nearly_equal_parts(total: int, most: int) -> None:
    parts = spread(total, most)
    assert sum(s * n for s, n in parts) == total
    assert max(s for s, _ in parts) <= most
    assert max(s for s, _ in parts) - min(s for s, _ in parts) <= 1
    assert sum(n for _, n in parts) == -(-total // most)


def test_accumulators_stay_within_the_registers() -> None:
    """The register buffers of a scheduled product hold no more vectors than the machine has."""
    for name, machine in MACHINES.items():
        made, _, _ = schedule_op(MatMul(), [Operand(exact(37, 24)), Operand(exact(24, 100))], machine)
        lanes = machine.lanes("f32")
        for s in walk_block(made.kernel.body):
            if isinstance(s, Alloc) and s.buf.space == "register":
                assert -(-s.buf.size // lanes) <= machine.vector_registers, (name, s.buf)


# ---- packs


def test_a_pack_enumerates_its_source() -> None:
    source = np.arange(2 * 6 * 8, dtype=np.int32).reshape(2, 6, 8)
    pack = Pack("x", (2, 3, 2, 4), (0, 1, 2), ((1, 0, 0), (0, 2, 0), (0, 0, 4), (0, 0, 1)))
    pack = replace(pack, origin=(0, 1, 0))
    got = pack.apply(source)
    for p in np.ndindex(pack.shape):
        at = np.array(pack.origin) + np.array(p) @ np.array(pack.steps)
        assert got[p] == source[tuple(at)]
    assert got.flags.c_contiguous
    turned = np.ascontiguousarray(source.transpose(2, 1, 0)).transpose(2, 1, 0)
    np.testing.assert_array_equal(pack.apply(turned), got)
