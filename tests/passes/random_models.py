"""Random graphs for passes: movement and elementwise nodes, with reductions, softmaxes, gathers and neutral constants."""

from __future__ import annotations

import numpy as np
from codegen.random_graphs import EXACT, MOVEMENT, Draw, Step
from tilewright.ir.graph import Graph, Value
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.elementwise import Binary, Cast, Select, Unary
from tilewright.ir.ops.movement import Gather
from tilewright.ir.ops.norm import LayerNorm, Softmax
from tilewright.ir.ops.reduce import CumSum, Reduce


def _float(d: Draw, rank: int = 0) -> Value | None:
    return d.value(lambda v: v.type.dtype == "f32" and v.type.rank >= rank and v.type.size > 0)


def with_constant(d: Draw) -> Value | None:
    """x fn c, with numbers that rules look for, as a scalar or with some of the trailing dimensions of x."""
    x = _float(d)
    if x is None:
        return None
    numbers = (0.0, 1.0, 4.0, -1.5, float("inf"))
    shape = tuple(n if d.int(0, 1) else 1 for n in x.type.static_shape)[d.int(0, x.type.rank) :]
    c = np.full(shape, d.pick(numbers[:4]), np.float32) if d.int(0, 2) else d.floats(*shape)
    operands = (x, d.b.constant(c))
    fn = d.pick(("add", "sub", "mul", "max", "min", "div"))
    if fn == "div":
        operands = (x, d.b.constant(np.float32(d.pick(numbers[1:4]))))
    return d.b.add(Binary(fn), *(operands if fn == "div" or d.int(0, 1) else operands[::-1]))


def broadcast_binary(d: Draw) -> Value | None:
    """Two values, one with some dimensions reduced to 1."""
    x = _float(d, 1)
    if x is None:
        return None
    axes = tuple(a for a in range(x.type.rank) if d.int(0, 1))
    return d.b.add(Binary(d.pick(("add", "max"))), x, d.b.add(Reduce("max", axes, True), x))


def reduction(d: Draw) -> Value | None:
    x = _float(d, 1)
    if x is None:
        return None
    axes = tuple(a for a in range(x.type.rank) if d.int(0, 2) == 0)
    return d.b.add(Reduce(d.pick(("sum", "max", "min")), axes, bool(d.int(0, 1))), x)


def along_axis(d: Draw) -> Value | None:
    x = _float(d, 1)
    if x is None:
        return None
    axis = d.int(0, x.type.rank - 1)
    return d.b.add(Softmax(axis) if d.int(0, 1) else CumSum(axis, False, False), x)


def gather(d: Draw) -> Value | None:
    x = _float(d, 1)
    if x is None:
        return None
    axis = d.int(0, x.type.rank - 1)
    count = x.type.static_shape[axis]
    indices = d.rng.integers(0, count, d.pick(((), (1,), (2,), (1, 2))))
    return d.b.add(Gather(axis), x, d.b.constant(indices))


def select(d: Draw) -> Value | None:
    x = _float(d)
    y = None if x is None else d.value(lambda v: v.type == x.type)
    if x is None or y is None:
        return None
    condition = d.b.add(Binary("lt"), x, y)
    return d.b.add(Select(), d.b.add(Unary("not"), condition) if d.int(0, 1) else condition, x, y)


def casts(d: Draw) -> Value | None:
    x = _float(d)
    return None if x is None else d.b.add(Cast("f32"), d.b.add(Cast("f64"), x))


def product(d: Draw) -> Value | None:
    x = _float(d, 2)
    if x is None:
        return None
    return d.b.add(MatMul(), x, d.b.constant(d.floats(x.type.static_shape[-1], d.int(1, 3))))


def norm(d: Draw) -> Value | None:
    x = _float(d, 2)
    if x is None:
        return None
    size = x.type.static_shape[-1]
    return d.b.add(LayerNorm(x.type.rank - 1, 1e-3), x, d.b.constant(d.floats(size)), d.b.constant(d.floats(size)))


COMPUTING: tuple[Step, ...] = (
    with_constant, with_constant, broadcast_binary, reduction, along_axis, gather, select, casts, product, norm,
)


def random_model(seed: int) -> Graph:
    d = Draw(seed)
    shape = tuple(d.int(1, 4) for _ in range(d.int(2, 4)))
    d.input(d.floats(*shape))
    d.input(d.floats(*shape))
    d.grow((*MOVEMENT, *MOVEMENT, *EXACT, *COMPUTING), d.int(4, 16))
    return d.graph()[0]
