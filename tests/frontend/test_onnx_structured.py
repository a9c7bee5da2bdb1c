"""Inputs that are sequences and optionals: their items are inputs, in the interpreter and in libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto, TypeProto, helper
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import ModelError, OptionError
from tilewright.ir.interpreter import run_graph

FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, [None, 3])
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(nodes: list[onnx.NodeProto], inputs: Mapping[str, TypeProto], outputs: Mapping[str, TypeProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "structured", [helper.make_value_info(n, t) for n, t in inputs.items()],
        [helper.make_value_info(n, t) for n, t in outputs.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def joined() -> onnx.ModelProto:
    """Rows of all items, and the items in the other order."""
    nodes = [
        helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
        helper.make_node("Constant", [], ["zero"], value_int=0), helper.make_node("SequenceAt", ["s", "zero"], ["first"]),
        helper.make_node("SequenceErase", ["s", "zero"], ["rest"]),
        helper.make_node("SequenceInsert", ["rest", "first"], ["moved"]),
    ]
    sequence = helper.make_sequence_type_proto(FLOATS)
    return model(nodes, {"s": sequence}, {"y": FLOATS, "moved": sequence})


def maybe(inner: TypeProto) -> onnx.ModelProto:
    """Whether there is a value."""
    nodes = [helper.make_node("OptionalHasElement", ["x"], ["y"])]
    given = helper.make_optional_type_proto(inner)
    return model(nodes, {"x": given}, {"y": helper.make_tensor_type_proto(TensorProto.BOOL, [])})


def test_a_library_takes_the_items_of_a_sequence() -> None:
    module = tilewright.compile(joined(), target="cpu", dims={"s_count": 2, "s.0_0": 2, "s.1_0": 1}).load()
    assert [v.name for v in module.inputs] == ["s.0", "s.1"]
    y, first, second = module(X, X[:1] + 9)
    np.testing.assert_array_equal(y, [*X, X[0] + 9])
    np.testing.assert_array_equal(first, X[:1] + 9)
    np.testing.assert_array_equal(second, X)
    for given in ({"s": [X, X[:1] + 9]}, {"s.0": X, "s.1": X[:1] + 9}):
        np.testing.assert_array_equal(module(given)[0], y)
    with pytest.raises(OptionError, match=r"s\.2"):
        module({"s": [X, X[:1], X]})


def test_items_of_open_sizes() -> None:
    module = tilewright.compile(joined(), target="cpu", dims={"s_count": 2}).load()
    for rows in (1, 2):
        y = module({"s": [X[:rows], X]})[0]
        np.testing.assert_array_equal(y, [*X[:rows], *X])


def test_shapes_tell_the_length() -> None:
    graph = import_model(joined(), shapes={"s.0": (2, 3), "s.1": (2, 3), "s.2": (1, 3)})
    (y, *_) = run_graph(graph, [X, X, X[:1]])
    assert y.shape == (5, 3)


@pytest.mark.parametrize(("given", "message"), [
    ({}, r"the length|length must be known.*--dim s_count=2"), ({"dims": {"s_count": 5000}}, "0 to 4096"),
    ({"dims": {"s_count": 1}, "shapes": {"s.1": (2, 3)}}, r"s\.1"), ({"dims": {"t_count": 1, "s_count": 1}}, "t_count"),
])  # fmt: skip
def test_what_is_wrong_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelError, OptionError), match=message):
        import_model(joined(), **given)


@pytest.mark.parametrize("inner", [FLOATS, helper.make_sequence_type_proto(FLOATS)], ids=["tensor", "sequence"])
def test_optionals_are_there_or_not(inner: TypeProto) -> None:
    count = {} if inner is FLOATS else {"x_count": 1}
    absent = import_model(maybe(inner), dims={"x_present": 0})
    assert not absent.inputs and not run_graph(absent, [])[0]
    for dims in (count, {**count, "x_present": 1}):
        graph = import_model(maybe(inner), dims=dims)
        assert [v.name for v in graph.inputs] == ["x" if inner is FLOATS else "x.0"]
        assert run_graph(graph, [X])[0]
    with pytest.raises(OptionError, match="0 or 1"):
        import_model(maybe(inner), dims={**count, "x_present": 2})
