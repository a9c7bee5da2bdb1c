"""Rows of quantization: rounding and saturation to the bit, products of narrow integers summed in i32."""

from __future__ import annotations

import numpy as np
from tilewright.ir.ops.block_product import BlockMatMul
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.quantize import Dequantize, Lookup, Quantize, RoundBlocks, Saturate
from tilewright.ir.ops.quantized_attention import QuantizedAttention

from suites.row import Row, Spec

NAN, INF = float("nan"), float("inf")
TIES = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, -128.5, 254.5, 255.5, INF, -INF, NAN, 0.0], np.float32)
U8, I8, I16, U16 = (0, 255), (-128, 127), (-32768, 32767), (0, 65535)

WEIGHTS = (1 / 400, 0, 0, 255)
HIDDEN = np.where(np.arange(160).reshape(1, 1, 5, 32) % 7 == 0, -INF, 0.5).astype(np.float32)
HIDDEN[0, 0, 2] = -INF  # a row without keys


def _u8(*shape: int) -> Spec:
    return Spec("u8", shape, 0, 255)


def _i8(*shape: int) -> Spec:
    return Spec("i8", shape, -128, 127)


def _x(*shape: int) -> Spec:
    return Spec("f32", shape, -40, 40)


def _scale(*shape: int) -> Spec:
    return Spec("f32", shape, 0.125, 2)


def _words(panels: int, words: int, columns: int) -> Spec:
    return Spec("i32", (panels, words, columns), -(2**31), 2**31 - 1)


