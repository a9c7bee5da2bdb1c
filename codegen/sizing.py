"""What a program with open dimensions computes from their sizes before it runs: checks, memory plan, shapes.

A symbol is a dimension that is a number only at run time, read off the shapes of the inputs that a caller gives.

The arena of such a program has slots, one for each root.  Their order in memory is planned once, for typical sizes; at
run time a slot begins where the slots below it end that are alive at the same time:

    offset(s) = max over p in s.after of offset(p) + size(p)

so that no two live slots overlap whatever the sizes are, and for the typical sizes the arena is as small as planned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..ir.dims import multiply_dims, normal_dim, symbols
from ..ir.expr import Bin, Expr, Var, as_expr, binary
from ..ir.graph import Graph, Node, Value
from ..ir.ops.movement import GatherElements, Pad, Reshape, Slice
from ..ir.ops.refine import Refine
from ..ir.ops.scatter import ScatterElements
from ..ir.ops.sort import TopK
from ..ir.products import at_least
from ..ir.traverse import substitute, walk
from ..ir.types import DTYPES, Dim, TensorType
from ..ir.verify import subgraphs
from .arena import Interval

TYPICAL = 64  # of an unbounded dimension, where a choice has to be made at compile time


def typical_of(low: int, high: int | None) -> int:
    """The size of a dimension from low to high (None: unbounded) at which choices are made and figures are given."""
    return max(low, TYPICAL if high is None else min(high, TYPICAL))


@dataclass(frozen=True)
class Symbol:
    """A dimension of run time, its least and largest size (None: unbounded)."""

    var: Var
    low: int = 1
    high: int | None = None

    @property
    def typical(self) -> int:
        return typical_of(self.low, self.high)


@dataclass(frozen=True)
class Check:
    """`value` must be 0 or more (equal: exactly 0); text says what is wrong otherwise."""

    value: Expr
    text: str
    equal: bool = False


@dataclass(frozen=True)
class Slot:
    """Bytes of arena memory; after: the slots before it that it lies behind."""

    size: Dim
    after: tuple[int, ...]


@dataclass(frozen=True)
class Sizing:
    """symbols: in the order of the table of sizes at run time.  scratch: what each kernel needs of it, in bytes.
    volumes: sizes that must not be beyond all memory."""

    symbols: tuple[Symbol, ...]
    checks: tuple[Check, ...] = ()
    slots: tuple[Slot, ...] = ()
    scratch: tuple[Dim, ...] = ()
    volumes: tuple[Dim, ...] = ()

    def number(self, v: Var) -> int:
        return next(n for n, s in enumerate(self.symbols) if s.var is v)

    def typical(self, d: Dim) -> int:
        return evaluate(d, typical_sizes(self.symbols))


def typical_sizes(found: Iterable[Symbol]) -> dict[Var, int]:
    return {s.var: s.typical for s in found}


def evaluate(d: Dim, sizes: Mapping[Var, int]) -> int:
    """A dimension as a number, all of whose symbols are given."""
    if isinstance(d, int):
        return d
    found = substitute(d, {v: as_expr(n) for v, n in sizes.items()})
    return int(found.value)  # type: ignore[attr-defined]


def as_number(d: Dim) -> int:
    """A dimension without symbols."""
    return evaluate(d, {})


def bytes_of(t: TensorType) -> Dim:
    """Bytes of a dense array."""
    return normal_dim(multiply_dims((*t.shape, DTYPES[t.dtype].size)))


def slots_of(
    intervals: Sequence[Interval], offsets: Sequence[int], sizes: Sequence[Dim]
) -> tuple[tuple[Slot, ...], list[int]]:
    """The slots of buffers with these lives and sizes, the lowest first as in a plan for typical sizes, and the number of
    each buffer's slot.  What a slot lies behind anyway, through another one, is left out."""
    order = sorted(range(len(sizes)), key=lambda n: (offsets[n], n))
    number = {n: position for position, n in enumerate(order)}
    reached: list[set[int]] = []  # by slot: all that it lies behind
    slots: list[Slot] = []
    for n in order:
        me, near, below = intervals[n], [], set[int]()
        for m in reversed(order[: len(slots)]):
            other = intervals[m]
            if other.last < me.first or me.last < other.first or number[m] in below:
                continue
            near.append(number[m])
            below |= reached[number[m]] | {number[m]}
        reached.append(below)
        slots.append(Slot(sizes[n], tuple(sorted(near))))
    return tuple(slots), [number[n] for n in range(len(sizes))]


