"""Tree ensembles: from the attributes to `Trees`, and from the leaves that `ml_tree_walk` reaches to scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.reduce import Reduce
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op
from .ml_scores import DOMAIN, labels_of, numbers, transformed
from .ml_tree_walk import MODES, Trees, tree_of_nodes, walked

_MODES = (*MODES, "BRANCH_MEMBER")  # by number in TreeEnsemble
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_MOST_WEIGHTS = 2**26  # elements of the table of leaf weights
_MOST_COLUMNS = 64  # outputs that are summed on their own where each tree is about one of them


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ModelError(message)


def _sums(b: OnnxBuilder, x: Value, trees: Trees, aggregate: str, dtype: str) -> Value:
    """Leaf weights [N, K] over all trees."""
    _check(aggregate in _AGGREGATES, f"attribute 'aggregate_function' is {aggregate!r}, expected one of {_AGGREGATES}")
    fn = {"MIN": "min", "MAX": "max"}.get(aggregate, "sum")
    count = len(trees.roots)
    everything = np.arange(count)
    outputs = trees.weights.shape[1]
    of = _one_output_each(trees) if fn == "sum" and 1 < outputs <= _MOST_COLUMNS else None
    if of is None:
        total = _aggregated(b, x, trees, everything, slice(None), fn, dtype)
    else:
        columns = [_aggregated(b, x, trees, everything[of == k], slice(k, k + 1), fn, dtype) for k in range(outputs)]
        total = b.concat(columns, 1)
    return b.binary("div", total, count) if aggregate == "AVERAGE" else total


def _aggregated(
    b: OnnxBuilder, x: Value, trees: Trees, chosen: np.ndarray, outputs: slice, fn: str, dtype: str
) -> Value:
    """The weights of some outputs over some trees."""
    total = None
    for leaves, weights in walked(b, x, trees, chosen):
        found = b.gather(b.cast(b.constant(weights[:, outputs]), dtype), leaves, 0)  # [N, T, K]
        part = b.add(Reduce(fn, (1,), False), found)
        total = part if total is None else b.binary("add" if fn == "sum" else fn, total, part)
    if total is None:  # no tree is about this output
        return b.broadcast(b.scalar(0, dtype), (x.type.shape[0], 1))
    return total


def _one_output_each(trees: Trees) -> np.ndarray | None:
    """The only output that each tree has weights for; None if a tree has several."""
    root = tree_of_nodes(trees)
    node, output = np.nonzero(trees.weights)
    node, output = node[root[node] >= 0], output[root[node] >= 0]
    of = np.zeros(len(trees.roots), np.int64)
    of[root[node]] = output
    return of if bool((of[root[node]] == output).all()) else None


# ---- the form with node ids ----


def _by_ids(a: dict[str, Any], targets: str, count: int, fill: float) -> Trees:
    """targets: "class" or "target", the prefix of the attributes with the leaf weights."""
    tree, node = a["nodes_treeids"] or (), a["nodes_nodeids"] or ()
    size = len(tree)
    row = {key: i for i, key in enumerate(zip(tree, node, strict=False))}
    columns = {name: a[f"nodes_{name}"] or () for name in ("nodeids", "featureids", "truenodeids", "falsenodeids", "modes")}
    _check(size > 0 and len(row) == size, "the nodes of the trees are missing or named twice")
    for name, column in columns.items():
        _check(len(column) == size, f"attribute 'nodes_{name}' has {len(column)} entries for {size} nodes")
    modes = np.array([m if m != "LEAF" else "" for m in columns["modes"]], dtype=object)
    unknown = set(modes) - {*MODES, ""}
    _check(not unknown, f"attribute 'nodes_modes' has the unknown {sorted(unknown)}")
    inner = modes != ""
    here = np.arange(size)
    yes, no = (np.array([row.get((t, n), -1) for t, n in zip(tree, columns[name], strict=True)])
               for name in ("truenodeids", "falsenodeids"))  # fmt: skip
    _check(bool((yes[inner] >= 0).all() and (no[inner] >= 0).all()), "a node leads to one that does not exist")
    values = _floats(a, "nodes_values", size)
    missing = np.array(a["nodes_missing_value_tracks_true"] or (0,) * size, bool)
    _check(len(missing) == size, f"attribute 'nodes_missing_value_tracks_true' has {len(missing)} entries for {size} nodes")
    firsts: dict[int, int] = {}
    for i, t in enumerate(tree):
        firsts.setdefault(t, i)
    return Trees(
        np.where(inner, np.array(columns["featureids"]), 0), modes, np.where(inner, values, 0), missing & inner,
        np.where(inner, yes, here), np.where(inner, no, here), np.array([firsts[t] for t in sorted(firsts)]),
        _leaf_weights(a, targets, row, size, count, fill),
    )  # fmt: skip


def _floats(a: dict[str, Any], name: str, count: int) -> np.ndarray:
    """An attribute as numbers: as a tensor, or as f32."""
    tensor = a[f"{name}_as_tensor"]
    array = np.array(a[name] or (), np.float32) if tensor is None else tensor.reshape(-1)
    _check(len(array) == count, f"attribute {name!r} has {len(array)} entries, expected {count}")
    return array.astype(np.float64)


def _leaf_weights(a: dict[str, Any], targets: str, row: dict[Any, int], size: int, count: int, fill: float) -> np.ndarray:
    ids, trees, nodes = (a[f"{targets}_{part}"] or () for part in ("ids", "treeids", "nodeids"))
    given = _floats(a, f"{targets}_weights", len(ids))
    _check(len(trees) == len(nodes) == len(ids), f"the attributes '{targets}_...' differ in length")
    _check(all(0 <= i < count for i in ids), f"attribute '{targets}_ids' names more than {count} outputs")
    _check(count > 0 and size * count <= _MOST_WEIGHTS, f"{size} nodes with {count} outputs need too many leaf weights")
    weights = np.full((size, count), fill)
    for key, target, weight in zip(zip(trees, nodes, strict=True), ids, given, strict=True):
        _check(key in row, f"attribute '{targets}_nodeids' names a node that does not exist")
        at = row[key], target
        weights[at] = weight if fill else weights[at] + weight
    return weights


def _base(a: dict[str, Any], count: int) -> np.ndarray | None:
    tensor = a["base_values_as_tensor"]
    values = np.array(a["base_values"] or (), np.float32) if tensor is None else tensor.reshape(-1)
    if not values.size:
        return None
    _check(values.size in (1, count), f"attribute 'base_values' has {values.size} entries for {count} outputs")
    return values.astype(np.float64)



@onnx_op("TreeEnsembleRegressor", since=1, domain=DOMAIN)
def tree_ensemble_regressor(
    b: OnnxBuilder, x: Value, *, n_targets: int = 1, aggregate_function: str = "SUM", post_transform: str = "NONE",
    **nodes: Any,
) -> Outputs:  # fmt: skip
    extreme = {"MIN": float(np.finfo(np.float32).max), "MAX": float(np.finfo(np.float32).min)}
    a = _with_absent(nodes)
    trees = _by_ids(a, "target", n_targets, extreme.get(aggregate_function, 0.0))
    total = _sums(b, numbers(b, x), trees, aggregate_function, "f32")
    base = _base(a, n_targets)
    if base is not None:
        total = b.binary("add", total, b.cast(b.constant(base), "f32"))
    return transformed(b, total, post_transform)


@onnx_op("TreeEnsembleClassifier", since=1, domain=DOMAIN)
def tree_ensemble_classifier(
    b: OnnxBuilder, x: Value, *, classlabels_int64s: tuple[int, ...] | None = None,
    classlabels_strings: tuple[str, ...] | None = None, post_transform: str = "NONE", **nodes: Any,
) -> Outputs:  # fmt: skip
    """Two classes of which the trees score one: the other has the rest to 1, or with negative weights the opposite."""
    labels = classlabels_int64s or classlabels_strings or ()
    a = _with_absent(nodes)
    scored = sorted(set(a["class_ids"] or ()))
    trees = _by_ids(a, "class", len(labels), 0.0)
    scores = _sums(b, numbers(b, x), trees, "SUM", "f32")
    base = _base(a, len(labels))
    if base is not None:
        scores = b.binary("add", scores, b.cast(b.constant(base), "f32"))
    if len(labels) == 2 and len(scored) == 1:
        one = b.slice(scores, 1, scored[0] if base is None or base.size == 1 else 0, 1)
        mirrored = post_transform not in ("NONE", "PROBIT")
        other = b.unary("neg", one) if mirrored else b.binary("sub", b.scalar(1, "f32"), one)
        scores = b.concat((other, one), 1)
    elif len(labels) < 2:
        raise ModelError(f"a classifier with {len(labels)} labels is not supported")
    scores = transformed(b, scores, post_transform)
    return labels_of(b, scores, labels), scores


def _with_absent(given: dict[str, Any]) -> dict[str, Any]:
    names = [f"nodes_{n}" for n in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids", "modes", "values",
                                    "values_as_tensor", "missing_value_tracks_true")]  # fmt: skip
    names += [f"{p}_{n}" for p in ("class", "target") for n in ("ids", "treeids", "nodeids", "weights", "weights_as_tensor")]
    return {**dict.fromkeys((*names, "base_values", "base_values_as_tensor")), **given}


# ---- the form with positions ----


@onnx_op("TreeEnsemble", since=5, domain=DOMAIN)
def tree_ensemble(
    b: OnnxBuilder, x: Value, *, nodes_featureids: tuple[int, ...], nodes_modes: np.ndarray, nodes_splits: np.ndarray,
    nodes_truenodeids: tuple[int, ...], nodes_falsenodeids: tuple[int, ...], nodes_trueleafs: tuple[int, ...],
    nodes_falseleafs: tuple[int, ...], leaf_targetids: tuple[int, ...], leaf_weights: np.ndarray,
    tree_roots: tuple[int, ...], n_targets: int = 1, aggregate_function: int = 1, post_transform: int = 0,
    nodes_hitrates: np.ndarray | None = None, nodes_missing_value_tracks_true: tuple[int, ...] | None = None,
    membership_values: np.ndarray | None = None,
) -> Outputs:  # fmt: skip
    """Nodes first, then leaves behind them.  A set of members is a chain of equalities."""
    size, leaves = len(nodes_featureids), len(leaf_targetids)
    columns = (nodes_modes, nodes_splits, nodes_truenodeids, nodes_falsenodeids, nodes_trueleafs, nodes_falseleafs)
    _check(n_targets > 0 and leaves * n_targets <= _MOST_WEIGHTS, f"{leaves} leaves with {n_targets} targets are not possible")
    tensors = (nodes_modes, nodes_splits, leaf_weights, *(() if membership_values is None else (membership_values,)))
    _check(all(t.ndim == 1 for t in tensors), "the attributes that are tensors must have one dimension")
    _check(size > 0 and all(len(c) == size for c in columns), "the attributes 'nodes_...' differ in length")
    _check(len(leaf_weights) == leaves and all(0 <= t < n_targets for t in leaf_targetids), "leaves do not fit n_targets")
    _check(all(0 <= m < len(_MODES) for m in nodes_modes), "attribute 'nodes_modes' has an unknown number")
    _check(0 <= aggregate_function < len(_AGGREGATES), f"attribute 'aggregate_function' is {aggregate_function}")
    _check(0 <= post_transform < len(_TRANSFORMS), f"attribute 'post_transform' is {post_transform}")
    yes, no = (_targets(ids, leaf, size, leaves) for ids, leaf in
               ((nodes_truenodeids, nodes_trueleafs), (nodes_falsenodeids, nodes_falseleafs)))  # fmt: skip
    roots = np.array(tree_roots, np.int64)
    _check(len(roots) > 0 and bool(((roots >= 0) & (roots < size)).all()), "attribute 'tree_roots' names no node")
    aggregate = _AGGREGATES[aggregate_function]
    limits = np.finfo(leaf_weights.dtype)
    weights = np.full((leaves, n_targets), {"MIN": limits.max, "MAX": limits.min}.get(aggregate, 0), np.float64)
    weights[np.arange(leaves), list(leaf_targetids)] = leaf_weights
    missing = np.array(nodes_missing_value_tracks_true or (0,) * size, bool)
    _check(len(missing) == size, "attribute 'nodes_missing_value_tracks_true' differs in length")
    nodes = [np.array(nodes_featureids), np.array([_MODES[m] for m in nodes_modes], object), nodes_splits.astype(np.float64),
             missing, yes, no]  # fmt: skip
    nodes = _with_members(nodes, membership_values, size)
    trees = _with_leaves(nodes, roots, weights, size)
    rows = numbers(b, x)
    return transformed(b, _sums(b, rows, trees, aggregate, rows.type.dtype), _TRANSFORMS[post_transform])


def _targets(ids: tuple[int, ...], leaf: tuple[int, ...], size: int, leaves: int) -> np.ndarray:
    """Next nodes; a leaf is numbered -1 - its position."""
    for i, is_leaf in zip(ids, leaf, strict=True):
        _check(0 <= i < (leaves if is_leaf else size), "a node leads to one that does not exist")
    return np.array([-1 - i if is_leaf else i for i, is_leaf in zip(ids, leaf, strict=True)], np.int64)


def _with_members(nodes: list[np.ndarray], members: np.ndarray | None, size: int) -> list[np.ndarray]:
    """Every test for a set replaced by one node per member; the sets are listed in the order of the nodes, NaN ends one."""
    features, modes, values, missing, yes, no = (list(column) for column in nodes)
    rest = [float(v) for v in (members if members is not None else ())]
    for i in range(size):
        if modes[i] != "BRANCH_MEMBER":
            continue
        _check(any(np.isnan(v) for v in rest), "attribute 'membership_values' has fewer sets than nodes test for one")
        end = next(k for k, v in enumerate(rest) if np.isnan(v))
        chosen, rest = rest[:end] or [np.nan], rest[end + 1 :]
        modes[i], values[i] = "BRANCH_EQ", chosen[0]
        last, otherwise = i, no[i]
        for v in chosen[1:]:
            no[last] = len(modes)
            last = len(modes)
            for column, entry in zip((features, modes, values, missing, yes, no),
                                     (features[i], "BRANCH_EQ", v, missing[i], yes[i], otherwise), strict=True):  # fmt: skip
                column.append(entry)
    return [np.array(c, object if n == 1 else None) for n, c in enumerate((features, modes, values, missing, yes, no))]


def _with_leaves(nodes: list[np.ndarray], roots: np.ndarray, weights: np.ndarray, size: int) -> Trees:
    features, modes, values, missing, yes, no = nodes
    count, leaves = len(modes), len(weights)
    _check((count + leaves) * weights.shape[1] <= _MOST_WEIGHTS, f"more than {_MOST_WEIGHTS} leaf weights")
    yes, no = (np.where(column < 0, count - 1 - column, column) for column in (yes, no))
    zeros, own = np.zeros(leaves, np.int64), count + np.arange(leaves)
    return Trees(
        np.concatenate([features, zeros]), np.concatenate([modes, np.full(leaves, "", object)]),
        np.concatenate([values.astype(np.float64), zeros]), np.concatenate([missing.astype(bool), zeros.astype(bool)]),
        np.concatenate([yes, own]), np.concatenate([no, own]), roots,
        np.concatenate([np.zeros((count, weights.shape[1])), weights]),
    )  # fmt: skip
