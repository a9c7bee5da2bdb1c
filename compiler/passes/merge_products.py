"""Compute several products of one operand as a single one.

    q = MatMul(x, wq) + bq; k = MatMul(x, wk) + bk; v = MatMul(x, wv) + bv
    ->   p = MatMul(x, Concat(wq, wk, wv)) + Concat(bq, bk, bv); q, k, v = Slices of the last axis of p

Why: x is read once, and one wide product keeps all threads busy where three narrow ones wait for each other.  Slices of
the last axis are views.  Products whose results go into arithmetic stay apart: there, the arithmetic runs on the
registers of the product, which is worth more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.graph import Graph, Node, Value
from ...ir.ops.contract import MatMul
from ...ir.ops.elementwise import Binary
from ...ir.ops.movement import Reshape, Slice, Transpose
from ...ir.ops.norm import Attention
from .replay import Replay, replay

VIEWS = (Reshape, Slice, Transpose, Attention)


@dataclass(frozen=True, eq=False)
class _Member:
    """One product, and the addition of its bias if that is its only user."""

    product: Node
    bias: Node | None

    @property
    def result(self) -> Node:
        return self.bias or self.product

    @property
    def width(self) -> int:
        return int(self.product.outputs[0].type.shape[-1])  # type: ignore[arg-type]


@dataclass(eq=False)
class _Group:
    """Products of one operand, all with a bias or all without; and the merged one, once it is made."""

    members: list[_Member]
    merged: Value | None = None


def merge_products(graph: Graph) -> Graph:
    """Products with constant weights [K, N] that nothing else reads."""
    groups = _groups(Replay(graph))

    def rule(r: Replay, node: Node) -> Value | None:
        group = groups.get(node)
        if group is None:
            return None
        if group.merged is None:
            group.merged = _merged(r, group.members)
        return _columns(r, group.merged, group.members, node)

    return replay(graph, rule) if groups else graph


def _groups(r: Replay) -> dict[Node, _Group]:
    """The group of each result."""
    found: dict[tuple[Value, MatMul, bool], _Group] = {}
    for node in r.graph.nodes:
        if isinstance(node.op, MatMul) and _has_own_matrix(r, node):
            member = _Member(node, _bias(r, node))
            if _feeds_views(r, member):
                found.setdefault((node.inputs[0], node.op, member.bias is not None), _Group([])).members.append(member)
    return {m.result: group for group in found.values() if len(group.members) > 1 for m in group.members}


def _has_own_matrix(r: Replay, node: Node) -> bool:
    w = node.inputs[1]
    return w in r.graph.constants and w.type.rank == 2 and r.uses[w] == 1


def _bias(r: Replay, node: Node) -> Node | None:
    (y,) = node.outputs
    users = r.users.get(y, [])
    if r.uses[y] != 1 or len(users) != 1 or users[0].op != Binary("add") or users[0].inputs[0] is not y:
        return None
    vector = users[0].inputs[1]
    return users[0] if vector in r.graph.constants and vector.type.shape == y.type.shape[-1:] else None


def _feeds_views(r: Replay, member: _Member) -> bool:
    (y,) = member.result.outputs
    users = r.users.get(y, [])
    return len(users) == r.uses[y] and all(isinstance(user.op, VIEWS) for user in users)


def _merged(r: Replay, members: list[_Member]) -> Value:
    (x,) = r.new(members[0].product.inputs[0])
    y = r.b.add(members[0].product.op, x, _joined(r, [m.product for m in members]))
    biases = [m.bias for m in members if m.bias is not None]
    return r.b.add(Binary("add"), y, _joined(r, biases)) if biases else y


def _joined(r: Replay, nodes: list[Node]) -> Value:
    """The constant right operands side by side."""
    arrays = [r.graph.constants[node.inputs[1]] for node in nodes]
    return r.b.constant(np.concatenate(arrays, axis=-1), nodes[0].inputs[1].name)


def _columns(r: Replay, y: Value, members: list[_Member], node: Node) -> Value:
    """The columns of the merged product that are the result of this node."""
    results = [m.result for m in members]
    start = sum(m.width for m in members[: results.index(node)])
    rank = y.type.rank
    return r.b.add(Slice((0,) * (rank - 1) + (start,), node.outputs[0].type.shape, (1,) * rank), y)
