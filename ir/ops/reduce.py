"""Reductions along axes.

Reductions by max and min skip NaN, as the combiner of a `Compute` does (no number at all: the neutral element);
ArgReduce takes the first NaN for the extremum, as NumPy.  Half-precision sums accumulate in f32.
Axes of the computations: d<i> for each kept dimension i of the operand, reduction axes r<i> for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..compute import Compute, acc_var, identity
from ..dims import multiply_dims, split_index
from ..expr import Expr, as_expr, binary, cast, const
from ..kernel import Alloc, Block, Buffer, For, If, Kernel, Stmt, axis, store
from ..types import Dim, TensorType, dtype_of, is_float
from .arithmetic import arithmetic_dtype, as_dtype, read, require_kind, widen
from .base import Op
from .operands import require, require_axis, require_count


@dataclass(frozen=True)
class Reduction:
    """kinds: letters of `DTypeInfo.kind` that it takes.  combine: of `Compute`."""

    kinds: str
    combine: str
    numpy: Callable[..., np.ndarray]


def _mean(x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
    total = np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)
    count = np.array(np.prod([x.shape[a] for a in axes], dtype=np.int64)).astype(x.dtype)
    if x.dtype.kind not in "iu":
        return total / count
    return np.sign(total) * (np.abs(total) // count)


def _fold(ufunc: np.ufunc, combine: str) -> Callable[[np.ndarray, tuple[int, ...], bool], np.ndarray]:
    def reduce(x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        start = np.array(identity(combine, dtype_of(x))).astype(x.dtype)
        return ufunc.reduce(x, axis=axes, keepdims=keepdims, dtype=x.dtype, initial=start)

    return reduce


REDUCE: dict[str, Reduction] = {
    "sum": Reduction("fiu", "add", _fold(np.add, "add")),
    "prod": Reduction("fiu", "mul", _fold(np.multiply, "mul")),
    "mean": Reduction("fiu", "add", _mean),
    "max": Reduction("fiub", "max", _fold(np.fmax, "max")),
    "min": Reduction("fiub", "min", _fold(np.fmin, "min")),
}


@dataclass(frozen=True)
class Reduce(Op):
    """x reduced over axes (non-negative, distinct; none: x itself).  fn: sum mean prod max min; integers wrap, the
    integer mean truncates towards zero, max and min of bool are "any" and "all"."""

    fn: str
    axes: tuple[int, ...]
    keepdims: bool

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(self.fn in REDUCE, self, "unknown function {!r}, expected one of {}", self.fn, ", ".join(REDUCE))
        require_count(self, types, 1)
        (x,) = types
        require_kind(self, f"the operand of {self.fn}", x, REDUCE[self.fn].kinds)
        require(len(set(self.axes)) == len(self.axes), self, "axes {} are not distinct", self.axes)
        for a in self.axes:
            require_axis(self, a, x)
        divides = self.fn == "mean" and not is_float(x.dtype)
        empty = any(x.shape[a] == 0 for a in self.axes)
        require(not (divides and empty), self, "the integer mean of no elements is not defined, got {}", x)
        return (TensorType(x.dtype, self._output_shape(x.shape)),)

    def _output_shape(self, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        kept = [1 if d in self.axes else n for d, n in enumerate(shape) if self.keepdims or d not in self.axes]
        return tuple(kept)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        with np.errstate(all="ignore"):
            value = REDUCE[self.fn].numpy(widen(x), tuple(self.axes), self.keepdims)
            return (np.asarray(value).astype(x.dtype),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        (x,) = ins
        every = [axis(f"{'r' if d in self.axes else 'd'}{d}", n) for d, n in enumerate(x.shape)]
        axes = tuple(v for d, v in enumerate(every) if d not in self.axes)
        index = tuple(as_expr(0) if d in self.axes else v for d, v in enumerate(every))
        body = read(x, *every)
        if x.dtype == "bool":
            body = cast(body, "u8")
        finish = None
        if self.fn == "mean":
            count = cast(as_expr(multiply_dims(x.shape[a] for a in self.axes)), body.type.dtype)
            finish = binary("div" if is_float(body.type.dtype) else "tdiv", acc_var(body.type.dtype), count)
        return Compute(
            out, axes, body, tuple(every[a] for a in self.axes), REDUCE[self.fn].combine, finish,
            index if self.keepdims and self.axes else None,
        )


LineBody = Callable[[Callable[[Expr], tuple[Expr, ...]]], Block]


def along_axis(name: str, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], at: int, body: LineBody) -> Kernel:
    """A kernel that treats every line of the first operand along an axis on its own, lines in parallel.  body is given
    a function from a position on the line to the operand's index."""
    shape = ins[0].shape
    others = (*shape[:at], *shape[at + 1 :])
    line = axis("line", multiply_dims(others))
    where = split_index(others, line)
    return Kernel(name, (*outs, *ins), (For(line, body(lambda i: (*where[:at], i, *where[at:])), "parallel"),))


