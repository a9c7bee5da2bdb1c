"""Running programs and kernels in the emulator, on NumPy arrays."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....codegen.c_like import print_kernel
from ....codegen.cuda import CUDA
from ....codegen.cuda_program import CudaSource, Launch, TensorMap, module_text, tensor_maps
from ....codegen.program import Address, Branch, Call, Program, Repeat, Step
from ....ir.errors import InternalError
from ....ir.kernel import Buffer, Kernel
from ....ir.kernel_launch import split_launches
from ....ir.types import DTYPES
from .build import build_library
from .library import run_as_library

_MESSAGE_BYTES = 512


class EmulationError(InternalError):
    """A kernel does what a GPU does not define: an access out of bounds, a race, a divergent barrier."""


class _Region(ctypes.Structure):
    """Region of emulator.h."""

    _fields_ = [
        ("start", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("element_bytes", ctypes.c_uint32),
        ("written", ctypes.c_uint32), ("name", ctypes.c_char_p),
    ]


class _Map(ctypes.Structure):
    """Map of bulk.cpp, as large as the driver's."""

    _fields_ = [
        ("address", ctypes.c_void_p), ("sizes", ctypes.c_uint64 * 3), ("strides", ctypes.c_uint64 * 3),
        ("box", ctypes.c_uint32 * 3), ("rank", ctypes.c_uint32), ("element_bytes", ctypes.c_uint32),
        ("unused", ctypes.c_uint64 * 6),
    ]

    def __init__(self, m: TensorMap, address: int) -> None:
        rank, size = len(m.sizes), DTYPES[m.dtype].size
        super().__init__(address, m.sizes, (size, *m.strides), m.box, rank, size)


def extent_bytes(b: Buffer) -> int:
    """Bytes from the first to the last element of a parameter."""
    size = DTYPES[b.dtype].size
    if b.strides is None:
        return b.size * size
    if b.size == 0:
        return 0
    return (1 + sum((int(n) - 1) * s for n, s in zip(b.shape, b.strides, strict=True))) * size  # type: ignore[arg-type]


class Emulator:
    """The kernels of one emitted file.  seed: of the order in which warps run."""

    def __init__(self, text: str, functions: Sequence[str], optimise: bool = False, seed: int = 1) -> None:
        self.library = build_library(text, functions, optimise)
        self.seed = seed

    def launch(self, launch: Launch, params: Sequence[Buffer], addresses: Sequence[int], written: Sequence[bool]) -> None:
        """Run one launch on buffers at these addresses.  Raises EmulationError for what the emulator finds."""
        count = len(params)
        regions = (_Region * max(count, 1))(*(
            _Region(a, extent_bytes(b), DTYPES[b.dtype].size, w, b.name.encode())
            for b, a, w in zip(params, addresses, written, strict=True)
        ))
        maps = {m.parameter: _Map(m, addresses[m.parameter]) for m in launch.maps}
        given = [ctypes.addressof(maps[n]) if n in maps else a for n, a in enumerate(addresses)]
        arguments = (ctypes.c_void_p * max(count, 1))(*given)
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        sizes = [(ctypes.c_uint * 3)(*size) for size in (launch.grid, launch.block)]
        wrong = self.library.emulator_launch(
            launch.function.encode(), *sizes, ctypes.c_size_t(launch.dynamic_shared), arguments, regions, count,
            self.seed, message, ctypes.c_size_t(_MESSAGE_BYTES),
        )
        if wrong:
            raise EmulationError(f"kernel {launch.function}: {message.value.decode(errors='replace')}")

    def release(self) -> None:
        """Give back what launches share, after the last one of a run."""
        self.library.emulator_release_stacks()


