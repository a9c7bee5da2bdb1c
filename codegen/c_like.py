"""Kernels as C-like text: one printer, a `Dialect` for each language.  The printer decides nothing: every choice is in the
kernel.

    For serial, unroll        a loop, with the dialect's pragma        For block.x, thread.x   const int i = blockIdx.x;
    If, Alloc, Barrier        if, a declaration, a statement           Do                      a call of that function
    Store of one element      an assignment, += where it is one        Store of a vector       one access, a loop over lanes
    Store "async"             a copy that completes at a later wait    Read, Write             stream.read(), stream.write()

A loop over blocks or threads that is smaller than the launch is guarded.  The text is a function of the kernel and the
dialect alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..ir.errors import InternalError
from ..ir.expr import Load, Var, as_expr
from ..ir.kernel import (
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
    substitute_block,
    walk_block,
)
from ..ir.kernel_launch import BINDINGS, Size, launch_size, mentions
from ..ir.types import DTYPES
from .c_address import elements_held, is_flat, padded_shape
from .c_dialect import Dialect, identifier, unsupported
from .c_store import StorePrinter, reads
from .schedule.rewrite import accesses
from .shared_memory import layout_shared

_COLUMNS = 100  # of the parameters on one line
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class PrintedKernel:
    """name: of the function.  grid, block: the launch.  shared_bytes: all its shared memory; dynamic_shared: how much of it
    the launch must ask for.  text: the function without the helpers that it calls."""

    name: str
    grid: Size
    block: Size
    shared_bytes: int
    dynamic_shared: int
    text: str


def print_kernel(kernel: Kernel, dialect: Dialect) -> PrintedKernel:
    """One kernel as one function.  Raises InternalError, with the kernel's text, for what the language does not have."""
    if not _NAME.fullmatch(kernel.name):
        raise InternalError(f"kernel name {kernel.name!r} is not an identifier")
    try:
        return _KernelPrinter(replace(kernel, body=_without_single_turns(kernel.body)), dialect).run()
    except InternalError as error:
        raise InternalError(f"kernel {kernel.name}: {error}", str(kernel)) from error


