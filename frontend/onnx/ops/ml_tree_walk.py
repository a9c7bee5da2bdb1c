"""Walking the trees of an ensemble: every row is in all trees at once, one level per step.

    at[n, t]                      the node where row n stands in tree t; at first the root
    y[n] = sum over t of weights[at[n, t]]       after as many steps as the deepest tree has levels

`TreeStep` is a step, and says what a node is.  Comparisons that it has not become those that it has: x < v is
x <= (the number before v), x >= v is x < v with its branches exchanged.  Trees of similar depth are a group, whose nodes stay
in the cache while all rows walk it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.trees import EQUAL, FLAGS, INNER, MISSING, VALUE, TreeStep
from ....ir.types import DTYPES
from ..builder import OnnxBuilder

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
_DEEPEST = 256  # steps; a deeper tree is a chain or a cycle
_MOST_NODES = 2**22  # of all trees, those that several nodes lead to counted as often
_GROUP = 2**15  # nodes of a group: 256 KiB of words
_SIMILAR = 1.25  # times as deep


@dataclass(frozen=True)
class Trees:
    """One entry per node of all trees: the feature, how it is compared ("" in leaves), with what, whether a missing value
    counts as yes, and the next nodes.  roots: one per tree.  weights[node, target]."""

    features: np.ndarray
    modes: np.ndarray
    values: np.ndarray
    missing: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    roots: np.ndarray
    weights: np.ndarray

    @property
    def inner(self) -> np.ndarray:
        return self.modes != ""


@dataclass(frozen=True)
class _Tests:
    """The nodes of `Trees` with the comparisons that words have."""

    features: np.ndarray
    values: np.ndarray  # in the type of the features
    flags: np.ndarray
    next: np.ndarray  # [node, 2]: yes, no


@dataclass(frozen=True)
class _Group:
    """Some trees as they are walked: the nodes in the order of their levels, the branches of one beside each other."""

    nodes: np.ndarray
    yes: np.ndarray
    trees: int
    depth: int


def walked(b: OnnxBuilder, x: Value, trees: Trees, chosen: np.ndarray) -> Iterator[tuple[Value, np.ndarray]]:
    """For groups of the chosen trees: the leaf [N, T] that each row of x[N, F] reaches, and the weights of the group's nodes.

    Raises ModelError for trees without an end and for features that x has not.
    """
    count = x.type.shape[1]
    used = trees.features[trees.inner]
    if isinstance(count, int) and used.size and not 0 <= used.min() <= used.max() < count:
        raise ModelError(f"a node reads a feature outside of {x.type}")
    tests = _tests(trees, x.type.dtype)
    depths, sizes = _measured(tests, trees.roots[chosen])
    for some in _grouped(depths, sizes):
        group = _laid_out(tests, trees.roots[chosen][some], int(depths[some].max()))
        yield _walk(b, x, tests, group), trees.weights[group.nodes]


def tree_of_nodes(trees: Trees) -> np.ndarray:
    """The position of each node's tree, the last one that reaches it; -1 for a node that none does."""
    tree = np.full(len(trees.modes), -1, np.int64)
    level, owner = trees.roots, np.arange(len(trees.roots))
    for _ in range(_DEEPEST + 1):
        new = tree[level] != owner
        tree[level] = owner
        level, owner = level[new], owner[new]
        inner = trees.inner[level]
        level = np.concatenate([trees.yes[level[inner]], trees.no[level[inner]]])
        owner = np.concatenate([owner[inner]] * 2)
    return tree


