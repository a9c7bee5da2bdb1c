"""Whole strategies made of schedules, run after every step: product, convolution, row softmax."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.small_kernels import conv, matmul, softmax
from codegen.stepwise import Stepwise
from tilewright.codegen.schedule import (
    alias,
    cut,
    fma_contract,
    fuse,
    localize,
    merge,
    parallel,
    prefetch,
    relayout,
    reorder,
    rfactor,
    sink,
    split,
    split_evenly,
    unroll,
    vectorize,
)


@pytest.mark.parametrize("rows", [4, 5, 7])
def test_matmul(rows: int) -> None:
    """Panels outermost, near-equal row tiles in registers, lanes innermost, the next panel prefetched."""
    width, lanes, (n, k) = 8, 4, (16, 6)
    packs = {"B": lambda a: a["B"].reshape(k, n // width, width).transpose(1, 0, 2)}
    at = Stepwise(matmul(rows, n, k), ("C",), packs, threads=2)
    at(relayout, "B", (n // width, k, width), lambda r, c: (c // width, r, c % width), packed=True)
    at(split, "n", width)
    at(reorder, ["m", "no", "ni"], ["no", "m", "ni"])
    _, tiles = at(split_evenly, "m", 3)
    for t in tiles:
        at(sink, [t.inner, "ni"])
    at(split, "ni", lanes, "nv", "nl")
    at(split, "k", 2)
    at(prefetch, "ko", "B", lambda env: (env["no"] + 1, env["ko"] * 2, 0))
    at(unroll, "ki", "nv", *(t.inner for t in tiles))
    at(parallel, "no")
    at(vectorize, "nl")
    at(fma_contract)
    at.finish()
    assert at.steps >= 12


@pytest.mark.parametrize("height, width, stride, rows", [(6, 7, 1, 1), (7, 7, 2, 1), (5, 4, 1, 2)])
def test_conv(height: int, width: int, stride: int, rows: int) -> None:
    """One contiguous (kw, ic) run; output pixels in registers, or two output rows where they are short."""
    ic, oc, window, panel = 2, 8, 2, 4
    packs = {"B": lambda a: a["B"].reshape(window, window, ic, oc // panel, panel).transpose(3, 0, 1, 2, 4)}
    at = Stepwise(conv(height, width, ic, oc, window, stride), ("C",), packs)
    at(relayout, "B", (oc // panel, window, window, ic, panel),
       lambda kh, kw, c, n: (n // panel, kh, kw, c, n % panel), packed=True)
    at(fuse, "kw", "ic", "k")
    at(split, "n", panel)
    at(reorder, ["oh", "ow", "no", "ni"], ["no", "oh", "ow", "ni"])
    _, tiles = at(split_evenly, "ow" if rows == 1 else "oh", 3 if rows == 1 else rows)
    for t in tiles:
        at(sink, [t.inner, "ni"] if rows == 1 else [t.inner, "ow", "ni"])
    at(split, "k", 2)
    at(unroll, "ki", *(t.inner for t in tiles), *(["ow"] if rows > 1 else []))
    at(vectorize, "ni")
    at(fma_contract)
    at.finish()


@pytest.mark.parametrize("columns", [8, 16, 26])
def test_softmax(columns: int) -> None:
    """Rows merged, the exponentials in the output, several vectors at once, then one, then a short one."""
    lanes, several = 4, 2
    at = Stepwise(softmax(3, columns), ("Y",), exact=False, threads=2)
    at(merge, "i")
    at(alias, "e", "Y")
    for name in ("most", "total"):
        at(localize, name, "i")
    at(merge, "j")
    whole = columns // lanes * lanes
    name = "j"
    if whole < columns:
        at(cut, "j", whole)
        name = "j0"
    at(split, name, lanes, "jo", "jl")
    at(rfactor, "jo", "jl")
    at(split, "jo", several, "jo", "ju")
    at(rfactor, "jo", "ju")
    at(unroll, "ju")
    at(vectorize, "jl", *(["j1"] if whole < columns else []))
    at(parallel, "i")
    at(fma_contract)
    at.finish()
    total = at.run()["Y"].sum(1)
    np.testing.assert_allclose(total, np.ones(3), rtol=1e-6)
