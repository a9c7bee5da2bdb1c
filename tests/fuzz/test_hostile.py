"""Files made to harm: each is refused, quickly and without much memory, by an error made for users."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import ModelError

from fuzz import damaged
from fuzz.pool import Limits, run_cases

FLOAT = TensorProto.FLOAT
LIMITS = Limits(seconds=150, memory=1 << 30)  # far beyond what any of them takes, also on a busy machine


def value(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None, shape: tuple[int, ...] = (2, 3)
) -> bytes:
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)]
    initializers = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "hostile", [value("x", *shape)], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()


def constant_bomb(op: str, *numbers: int) -> bytes:
    """A few bytes that ask for as many as numbers say, and a node that looks at them."""
    shape = np.array(numbers, np.int64)
    make = {
        "ConstantOfShape": [helper.make_node("ConstantOfShape", ["n"], ["big"])],
        "Expand": [helper.make_node("Expand", ["one", "n"], ["big"])],
        "Tile": [helper.make_node("Tile", ["row", "n"], ["big"])],
        "Range": [helper.make_node("Range", ["zero", "n", "step"], ["whole"]),
                  helper.make_node("Cast", ["whole"], ["big"], to=FLOAT)],
    }[op]  # fmt: skip
    constants = {"n": shape if op != "Range" else shape[0], "one": np.ones(1, np.float32), "zero": np.array(0, np.int64),
                 "step": np.array(1, np.int64), "row": np.ones([1] * len(numbers), np.float32)}  # fmt: skip
    use = [helper.make_node("ReduceSum", ["big"], ["total"], keepdims=0), helper.make_node("Add", ["x", "total"], ["y"])]
    return model([*make, *use], constants)


def doubling(steps: int) -> bytes:
    """x + x, again and again: 2^steps paths through the graph, 2^steps elements if they are joined."""
    nodes = [helper.make_node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], axis=0) for i in range(steps)]
    nodes[0].input[:] = ["x", "x"]
    return model(nodes)


def paths(steps: int) -> bytes:
    nodes = [helper.make_node("Add", [f"v{i}"] * 2, [f"v{i + 1}"]) for i in range(steps)]
    nodes[0].input[:] = ["x", "x"]
    return model(nodes)


def cycle() -> bytes:
    return model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])])


def loops(*turns: int) -> bytes:
    """Loops inside of loops whose values change their shapes, so that they would be unrolled."""
    node = helper.make_node("Transpose", ["v"], ["w"])
    for level, count in reversed(list(enumerate(turns))):
        nodes = [helper.make_node("Constant", [], ["n"], value=numpy_helper.from_array(np.array(count, np.int64))),
                 helper.make_node("Identity", ["go"], ["on"]), node]  # fmt: skip
        if level < len(turns) - 1:
            nodes.append(helper.make_node("Transpose", ["u"], ["w"]))
        body = helper.make_graph(
            nodes, f"body{level}",
            [helper.make_tensor_value_info("i", TensorProto.INT64, []),
             helper.make_tensor_value_info("go", TensorProto.BOOL, []), helper.make_tensor_value_info("v", FLOAT, None)],
            [helper.make_tensor_value_info("on", TensorProto.BOOL, None), helper.make_tensor_value_info("w", FLOAT, None)],
        )  # fmt: skip
        node = helper.make_node("Loop", ["turns" if level == 0 else "n", "", "x" if level == 0 else "v"], ["u"], body=body)
    return model([node], {"turns": np.array(turns[0], np.int64)})


def nested(depth: int) -> bytes:
    """Branches inside of branches, written without protobuf's own limit in the way."""

    def field(number: int, data: bytes) -> bytes:
        size, length = len(data), b""
        while size > 127:
            length, size = length + bytes((size & 127 | 128,)), size >> 7
        return _varint(number << 3 | 2) + length + bytes((size,)) + data

    graph = b""
    for _ in range(depth):
        attribute = field(1, b"then_branch") + _varint(20 << 3) + b"\x05" + field(6, graph)
        graph = field(1, field(1, b"c") + field(2, b"y") + field(4, b"If") + field(5, attribute)) + field(12, field(1, b"y"))
    return _varint(1 << 3) + b"\x0a" + field(7, graph) + field(8, _varint(2 << 3) + b"\x14")


def _varint(n: int) -> bytes:
    return bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7))


def recursive_function(calls: int) -> bytes:
    """A function that calls itself, `calls` times: calls^depth nodes."""
    nodes = [helper.make_node("f", ["a"], [f"b{i}"], domain="own") for i in range(calls)]
    f = helper.make_function("own", "f", ["a"], ["b0"], nodes, [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)])
    m = onnx.ModelProto.FromString(model([helper.make_node("f", ["x"], ["y"], domain="own")]))
    m.functions.append(f)
    m.opset_import.append(helper.make_opsetid("own", 1))
    return m.SerializeToString()


def function_bomb(levels: int) -> bytes:
    """Functions that call the next one ten times: 10^levels nodes from a few hundred bytes."""
    m = onnx.ModelProto.FromString(model([helper.make_node("f0", ["x"], ["y"], domain="own")]))
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    for level in range(levels):
        inner = ("Relu", "") if level == levels - 1 else (f"f{level + 1}", "own")
        nodes = [helper.make_node(inner[0], [f"b{i}"], [f"b{i + 1}"], domain=inner[1]) for i in range(10)]
        m.functions.append(helper.make_function("own", f"f{level}", ["b0"], ["b10"], nodes, imports))
    m.opset_import.append(helper.make_opsetid("own", 1))
    return m.SerializeToString()


