"""Artifacts with open dimensions: any size gives the numbers of the interpreter, and sizes that do not fit are refused."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from frontend.onnx_models import F32, I64, model, node, unknown, value
from onnx import ModelProto, TensorProto
from tilewright.compiler.api import compile
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import OptionError
from tilewright.ir.interpreter import run_graph
from tilewright.targets.loader import Module

STRING = TensorProto.STRING
RNG = np.random.default_rng(8)
SIZES = ((1, 1), (2, 3), (7, 16), (17, 5), (40, 33))


def weights(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


def mlp() -> ModelProto:
    """Rows of two open dimensions, an epilogue with functions, and a softmax of an open row."""
    return model(
        [
            node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["c"]), node("Tanh", ["c"], ["d"]),
            node("Transpose", ["d"], ["e"], perm=[0, 2, 1]), node("MatMul", ["d", "e"], ["s"]),
            node("Softmax", ["s"], ["p"], axis=-1), node("MatMul", ["p", "d"], ["y"]),
            node("ReduceMean", ["y", "axes"], ["z"], keepdims=0),
        ],
        [value("x", "n", "m", 24)], ["y", "z"],
        {"w": weights(24, 40), "b": weights(40), "axes": np.array([1])},
    )  # fmt: skip


def image() -> ModelProto:
    """Convolutions, pools and a concatenation over an open batch, height and width."""
    return model(
        [
            node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["b"]),
            node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Conv", ["b", "d"], ["e"], group=16, pads=[1, 1, 1, 1]), node("Concat", ["c", "e"], ["f"], axis=1),
            node("GlobalAveragePool", ["f"], ["y"]), node("Conv", ["f", "o"], ["z"], strides=[2, 2]),
        ],
        [value("x", "n", 3, "h", "m")], ["y", "z"],
        {"w": weights(16, 3, 3, 3), "d": weights(16, 1, 3, 3), "o": weights(20, 32, 1, 1)},
    )  # fmt: skip


def moved() -> ModelProto:
    """Shapes computed from shapes: reshapes, slices, gathers, padding, sorting."""
    return model(
        [
            node("Shape", ["x"], ["s"]), node("Gather", ["s", "first"], ["n"]), node("Concat", ["n", "rest"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["flat"]), node("Pad", ["flat", "pads"], ["wide"]),
            node("Slice", ["wide", "one", "end", "last"], ["y"]), node("TopK", ["flat", "two"], ["z", "at"]),
            node("CumSum", ["flat", "axis"], ["u"]),
        ],
        [value("x", "n", "m", 6)], ["y", "z", "at", "u"],
        {"first": np.array([0]), "rest": np.array([-1]), "pads": np.array([0, 1, 0, 2]), "one": np.array([1]),
         "end": np.array([-1]), "last": np.array([1]), "two": np.array([2]), "axis": np.array(1)},
    )  # fmt: skip


def large() -> ModelProto:
    """Products that are halved from some number of rows on; the rows of the second do not lie behind each other."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "v"], ["c"]),
        node("Transpose", ["c"], ["y"], perm=[1, 0, 2]),
    ]
    return model(nodes, [value("x", "n", "m", 256)], ["y"], {"w": weights(256, 384) / 4, "v": weights(384, 256) / 4})


def recurrent() -> ModelProto:
    nodes = [node("LSTM", ["x", "w", "r"], ["y", "h"], hidden_size=64), node("GRU", ["x", "w3", "r3"], ["z"], hidden_size=20)]
    constants = {"w": weights(1, 256, 8), "r": weights(1, 256, 64), "w3": weights(1, 60, 8), "r3": weights(1, 60, 20)}
    return model(nodes, [value("x", "m", "n", 8)], ["y", "h", "z"], constants)


def transformed() -> ModelProto:
    """Winograd convolutions: of few tiles, whose phases threads share, and of blocks of tiles."""
    return model(
        [
            node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            node("Conv", ["a", "v"], ["y"], pads=[1, 1, 1, 1], strides=[4, 4]),
            node("Slice", ["a", "from", "to", "axes"], ["b"]), node("Conv", ["b", "w"], ["z"]),
        ],
        [value("x", "n", 32, 50, 48)], ["y", "z"],
        {"w": weights(32, 32, 3, 3) / 4, "v": weights(32, 32, 3, 3), "from": np.array([3, 5]), "to": np.array([13, 16]),
         "axes": np.array([2, 3])},
    )  # fmt: skip


