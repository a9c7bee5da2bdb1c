"""Kernels as C++: the plain dialect compiled by the host's compiler, what the CUDA text looks like, hostile names."""

from __future__ import annotations

import ctypes
import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest
from suites import rows_a, rows_b
from suites.lowered import naive_kernel
from suites.row import Row, check, type_of
from tilewright.codegen.c_dialect import comment_text, identifier, used_snippets
from tilewright.codegen.c_like import print_kernel
from tilewright.codegen.cuda import CUDA
from tilewright.codegen.plain_cpp import plain_source
from tilewright.codegen.strategies.gpu.legalize import legalize
from tilewright.ir.errors import InternalError
from tilewright.ir.expr import Load, Type, as_expr, binary, cast, const, load, select
from tilewright.ir.kernel import Alloc, Barrier, Buffer, For, If, Kernel, Store, axis, noted, store
from tilewright.ir.ops.base import form_of
from tilewright.ir.types import NUMBERS

# A row in twenty, of those whose operator has loops: every fifth one of the elementwise families is among them.
ROWS: list[Row] = [row for row in (*rows_a.ROWS, *rows_b.ROWS) if form_of(row.op) != "expand"][::8]


@functools.cache
def library(folder: str) -> ctypes.CDLL:
    """All rows as one plain C++ file."""
    kernels = []
    for n, row in enumerate(ROWS):
        made = legalize(naive_kernel(row.op, tuple(map(type_of, row.arrays()))))
        kernels.append(Kernel(f"row{n}", made.params, _in_stacks(made)))
    source = Path(folder) / "rows.cpp"
    source.write_text(plain_source(*kernels))
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror", "-ffp-contract=off"]
    done = subprocess.run(["g++", *flags, "rows.cpp", "-o", "rows.so"], cwd=folder, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[:2000]
    return ctypes.CDLL(str(Path(folder) / "rows.so"))


def _in_stacks(kernel: Kernel):  # type: ignore[no-untyped-def]
    return tuple(s for s in kernel.body if not isinstance(s, Barrier))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_rows_as_plain_cpp(row: Row, folder: str) -> None:
    arrays = row.arrays()
    expected = row.op.evaluate(*arrays)
    outs = [np.zeros(e.shape, e.dtype) for e in expected]
    memory = [*outs, *map(np.ascontiguousarray, arrays)]
    getattr(library(folder), f"row{ROWS.index(row)}")(*(ctypes.c_void_p(a.ctypes.data) for a in memory))
    for got, wanted in zip(outs, expected, strict=True):
        check(got, wanted, row.tolerance)


def text_of(*body, params: tuple[Buffer, ...]) -> str:  # type: ignore[no-untyped-def]
    return print_kernel(Kernel("k", params, body), CUDA).text


X, Y = Buffer("x", "f32", (8, 64)), Buffer("y", "f32", (8, 64))
ROW, J = axis("i", 8), axis("j", 64)


def test_loops_and_updates_read_as_people_write_them() -> None:
    acc = Buffer("acc", "f32", (), "register")
    body = For(ROW, (Alloc(acc), store(acc, (), const(0, "f32")), For(J, (store(acc, (), load(acc) + load(X, ROW, J)),)),
                   store(Y, (ROW, as_expr(0)), load(acc))), "thread.x")
    assert text_of(body, params=(Y, X)) == """\
extern "C" __global__ void __launch_bounds__(8)
k(float *__restrict__ y, const float *__restrict__ x)
{
    const int i = threadIdx.x;
    float acc = 0.0f;
    for (int j = 0; j < 64; ++j) {
        acc += x[i * 64 + j];
    }
    y[i * 64] = acc;
}
"""


def test_vectors_are_one_access_and_a_loop_over_lanes() -> None:
    v = axis("v", 16)
    copy = For(ROW, (For(v, (Store(Y, (ROW, v * 4), Load.of(X, (ROW, v * 4), Type("f32", 4))),)),))
    assert "*(vec<float, 4> *)&y[i * 64 + v * 4] = *(const vec<float, 4> *)&x[i * 64 + v * 4];" in text_of(copy, params=(Y, X))
    double = For(ROW, (For(v, (Store(Y, (ROW, v * 4), Load.of(X, (ROW, v * 4), Type("f32", 4)) * 2.0),)),))
    text = text_of(double, params=(Y, X))
    assert "for (int i_2 = 0; i_2 < 4; ++i_2)" in text
    assert ".v[i_2] = " in text


def test_addresses_show_the_coordinates() -> None:
    """By the sizes of the parameter; what was one number before it was split is one number again."""
    image, y = Buffer("image", "f32", (14, 14, 64)), Buffer("y", "f32", (196, 64))
    pixel, c = axis("pixel", 196), axis("c", 64)
    whole = For(pixel, (For(c, (store(y, (pixel, c), load(image, pixel // 14, pixel % 14, c)),)),))
    assert "y[pixel * 64 + c] = image[pixel * 64 + c];" in text_of(whole, params=(y, image))
    window = For(pixel, (For(c, (store(y, (pixel, c), load(image, pixel // 14 * 2 - 1, pixel % 14 - 1, c)),)),))
    assert "= image[((pixel / 14 * 2 - 1) * 14 + pixel % 14 - 1) * 64 + c];" in text_of(window, params=(y, image))
    strided = Buffer("s", "f32", (4, 8, 64), strides=(64, 256, 1))
    j, i = axis("j", 4), axis("i", 8)
    text = text_of(For(j, (For(i, (For(c, (store(strided, (j, i, c), const(0, "f32")),)),)),)), params=(strided,))
    assert "s[i * 256 + j * 64 + c] = 0.0f;" in text


def test_arrays_with_longer_lines_keep_their_dimensions() -> None:
    lines = Buffer("lines", "f32", (8, 64), "shared", strides=(72, 1))
    text = text_of(For(ROW, (Alloc(lines), For(J, (store(lines, (ROW, J), load(X, ROW, J)),))), "thread.x"), params=(X,))
    assert "float lines[8][72];" in text
    assert "lines[i][j] = x[i * 64 + j];" in text


def test_loops_of_one_turn_have_no_variable_and_notes_are_comments() -> None:
    once = axis("once", 1)
    loop = For(ROW, (For(once, (store(Y, (ROW, once), load(X, ROW, once + 3)),), "unroll"),), "serial", (noted("a row"),))
    assert text_of(loop, params=(Y, X)).endswith("""{
    // a row
    for (int i = 0; i < 8; ++i) {
        y[i * 64] = x[i * 64 + 3];
    }
}
""")


def test_wide_addresses_are_computed_in_64_bits() -> None:
    big = Buffer("big", "u8", (70000, 70000))
    i, j = axis("i", 70000), axis("j", 70000)
    text = text_of(For(i, (For(j, (store(big, (i, j), const(0, "u8")),)),)), params=(big,))
    assert "(long long)i * 70000" in text or "i * 70000ll" in text or "(long long)(i * 70000)" not in text
    assert "long long" in text


def test_division_of_negative_numbers_goes_through_helpers() -> None:
    ints, short = Buffer("n", "i64", (64,)), Buffer("s", "i32", (64,))
    body = For(J, (store(ints, (J,), binary("div", cast(load(short, J), "i64"), 3)),))
    assert "floor_div<long long>(s[j], 3)" in text_of(body, params=(ints, short))
    body = For(J, (store(ints, (J,), binary("div", load(ints, J), 3)),))
    assert "floor_div<long long>(n[j], 3)" in text_of(body, params=(ints,))


def test_what_the_language_lacks_is_refused() -> None:
    half = Buffer("h", "f16", (64,))
    with pytest.raises(InternalError, match="legalize"):
        text_of(For(J, (store(half, (J,), load(half, J) + load(half, J)),)), params=(half,))
    with pytest.raises(InternalError, match="parallel"):
        text_of(For(J, (store(X, (as_expr(0), J), const(0, "f32")),), "parallel"), params=(X,))


def test_names_come_from_a_checked_alphabet() -> None:
    assert identifier("int", ()) == "int_"
    assert identifier("a b\n*/", ()) == "a_b___"
    assert identifier("x", {"x", "x_2"}) == "x_3"
    assert comment_text("a\\\n#include */ \x00 é") == "a___include _/ _ _"
    hostile = Buffer("for", "f32", (64,))
    text = text_of(For(axis("while", 64), (store(hostile, (axis("while", 64),), const(1, "f32")),)), params=(hostile,))
    assert "for_[while_] = 1.0f;" in text


def test_conditions_and_selections() -> None:
    cond = binary("or", binary("and", binary("lt", ROW, 3), binary("lt", J, 5)), binary("eq", ROW, 7))
    value = select(cond, load(X, ROW, J), cast(ROW, "f32"))
    text = text_of(For(ROW, (For(J, (If(cond, (store(Y, (ROW, J), value),)),)),)), params=(Y, X))
    assert "if ((i < 3 && j < 5) || i == 7) {" in text


@pytest.mark.parametrize("dtype", NUMBERS)
def test_constants_of_every_type(dtype: str) -> None:
    b = Buffer("b", dtype, (64,))
    text = text_of(For(J, (store(b, (J,), const(1, dtype)),)), params=(b,))
    assert "b[j] = " in text


def test_helpers_that_only_a_comment_names_are_left_out() -> None:
    snippets = {"first": "void first() { second(); }", "second": "void second() {}", "third": "// second\nvoid third() {}"}
    assert used_snippets("// first\nthird();", snippets) == ["third"]
    assert used_snippets("first();", snippets) == ["first", "second"]


def test_loops_that_share_a_launch_ask_for_the_fewest_blocks() -> None:
    """Sixteen blocks of 32 threads fit where sixteen of 256 do not."""
    small, large = axis("small", 32), axis("large", 256)
    body = (For(axis("b", 4), (For(small, (store(X, (as_expr(0), small), const(0, "f32")),), "thread.x"),), "block.x",
                (("resident", 16),)),
            For(axis("c", 4), (For(large, (store(Y, (large / 64, large % 64), const(0, "f32")),), "thread.x"),), "block.x",
                (("resident", 4),)))
    assert "__launch_bounds__(256, 4)" in text_of(*body, params=(X, Y))
