"""What rules ask about the values of a graph, finished or growing: which operator made one, which number it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, Union

import numpy as np

from ...ir.graph import Builder, Graph, Value
from ...ir.ops.base import Op
from ...ir.ops.elementwise import Binary, Cast, Select, Unary
from ...ir.ops.movement import Broadcast
from ...ir.ops.quantize import Saturate
from ...ir.types import DTYPES, Dim

ELEMENTWISE = (Unary, Binary, Select, Cast, Saturate)
COMMUTATIVE = frozenset({"add", "mul", "max", "min", "and", "or", "xor", "eq", "ne", "bitand", "bitor", "bitxor"})

AnyOp = TypeVar("AnyOp", bound=Op)
Source = Union[Graph, Builder]


def made_by(g: Source, v: Value, kind: type[AnyOp]) -> tuple[AnyOp, tuple[Value, ...]] | None:
    """The operator of this kind that made a value and its operands, or None."""
    node = g.producers.get(v)
    return (node.op, node.inputs) if node is not None and isinstance(node.op, kind) else None


def function_of(g: Source, v: Value, kind: type[Unary] | type[Binary], *fns: str) -> tuple[Value, ...] | None:
    """The operands of a Unary or Binary of one of these functions that made a value, or None."""
    made = made_by(g, v, kind)
    return made[1] if made is not None and made[0].fn in fns else None


def uniform(g: Source, v: Value) -> Any:
    """The number that all elements of a constant (or of a repeated one) are, as a NumPy scalar, or None."""
    repeated = made_by(g, v, Broadcast)
    if repeated is not None:
        return uniform(g, repeated[1][0])
    array = g.constants.get(v)
    if array is None or array.size == 0:
        return None
    first = array.flat[0]
    if array.size > 1 and not (array.flat[-1] == first and bool((array == first).all())):
        return None
    return first


def scalar(b: Builder, number: Any, dtype: str) -> Value:
    return b.constant(np.asarray(number).astype(DTYPES[dtype].numpy))


def kept_axes(a: Sequence[Dim], b: Sequence[Dim]) -> int:
    """How many trailing dimensions of two shapes are equal."""
    count = 0
    for m, n in zip(reversed(a), reversed(b), strict=False):
        if m != n:
            break
        count += 1
    return count


def leading_ones(shape: Sequence[Dim]) -> int:
    count = 0
    while count < len(shape) and shape[count] == 1:
        count += 1
    return count