class EmulatedProgram:
    """A program whose kernels run in the emulator; the steps run here."""

    def __init__(
        self, program: Program, source: CudaSource, *, optimise: bool = False, emulator: Emulator | None = None, seed: int = 1
    ) -> None:
        self.program, self.source = program, source
        self.emulator = emulator or Emulator(source.text, list(source.functions), optimise, seed)
        self._written = {name: _written(kernel) for name, kernel in program.kernels.items()}
        self._constants = _aligned(program.constant_bytes)
        for offset, array in program.constants:
            self._constants[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for inputs in the program's order.  Memory holds NaN before it is written."""
        p = self.program
        memory: dict[tuple[str, int], np.ndarray] = {
            ("arena", 0): _aligned(p.arena_bytes), ("constants", 0): self._constants,
        }
        for n, ((_, type), array) in enumerate(zip(p.inputs, inputs, strict=True)):
            memory["input", n] = _aligned(type.nbytes)
            memory["input", n][:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for n, (_, type) in enumerate(p.outputs):
            memory["output", n] = _aligned(type.nbytes)
        try:
            self._steps(p.steps, memory)
        finally:
            self.emulator.release()
        results = [memory["output", n].view(DTYPES[type.dtype].numpy) for n, (_, type) in enumerate(p.outputs)]
        shapes = [type.static_shape for _, type in p.outputs]
        for s in p.sized:
            shape = memory["arena", 0][s.kept : s.kept + 8 * len(s.dims)].view(np.int64)
            shapes[s.output] = tuple(map(int, shape))
        return [a[: math.prod(shape)].reshape(shape) for a, shape in zip(results, shapes, strict=True)]

    def _steps(self, steps: Sequence[Step], memory: Mapping[tuple[str, int], np.ndarray]) -> None:
        for step in steps:
            match step:
                case Call():
                    self._call(step, memory)
                case Branch():
                    taken = _at(step.condition, memory, np.uint8)[0]
                    self._steps(step.then if taken else step.other, memory)
                case Repeat():
                    self._repeat(step, memory)

    def _repeat(self, step: Repeat, memory: Mapping[tuple[str, int], np.ndarray]) -> None:
        counter = 0
        trips = None if step.trip_count is None else int(_at(step.trip_count, memory, np.int64)[0])
        while trips is None or counter < trips:
            if step.condition is not None and not _at(step.condition, memory, np.uint8)[0]:
                return
            _at(step.counter, memory, np.int64)[0] = counter
            self._steps(step.body, memory)
            counter += 1

    def _call(self, call: Call, memory: Mapping[tuple[str, int], np.ndarray]) -> None:
        kernel = self.program.kernels[call.kernel]
        addresses = [_address(a, memory) for a in call.args]
        for launch in self.source.launches[call.kernel]:
            if launch.library is not None:
                run_as_library(launch.library, [addresses[n] for n in launch.params])
                continue
            params = [kernel.buffers[n] for n in launch.params]
            written = [b in self._written[call.kernel] for b in params]
            self.emulator.launch(launch, params, [addresses[n] for n in launch.params], written)


def emulate_kernel(kernel: Kernel, arrays: Mapping[str, np.ndarray], *, seed: int = 1) -> None:
    """Print one kernel as CUDA C++ and run it in place on C-contiguous arrays, one for each parameter.

    Raises EmulationError for what the emulator finds."""
    functions: dict[str, str] = {}
    launches: list[tuple[Launch, Kernel]] = []
    for part in split_launches(kernel):
        printed = print_kernel(part, CUDA)
        functions[printed.name] = printed.text
        launch = Launch(printed.name, printed.grid, printed.block, printed.shared_bytes, printed.dynamic_shared, (),
                        tensor_maps(part))
        launches.append((launch, part))
    emulator = Emulator(module_text("", functions, functions), list(functions), seed=seed)
    writes = _written(kernel)
    try:
        for launch, part in launches:
            addresses = [int(arrays[b.name].ctypes.data) for b in part.buffers]
            emulator.launch(launch, part.buffers, addresses, [b in writes for b in part.buffers])
    finally:
        emulator.release()


def _written(kernel: Kernel) -> set[Buffer]:
    from ....codegen.schedule.rewrite import accesses

    return {a.buf for a in accesses(kernel.body) if a.writes}


def _aligned(nbytes: int) -> np.ndarray:
    """Bytes at a multiple of 256, as the driver's memory, all ones."""
    raw = np.full(nbytes + 256, 0xFF, np.uint8)
    start = -raw.ctypes.data % 256
    return raw[start : start + nbytes]


def _key(a: Address) -> tuple[str, int]:
    return a.space, a.index if a.space in ("input", "output") else 0


def _address(a: Address, memory: Mapping[tuple[str, int], np.ndarray]) -> int:
    assert isinstance(a.offset, int), a  # GPUs have no open dimensions
    return int(memory[_key(a)].ctypes.data) + a.offset


def _at(a: Address, memory: Mapping[tuple[str, int], np.ndarray], dtype: Any) -> np.ndarray:
    """The value at an address as an array of one element that can be written."""
    size = np.dtype(dtype).itemsize
    return memory[_key(a)][a.offset : a.offset + size].view(dtype)
