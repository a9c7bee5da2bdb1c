"""Attention of the domain com.microsoft: packed projections, biases, masks of several kinds, caches, rotary positions."""

from __future__ import annotations

import math

import numpy as np

from ....ir.dims import as_dim
from ....ir.errors import ModelError
from ....ir.expr import as_expr
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.movement import Iota, Pad
from ....ir.ops.norm import Attention, RmsNorm, Softmax
from ....ir.types import Dim
from ..builder import OnnxBuilder
from ..symbolic import quotient
from ..table import Outputs, onnx_op
from .attention import heads_of
from .fused import DOMAIN
from .gather import tensor_scatter
from .layout import require_rank


def _joined(b: OnnxBuilder, x: Value) -> Value:
    """[B, H, M, D] as [B, M, H * D]."""
    batch, heads, rows, size = x.type.shape
    return b.reshape(b.transpose(x, (0, 2, 1, 3)), (batch, rows, heads * size))


def _scale(q: Value, scale: float) -> float:
    depth = q.type.shape[3]
    if scale:
        return scale
    if not isinstance(depth, int) or depth < 1:
        raise ModelError(f"the size of a head, {depth}, must be known and positive")
    return 1 / math.sqrt(depth)


def _key_mask(b: OnnxBuilder, mask: Value, keys: Dim, low: float, dtype: str) -> Value:
    """What is added to the scores: 0, or the filter value for keys that are padding.  mask: lengths [B], or numbers that
    are 0 for padding, [B, S], [B, M, S] or [B, 1, M, S]."""
    if mask.type.rank == 1:
        places = b.reshape(b.add(Iota(keys, "i64")), (1, keys))
        seen = b.binary("lt", places, b.reshape(b.cast(mask, "i64"), (mask.type.shape[0], 1)))
    elif mask.type.shape[-1] != keys:
        raise ModelError(f"the mask {mask.type} does not fit {keys} keys")
    else:
        seen = b.binary("gt", b.cast(mask, "i64"), 0)
    shape = seen.type.shape
    if len(shape) < 4:
        seen = b.reshape(seen, (shape[0], *[1] * (4 - len(shape)), *shape[1:]))  # pyright: ignore
    return b.select(seen, b.scalar(0, dtype), b.scalar(low, dtype))


def _attend(
    b: OnnxBuilder, q: Value, k: Value, v: Value, mask: Value | None, extra: Value | None, low: float, causal: bool,
    scale: float,
) -> Value:  # fmt: skip
    """mask: padding of keys; extra: added to the scores as it is.  The filter value is finite: a query that sees padding
    only reads that.  Later keys are never read."""
    dtype, keys = q.type.dtype, k.type.shape[2]
    terms = [] if extra is None else [extra]
    if mask is not None:
        terms.append(_key_mask(b, mask, keys, low, dtype))
    total = terms[0] if terms else None
    for term in terms[1:]:
        total = b.binary("add", total, term)  # type: ignore[arg-type]
    return b.add(Attention(_scale(q, scale), causal), q, k, v, *(() if total is None else (total,)))


@onnx_op("Attention", since=0, domain=DOMAIN)
def attention(
    b: OnnxBuilder, x: Value, w: Value, bias: Value | None = None, mask: Value | None = None, past: Value | None = None,
    extra: Value | None = None, past_length: Value | None = None, *, num_heads: int, do_rotary: int = 0,
    mask_filter_value: float = -10000.0, past_present_share_buffer: int = 0, qkv_hidden_sizes: tuple[int, ...] | None = None,
    rotary_embedding_dim: int = 0, scale: float = 0.0, unidirectional: int = 0,
) -> Outputs:  # fmt: skip
    """x[B, M, C] times one matrix [C, q + k + v]; past and present are [2, B, H, S, D]."""
    if do_rotary or past_present_share_buffer or past_length is not None:
        raise ModelError("do_rotary and a shared buffer of past and present are not supported; use GroupQueryAttention")
    for what, v, rank in (("input", x, 3), ("weights", w, 2), ("bias", bias, 1)):
        require_rank(what, v, rank)
    packed = b.add(MatMul(), x, w)
    packed = packed if bias is None else b.binary("add", packed, bias)
    causal = bool(unidirectional)
    return packed_attention(b, packed, mask, past, extra, num_heads, qkv_hidden_sizes, mask_filter_value, causal, scale)


