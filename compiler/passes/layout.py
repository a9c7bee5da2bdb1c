"""Permutations of axes, and the normal forms of Reshape and Transpose that passes build.

    Transpose(q)(Transpose(p)(x))  ->  Transpose(compose(p, q))(x)
    Transpose(0, 3, 1, 2)(x[2, 1, 1, 8])  ->  Reshape(2, 8, 1, 1)(x)
    Reshape(b)(Reshape(a)(x))  ->  Reshape(b)(x)

A Transpose is written only where elements really move: with axes of size 1 put aside, the others change their order.
Everything else is a Reshape, which costs nothing.  The passes therefore see one form of every movement, and equal nodes
are shared.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.graph import Builder, Value
from ...ir.ops.movement import Broadcast, Reshape, Transpose
from ...ir.types import Dim, TensorType

Perm = tuple[int, ...]

_SYMBOLIC_SIZE = 64  # what a symbolic dimension counts for where only an estimate is needed


def identity(rank: int) -> Perm:
    return tuple(range(rank))


def inverse(perm: Perm) -> Perm:
    """Transpose(inverse(p)) undoes Transpose(p)."""
    result = [0] * len(perm)
    for to, source in enumerate(perm):
        result[source] = to
    return tuple(result)


def compose(first: Perm, second: Perm) -> Perm:
    """The permutation of Transpose(second)(Transpose(first)(x))."""
    return tuple(first[a] for a in second)


def permuted(shape: Sequence[Dim], perm: Perm) -> tuple[Dim, ...]:
    """The shape of Transpose(perm) of a value of this shape."""
    return tuple(shape[a] for a in perm)


def moves(shape: Sequence[Dim], perm: Perm) -> bool:
    """Whether Transpose(perm) changes the order of the elements of a value of this shape."""
    order = [a for a in perm if shape[a] != 1]
    return order != sorted(order)


def elements(type: TensorType) -> int:
    """The number of elements; an estimate where dimensions are symbolic."""
    count = 1
    for d in type.shape:
        count *= d if isinstance(d, int) else _SYMBOLIC_SIZE
    return count


def reshape(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    """x in another shape of the same volume."""
    target = tuple(shape)
    node = b.producers.get(x)
    if node is not None and isinstance(node.op, Reshape):
        x = node.inputs[0]
    return x if x.type.shape == target else b.add(Reshape(target), x)


def transpose(b: Builder, x: Value, perm: Perm) -> Value:
    """x with its axes permuted: axis d of the result is axis perm[d] of x."""
    node = b.producers.get(x)
    if node is not None and isinstance(node.op, Transpose):
        x, perm = node.inputs[0], compose(node.op.perm, perm)
    if not moves(x.type.shape, perm):
        return reshape(b, x, permuted(x.type.shape, perm))
    return b.add(Transpose(perm), x)


def broadcast(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    """x repeated to a shape; a Reshape where that only adds axes of size 1."""
    target = tuple(shape)
    if x.type.shape == target:
        return x
    missing = len(target) - x.type.rank
    if (1,) * missing + x.type.shape == target:
        return reshape(b, x, target)
    return b.add(Broadcast(target), x)
