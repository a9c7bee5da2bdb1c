"""Rewriting what CUDA C++ has no function or arithmetic for.

Arithmetic on f16 and bf16 is done in f32 and rounded after every operation.  sigmoid is written with exp, in the form that
neither overflows nor cancels.  The other functions of the mathematical library are calls.
"""

from __future__ import annotations

from ....ir.expr import Bin, Call, Expr, binary, call, const, fma, select, unary
from ....ir.kernel import Kernel, map_block
from ....ir.traverse import rewrite
from ...math import widen_half


def accumulated(combine: str, acc: Expr, value: Expr) -> Expr:
    """acc combined with one more value; a product of floats is added with one rounding, in one instruction."""
    if combine == "add" and isinstance(value, Bin) and value.op == "mul" and value.type.dtype in ("f32", "f64"):
        return fma(value.a, value.b, acc)
    return binary(combine, acc, value)


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
