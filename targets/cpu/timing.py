"""Running single kernels in this process to time them, as a program runs them: with packed weights, from cold caches.

A kernel becomes a program of one call.  Each run takes another copy of the weights, so that they come from where they would
come from in a model: beyond the second-level cache.  The other operands stay the same.
"""

from __future__ import annotations

import ctypes
import functools
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...codegen.arena import ALIGNMENT
from ...codegen.barriers import span
from ...codegen.kernels import drop_unused_params
from ...codegen.llvm import emit_module, scratch_bytes
from ...codegen.machine import Machine
from ...codegen.program import Address, Call, Program
from ...codegen.strategies.scheduled import Group, Pack, Scheduled
from ...codegen.strategies.select import schedule_group
from ...ir.compute import Compute
from ...ir.expr import as_expr, load
from ...ir.kernel import Buffer, Kernel, axis
from ...ir.types import DTYPES, TensorType
from .in_process import InProcess
from .objects import compile_objects

COLD_BYTES = 16 << 20  # of weights at least, over all copies
MOST_COPIES = 12
SAMPLE_SECONDS = 1e-4  # one measurement takes at least so long, and little more: it shall fit between interruptions
TOLERANCE = 2e-2  # of the largest result: bf16 has 8 bits; a wrong schedule is off by the size of the results
_FLOATING = ("f64", "f32", "f16", "bf16")
_NO_BARRIER = "define void @tw_barrier(ptr %runtime) {\n  ret void\n}\n"
_MAIN = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 6, ctypes.c_int64, ctypes.c_int64)


