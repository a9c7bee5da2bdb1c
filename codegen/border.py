"""The border of a constant Pad whose inside is written by others: strips that are filled with the pad value."""

from __future__ import annotations

from typing import Any

from ..ir.compute import Compute
from ..ir.dims import normal_dim
from ..ir.expr import const
from ..ir.kernel import Buffer, axis
from ..ir.ops.movement import Pad
from ..ir.types import Dim, TensorType
from .strategies.scheduled import Group


def border_group(op: Pad, out: Buffer, inside: TensorType, value: Any) -> Group:
    """One map per strip: before and after the inside along each padded axis, within the inside of the earlier axes."""
    shape, sizes, before = out.shape, inside.shape, op.before
    strips: list[Compute] = []
    for d, n in enumerate(shape):
        for start, length in ((0, before[d]), (before[d] + sizes[d], normal_dim(n - before[d] - sizes[d]))):
            extents = [*sizes[:d], length, *shape[d + 1 :]]
            origin: list[Dim] = [*before[:d], start] + [0] * (len(shape) - d - 1)
            if 0 in extents:
                continue
            axes = tuple(axis(f"i{k}", e) for k, e in enumerate(extents))
            index = tuple(a + o for a, o in zip(axes, origin, strict=True))
            strips.append(Compute(out, axes, const(value, out.dtype), index=index))
    return Group("border", tuple(strips), (out,))
