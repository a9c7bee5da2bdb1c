"""Meanings that changed between opsets, channels-last import, and details that the standard's own tests leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from frontend.onnx_models import check_reference, draw, model, node, ops, run, value
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import ModelError


def one(n: onnx.NodeProto, *shape: int, opset: int, constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    return model([n], [value("x", *shape)], list(n.output), constants, opset)


def softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    e = np.exp(x - x.max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


X = draw(2, 3, 4)
INTS = {"one": np.array([1]), "two": np.array([2]), "three": np.array([3]), "minus": np.array([-1]), "parts": np.array([1, 2]),
        "low": np.float32(-0.5), "high": np.float32(0.5), "shape": np.array([2, 12]), "k": np.array([2])}  # fmt: skip


@pytest.mark.parametrize(
    ("n", "opset", "expected"),
    [
        (node("Softmax", ["x"], ["y"]), 11, softmax(X, (1, 2))),
        (node("Softmax", ["x"], ["y"]), 13, softmax(X, (2,))),
        (node("LogSoftmax", ["x"], ["y"], axis=1), 12, np.log(softmax(X, (1, 2)))),
        (node("LogSoftmax", ["x"], ["y"], axis=1), 13, np.log(softmax(X, (1,)))),
        (node("Clip", ["x"], ["y"], min=-0.5), 10, np.maximum(X, np.float32(-0.5))),
        (node("Clip", ["x", "", "high"], ["y"]), 11, np.minimum(X, np.float32(0.5))),
        (node("Clip", ["x", "low", "high"], ["y"]), 13, np.clip(X, -0.5, 0.5)),
        (node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=0), 11, X.sum(1)),
        (node("ReduceSum", ["x", "one"], ["y"]), 13, X.sum(1, keepdims=True)),
        (node("ReduceMax", ["x"], ["y"], axes=[-1]), 13, X.max(2, keepdims=True)),
        (node("ReduceMax", ["x", "minus"], ["y"], keepdims=0), 18, X.max(2)),
        (node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1), 18, X),
        (node("Unsqueeze", ["x"], ["y"], axes=[0, -1]), 11, X[None, ..., None]),
        (node("Unsqueeze", ["x", "one"], ["y"]), 13, X[:, None]),
        (node("Slice", ["x"], ["y"], axes=[1], starts=[1], ends=[9]), 9, X[:, 1:]),
        (node("Slice", ["x", "one", "three", "two"], ["y"]), 10, X[:, :, 1:3]),
        (node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0]), 7, X.repeat(2, 2)),
        (node("Flatten", ["x"], ["y"], axis=-1), 11, X.reshape(6, 4)),
        (node("Reshape", ["x", "shape"], ["y"]), 5, X.reshape(2, 12)),
        (node("Pad", ["x"], ["y"], pads=[0, 1, 0, 0, 0, -1]), 2, np.pad(X, ((0, 0), (1, 0), (0, 0)))[..., :3]),
        (node("TopK", ["x"], ["y", "i"], k=2), 9, -np.sort(-X, -1)[..., :2]),
        (node("TopK", ["x", "k"], ["y", "i"], largest=0), 11, np.sort(X, -1)[..., :2]),
    ],
)  # fmt: skip
def test_opset_variants(n: onnx.NodeProto, opset: int, expected: np.ndarray) -> None:
    used = {name: INTS[name] for name in n.input if name in INTS}
    got = run(model([n], [value("x", 2, 3, 4)], ["y"], used, opset), X)[0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [2, 12, 13, 18])
def test_split(opset: int) -> None:
    if opset < 13:
        n = node("Split", ["x"], ["a", "b"], axis=1, split=[1, 2])
    else:
        n = node("Split", ["x", "parts"], ["a", "b"], axis=1)
    a, b = run(model([n], [value("x", 2, 3, 4)], ["a", "b"], {"parts": INTS["parts"]} if opset >= 13 else {}, opset), X)
    np.testing.assert_array_equal(a, X[:, :1])
    np.testing.assert_array_equal(b, X[:, 1:])


def test_dropout_gives_its_mask_in_the_type_of_its_opset() -> None:
    for opset, dtype in ((7, np.float32), (10, np.bool_), (13, np.bool_)):
        y, mask = run(one(node("Dropout", ["x"], ["y", "mask"]), 2, 3, 4, opset=opset), X)
        assert mask.dtype == dtype and mask.all()
        np.testing.assert_array_equal(y, X)


def test_statistics_of_the_batch() -> None:
    names = [f"p{i}" for i in range(4)]
    n = node("BatchNormalization", ["x", *names], ["y", "m", "v"], training_mode=1, momentum=0.75)
    y, mean, var = run(one(n, 2, 3, 4, opset=15, constants={p: np.ones(3, np.float32) for p in names}), X)
    own_mean, own_var = X.mean((0, 2)), X.var((0, 2))
    np.testing.assert_allclose(mean, 0.75 + 0.25 * own_mean, rtol=1e-5)
    np.testing.assert_allclose(var, 0.75 + 0.25 * own_var, rtol=1e-5)
    expected = (X - own_mean[:, None]) / np.sqrt(own_var[:, None] + 1e-5) + 1
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_mixed_types_of_pow() -> None:
    x = np.array([4, 9, 2], np.int32)
    m = model([node("Pow", ["x", "e"], ["y"])], [value("x", 3, dtype=onnx.TensorProto.INT32)], [value("y", 3)],
              {"e": np.array([0.5, 0.5, 2], np.float32)})  # fmt: skip
    (y,) = run(m, x)
    assert y.dtype == np.int32 and y.tolist() == [2, 3, 4]
    halves = model([node("Pow", ["x", "e"], ["y"])], [value("x", 2)], ["y"], {"e": np.array(2)})
    np.testing.assert_array_equal(run(halves, np.array([1.5, 3], np.float32))[0], [2.25, 9])


def test_softplus_keeps_small_results() -> None:
    x = np.array([-80, -30, -1, 0, 1, 30, 200], np.float32)
    (y,) = run(one(node("Softplus", ["x"], ["y"]), 7, opset=21), x)
    np.testing.assert_allclose(y, np.logaddexp(x.astype(np.float64), 0), rtol=1e-6)


# ---- convolution and pooling: every padding rule ----


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("rank", "stride", "dilation", "group"), [(1, 2, 1, 1), (2, 1, 2, 2), (2, 3, 1, 4), (3, 2, 1, 1)])
def test_conv_matches_the_reference(auto_pad: str, rank: int, stride: int, dilation: int, group: int) -> None:
    pads = {"pads": [1, 0, 2][:rank] + [2, 1, 0][:rank]} if auto_pad == "NOTSET" else {}
    n = node("Conv", ["x", "w", "b"], ["y"], strides=[stride] * rank, dilations=[dilation] * rank, group=group,
             auto_pad=auto_pad, **pads)  # fmt: skip
    constants = {"w": draw(4, 4 // group, *[3] * rank), "b": draw(4, seed=1)}
    x = draw(2, 4, *[7] * rank, seed=2)
    check_reference(one(n, *x.shape, opset=21, constants=constants), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "attributes", [{}, {"ceil_mode": 1}, {"auto_pad": "SAME_UPPER"}, {"pads": [1, 0, 0, 1], "ceil_mode": 1}]
)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "padded AveragePool"])
def test_pooling_matches_the_reference(op: str, attributes: dict[str, Any]) -> None:
    extra = {"count_include_pad": 1} if op.startswith("padded") else {}
    n = node(op.split()[-1], ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 2], **attributes, **extra)
    x = draw(1, 3, 8, 7)
    check_reference(one(n, *x.shape, opset=21), x)


def test_ceil_mode_with_symbolic_sizes() -> None:
    n = node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)
    m = model([n], [value("x", 1, 2, "h", "w")], ["y"])
    graph = import_model(m)
    for shape in ((1, 2, 6, 9), (1, 2, 7, 4)):
        x = draw(*shape)
        np.testing.assert_array_equal(run(graph, x)[0], run(m, x, shapes={"x": shape})[0])


def test_weights_are_laid_out_while_importing() -> None:
    n = node("Conv", ["x", "w"], ["y"])
    graph = import_model(one(n, 1, 2, 5, 5, opset=21, constants={"w": draw(8, 2, 3, 3)}))
    assert ops(graph) == ["Transpose", "Conv", "Transpose"]
    assert str(graph.nodes[1].inputs[1].type) == "f32[3, 3, 2, 8]"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"kernel_shape": [2, 2]}, r"'kernel_shape' is \[2, 2\], but the weights are f32\[4, 2, 3, 3\]"),
        ({"strides": [1]}, "'strides' must have 2 numbers"),
        ({"pads": [1, 1]}, "'pads' must have 4 numbers"),
        ({"auto_pad": "SAME"}, "'auto_pad' must be one of"),
        ({"group": 3}, "3 groups"),
        ({"strides": [0, 1]}, "'strides' must have 2 numbers of at least 1"),
        ({"dilations": [9, 1]}, "does not fit"),
    ],
)
def test_wrong_convolutions(attributes: dict[str, Any], message: str) -> None:
    m = one(node("Conv", ["x", "w"], ["y"], **attributes), 1, 2, 5, 5, opset=21, constants={"w": draw(4, 2, 3, 3)})
    with pytest.raises(ModelError, match=message):
        import_model(m)


# ---- others ----


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]), ("bij,bjk", [(2, 3, 4), (2, 4, 5)]), ("ii->i", [(3, 3)]), ("ii", [(3, 3)]),
        ("...ij,...kj->...ik", [(2, 1, 3, 4), (5, 6, 4)]), ("ijk->k", [(2, 3, 4)]), ("i,j->ij", [(2,), (3,)]),
        ("ij,ij->", [(2, 3), (2, 3)]), ("bhqd,bhkd->bhqk", [(1, 2, 3, 4), (1, 2, 5, 4)]), ("ab,cb->", [(2, 3), (4, 3)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), (" i j -> j i ", [(2, 3)]), ("ijj,j->i", [(2, 3, 3), (3,)]),
    ],
)  # fmt: skip
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = [value(n, *s) for n, s in zip(names, shapes, strict=True)]
    m = model([node("Einsum", names, ["y"], equation=equation)], inputs, ["y"])
    arrays = [draw(*s, seed=i) for i, s in enumerate(shapes)]
    np.testing.assert_allclose(run(m, *arrays)[0], np.einsum(equation.replace(" ", ""), *arrays), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "i->i", "ij->iz", "ij->ii"])
def test_wrong_equations(equation: str) -> None:
    with pytest.raises(ModelError, match="equation"):
        import_model(one(node("Einsum", ["x"], ["y"], equation=equation), 2, 3, opset=21))


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
def test_recurrent_layers(op: str, direction: str, layout: int) -> None:
    """Against one step after the other in NumPy, with biases, initial states and shorter sequences."""
    gates, t, n, i, h = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 4, 3, 2, 5
    d = 2 if direction == "bidirectional" else 1
    w, r, bias = draw(d, gates * h, i), draw(d, gates * h, h, seed=1), draw(d, 2 * gates * h, seed=2)
    x, h0, c0 = draw(t, n, i, seed=3), draw(d, n, h, seed=4), draw(d, n, h, seed=5)
    lengths = np.array([4, 2, 3], np.int32)
    states = ["h0", "c0"] if op == "LSTM" else ["h0"]
    outputs = ["y", "yh", "yc"] if op == "LSTM" else ["y", "yh"]
    n_op = node(op, ["x", "w", "r", "b", "lengths", *states], outputs, hidden_size=h, direction=direction, layout=layout)
    swap = (lambda a: a.swapaxes(0, 1)) if layout else (lambda a: a)
    constants = {"w": w, "r": r, "b": bias, "lengths": lengths, "h0": swap(h0), "c0": swap(c0)}
    m = model([n_op], [value("x", *swap(x).shape)], outputs, {k: v for k, v in constants.items() if k in n_op.input})
    got = run(m, swap(x))
    ys, hs, cs = np.zeros((t, d, n, h)), np.zeros((d, n, h)), np.zeros((d, n, h))
    for k in range(d):
        backward = direction == "reverse" or k == 1
        for b in range(n):
            hidden, cell = h0[k, b].astype(np.float64), c0[k, b].astype(np.float64)
            for step in range(lengths[b]):
                at = lengths[b] - 1 - step if backward else step
                hidden, cell = cell_step(op, x[at, b], hidden, cell, w[k], r[k], bias[k])
                ys[at, k, b] = hidden
            hs[k, b], cs[k, b] = hidden, cell
    expected = [ys.transpose(2, 0, 1, 3) if layout else ys, swap(hs), swap(cs)]
    for a, e in zip(got, expected, strict=False):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


def cell_step(op: str, x: Any, h: Any, c: Any, w: Any, r: Any, bias: Any) -> tuple[Any, Any]:
    """One step of ONNX's equations for one sequence: new h and c."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    wb, rb = np.split(bias, 2)
    wx, rh = w @ x + wb, r @ h + rb
    if op == "RNN":
        return np.tanh(wx + rh), c
    if op == "GRU":
        (xz, xr, xh), (hz, hr, _) = np.split(wx, 3), np.split(rh, 3)
        z, reset = sigmoid(xz + hz), sigmoid(xr + hr)
        new = np.tanh(xh + np.split(r, 3)[2] @ (reset * h) + np.split(rb, 3)[2])
        return (1 - z) * new + z * h, c
    i, o, f, g = np.split(wx + rh, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("mask_type", ["bool", "float", None])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_masks_that_hide_everything(mask_type: str | None, causal: int) -> None:
    """A query that sees no key gives zeros."""
    q, k, v = draw(1, 2, 4, 3), draw(1, 2, 4, 3, seed=1), draw(1, 2, 4, 3, seed=2)
    seen = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], bool)
    mask = np.where(seen, np.float32(0), -np.inf).astype(np.float32) if mask_type == "float" else seen
    inputs = ["q", "k", "v"] + (["mask"] if mask_type else [])
    n = node("Attention", inputs, ["y"], is_causal=causal)
    constants = {"k": k, "v": v, **({"mask": mask} if mask_type else {})}
    (y,) = run(model([n], [value("q", *q.shape)], ["y"], constants, 23), q)
    visible = (seen if mask_type else np.ones((4, 4), bool)) & (np.tril(np.ones((4, 4), bool)) if causal else True)
    scores = np.where(visible, q @ k.swapaxes(2, 3) / np.sqrt(3), -np.inf)
    weights = np.exp(scores - np.where(visible.any(-1), scores.max(-1), 0)[..., None])
    total = weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(y, weights / np.where(total == 0, 1, total) @ v, rtol=1e-4, atol=1e-5)


