"""Sparse products of integers: sums by every machine's instruction, in the interpreter and as machine code; the choice; whole
models against their meaning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import tilewright
from codegen.native import run_native
from codegen.test_sparse import weights
from onnx import TensorProto, helper, numpy_helper
from tilewright.codegen.machine import Machine, parse_machine
from tilewright.codegen.strategies.axes import without_empty_sum
from tilewright.codegen.strategies.product import find_dot, find_product
from tilewright.codegen.strategies.scheduled import Group, Pack
from tilewright.codegen.strategies.select import with_sparsity
from tilewright.codegen.strategies.sparse import SparsePlan, schedule_sparse
from tilewright.codegen.strategies.sparse_choice import find_sparse_product, plan_sparse
from tilewright.codegen.strategies.sparse_forms import product_of_words, weight_matrix, words_of
from tilewright.codegen.strategies.sparse_integers import packed_values
from tilewright.codegen.strategies.sparse_weights import Layout, SparseWeights
from tilewright.ir.compute import acc_var
from tilewright.ir.expr import cast, load
from tilewright.ir.kernel import Buffer
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.types import TensorType
from tilewright.targets.cpu.host import host_machine

# machine -> types of the operands that it multiplies
MACHINES = {"znver5": ("u8", "i8"), "alderlake": ("u8", "i8"), "haswell": ("i16", "i16"), "cortex-a76": ("i8", "i8"),
            "neoverse-v1": ("u8", "i8")}
TYPES = {"u8": np.uint8, "i8": np.int8, "i16": np.int16}


def operands(
    types: tuple[str, str], shape: tuple[int, ...], kernel: tuple[int, ...], density: float, block: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([*shape, *kernel])
    low = 0 if types[0] == "u8" else -127
    x = rng.integers(low, 128 if low else 256, shape).astype(TYPES[types[0]])
    w = weights(int(np.prod(kernel[:-1])), kernel[-1], density, block) * 8
    return x, np.clip(w * 7, -127, 127).astype(TYPES[types[1]]).reshape(kernel)


def group_of(op: Op, x: np.ndarray, w: np.ndarray, types: tuple[str, str]) -> Group:
    """With sums that start with a number of each output."""
    (out,) = op.infer(TensorType(types[0], x.shape), TensorType(types[1], w.shape))
    y, bx, bw = Buffer("y0", "f32", out.shape), Buffer("x0", types[0], x.shape), Buffer("x1", types[1], w.shape)
    shift = Buffer("e0", "i32", (w.shape[-1],))
    c = op.compute(replace(y, dtype="i32"), bx, bw)
    c = replace(c, out=y, finish=cast(acc_var("i32"), "f32"), init=load(shift, c.out_index[-1]))
    return Group("contract", (c,), (y, bx, bw, shift), constants=frozenset(["x1"]))


def plan_of(group: Group, w: np.ndarray, machine: Machine, types: tuple[str, str], layout: Layout, width: int) -> SparsePlan:
    found = find_sparse_product(group)
    dot = find_dot(*types, "i32", machine)
    assert found is not None and dot is not None
    product, (work, right, columns) = found
    matrix = weight_matrix(work, right, columns, w)
    lanes = machine.lanes("i32")
    cut = replace(layout, tile=min(layout.tile, len(matrix)), chunk=max(layout.chunk, lanes), steps=dot.count)
    return SparsePlan(product, SparseWeights(matrix, cut), width * lanes, "", 0.5, 1.0, 1.0, dot)


def words_plan(group: Group, w: np.ndarray, machine: Machine, layout: Layout, width: int) -> SparsePlan:
    """Steps of four neighbours."""
    found = find_product(without_empty_sum(group.computes[0]))
    dot = find_dot("u8", "i8", "i32", machine)
    product = None if found is None else product_of_words(found.compute, found, 4)
    assert product is not None and dot is not None
    matrix, lanes = words_of(w.reshape(-1, w.shape[-1]), 4), machine.lanes("i32")
    cut = replace(layout, tile=min(layout.tile, len(matrix)), chunk=max(layout.chunk, lanes))
    return SparsePlan(product, SparseWeights(matrix, cut), width * lanes, "", 0.5, 1.0, 1.0, dot)


def packed_operand(pack: Pack, array: np.ndarray) -> np.ndarray:
    if pack.word == 1:
        return pack.apply(array)
    whole = array.view(np.int32)
    origin, *steps = ((*i[:-1], i[-1] // pack.word) for i in (pack.origin, *pack.steps))  # type: ignore[operator]
    return replace(pack, word=1, origin=origin, steps=tuple(steps)).apply(whole)


def compare(group: Group, plan: SparsePlan, op: Op, x: np.ndarray, w: np.ndarray, native: bool, machine: Machine) -> None:
    made = schedule_sparse(group, plan, machine)
    verify_kernel(made.kernel, scheduled=True)
    shift = np.arange(w.shape[-1], dtype=np.int32)
    (expected,) = op.evaluate(x, w)
    packed = {name: packed_operand(pack, {"x0": x, "x1": w}[pack.source]).reshape(-1) for name, pack in made.packs}
    packed = {b.name: packed[b.name].reshape(b.static_shape).copy() for b in made.kernel.buffers if b.name in packed}
    for threads in (1, 3):
        y = np.full(expected.shape, 99, np.float32)
        given = {b.name: {"y0": y, "x0": x, "x1": w, "e0": shift, **packed}[b.name] for b in made.kernel.buffers}
        if native:
            run_native(made.kernel, given, threads=threads)
        else:
            run_kernel(made.kernel, given, threads=threads)
        np.testing.assert_array_equal(given["y0"], expected + shift, f"{made.note}\n{made.kernel}")


def test_words_hold_the_weights_of_their_steps() -> None:
    w = (weights(21, 16, 0.4, 2) * 8).astype(np.int8)
    encoded = SparseWeights(w, Layout(2, 16, 21, 4))
    words, index, starts = packed_values(encoded, 4), encoded.index(lambda k: k), encoded.starts() // 4
    dense = np.zeros_like(w)
    for group in range(8):
        for n in range(starts[0, 0, group], starts[0, 0, group + 1]):
            parts = words[n].view(np.int8).reshape(2, 4)
            for q in range(4):
                dense[index[4 * n + q], 2 * group : 2 * group + 2] += parts[:, q]
    np.testing.assert_array_equal(dense, w)


@pytest.mark.parametrize("name", MACHINES)
def test_products(name: str) -> None:
    """Tails of panels and of chunks; lists that are filled up; tiles of the reduction."""
    machine, types, op = parse_machine(f"cpu:{name}"), MACHINES[name], MatMul("i32")
    for layout, width in ((Layout(4, 16, 999), 2), (Layout(2, 16, 16), 1), (Layout(1, 32, 999), 4)):
        x, w = operands(types, (37, 44), (44, 24), 0.3, layout.block)
        group = group_of(op, x, w, types)
        compare(group, plan_of(group, w, machine, types, layout, width), op, x, w, False, machine)


def of_neighbours(kernel: tuple[int, ...], density: float, block: int) -> np.ndarray:
    """Weights of i8 in blocks of `block` x 4."""
    rng = np.random.default_rng(kernel)
    kept = rng.random((kernel[-2] // 4, kernel[-1] // block)) < density
    w = rng.integers(-127, 128, kernel).astype(np.int8)
    return w * np.repeat(np.repeat(kept, 4, axis=0), block, axis=1).astype(np.int8)


@pytest.mark.parametrize("name", ["znver5", "alderlake", "neoverse-v1"])
def test_products_of_neighbouring_steps(name: str) -> None:
    machine, op = parse_machine(f"cpu:{name}"), MatMul("i32")
    for layout, width in ((Layout(4, 16, 999), 2), (Layout(8, 16, 5), 1), (Layout(1, 32, 999), 3)):
        x, _ = operands(("u8", "i8"), (37, 44), (44, 24), 0.3, 1)
        w = of_neighbours((44, 24), 0.4, 4)
        group = group_of(op, x, w, ("u8", "i8"))
        compare(group, words_plan(group, w, machine, layout, width), op, x, w, False, machine)


def test_neighbouring_steps_of_strided_rows() -> None:
    """A 1 x 1 convolution of stride 2: the rows of its left operand are no single run."""
    machine, types = parse_machine("cpu:znver5"), ("u8", "i8")
    op = Conv((2, 2), (0,) * 4, (1, 1), 1, "i32")
    x, _ = operands(types, (2, 5, 6, 16), (1, 1, 16, 24), 0.3, 1)
    w = of_neighbours((1, 1, 16, 24), 0.5, 8)
    group = group_of(op, x, w, types)
    compare(group, words_plan(group, w, machine, Layout(8, 16, 999), 1), op, x, w, False, machine)


def test_blocks_of_neighbours_are_found() -> None:
    machine = parse_machine("cpu:znver5")
    x, w = operands(("u8", "i8"), (128, 512), (512, 512), 0.3, 8)[0], of_neighbours((512, 512), 0.3, 8)
    plan = with_sparsity(group_of(MatMul("i32"), x, w, ("u8", "i8")), {"x1": w}, machine).sparse
    assert plan is not None and (plan.product.word, plan.weights.layout.block, plan.pattern) == (4, 8, "8x4 blocks")


def host_types() -> tuple[Machine, tuple[str, str]]:
    machine = host_machine()
    for types in set(MACHINES.values()):
        if find_dot(*types, "i32", machine) is not None:
            return machine, types
    pytest.skip(f"{machine.name} has no instruction for sums of products of integers")


@pytest.mark.parametrize("size, kernel, stride", [((2, 9, 8, 8), 3, 1), ((1, 8, 9, 16), 1, 1), ((2, 9, 9, 16), 1, 2)], ids=str)
def test_convolutions_as_machine_code(size: tuple[int, ...], kernel: int, stride: int) -> None:
    machine, types = host_types()
    op = Conv((stride,) * 2, (0,) * 4, (1, 1), 1, "i32")
    x, w = operands(types, size, (kernel, kernel, size[-1], 40), 0.3, 4)
    group = group_of(op, x, w, types)
    for layout in (Layout(4, 16, 999), Layout(8, 16, 32)):
        compare(group, plan_of(group, w, machine, types, layout, 1), op, x, w, True, machine)


def test_blocks_are_chosen_where_they_pay() -> None:
    machine = parse_machine("cpu:znver5")
    for block, density, height in ((8, 0.5, 8), (8, 0.1, 8), (1, 0.05, 2), (1, 0.5, 0), (8, 0.9, 0)):
        x, w = operands(("u8", "i8"), (128, 512), (512, 512), density, block)
        plan = with_sparsity(group_of(MatMul("i32"), x, w, ("u8", "i8")), {"x1": w}, machine).sparse
        assert (plan.weights.layout.block if plan else 0) == height, (block, density)
    x, w = operands(("u8", "i8"), (128, 512), (512, 512), 0.1, 8)
    old = parse_machine("cpu:x86-64-v2")  # multiplies no bytes
    assert plan_sparse(group_of(MatMul("i32"), x, w, ("u8", "i8")), {"x1": w}, old, "default") is None


def quantized(rows: int, depth: int, outputs: int, deep: bool) -> onnx.ModelProto:
    """u8 -> product with an eighth of the weights in 8 x 1 (8 x 4) blocks -> u8."""
    rng = np.random.default_rng(3)
    w = np.clip(weights(depth, outputs, 0.12, 8) * 56, -127, 127).astype(np.int8)
    w = of_neighbours((depth, outputs), 0.12, 8) if deep else w
    constants = {"w": w, "t": np.full(outputs, 0.01, np.float32), "s": np.float32(0.02), "z": np.uint8(120),
                 "r": np.float32(0.5), "b": rng.standard_normal(outputs).astype(np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "t"], ["wf"], axis=1), helper.make_node("MatMul", ["xf", "wf"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]), helper.make_node("QuantizeLinear", ["a", "r", "z"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.UINT8, s) for n, s in (("x", [rows, depth]), ("y", [rows, outputs])))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("rows, outputs, deep", [(64, 128, False), (75, 128, True), (64, 136, True)])
def test_a_quantized_model_skips_its_zeros(rows: int, outputs: int, deep: bool) -> None:
    """Bytes are finished before they are turned round, but those of the last chunk where it is no whole one."""
    model = quantized(rows, 256, outputs, deep)
    data = np.random.default_rng(0).integers(0, 256, (rows, 256)).astype(np.uint8)
    artifact = tilewright.compile(model, target="cpu", name="model")
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    real = (data.astype(np.float64) - 120) * 0.02 @ (constants["w"] * 0.01) + constants["b"]
    expected = np.clip(np.rint(real / 0.5) + 120, 0, 255)
    with artifact.load(1) as module:
        (got,) = module(data)
    np.testing.assert_allclose(got, expected, atol=1)
    assert np.mean(got == expected) > 0.999