FILES = {
    "constant of 2^40": lambda: constant_bomb("ConstantOfShape", 2**40),
    "expand to 2^40": lambda: constant_bomb("Expand", 2**20, 2**20),
    "tile 2^20 by 2^20": lambda: constant_bomb("Tile", 2**20, 2**20), "range of 2^50": lambda: constant_bomb("Range", 2**50),
    "constant of negative size": lambda: constant_bomb("ConstantOfShape", -5), "doubled 60 times": lambda: doubling(60),
    "cycle": cycle,
    "loop of 2^62 turns": lambda: loops(2**62), "loops of 1000 by 1000 turns": lambda: loops(1000, 1000),
    "recursive function": lambda: recursive_function(1),
    "recursive function, twofold": lambda: recursive_function(2), "10^9 nodes by functions": lambda: function_bomb(9),
    "input of negative size": lambda: model([helper.make_node("Relu", ["x"], ["y"])], shape=(-3, 4)),
    "input of 2^60 elements": lambda: model([helper.make_node("Relu", ["x"], ["y"])], shape=(2**30, 2**30)),
    "rank 5000": lambda: model([helper.make_node("Relu", ["x"], ["y"])], shape=(1,) * 5000),
    "branches 30 deep": lambda: nested(30), "branches 3000 deep": lambda: nested(3000),
    "empty": lambda: b"", "one byte": lambda: b"\xff", "lengths without end": lambda: b"\xff" * 1000,
}  # fmt: skip


SLOW = {"loops of 1000 by 1000 turns"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FILES])
def test_refused(name: str) -> None:
    data = FILES[name]()
    (outcome,) = run_cases(lambda _: damaged.examine(data), [0], limits=LIMITS)
    assert outcome.kind == "done", f"{outcome.kind}: {outcome.value}"
    assert outcome.value.startswith("refused"), outcome.value


def test_many_paths_are_no_work() -> None:
    """Not harmful: 200 nodes, however many paths lead through them."""
    (outcome,) = run_cases(lambda _: damaged.examine(paths(200)), [0], limits=LIMITS)
    assert outcome.value == "compiled"


# ---- external data -------------------------------------------------------------------------------------------------


def outside(location: str, **keys: object) -> onnx.ModelProto:
    made = onnx.ModelProto.FromString(model([helper.make_node("Add", ["x", "w"], ["y"])], shape=(4,)))
    w = made.graph.initializer.add(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, **keys}.items():
        w.external_data.add(key=key, value=str(text))
    return made


def where_else(location: str) -> list[onnx.ModelProto]:
    """The same data wherever a tensor may stand: initializer, attribute, subgraph, sparse initializer."""
    plain = outside(location)
    tensor = plain.graph.initializer[0]
    attribute = onnx.ModelProto.FromString(model([helper.make_node("Constant", [], ["w"], value=tensor),
                                                  helper.make_node("Add", ["x", "w"], ["y"])], shape=(4,)))  # fmt: skip
    branch = helper.make_graph([helper.make_node("Add", ["x", "w"], ["z"])], "b", [], [value("z", 4)], [tensor])
    inner = onnx.ModelProto.FromString(model([helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
                                             {"c": np.array(True)}, (4,)))  # fmt: skip
    sparse = onnx.ModelProto.FromString(model([helper.make_node("Add", ["x", "w"], ["y"])], shape=(4,)))
    indices = numpy_helper.from_array(np.arange(4), "i")
    sparse.graph.sparse_initializer.add(values=tensor, indices=indices, dims=[4])
    return [plain, attribute, inner, sparse]


@pytest.mark.parametrize(
    "location", ["../secret", "a/../../secret", "/etc/hostname", "link", "folder/secret", "hard", "", ".", "..", "pipe", "a\0b"]
)
def test_external_data_stays_inside(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for place in (tmp_path, tmp_path / "elsewhere"):
        (place / "secret").write_bytes(b"\0" * 16)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path / "elsewhere")
    os.link(tmp_path / "secret", folder / "hard")
    os.mkfifo(folder / "pipe")
    for m in where_else(location):
        path = folder / "model.onnx"
        path.write_bytes(m.SerializeToString())
        with pytest.raises(ModelError):
            import_model(path)


@pytest.mark.parametrize("keys", [
    {"offset": -1}, {"offset": 2**62}, {"offset": 8, "length": 16}, {"length": -1}, {"length": 2**63}, {"length": 3},
    {"offset": "0x10"}, {"offset": "1e3"}, {"offset": " 0"}, {"offset": "٣"}, {"length": ""},
])  # fmt: skip
def test_external_data_of_wrong_extent(keys: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\0" * 16)
    path = tmp_path / "model.onnx"
    path.write_bytes(outside("data", **keys).SerializeToString())
    with pytest.raises(ModelError):
        import_model(path)


def test_external_data_that_is_right(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    for m in where_else("data"):
        path = tmp_path / "model.onnx"
        path.write_bytes(m.SerializeToString())
        assert import_model(path).outputs
