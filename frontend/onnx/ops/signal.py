"""Fourier transforms as products with constant matrices, in f64: what cancels gives zeros also after rounding to f32.

A transform of length n = p * q is one of length q within one of length p (Cooley and Tukey):

    x[j] = x[a * q + b]      y[c + p * d] = sum_b w_q^(b d) * (w_n^(b c) * sum_a w_p^(a c) x[a * q + b])

down to lengths that are small or prime.  A complex number is a pair of tensors; the imaginary part of a real signal is
None.
"""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.movement import Pad
from ....ir.types import Dim, is_float
from ..builder import OnnxBuilder, normal_axis
from ..table import Outputs, onnx_op
from ..tensors import dtype_name

_WHOLE = 32  # up to this length one product is cheapest
_LONGEST_INVERSE = 2**13  # to real numbers, by one product, where a prime factor is longer
_LONGEST = 1024  # of a prime factor: its matrix has that many rows and columns
_MOST_SAMPLES = 2**24  # of all frames, or of one transform
_MOST_BINS = 2**24  # elements of a matrix of mel weights

Complex = tuple[Value, "Value | None"]


@onnx_op("DFT", since=17)
def dft_by_attribute(
    b: OnnxBuilder, x: Value, length: Value | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Outputs:
    """x[..., 1 or 2]: real or complex numbers.  length: x is cut, or filled with zeros."""
    rank = x.type.rank
    if rank < 2 or x.type.shape[-1] not in (1, 2) or not is_float(x.type.dtype):
        raise ModelError(f"expected floats x[..., 1] or x[..., 2], got {x.type}")
    at = normal_axis(axis, rank)
    if at == rank - 1:
        raise ModelError(f"axis {axis} of {x.type} holds real and imaginary parts, it cannot be transformed")
    have = x.type.shape[at]
    n = b.integer(length, "dft_length") if length is not None else None
    if n is None and isinstance(have, int):
        n = 2 * (have - 1) if inverse and onesided else have
    if not isinstance(have, int) or n is None or n < 1:
        raise ModelError(f"axis {at} of {x.type} must have a known size, and a transform one element at least")
    if n > _MOST_SAMPLES:
        raise ModelError(f"a transform of {n} samples is not supported: expected {_MOST_SAMPLES} at most")
    order = [d for d in range(rank - 1) if d != at]
    wide = b.transpose(b.cast(x, "f64"), (rank - 1, *order, at))
    parts = [_part(b, wide, i) for i in range(int(x.type.shape[-1]))]  # pyright: ignore
    signal: Complex = (parts[0], parts[1] if len(parts) == 2 else None)
    if inverse and onesided:
        made = [_inverse_real(b, _fitted(b, signal, n // 2 + 1), n)]
    else:
        re, im = _transform(b, _fitted(b, signal, n), bool(inverse))
        kept = n // 2 + 1 if onesided else n
        made = [b.slice(v, v.type.rank - 1, 0, kept) for v in (re, im)]
    joined = b.concat([b.reshape(v, (*v.type.shape, 1)) for v in made], rank - 1)
    back = [0] * rank
    for position, d in enumerate([*order, at, rank - 1]):
        back[d] = position
    return b.cast(b.transpose(joined, back), x.type.dtype)


@onnx_op("DFT", since=20)
def dft(
    b: OnnxBuilder, x: Value, length: Value | None = None, axis: Value | None = None, *, inverse: int = 0,
    onesided: int = 0,
) -> Outputs:  # fmt: skip
    along = -2 if axis is None else b.integer(axis, "axis")
    return dft_by_attribute(b, x, length, axis=along, inverse=inverse, onesided=onesided)


@onnx_op("STFT", since=17)
def stft(
    b: OnnxBuilder, x: Value, step: Value, window: Value | None = None, length: Value | None = None, *, onesided: int = 1
) -> Outputs:
    """x[batch, samples, 1 or 2] -> [batch, frames, bins, 2]; frames start at multiples of the step and end in x."""
    if x.type.rank == 2:
        x = b.reshape(x, (*x.type.shape, 1))
    hop, samples = b.integer(step, "frame_step"), x.type.shape[1]
    size = b.integer(length, "frame_length") if length is not None else window.type.shape[0] if window is not None else None
    if not isinstance(samples, int) or not isinstance(size, int) or hop < 1 or not 1 <= size <= samples:
        raise ModelError(f"frames of {size} samples, a step of {hop} and {x.type} must be known and fit each other")
    frames = 1 + (samples - size) // hop
    if frames * size > _MOST_SAMPLES:
        raise ModelError(f"{frames} frames of {size} samples are more than {_MOST_SAMPLES} together")
    where = np.arange(frames)[:, None] * hop + np.arange(size)
    cut = b.gather(x, b.constant(where), 1)
    if window is not None:
        if window.type.shape != (size,):
            raise ModelError(f"the window is {window.type}, the frames have {size} samples")
        cut = b.binary("mul", cut, b.cast(b.reshape(window, (size, 1)), x.type.dtype))
    return dft_by_attribute(b, cut, axis=2, onesided=onesided)


# ---- transforms along the last axis ----


def _part(b: OnnxBuilder, x: Value, i: int) -> Value:
    return b.reshape(b.slice(x, 0, i, 1), x.type.shape[1:])


def _fitted(b: OnnxBuilder, x: Complex, n: int) -> Complex:
    """Cut, or filled with zeros, to n elements."""
    re, im = (None if v is None else _fitted_part(b, v, n) for v in x)
    assert re is not None
    return re, im


def _fitted_part(b: OnnxBuilder, v: Value, n: int) -> Value:
    have = v.type.shape[-1]
    assert isinstance(have, int)
    if have >= n:
        return b.slice(v, v.type.rank - 1, 0, n)
    none, after = (0,) * v.type.rank, (*(0,) * (v.type.rank - 1), n - have)
    return b.add(Pad(none, after, "constant"), v, b.scalar(0, "f64"))


def _transform(b: OnnxBuilder, x: Complex, inverse: bool) -> tuple[Value, Value]:
    n = x[0].type.shape[-1]
    assert isinstance(n, int)
    re, im = _fourier(b, x, n, 1 if inverse else -1)
    if inverse:
        re, im = (b.binary("mul", v, 1 / n) for v in (re, im))
    return re, im


def _fourier(b: OnnxBuilder, x: Complex, n: int, sign: int) -> tuple[Value, Value]:
    p = _divisor(n)
    if p in (1, n) or n <= _WHOLE:
        if n > _LONGEST:
            raise ModelError(f"a transform of length {n} is not supported: it has no divisor up to {_LONGEST}")
        return _multiplied(b, x, *_roots(n, np.outer(np.arange(n), np.arange(n)), sign))
    q = n // p
    lead = x[0].type.shape[:-1]
    split: Complex = (_swapped(b, x[0], lead, p, q), None if x[1] is None else _swapped(b, x[1], lead, p, q))
    re, im = _fourier(b, split, p, sign)  # [..., b, c]
    cos, sin = (b.constant(a) for a in _roots(n, np.outer(np.arange(q), np.arange(p)), sign))
    turned = (
        b.binary("sub", b.binary("mul", re, cos), b.binary("mul", im, sin)),
        b.binary("add", b.binary("mul", re, sin), b.binary("mul", im, cos)),
    )
    rank = len(lead)
    re, im = _fourier(b, tuple(b.transpose(v, (*range(rank), rank + 1, rank)) for v in turned), q, sign)  # type: ignore[arg-type]
    flat = [b.reshape(b.transpose(v, (*range(rank), rank + 1, rank)), (*lead, n)) for v in (re, im)]  # [..., d, c]
    return flat[0], flat[1]


def _swapped(b: OnnxBuilder, v: Value, lead: tuple[Dim, ...], p: int, q: int) -> Value:
    """[..., a * q + b] as [..., b, a]."""
    rank = len(lead)
    return b.transpose(b.reshape(v, (*lead, p, q)), (*range(rank), rank + 1, rank))


def _divisor(n: int) -> int:
    """The divisor nearest to the square root, from below."""
    return max(p for p in range(1, int(n**0.5) + 1) if n % p == 0)


def _is_smooth(n: int) -> bool:
    """Whether no prime factor is longer than _LONGEST."""
    p = _divisor(n)
    return n <= _LONGEST if p == 1 else _is_smooth(p) and _is_smooth(n // p)


def _roots(n: int, powers: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary parts of exp(sign * 2 pi i * powers / n); multiples of a quarter turn are exact."""
    turns = powers % n
    angle = 2 * np.pi / n * turns
    cos, sin = np.cos(angle), np.sin(angle)
    cos[4 * turns % (2 * n) == n] = 0
    sin[2 * turns % n == 0] = 0
    return cos, sign * sin


def _multiplied(b: OnnxBuilder, x: Complex, cos: np.ndarray, sin: np.ndarray) -> tuple[Value, Value]:
    c, s = b.constant(cos), b.constant(sin)
    re, im = b.add(MatMul(), _rows(b, x[0]), c), b.add(MatMul(), _rows(b, x[0]), s)
    if x[1] is not None:
        re = b.binary("sub", re, b.add(MatMul(), _rows(b, x[1]), s))
        im = b.binary("add", im, b.add(MatMul(), _rows(b, x[1]), c))
    shape = x[0].type.shape
    return b.reshape(re, shape), b.reshape(im, shape)


def _rows(b: OnnxBuilder, v: Value) -> Value:
    return b.reshape(v, (1, v.type.shape[0])) if v.type.rank == 1 else v


def _inverse_real(b: OnnxBuilder, x: Complex, n: int) -> Value:
    """A real signal of n samples from its first n // 2 + 1 frequencies; the others are their conjugates."""
    bins = np.arange(n // 2 + 1)
    twice = np.where((bins == 0) | (2 * bins == n), 1.0, 2.0)[:, None] / n
    if n > _LONGEST and (_is_smooth(n) or n > _LONGEST_INVERSE):  # one product has n * n / 2 constants
        weights = b.constant(twice[:, 0])
        re, im = (None if v is None else b.binary("mul", v, weights) for v in x)
        assert re is not None
        return _fourier(b, _fitted(b, (re, im), n), n, 1)[0]
    cos, sin = _roots(n, np.outer(bins, np.arange(n)), 1)
    y = b.add(MatMul(), _rows(b, x[0]), b.constant(cos * twice))
    if x[1] is not None:
        y = b.binary("sub", y, b.add(MatMul(), _rows(b, x[1]), b.constant(sin * twice)))
    return b.reshape(y, (*x[0].type.shape[:-1], n))


# ---- filter banks ----


@onnx_op("MelWeightMatrix", since=17)
def mel_weight_matrix(
    b: OnnxBuilder, bins: Value, length: Value, rate: Value, low: Value, high: Value, *, output_datatype: int = 1
) -> Outputs:
    """Triangles of height 1 over the frequencies of a transform, evenly spaced on the mel scale."""
    n, samples, hertz = b.integer(bins, "num_mel_bins"), b.integer(length, "dft_length"), b.integer(rate, "sample_rate")
    edges = [float(b.array(v, what).reshape(-1)[0]) for v, what in ((low, "lower_edge"), (high, "upper_edge"))]
    if n < 1 or samples < 1 or hertz < 1 or n * samples > _MOST_BINS or not 0 <= edges[0] <= edges[1] <= hertz:
        raise ModelError(f"{n} bands of {samples} samples at {hertz} Hz from {edges[0]} to {edges[1]} Hz are not possible")
    mels = [2595 * np.log10(1 + e / 700) for e in edges]
    corners = 700 * (10 ** ((mels[0] + np.arange(n + 2) * (mels[1] - mels[0]) / (n + 2)) / 2595) - 1)
    at = ((samples + 1) * corners // hertz).astype(np.int64)
    weights = np.zeros((samples // 2 + 1, n))
    rows = np.arange(len(weights))
    for i in range(n):
        first, top, last = at[i : i + 3]
        up, down = (rows >= first) & (rows <= top), (rows >= top) & (rows < last)
        weights[up, i] = (rows[up] - first) / (top - first) if top > first else 1
        weights[down, i] = (last - rows[down]) / (last - top)
    return b.cast(b.constant(weights), dtype_name(output_datatype, "attribute 'output_datatype'"))
