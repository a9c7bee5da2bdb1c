"""Running a CUDA artifact from Python with NumPy and ctypes alone, on arrays of the host or of the GPU.

    module = tilewright.load("out")
    logits, = module(image)                        # NumPy in, NumPy out
    logits, = module(tensor.cuda())                # device arrays in, DeviceArrays out: nothing is copied
    step = module.bind_device([x], [y], stream)    # the same on fixed buffers, on a stream; starts and returns
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import OptionError
from ..arrays import TensorSpec
from ..loader import Module, ordered
from .device_arrays import DeviceArray, DeviceView, device_view, is_device_array


class _CudaOptions(ctypes.Structure):
    """tw_cuda_options of the C header."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("size", "device", "flags", "reserved")]


def open_module(directory: Path, threads: int | None = None) -> CudaModule:
    """The module on GPU number 0.  Raises OptionError for a number of threads: a GPU has none to choose."""
    if threads is not None:
        raise OptionError(f"load {directory}: threads: a CUDA module runs on the GPU, got {threads}; leave it out")
    return CudaModule(directory)


def load_on(directory: str | Path, device: int, *, graph: bool = True) -> CudaModule:
    """The artifact in a folder as a module on a GPU.  device: its number, as the CUDA driver counts.  graph: whether the
    launches of a run become one CUDA graph.  Raises what `tilewright.load` raises."""
    return CudaModule(Path(directory), device, graph)


@dataclass(frozen=True)
class LaunchTime:
    """function: of PREFIX.cu.  where, ops: node of the model and operators.  macs, bytes: of the call that the launch is a
    part of.  milliseconds: of one run."""

    function: str
    where: str
    ops: tuple[str, ...]
    schedule: str
    macs: int
    bytes: int
    milliseconds: float


# Library -> its files in the wheels, the variable that names another file.
_LIBRARIES = {
    "cuBLASLt": ("*/lib/libcublasLt.so.1[23]", "TILEWRIGHT_CUBLASLT"), "cuDNN": ("*/lib/libcudnn.so.9", "TILEWRIGHT_CUDNN"),
}


def load_from_wheel(library: str) -> bool:
    """Loads a library of _LIBRARIES from its wheel, if that is installed, so that an artifact finds it by its name."""
    pattern, variable = _LIBRARIES[library]
    if variable in os.environ:
        return False
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder).glob(pattern), reverse=True):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            return True
    return False


