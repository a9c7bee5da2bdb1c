"""Symbolic dimensions that meet in one operator and must be equal for the model to be valid."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.expr import Expr
from ...ir.ops.base import Op
from ...ir.ops.elementwise import Binary, Select
from ...ir.ops.movement import Concat
from ...ir.types import Dim

Shape = tuple[Dim, ...]


def meeting_shapes(op: Op, shapes: Sequence[Shape]) -> list[Shape] | None:
    """The shapes of the operands of an elementwise operator or a Concat with every dimension that meets another one
    replaced by what both have to be: a number where one is known, else the shorter expression.  None if there is nothing
    to replace, or the operator is another one."""
    if isinstance(op, (Binary, Select)):
        free = None
    elif isinstance(op, Concat):
        free = op.axis
        if len({len(s) for s in shapes}) != 1:
            return None
    else:
        return None
    rank = max((len(s) for s in shapes), default=0)
    changed = False
    new = [list(s) for s in shapes]
    for back in range(1, rank + 1):
        if free is not None and rank - back == free:
            continue
        found = {s[-back] for s in shapes if len(s) >= back} - ({1} if free is None else set())
        if len(found) < 2 or not any(isinstance(d, Expr) for d in found) or sum(isinstance(d, int) for d in found) > 1:
            continue
        agreed = min(found, key=lambda d: (isinstance(d, Expr), len(str(d)), str(d)))
        for s in new:
            if len(s) >= back and (s[-back] != 1 or free is not None) and s[-back] != agreed:
                s[-back] = agreed
                changed = True
    return [tuple(s) for s in new] if changed else None