ROWS: tuple[Row, ...] = (
    Row("saturate-ties", Saturate("i8", -128, 127), (TIES,)),
    Row("saturate-zero", Saturate("u8", 0, 255, 3), (TIES,)),
    Row("saturate-narrow", Saturate("i8", -2, 1, -1), (TIES,)),
    Row("saturate-u16", Saturate("u16", 0, 65535, 700), (_x(3, 50),)),
    Row("lookup-bytes", Lookup(), (_u8(3, 150), _i8(256))),
    Row("lookup-few", Lookup(), (_u8(5), _u8(256))),
    Row("lookup-floats", Lookup(), (_u8(2, 33), _x(256))),
    Row("quantize-scalar", Quantize("u8", *U8), (_x(3, 7), np.array(0.25, np.float32), np.array(99, np.uint8))),
    Row("quantize-no-zero", Quantize("i8", *I8), (_x(3, 7), np.array([0.25], np.float32))),
    Row("quantize-axis", Quantize("i8", *I8, 1), (_x(3, 7, 2), _scale(7), _i8(7))),
    Row("quantize-blocks", Quantize("i8", -8, 7, 1, 4), (_x(3, 10), _scale(3, 3), Spec("i8", (3, 3), -8, 7))),
    Row("quantize-i16", Quantize("i16", *I16), (_x(40), np.array(1e-3, np.float32), np.array(-7, np.int16))),
    Row("dequantize-scalar", Dequantize(), (_u8(3, 7), np.array(0.3, np.float32), np.array(99, np.uint8))),
    Row("dequantize-axis", Dequantize(1), (_i8(3, 7, 2), _scale(7), _i8(7))),
    Row("dequantize-blocks", Dequantize(0, 2), (_i8(5, 3), _scale(3, 3), _i8(3, 3))),
    Row("dequantize-u16", Dequantize(), (Spec("u16", (9,), 0, 65535), np.array(0.3, np.float32), np.array(700, np.uint16))),
    Row("dequantize-i32", Dequantize(), (Spec("i32", (9,), -(10**9), 10**9), np.array(0.3, np.float32))),
    Row("matmul-u8-i8", MatMul("i32"), (_u8(5, 64), _i8(64, 40))),
    Row("matmul-u8-i8-extremes", MatMul("i32"), (np.full((9, 256), 255, np.uint8), np.full((256, 33), -128, np.int8))),
    Row("matmul-u8-i8-odd", MatMul("i32"), (_u8(3, 30), _i8(30, 17))),
    Row("matmul-u8-i8-batch", MatMul("i32"), (_u8(2, 5, 16), _i8(2, 16, 24))),
    Row("matmul-u8-i8-row", MatMul("i32"), (_u8(1, 128), _i8(128, 70))),
    Row("matmul-i8-i8", MatMul("i32"), (_i8(5, 64), _i8(64, 40))),
    Row("matmul-i16-i16", MatMul("i32"), (Spec("i16", (5, 8), -3000, 3000), Spec("i16", (8, 40), -3000, 3000))),
    Row("conv-u8-i8", Conv((1, 1), (0, 0, 0, 0), (1, 1), 1, "i32"), (_u8(1, 6, 7, 8), _i8(3, 3, 8, 20))),
    Row("conv-u8-i8-pads", Conv((2, 2), (1, 1, 1, 1), (1, 1), 1, "i32"), (_u8(1, 6, 7, 4), _i8(3, 3, 4, 33))),
    Row("conv-u8-i8-1x1", Conv((1, 1), (0, 0, 0, 0), (1, 1), 1, "i32"), (_u8(1, 6, 7, 64), _i8(1, 1, 64, 48))),
    Row("conv-u8-i8-depthwise", Conv((1, 1), (0, 0, 0, 0), (1, 1), 40, "i32"), (_u8(1, 6, 7, 40), _i8(3, 3, 1, 40))),
    Row("conv-u8-i8-groups", Conv((1, 1), (0, 0, 0, 0), (1, 1), 2, "i32"), (_u8(1, 5, 5, 16), _i8(3, 3, 8, 24))),
    Row("round-blocks", RoundBlocks(8), (_x(3, 24),), 1e-5),
    Row("round-blocks-zero", RoundBlocks(4), (np.array([[0, 0, 0, 0, 1, -2, 127, 0.5]], np.float32),), 1e-5),
    Row("block-matmul-int4", BlockMatMul(4, 16, 8), (_x(1, 64), _words(2, 8, 64), _scale(2, 4, 64)), 1e-3),
    Row(
        "block-matmul-int4-zeros", BlockMatMul(4, 32, 0),
        (_x(7, 64), _words(3, 8, 32), _scale(3, 2, 32), _scale(3, 2, 32)), 1e-3,
    ),
    Row("block-matmul-int8", BlockMatMul(8, 64, 128), (_x(4, 64), _words(1, 16, 64), _scale(1, 1, 64)), 1e-3),
    Row("block-matmul-int2", BlockMatMul(2, 32, 2), (_x(3, 64), _words(2, 4, 32), _scale(2, 2, 32)), 1e-3),
    Row(
        "block-matmul-int2-bytes", BlockMatMul(2, 32, 2, True),
        (_i8(5, 64), _scale(5, 2), Spec("i32", (5, 2), -3000, 3000), _words(1, 4, 64), _scale(1, 2, 64)), 1e-3,
    ),
    Row(
        "block-matmul-int4-bytes", BlockMatMul(4, 32, 8, True),
        (_i8(9, 64), _scale(9, 2), Spec("i32", (9, 2), -3000, 3000), _words(2, 8, 32), _scale(2, 2, 32)), 1e-3,
    ),
    Row(
        "block-matmul-int8-bytes-zeros", BlockMatMul(8, 32, 0, True),
        (_i8(1, 64), _scale(1, 2), Spec("i32", (1, 2), -3000, 3000), _words(2, 16, 64), _scale(2, 2, 64),
         _scale(2, 2, 64)), 1e-3,
    ),
    Row(
        "quantized-attention", QuantizedAttention(2e-5, (130, 121, 140), (0.0125, 129, 0, 255, 0.0125), WEIGHTS, 1e-3, ()),
        (_u8(1, 2, 9, 32), _u8(1, 2, 40, 32), _u8(1, 2, 40, 16)), 2e-2,
    ),
    Row(
        "quantized-attention-mask", QuantizedAttention(2e-5, (0, 0, 3), (), (1 / 127, 128, 0, 255), 1e-3, ()),
        (_u8(2, 1, 6, 16), _i8(2, 1, 20, 16), _i8(2, 1, 20, 32), _x(2, 1, 1, 20)), 2e-2,
    ),
    Row(
        "quantized-attention-bytes", QuantizedAttention(2e-5, (7, 3, 0), (), WEIGHTS, 0.01, (99, 0, 255)),
        (_u8(1, 1, 5, 16), _u8(1, 1, 32, 16), _i8(1, 1, 32, 16), HIDDEN), 1.1,
    ),
    Row("block-matmul-odd", BlockMatMul(8, 8, 128), (_x(2, 16), _words(3, 4, 5), _scale(3, 2, 5)), 1e-3),
)
