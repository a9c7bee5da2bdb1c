"""Operators of ai.onnx.ml against the standard's reference, and against formulas where that has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from frontend.onnx_models import F64, I64, check_reference, draw, model, node, run, value
from tilewright.ir.errors import ModelError

DOMAINS = {"ai.onnx.ml": 3}
X = draw(12, 5)
X[3, 1] = np.nan


def one(op: str, outputs: int = 1, version: int = 3, dtype: int = 1, **attributes: Any) -> Any:
    names = ["y", "z"][:outputs]
    n = node(op, ["x"], names, domain="ai.onnx.ml", **attributes)
    results = [value("y", dtype=I64), "z"] if outputs == 2 else ["y"]
    if outputs == 2:
        results[0].type.tensor_type.ClearField("shape")
    return model([n], [value("x", 12, 5, dtype=dtype)], results, domains={"ai.onnx.ml": version})


def forest(trees: int, depth: int, modes: list[str], missing: bool = True) -> dict[str, Any]:
    """Full binary trees with random tests."""
    rng = np.random.default_rng(7)
    inner, size = 2**depth - 1, 2 ** (depth + 1) - 1
    nodes = list(range(size))
    draws = [rng.integers(0, 5, size).tolist() for _ in range(trees)]
    return {
        "nodes_treeids": [t for t in range(trees) for _ in nodes],
        "nodes_nodeids": nodes * trees,
        "nodes_featureids": [f for d in draws for f in d],
        "nodes_modes": [modes[i % len(modes)] if i < inner else "LEAF" for _ in range(trees) for i in nodes],
        "nodes_values": rng.normal(0, 0.5, trees * size).tolist(),
        "nodes_truenodeids": [2 * i + 1 if i < inner else 0 for i in nodes] * trees,
        "nodes_falsenodeids": [2 * i + 2 if i < inner else 0 for i in nodes] * trees,
        "nodes_missing_value_tracks_true": rng.integers(0, 2, trees * size).tolist() if missing else [0] * trees * size,
    }


def leaves(prefix: str, trees: int, depth: int, outputs: int, low: float = -1) -> dict[str, Any]:
    rng = np.random.default_rng(8)
    ids = list(range(2**depth - 1, 2 ** (depth + 1) - 1))
    count = trees * len(ids)
    return {
        f"{prefix}_treeids": [t for t in range(trees) for _ in ids],
        f"{prefix}_nodeids": ids * trees,
        f"{prefix}_ids": [i % outputs for i in range(count)],
        f"{prefix}_weights": rng.uniform(low, 1, count).tolist(),
    }


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_NEQ"]


@pytest.mark.parametrize("modes", [["BRANCH_LEQ"], ["BRANCH_LT"], MODES])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_tree_regressors(modes: list[str], aggregate: str) -> None:
    attributes = {**forest(4, 3, modes), **leaves("target", 4, 3, 1), "aggregate_function": aggregate, "n_targets": 1}
    check_reference(one("TreeEnsembleRegressor", base_values=[0.25], **attributes), X)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize(("classes", "scored"), [(3, 3), (2, 2), (2, 1)])
def test_tree_classifiers(classes: int, scored: int, transform: str) -> None:
    attributes = {**forest(6, 2, ["BRANCH_LEQ"]), **leaves("class", 6, 2, scored), "post_transform": transform}
    labels = [5, 3, 9][:classes]
    check_reference(one("TreeEnsembleClassifier", 2, classlabels_int64s=labels, **attributes), X)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_linear_classifiers(transform: str) -> None:
    weights, bias = draw(3, 5), draw(3)
    m = one("LinearClassifier", 2, coefficients=weights.reshape(-1).tolist(), intercepts=bias.tolist(),
            classlabels_ints=[7, 0, 2], post_transform=transform, multi_class=1)  # fmt: skip
    check_reference(m, draw(12, 5))


def test_a_linear_classifier_with_one_row() -> None:
    m = one("LinearClassifier", 2, coefficients=draw(5).tolist(), intercepts=[0.1], classlabels_ints=[0, 1],
            post_transform="LOGISTIC")  # fmt: skip
    check_reference(m, draw(12, 5))


@pytest.mark.parametrize("norm", ["L1", "L2", "MAX"])
def test_normalizers(norm: str) -> None:
    x = draw(12, 5)
    x[4] = 0
    check_reference(one("Normalizer", norm=norm), x)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LinearRegressor", {"coefficients": draw(10).tolist(), "intercepts": [0.5, -1.0], "targets": 2}),
        ("Scaler", {"offset": draw(5).tolist(), "scale": [0.5, 2.0, 1.0, -1.0, 3.0]}),
        ("Scaler", {"offset": [0.5], "scale": [2.0]}),
        ("Imputer", {"imputed_value_floats": [9.0], "replaced_value_float": float("nan")}),
        ("Imputer", {"imputed_value_floats": [1.0, 2.0, 3.0, 4.0, 5.0], "replaced_value_float": float("nan")}),
        ("Binarizer", {"threshold": 0.25}),
        *(("SVMRegressor", {"kernel_type": kind, "kernel_params": [0.3, 0.5, 2.0], "n_supports": 4, "rho": [0.2],
                            "coefficients": draw(4).tolist(), "support_vectors": draw(20).tolist(), "one_class": one_class})
          for kind in ("LINEAR", "POLY", "RBF", "SIGMOID") for one_class in (0, 1)),
    ],
)  # fmt: skip
def test_rows_of_numbers(op: str, attributes: dict[str, Any]) -> None:
    check_reference(one(op, **attributes), X if op in ("Imputer", "Binarizer") else draw(12, 5))


def test_doubles_are_compared_in_doubles() -> None:
    """The threshold is a double that no f32 holds."""
    limit = 0.1 + 1e-12
    tree = {"nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0] * 3,
            "nodes_modes": ["BRANCH_LT", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
            "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "n_targets": 1}  # fmt: skip
    import onnx

    def tensor(name: str, *values: float) -> Any:
        return onnx.numpy_helper.from_array(np.array(values), name)

    m = one("TreeEnsembleRegressor", dtype=F64, nodes_values_as_tensor=tensor("values", limit, 0, 0),
            target_weights_as_tensor=tensor("weights", 1, 2), **tree)  # fmt: skip
    x = np.full((12, 5), 0.1)
    x[::2] = limit
    np.testing.assert_array_equal(run(m, x)[0][:2], [[2], [1]])


def test_encoders_of_numbers() -> None:
    x = np.array([[1, 5, 1], [7, 2, 9]], np.int64)
    n = node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_int64s=[1, 2, 7], values_floats=[0.5, 1.5, 2.5],
             default_float=-3.0)  # fmt: skip
    m = model([n], [value("x", 2, 3, dtype=I64)], ["y"], domains=DOMAINS)
    np.testing.assert_array_equal(run(m, x)[0], np.float32([[0.5, -3, 0.5], [2.5, 1.5, -3]]))
    n = node("OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", cats_int64s=[7, 1])
    m = model([n], [value("x", 2, 3, dtype=I64)], ["y"], domains=DOMAINS)
    check_reference(m, x)


def test_features_side_by_side() -> None:
    n = node("FeatureVectorizer", ["x", "w"], ["y"], domain="ai.onnx.ml", inputdimensions=[3, 4])
    check_reference(model([n], [value("x", 2, 5), value("w", 2, 2)], ["y"], domains=DOMAINS), draw(2, 5), draw(2, 2))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"nodes_truenodeids": [0, 0, 0]}, "lead back to themselves"),
        ({"nodes_falsenodeids": [9, 0, 0]}, "does not exist"),
        ({"nodes_featureids": [5, 0, 0]}, "feature outside"),
        ({"nodes_modes": ["BRANCH_LT", "LEAF"]}, "2 entries for 3 nodes"),
        ({"target_nodeids": [1, 8]}, "does not exist"),
        ({"target_ids": [0, 1]}, "more than 1 outputs"),
    ],
)
def test_trees_that_are_no_trees_are_refused(attributes: dict[str, Any], message: str) -> None:
    tree = {"nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0] * 3, "nodes_values": [0.5, 0.0, 0.0],
            "nodes_modes": ["BRANCH_LT", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
            "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0],
            "n_targets": 1}  # fmt: skip
    with pytest.raises(ModelError, match=message):
        run(one("TreeEnsembleRegressor", **{**tree, **attributes}), X)


def test_labels_that_are_strings() -> None:
    weights = draw(10).tolist()
    labels, scores = run(one("LinearClassifier", 2, coefficients=weights, classlabels_strings=["no", "yes"]), X)
    numbers, same = run(one("LinearClassifier", 2, coefficients=weights, classlabels_ints=[0, 1]), X)
    np.testing.assert_array_equal(labels, np.array(["no", "yes"], object)[numbers])
    np.testing.assert_array_equal(scores, same)
