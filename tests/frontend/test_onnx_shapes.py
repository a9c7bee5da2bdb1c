"""Symbolic dimensions: binding them, and the shape arithmetic that exporters write."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from frontend.onnx_models import F32, I64, draw, model, node, ops, run, unknown, value
from tilewright.frontend.onnx import import_model
from tilewright.frontend.onnx.inputs import bind_inputs, parse_dim
from tilewright.frontend.onnx.symbolic import equal, less, maximum, minimum, product, quotient
from tilewright.ir.errors import ModelError, OptionError
from tilewright.ir.expr import Expr, Var
from tilewright.ir.ops.refine import Refine
from tilewright.ir.traverse import substitute

N, M = Var.of("n", None), Var.of("m", None)


def identity(*inputs: onnx.ValueInfoProto) -> onnx.ModelProto:
    return model([node("Identity", [inputs[0].name], ["y"])], list(inputs), ["y"])


# ---- binding ----


def types(m: onnx.ModelProto, **options: Any) -> list[str]:
    return [str(v.type) for v in import_model(m, **options).inputs]


def test_dimensions_stay_symbolic_or_are_bound() -> None:
    m = identity(value("x", "batch", 3, None), value("z", "batch", 2, "?"))
    assert types(m) == ["f32[batch, 3, x_2]", "f32[batch, 2, z_2]"]
    assert types(m, dims={"batch": 4}) == ["f32[4, 3, x_2]", "f32[4, 2, z_2]"]
    assert types(m, shapes={"x": [4, 3, 7]}) == ["f32[4, 3, 7]", "f32[4, 2, z_2]"]
    assert types(m, shapes={"x": ["b", 3, 5]}, dims={"z_2": 0}) == ["f32[b, 3, 5]", "f32[batch, 2, 0]"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": {"height": 3}}, "no dimension is called 'height'; the model has: batch, x_2"),
        ({"shapes": {"image": [1]}}, "no input is called 'image'; the model has: x, z"),
        ({"shapes": {"x": [1, 3]}}, "expected 3 dimensions as in"),
        ({"shapes": {"x": [1, 4, 1]}}, r"the model says f32\[batch, 3, x_2\], got \[1, 4, 1\]"),
        ({"shapes": {"x": [2, 3, 1], "z": [3]}}, "dimension 'batch' is 2 already, got 3"),
        ({"shapes": {"x": [2, 3, 1]}, "dims": {"batch": 3}}, "dimension 'batch' is 2 already, got 3"),
        ({"dims": {"batch": -1}}, "integers of 0 or more, got -1"),
        ({"dims": {"batch": 1.5}}, "integers of 0 or more, got 1.5"),
        ({"shapes": {"x": [True, 3, 1]}}, "integers of 0 or more, got True"),
        ({"shapes": {"x": [1, "three", 1]}}, "'three' cannot name a dimension that is 3"),
    ],
)
def test_shapes_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        import_model(identity(value("x", "batch", 3, None), value("z", "batch")), **options)


def test_an_input_without_a_shape_needs_one() -> None:
    m = identity(unknown("x"))
    with pytest.raises(ModelError, match="--shape x="):
        import_model(m)
    assert types(m, shapes={"x": [2, "n"]}) == ["f32[2, n]"]


def test_dimension_expressions_of_the_torch_exporter() -> None:
    past, seq = Var.of("past", None), Var.of("seq", None)
    assert parse_dim("past + seq") is past + seq
    assert parse_dim("2*seq - 1") is seq * 2 - 1
    assert parse_dim("seq//2") is seq / 2
    assert parse_dim("seq // 0") is Var.of("seq____0", None)
    assert parse_dim("a b; c") is Var.of("a_b__c", None)
    inputs = [value("x", "past + seq"), value("z", "past"), value("w", "seq")]
    bound = bind_inputs(inputs, {"z": [3]}, {"seq": 2})
    assert [t.shape for t in bound.values()] == [(5,), (3,), (2,)]
    with pytest.raises(OptionError, match="is 5 with the given sizes, got 6"):
        bind_inputs(inputs, {"x": [6], "z": [3]}, {"seq": 2})


# ---- arithmetic ----


def test_arithmetic_of_dimensions_that_are_at_least_one() -> None:
    assert minimum(1, N) == 1 and maximum(N - 1, 0) is N - 1 and minimum(N, N + 2) is N
    assert isinstance(minimum(5, N), Expr) and isinstance(maximum(N - 2, 0), Expr)
    assert less(0, N) is True and less(N, N) is False and less(2, N) is None
    assert equal(N, -1) is False and equal(N * 2, N + N) is True and equal(N, M) is None
    assert equal(N, 1) is None and less(1, N) is None and substitute(N - 1, {N: N + 1}) is N
    assert product([N, M, 2]) is product([2, M, N])
    assert quotient([N, 12, M], [M, 4]) is N * 3
    assert quotient([N * 6], [3]) is N * 2
    assert quotient([N], [2]) is None and quotient([N], [M]) is None and quotient([0], [0]) is None


def shaped(nodes: list[onnx.NodeProto], constants: dict[str, Any], *shape: int | str) -> onnx.ModelProto:
    return model(nodes, [value("x", *shape)], ["y"], constants)


K = {name: np.array(v, np.int64) for name, v in {
    "i0": 0, "i1": 1, "v0": [0], "v1": [1], "v2": [2], "m1": [-1], "end": [2**63 - 1], "three": [3], "one": 1, "zero": 0,
}.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        # view(x.shape[0], -1), TorchScript
        ([node("Shape", ["x"], ["s"]), node("Gather", ["s", "i0"], ["n"]), node("Unsqueeze", ["n", "v0"], ["u"]),
          node("Concat", ["u", "m1"], ["t"], axis=0), node("Reshape", ["x", "t"], ["y"])], "f32[n, m*6]"),
        # x[:, 1:], x[:, :-1], x[:, -1:], a step backwards
        ([node("Slice", ["x", "v1", "end", "v1"], ["y"])], "f32[n, m - 1, 6]"),
        ([node("Slice", ["x", "v0", "m1", "v1"], ["y"])], "f32[n, m - 1, 6]"),
        ([node("Slice", ["x", "m1", "end", "v1"], ["y"])], "f32[n, 1, 6]"),
        ([node("Slice", ["x", "end", "least", "v1", "m1"], ["y"])], "f32[n, m, 6]"),
        ([node("Slice", ["x", "v0", "end", "v1", "v2"], ["y"])], "f32[n, (m + 1) // 2, 6]"),
        # expand(-1, 2 * m, -1) written with Where and Equal
        ([node("Shape", ["x"], ["s"]), node("Equal", ["s", "m1"], ["q"]), node("Where", ["q", "v1", "s"], ["t"]),
          node("Expand", ["x", "t"], ["y"])], "f32[n, m, 6]"),
        # zeros(n * m), arange(m)
        ([node("Shape", ["x"], ["s"], start=0, end=2), node("ReduceProd", ["s"], ["p"], keepdims=1),
          node("ConstantOfShape", ["p"], ["y"])], "f32[m*n]"),
        ([node("Shape", ["x"], ["s"]), node("Gather", ["s", "i1"], ["m"]), node("Range", ["zero", "m", "one"], ["r"]),
          node("Cast", ["r"], ["y"], to=F32)], "f32[m]"),
        # split a dimension in two, and flatten
        ([node("Flatten", ["x"], ["y"], axis=2)], "f32[m*n, 6]"),
        ([node("Reshape", ["x", "heads"], ["y"])], "f32[n, m, 2, 3]"),
        ([node("Size", ["x"], ["c"]), node("Unsqueeze", ["c", "v0"], ["t"]), node("Reshape", ["x", "t"], ["y"])],
         "f32[m*n*6]"),
        ([node("Tile", ["x", "twice"], ["y"])], "f32[n, m*2, 6]"),
        ([node("Pad", ["x", "pads"], ["y"])], "f32[n, m + 3, 6]"),
        ([node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2)], "f32[n, (m + 1) // 2, 6]"),
    ],
)  # fmt: skip
def test_shape_arithmetic(nodes: list[onnx.NodeProto], expected: str) -> None:
    """The symbolic graph has the expected shape, runs, and gives what the bound one gives."""
    constants = {**K, "least": np.array([-(2**63)]), "heads": np.array([0, 0, 2, 3]), "twice": np.array([1, 2, 1]),
                 "pads": np.array([0, 1, 0, 0, 2, 0])}  # fmt: skip
    m = shaped(nodes, constants, "n", "m", 6)
    graph = import_model(m)
    assert str(graph.outputs[0].type) == expected
    for shape in ((2, 5, 6), (1, 4, 6)):
        x = draw(*shape)
        (bound,) = run(m, x, shapes={"x": shape})
        (symbolic,) = run(graph, x)
        assert symbolic.shape == bound.shape
        np.testing.assert_array_equal(symbolic, bound)


def test_shapes_as_data() -> None:
    """Dimensions that are not only used as shapes are computed at run time."""
    nodes = [
        node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=F32), node("ReduceSum", ["f"], ["y"], keepdims=0),
    ]  # fmt: skip
    m = shaped(nodes, {}, "n", 3)
    assert run(m, np.zeros((5, 3), np.float32))[0] == 8
    shape = model([node("Shape", ["x"], ["y"])], [value("x", "n", 3)], [value("y", 2, dtype=I64)])
    assert run(shape, np.zeros((5, 3), np.float32))[0].tolist() == [5, 3]
    assert ops(import_model(shape)) == ["DimTensor"]
    assert ops(import_model(shape, dims={"n": 5})) == []


def test_constants_are_folded() -> None:
    nodes = [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])]
    graph = import_model(shaped(nodes, {"w": draw(4, 3)}, 2, 3))
    assert ops(graph) == ["MatMul"]


def test_operands_that_must_be_known() -> None:
    m = model(
        [node("Reshape", ["x", "s"], ["y"], name="view")], [value("x", 2, 3), value("s", 2, dtype=I64)], ["y"]
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"node 'view' .Reshape.: operand shape must be known .* the data of s; make it a"):
        import_model(m)
    rows = [node("Shape", ["x"], ["s"]), node("ReduceSum", ["x", "s"], ["y"], name="sum")]
    with pytest.raises(ModelError, match=r"node 'sum' .ReduceSum.: operand axes must be known .* \[n\]; bind these dimensions"):
        import_model(shaped(rows, {}, "n"))


def test_top_k_of_a_number_that_sizes_give() -> None:
    m = shaped([node("Shape", ["x"], ["s"]), node("TopK", ["x", "s"], ["y", "i"])], {}, "n")
    assert run(m, np.array([3, 1, 2], np.float32))[0].tolist() == [3, 2, 1]


def test_dimensions_that_meet_are_taken_to_be_equal() -> None:
    m = model([node("Add", ["a", "b"], ["y"])], [value("a", "n"), value("b", "k")], ["y"])
    assert import_model(m).nodes[0].op == Refine((Var.of("k", None),))
    with pytest.raises(ModelError, match=r"do not broadcast"):
        import_model(m, dims={"n": 3, "k": 4})
    assert run(m, np.ones(3, np.float32), np.ones(3, np.float32), dims={"n": 3, "k": 3})[0].tolist() == [2, 2, 2]


def test_slice_backwards_from_before_the_start() -> None:
    """The standard moves a start before the first element to it; NumPy gives nothing then."""
    constants = {"s": np.array([-2]), "e": np.array([-2]), "a": np.array([0]), "t": np.array([-2])}
    for extent, count in ((1, 1), (2, 0), (0, 0)):
        m = model([node("Slice", ["x", "s", "e", "a", "t"], ["y"])], [value("x", extent, 3)], ["y"], constants)
        x = draw(extent, 3)
        (y,) = run(m, x)
        np.testing.assert_array_equal(y, x[:count])


def test_squeeze_of_axes_that_may_be_one() -> None:
    m = model([node("Squeeze", ["x"], ["y"])], [value("x", "n", 1)], ["y"])
    with pytest.raises(ModelError, match="give axes, or bind its sizes"):
        import_model(m)
    assert import_model(m, dims={"n": 1}).outputs[0].type.shape == ()
    assert import_model(m, dims={"n": 3}).outputs[0].type.shape == (3,)
