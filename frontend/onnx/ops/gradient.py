"""Gradients: the reverse of the operators between some values and another, added to the graph as ordinary operators.

    y = f(x)      ->  dx = rule of f(x, y, dy), from the last operator to the first; what reaches a value twice is added

A composite operator is taken apart first.  An operator without a rule that x leads through is an error, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ....ir.errors import ModelError
from ....ir.graph import Node, Value
from ....ir.ops.base import form_of
from ....ir.ops.contract import MatMul
from ....ir.ops.elementwise import Binary, Cast, Select, Unary
from ....ir.ops.movement import Broadcast, Concat, Pad, Reshape, Slice, Transpose
from ....ir.ops.norm import LogSoftmax, Softmax
from ....ir.ops.reduce import Reduce
from ....ir.types import is_float
from ..builder import OnnxBuilder
from ..symbolic import product
from ..table import Outputs, onnx_op
from .training import DOMAIN

Gradients = Sequence["Value | None"]  # one per operand; None: it has none
Rule = Callable[[OnnxBuilder, Any, Sequence[Value], Value, Value], Gradients]


@onnx_op("Gradient", since=1, domain=DOMAIN)
def gradient(
    b: OnnxBuilder, *operands: Value, xs: tuple[str, ...], y: str, zs: tuple[str, ...] | None = None
) -> Outputs:
    """dy/dx for each of xs, where they and zs have the values of the operands.  The sum over y, if it has several elements."""
    names = (*xs, *(zs or ()))
    if len(names) != len(operands):
        raise ModelError(f"the attributes name {len(names)} values, there are {len(operands)} operands")
    env: dict[Value, Value] = {}
    for name, given in zip(names, operands, strict=True):
        v = b.named(name)
        if not isinstance(v, Value) or v.type != given.type:
            raise ModelError(f"{name!r} is {v.type if isinstance(v, Value) else 'no tensor'}, its operand is {given.type}")
        if name in xs and (given in b.constants or v in b.constants or not is_float(v.type.dtype)):
            raise ModelError(f"{name!r} is a constant, or has no floats: nothing can be derived with respect to it")
        env[v] = given
    target = b.named(y)
    if not isinstance(target, Value):
        raise ModelError(f"{y!r} is no tensor")
    wanted = [env[b.named(name)] for name in xs]  # pyright: ignore
    return tuple(_derived(b, _primitive(b, target, env), wanted))


def _between(b: OnnxBuilder, target: Value, stops: Collection[Value]) -> list[Node]:
    """The nodes that a value is made by, up to some values, in order."""
    found: set[Node] = set()
    stack = [target]
    while stack:
        v = stack.pop()
        node = None if v in stops else b.producers.get(v)
        if node is not None and node not in found:
            found.add(node)
            stack += node.inputs
    return [n for n in b.nodes if n in found]


def _primitive(b: OnnxBuilder, target: Value, env: dict[Value, Value]) -> Value:
    """A value computed anew by operators that are not composite, with other values in the place of some."""
    env = dict(env)
    for node in _between(b, target, env.keys()):
        inputs = [env.get(v, v) for v in node.inputs]
        if form_of(node.op) == "expand" and type(node.op) not in _RULES:
            made = node.op.expand(b, *inputs)
            made = tuple(_primitive(b, v, {x: x for x in inputs}) for v in made)
        else:
            made = b.add_multi(node.op, *inputs)
        env.update(zip(node.outputs, made, strict=True))
    return env.get(target, target)


def _derived(b: OnnxBuilder, target: Value, wanted: Sequence[Value]) -> list[Value]:
    nodes = _between(b, target, wanted)
    active = set(wanted)
    for node in nodes:
        if active.intersection(node.inputs):
            active.update(v for v in node.outputs if is_float(v.type.dtype))
    one = b.scalar(1, target.type.dtype)
    found = {target: b.broadcast(one, target.type.shape)}
    for node in reversed(nodes):
        gradients = [found.get(v) for v in node.outputs]
        if not active.intersection(node.inputs) or not any(g is not None for g in gradients):
            continue
        rule = _RULES.get(type(node.op))
        if rule is None or len(node.outputs) != 1 or gradients[0] is None:
            raise ModelError(f"there is no rule for the gradient of {node.op}, which is between the values")
        for v, g in zip(node.inputs, rule(b, node.op, node.inputs, node.outputs[0], gradients[0]), strict=True):
            if v in active and g is not None:
                found[v] = b.binary("add", found[v], g) if v in found else g
    zero = {v: b.broadcast(b.scalar(0, v.type.dtype), v.type.shape) for v in wanted if v not in found}
    return [found[v] if v in found else zero[v] for v in wanted]


# ---- the rules ----


def _summed_to(b: OnnxBuilder, g: Value, like: Value) -> Value:
    """The sum over what an operand was broadcast along."""
    shape = (1,) * (g.type.rank - like.type.rank) + like.type.shape
    axes = tuple(d for d, (n, m) in enumerate(zip(shape, g.type.shape, strict=True)) if n != m)
    return b.reshape(b.add(Reduce("sum", axes, True), g) if axes else g, like.type.shape)


def _times(b: OnnxBuilder, g: Value, *factors: Value | float) -> Value:
    for factor in factors:
        g = b.binary("mul", g, factor)
    return g


def _one_minus_square(b: OnnxBuilder, v: Value) -> Value:
    return b.binary("sub", b.scalar(1, v.type.dtype), b.binary("mul", v, v))


def _plus_one(b: OnnxBuilder, v: Value) -> Value:
    return b.binary("add", b.binary("mul", v, v), 1)


# Function -> the derivative from the operand x and the result y.
_SLOPES: dict[str, Callable[[OnnxBuilder, Value, Value], Value]] = {
    "neg": lambda b, x, y: b.scalar(-1, x.type.dtype),
    "abs": lambda b, x, y: b.unary("sign", x),
    "exp": lambda b, x, y: y,
    "log": lambda b, x, y: b.unary("reciprocal", x),
    "sqrt": lambda b, x, y: b.unary("reciprocal", b.binary("mul", y, 2)),
    "reciprocal": lambda b, x, y: b.unary("neg", b.binary("mul", y, y)),
    "erf": lambda b, x, y: b.binary("mul", b.unary("exp", b.unary("neg", b.binary("mul", x, x))), 2 / math.sqrt(math.pi)),
    "tanh": lambda b, x, y: _one_minus_square(b, y),
    "sigmoid": lambda b, x, y: b.binary("sub", y, b.binary("mul", y, y)),
    "sin": lambda b, x, y: b.unary("cos", x),
    "cos": lambda b, x, y: b.unary("neg", b.unary("sin", x)),
    "tan": lambda b, x, y: _plus_one(b, y),
    "sinh": lambda b, x, y: b.unary("cosh", x),
    "cosh": lambda b, x, y: b.unary("sinh", x),
    "asin": lambda b, x, y: b.unary("reciprocal", b.unary("sqrt", _one_minus_square(b, x))),
    "acos": lambda b, x, y: b.unary("neg", b.unary("reciprocal", b.unary("sqrt", _one_minus_square(b, x)))),
    "atan": lambda b, x, y: b.unary("reciprocal", _plus_one(b, x)),
    "asinh": lambda b, x, y: b.unary("reciprocal", b.unary("sqrt", _plus_one(b, x))),
    "acosh": lambda b, x, y: b.unary("reciprocal", b.unary("sqrt", b.binary("sub", b.binary("mul", x, x), 1))),
    "atanh": lambda b, x, y: b.unary("reciprocal", _one_minus_square(b, x)),
}
_FLAT = ("sign", "floor", "ceil", "rint")


def _unary(b: OnnxBuilder, op: Unary, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    if op.fn in _FLAT:
        return (None,)
    if op.fn not in _SLOPES:
        raise ModelError(f"there is no rule for the gradient of the function {op.fn}")
    return (_times(b, g, _SLOPES[op.fn](b, ins[0], y)),)


def _binary(b: OnnxBuilder, op: Binary, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    u, v = ins
    if op.fn in ("add", "sub"):
        made = (g, g if op.fn == "add" else b.unary("neg", g))
    elif op.fn == "mul":
        made = (_times(b, g, v), _times(b, g, u))
    elif op.fn == "div":
        made = (b.binary("div", g, v), b.unary("neg", b.binary("div", _times(b, g, y), v)))
    elif op.fn in ("max", "min"):
        first = b.binary("ge" if op.fn == "max" else "le", u, v)  # the first operand where both are equal
        zero = b.scalar(0, g.type.dtype)
        made = (b.select(first, g, zero), b.select(first, zero, g))
    elif op.fn == "pow":
        base = _times(b, g, v, b.binary("pow", u, b.binary("sub", v, 1)))
        zero, one = b.scalar(0, g.type.dtype), b.scalar(1, g.type.dtype)
        log = b.unary("log", b.select(b.binary("eq", u, 0), one, u))
        made = (b.select(b.binary("eq", v, 0), zero, base), _times(b, g, y, log))
    else:
        raise ModelError(f"there is no rule for the gradient of the function {op.fn}")
    return tuple(_summed_to(b, part, x) for part, x in zip(made, ins, strict=True))


def _select(b: OnnxBuilder, op: Select, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    zero = b.scalar(0, g.type.dtype)
    return (None, _summed_to(b, b.select(ins[0], g, zero), ins[1]), _summed_to(b, b.select(ins[0], zero, g), ins[2]))


def _reduce(b: OnnxBuilder, op: Reduce, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    if op.fn not in ("sum", "mean"):
        raise ModelError(f"there is no rule for the gradient of the reduction {op.fn}")
    (x,) = ins
    kept = [1 if d in op.axes else n for d, n in enumerate(x.type.shape)]
    spread = b.broadcast(b.reshape(g, kept), x.type.shape)
    if op.fn == "sum":
        return (spread,)
    count = b.reshape(b.dim_tensor([product([x.type.shape[d] for d in op.axes])]), ())
    return (b.binary("div", spread, b.cast(count, g.type.dtype)),)


def _matmul(b: OnnxBuilder, op: MatMul, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    u, v = ins
    turned = [b.transpose(x, (*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2)) for x in ins]
    return (_summed_to(b, b.add(MatMul(), g, turned[1]), u), _summed_to(b, b.add(MatMul(), turned[0], g), v))


def _slice(b: OnnxBuilder, op: Slice, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    (x,) = ins
    if any(s != 1 for s in op.steps) or not x.type.is_static:
        raise ModelError(f"there is no rule for the gradient of {op} of {x.type}")
    after = tuple(n - s - k for n, s, k in zip(x.type.shape, op.starts, op.sizes, strict=True))
    return (b.add(Pad(op.starts, after, "constant"), g, b.scalar(0, g.type.dtype)),)


def _pad(b: OnnxBuilder, op: Pad, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    x = ins[0]
    if op.mode != "constant" or any(isinstance(n, int) and n < 0 for n in (*op.before, *op.after)):
        raise ModelError(f"there is no rule for the gradient of {op}")
    part = b.add(Slice(op.before, x.type.shape, (1,) * x.type.rank), g)
    total = b.add(Reduce("sum", tuple(range(g.type.rank)), False), b.binary("sub", g, b.add(
        Pad(op.before, op.after, "constant"), part, b.scalar(0, g.type.dtype))))  # fmt: skip
    return (part, total)


def _concat(b: OnnxBuilder, op: Concat, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    made, start = [], 0
    for x in ins:
        made.append(b.slice(g, op.axis, start, x.type.shape[op.axis]))
        start = start + x.type.shape[op.axis]  # type: ignore[assignment]
    return made


def _softmax(b: OnnxBuilder, op: Softmax, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    total = b.add(Reduce("sum", (op.axis,), True), _times(b, g, y))
    return (_times(b, y, b.binary("sub", g, total)),)


def _log_softmax(b: OnnxBuilder, op: LogSoftmax, ins: Sequence[Value], y: Value, g: Value) -> Gradients:
    total = b.add(Reduce("sum", (op.axis,), True), g)
    return (b.binary("sub", g, _times(b, b.unary("exp", y), total)),)


def _inverse(perm: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


_RULES: dict[type, Rule] = {
    Unary: _unary, Binary: _binary, Select: _select, Reduce: _reduce, MatMul: _matmul, Slice: _slice, Pad: _pad,
    Concat: _concat, Softmax: _softmax, LogSoftmax: _log_softmax,
    Cast: lambda b, op, ins, y, g: (b.cast(g, ins[0].type.dtype) if is_float(ins[0].type.dtype) else None,),
    Reshape: lambda b, op, ins, y, g: (b.reshape(g, ins[0].type.shape),),
    Transpose: lambda b, op, ins, y, g: (b.transpose(g, _inverse(op.perm)),),
    Broadcast: lambda b, op, ins, y, g: (_summed_to(b, g, ins[0]),),
}