def test_resize_by_sizes_that_follow_from_the_input() -> None:
    """What exporters write for interpolate(x, scale_factor=2) of a dynamic image."""
    nodes = [
        node("Shape", ["x"], ["s"], start=2), node("Mul", ["s", "two"], ["t"]), node("Shape", ["x"], ["nc"], end=2),
        node("Concat", ["nc", "t"], ["sizes"], axis=0),
        node("Resize", ["x", "", "", "sizes"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]  # fmt: skip
    m = model(nodes, [value("x", "n", 2, "h", "w")], ["y"], {"two": np.array([2])})
    graph = import_model(m)
    x = draw(1, 2, 3, 4)
    assert str(graph.outputs[0].type) == "f32[n, 2, h*2, w*2]"
    np.testing.assert_array_equal(run(graph, x)[0], x.repeat(2, 2).repeat(2, 3))
    linear = node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear")
    m = model([*nodes[:-1], linear], [value("x", "n", 2, "h", "w")], ["y"], {"two": np.array([2])})
    fixed = import_model(m, shapes={"x": x.shape})
    np.testing.assert_allclose(run(import_model(m), x)[0], run(fixed, x)[0], rtol=1e-5, atol=1e-6)


def test_one_hot_and_range_with_symbolic_sizes() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=1), node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
        node("OneHot", ["i", "s", "values"], ["y"]),
    ]  # fmt: skip
    m = model(nodes, [value("x", "n", "k")], ["y"], {"values": np.array([0, 1], np.float32)})
    x = draw(3, 5)
    np.testing.assert_array_equal(run(m, x)[0], np.eye(5, dtype=np.float32)[x.argmax(1)])


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_norm_pooling(p: int) -> None:
    (y,) = run(one(node("GlobalLpPool", ["x"], ["y"], p=p), 2, 3, 4, opset=22), X)
    np.testing.assert_allclose(y, (np.abs(X) ** p).sum(2, keepdims=True) ** (1 / p), rtol=1e-5)


