"""`block_products`: which products keep their narrow weights, that the meaning holds, and what runs on the processor."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tilewright.compiler.api import compile_with
from tilewright.compiler.passes.block_products import block_products
from tilewright.frontend.onnx import import_model
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.block_product import BlockMatMul, pack_words, shifts
from tilewright.ir.ops.quantize import RoundBlocks
from tilewright.ir.types import TensorType


def panels_of_32(op: object, types: tuple[TensorType, ...]) -> bool:
    """A machine that has every such product in panels of 32 columns."""
    return isinstance(op, BlockMatMul) and types[3 if op.integers else 1].static_shape[2] == 32


def n_bits(rows: int | str, depth: int, columns: int, bits: int, block: int, level: int = 0, zeros: bool = False) -> ModelProto:
    r = np.random.default_rng(bits + (rows if isinstance(rows, int) else 0))
    blocks = depth // block
    arrays = {
        "w": r.integers(0, 256, (columns, blocks, block * bits // 8)).astype(np.uint8),
        "s": r.uniform(0.5, 1.5, columns * blocks).astype(np.float32),
    }
    if zeros:
        arrays["z"] = r.integers(0, 256, columns * -(-blocks * bits // 8)).astype(np.uint8)
    node = helper.make_node(
        "MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft", K=depth, N=columns, bits=bits, block_size=block,
        accuracy_level=level,
    )
    return _model([node], [rows, depth], [rows, columns], arrays)


def _model(nodes: list, x: list[int | str], y: list[int | str], arrays: dict[str, np.ndarray]) -> ModelProto:
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", *values, initializer=[numpy_helper.from_array(a, n) for n, a in arrays.items()])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10
    )


def kinds(graph: object) -> list[str]:
    return [n.op.name for n in graph.nodes]  # type: ignore[attr-defined]


@pytest.mark.parametrize("bits", (2, 4, 8))
def test_packing_puts_neighbours_where_the_shifts_say(bits: int) -> None:
    q = np.random.default_rng(0).integers(0, 2**bits, (64, 32)).astype(np.uint8)
    words = pack_words(q, bits, 16).view(np.uint32)
    for j, s in enumerate(shifts(bits)):
        np.testing.assert_array_equal((words[1, 3] >> np.uint32(s)) & (2**bits - 1), q[3 * (32 // bits) + j, 16:])


@pytest.mark.parametrize("level", (0, 4))
@pytest.mark.parametrize("zeros", (False, True))
@pytest.mark.parametrize(("bits", "block"), ((4, 32), (8, 64), (2, 32)))
@pytest.mark.parametrize("rows", (1, 5))
def test_the_meaning_holds(rows: int, bits: int, block: int, zeros: bool, level: int) -> None:
    graph = import_model(n_bits(rows, 128, 64, bits, block, level, zeros))
    after = block_products(graph, native=panels_of_32)  # type: ignore[arg-type]
    assert kinds(after).count("BlockMatMul") == 1 and "MatMul" not in kinds(after)
    x = np.random.default_rng(1).normal(size=(rows, 128)).astype(np.float32)
    (expected,), (got,) = run_graph(graph, [x]), run_graph(after, [x])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_many_rows_of_floats_are_converted_weights() -> None:
    graph = import_model(n_bits(100, 128, 64, 4, 32))
    assert kinds(block_products(graph, native=panels_of_32)) == kinds(graph)  # type: ignore[arg-type]


def test_rows_of_open_size_are_told() -> None:
    notes: list[str] = []
    for level in (0, 4):
        graph = import_model(n_bits("n", 128, 64, 4, 32, level))
        after = block_products(graph, native=panels_of_32, note=notes.append)  # type: ignore[arg-type]
        assert "BlockMatMul" not in kinds(after)
    assert len(notes) == 2 and all("1 products become f32" in n and "open size" in n for n in notes)


def test_rounding_goes_where_no_product_uses_it() -> None:
    graph = import_model(n_bits(2, 128, 64, 4, 32, level=4))
    assert any(isinstance(n.op, RoundBlocks) for n in graph.nodes)
    assert not any(isinstance(n.op, RoundBlocks) for n in block_products(graph).nodes)


def test_blocked_dequantization_of_a_standard_file_is_found() -> None:
    r = np.random.default_rng(2)
    arrays = {"q": r.integers(-8, 8, (128, 64)).astype(np.int8), "s": r.uniform(0.5, 1, (2, 64)).astype(np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=64),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = _model(nodes, [3, 128], [3, 64], arrays)
    after = block_products(import_model(model), native=panels_of_32)  # type: ignore[arg-type]
    (op,) = [n.op for n in after.nodes if isinstance(n.op, BlockMatMul)]
    assert (op.bits, op.group, op.zero, op.integers) == (4, 64, 8, False)


def test_quantized_activations_are_left_to_integer_products() -> None:
    r = np.random.default_rng(2)
    arrays = {
        "q": r.integers(-100, 100, (64, 64)).astype(np.int8), "s": np.float32(0.5), "xs": np.float32(0.1), "z": np.uint8(3)
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["xd", "w"], ["y"]),
    ]
    graph = import_model(_model(nodes, [3, 64], [3, 64], {n: np.asarray(a) for n, a in arrays.items()}))
    assert "BlockMatMul" not in kinds(block_products(graph, native=panels_of_32))  # type: ignore[arg-type]


@pytest.mark.parametrize("level", (0, 4))
@pytest.mark.parametrize("rows", (1, 6, 15))
def test_on_this_processor(rows: int, level: int) -> None:
    model = n_bits(rows, 256, 192, 4, 32, level, zeros=True)
    x = np.random.default_rng(3).normal(size=(rows, 256)).astype(np.float32)
    (expected,) = run_graph(import_model(model), [x])
    (got,) = compile_with(model, cache=False).artifact.load(1)(x)
    np.testing.assert_allclose(got, expected, atol=0.01 * np.abs(expected).max())