# ---- what must hold ------------------------------------------------------------------------------------------------


def checks_of(graph: Graph) -> Iterator[Check]:
    """What the sizes of a graph must fulfil beyond what their inference has shown, each once."""
    seen: set[tuple[Expr, bool]] = set()
    for check in _all_checks(graph):
        if (check.value, check.equal) not in seen:
            seen.add((check.value, check.equal))
            yield check


def _all_checks(graph: Graph) -> Iterator[Check]:
    for node in graph.nodes:
        where = f"{node.op.name} at {node.where!r}" if node.where else node.op.name
        for v in node.outputs:
            for d in v.type.shape:
                yield from _not_negative(d, f"{where}: a dimension of {v.type} is negative")
        yield from _node_checks(node, where)
        for inner in subgraphs(node.op):
            yield from _all_checks(inner)


def _not_negative(value: Dim, text: str) -> Iterator[Check]:
    if isinstance(value, int):
        if value < 0:
            yield Check(as_expr(value), text)
    elif not at_least(value, 0):
        yield Check(value, text)


def _node_checks(node: Node, where: str) -> Iterator[Check]:
    op, types = node.op, [v.type for v in node.inputs]
    match op:
        case Reshape():
            rest = normal_dim(as_expr(multiply_dims(types[0].shape)) - as_expr(multiply_dims(op.shape)))
            if rest != 0:
                yield Check(as_expr(rest), f"{where}: {types[0]} does not fit into {node.outputs[0].type}", True)
        case Refine():
            for d, (n, m) in enumerate(zip(types[0].shape, op.shape, strict=True)):
                if normal_dim(n - m) != 0:
                    yield Check(as_expr(n - m), f"{where}: dimension {d} of {types[0]} must be {m}", True)
        case Slice():
            for n, start, size, step in zip(types[0].shape, op.starts, op.sizes, op.steps, strict=True):
                last = start + (size - 1) * step
                some = binary("min", as_expr(size), 1)
                for edge in (start, n - 1 - start, last, n - 1 - last):
                    if not isinstance(edge, int) and not at_least(edge, 0):
                        yield Check(as_expr(edge * some), f"{where}: it reaches outside of {types[0]}")
        case Pad() if op.mode == "reflect":
            for n, a, b in zip(types[0].shape, op.before, op.after, strict=True):
                for p in (a, b):
                    yield from _not_negative(normal_dim(n - 1 - p), f"{where}: more is reflected than {types[0]} has")
        case TopK():
            yield from _not_negative(normal_dim(types[0].shape[op.axis] - op.k), f"{where}: {types[0]} has fewer elements")
        case GatherElements() | ScatterElements():
            for d, (n, m) in enumerate(zip(types[0].shape, types[1].shape, strict=True)):
                if d != op.axis:
                    yield from _not_negative(normal_dim(n - m), f"{where}: {types[1]} is larger than {types[0]}")


def symbols_of(graph: Graph, without: Collection[Value] = ()) -> tuple[Var, ...]:
    """Every symbol of a graph, those of the inputs first, in the order of their appearance; not those that only the types of
    some values have."""
    dims = [d for v in (*graph.inputs, *graph.outputs) if v not in without for d in v.type.shape]
    for node in graph.nodes:
        dims += [d for v in node.outputs if v not in without for d in v.type.shape]
        for inner in subgraphs(node.op):
            dims += symbols_of(inner)
    return symbols(dims)


def products_in(dims: Iterable[Dim]) -> tuple[Expr, ...]:
    """The products in sizes, each once, operands before users: none of them may overflow."""
    found: dict[Expr, None] = {}
    for d in dims:
        if isinstance(d, Expr):
            found.update((e, None) for e in walk(d) if isinstance(e, Bin) and e.op == "mul")
            found[d] = None
    return tuple(found)
