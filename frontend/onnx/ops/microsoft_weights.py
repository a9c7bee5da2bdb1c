"""Operators of the domain com.microsoft with quantized weights: tables of words, attention, LSTM."""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.norm import LayerNorm
from ....ir.ops.reduce import Reduce
from ..builder import NarrowTensor, OnnxBuilder, normal_axis
from ..table import Outputs, onnx_op, takes_narrow
from .attention_microsoft import packed_attention
from .fused import DOMAIN
from .layout import require_rank
from .microsoft import matmul_integer_to_float
from .quantize import dequantize
from .recurrent import lstm


@onnx_op("GatherBlockQuantized", since=0, domain=DOMAIN)
@takes_narrow
def gather_block_quantized(
    b: OnnxBuilder, data: Value | NarrowTensor, indices: Value, scales: Value, zeros: Value | NarrowTensor | None = None, *,
    bits: int = 4, block_size: int = 128, gather_axis: int = 0, quantize_axis: int = 1,
) -> Outputs:  # fmt: skip
    """Rows of a matrix of integers in blocks along the row, dequantized: (data - zero) * scale.  Bytes hold 8 / bits numbers,
    the low bits first."""
    packed = isinstance(data, Value)
    alike = zeros is None or packed == isinstance(zeros, Value)
    if not isinstance(indices, Value) or not isinstance(scales, Value) or not alike:
        raise ModelError("indices and scales are ordinary tensors, and zero points have the type of the data")
    require_rank("scales", scales, 2)
    table, offsets = (v.value if isinstance(v, NarrowTensor) else v for v in (data, zeros))
    assert table is not None
    require_rank("zero_points", offsets, 2)
    rank = table.type.rank
    if rank != 2 or normal_axis(gather_axis, rank) != 0 or normal_axis(quantize_axis, rank) != 1:
        raise ModelError(f"expected rows of a matrix with blocks along them, got {table.type} and the axes {gather_axis}, "
                         f"{quantize_axis}")  # fmt: skip
    if packed and (table.type.dtype != "u8" or bits not in (2, 4, 8)):
        raise ModelError(f"expected bytes with numbers of 2, 4 or 8 bits, got {table.type} and {bits}")
    width = bits if packed else 8
    blocks = scales.type.shape[1]
    rows = _numbers(b, b.gather(table, indices, 0), width)
    size = rows.type.shape[-1]
    if not isinstance(size, int) or not isinstance(blocks, int) or min(block_size, blocks) < 1:
        raise ModelError(f"{scales.type} scales of blocks of {block_size}: the sizes must be known and positive")
    if -(-size // block_size) != blocks or size % blocks:
        raise ModelError(f"{scales.type} scales do not fit rows of {size} numbers in blocks of {block_size}")
    lead = rows.type.shape[:-1]
    dtype = scales.type.dtype
    value = b.reshape(b.cast(rows, dtype), (*lead, blocks, size // blocks))
    zero: Value | None = None
    if offsets is not None:
        found = _numbers(b, b.gather(offsets, indices, 0), width)
        zero = b.reshape(b.cast(b.slice(found, len(lead), 0, blocks), dtype), (*lead, blocks, 1))
    elif packed:
        zero = b.scalar(2 ** (bits - 1), dtype)
    value = value if zero is None else b.binary("sub", value, zero)
    scale = b.reshape(b.gather(scales, indices, 0), (*lead, blocks, 1))
    return b.reshape(b.binary("mul", value, scale), (*lead, size))


def _numbers(b: OnnxBuilder, rows: Value, bits: int) -> Value:
    """[..., N] bytes as [..., N * 8 / bits] numbers."""
    if bits == 8:
        return rows
    shifts = b.constant(np.arange(0, 8, bits, dtype=np.uint8))
    parts = b.binary("shr", b.reshape(rows, (*rows.type.shape, 1)), shifts)
    last = rows.type.shape[-1]
    return b.reshape(b.binary("bitand", parts, 2**bits - 1), (*rows.type.shape[:-1], last * (8 // bits)))


# What a code of 4 bits stands for: the numbers of bitsandbytes, a float of 4 bits and quantiles of a normal distribution.
_FP4 = (0.0, 0.0052083333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@onnx_op("MatMulBnb4", since=0, domain=DOMAIN)
def matmul_bnb4(
    b: OnnxBuilder, x: Value, packed: Value, largest: Value, *, K: int, N: int, block_size: int, quant_type: int,
    training_mode: int = 0, transB: int = 1,
) -> Outputs:  # fmt: skip
    """Weights [N, K] of 4 bits, the high ones first, in blocks along the flat matrix, each with its largest magnitude.  They
    become floats while compiling: the codes are not evenly spaced."""
    if min(K, N, block_size) < 1 or quant_type not in (0, 1):
        raise ModelError(f"weights {N} x {K} in blocks of {block_size}, quant_type {quant_type}; expected 0 (FP4) or 1 (NF4)")
    codes = b.array(packed, "B").reshape(-1)
    scales = b.array(largest, "absmax").reshape(-1)
    if codes.dtype != np.uint8 or codes.size != (N * K + 1) // 2 or scales.size != -(-N * K // block_size):
        raise ModelError(f"{codes.size} bytes and {scales.size} scales do not fit {N} x {K} weights in blocks of {block_size}")
    numbers = np.array((*_FP4, *(-v for v in _FP4)) if quant_type == 0 else _NF4, np.float32)
    flat = numbers[np.stack([codes >> 4, codes & 15], -1).reshape(-1)[: N * K]]
    weights = (flat * np.repeat(scales.astype(np.float32), block_size)[: N * K]).reshape(N, K)
    w = np.ascontiguousarray(weights.T if transB else weights).astype(scales.dtype)
    return b.add(MatMul(), x, b.cast(b.constant(w), x.type.dtype))


@onnx_op("QAttention", since=0, domain=DOMAIN)
def quantized_attention(
    b: OnnxBuilder, x: Value, w: Value, bias: Value, x_scale: Value, w_scale: Value, mask: Value | None = None,
    x_zero: Value | None = None, w_zero: Value | None = None, past: Value | None = None, *, num_heads: int,
    do_rotary: int = 0, mask_filter_value: float = -10000.0, past_present_share_buffer: int = 0, scale: float = 0.0,
    unidirectional: int = 0,
) -> Outputs:  # fmt: skip
    """`Attention` whose projections are a product of bytes."""
    if do_rotary or past_present_share_buffer:
        raise ModelError("do_rotary and a shared buffer of past and present are not supported")
    for what, v, rank in (("input", x, 3), ("weights", w, 2), ("bias", bias, 1)):
        require_rank(what, v, rank)
    packed = matmul_integer_to_float(b, x, w, x_scale, w_scale, x_zero, w_zero, bias)
    assert isinstance(packed, Value)
    return packed_attention(b, packed, mask, past, None, num_heads, None, mask_filter_value, bool(unidirectional), scale)


@onnx_op("QEmbedLayerNormalization", since=0, domain=DOMAIN)
def quantized_embed_layer_normalization(
    b: OnnxBuilder, ids: Value, segments: Value | None, words: Value, positions: Value, segment_table: Value | None,
    gamma: Value, beta: Value, mask: Value | None, words_scale: Value, positions_scale: Value, segment_scale: Value | None,
    gamma_scale: Value, beta_scale: Value, words_zero: Value, positions_zero: Value, segment_zero: Value | None,
    gamma_zero: Value, beta_zero: Value, *, epsilon: float = 1e-12,
) -> Outputs:  # fmt: skip
    """Rows of tables of bytes, each table with one scale, summed and normalised; and how many tokens a sequence has."""
    for what, v, rank in (("input_ids", ids, 2), ("segment_ids", segments, 2), ("word_embedding", words, 2),
                          ("position_embedding", positions, 2), ("segment_embedding", segment_table, 2), ("mask", mask, 2),
                          ("gamma", gamma, 1), ("beta", beta, 1)):  # fmt: skip
        require_rank(what, v, rank)
    batch, length = ids.type.shape
    total = dequantize(b, b.gather(words, ids, 0), words_scale, words_zero)
    total = b.binary("add", total, dequantize(b, b.slice(positions, 0, 0, length), positions_scale, positions_zero))
    if segments is not None and segment_table is not None and segment_scale is not None:
        rows = dequantize(b, b.gather(segment_table, segments, 0), segment_scale, segment_zero)
        total = b.binary("add", total, rows)
    scale, bias = dequantize(b, gamma, gamma_scale, gamma_zero), dequantize(b, beta, beta_scale, beta_zero)
    if mask is None:
        count = b.broadcast(b.scalar(0, "i32"), (batch,))
    else:
        count = b.add(Reduce("sum", (1,), False), b.cast(mask, "i32"))
    return b.add(LayerNorm(2, epsilon), total, scale, bias), count


@onnx_op("DynamicQuantizeLSTM", since=0, domain=DOMAIN)
def dynamic_quantize_lstm(
    b: OnnxBuilder, x: Value, w: Value, r: Value, bias: Value | None, lengths: Value | None, h: Value | None,
    c: Value | None, p: Value | None, w_scale: Value, w_zero: Value | None, r_scale: Value, r_zero: Value | None = None, *,
    activation_alpha: tuple[float, ...] | None = None, activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None, clip: float = 0.0, direction: str = "forward",
    hidden_size: int = 0, input_forget: int = 0,
) -> Outputs:  # fmt: skip
    """The weights [D, I, 4H] and [D, H, 4H] are what they stand for, and the products are of floats: nearer to the model
    before its quantization than what rounds every step's activations to bytes."""
    w, r = (b.transpose(_per_direction(b, *q), (0, 2, 1)) for q in ((w, w_scale, w_zero), (r, r_scale, r_zero)))
    return lstm(
        b, x, w, r, bias, lengths, h, c, p, activation_alpha=activation_alpha, activation_beta=activation_beta,
        activations=activations, clip=clip, direction=direction, hidden_size=hidden_size or None, input_forget=input_forget,
    )


def _per_direction(b: OnnxBuilder, q: Value, scale: Value, zero: Value | None) -> Value:
    """[D, K, 4H] with scales [D] or [D, 4H]."""
    if q.type.rank != 3 or scale.type.rank not in (1, 2):
        raise ModelError(f"expected weights [D, K, 4H] with scales [D] or [D, 4H], got {q.type} and {scale.type}")
    shape = (scale.type.shape[0], 1, *(scale.type.shape[1:] or (1,)))
    whole = b.cast(q, "f32")
    if zero is not None:
        whole = b.binary("sub", whole, b.cast(b.reshape(zero, shape), "f32"))
    return b.binary("mul", whole, b.reshape(scale, shape))
