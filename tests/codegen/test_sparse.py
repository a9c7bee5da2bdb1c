"""Products and convolutions without the zeros of their weights: encoding, kernels in the interpreter and as machine code,
and when they are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from codegen.native import run_native
from codegen.scheduled_ops import Operand
from tilewright.codegen.machine import Machine, parse_machine
from tilewright.codegen.strategies.candidates import imbalance, space_of
from tilewright.codegen.strategies.choices import Choice
from tilewright.codegen.strategies.scheduled import Group
from tilewright.codegen.strategies.select import schedule_group, with_sparsity
from tilewright.codegen.strategies.sparse import SparsePlan, schedule_sparse
from tilewright.codegen.strategies.sparse_choice import block_heights, find_sparse_product, pattern_of
from tilewright.codegen.strategies.sparse_forms import weight_matrix
from tilewright.codegen.strategies.sparse_weights import Layout, SparseWeights
from tilewright.ir.compute import acc_var
from tilewright.ir.errors import OptionError
from tilewright.ir.expr import binary, load
from tilewright.ir.kernel import Buffer
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.types import TensorType
from tilewright.targets.cpu.host import host_machine
from tilewright.targets.cpu.timing import TimedKernel, operands

WIDE = parse_machine("cpu:x86-64-v4")


def weights(depth: int, outputs: int, density: float, block: int = 1, seed: int = 0) -> np.ndarray:
    """Multiples of 1/8 of few bits; blocks of neighbouring outputs are kept together."""
    rng = np.random.default_rng([seed, depth, outputs])
    kept = np.repeat(rng.random((depth, -(-outputs // block))) < density, block, axis=1)[:, :outputs]
    return (rng.integers(1, 17, (depth, outputs)) * rng.choice((-1, 1), (depth, outputs)) / 8 * kept).astype(np.float32)


def values(*shape: int) -> np.ndarray:
    return (np.random.default_rng(shape).integers(-16, 17, shape) / 8).astype(np.float32)


def group_of(op: Op, x: Operand, w: np.ndarray, residual: bool = False) -> Group:
    (out,) = op.infer(TensorType("f32", x.array.shape), TensorType("f32", w.shape))
    y, bx, bw = Buffer("y0", "f32", out.shape), x.buffer("x0"), Buffer("x1", "f32", w.shape)
    params = [y, bx, bw]
    c = op.compute(y, bx, bw)
    if residual:
        params.append(Buffer("e0", "f32", out.shape))
        sums = acc_var("f32") + load(params[-1], *c.out_index)
        c = replace(c, finish=binary("max", sums, 0.0))
    return Group("contract", (c,), tuple(params), constants=frozenset(["x1"]))


def forced(group: Group, w: np.ndarray, machine: Machine, layout: Layout, width: int) -> SparsePlan:
    """A plan whatever it costs."""
    found = find_sparse_product(group)
    assert found is not None
    product, (work, right, columns) = found
    matrix = weight_matrix(work, right, columns, w)
    cut = replace(layout, tile=min(layout.tile, len(matrix)), chunk=max(layout.chunk, machine.lanes("f32")))
    return SparsePlan(product, SparseWeights(matrix, cut), width, pattern_of(matrix), 0.5, 1.0, 1.0)


def compare(group: Group, plan: SparsePlan, op: Op, x: Operand, w: np.ndarray, machine: Machine, native: bool) -> None:
    made = schedule_sparse(group, plan, machine)
    verify_kernel(made.kernel, scheduled=True)
    (expected,) = op.evaluate(x.array, w)
    extra = {b.name: values(*b.static_shape) for b in group.params[3:]}
    for e in extra.values():
        expected = np.maximum(expected + e, 0)
    packed = {name: pack.apply({"x0": x.array, "x1": w}[pack.source]).reshape(-1) for name, pack in made.packs}
    packed = {b.name: packed[b.name].reshape(b.static_shape).copy() for b in made.kernel.buffers if b.name in packed}
    for threads in (1, 3):
        got = np.full(expected.shape, 99, np.float32)
        given = {b.name: {"y0": got, "x0": x.memory, "x1": w, **extra, **packed}[b.name] for b in made.kernel.buffers}
        if native:
            run_native(made.kernel, given, threads=threads)
        else:
            run_kernel(made.kernel, given, threads=threads)
        np.testing.assert_array_equal(given["y0"], expected, f"{made.note}\n{made.kernel}")


@pytest.mark.parametrize("layout", [Layout(8, 16, 999), Layout(4, 16, 999, 2), Layout(2, 16, 8, 2), Layout(1, 16, 8, 4),
                                    Layout(1, 32, 16), Layout(3, 48, 999), Layout(1, 16, 8, 1, 4), Layout(2, 32, 999, 1, 2)],
                         ids=str)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_encoding_holds_every_weight_once(layout: Layout, density: float) -> None:
    w = weights(21, 37, density, layout.block)
    encoded = SparseWeights(w, replace(layout, tile=min(layout.tile, 21)))
    dense = np.zeros((21, encoded.chunks * layout.chunk), np.float32)
    starts, order, index = encoded.starts(), encoded.order(), encoded.index(lambda k: k)
    for chunk, tile, place in np.ndindex(*order.shape):
        first = chunk * layout.chunk + order[chunk, tile, place] * layout.block
        bundle, member = divmod(place, layout.bundle)
        for n in range(starts[chunk, tile, bundle] + member, starts[chunk, tile, bundle + 1], layout.bundle):
            if encoded.values()[n].any():
                assert tile * encoded.layout.tile <= index[n] < (tile + 1) * encoded.layout.tile
            dense[index[n], first : first + layout.block] += encoded.values()[n]
            own = w[index[n], first : first + layout.block]
            assert own.any() or not w[:, first : first + layout.block].any()  # fillings add no product that is not there
    np.testing.assert_array_equal(dense[:, :37], w)
    assert not dense[:, 37:].any() and encoded.blocks == starts.max(initial=0)
    assert ((starts[:, :, 1:] - starts[:, :, :-1]) % (layout.steps * layout.bundle) == 0).all()


MATRICES = [((37, 24), 40), ((16, 64), 33), ((2, 9, 40), 52), ((70, 33), 64)]


@pytest.mark.parametrize("machine", ["x86-64-v4", "x86-64-v3", "x86-64-v2", "aarch64"])
@pytest.mark.parametrize("layout", [Layout(8, 16, 999), Layout(2, 16, 16, 1, 2), Layout(1, 32, 16),
                                    Layout(1, 32, 16, 1, 4)], ids=str)
def test_kernels_of_products(machine: str, layout: Layout) -> None:
    """Tails of panels, of chunks and of tiles; a residual that is added; an operand that lies with gaps."""
    where = parse_machine(f"cpu:{machine}")
    for n, (shape, outputs) in enumerate(MATRICES[:2]):
        x, w = Operand(values(*shape), gap=3 * n), weights(shape[-1], outputs, 0.3, layout.block)
        group = group_of(MatMul(), x, w, residual=n == 0)
        compare(group, forced(group, w, where, layout, 2 * where.lanes("f32")), MatMul(), x, w, where, native=False)


@pytest.mark.parametrize("shape, outputs", MATRICES, ids=str)
@pytest.mark.parametrize("layout", [Layout(4, 16, 999), Layout(1, 16, 16, 1, 4), Layout(2, 16, 999, 1, 2)], ids=str)
def test_products_as_machine_code(shape: tuple[int, ...], outputs: int, layout: Layout) -> None:
    host = host_machine()
    x, w = Operand(values(*shape), gap=1), weights(shape[-1], outputs, 0.4, 2)
    group = group_of(MatMul(), x, w, residual=True)
    compare(group, forced(group, w, host, layout, 48), MatMul(), x, w, host, native=True)


WINDOWS = [  # image, kernel, stride, dilation
    ((2, 9, 8, 6), 3, 1, 1), ((1, 11, 13, 5), 3, 1, 2), ((1, 8, 9, 16), 1, 1, 1), ((2, 9, 9, 16), 1, 2, 1),
    ((1, 7, 20, 4), 5, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("size, kernel, stride, dilation", WINDOWS, ids=str)
def test_convolutions(size: tuple[int, ...], kernel: int, stride: int, dilation: int) -> None:
    """Windows run over the border, where nothing is stored; pixels at a distance are copied."""
    op = Conv((stride,) * 2, (0,) * 4, (dilation,) * 2, 1)
    w = weights(kernel * kernel * size[-1], 40, 0.3, 4).reshape(kernel, kernel, size[-1], 40)
    x = Operand(values(*size))
    group = group_of(op, x, w, residual=True)
    for layout, machine, native in ((Layout(4, 16, 999), WIDE, False), (Layout(1, 16, 16, 1, 4), host_machine(), True)):
        compare(group, forced(group, w, machine, layout, 16), op, x, w, machine, native)


def test_dense_weights_and_few_rows_stay_dense() -> None:
    for rows, density in ((128, 1.0), (128, 0.7), (4, 0.1)):
        x, w = Operand(values(rows, 96)), weights(96, 96, density)
        group = with_sparsity(group_of(MatMul(), x, w), {"x1": w}, WIDE)
        assert group.sparse is None or not group.sparse.pays
        assert "sparse" not in schedule_group(group, WIDE).note


@pytest.mark.parametrize("block, pays", [(8, True), (1, False)])
def test_narrow_blocks_of_windows_stay_dense(block: int, pays: bool) -> None:
    """Their rows begin anywhere in a cache line: measured at 0.7 to 0.9 of the dense speed with a tenth of the weights."""
    x, w = Operand(values(1, 16, 16, 128)), weights(9 * 128, 128, 0.1, block).reshape(3, 3, 128, 128)
    group = with_sparsity(group_of(Conv((1, 1), (0,) * 4, (1, 1), 1), x, w), {"x1": w}, parse_machine("cpu:znver5"))
    assert (group.sparse is not None and group.sparse.pays) == pays


@pytest.mark.parametrize("block, density, height", [(8, 0.2, 8), (4, 0.1, 4), (2, 0.1, 2), (1, 0.1, 1)])
def test_the_block_follows_the_pattern(block: int, density: float, height: int) -> None:
    x, w = Operand(values(128, 256)), weights(256, 256, density, block)
    plan = with_sparsity(group_of(MatMul(), x, w), {"x1": w}, WIDE).sparse
    assert plan is not None and plan.weights.layout.block == height and plan.gain > 1.1
    assert abs(plan.density - density) < 0.05


def test_patterns_have_names() -> None:
    dense = np.ones((16, 16), np.float32)
    two_of_four = dense * (np.arange(16) % 4 < 2)[:, None]
    random = weights(64, 64, 0.3)
    rolled = np.stack([np.roll(two_of_four[:, n], n % 2) for n in range(16)], axis=1)
    rows = dense.copy()
    rows[3] = 0
    assert pattern_of(rows) == "1 zero inputs"
    assert pattern_of(weights(64, 64, 0.3, 8)).startswith("8x1 blocks")
    assert pattern_of(rolled).startswith("2:4")
    assert pattern_of(random) == "unstructured"


def test_tuning_may_choose_the_dense_kernel_or_another_height() -> None:
    """What is measured decides, with the copy of the input in it; the weights are the real ones."""
    host = host_machine()
    x, w = Operand(values(40, 96)), weights(96, 64, 0.45, 4)
    group = with_sparsity(group_of(MatMul(), x, w), {"x1": w}, host)
    assert group.sparse is not None
    space = space_of(group, host, "default")
    assert space is not None and space.sparse == (0, *block_heights(group.sparse, host))
    for sparse in space.sparse:
        made = schedule_group(replace(group, choice=Choice(sparse=sparse)), host)
        assert made.note.startswith("sparse") == (sparse != 0) and imbalance(made.kernel)
        timed = TimedKernel(group, made, host)
        np.testing.assert_allclose(timed.results()["y0"], operands(group)["x0"] @ w, atol=1e-3)
    with pytest.raises(OptionError, match="no sparse kernel for blocks of 7"):
        schedule_group(replace(group, choice=Choice(sparse=7)), host)