def segmenter() -> ModelProto:
    """Transformed convolutions of open height and width, of stride 1 and 2 and with a finish that reads another value; a
    transposed convolution beside what it must be as large as."""
    return model(
        [
            node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "v"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]), node("Conv", ["c", "p"], ["s"]),
            node("Conv", ["c", "q"], ["d"], pads=[1, 1, 1, 1]), node("Add", ["d", "s"], ["e"]), node("Relu", ["e"], ["f"]),
            node("ConvTranspose", ["f", "t"], ["u"], strides=[2, 2]), node("Concat", ["b", "u"], ["g"], axis=1),
            node("Conv", ["g", "z"], ["y"], pads=[1, 1, 1, 1]),
        ],
        [value("x", "n", 17, "h", "m")], ["y"],
        {"w": weights(16, 17, 3, 3) / 3, "v": weights(32, 16, 3, 3) / 3, "p": weights(20, 32, 1, 1),
         "q": weights(20, 32, 3, 3) / 3, "t": weights(20, 16, 2, 2) / 2, "z": weights(24, 32, 3, 3) / 3},
    )  # fmt: skip


def pruned() -> ModelProto:
    """Constants of many zeros, which are skipped where sizes are known."""
    w, v = (np.where(RNG.random(shape) < 0.95, 0, weights(*shape)) for shape in ((64, 64, 3, 3), (64, 256)))
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]), node("GlobalAveragePool", ["a"], ["b"]),
        node("Flatten", ["b"], ["c"]), node("MatMul", ["c", "v"], ["y"]),
    ]
    return model(nodes, [value("x", "n", 64, 6, "m")], ["y"], {"w": w.astype(np.float32), "v": v.astype(np.float32)})


