"""Back to bytes: a clamp, a rounding, a conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Value
from ...ir.ops.elementwise import Binary, Cast, Unary
from ...ir.ops.quantize import Saturate
from ...ir.types import DTYPES
from .elementwise import Scalars
from .writer import Ref

if TYPE_CHECKING:
    from .emit import Emitter

_LARGEST = 1e38  # of f32
_DEEPEST = 32


def saturate(e: Emitter, op: Saturate, inputs: tuple[Value, ...]) -> Ref:
    """NaN gives `low`, which costs two operations more where a NaN is possible."""
    (v,) = inputs
    w, s = e.w, Scalars(e.w)
    x = w.convert(e.value(v), "f32")
    low, high = float(op.low - op.zero), float(op.high - op.zero)
    y = w.simple("clamp", (w.splat(low, "f32"), x, w.splat(high, "f32")), x.type)
    if largest(e, v) is None:
        y = s.where(w.compare("ne", x, x), low, y)
    whole = w.unary("round_nearest_even", y)
    return w.convert(s.add(whole, float(op.zero)) if op.zero else whole, op.to)


def largest(e: Emitter, v: Value, depth: int = 0) -> float | None:
    """A bound of the magnitude of a value made of integers and finite constants, which is never NaN; None where there is
    no such bound."""
    array = e.constant_of(v)
    if array is not None:
        bound = float(np.abs(array.astype(np.float64)).max(initial=0))
        return bound if bound < _LARGEST else None
    node = e.producer(v)
    if DTYPES[v.type.dtype].kind in "iub":
        return float(2 ** (8 * DTYPES[v.type.dtype].size))
    if node is None or depth > _DEEPEST:
        return None
    parts = [largest(e, x, depth + 1) for x in node.inputs]
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        return None
    match node.op:
        case Cast(to="f32") | Unary("neg" | "abs"):
            return known[0]
        case Binary("add" | "sub"):
            total = sum(known)
            return total if total < _LARGEST else None
        case Binary("mul"):
            product = known[0] * known[1]
            return product if product < _LARGEST else None
        case Binary("max" | "min"):
            return max(known)
    return None
