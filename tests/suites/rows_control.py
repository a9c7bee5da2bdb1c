"""Rows of control flow: If, Loop, Scan, one in another, and bodies with weights of their own."""

from __future__ import annotations

import numpy as np
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.control import BOOL, I64, If, Loop, Scan
from tilewright.ir.ops.elementwise import Binary, Cast, Unary
from tilewright.ir.ops.reduce import Reduce
from tilewright.ir.types import TensorType

from suites.row import Row, Spec

VECTOR, WIDE = TensorType("f32", (3,)), TensorType("f32", (2, 32))


def _binary(fn: str) -> Graph:
    b = Builder(fn)
    return b.graph([b.add(Binary(fn), b.input("x", VECTOR), b.input("y", VECTOR))], ["z"])


def _sums(limit: bool = False) -> Graph:
    """v + x, and v + iteration as a slice to keep; goes on while the sum of v is small."""
    b = Builder("sums")
    i, go, v, x = b.input("i", I64), b.input("go", BOOL), b.input("v", VECTOR), b.input("x", VECTOR)
    after = b.add(Binary("add"), v, x)
    if limit:
        go = b.add(Binary("lt"), b.add(Reduce("sum", (0,), False), after), b.constant(np.array(20, np.float32)))
    kept = b.add(Binary("add"), after, b.add(Cast("f32"), i))
    return b.graph([go, after, kept] if not limit else [go, after], ["go", "v", "kept"][: 2 + (not limit)])


def _layers() -> Graph:
    """tanh(v @ w): the weight is larger than what stands in a text."""
    b = Builder("layers")
    _, go, v = b.input("i", I64), b.input("go", BOOL), b.input("v", WIDE)
    w = b.constant(np.random.default_rng(0).standard_normal((32, 32), np.float32), "w")
    return b.graph([go, b.add(Unary("tanh"), b.add(MatMul(), v, w))], ["go", "v"])


def _choosing() -> Graph:
    """An If in a Loop: adds x in even iterations, multiplies by it in odd ones."""
    b = Builder("choosing")
    i, go, v, x = b.input("i", I64), b.input("go", BOOL), b.input("v", VECTOR), b.input("x", VECTOR)
    odd = b.add(Cast("bool"), b.add(Binary("mod"), i, b.constant(np.array(2))))
    (new,) = b.add_multi(If(_binary("mul"), _binary("add")), odd, v, x)
    return b.graph([go, new], ["go", "v"])


def _running() -> Graph:
    b = Builder("running")
    total, x, scale = b.input("total", VECTOR), b.input("x", VECTOR), b.input("scale", TensorType("f32", ()))
    after = b.add(Binary("add"), total, x)
    return b.graph([after, b.add(Binary("mul"), after, scale)], ["after", "scaled"])


_YES, _V = np.array(True), Spec("f32", (3,))
ROWS = (
    *(Row(f"if-{value}", If(_binary("add"), _binary("mul")), (np.array(value), _V, _V)) for value in (True, False)),
    *(
        Row(f"loop-{n}-times", Loop(_sums(), 1, 1, n), (np.array(n), _YES, _V, _V), 1e-6)
        for n in (0, 1, 5)
    ),
    Row("loop-not-entered", Loop(_sums(limit=True), 1, 0), (np.array(4), np.array(False), _V, _V)),
    Row("loop-until-large", Loop(_sums(limit=True), 1, 0), (np.array(1000), _YES, _V, Spec("f32", (3,), 1, 2)), 1e-5),
    Row("loop-weights", Loop(_layers(), 1, 0), (np.array(3), _YES, Spec("f32", (2, 32))), 1e-4),
    Row("loop-if", Loop(_choosing(), 1, 0), (np.array(5), _YES, _V, _V), 1e-5),
    *(
        Row(f"scan-{a}-{back:d}-{out}-{forth:d}", Scan(_running(), 1, (a,), (back,), (out,), (forth,)),
            (_V, Spec("f32", (4, 3) if a == 0 else (3, 4)), Spec("f32", ())), 1e-5)
        for a, back, out, forth in ((0, False, 0, False), (1, True, 0, False), (0, False, 1, True))
    ),
)  # fmt: skip
