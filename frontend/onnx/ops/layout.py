"""Channels last: ONNX has [N, C, *spatial], the graph has [N, *spatial, C].  Transposes that meet are cancelled later."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.dims import as_dim
from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.types import Dim
from ..builder import OnnxBuilder

AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def to_channels_last(b: OnnxBuilder, x: Value) -> Value:
    return b.transpose(x, (0, *range(2, x.type.rank), 1))


def to_channels_first(b: OnnxBuilder, x: Value) -> Value:
    return b.transpose(x, (0, x.type.rank - 1, *range(1, x.type.rank - 1)))


def require_rank(what: str, x: Value | None, *ranks: int) -> None:
    """Raises ModelError unless an operand, if it is there, has one of these numbers of dimensions."""
    if x is not None and x.type.rank not in ranks:
        raise ModelError(f"{what} is {x.type}; expected {' or '.join(map(str, ranks))} dimensions")


def spatial_rank(x: Value) -> int:
    if x.type.rank < 3:
        raise ModelError(f"expected x[N, C, *spatial], got {x.type}")
    return x.type.rank - 2


def each(values: Sequence[int] | None, count: int, default: int, what: str) -> tuple[int, ...]:
    """An attribute with one entry per spatial dimension (or two, for pads), none below its default, 0 or 1."""
    if not values:
        return (default,) * count
    if len(values) != count or min(values) < default:
        raise ModelError(f"attribute {what!r} must have {count} numbers of at least {default}, got {list(values)}")
    return tuple(values)


def window_pads(
    auto_pad: str, pads: Sequence[int] | None, spatial: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:  # fmt: skip
    """Pads of a sliding window, those at the begins, then those at the ends.  SAME: as many windows as x / stride,
    rounded up; an odd pad goes to the end for SAME_UPPER."""
    rank = len(spatial)
    if auto_pad not in AUTO_PADS:
        raise ModelError(f"attribute 'auto_pad' must be one of {', '.join(AUTO_PADS)}, got {auto_pad!r}")
    if auto_pad == "NOTSET":
        return each(pads, 2 * rank, 0, "pads")
    if auto_pad == "VALID":
        return (0,) * (2 * rank)
    totals = [_same(*row) for row in zip(spatial, kernel, strides, dilations, strict=True)]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (*small, *large) if auto_pad == "SAME_UPPER" else (*large, *small)


def _same(n: Dim, kernel: int, stride: int, dilation: int) -> int:
    span = (kernel - 1) * dilation + 1
    if stride == 1:
        return span - 1
    total = as_dim(((n + stride - 1) // stride - 1) * stride + span - n) if stride > 0 else 0
    if not isinstance(total, int):
        raise ModelError(f"auto_pad needs the size {n} to be known for stride {stride}; bind it (--shape, --dim)")
    return max(total, 0)