def heads() -> ModelProto:
    """Attention of two heads, of open rows and batch."""
    nodes = [node("MatMul", ["x", f"w{t}"], [f"{t}0"]) for t in "qkv"]
    for t, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [node("Reshape", [f"{t}0", "split"], [f"{t}1"]), node("Transpose", [f"{t}1"], [t], perm=perm)]
    nodes += [
        node("MatMul", ["q", "k"], ["s"]), node("Mul", ["s", "scale"], ["r"]), node("Softmax", ["r"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["o"]), node("Transpose", ["o"], ["t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "join"], ["y"]),
    ]
    constants = {f"w{t}": weights(32, 64) for t in "qkv"} | {"scale": np.float32(0.2)}
    constants |= {"split": np.array([0, 0, 2, 32]), "join": np.array([0, 0, 64])}
    return model(nodes, [value("x", "n", "m", 32)], ["y"], constants)


MODELS: dict[str, tuple[Callable[[], ModelProto], Callable[[int, int], tuple[int, ...]]]] = {
    "mlp": (mlp, lambda n, m: (n, m, 24)),
    "image": (image, lambda n, m: (min(n, 3), 3, m + 2, n + 3)),
    "moved": (moved, lambda n, m: (n, m, 6)),
    "transformed": (transformed, lambda n, m: (min(n, 9), 32, 50, 48)),
    "segmenter": (segmenter, lambda n, m: (1 + n % 2, 17, 2 * (n + n // 17 * 3), 2 * m)),
    "pruned": (pruned, lambda n, m: (n, 64, 6, m)),
    "heads": (heads, lambda n, m: (n, m, 32)),
    "large": (large, lambda n, m: (n, m, 256)),
    "recurrent": (recurrent, lambda n, m: (m, min(n, 4), 8)),
}


FOLDERS: dict[str, Path] = {}  # of the models that were compiled


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ModelProto, Module]:
    make, _ = MODELS[request.param]
    proto = make()
    folder = FOLDERS[request.param] = tmp_path_factory.mktemp(request.param)
    compile(proto, cache=False, name=request.param, jobs=1).save(folder)
    return request.param, proto, Module(folder, threads=2)


def test_any_size_gives_the_numbers_of_the_interpreter(case: tuple[str, ModelProto, Module]) -> None:
    name, proto, module = case
    for n, m in (*SIZES, SIZES[0]):
        x = RNG.standard_normal(MODELS[name][1](n, m)).astype(np.float32)
        wanted = run_graph(import_model(proto, shapes={"x": x.shape}), [x])
        got = module(x)
        for k, (g, w) in enumerate(zip(got, wanted, strict=True)):
            assert g.shape == w.shape == module.output_shape(k)
            np.testing.assert_allclose(g, w, rtol=2e-4, atol=2e-5, err_msg=f"{name} at {x.shape}")


def test_any_number_of_threads_gives_the_same_bits(case: tuple[str, ModelProto, Module]) -> None:
    """Of transformed convolutions, too: with few tiles threads share the phases, with many the tiles."""
    name, _, module = case
    if name == "segmenter":
        assert sum("Winograd" in k["schedule"] for k in module.manifest["kernels"]) == 4
    with Module(FOLDERS[name], threads=1) as one:
        for n, m in SIZES:
            x = RNG.standard_normal(MODELS[name][1](n, m)).astype(np.float32)
            for a, b in zip(module(x), one(x), strict=True):
                np.testing.assert_array_equal(a, b)


def test_buffers_that_are_bound_keep_their_shapes(case: tuple[str, ModelProto, Module]) -> None:
    """A call with another size between two steps changes nothing."""
    name, _, module = case
    x = RNG.standard_normal(MODELS[name][1](5, 4)).astype(np.float32)
    wanted = module(x)
    results = [np.zeros_like(w) for w in wanted]
    step = module.bind([x], results)
    module(RNG.standard_normal(MODELS[name][1](2, 9)).astype(np.float32))
    step()
    for g, w in zip(results, wanted, strict=True):
        np.testing.assert_array_equal(g, w)


# ---- what does not fit ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Module:
    """Two inputs that share a dimension, one of them with a range, and one that must fit into rows of four."""
    proto = model(
        [node("Add", ["a", "b"], ["c"]), node("Reshape", ["c", "rows"], ["y"])],
        [value("a", "n", "k"), value("b", "n", "")], ["y"], {"rows": np.array([-1, 4])},
    )
    folder = tmp_path_factory.mktemp("pair")
    compile(proto, dims={"n": "2..8"}, cache=False, name="pair", jobs=1).save(folder)
    return Module(folder)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_sizes_that_fit(pair: Module) -> None:
    assert pair(ones(2, 6), ones(2, 6))[0].shape == (3, 4)
    assert pair.manifest["dims"] == {"n": [2, 8], "k": [1, None], "b_1": [1, None]}


@pytest.mark.parametrize("a, b, message", [
    ((3, 4), (2, 4), r"input 1 \(b\): dimension 0 \(n\) is 3 elsewhere, got 2"),
    ((1, 4), (1, 4), r"input 0 \(a\): dimension 0 \(n\) must be from 2 to 8, got 1"),
    ((9, 4), (9, 4), r"must be from 2 to 8, got 9"),
    ((2, 0), (2, 0), r"dimension 1 \(k\) must be 1 or more, got 0"),
    ((2, 3), (2, 3), r"does not fit into"),
    ((2, 4), (2, 8), r"must be"),
])  # fmt: skip
def test_sizes_that_do_not_fit(pair: Module, a: tuple[int, int], b: tuple[int, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pair(ones(*a), ones(*b))
    assert pair(ones(4, 4), ones(4, 4))[0].tolist() == (2 * ones(4, 4)).tolist()


def test_ranges_are_for_dimensions_of_the_model() -> None:
    with pytest.raises(OptionError, match=r"dim batch: it has a range, and the inputs have no open dimension of this name"):
        compile(mlp(), dims={"batch": "1..4"}, cache=False)


def test_sizes_beyond_any_memory(pair: Module) -> None:
    shapes = [(ctypes.c_int64 * 2)(8, 2**62), (ctypes.c_int64 * 2)(8, 2**62)]
    resize = pair._function("resize", ctypes.c_int32)
    status = resize(pair._handle, (ctypes.c_void_p * 2)(*map(ctypes.addressof, shapes)))
    assert status == 4
    with pytest.raises(OptionError, match="shapes of the inputs are not set"):
        pair._fail(pair._run(pair._handle, (ctypes.c_void_p * 2)(), (ctypes.c_void_p * 1)()))


def test_a_run_before_the_shapes_are_known(tmp_path: Path) -> None:
    proto = model([node("Neg", ["x"], ["y"])], [value("x", "n", dtype=F32)], ["y"])
    compile(proto, cache=False, name="neg", jobs=1).save(tmp_path)
    module = Module(tmp_path)
    with pytest.raises(OptionError, match="shapes of the inputs are not set"):
        module.output_shape(0)
    assert module(ones(3))[0].tolist() == [-1, -1, -1]


def test_a_gather_at_open_sizes(tmp_path: Path) -> None:
    """Indices of an open number into an open table; negative ones count from its end."""
    proto = model([node("Gather", ["x", "i"], ["y"], axis=0)], [value("x", "n", 3), value("i", "k", dtype=I64)], ["y"])
    compile(proto, cache=False, name="gather", jobs=1).save(tmp_path)
    module = Module(tmp_path)
    for n, k in ((1, 4), (9, 2)):
        x, i = RNG.standard_normal((n, 3)).astype(np.float32), RNG.integers(-n, n, k)
        np.testing.assert_array_equal(module(x, i)[0], x[i])


def test_strings_at_open_sizes(tmp_path: Path) -> None:
    """The support code is given how many there are; a transposed operand is made dense at its own size."""
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("StringConcat", ["t", "t"], ["y"])]
    proto = model(nodes, [value("x", "n", "k", dtype=STRING)], [unknown("y", STRING)])
    compile(proto, cache=False, name="twice", jobs=1).save(tmp_path)
    module = Module(tmp_path)
    for shape in ((1, 2), (3, 2), (2, 5)):
        x = np.array([f"{n}é" for n in range(shape[0] * shape[1])], object).reshape(shape)
        np.testing.assert_array_equal(module(x)[0], x.T + x.T)


def test_checked_kernels_know_the_sizes_of_their_buffers(tmp_path: Path) -> None:
    proto = mlp()
    compile(proto, debug_bounds=True, cache=False, name="mlp", jobs=1).save(tmp_path)
    module = Module(tmp_path)
    for n, m in ((1, 1), (7, 16)):
        x = RNG.standard_normal((n, m, 24)).astype(np.float32)
        wanted = run_graph(import_model(proto, shapes={"x": x.shape}), [x])
        np.testing.assert_allclose(module(x)[0], wanted[0], rtol=2e-4, atol=2e-5)


def test_weights_are_not_made_before_sizes_are_known() -> None:
    with pytest.raises(OptionError, match=r"transform_weights=create with the open dimensions n, m: .*--dim NAME=N"):
        compile(mlp(), transform_weights="create", cache=False)


def test_sizes_that_data_tells_of_open_sizes(tmp_path: Path) -> None:
    """The largest size is an expression of the open ones; what is found goes through a gather and a sum."""
    proto = model(
        [
            node("NonZero", ["x"], ["at"]), node("Transpose", ["at"], ["pairs"]), node("GatherND", ["x", "pairs"], ["found"]),
            node("ReduceSum", ["found", "zero"], ["sum"], keepdims=0),
        ],
        [value("x", "n", "m")], [unknown("at", I64), "found", "sum"], {"zero": np.array([0])},
    )  # fmt: skip
    compile(proto, cache=False, name="nz", jobs=1).save(tmp_path)
    module = Module(tmp_path)
    for n, m in ((1, 1), (3, 40), (20, 7), (3, 40)):
        x = RNG.integers(-1, 2, (n, m)).astype(np.float32)
        at, found, total = module(x)
        np.testing.assert_array_equal(at, np.nonzero(x))
        np.testing.assert_array_equal(found, x[np.nonzero(x)])
        assert total == x.sum() and module.output_shape(0) == at.shape


def test_distinct_elements_counts_and_the_best_of_open_sizes(tmp_path: Path) -> None:
    """Rows are sorted in as many rounds as there are; what only a size of NonZero is taken from stays; K is min(m, 3)."""
    proto = model(
        [
            node("Unique", ["x"], ["u", "first", "inverse", "often"], sorted=0), node("Unique", ["x"], ["rows"], axis=0),
            node("NonZero", ["x"], ["at"]), node("Shape", ["at"], ["s"]), node("Gather", ["s", "one"], ["count"]),
            node("Shape", ["x"], ["t"]), node("Gather", ["t", "one"], ["m"]), node("Reshape", ["m", "one1"], ["m1"]),
            node("Concat", ["m1", "three"], ["both"], axis=0), node("ReduceMin", ["both"], ["k"], keepdims=1),
            node("TopK", ["x", "k"], ["best", "where"], axis=1),
        ],
        [value("x", "n", "m")], ["u", unknown("first", I64), unknown("inverse", I64), "rows", "count", "best"],
        {"one": np.array(1), "one1": np.array([1]), "three": np.array([3])},
    )  # fmt: skip
    compile(proto, cache=False, name="distinct", jobs=1).save(tmp_path)
    module = Module(tmp_path, threads=2)
    for n, m in ((1, 1), (7, 2), (60, 3), (40, 33), (7, 2)):
        x = RNG.integers(-1, 2, (n, m)).astype(np.float32)
        for got, wanted in zip(module(x), run_graph(import_model(proto, shapes={"x": x.shape}), [x]), strict=True):
            np.testing.assert_array_equal(got, wanted, f"{n} x {m}")


def test_boxes_of_open_number(tmp_path: Path) -> None:
    proto = model(
        [node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["y"])],
        [value("boxes", "n", "k", 4), value("scores", "n", 2, "k")], [unknown("y", I64)],
        {"most": np.array([4]), "overlap": np.float32([0.4]), "least": np.float32([0.3])},
    )
    compile(proto, cache=False, name="nms", jobs=1).save(tmp_path)
    module = Module(tmp_path)
    for n, k in ((1, 1), (2, 30), (3, 9)):
        corner = RNG.random((n, k, 2))
        boxes = np.concatenate([corner, corner + RNG.random((n, k, 2)) / 2], 2).astype(np.float32)
        scores = RNG.random((n, 2, k)).astype(np.float32)
        shapes = {"boxes": boxes.shape, "scores": scores.shape}
        (wanted,) = run_graph(import_model(proto, shapes=shapes), [boxes, scores])
        np.testing.assert_array_equal(module(boxes, scores)[0], wanted)
