"""Tensor data of a model file: the one place that turns a TensorProto into an array, external data included.

A model file is untrusted.  Every size is checked against the bytes that are really there before anything is allocated;
external data is mapped, not read, and must be a regular file, not hard-linked, inside of the model's folder after all
links are resolved.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from ...ir.errors import ModelError
from ...ir.types import DTYPES

DTYPE_OF_ONNX: dict[int, str] = {
    TensorProto.DOUBLE: "f64", TensorProto.FLOAT: "f32", TensorProto.FLOAT16: "f16", TensorProto.BFLOAT16: "bf16",
    TensorProto.INT64: "i64", TensorProto.INT32: "i32", TensorProto.INT16: "i16", TensorProto.INT8: "i8",
    TensorProto.UINT64: "u64", TensorProto.UINT32: "u32", TensorProto.UINT16: "u16", TensorProto.UINT8: "u8",
    TensorProto.BOOL: "bool", TensorProto.STRING: "str",
}
ONNX_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_ONNX.items()}
PACKED: dict[int, tuple[str, int]] = {
    TensorProto.INT4: ("i8", 4), TensorProto.UINT4: ("u8", 4), TensorProto.INT2: ("i8", 2), TensorProto.UINT2: ("u8", 2),
    TensorProto.FLOAT4E2M1: ("u8", 4),
}
"""Types of less than a byte: the type that holds an element of constants here, and their bits."""
NARROW: dict[int, tuple[str, str]] = {
    TensorProto.FLOAT8E4M3FN: ("u8", "float8_e4m3fn"), TensorProto.FLOAT8E4M3FNUZ: ("u8", "float8_e4m3fnuz"),
    TensorProto.FLOAT8E5M2: ("u8", "float8_e5m2"), TensorProto.FLOAT8E5M2FNUZ: ("u8", "float8_e5m2fnuz"),
    TensorProto.FLOAT4E2M1: ("u8", "float4_e2m1fn"), TensorProto.INT4: ("i8", "int4"), TensorProto.UINT4: ("u8", "uint4"),
    TensorProto.INT2: ("i8", "int2"), TensorProto.UINT2: ("u8", "uint2"),
    TensorProto.FLOAT8E8M0: ("u8", "float8_e8m0fnu"),
}
"""Types without arithmetic: the type that holds one element as an input, an output or between (the value of an integer, the
bits of a float), and the name in ml_dtypes."""

# Which repeated field holds the elements when raw_data does not; 16-bit floats are stored as bit patterns.
_FIELD = {
    "f64": "double_data", "f32": "float_data", "i64": "int64_data", "u64": "uint64_data", "u32": "uint64_data",
}
_BIT_PATTERNS = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}


def dtype_name(code: int, where: str) -> str:
    """Our name of an ONNX element type.  Raises ModelError, starting with `where`, for those that we do not have."""
    if code not in DTYPE_OF_ONNX:
        known = TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else f"number {code}"
        raise ModelError(f"{where}: element type {known} is not supported; supported are {', '.join(DTYPES)}")
    return DTYPE_OF_ONNX[code]


class TensorReader:
    """Reads the tensors of one model.  folder: where external data may lie; None when the model did not come from a file."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._maps: dict[str, np.ndarray] = {}

    def read(self, tensor: TensorProto, where: str = "") -> np.ndarray:
        """The array of a tensor, read-only and without copying where the data allows it.  where: what the tensor belongs
        to, for messages.  Raises ModelError for data that does not fit its type and shape."""
        where = where or f"tensor {tensor.name!r}"
        if tensor.data_type == TensorProto.STRING:
            return _texts(tensor, where)
        if tensor.data_type in PACKED:
            return self._packed(tensor, *PACKED[tensor.data_type], where)
        dtype = NARROW[tensor.data_type][0] if tensor.data_type in NARROW else dtype_name(tensor.data_type, where)
        shape = tuple(tensor.dims)
        if any(d < 0 for d in shape):
            raise ModelError(f"{where}: shape {list(shape)} has a negative dimension")
        if math.prod(d for d in shape if d) >= 2**56:  # also of a tensor without elements
            raise ModelError(f"{where}: shape {list(shape)} is beyond any memory")
        if tensor.HasField("segment"):
            raise ModelError(f"{where}: tensors in segments are not supported; save the model with onnx.save_model")
        count = math.prod(shape)
        if tensor.data_location == TensorProto.EXTERNAL:
            data = self._external(tensor, count * DTYPES[dtype].size, where)
        elif tensor.HasField("raw_data"):
            data = np.frombuffer(tensor.raw_data, np.uint8)
        else:
            return _typed(tensor, dtype, count, where).reshape(shape)
        expected = count * DTYPES[dtype].size
        if data.size != expected:
            raise ModelError(f"{where}: {dtype}{list(shape)} needs {expected} bytes of data, got {data.size}")
        array = data.view(DTYPES[dtype].numpy.newbyteorder("<")) if expected else np.empty(0, DTYPES[dtype].numpy)
        return array.astype(DTYPES[dtype].numpy, copy=False).reshape(shape)

    def _packed(self, tensor: TensorProto, dtype: str, bits: int, where: str) -> np.ndarray:
        """Several elements per byte, the low bits first."""
        count, per_byte = math.prod(tensor.dims), 8 // bits
        if any(d < 0 for d in tensor.dims):
            raise ModelError(f"{where}: shape {list(tensor.dims)} has a negative dimension")
        whole = -(-count // per_byte)
        if tensor.data_location == TensorProto.EXTERNAL:
            data = np.asarray(self._external(tensor, whole, where))
        elif tensor.HasField("raw_data"):
            data = np.frombuffer(tensor.raw_data, np.uint8)
        else:
            data = np.array(tensor.int32_data, np.int64).astype(np.uint8)
        if data.size != whole:
            raise ModelError(f"{where}: {count} elements of {bits} bits need {whole} bytes of data, got {data.size}")
        parts = np.stack([data >> (bits * i) & (2**bits - 1) for i in range(per_byte)], -1).reshape(-1)[:count]
        if dtype == "i8":
            parts = (parts.astype(np.int8) ^ 2 ** (bits - 1)) - 2 ** (bits - 1)
        return parts.astype(DTYPES[dtype].numpy).reshape(tuple(tensor.dims))

    def _external(self, tensor: TensorProto, expected: int, where: str) -> np.ndarray:
        entries = {e.key: e.value for e in tensor.external_data}
        offset = _byte_count(entries.get("offset", "0"), "offset", where)
        mapped = self._map(entries.get("location", ""), where)
        length = _byte_count(entries["length"], "length", where) if "length" in entries else mapped.size - offset
        if length != expected and "length" in entries:
            raise ModelError(f"{where}: the external data has length {length}, but its type and shape need {expected} bytes")
        if offset + expected > mapped.size:
            raise ModelError(
                f"{where}: external data {entries['location']!r} has {mapped.size} bytes, bytes {offset} to "
                f"{offset + expected} are needed; the file is cut off or belongs to another model"
            )
        return mapped[offset : offset + expected]

    def _map(self, location: str, where: str) -> np.ndarray:
        """The bytes of an external file, mapped once."""
        if location not in self._maps:
            self._maps[location] = _map_file(self._inside(location, where), f"{where}: external data {location!r}")
        return self._maps[location]

    def _inside(self, location: str, where: str) -> str:
        """The resolved path of an external file.  Raises ModelError if it is not inside of the folder."""
        what = f"{where}: external data {location!r}"
        if self.folder is None:
            raise ModelError(f"{what} cannot be found, the model did not come from a file; pass base_dir")
        if not location or "\0" in location or os.path.isabs(location):
            raise ModelError(f"{what} is not a path inside of the model's folder")
        folder = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(folder, location))
        if os.path.commonpath([folder, path]) != folder or path == folder:
            raise ModelError(f"{what} lies outside of the model's folder {str(self.folder)!r}; copy the file there")
        return path


