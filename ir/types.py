"""Element types and tensor types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import ml_dtypes
import numpy as np

from .errors import InternalError

if TYPE_CHECKING:
    from .expr import Expr

Dim = Union[int, "Expr"]


@dataclass(frozen=True, slots=True)
class DTypeInfo:
    """Facts about one element type: its NumPy type, size in bytes, and kind ('f' float, 'i' signed, 'u' unsigned, 'b' bool,
    's' strings: Python's str, in memory the address of UTF-8 text that ends with a zero byte)."""

    numpy: np.dtype
    size: int
    kind: str


DTYPES: dict[str, DTypeInfo] = {
    "f64": DTypeInfo(np.dtype(np.float64), 8, "f"),
    "f32": DTypeInfo(np.dtype(np.float32), 4, "f"),
    "f16": DTypeInfo(np.dtype(np.float16), 2, "f"),
    "bf16": DTypeInfo(np.dtype(ml_dtypes.bfloat16), 2, "f"),
    "i64": DTypeInfo(np.dtype(np.int64), 8, "i"),
    "i32": DTypeInfo(np.dtype(np.int32), 4, "i"),
    "i16": DTypeInfo(np.dtype(np.int16), 2, "i"),
    "i8": DTypeInfo(np.dtype(np.int8), 1, "i"),
    "u64": DTypeInfo(np.dtype(np.uint64), 8, "u"),
    "u32": DTypeInfo(np.dtype(np.uint32), 4, "u"),
    "u16": DTypeInfo(np.dtype(np.uint16), 2, "u"),
    "u8": DTypeInfo(np.dtype(np.uint8), 1, "u"),
    "bool": DTypeInfo(np.dtype(np.bool_), 1, "b"),
    "str": DTypeInfo(np.dtype(object), 8, "s"),
}
NUMBERS: tuple[str, ...] = tuple(name for name, info in DTYPES.items() if info.kind != "s")
_BY_NUMPY = {info.numpy: name for name, info in DTYPES.items()}


def dtype_of(array: np.ndarray) -> str:
    """The element type name of an array.  Raises InternalError for a NumPy type that has none."""
    name = _BY_NUMPY.get(array.dtype)
    if name is None:
        raise InternalError(f"array of NumPy type {array.dtype} has no element type here")
    return name


def is_float(dtype: str) -> bool:
    return DTYPES[dtype].kind == "f"


def is_integer(dtype: str) -> bool:
    return DTYPES[dtype].kind in "iu"


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape.  A dimension is an int, or an expression of symbolic dimensions."""

    dtype: str
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as ints.  Raises InternalError when a dimension is symbolic."""
        if not self.is_static:
            raise InternalError(f"{self} has symbolic dimensions where a static shape is needed")
        return tuple(int(d) for d in self.shape)  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """Number of elements of a static shape."""
        count = 1
        for d in self.static_shape:
            count *= d
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of a dense array of this static shape."""
        return self.size * DTYPES[self.dtype].size

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(d) for d in self.shape)}]"
