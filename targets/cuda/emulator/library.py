"""What the libraries do that artifacts may call, in NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from ....codegen.cuda_program import LibraryCall
from ....codegen.strategies.gpu.library import LibraryProduct
from ....codegen.strategies.gpu.library_conv import LibraryConvolution
from ....ir.types import DTYPES


def run_as_library(call: LibraryCall, addresses: Sequence[int]) -> None:
    """The call on memory at these addresses: the result, then the operands."""
    if isinstance(call, LibraryProduct):
        _multiply(call, addresses)
    else:
        _convolve(call, addresses)


def _array(address: int, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """The array of elements at an address, strides in elements."""
    info = DTYPES[dtype]
    count = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    raw = (ctypes.c_ubyte * (count * info.size)).from_address(address)
    flat = np.ctypeslib.as_array(raw).view(info.numpy)
    return np.lib.stride_tricks.as_strided(flat, shape, tuple(s * info.size for s in strides))


def _multiply(p: LibraryProduct, addresses: Sequence[int]) -> None:
    """cuBLASLt on (result, left, right)."""
    left = _array(addresses[1], p.dtype, (p.batches, p.rows, p.depth), p.left).astype(np.float32)
    right = _array(addresses[2], p.dtype, (p.batches, p.columns, p.depth), p.right).astype(np.float32)
    out = _array(addresses[0], p.out_dtype, (p.batches, p.rows, p.columns), (*p.out, 1))
    out[...] = (left @ right.transpose(0, 2, 1)).astype(out.dtype)


def _convolve(c: LibraryConvolution, addresses: Sequence[int]) -> None:
    """cuDNN on (result, image, weights, bias and residual where there are some)."""
    n, _, _, channels = c.image
    height, width, filters = c.out
    (kh, kw), (sh, sw), (dh, dw) = c.window, c.strides, c.dilations
    x = _array(addresses[1], c.dtypes[1], c.image, c.x_steps).astype(np.float32)
    weights = _array(addresses[2], c.dtypes[2], (filters, kh, kw, channels), (kh * kw * channels, kw * channels, channels, 1))
    x = np.pad(x, ((0, 0), (c.pads[0], c.pads[2]), (c.pads[1], c.pads[3]), (0, 0)))
    total = np.zeros((n, height, width, filters), np.float32)
    for i in range(kh):
        for j in range(kw):
            rows, columns = slice(i * dh, i * dh + (height - 1) * sh + 1, sh), slice(j * dw, j * dw + (width - 1) * sw + 1, sw)
            total += x[:, rows, columns] @ weights[:, i, j].astype(np.float32).T
    rest = list(zip(addresses[3:], c.dtypes[3:], strict=True))
    if c.has_bias:
        address, dtype = rest.pop(0)
        total += _array(address, dtype, (filters,), (1,)).astype(np.float32)
    if c.has_residual:
        address, dtype = rest.pop(0)
        total += _array(address, dtype, total.shape, c.z_steps).astype(np.float32)
    out = _array(addresses[0], c.dtypes[0], total.shape, c.y_steps)
    out[...] = (np.maximum(total, 0) if c.has_relu else total).astype(out.dtype)
