"""How a kernel with block and thread loops is launched: its parts, and how many blocks and threads each one needs.

A loop of kind block.x .. thread.z runs one iteration per block or thread.  A launch is as large as the largest loop of
each kind; blocks and threads beyond the extent of a smaller loop skip it.  A pool barrier at the top level of a kernel
is a boundary between launches: everything before it is done, by all blocks, when the part after it begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .errors import InternalError
from .expr import Load, Var
from .kernel import (
    Alloc,
    Barrier,
    Block,
    Buffer,
    Do,
    For,
    Kernel,
    Prefetch,
    Read,
    Stmt,
    Store,
    Write,
    values_of,
    walk_block,
)
from .traverse import walk

BINDINGS = ("block.x", "block.y", "block.z", "thread.x", "thread.y", "thread.z")
WARP = 32
Size = tuple[int, int, int]


def is_bound(kernel: Kernel) -> bool:
    """Whether the kernel has a loop that blocks or threads run."""
    return any(isinstance(s, For) and s.kind in BINDINGS for s in walk_block(kernel.body))


def launch_size(kernel: Kernel) -> tuple[Size, Size]:
    """Blocks and threads per block, in x, y and z.  Raises InternalError for a bound loop without constant extent."""
    sizes = dict.fromkeys(BINDINGS, 1)
    for s in walk_block(kernel.body):
        if isinstance(s, For) and s.kind in BINDINGS:
            if not isinstance(s.var.extent, int):
                raise InternalError(f"kernel {kernel.name}: loop {s.var.name} of kind {s.kind} has the extent "
                                    f"{s.var.extent}, which is not constant", str(kernel))
            sizes[s.kind] = max(sizes[s.kind], s.var.extent)
    x = tuple(sizes.values())
    return x[:3], x[3:]  # type: ignore[return-value]


def split_launches(kernel: Kernel) -> tuple[Kernel, ...]:
    """The parts of a kernel that are launched one after the other, each with the parameters that it uses.

    One part keeps the kernel's name; several are numbered NAME_1, NAME_2, ...  Raises InternalError for a pool barrier
    inside a loop, and for a temporary that would live through one.
    """
    parts: list[list[Stmt]] = [[]]
    for s in kernel.body:
        if isinstance(s, Barrier) and s.scope == "pool":
            parts.append([])
        else:
            parts[-1].append(s)
    bodies = [tuple(p) for p in parts if p]
    if any(isinstance(s, Barrier) and s.scope == "pool" for body in bodies for s in walk_block(body)):
        raise InternalError(f"kernel {kernel.name}: a pool barrier inside a loop cannot divide launches", str(kernel))
    made = []
    for n, body in enumerate(bodies, 1):
        part = Kernel(kernel.name if len(bodies) == 1 else f"{kernel.name}_{n}", kernel.params, body)
        made.append(_with_used_params(kernel, part))
    return tuple(made)


def _with_used_params(kernel: Kernel, part: Kernel) -> Kernel:
    used = set(mentions(part.body))
    allocated = {s.buf for s in walk_block(part.body) if isinstance(s, Alloc)}
    for b in used:
        if isinstance(b, Buffer) and b not in allocated and b not in kernel.buffers:
            raise InternalError(f"kernel {kernel.name}: the temporary {b.name} would live through a pool barrier; it must "
                                f"be a parameter", str(kernel))
    return replace(part, params=tuple(p for p in kernel.params if p in used))


def mentions(block: Block) -> Iterator[Buffer | Var]:
    """Every buffer and variable that a block uses, with repetitions."""
    for s in walk_block(block):
        for root in values_of(s):
            for e in walk(root):
                if isinstance(e, Load):
                    yield e.buf
                elif isinstance(e, Var):
                    yield e
        match s:
            case Store() | Prefetch():
                yield s.buf
            case Read():
                yield s.buf
                yield s.stream
            case Write():
                yield s.stream
            case Do():
                yield from s.bufs
