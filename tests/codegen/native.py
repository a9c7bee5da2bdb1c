"""Runs and times kernels as machine code in the test process: text, object file, in-process link, ctypes."""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tilewright.codegen.llvm import emit_kernel, scratch_bytes
from tilewright.codegen.llvm_text import symbol
from tilewright.codegen.machine import Machine
from tilewright.codegen.math import legalize_math
from tilewright.ir.expr import Var
from tilewright.ir.kernel import Kernel
from tilewright.targets.cpu.host import host_machine
from tilewright.targets.cpu.in_process import InProcess
from tilewright.targets.cpu.objects import compile_objects

_BARRIER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_barriers: dict[int, threading.Barrier] = {}


@_BARRIER
def _wait(runtime: int | None) -> None:
    _barriers[runtime or 0].wait(timeout=20)


def set_barrier(threads: int) -> int:
    """Make ready the meeting point of some threads; returns what they give as `runtime`."""
    _barriers[threads] = threading.Barrier(threads)
    return threads


@dataclass
class NativeKernel:
    """A compiled kernel; the engine owns the code."""

    kernel: Kernel
    engine: Any
    address: int
    scratch: int

    def arguments(self, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> list[Any]:
        return [
            ctypes.c_int64(sizes[p.name]) if isinstance(p, Var) else ctypes.c_void_p(arrays[p.name].ctypes.data)
            for p in self.kernel.params
        ]

    def function(self) -> Any:
        types = [ctypes.c_int64 if isinstance(p, Var) else ctypes.c_void_p for p in self.kernel.params]
        tail = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        return ctypes.CFUNCTYPE(None, *types, *tail)(self.address)


def link(objects: list[bytes]) -> InProcess:
    """The functions of these object files; a barrier waits for threads of Python."""
    barrier = ctypes.cast(_wait, ctypes.c_void_p).value
    assert barrier
    return InProcess(objects, {"tw_barrier": barrier})


def compile_native(kernel: Kernel, machine: Machine | None = None) -> NativeKernel:
    machine = machine or host_machine()
    legal = legalize_math(kernel, machine)
    engine = link(compile_objects([emit_kernel(legal, machine)], machine, jobs=1))
    return NativeKernel(legal, engine, engine.get_function_address(symbol(kernel.name)), scratch_bytes(legal))


def aligned(shape: Any, dtype: Any, align: int = 64) -> np.ndarray:
    """An uninitialised array at an aligned address."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(nbytes + 2 * align, np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    copy = aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def run_native(
    kernel: Kernel,
    arrays: Mapping[str, np.ndarray],
    sizes: Mapping[str, int] | None = None,
    machine: Machine | None = None,
    threads: int = 1,
) -> None:
    """Execute a kernel in place, as `run_kernel` does, on as many threads."""
    native = compile_native(kernel, machine)
    inside = {name: aligned_copy(a) for name, a in arrays.items()}
    function, args = native.function(), native.arguments(inside, sizes or {})
    runtime = set_barrier(threads)
    errors: list[BaseException] = []

    def one(tid: int) -> None:
        scratch = aligned(max(1, native.scratch), np.uint8)
        try:
            function(*args, scratch.ctypes.data, runtime, tid, threads)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=one, args=(tid,)) for tid in range(1, threads)]
    for thread in running:
        thread.start()
    one(0)
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]
    for name, a in arrays.items():
        a[...] = inside[name]


def time_native(
    kernel: Kernel,
    arrays: Mapping[str, np.ndarray],
    sizes: Mapping[str, int] | None = None,
    machine: Machine | None = None,
    repeats: int = 30,
) -> float:
    """Seconds of one call on one thread, the best of some repeats of at least 2 ms each."""
    native = compile_native(kernel, machine)
    inside = {name: aligned_copy(a) for name, a in arrays.items()}
    scratch = aligned(max(1, native.scratch), np.uint8)
    call = functools.partial(native.function(), *native.arguments(inside, sizes or {}), scratch.ctypes.data, None, 0, 1)
    call()
    started = time.perf_counter()
    call()
    inner = max(1, int(0.002 / max(1e-7, time.perf_counter() - started)))
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(inner):
            call()
        best = min(best, (time.perf_counter() - started) / inner)
    return best
