"""Where the threads of a program must wait for each other, and where they need not.

A barrier stands between two calls only if a thread could read what another thread writes, or write what another thread
reads or writes.  No barrier is needed between calls that thread 0 runs alone, between calls on disjoint memory, and
after the last call, where the run-time support waits for all threads anyway.  A kernel with less work than a barrier
costs is given to thread 0 alone, so that runs of small steps meet once.

    calls since the last barrier: an epoch of what they read and write; a call that conflicts with one of them ends it

Whatever is not known to be disjoint conflicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..ir.kernel import Alloc, Barrier, Buffer, For, If, Kernel, Prefetch, Stmt, Store, map_block, walk_block
from ..ir.types import DTYPES
from .machine import Machine
from .program import Address, Branch, Call, Program, Step, all_calls
from .roofline import limit_of
from .schedule.rewrite import accesses
from .views import dense_strides

TINY_SECONDS = 0.15e-6  # at the machine's limit; two spinning threads take about as long to meet
_EVERYTHING = 1 << 62
_READ_ONLY = ("constants", "input")
_PLAIN = (For, If, Alloc, Store, Prefetch, Barrier)


@dataclass(frozen=True)
class Span:
    """Bytes [start, end) of a memory space; of one output where the space is "output"."""

    space: str
    index: int
    start: int
    end: int

    def meets(self, other: Span) -> bool:
        same = (self.space, self.index) == (other.space, other.index)
        return same and self.start < other.end and other.start < self.end


@dataclass(frozen=True)
class Footprint:
    """What one call reads and writes outside of read-only memory.  alone: only thread 0 does anything."""

    alone: bool
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]

    def conflicts(self, later: Footprint) -> bool:
        """Whether a thread must not begin the later call before all threads have finished this one."""
        if self.alone and later.alone:
            return False
        pairs = ((self.writes, (*later.reads, *later.writes)), (self.reads, later.writes))
        return any(a.meets(b) for first, second in pairs for a in first for b in second)


def synchronize(program: Program, machine: Machine) -> Program:
    """The program with kernels of little work on one thread, and barriers only where they are needed."""
    kernels = _tiny_alone(program, machine)
    return replace(program, kernels=kernels, steps=_elide(program.steps, kernels, last=True))


def is_shared(kernel: Kernel) -> bool:
    """Whether all threads take part; otherwise thread 0 alone runs the kernel."""
    return any(isinstance(s, For) and s.kind == "parallel" for s in walk_block(kernel.body))


def _tiny_alone(program: Program, machine: Machine) -> Mapping[str, Kernel]:
    """A kernel stays shared among the threads if one of its calls is worth it, or if its threads meet inside, or if its
    work is not known before it runs."""
    open_ones = {name for name, k in program.kernels.items() if len(k.buffers) < len(k.params)}
    worth = {c.kernel for c in all_calls(program.steps) if limit_of(c.cost, machine).seconds > TINY_SECONDS}
    return {
        name: k if name in worth or name in open_ones or any(isinstance(s, Barrier) for s in walk_block(k.body)) else _serial(k)
        for name, k in program.kernels.items()
    }


def _serial(kernel: Kernel) -> Kernel:
    def rule(s: Stmt) -> Stmt | None:
        return replace(s, kind="serial") if isinstance(s, For) and s.kind == "parallel" else None

    return replace(kernel, body=map_block(kernel.body, rule)) if is_shared(kernel) else kernel


def _elide(steps: Sequence[Step], kernels: Mapping[str, Kernel], last: bool) -> tuple[Step, ...]:
    """last: nothing follows these steps, so that no thread has to wait after them."""
    done: list[Step] = []
    epoch: list[Footprint] = []
    for step in steps:
        if isinstance(step, Call):
            mine = footprint(step, kernels[step.kernel])
            if any(earlier.conflicts(mine) for earlier in epoch):
                _meet(done)
                epoch = []
            epoch.append(mine)
            done.append(replace(step, meet=False))
            continue
        _meet(done)  # a condition is read, and memory outside of the footprints
        epoch = []
        if isinstance(step, Branch):
            done.append(replace(step, then=_elide(step.then, kernels, False), other=_elide(step.other, kernels, False)))
        else:
            done.append(replace(step, body=_elide(step.body, kernels, False)))
    if not last:
        _meet(done)
    return tuple(done)


def _meet(done: list[Step]) -> None:
    if done and isinstance(done[-1], Call):
        done[-1] = replace(done[-1], meet=True)


def footprint(call: Call, kernel: Kernel) -> Footprint:
    """The memory of a call, by the kernel's parameters: an array counts from its first to its last byte."""
    plain = all(isinstance(s, _PLAIN) for s in walk_block(kernel.body))
    written = {a.buf for a in accesses(kernel.body) if a.writes} if plain else set(kernel.buffers)
    reads, writes = [], []
    for buffer, address in zip(kernel.buffers, call.args, strict=True):
        if address.space in _READ_ONLY and buffer not in written:
            continue
        (writes if buffer in written else reads).append(span(buffer, address))
    return Footprint(not is_shared(kernel), tuple(reads), tuple(writes))


def span(buffer: Buffer, address: Address) -> Span:
    """The bytes of a buffer at an address; with sizes of run time, all that it may be."""
    if address.space == "slot":
        return Span("arena", 0, 0, _EVERYTHING)
    size = DTYPES[buffer.dtype].size
    strides = dense_strides(buffer.shape) if buffer.strides is None else buffer.strides
    reach = [(n - 1) * s * size for n, s in zip(buffer.shape, strides, strict=True)]
    known = [r for r in reach if isinstance(r, int)]
    if not isinstance(address.offset, int) or len(known) < len(reach):
        return Span(address.space, address.index, 0, _EVERYTHING)
    if buffer.strides is None:
        return Span(address.space, address.index, address.offset, address.offset + buffer.size * size)
    low, high = sum(r for r in known if r < 0), sum(r for r in known if r > 0)
    return Span(address.space, address.index, address.offset + low, address.offset + high + size)
