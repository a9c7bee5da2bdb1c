"""Operators as TIR: computations as tensor expressions, which TVM can schedule and fuse; loops as they are written."""

# pyright: reportMissingImports=false
# TVM is optional, and not for every Python: checked against where it is installed.

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import s_tir, te, tirx

from ...ir.compute import Compute, acc_var, identity, lower_group
from ...ir.errors import InternalError
from ...ir.expr import Const, Expr, Var
from ...ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Kernel, Stmt, Store, nest, store
from ...ir.traverse import children, rebuild
from .exprs import NAMES, TirExprs

_LARGE_TREE = 40  # parts of an expression, common ones counted as often as they occur


def compute_tensor(c: Compute, tensors: Mapping[Buffer, Any]) -> Any:
    """The tensor expression of a computation that is written at its axes; one more for what is done with reduced
    values."""

    def read(buffer: Buffer, index: list[Any]) -> Any:
        return tensors[buffer](*index)

    shape = [_size(n) for n in c.out.shape]
    places = {a: d for d, a in enumerate(c.out_index)}

    def bound(index: Sequence[Any]) -> dict[Expr, Any]:
        return {a: index[places[a]] for a in c.axes}

    if c.is_map:
        return te.compute(shape, lambda *i: TirExprs(bound(i), read).write(c.result(c.body)), name=c.out.name)
    axes = {v: te.reduce_axis((0, _size(v.extent)), v.name) for v in c.reduce}
    combine = _reducer(c)

    def reduced(*i: Any) -> Any:
        return combine(TirExprs({**bound(i), **axes}, read).write(c.body), axis=list(axes.values()))

    total: Any = te.compute(shape, reduced, name=f"{c.out.name}_reduced")

    def finish(*i: Any) -> Any:
        return TirExprs({**bound(i), acc_var(c.acc): total(*i)}, read).write(c.result(acc_var(c.acc)))

    return te.compute(shape, finish, name=c.out.name)


def _size(n: Any) -> Any:
    if not isinstance(n, int):
        raise InternalError(f"TVM: the size {n} is not known")
    return tirx.const(n, "int64")


def _reducer(c: Compute) -> Any:
    start = identity(c.combine, c.acc) if c.init is None else c.init
    combine = {
        "add": lambda a, b: a + b, "mul": lambda a, b: a * b,
        "max": lambda a, b: tirx.Select(tirx.LT(a, b), b, a), "min": lambda a, b: tirx.Select(tirx.LT(b, a), b, a),
    }[c.combine]
    return te.comm_reducer(combine, lambda dtype: tirx.const(start, dtype), name=c.combine)


def _occurrences(e: Expr) -> tuple[list[Expr], Counter[Expr], dict[Expr, int]]:
    """The distinct parts, operands first; how many parts each is an operand of; and the size of each as a tree."""
    order: list[Expr] = []
    uses: Counter[Expr] = Counter()
    sizes: dict[Expr, int] = {}

    def visit(part: Expr) -> None:
        if part in sizes:
            return
        sizes[part] = 0
        for operand in children(part):
            visit(operand)
            uses[operand] += 1
        sizes[part] = 1 + sum(sizes[operand] for operand in children(part))
        order.append(part)

    visit(e)
    return order, uses, sizes


def needs_loops(c: Compute) -> bool:
    """Whether a computation is better not a tensor expression: it is written elsewhere than at its axes, or it is a map
    with so many common parts that TVM, which sees an expression as a tree, would take minutes for it."""
    at_axes = set(c.axes) <= set(c.out_index)
    return not at_axes or (c.is_map and _occurrences(c.body)[2][c.body] > _LARGE_TREE)


def computed(name: str, params: tuple[Buffer, ...], c: Compute) -> Kernel:
    """The loops of a computation.  In a map, every part that occurs several times is a statement of its own."""
    if not c.is_map:
        return lower_group(name, params, (c,))
    value = c.result(c.body)
    order, uses, _ = _occurrences(value)
    new: dict[Expr, Expr] = {}
    body: list[Stmt] = []
    for part in order:
        new[part] = rebuild(part, tuple(new[operand] for operand in children(part)))
        if uses[part] > 1 and not isinstance(part, (Const, Var)):
            place = Buffer(f"part{len(body)}", part.type.dtype, (), "register")
            body += [Alloc(place), store(place, (), new[part])]
            new[part] = place[()]
    return Kernel(name, params, nest(c.axes, (*body, Store(c.out, c.out_index, new[value]))))


class _Loops:
    """The statements of a kernel, run by one thread."""

    def __init__(self, kernel: Kernel) -> None:
        self.buffers: dict[Buffer, Any] = {}
        self.env: dict[Expr, Any] = {}
        self.kernel = kernel
        self._count = 0

    def build(self) -> Any:
        params = [self._declare(b) for b in self.kernel.buffers]
        root = s_tir.SBlock([], [], [], "root", self._block(self.kernel.body))
        return tirx.PrimFunc(params, s_tir.SBlockRealize([], True, root))

    def _declare(self, b: Buffer) -> Any:
        shape = [_size(n) for n in b.shape] or ([] if b.space == "global" else [_size(1)])
        self._count += 1
        made = tirx.decl_buffer(shape, NAMES[b.dtype], f"{b.name}_{self._count}")
        self.buffers[b] = made
        return made

    def _index(self, b: Buffer, index: list[Any]) -> list[Any]:
        return index or ([] if b.space == "global" else [tirx.const(0, "int64")])

    def _exprs(self) -> TirExprs:
        return TirExprs(self.env, lambda b, index: tirx.BufferLoad(self.buffers[b], self._index(b, index)))

    def _block(self, body: Block) -> Any:
        made = [s for s in map(self._stmt, body) if s is not None]
        return made[0] if len(made) == 1 else tirx.SeqStmt(made) if made else tirx.Evaluate(tirx.const(0, "int32"))

    def _stmt(self, s: Stmt) -> Any:
        match s:
            case For():
                variable = tirx.Var(s.var.name, "int64")
                extent = s.var.extent
                bound = _size(extent) if isinstance(extent, int) else self._exprs().write(extent)  # type: ignore[arg-type]
                saved, self.env = self.env, {**self.env, s.var: variable}
                body = self._block(s.body)
                self.env = saved
                return tirx.For(variable, tirx.const(0, "int64"), bound, tirx.ForKind.SERIAL, body)
            case If():
                other = self._block(s.other) if s.other else None
                return tirx.IfThenElse(self._exprs().write(s.cond), self._block(s.then), other)
            case Store():
                exprs = self._exprs()
                index = self._index(s.buf, [exprs.write(i) for i in s.idx])
                return tirx.BufferStore(self.buffers[s.buf], exprs.write(s.value), index)
            case Alloc():
                return tirx.AllocBuffer(self._declare(s.buf))
            case Barrier():
                return None  # one thread
        raise InternalError(f"TVM: no translation of the statement {type(s).__name__} in {self.kernel.name}")


def loops(kernel: Kernel) -> Any:
    """The kernel as a TIR function of its buffers in order."""
    return _Loops(kernel).build()
