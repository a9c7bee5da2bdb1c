"""The border of a constant Pad whose inside is written by others: strips that are filled with the pad value."""

from __future__ import annotations

from typing import Any

from ..ir.compute import Compute
from ..ir.expr import const
from ..ir.kernel import Buffer, axis
from ..ir.ops.movement import Pad
from ..ir.types import TensorType
from .strategies.scheduled import Group
from .views import as_ints


def border_group(op: Pad, out: Buffer, inside: TensorType, value: Any) -> Group:
    """One map per strip: before and after the inside along each padded axis, within the inside of the earlier axes."""
    shape = out.static_shape
    sizes = inside.static_shape
    before = as_ints(op.before)
    strips: list[Compute] = []
    for d, n in enumerate(shape):
        for start, length in ((0, before[d]), (before[d] + sizes[d], n - before[d] - sizes[d])):
            extents = [*sizes[:d], length, *shape[d + 1 :]]
            origin = [*before[:d], start] + [0] * (len(shape) - d - 1)
            if 0 in extents:
                continue
            axes = tuple(axis(f"i{k}", e) for k, e in enumerate(extents))
            index = tuple(a + o for a, o in zip(axes, origin, strict=True))
            strips.append(Compute(out, axes, const(value, out.dtype), index=index))
    return Group("border", tuple(strips), (out,))
