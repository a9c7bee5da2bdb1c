"""From a fused group of operators to its computations: maps are substituted into their readers, epilogues appended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..ir.compute import Compute, append, inline
from ..ir.errors import InternalError
from ..ir.expr import Call, Expr, Load, const
from ..ir.graph import Graph, Value
from ..ir.kernel import Buffer
from ..ir.traverse import rewrite, walk
from ..ir.types import dtype_of


def embed_scalars(c: Compute, scalars: Mapping[Buffer, np.ndarray]) -> Compute:
    """Reads of these one-element constants become constants in the expressions."""
    if not scalars:
        return c

    def read(e: Expr) -> Expr | None:
        if isinstance(e, Load) and e.buf in scalars:
            array = scalars[e.buf]
            return const(array.reshape(-1)[0], dtype_of(array))
        return None

    memo: dict[Expr, Expr] = {}
    finish = None if c.finish is None else rewrite(c.finish, read, memo)
    return replace(c, body=rewrite(c.body, read, memo), finish=finish)


def is_cheap(c: Compute) -> bool:
    """Computing it twice costs less than storing it: no function calls, and few operations."""
    nodes = list(walk(c.body))
    return len(nodes) <= 24 and not any(isinstance(e, Call) for e in nodes)


def compose(body: Graph, buffers: Mapping[Value, Buffer], kind: str) -> tuple[Compute, ...]:
    """The computations of a group.  One for kinds with an anchor and for maps; for "rows" the reductions, what the group
    gives out, and the maps that are better stored than computed again."""
    scalars = {buffers[v]: a for v, a in body.constants.items()}
    readers: dict[Value, int] = {}
    for node in body.nodes:
        for v in set(node.inputs):
            readers[v] = readers.get(v, 0) + 1
    made: dict[Value, Compute] = {}
    for node in body.nodes:
        (out,) = node.outputs
        c = embed_scalars(node.op.compute(buffers[out], *(buffers[v] for v in node.inputs)), scalars)
        for v in dict.fromkeys(node.inputs):
            p = made.get(v)
            if p is None or not p.is_map:
                continue
            if kind != "rows" or (v not in body.outputs and (readers[v] == 1 or is_cheap(p))):
                c = inline(c, p)
        made[out] = c
    if kind == "rows":
        return _needed(body, made)
    (out,) = body.outputs
    anchors = [c for c in made.values() if not c.is_map]
    if len(anchors) > 1:
        raise InternalError(f"a group of kind {kind} has {len(anchors)} reductions", str(body))
    if not anchors or made[out] is anchors[0]:
        return (made[out],)
    return (append(anchors[0], made[out]),)


def _needed(body: Graph, made: Mapping[Value, Compute]) -> tuple[Compute, ...]:
    """The computations that an output or another kept computation reads, in order."""
    needed = {made[v].out for v in body.outputs}
    kept: list[Compute] = []
    for c in reversed(list(made.values())):
        if c.out in needed:
            kept.append(c)
            needed.update(r.buf for r in c.reads())
    return tuple(reversed(kept))
