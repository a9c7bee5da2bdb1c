"""Scalar expressions of the loop IR as operations on whole tensors of one shape.

Activations of recurrent cells, and operators that are an index map and a body (`Op.compute`), are translated by what
they say about one element; a `Load` becomes a gather unless it reads at the axes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...ir.compute import Compute, acc_var, identity
from ...ir.errors import InternalError
from ...ir.expr import Bin, Call, Cast, Const, Expr, Load, Select, Un, Var
from ...ir.kernel import Buffer
from ...ir.types import DTYPES, TensorType, is_float
from .elementwise import Scalars, binary, conversion, unary
from .movement import gather_op
from .writer import Ref, Writer

COMBINERS = {"add": "add", "mul": "multiply", "max": "maximum", "min": "minimum"}


class ExprWriter:
    """Translates expressions over one shape.  env: tensors of this shape for variables; buffers: for what is loaded."""

    def __init__(
        self, w: Writer, shape: Sequence[int], env: Mapping[Expr, Ref], buffers: Mapping[Buffer, Ref] | None = None
    ) -> None:
        self.w = w
        self.shape = tuple(shape)
        self.buffers = buffers or {}
        self.done: dict[Expr, Ref] = dict(env)
        self.axes: dict[Expr, int] = {}

    def write(self, e: Expr) -> Ref:
        if e not in self.done:
            self.done[e] = self._write(e)
        return self.done[e]

    def _write(self, e: Expr) -> Ref:
        match e:
            case Const():
                return self.w.splat(e.value, e.type.dtype, self.shape)
            case Un():
                return unary(self.w, e.op, self.write(e.a))
            case Bin():
                return self._binary(e)
            case Select():
                return self.w.select(self.write(e.cond), self.write(e.a), self.write(e.b))
            case Cast():
                return conversion(self.w, self.write(e.a), e.type.dtype)
            case Call(fn="bitcast", args=(a,)):
                return self.w.simple("bitcast_convert", (self.write(a),), TensorType(e.type.dtype, self.shape))
            case Call(args=(a,)):
                return unary(self.w, e.fn, self.write(a))
            case Call(args=(a, b)):
                return binary(self.w, e.fn, self.write(a), self.write(b))
            case Var() if e in self.axes:
                return self.w.iota(self.shape, self.axes[e], e.type.dtype)
            case Load():
                return self._load(e)
        raise InternalError(f"StableHLO: no translation of the expression {e}")

    def _binary(self, e: Bin) -> Ref:
        a, b = self.write(e.a), self.write(e.b)
        if e.op == "tdiv":
            return self.w.binary("divide", a, b)
        if e.op in ("min", "max") and is_float(a.dtype):  # here NaN on the right gives the left
            return self.w.select(self.w.compare("ne", b, b), a, binary(self.w, e.op, a, b))
        if e.op == "tmod":
            return self.w.binary("remainder", a, b)
        if e.op == "div" and DTYPES[a.dtype].kind == "i":
            s = Scalars(self.w)
            rest = s.sub(a, binary(self.w, "mod", a, b))
            return self.w.binary("divide", rest, b)
        return binary(self.w, e.op, a, b)

    def _load(self, e: Load) -> Ref:
        x = self.buffers[e.buf]
        places = [self.axes.get(i) for i in e.idx]
        whole = all(p is not None and n == self.shape[p] for p, n in zip(places, x.shape, strict=True))
        if whole and places == sorted(set(places)):  # type: ignore[type-var]
            return self.w.broadcast(x, self.shape, places)  # type: ignore[arg-type]
        if not e.idx:
            return self.w.broadcast(x, self.shape, ())
        index = [self.w.reshape(self.write(i), (*self.shape, 1)) for i in e.idx]
        rank = len(self.shape)
        joined = self.w.concatenate(index, rank)
        every = range(len(x.shape))
        return gather_op(
            self.w, x, joined, TensorType(x.dtype, self.shape), offset=(), collapsed=every, mapped=every, index_axis=rank,
            sizes=[1] * len(every),
        )


def write_compute(w: Writer, c: Compute, buffers: Mapping[Buffer, Ref]) -> Ref:
    """A computation with the default output index.  Reduction axes become trailing axes that are reduced."""
    sizes = tuple(v.extent for v in (*c.axes, *c.reduce))
    if c.index is not None or not all(isinstance(n, int) for n in sizes):
        raise InternalError(f"StableHLO: the computation of {c.out.name} has no direct translation")
    outer = ExprWriter(w, c.out.shape, {}, buffers)  # type: ignore[arg-type]
    outer.axes = {v: i for i, v in enumerate(c.axes)}
    if c.is_map:
        return conversion(w, outer.write(c.finish if c.finish is not None else c.body), c.out.dtype)
    inner = ExprWriter(w, sizes, {}, buffers)  # type: ignore[arg-type]
    inner.axes = {v: i for i, v in enumerate((*c.axes, *c.reduce))}
    start = w.splat(np.array(identity(c.combine, c.acc) if c.init is None else c.init), c.acc)
    total = w.reduce(COMBINERS[c.combine], inner.write(c.body), start, range(len(c.axes), len(sizes)))
    if c.finish is not None:
        outer.done[acc_var(c.acc)] = total
        total = outer.write(c.finish)
    return conversion(w, total, c.out.dtype) if is_float(total.dtype) else w.convert(total, c.out.dtype)