def test_scatter_is_that_of_elements() -> None:
    at, new = np.array([[[0, 3]]]), np.array([[[7, 8]]], np.float32)
    (y,) = run(one(node("Scatter", ["x", "at", "new"], ["y"], axis=2), 2, 3, 4, opset=9, constants={"at": at, "new": new}), X)
    expected = X.copy()
    expected[0, 0, [0, 3]] = 7, 8
    np.testing.assert_array_equal(y, expected)


def test_sequences_and_optionals_that_are_known() -> None:
    nodes = [
        node("SequenceEmpty", [], ["none"]), node("SequenceInsert", ["none", "x"], ["one"]),
        node("Neg", ["x"], ["n"]), node("SequenceConstruct", ["x", "n"], ["two"]), node("SequenceLength", ["two"], ["length"]),
        node("SequenceErase", ["two", "zero"], ["rest"]), node("SequenceAt", ["rest", "zero"], ["y"]),
        node("Optional", ["x"], ["maybe"]), node("OptionalHasElement", ["maybe"], ["has"]),
        node("OptionalGetElement", ["maybe"], ["z"]), node("ConcatFromSequence", ["one"], ["c"], axis=0),
    ]  # fmt: skip
    m = model(nodes, [value("x", 2, 3, 4)], ["y", "z", "c", "length", "has"], {"zero": np.array(0)})
    y, z, c, length, has = run(m, X)
    np.testing.assert_array_equal(y, -X)
    np.testing.assert_array_equal(z, X)
    np.testing.assert_array_equal(c, X)
    assert length == 2 and has
