"""Scaled dot-product attention as one composite, so that a target may fuse or replace it whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..dims import as_dim
from ..expr import as_expr
from ..types import Dim, TensorType
from .arithmetic import broadcast_shapes, require_kind, require_same_dtype, widen
from .base import Op
from .contract import MatMul
from .elementwise import Binary, Select
from .movement import Iota, Reshape, Slice, Transpose
from .norm import Arithmetic, softmax
from .operands import require, require_count

if TYPE_CHECKING:
    from ..graph import Builder, Value


@dataclass(frozen=True)
class Attention(Op):
    """softmax(scale * q @ k^T + mask) @ v for q[B, H, M, D], k[B, G, S, D], v[B, G, S, E] and an optional mask that is
    added, broadcast to [B, H, M, S]; gives [B, H, M, E].  H is a multiple of G: query head h reads head h // (H / G).
    causal: query i sees the keys j <= i + (S - M), so the last query sees all; symbolic S - M must not be negative."""

    scale: float
    causal: bool

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 3, 4)
        require_same_dtype(self, types)
        q, k, v = types[:3]
        require_kind(self, "the operands", q, "f")
        require(q.rank == k.rank == v.rank == 4, self, "expected 4 dimensions each, got {}, {} and {}", q, k, v)
        (batch, heads, rows, _), groups, keys = q.shape, k.shape[1], k.shape[2]
        fits = k.shape[0] == batch and k.shape[3] == q.shape[3] and v.shape[:3] == k.shape[:3]
        require(fits, self, "q[B, H, M, D] {}, k[B, G, S, D] {} and v[B, G, S, E] {} do not fit", q, k, v)
        known = isinstance(heads, int) and isinstance(groups, int)
        shares = heads == groups or (known and groups > 0 and heads % groups == 0)  # type: ignore[operator]
        require(shares, self, "the {} heads of q must be a multiple of the {} heads of k and v", heads, groups)
        if len(types) == 4:
            scores = (batch, heads, rows, keys)
            fits = broadcast_shapes(self, scores, types[3].shape) == scores
            require(fits, self, "the mask {} does not broadcast to [B, H, M, S] of {} and {}", types[3], q, k)
        return (TensorType(q.dtype, (*q.shape[:3], v.shape[3])),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        q, k, v, *mask = map(widen, arrays)
        repeats = q.shape[1] // k.shape[1] if k.shape[1] else 1
        k, v = np.repeat(k, repeats, axis=1), np.repeat(v, repeats, axis=1)
        with np.errstate(all="ignore"):
            scores = np.einsum("bhmd,bhsd->bhms", q, k) * q.dtype.type(self.scale)
            if mask:
                scores = scores + mask[0]
            if self.causal:
                seen = np.tril(np.ones(scores.shape[-2:], bool), scores.shape[-1] - scores.shape[-2])
                scores = np.where(seen, scores, q.dtype.type(-np.inf))
            return (np.einsum("bhms,bhse->bhme", softmax(scores, -1), v).astype(arrays[0].dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        """Heads that share keys are rows of one product."""
        a = Arithmetic(b, values[0].type.dtype)
        q, k, v, *mask = a.wide(*values)
        batch, heads, rows, depth = q.type.shape
        _, groups, keys, _ = k.type.shape
        shared = heads != groups
        if shared:
            q = b.add(Reshape((batch, groups, self._rows_per_group(heads, groups, rows), depth)), q)
        scores = b.add(MatMul(), q, b.add(Transpose((0, 1, 3, 2)), k))
        if shared:
            scores = b.add(Reshape((batch, heads, rows, keys)), scores)
        scores = a.binary("mul", scores, self.scale)
        if mask:
            scores = a.binary("add", scores, mask[0])
        if self.causal:
            scores = b.add(Select(), self._seen(b, rows, keys), scores, a.scalar(float("-inf")))
        weights = a.softmax(scores, 3)
        if shared:
            weights = b.add(Reshape((batch, groups, self._rows_per_group(heads, groups, rows), keys)), weights)
        y = b.add(MatMul(), weights, v)
        if shared:
            y = b.add(Reshape((batch, heads, rows, v.type.shape[3])), y)
        return a.result(y)

    @staticmethod
    def _rows_per_group(heads: Dim, groups: Dim, rows: Dim) -> Dim:
        return as_dim(as_expr(heads) / as_expr(groups) * rows)

    @staticmethod
    def _seen(b: Builder, rows: Dim, keys: Dim) -> Value:
        """bool[M, S]: whether the query sees the key."""
        behind = as_dim(as_expr(keys) - rows)
        if isinstance(behind, int):
            position = b.add(Binary("add"), b.add(Iota(rows, "i64")), b.constant(np.array(behind, np.int64)))
        else:
            position = b.add(Slice((behind,), (rows,), (1,)), b.add(Iota(keys, "i64")))
        return b.add(Binary("le"), b.add(Iota(keys, "i64")), b.add(Reshape((rows, 1)), position))
