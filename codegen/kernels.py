"""The kernels of a program: equal groups share one, under readable names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from ..ir.compute import lower_group
from ..ir.dims import multiply_dims, normal_dim, symbols
from ..ir.expr import Var
from ..ir.kernel import Alloc, Buffer, For, Kernel, Prefetch, values_of, walk_block
from ..ir.types import DTYPES, Dim
from .arena import ALIGNMENT
from .schedule.rewrite import accesses
from .strategies.scheduled import Group, Scheduled


class KernelTable:
    """Schedules each distinct group once and names its kernel."""

    def __init__(self) -> None:
        self.kernels: dict[str, Kernel] = {}
        self._scheduled: dict[tuple[object, ...], Scheduled] = {}
        self._names: dict[Kernel, str] = {}

    def scheduled(self, group: Group, make: Callable[[], Scheduled]) -> Scheduled:
        key = _key(group)
        found = self._scheduled.get(key)
        if found is None:
            made = make()
            found = self._scheduled[key] = replace(made, kernel=drop_unused_params(made.kernel))
        return found

    def add(self, kernel: Kernel) -> str:
        """The name under which the kernel is emitted."""
        name = self._names.get(kernel)
        if name is None:
            name = self._names[kernel] = f"k{len(self.kernels)}_{kernel.name}"
            self.kernels[name] = Kernel(name, (*kernel.params, *size_params(kernel)), kernel.body)
        return name

    def scratch_bytes(self) -> tuple[Dim, ...]:
        """What the stack buffers of each kernel need, each on its own cache lines; without those that need as little as
        another one."""
        sizes: dict[Dim, None] = {}
        for kernel in self.kernels.values():
            size: Dim = 0
            for s in walk_block(kernel.body):
                if isinstance(s, Alloc) and s.buf.space == "stack":
                    size = size + aligned(multiply_dims((*s.buf.shape, DTYPES[s.buf.dtype].size)))
            sizes[normal_dim(size)] = None
        most = max((n for n in sizes if isinstance(n, int)), default=0)
        return (*([most] if most else []), *(n for n in sizes if not isinstance(n, int)))


def aligned(nbytes: Dim) -> Dim:
    return normal_dim((nbytes + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT)


def size_params(kernel: Kernel) -> tuple[Var, ...]:
    """The symbols that a kernel takes as run-time sizes, by name: the variables in it that no loop defines."""
    bound = {s.var for s in walk_block(kernel.body) if isinstance(s, For)}
    used: list[Dim] = [e for s in walk_block(kernel.body) for e in values_of(s)]
    buffers = {a.buf for a in accesses(kernel.body)} | {s.buf for s in walk_block(kernel.body) if isinstance(s, Alloc)}
    used += [d for b in buffers for d in (*b.shape, *(b.strides or ()))]
    return tuple(sorted((v for v in symbols(used) if v not in bound), key=lambda v: v.name))


def drop_unused_params(kernel: Kernel) -> Kernel:
    """Without the buffers that nothing reads or writes: operands of which the kernel reads a packed copy."""
    used = {a.buf for a in accesses(kernel.body)} | {s.buf for s in walk_block(kernel.body) if isinstance(s, Prefetch)}
    params = tuple(p for p in kernel.params if not isinstance(p, Buffer) or p in used)
    return Kernel(kernel.name, params, kernel.body)


def group_hash(group: Group, accuracy: str) -> str:
    """What measured numbers are found by: the same for the same computation on the same shapes and layouts, in every
    process."""
    parts = [sorted(part) if isinstance(part, frozenset) else part for part in _key(group)]
    return hashlib.blake2b(repr((accuracy, *parts)).encode(), digest_size=12).hexdigest()


def _key(group: Group) -> tuple[object, ...]:
    buffers = (*group.params, *group.operands)
    shapes = tuple((b.name, b.dtype, b.shape, b.strides, b.align) for b in buffers)
    if group.sparse is not None:
        return group.kind, group.constants, group.sparse.key, shapes, str(lower_group("key", group.params, group.computes))
    if group.op is not None:
        return group.kind, group.op, shapes
    paired = ("paired",) if group.paired else ()
    return group.kind, group.constants, shapes, str(lower_group("key", group.params, group.computes)), *paired
