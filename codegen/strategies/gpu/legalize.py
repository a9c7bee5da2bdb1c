"""Rewriting what CUDA C++ has no function or arithmetic for.

Arithmetic on f16 and bf16 is done in f32 and rounded after every operation.  sigmoid is written with exp, in the form that
neither overflows nor cancels.  The other functions of the mathematical library are calls.
"""

from __future__ import annotations

from ....ir.expr import Call, Expr, binary, call, const, select, unary
from ....ir.kernel import Kernel, map_block
from ....ir.traverse import rewrite
from ...math import widen_half


def legalize(kernel: Kernel) -> Kernel:
    """The kernel with every operation in a form that the C++ printers have."""
    memos: tuple[dict[Expr, Expr], dict[Expr, Expr]] = ({}, {})

    def on_expr(e: Expr) -> Expr:
        return rewrite(rewrite(e, widen_half, memos[0]), _expand, memos[1])

    return Kernel(kernel.name, kernel.params, map_block(kernel.body, None, on_expr))


def _expand(e: Expr) -> Expr | None:
    if isinstance(e, Call) and e.fn == "sigmoid":
        x = e.args[0]
        small = call("exp", -unary("abs", x))
        return select(binary("le", 0.0, x), const(1.0, x.type.dtype), small) / (small + 1.0)
    return None
