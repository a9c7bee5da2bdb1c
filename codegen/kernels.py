"""The kernels of a program: equal groups share one, under readable names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from ..ir.compute import lower_group
from ..ir.kernel import Alloc, Buffer, Kernel, Prefetch, walk_block
from ..ir.types import DTYPES
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
            self.kernels[name] = Kernel(name, kernel.params, kernel.body)
        return name

    def scratch_bytes(self) -> int:
        """What the stack buffers of the largest kernel need, each on its own cache lines."""
        most = 0
        for kernel in self.kernels.values():
            size = 0
            for s in walk_block(kernel.body):
                if isinstance(s, Alloc) and s.buf.space == "stack":
                    size += -(-s.buf.size * DTYPES[s.buf.dtype].size // ALIGNMENT) * ALIGNMENT
            most = max(most, size)
        return most


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
        return group.kind, group.sparse.key, shapes, str(lower_group("key", group.params, group.computes))
    if group.op is not None:
        return group.kind, group.op, shapes
    return group.kind, group.constants, shapes, str(lower_group("key", group.params, group.computes))
