"""Arrays of a caller as the buffers that compiled code takes: types and shapes checked, copied only if not dense."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..ir.errors import OptionError

_NUMPY_TYPES = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32, "i16": np.int16,
    "i8": np.int8, "u64": np.uint64, "u32": np.uint32, "u16": np.uint16, "u8": np.uint8, "bool": np.bool_, "str": np.object_,
}


def numpy_type(name: str) -> np.dtype:
    """The NumPy type of an element type.  bf16 is that of ml_dtypes where it is installed, else uint16 (the bits)."""
    if name != "bf16":
        return np.dtype(_NUMPY_TYPES[name])
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(np.uint16)
    return np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a module: its name, element type (f32, i64, bf16, ...) and shape; open dimensions are names
    or expressions of names.

    run_time_axes: dimensions of an output that are known after a run only; shape has the largest that they can be."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    numpy: np.dtype
    run_time_axes: tuple[int, ...] = ()

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> TensorSpec:
        axes = tuple(entry.get("run_time_axes", ()))
        return TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"]), numpy_type(entry["dtype"]), axes)

    def __str__(self) -> str:
        dims = (f"<={n}" if axis in self.run_time_axes else str(n) for axis, n in enumerate(self.shape))
        return f"{self.name}: {self.dtype}[{', '.join(dims)}]"

    @property
    def is_open(self) -> bool:
        return any(isinstance(d, str) for d in self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape where no dimension is open."""
        if self.is_open:
            raise OptionError(f"{self} has open dimensions: its shape is only known with those of the inputs")
        return self.shape  # type: ignore[return-value]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape agrees with the dimensions that are fixed."""
        if not self.is_open:
            return shape == self.shape
        pairs = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(isinstance(d, str) or d == n for d, n in pairs)

    def accepts(self, dtype: np.dtype) -> bool:
        """Whether arrays of this NumPy type hold these elements; bf16 may also come as its bits, uint16."""
        if self.dtype == "str":
            return dtype.kind in "OTU"
        return dtype == self.numpy or (self.dtype == "bf16" and dtype == np.uint16)


def as_input(spec: TensorSpec, value: Any, *, copy: bool = True) -> np.ndarray:
    """The value as a dense array with the type and shape of the spec; copy: whether a copy may make it dense.

    Raises OptionError for another type or shape, and for what is not an array.
    """
    if spec.dtype == "str":
        return _addresses(spec, value, copy)
    array = value if type(value) is np.ndarray else _to_numpy(f"input {spec.name!r}", value, copy)
    _check("input", spec, array)
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    if not copy:
        raise _not_dense("input", spec)
    return np.require(array, requirements=("C", "A"))


def as_output(spec: TensorSpec, value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The value as a dense writable array of the spec's type and shape, sharing its memory.  shape: where it is open."""
    if spec.dtype == "str":
        raise OptionError(f"output {spec.name!r}: strings have no buffer to bind; call the module")
    spec = spec if shape is None else replace(spec, shape=shape)
    array = value if type(value) is np.ndarray else _to_numpy(f"output {spec.name!r}", value, False)
    _check("output", spec, array)
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise _not_dense("output", spec)
    if not array.flags.writeable:
        raise OptionError(f"output {spec.name!r}: the array is read-only; give one that can be written")
    return array


def empty_output(spec: TensorSpec, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A new array for an output.  shape: where the spec's is open."""
    return np.empty(spec.sizes if shape is None else shape, np.uint64 if spec.dtype == "str" else spec.numpy)


class _Addresses(np.ndarray):
    """The addresses of strings; `text` holds these."""

    text: bytes


def _addresses(spec: TensorSpec, value: Any, copy: bool) -> np.ndarray:
    """The strings of an array or nested list as the addresses of their bytes in UTF-8."""
    where = f"input {spec.name!r}"
    if not copy:
        raise OptionError(f"{where}: strings have no buffer to bind; call the module with them")
    array = np.asarray(value, dtype=object) if isinstance(value, (list, tuple, str)) else np.asarray(value)
    _check("input", spec, array)
    texts = array.astype(object).reshape(-1).tolist()
    wrong = [t for t in texts if not isinstance(t, str) or "\0" in t]
    if wrong:
        raise OptionError(f"{where}: expected strings without the character 0, got {wrong[0]!r}")
    try:
        encoded = [t.encode("utf-8", "surrogateescape") + b"\0" for t in texts]
    except UnicodeEncodeError as error:
        raise OptionError(f"{where}: {error}") from None
    text = b"".join(encoded)
    starts = np.cumsum([0, *map(len, encoded)][: len(encoded)], dtype=np.uint64)
    result = (starts + np.uint64(np.frombuffer(text or b"\0", np.uint8).ctypes.data)).reshape(array.shape).view(_Addresses)
    result.text = text
    return result


def as_texts(addresses: np.ndarray) -> np.ndarray:
    """The strings at these addresses, as Python's."""
    result = np.empty(addresses.shape, object)
    for at in np.ndindex(result.shape):
        result[at] = ctypes.string_at(int(addresses[at])).decode("utf-8", "surrogateescape")
    return result


def _to_numpy(where: str, value: Any, copy: bool) -> np.ndarray:
    """An array that shares the memory of the value; copy: whether it may be a copy where the protocol promises nothing."""
    try:
        if isinstance(value, np.ndarray):
            return value.view(np.ndarray)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        if hasattr(value, "__array_interface__") or (copy and hasattr(value, "__array__")):
            return np.asarray(value)
        return np.asarray(memoryview(value))
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        why = f" ({error})" if hasattr(value, "__dlpack__") else ""
        raise OptionError(
            f"{where}: expected an array (NumPy, DLPack or buffer protocol), got {type(value).__name__}{why}; "
            f"convert it to a NumPy array"
        ) from error


def _check(kind: str, spec: TensorSpec, array: np.ndarray) -> None:
    if array.dtype != spec.numpy and not spec.accepts(array.dtype):
        raise OptionError(
            f"{kind} {spec.name!r}: expected element type {spec.dtype} ({spec.numpy}), got {array.dtype}; "
            f"convert it with .astype({str(spec.numpy)!r})"
        )
    if not spec.fits(array.shape):
        raise OptionError(f"{kind} {spec.name!r}: {shape_difference(spec, array.shape)}")


def shape_difference(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    """What is wrong with a shape, and what to do."""
    wanted, given = (f"[{', '.join(map(str, sizes))}]" for sizes in (spec.shape, shape))
    advice = "compile the model for this shape" if len(shape) == len(spec.shape) else "reshape it"
    return f"expected shape {wanted}, got {given}; {advice}"


def _not_dense(kind: str, spec: TensorSpec) -> OptionError:
    return OptionError(
        f"{kind} {spec.name!r}: bind needs a dense, aligned, row-major array; use numpy.ascontiguousarray first"
    )