def _tests(trees: Trees, dtype: str) -> _Tests:
    inner, modes = trees.inner, trees.modes
    values = trees.values.astype(DTYPES[dtype].numpy)
    strict = inner & np.isin(modes, ("BRANCH_LT", "BRANCH_GTE"))
    exchanged = inner & np.isin(modes, ("BRANCH_GT", "BRANCH_GTE", "BRANCH_NEQ"))
    before = np.nextafter(values, -np.inf, dtype=values.dtype)
    before[values == -np.inf] = np.nan  # nothing is less
    equal = inner & np.isin(modes, ("BRANCH_EQ", "BRANCH_NEQ"))
    flags = inner * INNER | equal * EQUAL | (inner & (trees.missing != exchanged)) * MISSING
    ways = np.stack([trees.yes, trees.no], 1)
    ways[exchanged] = ways[exchanged][:, ::-1]
    return _Tests(np.where(inner, trees.features, 0), np.where(strict, before, values), flags, ways)


def _measured(tests: _Tests, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The depth and the number of nodes of each tree."""
    level, owner = roots, np.arange(len(roots))
    depths, sizes = np.zeros(len(roots), np.int64), np.ones(len(roots), np.int64)
    for step in range(1, _DEEPEST + 2):
        inner = (tests.flags[level] & INNER) != 0
        level, owner = tests.next[level[inner]].reshape(-1), np.repeat(owner[inner], 2)
        if not level.size:
            return depths, sizes
        depths[owner] = step
        sizes += np.bincount(owner, minlength=len(roots))
        if sizes.sum() > _MOST_NODES:
            raise ModelError(f"the trees have more than {_MOST_NODES} nodes, or their nodes lead back to themselves")
    raise ModelError(f"a tree is deeper than {_DEEPEST} levels, or its nodes lead back to themselves")


def _grouped(depths: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """The trees in groups of similar depth, none of more than _GROUP nodes unless it is one tree."""
    order = np.argsort(depths, kind="stable")
    if not order.size:
        return
    start = total = 0
    for n, tree in enumerate(order):
        deep = depths[tree] > max(2, depths[order[start]]) * _SIMILAR
        if n > start and (total + sizes[tree] > _GROUP or deep):
            yield order[start:n]
            start, total = n, 0
        total += sizes[tree]
    yield order[start:]


def _laid_out(tests: _Tests, roots: np.ndarray, depth: int) -> _Group:
    nodes, yes, level, first = [], [], roots, 0
    while level.size:
        inner = (tests.flags[level] & INNER) != 0
        behind = first + len(level)
        yes.append(np.where(inner, behind + 2 * (np.cumsum(inner) - 1), first + np.arange(len(level))))
        nodes.append(level)
        level, first = tests.next[level[inner]].reshape(-1), behind
    return _Group(np.concatenate(nodes), np.concatenate(yes), len(roots), depth)


def _walk(b: OnnxBuilder, x: Value, tests: _Tests, group: _Group) -> Value:
    features, flags = tests.features[group.nodes].astype(np.uint64), tests.flags[group.nodes].astype(np.uint64)
    wide = int(features.max()).bit_length()
    bits = wide + FLAGS + int(group.yes.max()).bit_length()
    if bits > 64:
        raise ModelError(f"a tree of {len(group.nodes)} nodes and feature {features.max()} do not fit in {bits} bits")
    words = flags | features << np.uint64(FLAGS) | group.yes.astype(np.uint64) << np.uint64(FLAGS + wide)
    values = tests.values[group.nodes]
    if values.dtype == np.float32 and bits <= VALUE:
        words = words << np.uint64(VALUE) | values.view(np.uint32)
        tables = (b.constant(words),)
    else:
        x = b.cast(x, "f64")
        tables = (b.constant(words), b.constant(values.astype(np.float64)))
    has = {"equal": bool((flags & np.uint64(EQUAL)).any()), "missing": bool((flags & np.uint64(MISSING)).any())}
    if not group.depth:
        return b.broadcast(b.constant(np.arange(group.trees, dtype=np.int32)), (x.type.shape[0], group.trees))
    at = b.add(TreeStep(group.trees, wide, **has), x, *tables)
    for _ in range(1, group.depth):
        at = b.add(TreeStep(0, wide, **has), x, *tables, at)
    return at
