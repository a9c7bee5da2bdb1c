"""Reductions, arg-reductions, running sums, and softmax and its relatives."""

from __future__ import annotations

from collections.abc import Callable

from ....ir.graph import Value
from ....ir.ops.movement import Iota
from ....ir.ops.norm import LogSoftmax, Softmax
from ....ir.ops.reduce import ArgReduce, CumSum, Reduce
from ..builder import OnnxBuilder, normal_axes, normal_axis
from ..table import OpFunction, Outputs, onnx_op

Reduction = Callable[[OnnxBuilder, Value, tuple[int, ...], bool], Value]


def _plain(fn: str) -> Reduction:
    return lambda b, x, axes, keep: b.add(Reduce(fn, axes, keep), x)


_sum = _plain("sum")


def _log_sum_exp(b: OnnxBuilder, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    """The maximum is taken out, so that nothing overflows; an infinite one is not, so that inf - inf does not arise."""
    top = b.add(Reduce("max", axes, True), x)
    top = b.select(b.unary("isinf", top), b.scalar(0, x.type.dtype), top)
    total = b.add(Reduce("sum", axes, True), b.unary("exp", b.binary("sub", x, top)))
    y = b.binary("add", b.unary("log", total), top)
    return y if keep else b.reshape(y, [n for d, n in enumerate(y.type.shape) if d not in axes])


REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda b, x, axes, keep: _sum(b, b.unary("abs", x), axes, keep),
    "ReduceL2": lambda b, x, axes, keep: b.unary("sqrt", _sum(b, b.binary("mul", x, x), axes, keep)),
    "ReduceLogSum": lambda b, x, axes, keep: b.unary("log", _sum(b, x, axes, keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _plain("max"),
    "ReduceMean": _plain("mean"),
    "ReduceMin": _plain("min"),
    "ReduceProd": _plain("prod"),
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda b, x, axes, keep: _sum(b, b.binary("mul", x, x), axes, keep),
}


def _by_attribute(reduction: Reduction) -> OpFunction:
    def apply(b: OnnxBuilder, x: Value, *, axes: tuple[int, ...] = (), keepdims: int = 1) -> Outputs:
        chosen = normal_axes(axes, x.type.rank) or tuple(range(x.type.rank))
        return reduction(b, x, chosen, bool(keepdims))

    return apply


def _by_input(reduction: Reduction) -> OpFunction:
    def apply(
        b: OnnxBuilder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Outputs:
        chosen = () if axes is None else normal_axes(b.ints(axes, "axes"), x.type.rank)
        if not chosen and not noop_with_empty_axes:
            chosen = tuple(range(x.type.rank))
        return reduction(b, x, chosen, bool(keepdims))

    return apply


for _name, _reduction in REDUCTIONS.items():
    onnx_op(_name, since=1)(_by_attribute(_reduction))
    onnx_op(_name, since=13 if _name == "ReduceSum" else 18)(_by_input(_reduction))


def _arg(fn: str) -> OpFunction:
    def apply(b: OnnxBuilder, x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Outputs:
        return b.add(ArgReduce(fn, normal_axis(axis, x.type.rank), bool(keepdims), bool(select_last_index)), x)

    return apply


onnx_op("ArgMax", since=1)(_arg("max"))
onnx_op("ArgMin", since=1)(_arg("min"))


@onnx_op("CumSum", since=11)
def cum_sum(b: OnnxBuilder, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Outputs:
    along = b.integer(axis, "axis")
    return b.add(CumSum(normal_axis(along, x.type.rank), bool(exclusive), bool(reverse)), x)


# ---- softmax: until opset 12 over all dimensions from the axis on, as one ----


def _hardmax(b: OnnxBuilder, x: Value, axis: int) -> Value:
    best = b.add(ArgReduce("max", axis, True, False), x)
    n = x.type.shape[axis]
    classes = b.reshape(b.add(Iota(n, "i64")), [n if d == axis else 1 for d in range(x.type.rank)])
    return b.cast(b.binary("eq", best, classes), x.type.dtype)


SOFTMAXES: dict[str, Callable[[OnnxBuilder, Value, int], Value]] = {
    "Softmax": lambda b, x, axis: b.add(Softmax(axis), x),
    "LogSoftmax": lambda b, x, axis: b.add(LogSoftmax(axis), x),
    "Hardmax": _hardmax,
}


def _over_rest(softmax: Callable[[OnnxBuilder, Value, int], Value]) -> OpFunction:
    def apply(b: OnnxBuilder, x: Value, *, axis: int = 1) -> Outputs:
        axis = normal_axis(axis, x.type.rank)
        if all(n == 1 for n in x.type.shape[axis + 1 :]):
            return softmax(b, x, axis)
        return b.reshape(softmax(b, b.flatten(x, axis), 1), x.type.shape)

    return apply


def _over_axis(softmax: Callable[[OnnxBuilder, Value, int], Value]) -> OpFunction:
    return lambda b, x, *, axis=-1: softmax(b, x, normal_axis(axis, x.type.rank))


for _name, _softmax in SOFTMAXES.items():
    onnx_op(_name, since=1)(_over_rest(_softmax))
    onnx_op(_name, since=13)(_over_axis(_softmax))
