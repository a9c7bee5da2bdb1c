"""Damaged models: whatever is changed in one, it imports, or is refused by an error made for users."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from frontend.onnx_models import BOOL, I64, draw, model, node, unknown, value
from onnx import AttributeProto, helper, numpy_helper
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import ModelError

EXTREMES = [-(2**63), -(2**31), -5, -1, 0, 1, 2, 3, 2**31 - 1, 10**12, 2**63 - 1]
FLOATS = [0.0, -1.0, float("nan"), float("inf"), 1e30]


def vision() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1], group=1),
        node("BatchNormalization", ["c", "b", "b", "b", "b"], ["n"]), node("LeakyRelu", ["n"], ["r"], alpha=0.1),
        node("MaxPool", ["r"], ["p"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        node("Resize", ["p", "", "scales"], ["u"], mode="linear"), node("ConvTranspose", ["u", "t"], ["v"], strides=[2, 2]),
        node("GlobalAveragePool", ["v"], ["g"]), node("Flatten", ["g"], ["f"], axis=1),
        node("Gemm", ["f", "m"], ["s"], transB=1), node("Softmax", ["s"], ["y"], axis=-1),
    ]  # fmt: skip
    constants = {"w": draw(4, 3, 3, 3), "b": np.ones(4, np.float32), "scales": np.array([1, 1, 2, 2], np.float32),
                 "t": draw(4, 2, 2, 2), "m": draw(5, 2)}  # fmt: skip
    return model(nodes, [value("x", "n", 3, 9, 9)], ["y"], constants)


def text() -> onnx.ModelProto:
    nodes = [
        node("Gather", ["e", "x"], ["g"], axis=0), node("Transpose", ["g"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "w", "r", "b"], ["l", "h"], hidden_size=3), node("Squeeze", ["l", "one"], ["q"]),
        node("LayerNormalization", ["q", "k"], ["n"]), node("Einsum", ["n", "n"], ["a"], equation="tbd,sbd->bts"),
        node("Shape", ["a"], ["s"]), node("Slice", ["s", "one", "two", "zero"], ["z"]),
        node("Concat", ["minus", "z"], ["shape"], axis=0), node("Reshape", ["a", "shape"], ["v"]),
        node("TopK", ["v", "one"], ["y", "i"]), node("OneHot", ["i", "depth", "pair"], ["o"]),
    ]  # fmt: skip
    numbers = {"one": [1], "two": [2], "zero": [0], "minus": [-1], "depth": [4]}
    constants = {"e": draw(9, 2), "w": draw(1, 12, 2), "r": draw(1, 12, 3), "b": draw(1, 24), "k": draw(3),
                 "pair": np.array([0, 1], np.float32), **{k: np.array(v) for k, v in numbers.items()}}  # fmt: skip
    return model(nodes, [value("x", "b", "t", dtype=I64)], ["y", "o"], constants)


def control() -> onnx.ModelProto:
    then = helper.make_graph([node("Mul", ["x", "w"], ["a"])], "then", [], [unknown("a")])
    other = helper.make_graph([node("Pad", ["x", "pads"], ["a"], mode="edge")], "other", [], [unknown("a")])
    body = helper.make_graph(
        [node("Add", ["v", "x"], ["v2"]), node("Identity", ["go"], ["go2"]), node("ReduceSum", ["v2"], ["s"], keepdims=0)],
        "body", [value("i", dtype=I64), value("go", dtype=BOOL), unknown("v")], [unknown("go2"), unknown("v2"), unknown("s")],
    )  # fmt: skip
    nodes = [
        node("If", ["c"], ["f"], then_branch=then, else_branch=other), node("Split", ["f"], ["p", "q"], axis=1, num_outputs=2),
        node("Loop", ["trips", "", "x"], ["y", "z"], body=body), node("Where", ["c", "p", "q"], ["o"]),
    ]  # fmt: skip
    constants = {"w": np.float32(2), "pads": np.zeros(4, np.int64), "trips": np.array(3)}
    return model(nodes, [value("x", 2, 4), value("c", dtype=BOOL)], ["y", "z", "o"], constants)


def change_attribute(m: onnx.ModelProto, rng: random.Random) -> None:
    attributes = [a for n in m.graph.node for a in n.attribute]
    a = rng.choice(attributes)
    if a.type == AttributeProto.INT:
        a.i = rng.choice(EXTREMES)
    elif a.type == AttributeProto.INTS:
        a.ints[rng.randrange(len(a.ints))] = rng.choice(EXTREMES)
        if rng.random() < 0.3:
            a.ints.append(rng.choice(EXTREMES))
    elif a.type == AttributeProto.FLOAT:
        a.f = rng.choice(FLOATS)
    elif a.type == AttributeProto.STRING:
        a.s = rng.choice([b"", b"other", b"\xff", b"i,j"])


def change_constant(m: onnx.ModelProto, rng: random.Random) -> None:
    t = rng.choice(m.graph.initializer)
    kind = rng.randrange(3)
    if kind == 0 and t.dims:
        t.dims[rng.randrange(len(t.dims))] = rng.choice([-1, 0, 1, 2, 10**9])
    elif kind == 1:
        t.data_type = rng.choice([0, 1, 6, 7, 8, 9, 10, 11, 16, 17])
    elif len(t.raw_data) == np.prod(t.dims) * (8 if t.data_type == I64 else 4):
        array = numpy_helper.to_array(t).copy()
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice(EXTREMES if array.dtype == np.int64 else FLOATS)
        t.CopyFrom(numpy_helper.from_array(array, t.name))


def change_wiring(m: onnx.ModelProto, rng: random.Random) -> None:
    names = [o for n in m.graph.node for o in n.output] + [t.name for t in m.graph.initializer] + ["", "x", "nothing"]
    n = rng.choice([n for n in m.graph.node if n.input])
    n.input[rng.randrange(len(n.input))] = rng.choice(names)


def change_node(m: onnx.ModelProto, rng: random.Random) -> None:
    n = rng.choice(m.graph.node)
    kind = rng.randrange(4)
    if kind == 0:
        n.op_type = rng.choice([o.op_type for o in m.graph.node])
    elif kind == 1:
        del n.input[-1:]
    elif kind == 2:
        n.output.append("more")
    else:
        m.graph.node.remove(n)


def change_interface(m: onnx.ModelProto, rng: random.Random) -> None:
    t = rng.choice(m.graph.input).type.tensor_type
    if rng.random() < 0.3:
        m.opset_import[0].version = rng.choice([1, 5, 7, 9, 11, 13, 17, 23])
    elif rng.random() < 0.5 and t.shape.dim:
        t.shape.dim[rng.randrange(len(t.shape.dim))].dim_value = rng.choice([-7, -1, 0, 1, 5, 10**10])
    else:
        t.elem_type = rng.choice([0, 1, 2, 6, 7, 8, 9, 10, 11, 16, 17])


CHANGES: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    change_attribute, change_constant, change_wiring, change_node, change_interface,
]  # fmt: skip


@pytest.mark.parametrize("make", [vision, text, control])
def test_damaged_models(make: Callable[[], onnx.ModelProto]) -> None:
    original = make()
    import_model(original)
    rng = random.Random(make.__name__)
    refused = 0
    for _ in range(400):
        m = onnx.ModelProto()
        m.CopyFrom(original)
        for _ in range(rng.choice([1, 1, 2])):
            rng.choice(CHANGES)(m, rng)
        try:
            import_model(m)
        except ModelError as e:
            refused += 1
            assert str(e)
    assert refused > 100
