"""Models with strings as libraries: every operator as in the interpreter, and what callers in Python see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto as T
from onnx import helper
from tilewright.compiler.onnx_backend import CpuBackend, InterpreterBackend
from tilewright.ir.errors import ModelError, OptionError, TargetError

S = T.STRING
TEXTS = ["", "a", "Ab", "b c", "  two  words ", "é", "ß", "ﬃ", "日本語", "😀 x", "A,b,,C", "İ", "ΑΣ", "a" * 300, "Ab"]


def texts(*values: str) -> np.ndarray:
    return np.array(values, object)


def model(
    nodes: Sequence[onnx.NodeProto], inputs: dict[str, Any], outputs: dict[str, int], **constants: Any
) -> onnx.ModelProto:
    """inputs: arrays, for their types; outputs: element types."""
    codes = {n: S if a.dtype == object else helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in inputs.items()}
    graph = helper.make_graph(
        list(nodes), "m", [helper.make_tensor_value_info(n, codes[n], a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info(n, code, None) for n, code in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 4)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10)


def both(m: onnx.ModelProto, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
    """The outputs of the library, which are those of the interpreter."""
    expected = InterpreterBackend.prepare(m).run(list(inputs))
    got = CpuBackend.prepare(m).run(list(inputs))
    for a, e in zip(got, expected, strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape
        np.testing.assert_array_equal(a, e)
    return got


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def test_joined_strings_are_broadcast() -> None:
    x, y = texts(*TEXTS[:6]).reshape(2, 3), texts("!", "", "ß")
    (z,) = both(model([node("StringConcat", "x y", "z")], {"x": x, "y": y}, {"z": S}), x, y)
    assert z[0].tolist() == ["!", "a", "Abß"]


@pytest.mark.parametrize("delimiter", [None, "", ",", "  ", "日"])
@pytest.mark.parametrize("maxsplit", [None, 0, 1, 2])
def test_split(delimiter: str | None, maxsplit: int | None) -> None:
    x = texts(*TEXTS[:12]).reshape(3, 4)
    given = {k: v for k, v in (("delimiter", delimiter), ("maxsplit", maxsplit)) if v is not None}
    both(model([node("StringSplit", "x", "z n", **given)], {"x": x}, {"z": S, "n": T.INT64}), x)


def test_more_pieces_than_there_is_room_for_are_an_error() -> None:
    x = texts("a " * 65)
    compiled = CpuBackend.prepare(model([node("StringSplit", "x", "z n")], {"x": x}, {"z": S, "n": T.INT64}))
    with pytest.raises(OptionError, match="more pieces than the output has room for"):
        compiled.run([x])
    assert compiled.run([texts("a b")])[0].tolist() == [["a", "b"]]


@pytest.mark.parametrize("case", ["NONE", "LOWER", "UPPER"])
@pytest.mark.parametrize("sensitive", [0, 1])
@pytest.mark.parametrize("words", [None, ["AB", "é"], ["Ab", ""]])
def test_normalized(case: str, sensitive: int, words: list[str] | None) -> None:
    given = {} if words is None else {"stopwords": words}
    n = node("StringNormalizer", "x", "z", case_change_action=case, is_case_sensitive=sensitive, **given)
    for x in (texts(*TEXTS), texts(*TEXTS).reshape(1, -1)):
        both(model([n], {"x": x}, {"z": S}), x)
    x = texts("Ab", "Ab", "Ab")
    (z,) = both(model([n], {"x": x}, {"z": S}), x)
    assert z.shape == ((1,) if words == ["Ab", ""] or (words and not sensitive) else (3,))


@pytest.mark.parametrize("pattern", [r"\w*", "(?i)[a-c ]+", r"(\w+ )*\w*", ".*[^\\x00-\\x7F].*", r"\b.*\b", "a{300}", "^$|é$"])
def test_matched(pattern: str) -> None:
    x = texts(*TEXTS)
    both(model([node("RegexFullMatch", "x", "z", pattern=pattern)], {"x": x}, {"z": T.BOOL}), x)


NUMBERS = [0.0, -0.0, 1.0, -2.5, 0.1, 1e-5, 1.5e-4, 123456.789, 1e15, 1e16, 3.4e38, np.inf, -np.inf, np.nan, 5e-324, 1 / 3]
INTEGERS = [0, 1, -1, 127, -128, 2**15, -(2**31), 2**62]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.int32, np.int8, np.uint64, np.bool_])
def test_numbers_as_text_and_back(dtype: type) -> None:
    with np.errstate(all="ignore"):
        x = np.array(NUMBERS if np.dtype(dtype).kind == "f" else INTEGERS).astype(dtype)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [node("Cast", "x", "s", to=S), node("Cast", "s", "y", to=code)]
    kept = {"s": S} if dtype is np.bool_ else {"s": S, "y": code}
    made = both(model(nodes, {"x": x}, kept), x)
    if dtype is np.float64:
        assert made[0].tolist() == [str(v) for v in x.tolist()]
    if dtype is not np.bool_:
        np.testing.assert_array_equal(made[1], x)


@pytest.mark.parametrize("to", [T.DOUBLE, T.FLOAT, T.FLOAT16, T.BFLOAT16, T.INT64, T.UINT8, T.BOOL])
def test_text_as_numbers(to: int) -> None:
    x = texts("1", " -2.75\t", "1e2", ".5", "7.", "+3", "0x" if to == 0 else "0", "1E-2", "250", "300.6")
    both(model([node("Cast", "x", "y", to=to)], {"x": x}, {"y": to}), x)


@pytest.mark.parametrize("wrong", ["", "x", "1 2", "1e", "0x10", "1_0", "--1", "nanny", "\u0661"])
def test_text_that_is_no_number_is_an_error(wrong: str) -> None:
    m = model([node("Cast", "x", "y", to=T.FLOAT)], {"x": texts("")}, {"y": T.FLOAT})
    with pytest.raises(ModelError, match="not a number"):
        InterpreterBackend.prepare(m).run([texts(wrong)])
    with pytest.raises(OptionError, match="text that is not a number"):
        CpuBackend.prepare(m).run([texts(wrong)])


MOVES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "transpose-slice": ([node("Transpose", "x", "t", perm=[1, 0]), node("Slice", "t i j", "z")], {"i": [1, 0], "j": [3, 1]}),
    "gather": ([node("Gather", "x i", "z", axis=1)], {"i": [[-1, 0], [1, 1]]}),
    "elements": ([node("GatherElements", "x i", "z", axis=0)], {"i": [[1, 0, 1]]}),
    "scatter": ([node("ScatterElements", "x i w", "z", axis=1)], {"i": [[2], [0]], "w": np.array([["p"], ["q"]], object)}),
    "concat": ([node("Concat", "x x w", "z", axis=0)], {"w": np.array([["p", "q", "p"]], object)}),
    "pad": ([node("Pad", "x p", "z")], {"p": [1, 0, 0, 2]}),
    "pad-with": ([node("Pad", "x p w", "z")], {"p": [0, 1, 1, 0], "w": np.array("—", object)}),
    "pad-edge": ([node("Pad", "x p", "z", mode="edge")], {"p": [0, 1, 1, 0]}),
    "tile": ([node("Tile", "x r", "z")], {"r": [2, 3]}),
    "where": ([node("Equal", "x w", "c"), node("Where", "c v x", "z")], {"w": texts("a"), "v": texts("A was here")}),
    "compress": ([node("Compress", "x c", "z", axis=1)], {"c": [True, False, True]}),
    "reshape": ([node("Reshape", "x s", "z")], {"s": [-1]}),
    "split-join": ([node("Split", "x", "a b", axis=0, num_outputs=2), node("StringConcat", "a b", "z")], {}),
    "none": ([node("Slice", "x i i", "z")], {"i": [0]}),
    "itself": ([node("Identity", "x", "z")], {}),
    "constant": ([node("Identity", "w", "z")], {"w": texts("c", "", "日本")}),
}


@pytest.mark.parametrize("name", MOVES)
def test_moved(name: str) -> None:
    nodes, constants = MOVES[name]
    x = texts("a", "", "日本", "a", "b c", "😀").reshape(2, 3)
    both(model(nodes, {"x": x}, {"z": S}, **{n: np.array(a) for n, a in constants.items()}), x)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_distinct(order: int, axis: int | None) -> None:
    x = texts("b", "a", "b", "a", "c", "a", "b", "a", "b").reshape(3, 3)
    given = {} if axis is None else {"axis": axis}
    kept = {"y": S, "i": T.INT64, "v": T.INT64, "n": T.INT64}
    both(model([node("Unique", "x", "y i v n", sorted=order, **given)], {"x": x}, kept), x)


ML = {
    "strings-to-integers": node("LabelEncoder", "x", "z", keys_strings=["b", "a", "a"], values_int64s=[7, 8, 9]),
    "strings-to-floats": node("LabelEncoder", "x", "z", keys_strings=["a", "b"], values_floats=[0.5, 2.0]),
    "strings-to-strings": node("LabelEncoder", "x", "z", keys_strings=["a"], values_strings=["A"], default_string="?"),
    "categories": node("CategoryMapper", "x", "z", cats_strings=["a", "b"], cats_int64s=[3, 4]),
    "one-hot": node("OneHotEncoder", "x", "z", cats_strings=["b", "a", "é"]),
    "counts": helper.make_node(
        "TfIdfVectorizer", ["x"], ["z"], mode="TF", min_gram_length=1, max_gram_length=2, max_skip_count=1, ngram_counts=[0, 2],
        ngram_indexes=[0, 1, 2], pool_strings=["a", "b", "a", "b"],
    ),
}


@pytest.mark.parametrize("name", ML)
def test_categories(name: str) -> None:
    x = texts("a", "b", "", "é", "a", "a", "b")
    m = model([ML[name]], {"x": x}, {"z": T.FLOAT})
    if name != "counts":
        m.graph.node[0].domain = "ai.onnx.ml"
    both(m, x)


def test_integers_to_strings() -> None:
    x = np.array([[3, 1], [5, 3]])
    n = helper.make_node("CategoryMapper", ["x"], ["z"], domain="ai.onnx.ml", cats_strings=["three", "one"], cats_int64s=[3, 1])
    (z,) = both(model([n], {"x": x}, {"z": S}), x)
    assert z.tolist() == [["three", "one"], ["_Unused", "three"]]


def test_strings_in_branches() -> None:
    then = helper.make_graph([node("StringConcat", "x w", "t")], "then", [], [helper.make_tensor_value_info("t", S, [2])],
                             [helper.make_tensor("w", S, [1], [b"+"])])
    other = helper.make_graph([node("Identity", "x", "o")], "other", [], [helper.make_tensor_value_info("o", S, [2])])
    x = texts("a", "b")
    m = model([node("If", "c", "z", then_branch=then, else_branch=other)], {"c": np.array(True), "x": x}, {"z": S})
    for c in (True, False):
        (z,) = both(m, np.array(c), x)
        assert z.tolist() == (["a+", "b+"] if c else ["a", "b"])


# ---- callers in Python -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x = texts("a", "b")
    m = model([node("StringConcat", "x x", "z")], {"x": x}, {"z": S})
    return tilewright.compile(m).save(tmp_path_factory.mktemp("strings") / "joined")


def test_what_a_caller_may_pass(saved: Path) -> None:
    module = tilewright.load(saved)
    for x in (texts("é", "y"), np.array(["é", "y"]), ["é", "y"], ("é", "y")):
        assert module(x)[0].tolist() == ["éé", "yy"]
    long = "x" * 1_000_000
    for _ in range(20):  # memory is used again
        assert module([long, ""])[0].tolist() == [2 * long, ""]


@pytest.mark.parametrize(("x", "message"), [
    (np.array([1, 2]), "expected element type str"), (["a"], "expected shape"), (["a", "b\0c"], "without the character 0"),
    (["a", None], "without the character 0"), (["a", "\ud800"], "surrogates not allowed"),
])  # fmt: skip
def test_what_is_no_string(saved: Path, x: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        tilewright.load(saved)(x)


def test_other_targets_and_bytes_that_end_strings_are_refused() -> None:
    x = texts("a", "b")
    with pytest.raises(TargetError, match="need the support code"):
        tilewright.compile(model([node("StringConcat", "x x", "z")], {"x": x}, {"z": S}), target="cuda:sm_80", cache=False)
    zero = texts("a\0b")
    with pytest.raises(TargetError, match="zero byte"):
        tilewright.compile(model([node("StringConcat", "x w", "z")], {"x": x}, {"z": S}, w=zero), cache=False)
