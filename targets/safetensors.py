"""Weights in the safetensors format: eight bytes of header length, a JSON header, the arrays one after the other.

Written and read here, with NumPy alone; arrays are mapped from the file, not copied.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..ir.errors import OptionError
from .arrays import numpy_type
from .artifact import ConstantFile

_NAMES = {
    "f64": "F64", "f32": "F32", "f16": "F16", "bf16": "BF16", "i64": "I64", "i32": "I32", "i16": "I16", "i8": "I8",
    "u64": "U64", "u32": "U32", "u16": "U16", "u8": "U8", "bool": "BOOL",
}
_TYPES = {text: name for name, text in _NAMES.items()}
_ALIGNMENT = 64


def safetensors(tensors: Sequence[tuple[str, str, np.ndarray]]) -> ConstantFile:
    """The file of (name, element type, array); names are unique."""
    header: dict[str, object] = {}
    at = 0
    for name, dtype, array in tensors:
        header[name] = {"dtype": _NAMES[dtype], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)  # the format pads its header with spaces
    start = np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8)
    parts = [(0, start)]
    offset = start.size
    for _, _, array in tensors:
        parts.append((offset, array))
        offset += array.nbytes
    return ConstantFile(tuple(parts), offset)


def arrays_of(file: ConstantFile) -> dict[str, np.ndarray]:
    """The arrays by name of a file that `safetensors` made."""
    (_, start), *parts = file.parts
    header = json.loads(start[8:].tobytes())
    return {name: array for name, (_, array) in zip(header, parts, strict=True)}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name.  Raises OptionError for a file that is damaged."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        data = np.memmap(path, np.uint8, "r", 8 + length) if path.stat().st_size > 8 + length else np.empty(0, np.uint8)
        found = {}
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = data[begin:end].view(numpy_type(_TYPES[entry["dtype"]])).reshape(entry["shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(f"load: {path} is not a safetensors file or is damaged ({error}); compile again") from error
    return found