def packed_attention(
    b: OnnxBuilder, packed: Value, mask: Value | None, past: Value | None, extra: Value | None, heads: int,
    hidden: tuple[int, ...] | None, low: float, causal: bool, scale: float,
) -> Outputs:  # fmt: skip
    """packed[B, M, q + k + v]; hidden: these three sizes, if they are not all the same."""
    require_rank("past", past, 5)
    _require_mask(mask, extra)
    third = quotient([packed.type.shape[2]], [3])
    sizes = hidden or (third, third, third)
    if len(sizes) != 3 or not all(isinstance(n, int) for n in sizes):
        raise ModelError(f"the sizes of q, k and v, {list(sizes)}, do not fit the projections {packed.type}")
    starts = (0, sizes[0], sizes[0] + sizes[1])  # type: ignore[operator]
    q, k, v = (heads_of(b, b.slice(packed, 2, s, n), heads) for s, n in zip(starts, sizes, strict=True))  # type: ignore[arg-type]
    if past is not None:
        k, v = (b.concat((b.reshape(b.slice(past, 0, i, 1), past.type.shape[1:]), new), 2) for i, new in ((0, k), (1, v)))
    y = _attend(b, q, k, v, mask, extra, low, causal, scale)
    present = b.concat([b.reshape(t, (1, *t.type.shape)) for t in (k, v)], 0) if any(b.wanted[1:]) else None
    return _joined(b, y), present


@onnx_op("MultiHeadAttention", since=0, domain=DOMAIN)
def multi_head_attention(
    b: OnnxBuilder, query: Value, key: Value | None = None, value: Value | None = None, bias: Value | None = None,
    mask: Value | None = None, extra: Value | None = None, past_key: Value | None = None, past_value: Value | None = None,
    past_length: Value | None = None, indirection: Value | None = None, *, num_heads: int,
    mask_filter_value: float = -10000.0, scale: float = 0.0, unidirectional: int = 0,
) -> Outputs:  # fmt: skip
    """query [B, M, H*D], or all three as [B, M, H, 3, D]; key and value [B, S, H*D], together [B, S, H, 2, D], or
    [B, H, S, D] as another node made them."""
    if past_length is not None or indirection is not None or any(b.wanted[3:]):
        raise ModelError("a shared buffer of past and present, beams and the output qk are not supported")
    require_rank("query", query, 3, 5)
    require_rank("key", key, 3, 4, 5)
    require_rank("value", value, 3, 4)
    require_rank("bias", bias, 1)
    for past in (past_key, past_value):
        require_rank("past", past, 4)
    _require_mask(mask, extra)
    if query.type.rank == 5:
        query, key, value = (_unpacked(b, query, i) for i in range(3))
    elif key is not None and key.type.rank == 5:
        key, value = (_unpacked(b, key, i) for i in range(2))
    if key is None or value is None:
        raise ModelError("key and value are missing, and the query does not hold them")
    flat, start = [], 0
    for x in (query, key, value):
        if x.type.rank == 3 and bias is not None:
            size = x.type.shape[2]
            x = b.binary("add", x, b.slice(bias, 0, start, size))
            start = start + size  # type: ignore[assignment]
        flat.append(heads_of(b, x, num_heads) if x.type.rank == 3 else x)
    q, k, v = flat
    if past_key is not None and past_value is not None:
        k, v = b.concat((past_key, k), 2), b.concat((past_value, v), 2)
    y = _attend(b, q, k, v, mask, extra, mask_filter_value, bool(unidirectional), scale)
    return _joined(b, y), k, v


def _require_mask(mask: Value | None, extra: Value | None) -> None:
    require_rank("mask", mask, 1, 2, 3, 4)
    require_rank("attention_bias", extra, 4)


def _unpacked(b: OnnxBuilder, x: Value, i: int) -> Value:
    """Part i of [B, M, H, parts, D] as [B, M, H * D]."""
    batch, rows, heads, _, size = x.type.shape
    return b.reshape(b.slice(x, 3, i, 1), (batch, rows, heads * size))


# ---- rotary positions ----


