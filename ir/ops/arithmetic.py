"""What the operators that compute share: the types they compute in, and broadcasting.

Half-precision floats (f16, bf16) are read as f32, computed on in f32, and rounded once when the result is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dims import as_dim
from ..expr import Expr, ExprLike, as_expr, cast, load
from ..kernel import Buffer
from ..types import DTYPES, Dim, TensorType
from .base import Op
from .operands import require

_KIND_NAMES = {"f": "floats", "i": "signed integers", "u": "unsigned integers", "b": "bool", "s": "strings"}
_HALVES = (DTYPES["f16"].numpy, DTYPES["bf16"].numpy)


def arithmetic_dtype(dtype: str) -> str:
    """The type that values of an element type are computed in: f32 for f16 and bf16, else itself."""
    return "f32" if dtype in ("f16", "bf16") else dtype


def read(buf: Buffer, *idx: ExprLike) -> Expr:
    """An element, in the arithmetic type of the buffer."""
    return cast(load(buf, *idx), arithmetic_dtype(buf.dtype))


def widen(array: np.ndarray) -> np.ndarray:
    """The array in its arithmetic type."""
    return array.astype(np.float32) if array.dtype in _HALVES else array


def as_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array (or NumPy scalar) rounded to an element type."""
    return np.asarray(array).astype(DTYPES[dtype].numpy, copy=False)


def require_kind(op: Op, what: str, t: TensorType, kinds: str) -> None:
    """Raises ModelError unless the element type is of one of the kinds (letters of `DTypeInfo.kind`)."""
    expected = " or ".join(_KIND_NAMES[k] for k in kinds)
    require(DTYPES[t.dtype].kind in kinds, op, "{} must be {}, got {}; cast it", what, expected, t)


def require_same_dtype(op: Op, types: Sequence[TensorType]) -> None:
    if any(t.dtype != types[0].dtype for t in types):
        require(False, op, "operands must have one element type, got {}; cast one", ", ".join(map(str, types)))


def broadcast_shapes(op: Op, *shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The NumPy broadcast of shapes.  Raises ModelError for dimensions that are neither 1 nor known to be equal."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = [1] * rank
    for shape in shapes:
        for i, d in enumerate(map(as_dim, shape), rank - len(shape)):
            if out[i] == 1:
                out[i] = d
            elif d not in (1, out[i]):
                text = " and ".join(f"[{', '.join(map(str, s))}]" for s in shapes)
                require(False, op, "shapes {} do not broadcast: {} meets {}", text, out[i], d)
    return tuple(out)


def broadcast_index(shape: tuple[Dim, ...], axes: Sequence[ExprLike], out: Sequence[Dim]) -> tuple[Expr, ...]:
    """Where an operand is read by loops over the broadcast shape `out`: at the axes, at 0 where it is stretched."""
    skip = len(axes) - len(shape)
    stretched = [d == 1 and o != 1 for d, o in zip(shape, out[skip:], strict=True)]
    return tuple(as_expr(0 if s else a) for s, a in zip(stretched, axes[skip:], strict=True))
