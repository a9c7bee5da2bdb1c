"""Arrays in device memory: what other libraries hand over, and what a run returns.

In: `__cuda_array_interface__` (CuPy, Numba, PyTorch) or DLPack (PyTorch, JAX, ...); out: a `DeviceArray` with both.  Nothing
is copied.  References: the CUDA Array Interface, version 3; DLPack 0.8.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.errors import OptionError
from ..arrays import TensorSpec, shape_difference

_DL_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged
_DL_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_DL_BFLOAT = 4
_LEGACY_STREAM = 1


class _DlTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("offset", ctypes.c_uint64),
    ]


class _DlManaged(ctypes.Structure):
    _fields_ = [("tensor", _DlTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_PYTHON = ctypes.pythonapi
_PYTHON.PyCapsule_GetPointer.restype = ctypes.c_void_p
_PYTHON.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_PYTHON.PyCapsule_New.restype = ctypes.py_object
_PYTHON.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_PYTHON.PyCapsule_IsValid.restype = ctypes.c_int
_PYTHON.PyCapsule_IsValid.argtypes = [ctypes.c_void_p, ctypes.c_char_p]


@dataclass(frozen=True)
class DeviceView:
    """Memory of another library's array.  stream: on which its contents become ready, None if unknown.  owner: what keeps
    it alive."""

    address: int
    stream: int | None
    owner: object


def is_device_array(value: Any) -> bool:
    """Whether a value says that it lies in the memory of a GPU."""
    if hasattr(value, "__cuda_array_interface__"):
        return True
    return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] in _DL_CUDA


def device_view(kind: str, spec: TensorSpec, value: Any, stream: int | None) -> DeviceView:
    """The memory of a device array that fits a spec; kind is "input" or "output".

    Raises OptionError for another type or shape, an array that is not dense, or one that is no device array."""
    where = f"{kind} {spec.name!r}"
    if isinstance(getattr(value, "__cuda_array_interface__", None), dict):
        return _from_interface(where, kind, spec, value, value.__cuda_array_interface__)
    if not is_device_array(value):
        raise OptionError(f"{where}: expected an array in device memory (__cuda_array_interface__ or DLPack), got "
                          f"{type(value).__name__}; move it to the GPU, or give only arrays of the host")
    return _from_dlpack(where, spec, value, stream)


def _from_interface(where: str, kind: str, spec: TensorSpec, value: Any, d: dict[str, Any]) -> DeviceView:
    dtype = np.dtype(d["typestr"])
    address, read_only = d["data"]
    _check(where, spec, dtype if spec.accepts(dtype) else None, str(dtype), tuple(d["shape"]))
    _check_dense(where, tuple(d["shape"]), d.get("strides"), dtype.itemsize)
    if read_only and kind == "output":
        raise OptionError(f"{where}: the array is read-only; give one that can be written")
    return DeviceView(int(address), d.get("stream"), value)


def _from_dlpack(where: str, spec: TensorSpec, value: Any, stream: int | None) -> DeviceView:
    capsule = value.__dlpack__(stream=stream or _LEGACY_STREAM)
    pointer = _PYTHON.PyCapsule_GetPointer(capsule, b"dltensor")
    t = ctypes.cast(pointer, ctypes.POINTER(_DlManaged)).contents.tensor
    shape = tuple(t.shape[n] for n in range(t.ndim))
    wanted = _dl_type(spec)
    _check(where, spec, spec.numpy if (t.code, t.bits) == wanted else None, f"DLPack type {t.code} of {t.bits} bits", shape)
    strides = tuple(t.strides[n] for n in range(t.ndim)) if t.strides else None
    _check_dense(where, shape, strides, 1)
    return DeviceView(int(t.data or 0) + int(t.offset), stream, (value, capsule))  # the capsule keeps the memory


def _dl_type(spec: TensorSpec) -> tuple[int, int]:
    """DLPack's code and bits."""
    code = _DL_BFLOAT if spec.dtype == "bf16" else _DL_CODES[spec.numpy.kind]
    return code, 8 * spec.numpy.itemsize


def _check(where: str, spec: TensorSpec, dtype: np.dtype | None, got: str, shape: tuple[int, ...]) -> None:
    if dtype is None:
        raise OptionError(f"{where}: expected element type {spec.dtype}, got {got}; convert it on the GPU")
    if shape != spec.shape:
        raise OptionError(f"{where}: {shape_difference(spec, shape)}")


def _check_dense(where: str, shape: tuple[int, ...], strides: tuple[int, ...] | None, unit: int) -> None:
    """Strides in units of `unit`."""
    expected = unit
    for n, s in zip(reversed(shape), reversed(strides or ()), strict=False):
        if n > 1 and s != expected:
            raise OptionError(f"{where}: expected a dense row-major array, got strides {strides}; make it contiguous first")
        expected *= n


# ---- what a run returns ------------------------------------------------------------------------------------------

_exported: dict[int, tuple[Any, ...]] = {}  # DLPack structures that another library holds, by address


def _release(address: int) -> None:
    _exported.pop(address, None)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _deleter(managed: int) -> None:
    """Called by the library that took the array, when it is done with it."""
    _release(managed)


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _drop_capsule(capsule: int) -> None:
    """A capsule that nobody has taken is freed with what it points to."""
    if _PYTHON.PyCapsule_IsValid(capsule, b"dltensor"):
        get = _PYTHON["PyCapsule_GetPointer"]
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
        _release(get(capsule, b"dltensor"))


class DeviceArray:
    """An output in device memory.  Other libraries take it without a copy: `torch.as_tensor(a)`, `cupy.asarray(a)`,
    `torch.from_dlpack(a)`.  bf16 is offered as its bits, uint16, where a protocol has no such type."""

    def __init__(self, spec: TensorSpec, address: int, device: int, stream: int, free: Callable[[int], None]) -> None:
        self.spec, self.address, self.device, self.stream, self._free = spec, address, device, stream, free

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.sizes

    @property
    def dtype(self) -> str:
        """The element type: f32, i64, bf16, ..."""
        return self.spec.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        typestr = "<u2" if self.spec.dtype == "bf16" else self.spec.numpy.str
        return {"shape": self.shape, "typestr": typestr, "data": (self.address, False), "strides": None, "version": 3,
                "stream": self.stream or _LEGACY_STREAM}

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DL_CUDA[0], self.device

    def __dlpack__(self, *, stream: int | None = None, **others: Any) -> Any:
        """A capsule for a consumer on the same stream, the default one unless the run was given another."""
        rank = len(self.shape)
        shape = (ctypes.c_int64 * max(rank, 1))(*self.shape)
        code, bits = _dl_type(self.spec)
        managed = _DlManaged(
            _DlTensor(self.address, _DL_CUDA[0], self.device, rank, code, bits, 1, shape, None, 0), None,
            ctypes.cast(_deleter, ctypes.c_void_p),
        )
        address = ctypes.addressof(managed)
        _exported[address] = (managed, shape, self)
        return _PYTHON.PyCapsule_New(address, b"dltensor", ctypes.cast(_drop_capsule, ctypes.c_void_p))

    def __del__(self) -> None:
        self._free(self.address)

    def __repr__(self) -> str:
        return f"DeviceArray({self.spec}, device={self.device})"
