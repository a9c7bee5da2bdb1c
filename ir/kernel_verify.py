"""Checks that a kernel is well formed: names, scopes, types, lanes, threads and registers.

`verify_kernel` runs after every schedule and before every printer; what it refuses is a bug of the compiler, so it
raises InternalError with the text of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from .errors import InternalError
from .expr import (
    I64,
    Bin,
    Call,
    Cast,
    Expr,
    Fma,
    HReduce,
    Load,
    Select,
    Shuffle,
    Splat,
    Type,
    Un,
    Var,
    as_expr,
    linear,
)
from .kernel import (
    Alloc,
    Barrier,
    Block,
    Buffer,
    Do,
    For,
    If,
    Kernel,
    Prefetch,
    Read,
    Stmt,
    Store,
    Write,
    flat_index,
    parts_of,
    values_of,
    walk_block,
)
from .kernel_launch import BINDINGS, is_bound
from .traverse import children, substitute, walk
from .types import DTYPES

KINDS = ("serial", "unroll", "parallel", "pipeline", *BINDINGS)
SPACES = ("global", "stack", "register", "shared", "local", "stream", "tensor_map")
_COMPARE = ("lt", "le", "eq", "ne")


def verify_kernel(kernel: Kernel, *, scheduled: bool = False) -> None:
    """Raises InternalError unless the kernel is well formed.

    scheduled: also what the printers need: temporaries in a space of their own, register arrays indexed by constants
    once the unrolled loops are expanded, every register cell always with the same lanes.
    """
    _Verifier(kernel, scheduled).run()


class _Verifier:
    def __init__(self, kernel: Kernel, scheduled: bool) -> None:
        self.kernel = kernel
        self.scheduled = scheduled
        self.variables: dict[str, Var] = {}
        self.buffers: dict[str, Buffer] = {}
        self.loops: list[For] = []
        self.checked: set[Expr] = set()
        self.parallel = any(isinstance(s, For) and s.kind == "parallel" for s in walk_block(kernel.body))
        self.bound = _bound_kinds(kernel.body)
        self.arrays = is_bound(kernel)
        self.used: set[str] = set()

    def need(self, condition: object, message: str) -> None:
        if not condition:
            raise InternalError(f"kernel {self.kernel.name}: {message}", str(self.kernel))

    def run(self) -> None:
        for p in self.kernel.params:
            known = p.name in self.variables or p.name in self.buffers
            self.need(not known, f"two parameters are called {p.name}")
            if isinstance(p, Var):
                self.variables[p.name] = p
            else:
                self.need(p.space in ("global", "stream", "tensor_map"), f"parameter {p.name} lies in {p.space}")
                self.buffers[p.name] = p
        for b in self.kernel.buffers:
            self.buffer(b)
        self.block(self.kernel.body)

    def buffer(self, b: Buffer) -> None:
        self.need(b.dtype in DTYPES, f"buffer {b.name} has the unknown element type {b.dtype}")
        self.need(b.space in SPACES, f"buffer {b.name} lies in the unknown space {b.space}")
        self.need(b.strides is None or len(b.strides) == len(b.shape), f"buffer {b.name}: one stride per dimension")
        for d in b.shape:
            if isinstance(d, int):
                self.need(d >= 0, f"buffer {b.name} has the dimension {d}")
            else:
                self.expr(d)

    # ---- statements

    def block(self, block: Block) -> None:
        outer = dict(self.buffers)
        for n, s in enumerate(block):
            self.statement(s, block[n + 1 :])
        self.buffers = outer
        self.checked = set()  # what was checked may use names of this block

    def statement(self, s: Stmt, rest: Block) -> None:
        self.used = self.bound.get(id(s), self.used)
        match s:
            case For():
                self.loop(s)
            case If():
                self.expr(s.cond)
                self.need(s.cond.type == ("bool", 1), f"a condition has the type {s.cond.type}, not a scalar bool")
                self.block(s.then)
                self.block(s.other)
            case Alloc():
                self.need(s.buf.name not in self.buffers, f"buffer {s.buf.name} is allocated where one is in use")
                self.buffer(s.buf)
                self.buffers[s.buf.name] = s.buf
                if self.scheduled:
                    self.need(s.buf.space != "global", f"temporary {s.buf.name} has no space of its own")
                    if s.buf.space == "register":
                        self.register(s.buf, rest)
            case Store():
                self.store(s)
            case Prefetch():
                self.index(s.buf, s.idx)
            case Barrier():
                serial = all(loop.kind == "serial" for loop in self.loops)
                self.need(s.scope != "pool" or serial, "a pool barrier stands inside a loop that not every thread runs")
            case Read():
                self.index(s.buf, s.idx)
                self.need(s.stream.space == "stream", f"{s.stream.name} is not a stream")
            case Write():
                self.expr(s.value)
                self.need(s.stream.space == "stream", f"{s.stream.name} is not a stream")
            case Do():
                for a in s.args:
                    self.tile(a)
            case _:
                self.need(False, f"unknown statement {type(s).__name__}")

    def loop(self, s: For) -> None:
        name = s.var.name
        self.need(s.kind in KINDS, f"loop {name} has the unknown kind {s.kind}")
        self.need(s.var.type == I64 and s.var.extent is not None, f"loop {name} needs an i64 variable with an extent")
        self.need(name not in self.variables, f"loop {name} stands where the name {name} is in use")
        if s.kind == "parallel":
            shared = all(loop.kind == "serial" for loop in self.loops)
            self.need(shared, f"parallel loop {name} stands inside a loop that not every thread runs as a whole")
        if (parts := parts_of(s)) != 1:
            equal = isinstance(s.var.extent, int) and parts > 0 and s.var.extent % parts == 0
            self.need(s.kind == "parallel" and equal, f"loop {name} cannot be {parts} equal parts that threads share")
        if s.kind == "unroll":
            self.need(isinstance(s.var.extent, int), f"unrolled loop {name} has no constant extent")
        if isinstance(s.var.extent, Expr):
            self.expr(s.var.extent)
        self.variables[name] = s.var
        self.loops.append(s)
        self.block(s.body)
        self.loops.pop()
        del self.variables[name]

    def store(self, s: Store) -> None:
        lanes = self.index(s.buf, s.idx)
        self.expr(s.value)
        self.need(s.value.type.dtype == s.buf.dtype, f"{s.buf.name} of {s.buf.dtype} is given {s.value.type.dtype}")
        self.need(lanes in (1, s.value.type.lanes), f"{lanes} indices of {s.buf.name} for {s.value.type.lanes} lanes")
        if lanes == 1:
            self.contiguous(s.buf, s.value.type)
        shared = s.buf.space == "global" and s.buf in self.kernel.buffers
        inside = any(loop.kind == "parallel" for loop in self.loops)
        alone = inside or not (self.parallel and shared)
        self.need(alone, f"every thread would store to {s.buf.name}, outside a parallel loop")
        if s.buf.space in ("shared", "global"):
            around = {loop.kind for loop in self.loops}
            missing = {k for k in self.used - around if s.buf.space == "global" or k.startswith("thread")}
            kinds = ", ".join(sorted(missing))
            self.need(not missing, f"{s.buf.name} would be stored to many times, outside of the loops of kind {kinds}")

    # ---- places and values

    def index(self, buf: Buffer, idx: tuple[Expr, ...]) -> int:
        """The lanes of an index."""
        self.need(self.buffers.get(buf.name) == buf, f"buffer {buf.name} is used where it is not allocated")
        self.need(len(idx) == len(buf.shape), f"{buf.name} has {len(buf.shape)} dimensions, indexed with {len(idx)}")
        for i in idx:
            self.expr(i)
            self.need(i.type.dtype == "i64", f"{buf.name} is indexed by a value of {i.type.dtype}")
        lanes = {i.type.lanes for i in idx} - {1}
        self.need(len(lanes) <= 1, f"the indices of {buf.name} have {sorted(lanes)} lanes")
        return max(lanes, default=1)

    def contiguous(self, buf: Buffer, type: Type) -> None:
        self.need(type.lanes == 1 or buf.shape, f"{type.lanes} lanes of {buf.name}, which has one element")

    def tile(self, e: Expr) -> None:
        """An argument of an instruction: a Load with only the leading indices names a tile."""
        if isinstance(e, Load) and len(e.idx) < len(e.buf.shape):
            self.need(self.buffers.get(e.buf.name) == e.buf, f"buffer {e.buf.name} is used where it is not allocated")
            for i in e.idx:
                self.expr(i)
        else:
            self.expr(e)

    def expr(self, root: Expr) -> None:
        for e in walk(root):
            if e not in self.checked:
                self.node(e)
                self.checked.add(e)

    def node(self, e: Expr) -> None:
        if isinstance(e, Var):
            known = self.variables.get(e.name) is e
            self.need(known, f"variable {e.name} is used outside its loop")
        elif isinstance(e, Load):
            lanes = self.index(e.buf, e.idx)
            if lanes == 1:
                self.contiguous(e.buf, e.type)
            else:
                self.need(e.type == (e.buf.dtype, lanes), f"a gather of {lanes} lanes from {e.buf.name} gives {e.type}")
        else:
            check = _RULES.get(type(e))
            if check is not None and not check(e):
                self.need(False, f"operands and result of {type(e).__name__} differ in type: {e}")

    # ---- registers

    def register(self, buf: Buffer, rest: Block) -> None:
        """Constant indices after unrolling; no two accesses overlap unless they are the same cell, except where registers are
        printed as arrays (kernels of blocks and threads)."""
        self.need(all(isinstance(d, int) for d in buf.shape), f"register array {buf.name} has a symbolic dimension")
        cells: dict[int, tuple[int, int]] = {}
        for idx, lanes, unrolled in dict.fromkeys(self.accesses(buf, rest)):
            for start in self.offsets(buf, idx, unrolled):
                for n in range(start, start + lanes):
                    found = cells.setdefault(n, (start, lanes))
                    self.need(
                        found == (start, lanes) or self.arrays,
                        f"element {n} of register array {buf.name} is used in a cell of {found[1]} lanes from "
                        f"{found[0]} and in one of {lanes} lanes from {start}",
                    )

    def accesses(self, buf: Buffer, block: Block, unrolled: tuple[Var, ...] = ()) -> Iterator[tuple]:
        """(index, lanes, unrolled loops around) of every use."""
        for s in block:
            if isinstance(s, For):
                yield from self.accesses(buf, s.body, (*unrolled, s.var) if s.kind == "unroll" else unrolled)
                continue
            if isinstance(s, If):
                yield from self.accesses(buf, (*s.then, *s.other), unrolled)
            if isinstance(s, Store) and s.buf == buf:
                yield s.idx, s.value.type.lanes, unrolled
            for root in values_of(s):
                for e in walk(root):
                    if isinstance(e, Load) and e.buf == buf and len(e.idx) == len(buf.shape):
                        yield e.idx, e.type.lanes, unrolled

    def offsets(self, buf: Buffer, idx: tuple[Expr, ...], unrolled: tuple[Var, ...]) -> list[int]:
        """The element offsets of an index over all iterations of the unrolled loops."""
        place = flat_index(buf, idx)
        used = [v for v in walk(place) if isinstance(v, Var | Load)]
        outside = next((v for v in used if v not in unrolled), None)
        if outside is not None:
            self.need(False, f"register array {buf.name} is indexed by {outside}, which is not unrolled")
        c, terms = linear(place)
        if all(isinstance(a, Var) for a in terms):
            steps = [[k * n for n in range(a.extent)] for a, k in terms.items()]  # type: ignore[attr-defined]
            return [c + sum(s) for s in product(*steps)]
        values = product(*(range(v.extent) for v in used))  # type: ignore[attr-defined]
        places = [substitute(place, dict(zip(used, map(as_expr, v), strict=True))) for v in values]
        return [p.value for p in places]  # type: ignore[attr-defined]


def _bound_kinds(body: Block) -> dict[int, set[str]]:
    """For each statement at the top of a kernel, the kinds of block and thread loops in its launch."""
    found: dict[int, set[str]] = {}
    kinds: set[str] = set()
    for s in body:
        if isinstance(s, Barrier) and s.scope == "pool":
            kinds = set()
        found[id(s)] = kinds
        inner = [x for x in walk_block((s,)) if isinstance(x, For) and x.var.extent != 1]
        kinds |= {x.kind for x in inner if x.kind in BINDINGS}
    return found


def _same(e: Expr) -> bool:
    return all(c.type == e.type for c in children(e))


def _same_bits(e: Call) -> bool:
    size = lambda t: t.lanes * DTYPES[t.dtype].size  # noqa: E731
    return size(e.type) == size(e.args[0].type)


_RULES: dict[type, Callable[..., bool]] = {
    Un: _same,
    Bin: lambda e: e.a.type == e.b.type and e.type == (Type("bool", e.a.type.lanes) if e.op in _COMPARE else e.a.type),
    Fma: _same,
    Select: lambda e: e.cond.type == ("bool", e.type.lanes) and e.a.type == e.type and e.b.type == e.type,
    Cast: lambda e: e.a.type.lanes == e.type.lanes,
    Splat: lambda e: e.a.type == (e.type.dtype, 1),
    Shuffle: lambda e: (
        e.a.type == e.b.type and e.type == (e.a.type.dtype, len(e.mask)) and min(e.mask) >= 0
        and max(e.mask) < 2 * e.a.type.lanes
    ),
    HReduce: lambda e: e.type == (e.a.type.dtype, 1),
    Call: lambda e: all(a.type.lanes == e.type.lanes for a in e.args) or (e.fn == "bitcast" and _same_bits(e)),
}