def rotate(b: OnnxBuilder, x: Value, cos: Value, sin: Value, interleaved: bool) -> Value:
    """x[B, H, M, D] with its first elements turned in pairs by the angles of cos and sin [B or 1, M, R / 2]."""
    half = cos.type.shape[-1]
    depth = x.type.shape[3]
    if not isinstance(half, int) or not isinstance(depth, int) or 2 * half > depth:
        raise ModelError(f"angles {cos.type} do not fit heads of size {depth}")
    c, s = (b.cast(b.reshape(t, (t.type.shape[0], 1, *t.type.shape[1:])), x.type.dtype) for t in (cos, sin))
    turned = b.slice(x, 3, 0, 2 * half)
    if interleaved:
        first, second = b.slice(turned, 3, 0, half, 2), b.slice(turned, 3, 1, half, 2)
    else:
        first, second = b.slice(turned, 3, 0, half), b.slice(turned, 3, half, half)
    real = b.binary("sub", b.binary("mul", first, c), b.binary("mul", second, s))
    imaginary = b.binary("add", b.binary("mul", first, s), b.binary("mul", second, c))
    if interleaved:
        pair = b.concat([b.reshape(t, (*t.type.shape, 1)) for t in (real, imaginary)], 4)
        turned = b.reshape(pair, turned.type.shape)
    else:
        turned = b.concat((real, imaginary), 3)
    return turned if 2 * half == depth else b.concat((turned, b.slice(x, 3, 2 * half, depth - 2 * half)), 3)


@onnx_op("RotaryEmbedding", since=0, domain=DOMAIN)
def rotary_embedding(
    b: OnnxBuilder, x: Value, positions: Value, cos: Value, sin: Value, *, interleaved: int = 0, is_packed_batching: int = 0,
    num_heads: int = 0, rotary_embedding_dim: int = 0, scale: float = 1.0,
) -> Outputs:  # fmt: skip
    """x[B, M, H*D] or [B, H, M, D]; positions: one each [B, M], or the first one [1]."""
    flat = x.type.rank == 3
    require_rank("position_ids", positions, 1, 2)
    for cache in (cos, sin):
        require_rank("the cache of angles", cache, 2)
    if scale != 1 or x.type.rank not in (3, 4):
        raise ModelError(f"scale {scale} and x {x.type} are not supported")
    heads = num_heads or quotient([x.type.shape[-1]], [2 * _known(cos.type.shape[1])])
    y = heads_of(b, x, heads) if flat else x  # type: ignore[arg-type]
    rows = y.type.shape[2]
    if positions.type.rank == 1:
        start = b.reshape(b.cast(positions, "i64"), (1, 1))
        positions = b.binary("add", b.reshape(b.add(Iota(rows, "i64")), (1, rows)), start)
    y = rotate(b, y, b.gather(cos, positions, 0), b.gather(sin, positions, 0), bool(interleaved))
    return _joined(b, y) if flat else y


@onnx_op("MRotaryEmbedding", since=0, domain=DOMAIN)
def multimodal_rotary_embedding(
    b: OnnxBuilder, x: Value, positions: Value, cos: Value, sin: Value, *, mrope_section: tuple[int, ...],
    interleaved: int = 0, is_packed_batching: int = 0, mrope_layout: int = 0, num_heads: int = 0,
    rotary_embedding_dim: int = 0, scale: float = 1.0,
) -> Outputs:  # fmt: skip
    """As RotaryEmbedding, with three positions each, positions[3, B, M]: each angle is of one of them.  mrope_layout: 0 in
    sections, one behind the other; 1 in turns, as far as the sections reach."""
    flat = x.type.rank == 3
    require_rank("position_ids", positions, 3)
    require_rank("input", x, 3, 4)
    for cache in (cos, sin):
        require_rank("the cache of angles", cache, 2)
    half = _known(cos.type.shape[1])
    if scale != 1 or len(mrope_section) != 3 or mrope_layout not in (0, 1) or positions.type.shape[0] != 3:
        raise ModelError(f"scale {scale}, sections {list(mrope_section)}, layout {mrope_layout}, positions {positions.type} "
                         "are not supported")  # fmt: skip
    at = np.arange(half)
    if mrope_layout:
        owner = np.where((at % 3 > 0) & (at < 3 * np.array(mrope_section)[at % 3]), at % 3, 0)
    else:
        owner = np.minimum(np.searchsorted(np.cumsum(mrope_section), at, side="right"), 2)
    heads = num_heads or quotient([x.type.shape[-1]], [2 * half])
    y = heads_of(b, x, heads) if flat else x  # type: ignore[arg-type]
    c, s = (_of_owners(b, b.gather(t, positions, 0), owner) for t in (cos, sin))
    y = rotate(b, y, c, s, bool(interleaved))
    return _joined(b, y) if flat else y


