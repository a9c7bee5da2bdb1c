"""Operators of ai.onnx.ml against the standard's reference, and against formulas where that has none."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from frontend.onnx_models import F64, I64, check_reference, draw, model, node, run, value
from tilewright import compile
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


def machine(classes: int, kernel: str, seed: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = [3 + k for k in range(classes)]
    pairs = classes * (classes - 1) // 2
    return {
        "kernel_type": kernel, "kernel_params": [0.3, 0.5, 2.0], "vectors_per_class": sizes,
        "rho": rng.normal(size=pairs).tolist(),
        "support_vectors": rng.normal(size=sum(sizes) * 5).tolist(),
        "coefficients": rng.normal(size=(classes - 1) * sum(sizes)).tolist(),
    }  # fmt: skip


def comparisons(x: np.ndarray, a: dict[str, Any]) -> np.ndarray:
    """The score of every pair of classes, one row and one vector after the other."""
    sizes, vectors = a["vectors_per_class"], np.reshape(a["support_vectors"], (-1, 5))
    gamma, offset, degree = a["kernel_params"]
    kernels = {
        "LINEAR": lambda u, v: u @ v, "POLY": lambda u, v: (gamma * (u @ v) + offset) ** degree,
        "SIGMOID": lambda u, v: np.tanh(gamma * (u @ v) + offset), "RBF": lambda u, v: np.exp(-gamma * ((u - v) ** 2).sum()),
    }  # fmt: skip
    coefficients = np.reshape(a["coefficients"], (len(sizes) - 1, -1))
    own = np.repeat(np.arange(len(sizes)), sizes)
    scores = []
    for row in x:
        k = np.array([kernels[a["kernel_type"]](row, v) for v in vectors])
        pairs = [(i, j) for i in range(len(sizes)) for j in range(i + 1, len(sizes))]
        scores.append([
            (coefficients[j - 1] * k)[own == i].sum() + (coefficients[i] * k)[own == j].sum() + r
            for (i, j), r in zip(pairs, a["rho"], strict=True)
        ])  # fmt: skip
    return np.array(scores)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("classes", [2, 4])
def test_machines_compare_classes(classes: int, kernel: str) -> None:
    a = machine(classes, kernel)
    labels = [5, 3, 9, 7][:classes]
    x = draw(12, 5)
    label, score = run(one("SVMClassifier", 2, classlabels_ints=labels, **a), x)
    expected = comparisons(x, a)
    votes = np.zeros((12, classes))
    for p, (i, j) in enumerate(itertools.combinations(range(classes), 2)):
        votes[:, i] += expected[:, p] > 0
        votes[:, j] += expected[:, p] <= 0
    np.testing.assert_array_equal(label, np.array(labels)[votes.argmax(1)])
    wanted = np.concatenate([-expected, expected], 1) if classes == 2 else expected
    np.testing.assert_allclose(score, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_of_machines(classes: int) -> None:
    """They are the minimum that they are defined as, up to the error at which the iteration stops."""
    a = machine(classes, "RBF")
    pairs = classes * (classes - 1) // 2
    slopes, offsets = (-0.5 - abs(draw(pairs))).tolist(), draw(pairs).tolist()
    x = draw(12, 5)
    m = one("SVMClassifier", 2, classlabels_ints=list(range(classes)), prob_a=slopes, prob_b=offsets, **a)
    score = run(m, x)[1].astype(np.float64)
    np.testing.assert_allclose(score.sum(1), 1, rtol=1e-5)
    share = 1 / (1 + np.exp(comparisons(x, a) * slopes + offsets))
    for n, p in enumerate(score):
        r = np.zeros((classes, classes))
        r[np.triu_indices(classes, 1)] = share[n]
        r += np.tril(1 - r.T, -1)
        q = np.diag((r**2).sum(0)) - r * r.T
        assert abs(q @ p - p @ q @ p).max() < 0.005 / classes + 1e-5


@pytest.mark.parametrize(("attributes", "message"), [
    ({**machine(2, "RBF"), "post_transform": "SOFTMAX"}, "runtimes disagree"),
    ({"coefficients": [1.0] * 10, "rho": [0.5]}, "use LinearClassifier"),
    ({**machine(2, "RBF"), "rho": [0.5, 0.5]}, "2 entries for 1 pairs"),
])  # fmt: skip
def test_machines_that_are_refused(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run(one("SVMClassifier", 2, classlabels_ints=[0, 1], **attributes), draw(12, 5))


def test_deep_and_wide_trees() -> None:
    """Chains beside small trees, outputs of one each and of several; a feature that no row has."""
    small = forest(40, 3, ["BRANCH_LT"])
    chain = {k: list(v) for k, v in forest(2, 1, ["BRANCH_LEQ"]).items()}
    for _ in range(30):  # the first leaf of the first tree becomes a test, again and again
        first = [i for i, t in enumerate(chain["nodes_treeids"]) if t == 0]
        leaf = next(i for i in first if chain["nodes_modes"][i] == "LEAF")
        last = max(chain["nodes_nodeids"][i] for i in first)
        chain["nodes_modes"][leaf], chain["nodes_values"][leaf] = "BRANCH_GT", 0.1 * last - 1
        chain["nodes_truenodeids"][leaf], chain["nodes_falsenodeids"][leaf] = last + 1, last + 2
        for n in (last + 1, last + 2):
            for key, entry in zip(chain, (0, n, n % 5, "LEAF", 0.0, 0, 0, 0), strict=True):
                chain[key].append(entry)
    for key, column in small.items():
        chain[key] += [t + 2 for t in column] if key == "nodes_treeids" else column
    nodes = zip(chain["nodes_treeids"], chain["nodes_nodeids"], chain["nodes_modes"], strict=True)
    ends = [(t, n) for t, n, mode in nodes if mode == "LEAF"]
    weights = np.random.default_rng(3).normal(size=len(ends)).tolist()
    for ids in ([t % 3 for t, _ in ends], [n % 3 for _, n in ends]):
        attributes = {"target_treeids": [t for t, _ in ends], "target_nodeids": [n for _, n in ends], "target_ids": ids,
                      "target_weights": weights, "n_targets": 3}  # fmt: skip
        m = one("TreeEnsembleRegressor", **chain, **attributes)
        check_reference(m, X)
        (y,) = compile(m, cache=False).load()(X)
        np.testing.assert_allclose(y, run(m, X)[0], rtol=1e-5, atol=1e-6)
    chain["nodes_featureids"] = [f + 2**28 for f in chain["nodes_featureids"]]
    n = node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **chain, **attributes)
    with pytest.raises(ModelError, match="outside of f32"):
        run(model([n], [value("x", 12, 5)], ["y"], domains=DOMAINS), X)
