"""Attention between integers, as a quantized model spells it: both products in integers, the softmax in floats, its weights
rounded before the second one.  A composite: a target that has a kernel for it keeps it whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..types import TensorType
from .arithmetic import broadcast_shapes
from .base import Op
from .contract import MatMul
from .elementwise import Binary, Cast
from .movement import Transpose
from .norm import Arithmetic
from .operands import require, require_count
from .quantize import Saturate, integer_range
from .reduce import Reduce

if TYPE_CHECKING:
    from ..graph import Builder, Value

LEAST_TOTAL = 1.0  # of the exponentials of a row: its largest is 1, unless the mask hides all keys


def _rounded(x: np.ndarray, zero: float, low: float, high: float) -> np.ndarray:
    """clamp(rint(x) + zero, low, high) - zero"""
    return np.clip(np.rint(x) + np.float32(zero), np.float32(low), np.float32(high)) - np.float32(zero)


@dataclass(frozen=True)
class QuantizedAttention(Op):
    """For q u8[B, H, M, D], k and v (u8 or i8) [B, H, S, D] and [B, H, S, E], an optional mask f32 that broadcasts to
    [B, H, M, S]; zeros: the zero points of q, k and v:

        score  = sum over D of (q - zq) * (k - zk), times scale
        score  = clamp(rint(score / step) + zero, low, high) - zero, times factor      scores = (step, zero, low, high, factor)
        score  = score + mask, rounded in the same way, times step                     sums = (step, zero, low, high)
        share  = softmax(score), rounded in the same way, times step                   shares = (step, zero, low, high)
        weight = clamp(rint(share / step) + zero, low, high)                           weights = (step, zero, low, high), u8
        y      = sum over S of (weight - zero) * (v - zv), times gain, f32
        y      = clamp(rint(y) + zero, low, high), u8                                  result = (zero, low, high)

    scores, sums, shares and result may be ().  A row whose keys are all hidden by the mask has weights of zero.  Rounding is
    half to even."""

    scale: float
    zeros: tuple[int, int, int]
    scores: tuple[float, ...]
    weights: tuple[float, ...]
    gain: float
    result: tuple[int, ...]
    sums: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 3, 4)
        q, k, v = types[:3]
        bytes_ = q.dtype == "u8" and {k.dtype, v.dtype} <= {"u8", "i8"}
        require(bytes_, self, "expected u8, and bytes for k and v, got {}, {} and {}", q, k, v)
        require(q.rank == k.rank == v.rank == 4, self, "expected 4 dimensions each, got {}, {} and {}", q, k, v)
        fits = q.shape[:2] == k.shape[:2] and k.shape[3] == q.shape[3] and v.shape[:3] == k.shape[:3]
        require(fits, self, "q[B, H, M, D] {}, k[B, H, S, D] {} and v[B, H, S, E] {} do not fit", q, k, v)
        for name, part, sizes in (("scores", self.scores, (0, 5)), ("weights", self.weights, (4,)),
                                  ("result", self.result, (0, 3)), ("sums", self.sums, (0, 4)),
                                  ("shares", self.shares, (0, 4))):
            require(len(part) in sizes, self, "{} has {} numbers, expected {}", name, len(part), sizes)
        require(0 <= self.weights[1] <= 255, self, "the zero point {} of the weights is no u8", self.weights[1])
        if len(types) == 4:
            scores = (*q.shape[:3], k.shape[2])
            fits = types[3].dtype == "f32" and broadcast_shapes(self, scores, types[3].shape) == scores
            require(fits, self, "the mask {} is no f32 that broadcasts to [B, H, M, S] of {} and {}", types[3], q, k)
        return (TensorType("u8" if self.result else "f32", (*q.shape[:3], v.shape[3])),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        q, k, v = (a.astype(np.int64) - z for a, z in zip(arrays, self.zeros, strict=False))
        f32 = np.float32
        with np.errstate(all="ignore"):
            score = np.einsum("bhmd,bhsd->bhms", q, k).astype(f32) * f32(self.scores_scale)
            if self.scores:
                _, zero, low, high, factor = self.scores
                score = _rounded(score, zero, low, high) * f32(factor)
            if len(arrays) == 4:
                score = score + arrays[3]
            if self.sums:
                score = _rounded(score / f32(self.sums[0]), *self.sums[1:]) * f32(self.sums[0])
            most = np.maximum(score.max(axis=-1, keepdims=True, initial=-np.inf), f32(-3e38))
            e = np.exp(score - most)
            share = e / np.maximum(e.sum(axis=-1, keepdims=True), f32(LEAST_TOTAL))
            if self.shares:
                share = _rounded(share / f32(self.shares[0]), *self.shares[1:]) * f32(self.shares[0])
            weight = _rounded(share / f32(self.weights[0]), *self.weights[1:]).astype(np.int64)
            y = np.einsum("bhms,bhse->bhme", weight, v).astype(f32) * f32(self.gain)
            if self.result:
                zero, low, high = self.result
                y = np.clip(np.rint(y) + f32(zero), f32(low), f32(high)).astype(np.uint8)
        return (y,)

    @property
    def share_step(self) -> float:
        """The step in which the softmax is rounded first."""
        return self.shares[0] if self.shares else self.weights[0]

    @property
    def scores_scale(self) -> float:
        """What sums of products of q and k are multiplied with, before they are rounded if they are."""
        return self.scale / self.scores[0] if self.scores else self.scale

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        a = Arithmetic(b, "f32")

        def centred(v: Value, zero: int) -> Value:
            return b.add(Binary("sub"), b.add(Cast("i32"), v), b.constant(np.asarray(zero, np.int32)))

        def product(x: Value, y: Value) -> Value:
            return b.add(Cast("f32"), b.add(MatMul(), x, y))

        def rounded(x: Value, zero: float, low: float, high: float) -> Value:
            """u8 where the range is one, else as i16."""
            least, most = integer_range("u8")
            to = "u8" if least <= low and high <= most else "i16"
            return b.add(Saturate(to, int(low), int(high), int(zero)), x)

        q, k, v = map(centred, values[:3], self.zeros)
        score = a.binary("mul", product(q, b.add(Transpose((0, 1, 3, 2)), k)), self.scores_scale)
        def again(x: Value, zero: float, low: float, high: float, factor: float) -> Value:
            whole = b.add(Cast("f32"), rounded(x, zero, low, high))
            return a.binary("mul", a.binary("sub", whole, float(zero)), factor)

        if self.scores:
            score = again(score, *self.scores[1:])  # pyright: ignore
        if len(values) == 4:
            score = a.binary("add", score, values[3])
        if self.sums:
            score = again(a.binary("mul", score, 1 / self.sums[0]), *self.sums[1:], self.sums[0])  # pyright: ignore
        most = a.binary("max", b.add(Reduce("max", (3,), True), score), -3e38)
        e = a.unary("exp", a.binary("sub", score, most))
        step, zero, low, high = self.weights
        total = a.binary("max", b.add(Reduce("sum", (3,), True), e), LEAST_TOTAL)
        share = a.binary("div", e, a.binary("mul", total, self.share_step))
        if self.shares:
            share = again(share, *self.shares[1:], self.shares[0] / step)  # pyright: ignore
        y = a.binary("mul", product(centred(rounded(share, zero, low, high), int(zero)), v), self.gain)
        return (rounded(y, *self.result) if self.result else y,)
