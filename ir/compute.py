"""The loop-level meaning of an operator: parallel axes, reduction axes, index maps, a scalar body, a combiner.

One form covers map, reduce, contraction, convolution and pooling windows (affine reads), gather (a Load inside an index)
and transposing writes (`index`).  Its naive meaning:

    for axes: acc = init; for reduce: acc = combine(acc, body); out[index] = finish(acc)      (reduction)
    for axes: out[index] = body                                                              (map: combine is "")
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .errors import InternalError
from .expr import Expr, Load, Type, Var, binary, cast, const
from .kernel import Alloc, Block, Buffer, Kernel, Stmt, Store, nest
from .traverse import rewrite, substitute, walk

IDENTITY: dict[str, Any] = {"add": 0, "mul": 1, "max": float("-inf"), "min": float("inf")}



def identity(op: str, dtype: str) -> Any:
    """The neutral element of a combiner."""
    if op in ("max", "min") and dtype[0] in "iub" and dtype != "bf16":
        if dtype == "bool":
            return op == "min"
        bits = int(dtype[1:])
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype[0] == "i" else (0, 2**bits - 1)
        return low if op == "max" else high
    return IDENTITY[op]


def acc_var(dtype: str) -> Var:
    """Stands for the reduced value in `Compute.finish`."""
    return Var.of("acc", None, Type(dtype))


@dataclass(frozen=True, eq=False)
class Compute:
    """out: what is written.  body: over axes and reduce; reads are Loads.  acc: element type of the accumulator, that of
    body.  finish: over axes and `acc_var(acc)`.  index: output index map, default the axes.  init: default the neutral
    element of combine, or an expression over axes."""

    out: Buffer
    axes: tuple[Var, ...]
    body: Expr
    reduce: tuple[Var, ...] = ()
    combine: str = ""
    finish: Expr | None = None
    index: tuple[Expr, ...] | None = None
    init: Any = None

    @property
    def acc(self) -> str:
        return self.body.type.dtype

    @property
    def out_index(self) -> tuple[Expr, ...]:
        return self.axes if self.index is None else self.index

    @property
    def is_map(self) -> bool:
        return not self.combine

    def result(self, value: Expr) -> Expr:
        """The stored value, given the reduced one (for a map: given the body)."""
        if self.finish is not None:
            value = substitute(self.finish, {acc_var(self.acc): value})
        return cast(value, self.out.dtype)

    def reads(self) -> tuple[Load, ...]:
        """Every distinct Load of body, finish and index."""
        found: dict[Load, None] = {}
        for e in (self.body, *([self.finish] if self.finish is not None else []), *self.out_index):
            for x in walk(e):
                if isinstance(x, Load):
                    found[x] = None
        return tuple(found)


def lower_compute(c: Compute, suffix: str = "") -> Block:
    """The naive loops of one computation."""
    if c.is_map:
        if c.reduce:
            raise InternalError("a map has no reduction axes")
        return nest(c.axes, (Store(c.out, c.out_index, c.result(c.body)),))
    acc = Buffer("acc" + suffix, c.acc, (), "register")
    start = identity(c.combine, c.acc) if c.init is None else c.init
    init = start if isinstance(start, Expr) else const(start, Type(c.acc))
    body: tuple[Stmt, ...] = (
        Alloc(acc),
        Store(acc, (), init),
        *nest(c.reduce, (Store(acc, (), binary(c.combine, acc[()], c.body)),), attrs=("reduce",)),
        Store(c.out, c.out_index, c.result(acc[()])),
    )
    return nest(c.axes, body)


def lower_group(name: str, params: tuple[Buffer, ...], group: tuple[Compute, ...]) -> Kernel:
    """The naive kernel of several computations in order; what they write beside the parameters is temporary."""
    body: Block = ()
    temporaries: list[Buffer] = []
    for n, c in enumerate(group):
        body += lower_compute(c, str(n) if len(group) > 1 else "")
        if c.out not in params and c.out not in temporaries:
            temporaries.append(c.out)
    return Kernel(name, params, tuple(Alloc(t) for t in temporaries) + body)


def inline(consumer: Compute, producer: Compute) -> Compute:
    """Compute the producer where the consumer reads it (prologue fusion).  Requires a map that writes at its axes."""
    if not producer.is_map or producer.index is not None:
        raise InternalError(f"cannot inline {producer.out.name}: it is not a plain map")

    def read(e: Expr) -> Expr | None:
        if isinstance(e, Load) and e.buf == producer.out:
            value = substitute(producer.result(producer.body), dict(zip(producer.axes, e.idx, strict=True)))
            return cast(value, e.type.dtype)
        return None

    memo: dict[Expr, Expr] = {}
    finish = None if consumer.finish is None else rewrite(consumer.finish, read, memo)
    index = None if consumer.index is None else tuple(rewrite(i, read, memo) for i in consumer.index)
    return replace(consumer, body=rewrite(consumer.body, read, memo), finish=finish, index=index)


def append(producer: Compute, consumer: Compute) -> Compute:
    """Apply a map to the producer's result before it is stored (epilogue fusion).  Requires that the consumer is a map
    that reads the producer's output only at its own axes, with the same extents; the axes become the producer's."""
    if not consumer.is_map:
        raise InternalError("only a map can be appended")
    rename: dict[Expr, Expr] = dict(zip(consumer.axes, producer.out_index, strict=True))
    acc = acc_var(producer.acc)
    value = producer.finish if producer.finish is not None else acc
    value = cast(value, producer.out.dtype)

    def read(e: Expr) -> Expr | None:
        if isinstance(e, Load) and e.buf == producer.out:
            if e.idx != tuple(rename[a] for a in consumer.axes):
                raise InternalError(f"cannot append: {producer.out.name} is read elsewhere than at the axes")
            return value
        return None

    body = rewrite(substitute(consumer.result(consumer.body), rename), read)
    if producer.is_map:
        body = substitute(body, {acc: producer.body})
        return replace(producer, out=consumer.out, body=body, finish=None)
    return replace(producer, out=consumer.out, finish=body)


