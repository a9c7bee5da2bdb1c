"""The loop-level tensor IR: buffers, statements, kernels.

    Buffer  = (name, dtype, shape, strides, space, align, attrs)
    Stmt    = For(var, body, kind) | If(cond, then, other) | Alloc(buf) | Store(buf, idx, value)
            | Prefetch(buf, idx, level) | Barrier(scope) | Read(stream, buf, idx) | Write(stream, value) | Do(fn, args)
    Kernel  = (name, params, body)

Loops run from 0 with step 1 and carry no values: what lives across iterations is a small array in a `register` buffer,
indexed by unrolled loops.  A name means every loop of that axis, so copies made by schedules keep the variable.
Vectors are in the expressions, not a kind of loop.  Unrolled loops stay loops until they are printed.

Loop attributes: "reduce" (a reduction: iterations depend on each other), "reverse" (a parallel or serial loop whose
iterations, for each thread its own, run from the last to the first), ("interleave", n) (a parallel loop over n equal parts
one after the other; a thread that runs them all alone takes the first iteration of each part, then the second, ...),
("resident", n) on a loop over blocks (a multiprocessor shall hold n at once, which limits the registers of a thread).
Loop kinds: serial, unroll, parallel (iterations are shared among the threads that all run the kernel; only outermost
loops), block.x/y/z and thread.x/y/z (CUDA), pipeline (HLS).
Spaces: global (parameters), stack, register, shared (CUDA), local (HLS arrays), stream (HLS).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Union

from .errors import InternalError
from .expr import I64, Expr, ExprLike, Type, Var, as_expr, is_const, linear, load
from .products import coefficient_of, normal
from .traverse import substitute, uses
from .types import Dim


@dataclass(frozen=True)
class Buffer:
    """A named array.  strides (in elements) default to dense row-major; dimensions and strides may be symbolic.
    attrs: facts for emitters, for example ("may_alias",) for a parameter that shares memory with another."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    space: str = "global"
    strides: tuple[Dim, ...] | None = None
    align: int = 64
    attrs: tuple[object, ...] = ()

    def __getitem__(self, idx: ExprLike | tuple[ExprLike, ...]) -> Expr:
        return load(self, *(idx if isinstance(idx, tuple) else (idx,)))

    @property
    def size(self) -> int:
        """Number of elements of a dense buffer of static shape."""
        return prod(self.static_shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as ints.  Raises InternalError when a dimension is symbolic."""
        sizes: list[int] = []
        for d in self.shape:
            if not isinstance(d, int):
                raise InternalError(f"buffer {self.name} has a symbolic dimension {d}")
            sizes.append(d)
        return tuple(sizes)


def flat_index(buf: Buffer, idx: tuple[Expr, ...]) -> Expr:
    """The element offset of an index, as a canonical linear form."""
    if buf.strides is not None:
        total: Expr = as_expr(0)
        for i, s in zip(idx, buf.strides, strict=True):
            total = total + i * s
        return normal(total)
    total = as_expr(0)
    for i, n in zip(idx, buf.shape, strict=True):
        total = total * as_expr(n) + i
    return normal(total)


class Stmt:
    """Base of all statements; compared by identity."""


@dataclass(frozen=True, eq=False)
class For(Stmt):
    """attrs: "reduce" on the loops of a reduction, whose iterations depend on each other; `noted(text)`: what the loop does,
    for those who read the printed kernel; "rolled": a C++ compiler shall not unroll it."""

    var: Var
    body: tuple[Stmt, ...]
    kind: str = "serial"
    attrs: tuple[object, ...] = ()


@dataclass(frozen=True, eq=False)
class If(Stmt):
    cond: Expr
    then: tuple[Stmt, ...]
    other: tuple[Stmt, ...] = ()


@dataclass(frozen=True, eq=False)
class Alloc(Stmt):
    """The buffer lives to the end of the enclosing block."""

    buf: Buffer


@dataclass(frozen=True, eq=False)
class Store(Stmt):
    """buf[idx] = value.  A vector value is stored contiguously from a scalar index, scattered by a vector index.
    mode "async": a copy from global memory that completes at a later wait."""

    buf: Buffer
    idx: tuple[Expr, ...]
    value: Expr
    mode: str = ""


@dataclass(frozen=True, eq=False)
class Prefetch(Stmt):
    buf: Buffer
    idx: tuple[Expr, ...]
    level: int = 2


@dataclass(frozen=True, eq=False)
class Barrier(Stmt):
    """scope: "pool" (all threads that run the kernel) or "block" (CUDA)."""

    scope: str = "pool"


@dataclass(frozen=True, eq=False)
class Read(Stmt):
    """buf[idx] = stream.read()"""

    stream: Buffer
    buf: Buffer
    idx: tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Write(Stmt):
    stream: Buffer
    value: Expr


@dataclass(frozen=True, eq=False)
class Do(Stmt):
    """One effectful machine instruction.  A Load with only the leading indices names the tile below them."""

    fn: str
    args: tuple[Expr, ...] = ()
    bufs: tuple[Buffer, ...] = ()


Param = Union[Buffer, Var]
Block = tuple[Stmt, ...]


@dataclass(frozen=True, eq=False)
class Kernel:
    """params: buffers of space global, in the order of the call, then run-time sizes (Var)."""

    name: str
    params: tuple[Param, ...]
    body: Block

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(p for p in self.params if isinstance(p, Buffer))

    def param(self, name: str) -> Buffer:
        for p in self.buffers:
            if p.name == name:
                return p
        raise InternalError(f"kernel {self.name} has no parameter {name!r}")

    def __str__(self) -> str:
        from .text import show_kernel

        return show_kernel(self)


def store(buf: Buffer, idx: tuple[ExprLike, ...], value: ExprLike) -> Store:
    return Store(buf, tuple(as_expr(i) for i in idx), as_expr(value, Type(buf.dtype)))


def axis(name: str, extent: Dim) -> Var:
    """A loop variable of type i64."""
    if is_const(extent):
        extent = extent.value  # type: ignore[union-attr]
    return Var.of(name, extent, I64)


def noted(text: str) -> tuple[str, str]:
    """The attribute of a loop that emitters print as a comment."""
    return "note", text


def nest(axes: tuple[Var, ...], body: Block, kind: str = "serial", attrs: tuple[object, ...] = ()) -> Block:
    """The body inside one loop per axis, the first outermost."""
    for v in reversed(axes):
        body = (For(v, body, kind, attrs),)
    return body


def parts_of(s: For) -> int:
    """The n of ("interleave", n), 1 without it."""
    return next((a[1] for a in s.attrs if isinstance(a, tuple) and a[0] == "interleave"), 1)


StmtRule = Callable[[Stmt], Union[Stmt, tuple[Stmt, ...], list[Stmt], None]]
ExprRule = Callable[[Expr], Expr]


def map_block(block: Block, on_stmt: StmtRule | None = None, on_expr: ExprRule | None = None) -> Block:
    """Rebuild a block bottom-up: on_expr on every expression, then on_stmt, which gives a statement, several, or None
    to keep what it was given."""
    e: ExprRule = on_expr or (lambda x: x)
    out: list[Stmt] = []
    for s in block:
        match s:
            case For():
                extent = s.var.extent
                var = s.var
                if isinstance(extent, Expr):
                    var = axis(s.var.name, e(extent))
                body = map_block(s.body, on_stmt, on_expr)
                if var is not s.var:
                    body = substitute_block(body, {s.var: var})
                new: Stmt = replace(s, var=var, body=body)
            case If():
                new = If(e(s.cond), map_block(s.then, on_stmt, on_expr), map_block(s.other, on_stmt, on_expr))
            case Store():
                new = Store(s.buf, tuple(map(e, s.idx)), e(s.value), s.mode)
            case Prefetch():
                new = Prefetch(s.buf, tuple(map(e, s.idx)), s.level)
            case Read():
                new = Read(s.stream, s.buf, tuple(map(e, s.idx)))
            case Write():
                new = Write(s.stream, e(s.value))
            case Do():
                new = Do(s.fn, tuple(map(e, s.args)), s.bufs)
            case _:
                new = s
        made = on_stmt(new) if on_stmt else None
        if made is None:
            out.append(new)
        elif isinstance(made, Stmt):
            out.append(made)
        else:
            out.extend(made)
    return tuple(out)


def substitute_block(block: Block, mapping: dict[Expr, Expr]) -> Block:
    memo: dict[Expr, Expr] = {}
    return map_block(block, None, lambda e: substitute(e, mapping, memo))


def walk_block(block: Block) -> Iterator[Stmt]:
    """Every statement, outer before inner, in order."""
    for s in block:
        yield s
        if isinstance(s, For):
            yield from walk_block(s.body)
        elif isinstance(s, If):
            yield from walk_block(s.then)
            yield from walk_block(s.other)


def values_of(s: Stmt) -> tuple[Expr, ...]:
    """The expressions of one statement, without those of its blocks: what it computes, where it stores, how often it loops."""
    match s:
        case Store():
            return (*s.idx, s.value)
        case For():
            return (s.var.extent,) if isinstance(s.var.extent, Expr) else ()
        case If():
            return (s.cond,)
        case Prefetch() | Read():
            return s.idx
        case Write():
            return (s.value,)
        case Do():
            return s.args
    return ()


def coefficient(buf: Buffer, idx: tuple[Expr, ...], var: Var) -> Dim | None:
    """How many elements the address moves when var grows by one: an expression where strides are symbolic; None if it is
    not linear in var."""
    flat = flat_index(buf, idx)
    _, terms = linear(flat)
    if any(a is not var and uses(a, var) for a in terms):
        return coefficient_of(flat, var)
    return terms.get(var, 0)
