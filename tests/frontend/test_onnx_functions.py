"""Functions of the model and of the standard, and control flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from frontend.onnx_models import BOOL, F32, I64, check_reference, draw, model, node, ops, run, unknown, value
from onnx import AttributeProto, FunctionProto, helper
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import ModelError

OPSET = [helper.make_opsetid("", 21)]
LOCAL = {"local": 1}


def function(name: str, inputs: list[str], outputs: list[str], nodes: list[onnx.NodeProto], **kw: Any) -> FunctionProto:
    imports = [*OPSET, helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, inputs, outputs, nodes, imports, **kw)


def calling(functions: list[FunctionProto], call: onnx.NodeProto) -> onnx.ModelProto:
    return model([call], [value("x", 2, 3)], ["y"], functions=functions, domains=LOCAL)


def with_reference(op: str, inputs: list[str], outputs: list[str], **references: tuple[str, int]) -> onnx.NodeProto:
    """A node of a function body whose attributes are those of the call."""
    made = node(op, inputs, outputs)
    for name, (outer, kind) in references.items():
        made.attribute.append(AttributeProto(name=name, ref_attr_name=outer, type=kind))  # type: ignore[arg-type]
    return made


LEAK = function(
    "Leak", ["a"], ["b", "c"],
    [with_reference("LeakyRelu", ["a"], ["b"], alpha=("slope", AttributeProto.FLOAT)), node("Neg", ["a"], ["c"])],
    attributes=["slope"],
)  # fmt: skip


def test_functions_are_expanded_with_the_attributes_of_the_call() -> None:
    x = draw(2, 3)
    twice = function("Twice", ["t"], ["u"], [node("Leak", ["t"], ["v"], domain="local", slope=0.5),
                                             node("Leak", ["v"], ["u"], domain="local")])  # fmt: skip
    m = calling([LEAK, twice], node("Twice", ["x"], ["y"], domain="local", name="call"))
    graph = import_model(m)
    once = np.where(x < 0, x * np.float32(0.5), x)
    np.testing.assert_allclose(run(graph, x)[0], np.where(once < 0, once * np.float32(0.01), once), rtol=1e-6)
    assert graph.nodes[0].where == "call"


def test_attribute_defaults_and_absent_inputs_and_outputs_of_functions() -> None:
    clip = function(
        "Limit", ["a", "low"], ["b", "unused"],
        [with_reference("Clip", ["a", "low"], ["c"]), with_reference("Elu", ["c"], ["b"], alpha=("k", AttributeProto.FLOAT))],
        attribute_protos=[helper.make_attribute("k", 2.0)],
    )  # fmt: skip
    x = draw(2, 3)
    plain, given = node("Limit", ["x"], ["y"], domain="local"), node("Limit", ["x", ""], ["y"], domain="local", k=3.0)
    for call, alpha in ((plain, 2), (given, 3)):
        expected = np.where(x < 0, alpha * (np.exp(x) - 1), x)
        np.testing.assert_allclose(run(calling([clip], call), x)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("functions", "call", "message"),
    [
        ([LEAK], node("Leak", ["x"], ["y"], domain="local", depth=1), "unknown attribute 'depth'; the function has: slope"),
        ([LEAK], node("Leak", ["x", "x"], ["y"], domain="local"), "has 1 inputs and 2 outputs, it is called with 2 and 1"),
        ([LEAK, LEAK], node("Leak", ["x"], ["y"], domain="local"), "local:Leak is defined twice"),
        ([function("Self", ["a"], ["b"], [node("Self", ["a"], ["b"], domain="local")])],
         node("Self", ["x"], ["y"], domain="local"), "the function calls itself"),
        ([function("Cat", ["a"], ["b"], [with_reference("Concat", ["a"], ["b"], axis=("at", AttributeProto.INT))],
                   attributes=["at"])], node("Cat", ["x"], ["y"], domain="local"), "the function's attributes at are missing"),
        ([function("Odd", ["a"], ["b"], [node("Relu", ["z"], ["b"])])], node("Odd", ["x"], ["y"], domain="local"),
         "reads 'z', which is neither"),
    ],
)  # fmt: skip
def test_wrong_calls(functions: list[FunctionProto], call: onnx.NodeProto, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        import_model(calling(functions, call))


def test_a_body_may_use_another_opset_than_the_model() -> None:
    clip = node("Clip", ["a"], ["b"], max=1.0)
    old = helper.make_function("local", "Old", ["a"], ["b"], [clip], [helper.make_opsetid("", 6)])
    x = draw(2, 3)
    np.testing.assert_array_equal(run(calling([old], node("Old", ["x"], ["y"], domain="local")), x)[0], np.minimum(x, 1))


def test_standard_definitions_stand_in_for_operators_of_their_own() -> None:
    """MeanVarianceNormalization (fixed body) and SoftmaxCrossEntropyLoss (body by operands)."""
    check_reference(
        model([node("MeanVarianceNormalization", ["x"], ["y"], axes=[1])], [value("x", 2, 6)], ["y"]), draw(2, 6), rtol=1e-4
    )  # fmt: skip
    labels = value("t", 4, dtype=I64)
    m = model([node("SoftmaxCrossEntropyLoss", ["x", "t"], ["y"])], [value("x", 4, 3), labels], ["y"])
    check_reference(m, draw(4, 3), np.array([0, 2, 1, 1]))


# ---- branches ----


def branch(*nodes: onnx.NodeProto, outputs: list[str]) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [unknown(o) for o in outputs])


def branching(cond: dict[str, Any] | None, then: onnx.GraphProto, other: onnx.GraphProto, *, shape=(2, 3)) -> onnx.ModelProto:
    nodes = [node("Neg", ["x"], ["n"]), node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=other)]
    inputs = [value("x", *shape)] + ([] if cond else [value("c", dtype=BOOL)])
    return model(nodes, inputs, ["y"], {**(cond or {}), "w": np.float32(3)})


THEN = branch(node("Mul", ["n", "w"], ["a"]), outputs=["a"])
OTHER = branch(node("Add", ["x", "n"], ["s"]), node("Exp", ["s"], ["a"]), outputs=["a"])


def test_a_constant_condition_picks_its_branch() -> None:
    x = draw(2, 3)
    for cond, expected in ((True, x * -3), (False, np.ones_like(x))):
        graph = import_model(branching({"c": np.array([cond])}, THEN, OTHER))
        assert "If" not in ops(graph)
        np.testing.assert_array_equal(run(graph, x)[0], expected)


def test_a_condition_from_data_keeps_both_branches() -> None:
    x = draw(2, 3)
    graph = import_model(branching(None, THEN, OTHER))
    assert ops(graph).count("If") == 1
    assert run(graph, x, np.array(True))[0].tolist() == (x * -3).tolist()
    assert run(graph, x, np.array(False))[0].tolist() == np.ones_like(x).tolist()


def test_branches_of_different_types_need_a_known_condition() -> None:
    other = branch(node("Unsqueeze", ["x", "w0"], ["u"]), node("Constant", [], ["w0"], value_ints=[0]), outputs=["u"])
    with pytest.raises(ModelError, match=r"node 'if' .If.: output 0 is f32\[2, 3\] in one branch and f32\[1, 2, 3\]"):
        import_model(branching(None, THEN, other))


def test_a_condition_on_shapes_is_decided_by_binding_them() -> None:
    """What TorchScript writes for `if x.shape[0] == 1`."""
    squeeze = branch(node("Squeeze", ["x", "w0"], ["q"]), node("Constant", [], ["w0"], value_ints=[0]), outputs=["q"])
    keep = branch(node("Identity", ["x"], ["q"]), outputs=["q"])
    nodes = [
        node("Shape", ["x"], ["s"], end=1), node("Equal", ["s", "one"], ["c"]),
        node("If", ["c"], ["y"], then_branch=squeeze, else_branch=keep),
    ]  # fmt: skip
    m = model(nodes, [value("x", "n", 3)], ["y"], {"one": np.array([1])})
    with pytest.raises(ModelError, match="bind the dimensions"):
        import_model(m)
    assert str(import_model(m, dims={"n": 1}).outputs[0].type) == "f32[3]"
    assert str(import_model(m, dims={"n": 4}).outputs[0].type) == "f32[4, 3]"


# ---- loops ----


def looping(nodes: list[onnx.NodeProto], trips: int | None, shape: tuple[int, ...] = (2,), cond: str = "go") -> onnx.ModelProto:
    """carried v starts at x; each iteration gives v and one scanned value."""
    body = helper.make_graph(
        nodes, "body", [value("i", dtype=I64), value("go", dtype=BOOL), unknown("v")],
        [value(cond, dtype=BOOL), unknown("v2"), unknown("s")],
    )  # fmt: skip
    constants = {} if trips is None else {"trips": np.array(trips)}
    inputs = [value("x", *shape)] + ([value("trips", dtype=I64)] if trips is None else [])
    return model([node("Loop", ["trips", "", "x"], ["y", "z"], name="loop", body=body)], inputs, ["y", "z"], constants)


DOUBLE = [node("Add", ["v", "v"], ["v2"]), node("Add", ["v", "x"], ["s"])]


def test_loops() -> None:
    x = np.array([1, 2], np.float32)
    graph = import_model(looping(DOUBLE, 3))
    assert ops(graph) == ["Loop"] and str(graph.outputs[1].type) == "f32[3, 2]"
    for results in (run(graph, x), run(looping(DOUBLE, None), x, np.array(3))):
        assert [r.tolist() for r in results] == [[8, 16], [[2, 4], [3, 6], [5, 10]]]


def test_a_loop_that_ends_by_its_condition_has_a_length_of_its_own() -> None:
    stop = [*DOUBLE, node("ReduceSum", ["v2"], ["t"], keepdims=0), node("Constant", [], ["k"], value_float=10.0),
            node("Less", ["t", "k"], ["more"])]  # fmt: skip
    graph = import_model(looping(stop, 100, cond="more"))
    assert not graph.outputs[1].type.is_static
    y, z = run(graph, np.array([1, 2], np.float32))
    assert (y.tolist(), z.tolist()) == ([4, 8], [[2, 4], [3, 6]])


def test_a_loop_that_changes_shapes_is_unrolled() -> None:
    grow = [node("Concat", ["v", "x"], ["v2"], axis=0), node("Cast", ["i"], ["s"], to=F32)]
    graph = import_model(looping(grow, 3))
    assert "Loop" not in ops(graph)
    y, z = run(graph, np.array([1, 2], np.float32))
    assert (y.tolist(), z.tolist()) == ([1, 2] * 4, [0, 1, 2])
    with pytest.raises(ModelError, match=r"node 'loop' .Loop.: operand M must be known"):
        import_model(looping(grow, None))
    with pytest.raises(ModelError, match="runs more than 1024 times"):
        import_model(looping(grow, 5000))


def test_sequences_exist_while_importing() -> None:
    nodes = [
        node("SplitToSequence", ["x", "two"], ["s"], axis=1), node("SequenceAt", ["s", "last"], ["b"]),
        node("SequenceInsert", ["s", "b", "zero"], ["t"]), node("SequenceErase", ["t", "last"], ["u"]),
        node("ConcatFromSequence", ["u"], ["y"], axis=1), node("SequenceLength", ["u"], ["n"]),
    ]  # fmt: skip
    constants = {"two": np.array(2), "last": np.array(-1), "zero": np.array(0)}
    m = model(nodes, [value("x", 2, 5)], ["y", unknown("n", I64)], constants)
    x = draw(2, 5)
    y, n = run(m, x)
    np.testing.assert_array_equal(y, x[:, [4, 0, 1, 2, 3]])
    assert n == 3
    with pytest.raises(ModelError, match=r"input 0 .X. must be a tensor, got a sequence"):
        import_model(model([nodes[0], node("Relu", ["s"], ["y"])], [value("x", 2, 5)], ["y"], constants))


def test_scan_over_two_axes() -> None:
    body = helper.make_graph(
        [node("Add", ["h", "a"], ["h2"]), node("Mul", ["h2", "w"], ["o"])], "body", [unknown("h"), unknown("a")],
        [unknown("h2"), unknown("o")],
    )  # fmt: skip
    scan = node("Scan", ["x", "seq"], ["y", "z"], body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_directions=[1])
    m = model([scan], [value("x", 2), value("seq", 2, 4)], ["y", "z"], {"w": np.float32(2)})
    x, seq = draw(2), draw(2, 4, seed=1)
    y, z = run(m, x, seq)
    sums = x[None] + np.cumsum(seq.T, 0)
    np.testing.assert_allclose(y, sums[-1], rtol=1e-5)
    np.testing.assert_allclose(z, 2 * sums[::-1], rtol=1e-5)