class CudaModule(Module):
    """One instance of a compiled model on a GPU."""

    def __init__(self, directory: Path, device: int = 0, graph: bool = True) -> None:
        self.device, self._flags = device, 0 if graph else 1
        super().__init__(directory)
        pointers = ctypes.POINTER(ctypes.c_void_p)
        self._run_device = self._function(
            "run_device", ctypes.c_int32, ctypes.c_void_p, pointers, pointers, ctypes.c_void_p
        )

    def _make(self, options: Any) -> int:
        launches = (launch for k in self.manifest["kernels"] for launch in k["launches"])
        for library in sorted({launch["library"] for launch in launches if "library" in launch}):
            load_from_wheel(library)
        cuda = _CudaOptions(ctypes.sizeof(_CudaOptions), self.device, self._flags, 0)
        create = self._function("create_on", ctypes.c_int32)
        return create(ctypes.byref(options), ctypes.byref(cuda), ctypes.byref(self._handle))

    def __call__(self, *arrays: Any) -> list[Any]:
        """Runs the model on arrays in the order of its inputs, or on one mapping from names to arrays.

        Arrays of the host give NumPy arrays, arrays of the GPU give `DeviceArray`s, on the stream of the inputs.  Raises
        OptionError for a mixture of them, and for wrong types and shapes."""
        given = self._in_order(arrays)
        on_device = [is_device_array(value) for value in given]
        if not any(on_device):
            return super().__call__(*arrays)
        views = self._views("input", self.inputs, given, None)
        stream = next((v.stream for v in views if v.stream), 0) or 0
        results = [self._empty(spec, stream) for spec in self.outputs]
        self._start(self._addresses(views), _pointers([r.address for r in results]), stream)
        for n, result in enumerate(results):
            if result.spec.run_time_axes:  # known when the run is done
                result.spec = replace(result.spec, shape=self.output_shape(n), run_time_axes=())
        return results

    def run_device(self, inputs: Any, outputs: Any, stream: int = 0) -> None:
        """Starts a run on device arrays, in the model's order or by name, and returns.

        stream: a CUDA stream as a number (`torch.cuda.current_stream().cuda_stream`), 0 for the default one.  The buffers
        must stay until the run is done.  Raises OptionError for arrays that do not fit."""
        self.bind_device(inputs, outputs, stream)()

    def bind_device(self, inputs: Any, outputs: Any, stream: int = 0) -> Callable[[], None]:
        """A function of no arguments that starts a run on these device arrays and returns; it keeps them alive."""
        sources = self._in_order([inputs] if isinstance(inputs, Mapping) else inputs)
        places = ordered("output", self.outputs, [outputs] if isinstance(outputs, Mapping) else outputs)
        views = self._views("input", self.inputs, sources, stream), self._views("output", self.outputs, places, stream)
        in_pointers, out_pointers = map(self._addresses, views)

        def step() -> None:
            self._start(in_pointers, out_pointers, stream)

        step.buffers = views  # type: ignore[attr-defined]
        return step

    def time_launches(self, inputs: Any, outputs: Any, stream: int = 0) -> list[LaunchTime]:
        """One run on device arrays with events around every launch: the times of all launches, in order.

        A launch of a few microseconds is measured with the events' own time in it; warm up with a run or two."""
        step = self.bind_device(inputs, outputs, stream)
        places = [self._addresses(views) for views in step.buffers]  # type: ignore[attr-defined]
        count = self._function("launch_count", ctypes.c_size_t)()
        times = (ctypes.c_float * max(1, count))()
        pointers = ctypes.POINTER(ctypes.c_void_p)
        function = self._function("time_launches", ctypes.c_int32, ctypes.c_void_p, pointers, pointers, ctypes.c_void_p,
                                  ctypes.POINTER(ctypes.c_float), ctypes.c_size_t)
        status = function(self._handle, *places, stream or None, times, count)
        if status:
            self._fail(status)
        launches = [(k, launch["function"]) for k in self.manifest["kernels"] for launch in k["launches"]]
        return [
            LaunchTime(name, k["where"], tuple(k["ops"]), k["schedule"], k["macs"], k["bytes_read"] + k["bytes_written"], t)
            for (k, name), t in zip(launches, times[:count], strict=True)
        ]

    def _views(self, kind: str, specs: Sequence[TensorSpec], values: Sequence[Any], stream: int | None) -> list[DeviceView]:
        return [device_view(kind, spec, value, stream) for spec, value in zip(specs, values, strict=True)]

    @staticmethod
    def _addresses(views: Sequence[DeviceView]) -> Any:
        return _pointers([v.address for v in views])

    def _start(self, inputs: Any, outputs: Any, stream: int) -> None:
        status = self._run_device(self._handle, inputs, outputs, stream or None)
        if status:
            self._fail(status)

    def _empty(self, spec: TensorSpec, stream: int) -> DeviceArray:
        """New device memory, which goes back when nothing holds the array; it keeps the module."""
        address = ctypes.c_void_p()
        size = int(np.prod(spec.sizes, dtype=np.int64)) * spec.numpy.itemsize
        alloc = self._function("device_alloc", ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p)
        status = alloc(self._handle, size, ctypes.byref(address))
        if status:
            self._fail(status)
        free = self._function("device_free", ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)

        def give_back(where: int) -> None:
            if self._handle:
                free(self._handle, where)

        return DeviceArray(spec, address.value or 0, self.device, stream, give_back)


def _pointers(addresses: Sequence[int]) -> Any:
    return (ctypes.c_void_p * max(1, len(addresses)))(*addresses)
