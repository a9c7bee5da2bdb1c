"""Running single kernels in this process to time them, as a program runs them: with packed weights, from cold caches.

A kernel becomes a small program that calls it several times, each time on other weights, so that they come from where
they would come from in a model: beyond the second-level cache.  Its other operands stay the same.
"""

from __future__ import annotations

import ctypes
import functools
import time
import zlib
from collections.abc import Mapping
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from ...codegen.arena import ALIGNMENT
from ...codegen.barriers import span
from ...codegen.kernels import drop_unused_params
from ...codegen.llvm import emit_module, scratch_bytes
from ...codegen.machine import Machine
from ...codegen.program import Address, Call, Program
from ...codegen.strategies.scheduled import Group, Scheduled
from ...ir.kernel import Buffer
from ...ir.types import DTYPES
from .objects import compile_objects

COLD_BYTES = 16 << 20  # of weights at least, over all copies
MOST_COPIES = 12
SAMPLE_SECONDS = 1e-3  # one measurement takes at least so long
TOLERANCE = 2e-2  # of the largest result: bf16 has 8 bits; a wrong schedule is off by the size of the results
_FLOATING = ("f64", "f32", "f16", "bf16")
_NO_BARRIER = "define void @tw_barrier(ptr %runtime) {\n  ret void\n}\n"
_MAIN = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 6, ctypes.c_int64, ctypes.c_int64)


class TimedKernel:
    """A kernel of a group as machine code of this process, on operands that depend on the group alone."""

    def __init__(self, group: Group, made: Scheduled, machine: Machine) -> None:
        kernel, packs = drop_unused_params(made.kernel), dict(made.packs)
        weights = [b for b in kernel.buffers if b.name in packs or b.name in group.constants]
        size = sum(_round(_place(b)[1]) for b in weights)
        self.calls = max(1, min(MOST_COPIES, -(-COLD_BYTES // size))) if size else 1
        starts: dict[tuple[str, int], int] = {}
        top = 0
        for b in kernel.buffers:
            for copy in range(self.calls if b in weights else 1):
                starts[b.name, copy] = top
                top += _round(_place(b)[1])
        self.arena = _aligned(top)
        arrays = operands(group)
        for b in kernel.buffers:
            array = packs[b.name].apply(arrays[packs[b.name].source]) if b.name in packs else arrays.get(b.name)
            for copy in range(self.calls if b in weights else 1):
                if array is not None:  # else memory that the kernel writes before it reads it
                    self._view(b, starts[b.name, copy])[...] = array
        steps = tuple(
            Call(kernel.name, tuple(
                Address("arena", starts[b.name, copy if b in weights else 0] + _place(b)[0]) for b in kernel.buffers
            )) for copy in range(self.calls)
        )
        program = Program("timed", {kernel.name: kernel}, steps, (), (), (), 0, top)
        self._scratch = _aligned(max(1, scratch_bytes(kernel)))
        self._engine = _link(compile_objects([emit_module([kernel], machine, main=program), _NO_BARRIER], machine, 1))
        self._main = _MAIN(self._engine.get_function_address("tw_main"))
        self._outputs = {
            b.name: (b, starts[b.name, 0]) for b in kernel.buffers if b.name not in arrays and b.name in _names(group)
        }
        self.run()
        started = time.perf_counter()
        self.run()
        self._repeat = max(1, round(SAMPLE_SECONDS / max(time.perf_counter() - started, 1e-7)))

    def _view(self, b: Buffer, start: int) -> np.ndarray:
        """The array of a buffer in the arena."""
        base, size = _place(b)
        dtype = np.dtype(DTYPES[b.dtype].numpy)
        flat = self.arena[start + base : start + max(size, base + dtype.itemsize)].view(dtype)
        strides = None if b.strides is None else tuple(s * dtype.itemsize for s in b.strides)
        if strides is None:
            return flat[: b.size].reshape(b.static_shape)
        return np.lib.stride_tricks.as_strided(flat, b.static_shape, strides)

    def run(self) -> None:
        self._main(None, self.arena.ctypes.data, self._scratch.ctypes.data, None, None, None, 0, 1)

    def seconds(self) -> float:
        """Of one call, by one measurement."""
        started = time.perf_counter()
        for _ in range(self._repeat):
            self.run()
        return (time.perf_counter() - started) / (self._repeat * self.calls)

    def results(self) -> dict[str, np.ndarray]:
        """What the kernel computed, in f64."""
        return {name: self._view(b, start).astype(np.float64) for name, (b, start) in self._outputs.items()}


def operands(group: Group) -> dict[str, np.ndarray]:
    """Random values for everything that the group reads and does not write; whole numbers are zero, so that they may be
    indices."""
    written = {c.out.name for c in group.computes}
    arrays: dict[str, np.ndarray] = {}
    for b in group.params:
        if b.name in written:
            continue
        dtype = np.dtype(DTYPES[b.dtype].numpy)
        rng = np.random.default_rng(zlib.crc32(b.name.encode()))
        values = rng.standard_normal(b.static_shape, np.float32) if b.dtype in _FLOATING else np.zeros(b.static_shape)
        arrays[b.name] = values.astype(dtype)
    return arrays


def close(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Whether two kernels computed the same, to the accuracy that any schedule has."""

    def same(x: np.ndarray, y: np.ndarray) -> bool:
        most = float(np.max(np.abs(y), initial=0.0, where=np.isfinite(y)))
        return np.allclose(x, y, rtol=0.0, atol=TOLERANCE * max(most, 1e-6), equal_nan=True)

    return all(same(a[name], b[name]) for name in b)


def _names(group: Group) -> set[str]:
    return {b.name for b in group.params}


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


@functools.cache
def _prepare() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _link(objects: list[bytes]) -> Any:
    """An engine that holds these object files."""
    _prepare()
    target = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    for data in objects:
        engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(data))
    engine.finalize_object()
    return engine