class _KernelPrinter(StorePrinter):
    def __init__(self, kernel: Kernel, dialect: Dialect) -> None:
        super().__init__(dialect)
        self.kernel = kernel
        self.written = {s.buf for s in walk_block(kernel.body) if isinstance(s, Store | Read)}
        self.written |= {b for s in walk_block(kernel.body) if isinstance(s, Do) for b in _tiles(s)}
        self.read_buffers = {a.buf for a in accesses(kernel.body) if not a.writes}
        self.meets = any(isinstance(s, Barrier) for s in walk_block(kernel.body))
        self.shared = layout_shared(kernel.body)
        self.dynamic = dialect.shared_limit > 0 and not dialect.shared_limit >= self.shared.separate == self.shared.total

    def declare(self, what: Var | Buffer) -> str:
        """A C name for a variable or buffer, to be given back when its block ends."""
        name = identifier(what.name, self.taken)
        self.taken.add(name)
        self.e.names[what] = name
        return name

    # ---- the function

    def run(self) -> PrintedKernel:
        grid, block = launch_size(self.kernel)
        self.sizes: dict[str, int] = dict(zip(BINDINGS, (*grid, *block), strict=True))
        shown = [self.parameter(p) for p in self.kernel.params]
        wide = len(", ".join(shown)) > _COLUMNS
        parameters = ("\n    " if wide else "") + (",\n    " if wide else ", ").join(shown)
        if self.dynamic:
            self.taken.add("shared_memory")
            self.line("DYNAMIC_SHARED(shared_memory);")
        self.block(self.kernel.body)
        threads = block[0] * block[1] * block[2]
        bounds = ", ".join(map(str, (threads, *_asked(self.kernel, "resident"))))
        cluster = "".join(f"__cluster_dims__({n}, 1, 1) " for n in _asked(self.kernel, "cluster"))
        head = self.dialect.signature.format(name=self.kernel.name, parameters=parameters, threads=bounds, cluster=cluster)
        text = "\n".join([head, "{", *self.lines, "}", ""])
        return PrintedKernel(self.kernel.name, grid, block, self.shared.total, self.shared.total if self.dynamic else 0, text)

    def parameter(self, p: Buffer | Var) -> str:
        name = self.declare(p)
        if isinstance(p, Var):
            return f"long long {name}"
        ctype = self.e.ctype(p.dtype)
        if p.space in ("stream", "tensor_map"):
            if p.space not in self.dialect.spaces:
                raise unsupported(f"parameter {p.name} is a {p.space}, which {self.dialect.name} does not have")
            return f"{self.dialect.spaces[p.space].format(type=ctype)}{name}"
        seen_by_others = self.meets and p in self.written and p in self.read_buffers  # what other threads wrote may be read
        alone = "may_alias" not in p.attrs and not seen_by_others
        return f"{'' if p in self.written else 'const '}{ctype} *{self.dialect.restrict.strip() + ' ' if alone else ''}{name}"

    def block(self, block: Block) -> None:
        taken, names = set(self.taken), dict(self.e.names)
        for n, s in enumerate(block):
            if n and _is_start(block[n - 1], s):
                continue  # printed with its declaration
            following = block[n + 1] if n + 1 < len(block) else None
            if isinstance(s, Alloc) and isinstance(following, Store) and _is_start(s, following):
                self.start(s, following)
                continue
            show = _PRINT.get(type(s))
            if show is None:
                raise unsupported(f"no statement {type(s).__name__}")
            show(self, s, n + 1 < len(block))
        self.taken, self.e.names = taken, names
        self.e.values = {}  # what was named in this block is not seen outside

    def nested(self, head: str, block: Block) -> None:
        self.line(head + " {")
        self.indent(block)
        self.line("}")

    def indent(self, block: Block) -> None:
        self.depth += 1
        self.block(block)
        self.depth -= 1

    # ---- loops and branches

    def loop(self, s: For, followed: bool) -> None:
        for a in s.attrs:
            if isinstance(a, tuple) and a[0] == "note":
                self.line(f"// {a[1]}")
        if s.var.extent is None:
            raise unsupported(f"loop {s.var.name} has no extent")
        if s.kind in self.dialect.bindings:
            self.bound(s, followed)
            return
        if s.kind not in ("serial", "unroll", *self.dialect.before, *self.dialect.inside):
            raise unsupported(f"loop {s.var.name} is of kind {s.kind}, which {self.dialect.name} does not have")
        if s.kind in ("serial", "unroll") and s.var.extent == 1:
            self.once(s)
            return
        extent = as_expr(s.var.extent)
        self.e.begin(extent)
        limit, ctype = self.e.expr(extent), self.e.type_of(s.var)
        taken, names = set(self.taken), dict(self.e.names)
        name = self.declare(s.var)
        if s.kind in self.dialect.before:
            self.line(self.dialect.before[s.kind])
        elif "rolled" in s.attrs:
            self.line(self.dialect.rolled)
        self.line(f"for ({ctype} {name} = 0; {name} < {limit}; ++{name}) {{")
        if s.kind in self.dialect.inside:
            self.line(self.dialect.inside[s.kind])
        self.indent(s.body)
        self.line("}")
        self.taken, self.e.names = taken, names

    def once(self, s: For) -> None:
        """A loop of one iteration: its body, as a block of its own if that declares something."""
        scope = any(isinstance(x, Alloc) for x in s.body)
        if scope:
            self.line("{")
            self.indent(s.body)
            self.line("}")
        else:
            self.block(s.body)

    def bound(self, s: For, followed: bool) -> None:
        """The iteration of this block or thread.  Those beyond a loop that is smaller than the launch skip it."""
        taken, names = set(self.taken), dict(self.e.names)
        number = self.dialect.bindings[s.kind]
        name = self.declare(s.var)
        guarded = s.var.extent != self.sizes[s.kind]
        if guarded:
            self.line(f"if ((int){number} < {s.var.extent}) {{")
        elif followed:
            self.line("{")
        self.depth += guarded or followed
        if s.var in mentions(s.body):
            self.line(f"const int {name} = {number};")
        self.block(s.body)
        self.depth -= guarded or followed
        if guarded or followed:
            self.line("}")
        self.taken, self.e.names = taken, names

    def branch(self, s: If, followed: bool) -> None:
        self.e.begin(s.cond)
        self.line(f"if ({self.e.expr(s.cond)}) {{")
        self.indent(s.then)
        if s.other:
            self.line("} else {")
            self.indent(s.other)
        self.line("}")

    # ---- declarations

    def allocate(self, s: Alloc, followed: bool) -> None:
        b = s.buf
        if b.space not in self.dialect.spaces:
            raise unsupported(f"buffer {b.name} lies in {b.space}, which {self.dialect.name} does not have")
        if any(not isinstance(d, int) for d in b.shape):
            raise unsupported(f"buffer {b.name} has a symbolic dimension")
        name, ctype = self.declare(b), self.e.ctype(b.dtype)
        dims = "".join(f"[{d}]" for d in ((elements_held(b),) if is_flat(b) else padded_shape(b) or ()))
        if b.space == "shared" and self.dynamic:
            at = self.shared.offsets[id(s)]
            place = f"(shared_memory + {at})" if at else "shared_memory"
            if dims:
                self.line(f"{ctype} (&{name}){dims} = *({ctype} (*){dims}){place};")
            else:
                self.line(f"{ctype} &{name} = *({ctype} *){place};")
            return
        small = b.space == "register" and DTYPES[b.dtype].size < 4 and b.shape
        align = "alignas(16) " if small else ""
        self.line(f"{self.dialect.spaces[b.space]}{align}{ctype} {name}{dims};")

    def start(self, s: Alloc, first: Store) -> None:
        """The declaration of one cell with its first value."""
        self.e.begin(first.value)
        value = self.e.expr(first.value)
        self.line(f"{self.dialect.spaces[s.buf.space]}{self.e.ctype(s.buf.dtype)} {self.declare(s.buf)} = {value};")

    # ---- the rest

    def barrier(self, s: Barrier, followed: bool) -> None:
        if s.scope not in self.dialect.barriers:
            raise unsupported(f"a barrier of the {s.scope}, which {self.dialect.name} does not have")
        self.line(self.dialect.barriers[s.scope])

    def instruction(self, s: Do, followed: bool) -> None:
        """A Load among the arguments is an address: of an element, or of the tile below the leading indices; or a place in
        what a tensor map describes."""
        if s.fn not in self.dialect.instructions:
            raise unsupported(f"the instruction {s.fn}, which {self.dialect.name} does not have")
        self.e.begin(*(i for a in s.args if not isinstance(a, Load) for i in (a,)))
        texts = []
        for a in s.args:
            if isinstance(a, Load) and a.buf.space == "tensor_map":  # coordinates, the contiguous one first
                texts += [f"&{self.e.names[a.buf]}", *(self.e.expr(i) for i in reversed(a.idx))]
            elif isinstance(a, Load):
                zeros = (as_expr(0),) * (len(a.buf.shape) - len(a.idx))
                texts.append(f"&{self.e.place(a.buf, (*a.idx, *zeros))}")
            else:
                texts.append(self.e.expr(a))
        texts += [f"&{self.e.place(b, (as_expr(0),) * len(b.shape))}" for b in s.bufs]
        constant = s.fn in ("cp_async_wait", "wgmma_wait")
        self.line(f"{s.fn}<{texts[0]}>();" if constant else f"{s.fn}({', '.join(texts)});")

    def read(self, s: Read, followed: bool) -> None:
        self.e.begin(*s.idx)
        self.line(f"{self.e.place(s.buf, s.idx)} = {self.e.names[s.stream]}.read();")

    def write(self, s: Write, followed: bool) -> None:
        self.e.begin(s.value)
        self.line(f"{self.e.names[s.stream]}.write({self.e.expr(s.value)});")


