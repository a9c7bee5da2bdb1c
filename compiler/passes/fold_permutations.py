"""Move a Transpose in front of a matrix product into its constant weights.

    MatMul(Reshape[n, c * h * w](Transpose[0, 3, 1, 2](x: [n, h, w, c])), W)   ->   MatMul(Reshape[n, h * w * c](x), W')

The axes that the Reshape merges into the reduction axis are only summed over: their order is free if the rows of W are
permuted alike.  This is the flattening between the convolutions and the head of a classifier.
"""

from __future__ import annotations

import numpy as np

from ...ir.dims import equal_runs
from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.contract import MatMul
from ...ir.ops.movement import Reshape, Transpose
from ...ir.types import Dim
from .layout import moves, reshape
from .matching import made_by


def fold_permutations(graph: Graph) -> Graph:
    """Weights are copied once, in another order of rows, where this removes a Transpose."""
    return rewrite_graph(graph, _rule)


def _rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    if not isinstance(node.op, MatMul) or inputs[1].type.rank != 2 or inputs[1] not in b.constants:
        return None
    flat = made_by(b, inputs[0], Reshape)
    turned = made_by(b, flat[1][0], Transpose) if flat else None
    if flat is None or turned is None or 0 in inputs[0].type.shape:
        return None
    transposed, (x,) = flat[1][0], turned[1]
    merged = _merged_axes(transposed.type.shape, inputs[0].type.shape)
    perm = turned[0].perm
    order = sorted(perm[a] for a in merged)
    leading = [perm[a] for a in range(len(perm)) if a not in merged]
    sizes = [transposed.type.shape[a] for a in merged]
    if not merged or moves(x.type.shape, (*leading, *order)) or not all(isinstance(d, int) for d in sizes):
        return None
    back = [[perm[a] for a in merged].index(a) for a in order]
    permuted = _with_rows(b.constants[inputs[1]], sizes, back)  # type: ignore[arg-type]
    return b.add(node.op, reshape(b, x, inputs[0].type.shape), b.constant(permuted, inputs[1].name))


def _with_rows(weights: np.ndarray, sizes: list[int], perm: list[int]) -> np.ndarray:
    """The weights with the rows, counted by sizes, permuted.  Weights that are stored by columns stay so: either way
    whole lines of memory are copied."""
    rows, columns = weights.shape
    if weights.flags.c_contiguous:
        return weights.reshape(*sizes, columns).transpose(*perm, len(sizes)).reshape(rows, columns)
    stored = weights.T.reshape(columns, *sizes).transpose(0, *(1 + a for a in perm))
    return stored.reshape(columns, rows).T


def _merged_axes(source: tuple[Dim, ...], target: tuple[Dim, ...]) -> list[int]:
    """The trailing axes of the source that a Reshape merges into the last axis of the target; none if it does not."""
    source_run, target_run = equal_runs(source, target)[-1]
    wide = [a for a in target_run if target[a] != 1]
    return [a for a in source_run if source[a] != 1] if wide == [len(target) - 1] else []
