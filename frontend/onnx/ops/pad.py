"""Padding; negative pads cut."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.dims import as_dim
from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.movement import PAD_MODES, Pad
from ....ir.types import Dim
from ..builder import OnnxBuilder, normal_axis
from ..symbolic import at_least
from ..table import Outputs, onnx_op


@onnx_op("Pad", since=2)
def pad_by_attributes(
    b: OnnxBuilder, x: Value, *, pads: tuple[int, ...], mode: str = "constant", value: float = 0.0
) -> Outputs:
    return _pad(b, x, pads, range(x.type.rank), mode, b.scalar(value, x.type.dtype))


@onnx_op("Pad", since=11)
def pad(
    b: OnnxBuilder, x: Value, pads: Value, value: Value | None = None, axes: Value | None = None, *,
    mode: str = "constant",
) -> Outputs:  # fmt: skip
    chosen: Sequence[int] = range(x.type.rank) if axes is None else b.ints(axes, "axes")
    filler = b.scalar("" if x.type.dtype == "str" else 0, x.type.dtype) if value is None else b.reshape(value, ())
    return _pad(b, x, b.dims(pads, "pads"), chosen, mode, filler)


def _pad(b: OnnxBuilder, x: Value, pads: Sequence[Dim], axes: Sequence[int], mode: str, value: Value) -> Value:
    rank = x.type.rank
    if mode not in PAD_MODES or len(pads) != 2 * len(axes):
        raise ModelError(f"mode {mode!r} and pads {list(pads)} do not fit {x.type} and {len(axes)} axes")
    before: list[Dim] = [0] * rank
    after: list[Dim] = [0] * rank
    for n, axis in enumerate(axes):
        d = normal_axis(axis, rank)
        before[d], after[d] = pads[n], pads[len(axes) + n]
    for d in range(rank):
        first, last = _cut(before[d]), _cut(after[d])
        if first != 0 or last != 0:
            x = b.slice(x, d, first, as_dim(x.type.shape[d] - first - last))
    before, after = [_added(p) for p in before], [_added(p) for p in after]
    if all(p == 0 for p in (*before, *after)):
        return x
    if mode == "constant" and x.type.dtype == "str":
        for d in range(rank):
            first, last = (b.broadcast(value, (*x.type.shape[:d], p, *x.type.shape[d + 1 :])) for p in (before[d], after[d]))
            x = b.concat([v for v in (first, x, last) if v.type.shape[d] != 0], d)
        return x
    return b.add(Pad(tuple(before), tuple(after), mode), x, *((value,) if mode == "constant" else ()))


def _cut(pad: Dim) -> int:
    if isinstance(pad, int):
        return max(-pad, 0)
    if not at_least(pad, 0):
        raise ModelError(f"whether the pad {pad} adds or cuts depends on symbolic dimensions; bind them (--shape, --dim)")
    return 0


def _added(pad: Dim) -> Dim:
    return max(pad, 0) if isinstance(pad, int) else pad
