"""Evaluate the nodes whose operands are all constants.

    c = Binary(mul)(2.0, 3.0); y = Binary(add)(x, c)   ->   y = Binary(add)(x, 6.0)

Why: shape arithmetic, masks and weight transformations are written in the model as computations; done once here, they
cost nothing at run time.  Transposes and reshapes of weights become NumPy views: the weights are copied once, when they
are packed.  A result that is much larger than its operands stays a computation (a broadcast scalar would bloat the
artifact).
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from ...ir.expr import Expr
from ...ir.graph import Builder, Graph, Node, Value, rewrite_graph
from ...ir.ops.base import Op, form_of
from ...ir.ops.movement import Transpose

LIMIT = 64 << 20  # bytes


def fold_constants(graph: Graph, *, limit: int = LIMIT) -> Graph:
    """limit: bytes of the largest result that may be larger than the operands it is made of.  Idempotent."""

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        arrays = [b.constants[v] for v in inputs if v in b.constants]
        if len(arrays) < len(inputs) or not _may_fold(node, sum(a.nbytes for a in arrays), limit):
            return None
        results = _evaluate(node.op, arrays)
        return tuple(b.constant(np.asarray(r), v.name) for r, v in zip(results, node.outputs, strict=True))

    return rewrite_graph(graph, rule)


def _may_fold(node: Node, operand_bytes: int, limit: int) -> bool:
    """Loops are not run here: nothing bounds how long they take."""
    if not node.op.pure or not node.op.folds or form_of(node.op) == "control":
        return False
    if not all(v.type.is_static for v in node.outputs) or _is_symbolic(node.op):
        return False
    return sum(v.type.nbytes for v in node.outputs) <= max(limit, operand_bytes)


def _is_symbolic(op: Op) -> bool:
    """Whether a field holds a symbolic dimension."""
    values = (getattr(op, f.name) for f in fields(op))  # type: ignore[arg-type]
    return any(isinstance(x, Expr) for v in values for x in (v if isinstance(v, tuple) else (v,)))


def _evaluate(op: Op, arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    if isinstance(op, Transpose):
        return (np.transpose(arrays[0], op.perm),)
    with np.errstate(all="ignore"):  # what the model computes: infinities and NaNs are results
        return op.evaluate(*arrays)
