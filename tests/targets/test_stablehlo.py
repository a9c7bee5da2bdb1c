"""What the StableHLO emitter writes; that it is right is tested with XLA, in test_xla_rows.py."""

from __future__ import annotations

import numpy as np
import pytest
from targets.networks import resnet50_onnx
from tilewright.codegen.stablehlo.emit import INLINE_BYTES, emit_module
from tilewright.codegen.stablehlo.text import dense_text, identifier, quoted, scalar_text
from tilewright.compiler.options import make_options
from tilewright.compiler.pipeline import run_passes
from tilewright.compiler.progress import Stages, silent
from tilewright.compiler.targets import TARGETS
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import TargetError
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.kernel import axis
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.elementwise import Binary, Cast
from tilewright.ir.ops.norm import Softmax
from tilewright.ir.types import TensorType


def convolution() -> Graph:
    """relu(conv(x) + bias)"""
    b = Builder("block")
    x = b.input("x", TensorType("f32", (1, 8, 8, 4)))
    w = b.constant(np.arange(3 * 3 * 4 * 16, dtype=np.float32).reshape(3, 3, 4, 16), "w")
    y = b.add(Conv((1, 1), (1, 1, 1, 1), (1, 1), 1), x, w, b.constant(np.arange(16, dtype=np.float32), "bias"), where="conv1")
    return b.graph([b.add(Binary("max"), y, b.constant(np.zeros((), np.float32)), name="y", where="relu1")], ["y"])


def test_a_convolution_is_one_operation() -> None:
    module = emit_module(convolution())
    lines = [line.strip() for line in module.text.splitlines()]
    assert sum("stablehlo.convolution" in line for line in lines) == 1
    assert module.operations == 4  # convolution, broadcast of the bias, add, maximum
    assert any("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line and 'loc("conv1")' in line for line in lines)
    assert [(a.name, a.type.shape) for a in module.weights] == [("w", (3, 3, 4, 16))]
    assert [a.name for a in module.inputs] == ["x"]


def test_the_text_is_the_same_every_time() -> None:
    assert emit_module(convolution()).text == emit_module(convolution()).text


@pytest.mark.parametrize(("size", "arguments"), [(INLINE_BYTES // 4, 0), (INLINE_BYTES // 4 + 1, 1)])
def test_large_constants_become_arguments(size: int, arguments: int) -> None:
    b = Builder("g")
    x = b.input("x", TensorType("f32", (size,)))
    graph = b.graph([b.add(Binary("add"), x, b.constant(np.arange(size, dtype=np.float32)))], ["y"])
    assert len(emit_module(graph).weights) == arguments


def test_hostile_names_stay_inside_of_their_literals() -> None:
    name = 'x") -> () { } module @evil {\n %0 \\'
    b = Builder(name)
    x = b.input(name, TensorType("f32", (2,)))
    text = emit_module(b.graph([b.add(Binary("add"), x, x, where=name)], ["y"])).text
    assert "\n %0" not in text
    assert text.count("module @") == 1 + 2  # the others stand in quotes
    assert quoted('a"b\\c\n') == '"a\\22b\\5Cc\\0A"'
    assert identifier("12 é/x") == "v12_x"


def test_numbers_are_written_exactly() -> None:
    values = np.array([0.1, 1e-30, 3.4028235e38, -0.0, np.inf, np.nan], np.float32)
    texts = [scalar_text(v) for v in values]
    assert texts[:4] == ["0.10000000149011612", "1.0000000031710769e-30", "3.4028234663852886e+38", "-0.0"]
    assert texts[4:] == ["0x7F800000", "0x7FC00000"]
    assert dense_text(np.full((3, 4), 7, np.int8)) == "dense<7>"
    assert dense_text(np.array([[1, 2], [3, 4]])) == "dense<[[1, 2], [3, 4]]>"
    assert dense_text(np.arange(65, dtype=np.uint8)).startswith('dense<"0x000102')


def test_products_of_bytes_stay_products_of_bytes() -> None:
    b = Builder("q")
    x = b.input("x", TensorType("i8", (4, 32)))
    w = b.constant(np.arange(32 * 64, dtype=np.int32).reshape(32, 64) % 100 - 50, "w")
    graph = b.graph([b.add(MatMul(), b.add(Cast("i32"), x), w)], ["y"])
    module = emit_module(graph)
    assert "(tensor<4x32xi8>, tensor<32x64xi8>) -> tensor<4x64xi32>" in module.text
    assert [a.type.dtype for a in module.weights] == ["i8"]


def test_composites_without_a_rule_are_expanded() -> None:
    b = Builder("s")
    graph = b.graph([b.add(Softmax(1), b.input("x", TensorType("f32", (2, 8))))], ["y"])
    text = emit_module(graph).text
    assert text.count("stablehlo.reduce(") == 2
    assert "stablehlo.exponential" in text


def test_donated_and_split_arguments_are_marked() -> None:
    b = Builder("d")
    x, w = b.input("state", TensorType("f32", (8, 16))), b.constant(np.arange(256, dtype=np.float32).reshape(16, 16), "w")
    y = b.add(MatMul(), x, w)
    module = emit_module(
        b.graph([y], ["new"]), donated={"state": "new"}, shardings={x: ("data", None), y: ("data", None)}, mesh=("data", 4)
    )
    assert 'sdy.mesh @mesh = <["data"=4]>' in module.text
    assert '%state: tensor<8x16xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}, {}]>, tf.aliasing_output = 0 : i32}' in (
        module.text
    )
    assert "mhlo.num_partitions = 4 : i32" in module.text


def test_resnet50_takes_at_most_three_operations_for_one_of_the_model() -> None:
    model = resnet50_onnx()
    target, options = TARGETS["tpu"], make_options("tpu:v5e-1", precision="bf16")
    native = target.native(target.machine("tpu:v5e-1"))
    graph = run_passes(import_model(model), options, Stages(silent), lambda *_: None, target.passes_for(options), native)
    module = emit_module(graph)
    assert module.operations <= 3 * len(model.graph.node)
    for op, count in (("convolution", 53), ("dot_general", 1)):  # none was decomposed
        assert sum(f"stablehlo.{op}" in line for line in module.text.splitlines()) == count


def test_unknown_sizes_are_refused_by_name() -> None:
    b = Builder("u")
    x = b.input("x", TensorType("f32", (axis("batch", None), 4)))
    with pytest.raises(TargetError, match=r"x: StableHLO for XLA needs known sizes.*batch"):
        emit_module(b.graph([b.add(Binary("add"), x, x)], ["y"]))
