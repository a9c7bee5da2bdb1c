"""Checks that operators make on their operands."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ModelError
from ..types import TensorType, is_integer
from .base import Op


def require(ok: bool, op: Op, message: str, *args: object) -> None:
    """Raises ModelError, with the operator's name and the message formatted with args, unless ok."""
    if not ok:
        raise ModelError(f"{op.name}: {message.format(*args)}")


def require_count(op: Op, types: Sequence[TensorType], *counts: int) -> None:
    expected = " or ".join(str(n) for n in counts)
    require(len(types) in counts, op, "expected {} operands, got {}", expected, len(types))


def require_axis(op: Op, axis: int, x: TensorType) -> None:
    require(0 <= axis < x.rank, op, "axis {} is outside of {}, which has {} dimensions", axis, x, x.rank)


def require_index(op: Op, what: str, t: TensorType) -> None:
    require(is_integer(t.dtype), op, "{} must be integers, got {}; cast them", what, t)


def require_scalar(op: Op, what: str, t: TensorType, dtype: str) -> None:
    require(t == TensorType(dtype, ()), op, "{} must be a scalar of type {}, got {}", what, dtype, t)