class TimedKernel:
    """A kernel of a group as machine code of this process.  arrays: what `operands(group)` gives."""

    def __init__(
        self, group: Group, made: Scheduled, machine: Machine, arrays: Mapping[str, np.ndarray] | None = None
    ) -> None:
        kernel, packs = drop_unused_params(made.kernel), dict(made.packs)
        arrays = operands(group) if arrays is None else arrays
        weights = [b for b in kernel.buffers if _source(b, packs) in group.constants]
        others = [b for b in kernel.buffers if b not in weights]
        copied = _copies(group, kernel, packs, machine)
        others += [x for _, x, _ in copied if x.name not in {b.name for b in others}]
        at = {**_offsets(weights), **_offsets(others)}
        self._stride = sum(_round(_place(b)[1]) for b in weights)
        copies = max(1, min(MOST_COPIES, -(-COLD_BYTES // self._stride))) if weights else 1
        self._weights, self._arena = _aligned(self._stride * copies), _aligned(sum(_round(_place(b)[1]) for b in others))
        for b in (*weights, *others):
            array = packs[b.name].apply(arrays[packs[b.name].source]) if b.name in packs else arrays.get(b.name)
            if array is not None:  # else memory that the kernel writes before it reads it
                memory = self._weights if b in weights else self._arena
                _view(b, memory, at[b.name])[...] = array.reshape(b.static_shape)  # a packed one may be read flat
        for copy in range(1, copies):
            self._weights[copy * self._stride :][: self._stride] = self._weights[: self._stride]
        steps = [Call(k.name, tuple(
            Address("constants" if b in weights else "arena", at[b.name] + _place(b)[0]) for b in args
        )) for k, args in (*((k, (y, x)) for k, x, y in copied), (kernel, kernel.buffers))]
        kernels = [kernel, *(k for k, _, _ in copied)]
        program = Program("timed", {k.name: k for k in kernels}, tuple(steps), (), (), (), self._stride, self._arena.size)
        text = emit_module(kernels, machine, main=program)
        self._engine = InProcess(compile_objects([text, _NO_BARRIER], machine, 1))
        main = _MAIN(self._engine.get_function_address("tw_main"))
        self._scratch = _aligned(max(1, *map(scratch_bytes, kernels)))
        memory = self._arena.ctypes.data, self._scratch.ctypes.data
        self._runs = [
            functools.partial(main, None, *memory, self._weights.ctypes.data + copy * self._stride, None, None, 0, 1)
            for copy in range(copies)
        ]
        self._next = 0
        self._outputs = {b.name: (b, at[b.name]) for b in others if b.name in {p.name for p in group.params} - set(arrays)}
        self._repeat = 1
        self.seconds()
        self._repeat = max(1, round(SAMPLE_SECONDS / max(self.seconds(), 1e-7)))

    def seconds(self) -> float:
        """Of one call, by one measurement."""
        first, self._next = self._next, (self._next + self._repeat) % len(self._runs)
        turns = [self._runs[(first + n) % len(self._runs)] for n in range(self._repeat)]
        started = time.perf_counter()
        for run in turns:
            run()
        return (time.perf_counter() - started) / self._repeat

    def results(self) -> dict[str, np.ndarray]:
        """What the kernel computed, in f64."""
        return {name: _view(b, self._arena, start).astype(np.float64) for name, (b, start) in self._outputs.items()}


def _copies(
    group: Group, kernel: Kernel, packs: Mapping[str, Pack], machine: Machine
) -> list[tuple[Kernel, Buffer, Buffer]]:
    """(kernel, what it reads, what it writes) of the copies of operands that a run makes before the kernel."""
    made = []
    for y in kernel.buffers:
        if y.name not in packs or packs[y.name].source in group.constants or not packs[y.name].shape:
            continue
        pack = packs[y.name]
        x = next(p for p in group.params if p.name == pack.source)
        axes = tuple(axis(f"i{n}", d) for n, d in enumerate(pack.shape))
        index = tuple(
            as_expr(o) + sum((v * s[d] for v, s in zip(axes, pack.steps, strict=True) if s[d]), as_expr(0))
            for d, o in enumerate(pack.origin)
        )
        source, target = replace(x, name="x"), Buffer("y", y.dtype, pack.shape)
        copy = schedule_group(Group("map", (Compute(target, axes, load(source, *index)),), (target, source)), machine)
        made.append((replace(copy.kernel, name=f"copy_{y.name}"), x, y))
    return made


def _source(b: Buffer, packs: Mapping[str, Pack]) -> str:
    """The parameter of the group that a buffer is, or is packed from."""
    return packs[b.name].source if b.name in packs else b.name


def operands(group: Group) -> dict[str, np.ndarray]:
    """Random values for everything that the group reads and does not write; whole numbers are zero, so that they may be
    indices.  Weights with zeros are as they are."""
    read = {b.name for b in group.operands}
    written = {c.out.name for c in group.computes} if group.op is None else {b.name for b in group.params} - read
    arrays: dict[str, np.ndarray] = {}
    for b in group.params:
        if b.name in written:
            continue
        dtype = np.dtype(DTYPES[b.dtype].numpy)
        rng = np.random.default_rng(zlib.crc32(b.name.encode()))
        values = rng.standard_normal(b.static_shape, np.float32) if b.dtype in _FLOATING else np.zeros(b.static_shape)
        arrays[b.name] = values.astype(dtype)
    if group.sparse is not None and group.sparse.array is not None:
        arrays[group.sparse.product.weights] = group.sparse.array
    return arrays


def close(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Whether two kernels computed the same, to the accuracy that any schedule has."""

    def same(x: np.ndarray, y: np.ndarray) -> bool:
        most = float(np.max(np.abs(y), initial=0.0, where=np.isfinite(y)))
        return np.allclose(x, y, rtol=0.0, atol=TOLERANCE * max(most, 1e-6), equal_nan=True)

    return all(same(a[name], b[name]) for name in b)


def _view(b: Buffer, memory: np.ndarray, start: int) -> np.ndarray:
    """The array of a buffer whose bytes begin at `start`."""
    before, size = _place(b)
    dtype = np.dtype(DTYPES[b.dtype].numpy)
    flat = memory[start + before : start + size].view(dtype)
    if b.strides is None:
        return flat[: b.size].reshape(b.static_shape)
    steps = TensorType("i64", b.strides).static_shape
    return np.lib.stride_tricks.as_strided(flat, b.static_shape, tuple(s * dtype.itemsize for s in steps))


def _offsets(buffers: Sequence[Buffer]) -> dict[str, int]:
    """Where each buffer begins if they follow each other."""
    found, top = {}, 0
    for b in buffers:
        found[b.name] = top
        top += _round(_place(b)[1])
    return found


def _place(b: Buffer) -> tuple[int, int]:
    """(bytes before the first element, bytes in all) of a buffer."""
    s = span(b, Address("arena"))
    return -s.start, s.end - s.start


def _round(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _aligned(size: int) -> np.ndarray:
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
