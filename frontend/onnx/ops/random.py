"""Random numbers: functions of a seed and the position of the element, the same on every run, target and number of threads.

    key   = the bits of the attribute seed; without one, a checksum of the name of the node's result
    bits  = mix(mix(position * 0x9E3779B9 + key) + stream)            in u32
    mix   : x ^= x >> 16, x *= 0x21F0AAAD, x ^= x >> 15, x *= 0x735A2D97, x ^= x >> 15      a bijection with low bias
    u     = (bits >> 8) / 2^24                                         uniform in [0, 1)
    normal= sqrt(-2 log(1 - u1)) cos(2 pi u2)                          Box and Muller, of streams 1 and 2
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.movement import Iota
from ....ir.ops.norm import Softmax
from ....ir.ops.reduce import CumSum, Reduce
from ....ir.types import Dim, is_float
from ..builder import OnnxBuilder
from ..symbolic import product
from ..table import Outputs, onnx_op
from ..tensors import dtype_name

_FLOAT = 1  # the code of f32


def uniform(b: OnnxBuilder, shape: Sequence[Dim], seed: float | None, stream: int = 1) -> Value:
    """f32 in [0, 1)."""
    key = zlib.crc32(b.hint.encode("utf-8", "surrogateescape"))
    if seed is not None:
        key = int(np.array(seed, np.float32).view(np.uint32))
    x = b.binary("mul", b.add(Iota(product(shape), "u32")), 0x9E3779B9)
    x = _mixed(b, b.binary("add", x, key))
    x = _mixed(b, b.binary("add", x, stream * 0x85EBCA6B % 2**32))
    u = b.binary("mul", b.cast(b.binary("shr", x, 8), "f32"), 2.0**-24)
    return b.reshape(u, tuple(shape))


def _mixed(b: OnnxBuilder, x: Value) -> Value:
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x = b.binary("mul", b.binary("bitxor", x, b.binary("shr", x, shift)), factor)
    return b.binary("bitxor", x, b.binary("shr", x, 15))


def normal(b: OnnxBuilder, shape: Sequence[Dim], seed: float | None) -> Value:
    """f32 of mean 0 and deviation 1."""
    u, v = (uniform(b, shape, seed, stream) for stream in (1, 2))
    size = b.unary("sqrt", b.binary("mul", b.unary("log", b.binary("sub", b.scalar(1, "f32"), u)), -2.0))
    return b.binary("mul", size, b.unary("cos", b.binary("mul", v, 2 * math.pi)))


def _scaled(b: OnnxBuilder, x: Value, scale: float, offset: float, dtype: str) -> Value:
    if not is_float(dtype):
        raise ModelError(f"random numbers of type {dtype}; expected floats")
    return b.cast(b.binary("add", b.binary("mul", x, scale), offset), dtype)


def _like(x: Value, dtype: int | None) -> str:
    return x.type.dtype if not dtype else dtype_name(dtype, "attribute 'dtype'")


@onnx_op("RandomUniform", since=1)
def random_uniform(
    b: OnnxBuilder, *, shape: tuple[int, ...], dtype: int = _FLOAT, high: float = 1.0, low: float = 0.0,
    seed: float | None = None,
) -> Outputs:  # fmt: skip
    return _scaled(b, uniform(b, shape, seed), high - low, low, dtype_name(dtype, "attribute 'dtype'"))


@onnx_op("RandomUniformLike", since=1)
def random_uniform_like(
    b: OnnxBuilder, x: Value, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float | None = None
) -> Outputs:
    return _scaled(b, uniform(b, x.type.shape, seed), high - low, low, _like(x, dtype))


@onnx_op("RandomNormal", since=1)
def random_normal(
    b: OnnxBuilder, *, shape: tuple[int, ...], dtype: int = _FLOAT, mean: float = 0.0, scale: float = 1.0,
    seed: float | None = None,
) -> Outputs:  # fmt: skip
    return _scaled(b, normal(b, shape, seed), scale, mean, dtype_name(dtype, "attribute 'dtype'"))


@onnx_op("RandomNormalLike", since=1)
def random_normal_like(
    b: OnnxBuilder, x: Value, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Outputs:
    return _scaled(b, normal(b, x.type.shape, seed), scale, mean, _like(x, dtype))


@onnx_op("Bernoulli", since=15)
def bernoulli(b: OnnxBuilder, x: Value, *, dtype: int | None = None, seed: float | None = None) -> Outputs:
    """1 with the probability x."""
    hit = b.binary("lt", uniform(b, x.type.shape, seed), b.cast(x, "f32"))
    return b.cast(hit, _like(x, dtype))


@onnx_op("Multinomial", since=7)
def multinomial(
    b: OnnxBuilder, x: Value, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None
) -> Outputs:
    """Samples of the classes with the logarithms of probabilities x[N, C], which need not sum to 1."""
    if x.type.rank != 2:
        raise ModelError(f"expected log-probabilities [N, C], got {x.type}")
    n, c = x.type.shape
    up_to = b.add(CumSum(1, False, False), b.add(Softmax(1), b.cast(x, "f32")))
    below = b.slice(up_to, 1, 0, c - 1)  # the last class has what is left
    drawn = b.reshape(uniform(b, (n, sample_size), seed), (n, sample_size, 1))
    passed = b.binary("ge", drawn, b.reshape(below, (n, 1, c - 1)))
    return b.cast(b.add(Reduce("sum", (2,), False), b.cast(passed, "i64")), dtype_name(dtype, "attribute 'dtype'"))


def dropped(b: OnnxBuilder, x: Value, ratio: Value, seed: float | None) -> tuple[Value, Value]:
    """x with elements set to 0 with the probability ratio, the others divided by 1 - ratio; which ones are kept."""
    share = b.reshape(b.cast(ratio, "f32"), ())
    kept = b.binary("ge", uniform(b, x.type.shape, seed), share)
    scale = b.binary("div", b.scalar(1, "f32"), b.binary("sub", b.scalar(1, "f32"), share))
    y = b.binary("mul", x, b.cast(scale, x.type.dtype))
    return b.select(kept, y, b.scalar(0, x.type.dtype)), kept
