"""relayout, fork_param, transpose_tile, swap_axes: same results, and every precondition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from codegen.small_kernels import affine, matmul, transpose
from codegen.stepwise import Stepwise, run_steps
from tilewright.codegen.schedule import (
    cut,
    fork_param,
    localize,
    merge,
    relayout,
    reorder,
    sink,
    split,
    swap_axes,
    transpose_tile,
    vectorize,
)
from tilewright.ir.compute import Compute, lower_group
from tilewright.ir.errors import ScheduleError
from tilewright.ir.expr import Load, Shuffle
from tilewright.ir.kernel import Buffer, Kernel, Store, axis, walk_block
from tilewright.ir.traverse import walk


def panels(array: np.ndarray, width: int) -> np.ndarray:
    k, n = array.shape
    return array.reshape(k, n // width, width).transpose(1, 0, 2)


def pack(k: Kernel, width: int, rows: int, columns: int) -> Kernel:
    return relayout(k, "B", (columns // width, rows, width), lambda r, c: (c // width, r, c % width), packed=True)


def test_relayout_of_a_parameter_and_a_temporary() -> None:
    packs = {"B": lambda a: panels(a["B"], 3)}
    run_steps(matmul(4, 6, 5), ("C",), lambda k: pack(k, 3, 5, 6), lambda k: split(k, "n", 3), lambda k: sink(k, ["m"]),
              lambda k: relayout(k, "acc", (2, 2), lambda m: (m // 2, m % 2)), packs=packs)
    with pytest.raises(ScheduleError, match="relayout B: 1 indices for 2 dimensions"):
        relayout(matmul(4, 6, 5), "B", (5, 6), lambda r, c: (r,))
    with pytest.raises(ScheduleError, match="relayout Q: expected one buffer Q, found 0"):
        relayout(matmul(4, 6, 5), "Q", (5, 6), lambda r, c: (r, c))


def strided_matmul() -> Kernel:
    """matmul(4, 6, 5) with B transposed in memory and rows of A 8 apart."""
    k = matmul(4, 6, 5)
    a, b, c, bias = k.buffers
    a2, b2 = replace(a, strides=(8, 1)), replace(b, strides=(1, 5))
    m, n, r = axis("m", 4), axis("n", 6), axis("k", 5)
    return lower_group("strided", (a2, b2, c, bias), (Compute(c, (m, n), a2[m, r] * b2[r, n] + bias[n], (r,), "add"),))


def test_relayout_of_strides_is_packing() -> None:
    with pytest.raises(ScheduleError, match="relayout B: a parameter with strides can be rearranged only by packing it"):
        relayout(strided_matmul(), "B", (6, 5), lambda r, c: (c, r))
    packs = {"B": lambda a: panels(a["B"].reshape(6, 5).T, 3)}
    k = run_steps(strided_matmul(), ("C",), lambda k: pack(k, 3, 5, 6), lambda k: split(k, "n", 3),
                  lambda k: sink(k, ["ni"]), lambda k: vectorize(k, "ni"), packs=packs)
    assert k.param("B").strides is None and k.param("A").strides == (8, 1)


def test_fork_param() -> None:
    """40 columns are two panels of 16 and one of 8, each packed densely."""
    packs = {"B": lambda a: panels(a["B"][:, :32], 16), "B_tail": lambda a: a["B"][:, 32:]}
    at = Stepwise(matmul(3, 40, 4), ("C",), packs)
    at(cut, "n", 32)
    at(fork_param, "B", "n1", "B_tail", (0, 32), (4, 8))
    assert [p.name for p in at.kernel.params] == ["A", "B", "C", "bias", "B_tail"]
    at(relayout, "B", (2, 4, 16), lambda r, c: (c // 16, r, c % 16), packed=True)
    at(split, "n0", 16)
    at(sink, ["n0i"])
    at(sink, ["n1"])
    at(vectorize, "n0i", "n1")
    at.finish()
    lanes = {e.type.lanes for s in walk_block(at.kernel.body) if isinstance(s, Store) for e in walk(s.value)}
    assert lanes == {1, 8, 16}


def test_fork_param_preconditions() -> None:
    k = cut(matmul(3, 6, 4), "n", 4)
    assert fork_param(k, "B", "n1", "Bt", (0, 4)).param("Bt").shape == (4, 2)
    with pytest.raises(ScheduleError, match="fork_param acc: it is not a parameter"):
        fork_param(k, "acc", "n1", "Bt", ())
    with pytest.raises(ScheduleError, match="there is a parameter bias already"):
        fork_param(k, "B", "n1", "bias", (0, 4))
    with pytest.raises(ScheduleError, match="fork_param C: it is written inside n1"):
        fork_param(k, "C", "n1", "Ct", (0, 4))
    with pytest.raises(ScheduleError, match="fork_param bias: it is not used inside k"):
        fork_param(k, "bias", "k", "bt", (0,))
    with pytest.raises(ScheduleError, match="expected 2 indices, got 1"):
        fork_param(k, "B", "n1", "Bt", (0,))


@pytest.mark.parametrize("dtype", ["f32", "i8", "f64"])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_transpose_tile(dtype: str, size: int) -> None:
    x, y = Buffer("X", dtype, (2 * size, size)), Buffer("Y", dtype, (size, 2 * size))
    i, j = axis("i", 2 * size), axis("j", size)
    kernel = lower_group("transpose", (x, y), (Compute(y, (i, j), x[i, j], index=(j, i)),))
    k = run_steps(kernel, ("Y",), lambda k: split(k, "i", size), lambda k: transpose_tile(k, "ii", "j"))
    shuffles = [e for s in walk_block(k.body) if isinstance(s, Store) for e in walk(s.value) if isinstance(e, Shuffle)]
    assert len(shuffles) == size * (size.bit_length() - 1)


def test_transpose_tile_gathers_rows() -> None:
    """Y[j, i] = X[G[i], j]: the rows are read where an index says."""
    x, g, y = Buffer("X", "f32", (5, 8)), Buffer("G", "i64", (8,)), Buffer("Y", "f32", (8, 8))
    i, j = axis("i", 8), axis("j", 8)
    kernel = lower_group("gather", (x, g, y), (Compute(y, (i, j), x[g[i], j], index=(j, i)),))
    inputs = {"G": np.array([4, 0, 1, 4, 2, 3, 0, 1])}
    run_steps(kernel, ("Y",), lambda k: split(k, "i", 4), lambda k: split(k, "j", 4),
              lambda k: reorder(k, ["io", "ii", "jo", "ji"], ["io", "jo", "ii", "ji"]),
              lambda k: transpose_tile(k, "ii", "ji"), inputs=inputs)


def test_transpose_tile_preconditions() -> None:
    with pytest.raises(ScheduleError, match="a tile of 3 x 3 is not square with a power of two"):
        transpose_tile(transpose(3, 3), "i", "j")
    with pytest.raises(ScheduleError, match="a tile of 4 x 8"):
        transpose_tile(transpose(4, 8), "i", "j")
    with pytest.raises(ScheduleError, match="the store to Y is not contiguous in i"):
        transpose_tile(affine(4, 4), "i", "j")
    with pytest.raises(ScheduleError, match="transpose_tile m, n: expected one store inside"):
        transpose_tile(matmul(4, 4, 4), "m", "n")


def test_swap_axes() -> None:
    x, y, t = (Buffer(n, "f32", (3, 4)) for n in ("X", "Y", "t"))
    i, j = axis("i", 3), axis("j", 4)
    kernel = lower_group("two", (x, y), (Compute(t, (i, j), x[i, j] * 2.0), Compute(y, (i, j), t[i, j] + 1.0)))
    k = run_steps(kernel, ("Y",), lambda k: swap_axes(k, "t", (1, 0)), lambda k: merge(k, "i"))
    loads = {e.buf.shape for s in walk_block(k.body) if isinstance(s, Store) for e in walk(s.value)
             if isinstance(e, Load) and e.buf.name == "t"}
    assert loads == {(4, 3)}
    with pytest.raises(ScheduleError, match="its first 1 indices change inside i"):
        localize(k, "t", "i")
