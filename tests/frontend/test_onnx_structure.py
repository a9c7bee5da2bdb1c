"""Graphs that are out of order, incomplete or contradictory; attributes; operators that are not supported."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import onnx
import pytest
from frontend.onnx_models import model, node, run, unknown, value
from onnx import AttributeProto, NodeProto, helper
from tilewright.frontend.onnx import check_model, import_model
from tilewright.frontend.onnx.table import op_versions
from tilewright.ir.errors import ModelError


def one(*nodes: NodeProto, constants: dict[str, Any] | None = None, opset: int = 21) -> onnx.ModelProto:
    return model(nodes, [value("x", 2, 3)], ["y"], constants, opset)


def test_nodes_in_any_order() -> None:
    m = one(node("Relu", ["b"], ["y"]), node("Neg", ["a"], ["b"]), node("Exp", ["x"], ["a"]))
    assert run(m, np.zeros((2, 3), np.float32))[0].tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("m", "message"),
    [
        (one(node("Relu", ["a"], ["b"], name="first"), node("Neg", ["b"], ["a"], name="second"),
             node("Exp", ["x"], ["y"])), "cycle: node 'second' .Neg. -> node 'first' .Relu. -> node 'second'"),
        (one(node("Relu", ["y"], ["y"])), "cycle: node that makes 'y' .Relu. -> node that makes 'y'"),
        (one(node("Add", ["x", "w"], ["y"], name="add")), "node 'add' .Add. reads 'w', which is neither"),
        (one(node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])), "'y' is made twice"),
        (one(node("Relu", ["x"], ["x"])), "'x' is made twice, by an input or initializer"),
        (one(node("Relu", ["x"], ["z"])), "no value is called 'y'"),
        (one(node("Add", ["x"], ["y"], name="n")), "node 'n' .Add.: expected 2 inputs, got 1"),
        (one(node("Relu", ["x", "x"], ["y"], name="n")), "expected 1 inputs, got 2"),
        (one(node("Add", ["x", ""], ["y"], name="n")), "input 1 .B. is missing"),
        (one(node("Add", ["x", "w"], ["y"], name="n"), constants={"w": np.ones((4, 3), np.float32)}),
         r"node 'n' .Add.: Binary: shapes \[2, 3\] and \[4, 3\] do not broadcast"),
        (one(node("Add", ["x", "w"], ["y"], name="n"), constants={"w": np.ones(3)}), "one element type, got f32.*f64"),
        (one(node("Reshape", ["x", "s"], ["y"]), constants={"s": np.array([4, 2])}),
         r"Reshape: f32\[2, 3\] does not fit into \(4, 2\)"),
        (one(node("Reshape", ["x", "s"], ["y"]), constants={"s": np.array([-1, 4])}), "do not divide evenly"),
        (one(node("Reshape", ["x", "s"], ["y"]), constants={"s": np.array([-1, -1])}), "more than one -1"),
        (one(node("Transpose", ["x"], ["y"], perm=[0, 0])), r"Transpose: \(0, 0\) does not permute"),
        (one(node("Concat", ["x"], ["y"], axis=5)), "axis 5 is outside"),
        (one(node("Squeeze", ["x"], ["y"])), ""),
    ],
)  # fmt: skip
def test_wrong_graphs(m: onnx.ModelProto, message: str) -> None:
    if not message:
        assert import_model(m).outputs[0].type.shape == (2, 3)
        return
    with pytest.raises(ModelError, match=message):
        import_model(m)


def test_a_model_without_outputs_is_refused() -> None:
    with pytest.raises(ModelError, match="no outputs"):
        import_model(model([node("Relu", ["x"], ["y"])], [value("x", 2)], []))


def test_initializers_that_are_inputs_are_constants() -> None:
    m = model([node("Add", ["x", "w"], ["y"])], [value("x", 2), value("w", 2)], ["y"], {"w": np.ones(2, np.float32)})
    graph = import_model(m)
    assert [v.name for v in graph.inputs] == ["x"]
    assert run(graph, np.zeros(2, np.float32))[0].tolist() == [1, 1]


def test_inputs_and_constants_may_be_outputs() -> None:
    m = model([node("Identity", ["x"], ["y"])], [value("x", 2)], ["y", "x", "w"], {"w": np.ones(3, np.float32)})
    graph = import_model(m)
    assert graph.output_names == ("y", "x", "w")
    results = run(graph, np.array([1, 2], np.float32))
    assert [r.tolist() for r in results] == [[1, 2], [1, 2], [1, 1, 1]]


# ---- attributes ----


def leaky(*attributes: AttributeProto) -> onnx.ModelProto:
    n = node("LeakyRelu", ["x"], ["y"], name="leaky")
    n.attribute.extend(attributes)
    return one(n)


@pytest.mark.parametrize(
    ("m", "message"),
    [
        (leaky(helper.make_attribute("alpha", 1)), "attribute 'alpha' must be FLOAT, got INT"),
        (leaky(helper.make_attribute("alpha", "x")), "attribute 'alpha' must be FLOAT, got STRING"),
        (leaky(AttributeProto(name="alpha", f=1.0)), "attribute 'alpha' must be FLOAT, got no type"),
        (leaky(helper.make_attribute("beta", 1.0)), "unknown attribute 'beta'; LeakyRelu since 16 has: alpha"),
        (leaky(*[helper.make_attribute("alpha", 1.0)] * 2), "attribute 'alpha' is given twice"),
        (one(node("Concat", ["x"], ["y"], name="leaky")), "attribute 'axis' .INT. is required and missing"),
        (one(node("Constant", [], ["y"], name="leaky")), "expected one attribute with the value, got 0"),
        (one(node("BitShift", ["x", "x"], ["y"], name="leaky", direction="UP")), "must be LEFT or RIGHT, got 'UP'"),
        (one(node("DepthToSpace", ["x"], ["y"], name="leaky", blocksize=2)), "expected an image batch"),
    ],
)
def test_wrong_attributes(m: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message) as e:
        import_model(m)
    assert "node 'leaky'" in str(e.value)


def test_op_functions_take_what_the_schemas_allow() -> None:
    """For every version of the standard: each attribute is a keyword, and no more inputs are possible than operands."""
    problems: list[str] = []
    for schema in onnx.defs.get_all_schemas_with_history():
        versions = op_versions().get((schema.domain, schema.name), [])
        function = next((f for since, f in versions if since <= schema.since_version), None)
        if function is None or schema.deprecated or schema.since_version < 7:
            continue
        parameters = list(inspect.signature(function).parameters.values())
        keywords = {p.name for p in parameters if p.kind == p.KEYWORD_ONLY}
        missing = set(schema.attributes) - keywords
        if missing and not any(p.kind == p.VAR_KEYWORD for p in parameters):
            problems.append(f"{schema.name}-{schema.since_version} lacks {missing}")
        operands = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)][1:]
        variadic = any(p.kind == p.VAR_POSITIONAL for p in operands)
        if not variadic and len(operands) < schema.max_input:
            problems.append(f"{schema.name}-{schema.since_version} takes {schema.max_input} inputs, not {len(operands)}")
    assert not problems, "\n".join(problems)


# ---- what is not supported ----


def foreign() -> onnx.ModelProto:
    inner = helper.make_graph([node("Hidden", ["x"], ["h"], domain="com.acme", name="inside")], "g", [], [unknown("h")])
    nodes = [
        node("MyOp", ["x"], ["a"], domain="com.acme", name="encoder/first"),
        node("Relu", ["a"], ["b"]),
        *[node("Other", ["b"], [f"c{i}"], domain="com.acme", name=f"encoder/other{i}") for i in range(5)],
        node("NoSuch", ["c0"], ["d"], name="typo"),
        node("Stray", ["x"], ["f"], domain="never.imported", name="stray"),
        node("If", ["cond"], ["y"], then_branch=inner, else_branch=inner),
    ]
    return model(nodes, [value("x", 2), value("cond", dtype=onnx.TensorProto.BOOL)], ["y"], domains={"com.acme": 3})


def test_all_unsupported_operators_are_reported_at_once() -> None:
    with pytest.raises(ModelError) as e:
        import_model(foreign())
    lines = str(e.value).splitlines()
    assert lines[0] == "test: 5 operators (10 nodes) cannot be imported:"
    assert re.split(r"  +", lines[1].strip()) == ["operator", "version", "nodes", "first nodes", "reason"]
    rows = {cells[0]: cells[1:] for cells in (re.split(r"  +", line.strip()) for line in lines[2:])}
    outside = "an operator outside of the ONNX standard"
    assert rows == {
        "com.acme:Other": ["3", "5", "encoder/other0, encoder/other1, encoder/other2", outside],
        "com.acme:Hidden": ["3", "2", "inside, inside", outside],
        "com.acme:MyOp": ["3", "1", "encoder/first", outside],
        "ai.onnx:NoSuch": ["21", "1", "typo", "no such operator in opset 21"],
        "never.imported:Stray": ["0", "1", "stray", "the model imports no version of this domain"],
    }


def test_summary_of_a_model() -> None:
    s = check_model(foreign())
    assert (s.name, s.opsets) == ("test", {"": 21, "com.acme": 3})
    assert s.inputs == (("x", "f32[2]"), ("cond", "bool[]")) and s.outputs == (("y", "f32[...]"),)
    counts = {u.full_name: (u.version, u.count, bool(u.reason)) for u in s.operators}
    assert counts["ai.onnx:Relu"] == (14, 1, False) and counts["ai.onnx:If"] == (21, 1, False)
    assert {u.operator for u in s.unsupported} == {"MyOp", "Other", "Hidden", "NoSuch", "Stray"}


def test_an_opset_that_is_too_old_says_what_would_do() -> None:
    m = model([node("Gather", ["x", "i"], ["a"]), node("Mish", ["a"], ["y"])], [value("x", 2)], ["y"], {"i": np.array(0)}, 7)
    reasons = {u.operator: u.reason for u in check_model(m).operators}
    assert reasons == {"Gather": "", "Mish": "opset 7 is too old for it; supported from opset 18: onnx.version_converter"}