@dataclass(frozen=True)
class ArgReduce(Op):
    """The i64 position of the extremum of x along an axis.  fn: max or min; last: of several, the last position."""

    fn: str
    axis: int
    keepdims: bool
    last: bool

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(self.fn in ("max", "min"), self, "unknown function {!r}, expected max or min", self.fn)
        require_count(self, types, 1)
        (x,) = types
        require_kind(self, "the operand", x, "fiu")
        require_axis(self, self.axis, x)
        require(x.shape[self.axis] != 0, self, "axis {} of {} has no elements", self.axis, x)
        kept = (1,) if self.keepdims else ()
        return (TensorType("i64", (*x.shape[: self.axis], *kept, *x.shape[self.axis + 1 :])),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = widen(arrays[0])
        find = np.argmax if self.fn == "max" else np.argmin
        if not self.last:
            return (np.asarray(find(x, axis=self.axis, keepdims=self.keepdims)).astype(np.int64),)
        mirrored = find(np.flip(x, self.axis), axis=self.axis, keepdims=self.keepdims)
        return (np.asarray(x.shape[self.axis] - 1 - mirrored).astype(np.int64),)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        (out,), (x,) = outs, ins
        dtype = arithmetic_dtype(x.dtype)
        best, best_at = Buffer("best", dtype, (), "register"), Buffer("best_at", "i64", (), "register")
        i = axis("i", x.shape[self.axis])

        def body(at: Callable[[Expr], tuple[Expr, ...]]) -> Block:
            value = read(x, *at(i))
            found = (store(best, (), value), store(best_at, (), i))
            index = at(as_expr(0))
            target = index if self.keepdims else (*index[: self.axis], *index[self.axis + 1 :])
            return (
                Alloc(best), Alloc(best_at), store(best, (), read(x, *index)), store(best_at, (), 0),
                For(i, (If(self._better(value, best[()]), found),)), store(out, target, best_at[()]),
            )

        return along_axis(self.name.lower(), outs, ins, self.axis, body)

    def _better(self, value: Expr, best: Expr) -> Expr:
        low, high = (best, value) if self.fn == "max" else (value, best)
        better = binary("le" if self.last else "lt", low, high)
        if not is_float(value.type.dtype):
            return better
        nan = binary("ne", value, value)
        first = nan if self.last else binary("and", nan, binary("eq", best, best))
        return binary("or", better, first)


@dataclass(frozen=True)
class CumSum(Op):
    """Running sums of x along an axis.  exclusive: without the element itself; reverse: from the end."""

    axis: int
    exclusive: bool
    reverse: bool

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        require_kind(self, "the operand", types[0], "fiu")
        require_axis(self, self.axis, types[0])
        return types

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        line = widen(np.moveaxis(x, self.axis, 0))
        line = line[::-1] if self.reverse else line
        sums = np.cumsum(line, axis=0, dtype=line.dtype)
        if self.exclusive:
            sums = np.concatenate([np.zeros_like(sums[:1]), sums[:-1]])
        sums = sums[::-1] if self.reverse else sums
        return (as_dtype(np.ascontiguousarray(np.moveaxis(sums, 0, self.axis)), dtype_of(x)),)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        (out,), (x,) = outs, ins
        acc = Buffer("acc", arithmetic_dtype(x.dtype), (), "register")
        i = axis("i", x.shape[self.axis])

        def body(at: Callable[[Expr], tuple[Expr, ...]]) -> Block:
            index = at(as_expr(x.shape[self.axis]) - 1 - i if self.reverse else i)
            add: Stmt = store(acc, (), acc[()] + read(x, *index))
            write: Stmt = store(out, index, cast(acc[()], out.dtype))
            steps = (write, add) if self.exclusive else (add, write)
            return (Alloc(acc), store(acc, (), const(0, acc.dtype)), For(i, steps))

        return along_axis(self.name.lower(), outs, ins, self.axis, body)
