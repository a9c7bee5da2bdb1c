"""How types, numbers, names and arrays look in MLIR text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from ...ir.types import DTYPES, TensorType, dtype_of

ELEMENTS = {
    "f64": "f64", "f32": "f32", "f16": "f16", "bf16": "bf16", "i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8",
    "u64": "ui64", "u32": "ui32", "u16": "ui16", "u8": "ui8", "bool": "i1",
}
_LONGEST_LIST = 64  # elements; longer literals are written as their bytes
_WORD = re.compile(r"[^A-Za-z0-9_]+")


def type_text(t: TensorType) -> str:
    """`tensor<1x224x224x3xf32>`.  Raises InternalError for a symbolic dimension."""
    return "tensor<" + "".join(f"{d}x" for d in t.static_shape) + ELEMENTS[t.dtype] + ">"


def types_text(types: Iterable[TensorType]) -> str:
    return ", ".join(map(type_text, types))


def identifier(name: str) -> str:
    """A name as an MLIR identifier: letters, digits and `_`, a letter first."""
    word = _WORD.sub("_", name).strip("_")
    return word if word[:1].isalpha() else f"v{word}"


def quoted(text: str) -> str:
    """A string literal; what is neither printable ASCII nor plain is written as bytes in hexadecimal."""
    parts = [chr(b) if 32 <= b < 127 and chr(b) not in '"\\' else f"\\{b:02X}" for b in text.encode(errors="replace")]
    return '"' + "".join(parts) + '"'


def numbers(values: Iterable[int]) -> str:
    """`1, 2, 3`"""
    return ", ".join(map(str, values))


def i64_array(values: Sequence[int]) -> str:
    """`array<i64: 1, 2>`"""
    return f"array<i64: {numbers(values)}>" if values else "array<i64>"


def scalar_text(value: np.generic | np.ndarray) -> str:
    """A number as a literal that MLIR reads back bit by bit."""
    array = np.asarray(value)
    kind = DTYPES[dtype_of(array)].kind
    if kind == "b":
        return "true" if array else "false"
    if kind != "f":
        return str(int(array))
    if not np.isfinite(array.astype(np.float64)):
        bits = array.reshape(1).view(f"u{array.itemsize}")[0]
        return f"0x{int(bits):0{2 * array.itemsize}X}"
    text = repr(float(array))
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def dense_text(array: np.ndarray) -> str:
    """The array as a `dense<...>` attribute without its type: one number, a list, or bytes."""
    array = np.asarray(array)
    if array.size and uniform(array):
        return f"dense<{scalar_text(array.reshape(-1)[0])}>"
    if array.size <= _LONGEST_LIST or array.dtype == np.bool_:
        return f"dense<{_list_text(array) if array.size else ''}>"
    return f'dense<"0x{np.ascontiguousarray(array).tobytes().hex().upper()}">'


def uniform(array: np.ndarray) -> bool:
    """Whether all elements have the same bits; false for no elements."""
    if array.size == 0:
        return False
    first = array.reshape(-1)[:1].tobytes()
    return array.size == 1 or np.ascontiguousarray(array).tobytes() == first * array.size


def _list_text(array: np.ndarray) -> str:
    if array.ndim == 0:
        return scalar_text(array)
    return "[" + ", ".join(_list_text(part) for part in array) + "]"
