"""Naive kernels of a few shapes, for the tests of schedules and strategies."""

from __future__ import annotations

from tilewright.ir.compute import Compute, acc_var, lower_group
from tilewright.ir.expr import binary, call, cast, const
from tilewright.ir.kernel import Buffer, Kernel, axis


def matmul(m: int, n: int, k: int) -> Kernel:
    """C[m, n] = relu(A[m, k] * B[k, n] + bias[n])"""
    a, b, c, bias = (Buffer("A", "f32", (m, k)), Buffer("B", "f32", (k, n)), Buffer("C", "f32", (m, n)),
                     Buffer("bias", "f32", (n,)))
    i, j, r = axis("m", m), axis("n", n), axis("k", k)
    finish = binary("max", acc_var("f32") + bias[j], const(0.0, "f32"))
    return lower_group("matmul", (a, b, c, bias), (Compute(c, (i, j), a[i, r] * b[r, j], (r,), "add", finish),))


def conv(height: int, width: int, channels: int, outputs: int, window: int, stride: int) -> Kernel:
    """NHWC convolution of a physically padded image: C[oh, ow, n]"""
    oh_n, ow_n = (height - window) // stride + 1, (width - window) // stride + 1
    x = Buffer("A", "f32", (height, width, channels))
    w = Buffer("B", "f32", (window, window, channels, outputs))
    y = Buffer("C", "f32", (oh_n, ow_n, outputs))
    oh, ow, n = axis("oh", oh_n), axis("ow", ow_n), axis("n", outputs)
    kh, kw, ic = axis("kh", window), axis("kw", window), axis("ic", channels)
    body = x[oh * stride + kh, ow * stride + kw, ic] * w[kh, kw, ic, n]
    return lower_group("conv", (x, w, y), (Compute(y, (oh, ow, n), body, (kh, kw, ic), "add"),))


def softmax(rows: int, columns: int) -> Kernel:
    """Y[i, j] = exp(X[i, j] - max) / sum, in four computations"""
    x, y, e = (Buffer(name, "f32", (rows, columns)) for name in ("X", "Y", "e"))
    most, total = Buffer("most", "f32", (rows,)), Buffer("total", "f32", (rows,))
    i, j = axis("i", rows), axis("j", columns)
    return lower_group("softmax", (x, y), (
        Compute(most, (i,), x[i, j], (j,), "max"),
        Compute(e, (i, j), call("exp", x[i, j] - most[i])),
        Compute(total, (i,), e[i, j], (j,), "add"),
        Compute(y, (i, j), e[i, j] * (const(1.0, "f32") / total[i])),
    ))


def row_sum(rows: int, columns: int, dtype: str = "f32", op: str = "add") -> Kernel:
    x, y = Buffer("X", dtype, (rows, columns)), Buffer("Y", dtype, (rows,))
    i, j = axis("i", rows), axis("j", columns)
    return lower_group("reduce", (x, y), (Compute(y, (i,), x[i, j], (j,), op),))


def affine(rows: int, columns: int) -> Kernel:
    """Y[i, j] = X[i, j] * s[j] + 1"""
    x, y, s = Buffer("X", "f32", (rows, columns)), Buffer("Y", "f32", (rows, columns)), Buffer("s", "f32", (columns,))
    i, j = axis("i", rows), axis("j", columns)
    return lower_group("affine", (x, s, y), (Compute(y, (i, j), x[i, j] * s[j] + 1.0),))


def transpose(rows: int, columns: int) -> Kernel:
    """Y[j, i] = X[i, j]"""
    x, y = Buffer("X", "f32", (rows, columns)), Buffer("Y", "f32", (columns, rows))
    i, j = axis("i", rows), axis("j", columns)
    return lower_group("transpose", (x, y), (Compute(y, (i, j), x[i, j], index=(j, i)),))


def dot_bytes(m: int, n: int, k: int) -> Kernel:
    """C[m, n] = sum of u8 A[m, k] * s8 B[k, n] in i32"""
    a, b, c = Buffer("A", "u8", (m, k)), Buffer("B", "i8", (k, n)), Buffer("C", "i32", (m, n))
    i, j, r = axis("m", m), axis("n", n), axis("k", k)
    return lower_group("dot", (a, b, c), (Compute(c, (i, j), cast(a[i, r], "i32") * cast(b[r, j], "i32"), (r,), "add"),))
