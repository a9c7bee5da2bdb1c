"""Random operators: the same numbers on every run and in compiled code, of the distribution that is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper
from tilewright.compiler.onnx_backend import CpuBackend, InterpreterBackend

N = 20_000


def model(op: str, inputs: dict[str, np.ndarray], outputs: str = "y", **attributes: Any) -> onnx.ModelProto:
    """Operands that are scalars are constants."""
    fixed = {n: a for n, a in inputs.items() if not a.ndim}
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), outputs.split(), **attributes)], "m",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
         if n not in fixed],
        [helper.make_tensor_value_info(n, T.UNDEFINED, None) for n in outputs.split()],
        [onnx.numpy_helper.from_array(a, n) for n, a in fixed.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def run(op: str, outputs: str = "y", inputs: dict[str, np.ndarray] | None = None, **attributes: Any) -> tuple[np.ndarray, ...]:
    m = model(op, inputs or {}, outputs, **attributes)
    arrays = [a for a in (inputs or {}).values() if a.ndim]
    expected = InterpreterBackend.prepare(m).run(arrays)
    for a, e in zip(CpuBackend.prepare(m).run(arrays), expected, strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(e, np.float64), rtol=1e-5, atol=1e-5)
    return expected


def moments(x: np.ndarray, mean: float, deviation: float) -> None:
    wide = x.astype(np.float64)
    assert abs(wide.mean() - mean) < 5 * deviation / N**0.5
    assert abs(wide.std() / deviation - 1) < 0.03
    assert abs(np.corrcoef(wide.reshape(-1)[:-1], wide.reshape(-1)[1:])[0, 1]) < 0.03


def test_uniform() -> None:
    (x,) = run("RandomUniform", shape=[100, N // 100], low=-1.0, high=3.0, seed=7.0)
    assert x.dtype == np.float32 and x.min() >= -1 and x.max() < 3
    moments(x, 1, 4 / 12**0.5)
    np.testing.assert_array_equal(run("RandomUniform", shape=[100, N // 100], low=-1.0, high=3.0, seed=7.0)[0], x)
    (y,) = run("RandomUniform", shape=[100, N // 100], low=-1.0, high=3.0, seed=8.0)
    assert abs(np.corrcoef(x.reshape(-1), y.reshape(-1))[0, 1]) < 0.03


@pytest.mark.parametrize(("dtype", "code"), [(np.float32, T.FLOAT), (np.float64, T.DOUBLE), (np.float16, T.FLOAT16)])
def test_normal(dtype: type, code: int) -> None:
    (x,) = run("RandomNormal", shape=[N], mean=2.0, scale=0.5, dtype=code)
    assert x.dtype == dtype
    moments(x, 2, 0.5)
    assert 0.6 < (np.abs(x.astype(np.float64) - 2) < 0.5).mean() < 0.76


def test_like_other_tensors() -> None:
    x = np.zeros((4, N // 4), np.float16)
    (u,) = run("RandomUniformLike", inputs={"x": x}, seed=1.0)
    (n,) = run("RandomNormalLike", inputs={"x": x}, dtype=T.FLOAT)
    assert u.dtype == np.float16 and n.dtype == np.float32 and u.shape == n.shape == x.shape
    moments(n, 0, 1)


def test_bernoulli() -> None:
    p = np.repeat(np.array([0.0, 0.25, 0.9, 1.0], np.float32), N // 4)
    (x,) = run("Bernoulli", inputs={"p": p}, dtype=T.BOOL, seed=3.0)
    np.testing.assert_allclose(x.reshape(4, -1).mean(1), [0, 0.25, 0.9, 1], atol=0.02)


def test_multinomial() -> None:
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], np.float32)
    with np.errstate(divide="ignore"):
        logs = np.log(p)
    (x,) = run("Multinomial", inputs={"x": logs}, sample_size=N, dtype=T.INT64, seed=1.0)
    for row, shares in zip(x, p, strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / N, shares, atol=0.02)


@pytest.mark.parametrize("ratio", [None, 0.0, 0.75])
def test_dropout_in_training(ratio: float | None) -> None:
    x = np.ones((100, N // 100), np.float32)
    given = {} if ratio is None else {"ratio": np.array(ratio, np.float32)}
    operands = {"x": x, **given} if given else {"x": x, "ratio": np.array(0.5, np.float32)}
    y, kept = run("Dropout", "y kept", {**operands, "training": np.array(True)}, seed=5)
    share = 1 - (0.5 if ratio is None else ratio)
    assert abs(kept.mean() - share) < 0.02
    np.testing.assert_allclose(y, kept / np.float32(share), rtol=1e-6)