def _of_owners(b: OnnxBuilder, angles: Value, owner: np.ndarray) -> Value:
    """angles[3, B, M, R / 2] -> [B, M, R / 2], each from its owner."""
    t, h, w = (b.reshape(b.slice(angles, 0, n, 1), angles.type.shape[1:]) for n in range(3))
    return b.select(b.constant(owner == 1), h, b.select(b.constant(owner == 2), w, t))


def _known(d: Dim) -> int:
    if not isinstance(d, int):
        raise ModelError(f"the size {d} must be known; bind it (--shape, --dim)")
    return d


# ---- groups of queries with a cache ----


@onnx_op("GroupQueryAttention", since=0, domain=DOMAIN)
def group_query_attention(
    b: OnnxBuilder, query: Value, key: Value | None, value: Value | None, past_key: Value | None,
    past_value: Value | None, lengths: Value, total: Value, cos: Value | None = None, sin: Value | None = None,
    positions: Value | None = None, extra: Value | None = None, sink: Value | None = None, k_scale: Value | None = None,
    v_scale: Value | None = None, q_norm: Value | None = None, k_norm: Value | None = None, *, num_heads: int,
    kv_num_heads: int, causal: int = 1, do_rotary: int = 0, local_window_size: int = -1, qk_norm_epsilon: float = 1e-6,
    qk_output: int = 0, rotary_interleaved: int = 0, scale: float = 0.0, sliding_window_cache: int = 0,
    smooth_softmax: int = -1, softcap: float = 0.0,
) -> Outputs:  # fmt: skip
    """lengths[B]: the index of each sequence's last key.  New keys are written behind those of the past; query i sees the
    keys up to its own.  sink[H]: the score of one more key per head, whose value is zero; smooth_softmax: that score is 0."""
    if any(b.wanted[3:]) or qk_output or not causal or sliding_window_cache or k_scale is not None or v_scale is not None:
        raise ModelError("the output qk, causal = 0, sliding_window_cache and quantized caches are not supported")
    for what, x, ranks in (
        ("query", query, (3,)), ("key", key, (3,)), ("value", value, (3,)), ("past_key", past_key, (4,)),
        ("past_value", past_value, (4,)), ("cos_cache", cos, (2,)), ("sin_cache", sin, (2,)), ("position_ids", positions, (2,)),
        ("attention_bias", extra, (4,)), ("head_sink", sink, (1,)), ("seqlens_k", lengths, (1, 2)),
        ("q_norm_weight", q_norm, (1,)), ("k_norm_weight", k_norm, (1,)),
    ):  # fmt: skip
        require_rank(what, x, *ranks)
    q, k, v = _projections(b, query, key, value, num_heads, kv_num_heads)
    if q_norm is not None and k_norm is not None:
        q, k = (b.add(RmsNorm(3, qk_norm_epsilon), x, w) for x, w in ((q, q_norm), (k, k_norm)))
    rows = q.type.shape[2]
    batch = q.type.shape[0]
    start = b.binary("max", b.binary("sub", b.cast(lengths, "i64"), b.reshape(b.dim_tensor([rows - 1]), ())), 0)
    start = b.reshape(start, (batch, 1))
    at = b.binary("add", start, b.reshape(b.add(Iota(rows, "i64")), (1, rows)))  # [B, M]
    if do_rotary:
        if cos is None or sin is None:
            raise ModelError("do_rotary needs cos_cache and sin_cache")
        where = at if positions is None else b.cast(positions, "i64")
        c, s = b.gather(cos, where, 0), b.gather(sin, where, 0)
        q, k = (rotate(b, x, c, s, bool(rotary_interleaved)) for x in (q, k))
    if past_key is not None and past_value is not None and past_key.type.shape[2] != 0:
        k, v = (_written(b, past, new, start, total) for past, new in ((past_key, k), (past_value, v)))
    keys = k.type.shape[2]
    places = b.reshape(b.add(Iota(keys, "i64")), (1, 1, 1, keys))
    own = b.reshape(at, (batch, 1, rows, 1))
    seen = b.binary("le", places, own)
    if local_window_size > 0:
        seen = b.binary("and", seen, b.binary("gt", places, b.binary("sub", own, local_window_size)))
    mask = b.select(seen, b.scalar(0, q.type.dtype), b.scalar(-math.inf, q.type.dtype))
    mask = mask if extra is None else b.binary("add", mask, extra)
    if sink is None and smooth_softmax > 0:
        sink = b.broadcast(b.scalar(0, q.type.dtype), (num_heads,))
    if sink is None and not softcap:
        y = b.add(Attention(_scale(q, scale), False), q, k, v, mask)
    else:
        y = _attend_with_sink(b, q, k, v, mask, sink, softcap, _scale(q, scale))
    return _joined(b, y), k, v