_PRINT: dict[type[Stmt], Callable[[Any, Any, bool], None]] = {
    For: _KernelPrinter.loop,
    If: _KernelPrinter.branch,
    Alloc: _KernelPrinter.allocate,
    Store: _KernelPrinter.store,
    Barrier: _KernelPrinter.barrier,
    Do: _KernelPrinter.instruction,
    Read: _KernelPrinter.read,
    Write: _KernelPrinter.write,
    Prefetch: lambda p, s, followed: None,  # a hint; the hardware's own prefetching is meant
}


def _without_single_turns(block: Block) -> Block:
    """The block without the variables of loops that run once."""
    made: list[Stmt] = []
    for s in block:
        if isinstance(s, For):
            body = _without_single_turns(s.body)
            if s.kind in ("serial", "unroll") and s.var.extent == 1 and s.var in mentions(body):
                body = substitute_block(body, {s.var: as_expr(0)})
            s = replace(s, body=body)
        elif isinstance(s, If):
            s = replace(s, then=_without_single_turns(s.then), other=_without_single_turns(s.other))
        made.append(s)
    return tuple(made)


def _is_start(s: Stmt, following: Stmt) -> bool:
    """Whether a statement declares one cell, and the following gives it its first value."""
    if not isinstance(s, Alloc) or s.buf.shape or s.buf.space != "register" or not isinstance(following, Store):
        return False
    return following.buf == s.buf and following.value.type.lanes == 1 and not reads(following.value, s.buf)


def _asked(kernel: Kernel, what: str) -> tuple[int, ...]:
    """How many blocks a multiprocessor shall hold at once ("resident"), or a cluster has, if a loop says so; of several loops,
    which share one launch, the fewest."""
    found = (a for s in walk_block(kernel.body) if isinstance(s, For) for a in s.attrs)
    numbers = [int(str(a[1])) for a in found if isinstance(a, tuple) and a[0] == what]
    return (min(numbers),) if numbers else ()


def _tiles(s: Do) -> list[Buffer]:
    return [*s.bufs, *(a.buf for a in s.args if isinstance(a, Load))]
