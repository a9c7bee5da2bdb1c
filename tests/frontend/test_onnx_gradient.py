"""Gradients against differences of the model's own values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from frontend.onnx_models import F64, model, node, run, unknown, value
from tilewright.ir.errors import ModelError

TRAINING = "ai.onnx.preview.training"
AT = np.random.default_rng(2).uniform(0.2, 0.8, (3, 4))
OTHER = np.random.default_rng(3).uniform(1.2, 1.9, (3, 4))


def derived(nodes: list[onnx.NodeProto], constants: dict[str, Any], xs: tuple[str, ...] = ("x", "z")) -> onnx.ModelProto:
    """The nodes make y from x and z; outputs y and its gradients."""
    last = node("Gradient", list(xs), [f"d{x}" for x in xs], domain=TRAINING, xs=list(xs), y="y")
    outputs = [unknown(name, F64) for name in ("y", *(f"d{x}" for x in xs))]
    inputs = [value("x", 3, 4, dtype=F64), value("z", 3, 4, dtype=F64)]
    return model([*nodes, last], inputs, outputs, constants, domains={TRAINING: 1}, opset=20)


def differences(m: onnx.ModelProto, k: int) -> np.ndarray:
    """Of the sum of y by each element of operand k."""
    step, made = 1e-6, np.zeros_like(AT)
    for place in np.ndindex(AT.shape):
        ends = []
        for sign in (1, -1):
            operands = [AT.copy(), OTHER.copy()]
            operands[k][place] += sign * step
            ends.append(run(m, *operands)[0].sum())
        made[place] = (ends[0] - ends[1]) / (2 * step)
    return made


FUNCTIONS = ("Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Tanh", "Sigmoid", "Sin", "Cos", "Tan", "Sinh", "Cosh",
             "Asin", "Acos", "Atan", "Asinh", "Atanh", "Softplus", "Gelu", "Elu", "Mish")  # fmt: skip
GRAPHS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    **{f: ([node(f, ["x"], ["f"]), node("Mul", ["f", "z"], ["y"])], {}) for f in FUNCTIONS},
    **{f: ([node(f, ["x", "z"], ["y"])], {}) for f in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")},
    "Acosh": ([node("Acosh", ["z"], ["f"]), node("Mul", ["f", "x"], ["y"])], {}),
    "broadcast": ([node("Add", ["x", "c"], ["s"]), node("Mul", ["s", "z"], ["m"]), node("Div", ["m", "c"], ["y"])],
                  {"c": np.array([[2.0], [3.0], [4.0]])}),
    "product": ([node("Transpose", ["z"], ["t"]), node("MatMul", ["x", "t"], ["p"]), node("Mul", ["p", "p"], ["y"])], {}),
    "softmax": ([node("Softmax", ["x"], ["s"], axis=0), node("Mul", ["s", "z"], ["m"]), node("ReduceSum", ["m"], ["y"])], {}),
    "norm": ([node("LayerNormalization", ["x", "g"], ["n"]), node("Mul", ["n", "z"], ["y"])], {"g": np.arange(1.0, 5.0)}),
    "movement": ([
        node("Slice", ["x", "starts", "ends"], ["s"]), node("Pad", ["s", "pads"], ["p"]),
        node("Concat", ["p", "z"], ["c"], axis=1), node("Reshape", ["c", "shape"], ["r"]), node("Mul", ["r", "r"], ["m"]),
        node("ReduceMean", ["m", "axes"], ["y"]),
    ], {"starts": np.array([1, 0]), "ends": np.array([3, 2]), "pads": np.array([0, 1, 1, 0]), "shape": np.array([3, 7]),
        "axes": np.array([0])}),
    "log-softmax": ([node("LogSoftmax", ["x"], ["s"], axis=1), node("Mul", ["s", "z"], ["y"])], {}),
    "choice": ([node("Less", ["x", "c"], ["b"]), node("Where", ["b", "x", "z"], ["w"]), node("Mul", ["w", "x"], ["y"])],
               {"c": np.array(0.5)}),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_gradients(name: str) -> None:
    m = derived(*GRAPHS[name])
    _, *made = run(m, AT, OTHER)
    for k, got in enumerate(made):
        np.testing.assert_allclose(got, differences(m, k), rtol=1e-5, atol=1e-6)


def test_gradients_of_gradients() -> None:
    """x^3 twice."""
    first = node("Gradient", ["x"], ["d"], domain=TRAINING, xs=["x"], y="c")
    nodes = [node("Mul", ["x", "x"], ["s"]), node("Mul", ["s", "x"], ["c"]), first, node("Mul", ["d", "z"], ["y"])]
    y, dx, dz = run(derived(nodes, {}), AT, OTHER)
    np.testing.assert_allclose(y, 3 * AT**2 * OTHER)
    np.testing.assert_allclose(dx, 6 * AT * OTHER)
    np.testing.assert_allclose(dz, 3 * AT**2)


def test_gradients_elsewhere() -> None:
    """The operands of the node need not be the values that y was computed from."""
    last = node("Gradient", ["z"], ["dx"], domain=TRAINING, xs=["x"], y="y")
    m = model([node("Exp", ["x"], ["y"]), last], [value("x", 3, 4, dtype=F64), value("z", 3, 4, dtype=F64)],
              [unknown("dx", F64)], domains={TRAINING: 1})  # fmt: skip
    np.testing.assert_allclose(run(m, AT, OTHER)[0], np.exp(OTHER))


@pytest.mark.parametrize(("nodes", "constants", "message"), [
    ([node("CumSum", ["x", "a"], ["y"])], {"a": np.array(0)}, "no rule for the gradient of CumSum"),
    ([node("ReduceMax", ["x"], ["y"])], {}, "no rule for the gradient of the reduction max"),
    ([node("Mod", ["x", "z"], ["y"], fmod=1)], {}, "no rule for the gradient of the function fmod"),
])  # fmt: skip
def test_what_has_no_gradient_is_refused(nodes: list[onnx.NodeProto], constants: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run(derived(nodes, constants), AT, OTHER)