def _attend_with_sink(
    b: OnnxBuilder, q: Value, k: Value, v: Value, mask: Value, sink: Value | None, softcap: float, scale: float
) -> Value:
    """q[B, H, M, D]; k and v[B, G, S, D], one head for H / G queries.  softcap: scores s become softcap * tanh(s / softcap)."""
    batch, heads, rows, depth = q.type.shape
    groups, keys = k.type.shape[1:3]
    if not isinstance(heads, int) or not isinstance(groups, int) or heads % groups:
        raise ModelError(f"{heads} heads of queries do not fit {groups} heads of keys")
    each = heads // groups
    grouped = b.reshape(q, (batch, groups, as_dim(each * as_expr(rows)), depth))
    scores = b.binary("mul", b.add(MatMul(), grouped, b.transpose(k, (0, 1, 3, 2))), scale)
    scores = b.reshape(scores, (batch, heads, rows, keys))
    if softcap:
        scores = b.binary("mul", b.unary("tanh", b.binary("div", scores, softcap)), softcap)
    scores = b.binary("add", scores, mask)
    if sink is not None:
        column = b.broadcast(b.reshape(b.cast(sink, q.type.dtype), (1, heads, 1, 1)), (batch, heads, rows, 1))
        scores = b.concat((scores, column), 3)
    weights = b.slice(b.add(Softmax(3), scores), 3, 0, keys)
    y = b.add(MatMul(), b.reshape(weights, (batch, groups, as_dim(each * as_expr(rows)), keys)), v)
    return b.reshape(y, (batch, heads, rows, v.type.shape[3]))


def _projections(
    b: OnnxBuilder, query: Value, key: Value | None, value: Value | None, heads: int, groups: int
) -> tuple[Value, Value, Value]:
    if key is None or value is None:
        size = quotient([query.type.shape[2]], [heads + 2 * groups])
        if not isinstance(size, int):
            raise ModelError(f"{heads} + 2 * {groups} heads do not divide {query.type}")
        parts = ((0, heads), (heads, groups), (heads + groups, groups))
        q, k, v = (heads_of(b, b.slice(query, 2, first * size, n * size), n) for first, n in parts)
        return q, k, v
    return heads_of(b, query, heads), heads_of(b, key, groups), heads_of(b, value, groups)


def _written(b: OnnxBuilder, past: Value, new: Value, start: Value, total: Value) -> Value:
    """The cache with new rows at each sequence's start.  It grows by the new rows if the total length says so."""
    have, more = past.type.shape[2], new.type.shape[2]
    (length,) = b.dims(b.reshape(total, ()), "total_sequence_length")
    if length == have + more:
        none, after = (0,) * 4, (0, 0, more, 0)
        past = b.add(Pad(none, after, "constant"), past, b.scalar(0, past.type.dtype))
    elif not (isinstance(length, int) and isinstance(have, int) and length <= have):
        raise ModelError(f"a cache of {have} and {more} new rows do not make {length}; bind their sizes (--shape, --dim)")
    made = tensor_scatter(b, past, new, b.reshape(start, (start.type.shape[0],)), axis=2)
    assert isinstance(made, Value)
    return made