def _map_file(path: str, what: str) -> np.ndarray:
    # Opened before it is examined, and without following a link, so that the file cannot be exchanged in between.
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as e:
        raise ModelError(f"{what} cannot be opened: {e.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise ModelError(f"{what} is not a regular file")
        if facts.st_nlink != 1:
            raise ModelError(f"{what} has {facts.st_nlink} hard links, so that it may lie outside too; copy the file")
        if facts.st_size == 0:
            return np.empty(0, np.uint8)
        return np.asarray(np.memmap(file, np.uint8, "r"))


def _byte_count(text: str, what: str, where: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise ModelError(f"{where}: {what} of the external data must be a number of bytes, got {text[:40]!r}")
    return int(text)


def _texts(tensor: TensorProto, where: str) -> np.ndarray:
    """Strings, which are Unicode; bytes that are not UTF-8 become surrogates."""
    count = math.prod(tensor.dims)
    if any(d < 0 for d in tensor.dims) or len(tensor.string_data) != count:
        raise ModelError(f"{where}: str{list(tensor.dims)} needs {count} strings, got {len(tensor.string_data)}")
    array = np.empty(count, object)
    array[:] = [text.decode("utf-8", "surrogateescape") for text in tensor.string_data]
    return array.reshape(tuple(tensor.dims))


def _typed(tensor: TensorProto, dtype: str, count: int, where: str) -> np.ndarray:
    field = _FIELD.get(dtype, "int32_data")
    stored = getattr(tensor, field)
    if len(stored) != count:
        raise ModelError(f"{where}: {dtype}{list(tensor.dims)} needs {count} elements in {field}, got {len(stored)}")
    if dtype in _BIT_PATTERNS:
        return np.array(stored, np.int64).astype(np.uint16).view(_BIT_PATTERNS[dtype])
    return np.array(stored, dtype=np.float64 if dtype[0] == "f" else None if count else np.int64).astype(
        DTYPES[dtype].numpy
    )


def read_sparse(tensors: TensorReader, sparse: onnx.SparseTensorProto, where: str, limit: int) -> np.ndarray:
    """A sparse tensor as a dense array.  Raises ModelError for indices outside, or more than `limit` bytes."""
    values = tensors.read(sparse.values, f"{where} (values)")
    indices = tensors.read(sparse.indices, f"{where} (indices)")
    shape = tuple(sparse.dims)
    if any(d < 0 for d in shape) or math.prod(shape) * values.itemsize > limit:
        raise ModelError(f"{where}: a sparse tensor of shape {list(shape)} is negative or larger than {limit} bytes")
    if indices.ndim == 1 and len(shape) != 1:
        if indices.size and (indices.min() < 0 or indices.max() >= math.prod(shape)):
            raise ModelError(f"{where}: an index is outside of the shape {list(shape)}")
        indices = np.stack(np.unravel_index(indices, shape), 1) if indices.size else indices.reshape(0, len(shape))
    elif indices.ndim == 1:
        indices = indices[:, None]
    fits = values.ndim == 1 and indices.shape == (values.size, len(shape)) and indices.dtype == np.int64
    if not fits or (indices.size and ((indices < 0) | (indices >= np.array(shape))).any()):
        raise ModelError(f"{where}: indices {list(indices.shape)} and values {list(values.shape)} do not fit {list(shape)}")
    dense = np.zeros(shape, values.dtype)
    dense[tuple(indices.T)] = values
    return dense
