"""`schedule_rows` on the groups that normalisations and softmax become, odd sizes, types and broadcasts."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.small_kernels import softmax
from codegen.strategy_check import check
from tilewright.codegen.strategies.rows import schedule_rows
from tilewright.ir.compute import Compute, acc_var, lower_group
from tilewright.ir.expr import call, cast, const, unary
from tilewright.ir.kernel import Alloc, Buffer, For, Kernel, axis, walk_block

ZERO = const(0)


def spaces(kernel: Kernel) -> set[str]:
    return {s.buf.space for s in walk_block(kernel.body) if isinstance(s, Alloc)}


def layer_norm(lead: tuple[int, ...], row: tuple[int, ...], dtype: str = "f32") -> Kernel:
    """As the operators write it: reduced values keep unit dimensions."""
    shape, reduced = (*lead, *row), (*lead, *(1 for _ in row))
    x, y = Buffer("x", dtype, shape), Buffer("y", dtype, shape)
    scale, bias = Buffer("scale", "f32", row), Buffer("bias", "f32", row)
    mean, var, inv = (Buffer(n, "f32", reduced) for n in ("mean", "var", "inv"))
    d = tuple(axis(f"d{n}", e) for n, e in enumerate(shape))
    r = tuple(axis(f"r{n}", e) for n, e in enumerate(shape))
    u = tuple(axis(f"d{n}", e) for n, e in enumerate(reduced))
    kept, over = d[: len(lead)], r[len(lead) :]
    at = (*kept, *(ZERO for _ in row))
    count = const(float(np.prod(row)), "f32")
    size = acc_var("f32") / count

    def value(*idx):
        return cast(x[idx], "f32")

    centred = value(*kept, *over) - mean[at]
    y_value = (value(*d) - mean[at]) * inv[at] * scale[d[len(lead):]] + bias[d[len(lead):]]
    return lower_group("norm", (x, scale, bias, y), (
        Compute(mean, kept, value(*kept, *over), over, "add", size, index=at),
        Compute(var, kept, centred * centred, over, "add", size, index=at),
        Compute(inv, u, const(1.0, "f32") / unary("sqrt", var[u] + 1e-5)),
        Compute(y, d, cast(y_value, dtype)),
    ))


def log_softmax(rows: int, columns: int) -> Kernel:
    x, y, centred = (Buffer(n, "f32", (rows, columns)) for n in ("x", "y", "centred"))
    most, total = Buffer("most", "f32", (rows, 1)), Buffer("total", "f32", (rows, 1))
    i, j = axis("i", rows), axis("j", columns)
    return lower_group("log_softmax", (x, y), (
        Compute(most, (i,), x[i, j], (j,), "max", index=(i, ZERO)),
        Compute(centred, (i, j), x[i, j] - most[i, 0]),
        Compute(total, (i,), call("exp", centred[i, j]), (j,), "add", index=(i, ZERO)),
        Compute(y, (i, j), centred[i, j] - call("log", total[i, 0])),
    ))


@pytest.mark.parametrize("rows, columns", [(37, n) for n in (1, 2, 3, 5, 8, 9)]
                         + [(3, n) for n in (2, 8, 16, 17, 64, 100, 129, 200, 300)])
def test_softmax(rows: int, columns: int) -> None:
    k = check(softmax(rows, columns), ("Y",), schedule_rows, rtol=4e-6)
    assert "stack" not in spaces(k), "the exponentials are in registers or in the output"


@pytest.mark.parametrize("lead, row", [((4,), (20,)), ((2, 3), (48,)), ((5,), (3, 7)), ((1,), (50,)), ((1, 6, 1), (33,)),
                                       ((4,), (4,)), ((20,), (4,)), ((2,), (300,)), ((3,), (2, 1, 9))])
def test_layer_norm(lead: tuple[int, ...], row: tuple[int, ...]) -> None:
    check(layer_norm(lead, row), ("y",), schedule_rows, rtol=2e-5)


def test_half_precision_rows() -> None:
    check(layer_norm((3,), (40,), "f16"), ("y",), schedule_rows)


@pytest.mark.parametrize("columns", [3, 30, 200])
def test_log_softmax(columns: int) -> None:
    check(log_softmax(3, columns), ("y",), schedule_rows, rtol=1e-5)


def test_mask_and_scale_before_the_softmax() -> None:
    """Softmax of x * scale + mask[row of another head], with axes (h, i, j)."""
    x, y, s, e = (Buffer(n, "f32", (2, 5, 37)) for n in ("x", "y", "s", "e"))
    mask = Buffer("mask", "f32", (5, 37))
    most, total = Buffer("most", "f32", (2, 5, 1)), Buffer("total", "f32", (2, 5, 1))
    h, i, j = axis("h", 2), axis("i", 5), axis("j", 37)
    at = (h, i, ZERO)
    kernel = lower_group("masked", (x, mask, y), (
        Compute(s, (h, i, j), x[h, i, j] * 0.125 + mask[i, j]),
        Compute(most, (h, i), s[h, i, j], (j,), "max", index=at),
        Compute(e, (h, i, j), call("exp", s[h, i, j] - most[at])),
        Compute(total, (h, i), e[h, i, j], (j,), "add", index=at),
        Compute(y, (h, i, j), e[h, i, j] / total[at]),
    ))
    check(kernel, ("y",), schedule_rows, rtol=5e-6)


def test_several_outputs() -> None:
    x, y = Buffer("x", "f32", (6, 70)), Buffer("y", "f32", (6, 70))
    mean, most = Buffer("mean", "f32", (6, 1)), Buffer("most", "f32", (6, 1))
    i, j = axis("i", 6), axis("j", 70)
    kernel = lower_group("several", (x, mean, most, y), (
        Compute(mean, (i,), x[i, j], (j,), "add", acc_var("f32") / const(70.0, "f32"), index=(i, ZERO)),
        Compute(most, (i,), x[i, j], (j,), "max", index=(i, ZERO)),
        Compute(y, (i, j), x[i, j] - mean[i, 0] + most[i, 0]),
    ))
    check(kernel, ("mean", "most", "y"), schedule_rows, rtol=1e-5)


def test_rows_that_cannot_be_shared() -> None:
    """The second nest reads other rows of the first: in order, by one thread."""
    x, y, t = Buffer("x", "f32", (4, 9)), Buffer("y", "f32", (4, 9)), Buffer("t", "f32", (4,))
    i, j = axis("i", 4), axis("j", 9)
    kernel = lower_group("mirror", (x, y), (
        Compute(t, (i,), x[i, j], (j,), "add"), Compute(y, (i, j), x[i, j] - t[3 - i])))
    k = check(kernel, ("y",), schedule_rows)
    assert all(s.kind != "parallel" for s in walk_block(k.body) if isinstance(s, For))


def test_long_rows_live_in_the_output_and_threads_share_rows() -> None:
    k = check(softmax(64, 1000), ("Y",), schedule_rows, rtol=4e-6, interpret=False)
    assert spaces(k) == {"register"}
    (top,) = [s for s in k.body if isinstance(s, For)]
    assert top.kind == "parallel"


def test_an_output_that_shares_memory_is_no_scratch() -> None:
    x, y, t, e = Buffer("x", "f32", (3, 300)), Buffer("y", "f32", (3, 300), attrs=("may_alias",)), Buffer("t", "f32", (3,)), \
        Buffer("e", "f32", (3, 300))
    i, j = axis("i", 3), axis("j", 300)
    kernel = lower_group("shared", (x, y), (
        Compute(e, (i, j), call("exp", x[i, j])), Compute(t, (i,), e[i, j], (j,), "add"),
        Compute(y, (i, j), e[i, j] / t[i] + x[i, j])))
    assert "stack" in spaces(check(kernel, ("y",), schedule_rows, rtol=1e-5))


def test_run_time_rows() -> None:
    n = axis("N", None)
    x, y, t = Buffer("x", "f32", (n, 37)), Buffer("y", "f32", (n, 37)), Buffer("t", "f32", (n,))
    i, j = axis("i", n), axis("j", 37)
    body = lower_group("m", (x, y), (
        Compute(t, (i,), x[i, j], (j,), "add"), Compute(y, (i, j), x[i, j] - t[i]))).body
    check(Kernel("dynamic", (x, y, n), body), ("y",), schedule_rows, sizes={"N": 5}, rtol=1e-5)
