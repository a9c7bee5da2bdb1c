"""Scaled dot-product attention.  What the core operator does not cover follows the standard's own definition."""

from __future__ import annotations

import math

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.movement import Iota
from ....ir.ops.norm import Attention
from ....ir.ops.reduce import Reduce
from ..builder import OnnxBuilder
from ..symbolic import quotient
from ..table import STANDARD, Outputs, Standard, onnx_op


@onnx_op("Attention", since=23)
def attention(
    b: OnnxBuilder, q: Value, k: Value, v: Value, mask: Value | None = None, past_key: Value | None = None,
    past_value: Value | None = None, valid: Value | None = None, *, is_causal: int = 0, kv_num_heads: int | None = None,
    left_window_size: int = -1, q_num_heads: int | None = None, qk_matmul_output_mode: int = 0,
    right_window_size: int = -1, scale: float | None = None, softcap: float = 0.0, softmax_precision: int | None = None,
) -> Outputs | Standard:  # fmt: skip
    """softmax_precision: half-precision is computed in f32, the rest in its own type."""
    windowed = left_window_size >= 0 or right_window_size >= 0
    if softcap or windowed or valid is not None or any(b.wanted[3:]) or softmax_precision == 11:
        return STANDARD
    flat = q.type.rank == 3
    if flat:
        q, k, v = heads_of(b, q, q_num_heads), heads_of(b, k, kv_num_heads), heads_of(b, v, kv_num_heads)
    if q.type.rank != 4 or k.type.rank != 4 or v.type.rank != 4:
        raise ModelError(f"expected Q, K, V of 3 or 4 dimensions, got {q.type}, {k.type} and {v.type}")
    if past_key is not None and past_value is not None:
        k, v = b.concat((past_key, k), 2), b.concat((past_value, v), 2)
    elif is_causal and q.type.shape[2] != k.type.shape[2]:
        return STANDARD  # the frontier starts at the first key; the core operator's ends at the last
    depth = q.type.shape[3]
    if scale is None:
        if not isinstance(depth, int) or depth < 1:
            raise ModelError(f"the size of a head, {depth}, must be known and positive")
        scale = 1 / math.sqrt(depth)
    if mask is not None and mask.type.shape[-1] != k.type.shape[2]:
        return STANDARD
    y = _attend(b, q, k, v, mask, scale, bool(is_causal))
    if flat:
        batch, heads, rows, size = y.type.shape
        y = b.reshape(b.transpose(y, (0, 2, 1, 3)), (batch, rows, heads * size))
    return y, k, v


def heads_of(b: OnnxBuilder, x: Value, heads: int | None) -> Value:
    """[B, M, H*D] as [B, H, M, D]."""
    size = quotient([x.type.shape[2]], [heads]) if heads and x.type.rank == 3 else None
    if heads is None or size is None:
        raise ModelError(f"attributes 'q_num_heads' and 'kv_num_heads' must divide {x.type}, got {heads}")
    return b.transpose(b.reshape(x, (*x.type.shape[:2], heads, size)), (0, 2, 1, 3))


def _attend(b: OnnxBuilder, q: Value, k: Value, v: Value, mask: Value | None, scale: float, causal: bool) -> Value:
    """A query that sees no key gives zeros, not NaN: only with a mask can that be."""
    if mask is None:
        return b.add(Attention(scale, causal), q, k, v)
    low = b.scalar(-math.inf, q.type.dtype)
    if mask.type.dtype == "bool":
        mask = b.select(mask, b.scalar(0, q.type.dtype), low)
    if causal:
        mask = b.select(_seen(b, q, k), mask, low)
    y = b.add(Attention(scale, False), q, k, v, mask)
    best = b.add(Reduce("max", (mask.type.rank - 1,), True), mask)
    sees = b.binary("gt", best, low)
    if sees in b.constants and np.all(b.constants[sees]):
        return y
    return b.select(sees, y, b.scalar(0, q.type.dtype))


def _seen(b: OnnxBuilder, q: Value, k: Value) -> Value:
    """bool[M, S]: query i sees the keys j <= i + S - M."""
    rows, keys = q.type.shape[2], k.type.shape[2]
    behind = b.reshape(b.dim_tensor([keys - rows]), ())
    last = b.binary("add", b.reshape(b.add(Iota(rows, "i64")), (rows, 1)), behind)
    return b.binary("le", b.add(Iota(keys, "i64")), last)
