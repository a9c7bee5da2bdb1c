"""A Reshape of a transposed value as a transposed Reshape; and axes that are merged only to be split again.

    Reshape[n, c, h * w](Transpose[0, 3, 1, 2](x: [n, h, w, c]))  ->  Transpose[0, 2, 1](Reshape[n, h * w, c](x))
    Reshape[b, h, d, s](Transpose[0, 2, 1](Reshape[b * h, s, d](x)))  ->  Transpose[0, 1, 3, 2](x)

Both shapes are cut into the shortest runs of axes with equal volumes (axes of size 1 put aside).  A run can be reshaped
in place if its axes are neighbours, in order, in the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.dims import equal_runs
from ...ir.types import Dim
from .layout import Perm


@dataclass(frozen=True)
class ReshapePlan:
    """Reshape(target)(Transpose(perm)(base)) is Transpose(self.perm)(Reshape(shape)(Transpose(order)(base))); order
    moves nothing if all runs can be reshaped in place."""

    order: Perm
    shape: tuple[Dim, ...]
    perm: Perm


def plan_reshape(source: Sequence[Dim], perm: Perm, target: Sequence[Dim]) -> ReshapePlan | None:
    """source: the shape of Transpose(perm)(base).  None where nothing can be said (no elements)."""
    if 0 in source or 0 in target:
        return None
    wide = [a for a, d in enumerate(source) if d != 1]
    new = [a for a, d in enumerate(target) if d != 1]
    runs = [
        ([wide[i] for i in old_run], [new[i] for i in new_run])
        for old_run, new_run in equal_runs([source[a] for a in wide], [target[a] for a in new])
    ]
    runs.sort(key=lambda run: min((perm[a] for a in run[0]), default=-1))
    units = [a for a in range(len(source)) if source[a] == 1]
    order = tuple(perm[a] for a in (*units, *(a for old_run, _ in runs for a in old_run)))
    stored = [a for a in range(len(target)) if target[a] == 1]
    stored += [a for _, new_run in runs for a in new_run]
    shape = tuple(target[a] for a in stored)
    return ReshapePlan(order, shape, tuple(stored.index(a) for a in range(len(target))))


def plan_unmerged(
    source: Sequence[Dim], merged: Sequence[Dim], perm: Perm, target: Sequence[Dim]
) -> Perm | None:
    """The permutation of x[source] that gives Reshape(target)(Transpose(perm)(Reshape(merged)(x))), but for axes of
    size 1; None if there is none."""
    if 0 in source:
        return None
    wide = [a for a, d in enumerate(source) if d != 1]
    joined = [a for a, d in enumerate(merged) if d != 1]
    origins: dict[int, list[int]] = {}
    for old_run, new_run in equal_runs([source[a] for a in wide], [merged[a] for a in joined]):
        if len(new_run) != 1:
            return None
        origins[joined[new_run[0]]] = [wide[i] for i in old_run]
    order = [a for axis in perm for a in origins.get(axis, [])]
    if [source[a] for a in order] != [d for d in target if d != 1]:
        return None
    return tuple([a for a in range(len(source)) if source[a] == 1] + order)
