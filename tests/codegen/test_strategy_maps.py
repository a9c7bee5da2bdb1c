"""`schedule_map` on index maps, types and odd sizes: the naive kernel in the interpreter, then machine code."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.strategy_check import check
from tilewright.codegen.strategies.maps import schedule_map
from tilewright.ir.compute import Compute, lower_group
from tilewright.ir.expr import Expr, HReduce, Load, Shuffle, binary, call, cast, const, select
from tilewright.ir.kernel import Buffer, For, Kernel, Store, axis, walk_block
from tilewright.ir.traverse import walk


def one_map(out: Buffer, ins: tuple[Buffer, ...], body, index=None) -> Kernel:
    """A map over axes of the output's shape (or of `body`'s own order if an index is given)."""
    axes = tuple(axis(f"d{n}", d) for n, d in enumerate(out.shape))
    if index is not None:
        axes = tuple(axis(f"d{n}", out.shape[d]) for n, d in enumerate(index))
    where = None if index is None else tuple(axes[index.index(d)] for d in range(len(axes)))
    return lower_group("map", (*ins, out), (Compute(out, axes, body(*axes), index=where),))


def lanes(kernel: Kernel) -> set[int]:
    return {e.type.lanes for s in walk_block(kernel.body) if isinstance(s, Store) for e in walk(s.value)}


def gathers(kernel: Kernel) -> int:
    return sum(any(i.type.lanes > 1 for i in e.idx) for s in walk_block(kernel.body) if isinstance(s, Store)
               for e in walk(s.value) if isinstance(e, Load))


@pytest.mark.parametrize("shape", [(), (1,), (5,), (16,), (67,), (3, 40), (2, 3, 5), (1, 7, 1, 18), (2, 1, 33), (0, 4)])
def test_dense(shape: tuple[int, ...]) -> None:
    x, y, out = (Buffer(n, "f32", shape) for n in ("x", "y", "out"))
    check(one_map(out, (x, y), lambda *i: x[i] * y[i] + 1.0), ("out",), schedule_map)


@pytest.mark.parametrize("rows, columns", [(3, 5), (20, 37), (1, 200)])
def test_broadcast(rows: int, columns: int) -> None:
    x, s, t, out = (Buffer("x", "f32", (rows, columns)), Buffer("s", "f32", (columns,)), Buffer("t", "f32", (rows, 1)),
                    Buffer("out", "f32", (rows, columns)))
    k = check(one_map(out, (x, s, t), lambda i, j: x[i, j] * s[j] + t[i, 0]), ("out",), schedule_map)
    assert gathers(k) == 0


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "u32", "u64"])
def test_types(dtype: str) -> None:
    x, y, out = (Buffer(n, dtype, (3, 45)) for n in ("x", "y", "out"))
    check(one_map(out, (x, y), lambda *i: binary("max", x[i] + y[i], x[i] * y[i])), ("out",), schedule_map)


@pytest.mark.parametrize("source, target", [("f32", "i8"), ("u8", "f32"), ("i64", "f32"), ("f32", "bool"), ("bool", "i32"),
                                            ("f16", "f32"), ("f32", "bf16"), ("i32", "u8"), ("bool", "bool")])
def test_conversions(source: str, target: str) -> None:
    x, out = Buffer("x", source, (5, 23)), Buffer("out", target, (5, 23))
    data = np.arange(115).reshape(5, 23) % 7
    from tilewright.ir.types import DTYPES

    inputs = {"x": data.astype(DTYPES[source].numpy)}
    check(one_map(out, (x,), lambda *i: cast(x[i], target)), ("out",), schedule_map, inputs)


def test_conditions() -> None:
    x, c, out = Buffer("x", "f32", (4, 33)), Buffer("c", "bool", (4, 33)), Buffer("out", "f32", (4, 33))
    body = lambda i, j: select(c[i, j], x[i, j], select(binary("lt", x[i, j], const(0.0, "f32")), -x[i, j], x[i, j] * 2.0))  # noqa: E731
    check(one_map(out, (x, c), body), ("out",), schedule_map)
    flag = Buffer("flag", "bool", (4, 33))
    check(one_map(flag, (x,), lambda i, j: binary("le", x[i, j], const(0.5, "f32"))), ("flag",), schedule_map)


def test_functions() -> None:
    x, out = Buffer("x", "f32", (7, 50)), Buffer("out", "f32", (7, 50))
    for fn in ("exp", "tanh", "sigmoid", "sin"):
        check(one_map(out, (x,), lambda *i, fn=fn: call(fn, x[i])), ("out",), schedule_map)


@pytest.mark.parametrize("shape, perm", [((40, 35), (1, 0)), ((3, 17, 33), (0, 2, 1)), ((33, 2, 18), (2, 1, 0)),
                                         ((20, 3, 40), (1, 0, 2)), ((2, 16, 3, 32), (0, 3, 2, 1)), ((5, 3), (1, 0))])
@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_transposition(shape: tuple[int, ...], perm: tuple[int, ...], dtype: str) -> None:
    x = Buffer("x", dtype, shape)
    out = Buffer("out", dtype, tuple(shape[p] for p in perm))
    inverse = [perm.index(d) for d in range(len(perm))]
    k = check(one_map(out, (x,), lambda *i: x[tuple(i[n] for n in inverse)]), ("out",), schedule_map)
    if dtype == "f32" and shape[perm[-1]] >= 16 and shape[-1] >= 16 and perm[-1] != len(perm) - 1:
        assert any(isinstance(e, Shuffle) for s in walk_block(k.body) if isinstance(s, Store) for e in walk(s.value))


def test_transposing_producer_with_arithmetic() -> None:
    x, s, out = Buffer("x", "f32", (48, 32)), Buffer("s", "f32", (32,)), Buffer("out", "f32", (32, 48))
    check(one_map(out, (x, s), lambda j, i: x[i, j] * s[j] + 1.0), ("out",), schedule_map)
    check(one_map(out, (x, s), lambda i, j: x[i, j] * 2.0, index=(1, 0)), ("out",), schedule_map)


def test_strides() -> None:
    x = Buffer("x", "f32", (3, 5, 20), strides=(200, 40, 2))
    out = Buffer("out", "f32", (3, 5, 20), strides=(128, 24, 1))
    k = check(one_map(out, (x,), lambda *i: x[i] + 1.0), ("out",), schedule_map)
    assert gathers(k) > 0
    y = Buffer("y", "f32", (4, 20), strides=(1, 4))
    z = Buffer("z", "f32", (4, 20), strides=(1, 4))
    k = check(one_map(z, (y,), lambda *i: y[i] + 1.0), ("z",), schedule_map)
    assert gathers(k) == 0


def test_index_maps() -> None:
    x, out = Buffer("x", "f32", (6, 7)), Buffer("out", "f32", (4, 30))
    maps = [
        lambda i, j: x[i // 2 + 1, (j * 3) // 13],
        lambda i, j: x[5 - i, (j + i * 5) % 7],
        lambda i, j: cast(i * 30 + j, "f32"),
        lambda i, j: select(binary("lt", j, const(7)), x[i, binary("min", j, const(6))], const(-1.0, "f32")),
    ]
    for body in maps:
        check(one_map(out, (x,), body), ("out",), schedule_map)


def test_gathers() -> None:
    x, g, out = Buffer("x", "f32", (9, 20)), Buffer("g", "i64", (5,)), Buffer("out", "f32", (5, 20))
    k = check(one_map(out, (x, g), lambda i, j: x[g[i], j]), ("out",), schedule_map, {"g": np.array([8, 0, 3, 3, 5])})
    assert gathers(k) == 0, "rows are contiguous"
    h, at = Buffer("h", "i32", (9, 20)), Buffer("out", "f32", (9, 20))
    index = np.random.default_rng(0).integers(-20, 20, (9, 20)).astype(np.int32)

    def wrapped(i: Expr, j: Expr) -> Expr:
        n = cast(h[i, j], "i64")
        return x[i, select(binary("lt", n, const(0)), n + 20, n)]

    k = check(one_map(at, (x, h), wrapped), ("out",), schedule_map, {"h": index})
    assert gathers(k) > 0


def test_few_long_rows_are_shared() -> None:
    x, s, out = Buffer("x", "f32", (3, 20011)), Buffer("s", "f32", (3,)), Buffer("out", "f32", (3, 20011))
    k = check(one_map(out, (x, s), lambda i, j: x[i, j] * s[i]), ("out",), schedule_map, interpret=False)
    tops = [f for f in k.body if isinstance(f, For)]
    assert [f.kind for f in tops] == ["parallel", "parallel"] and tops[0].var.extent == 20011 // 64


def test_run_time_sizes() -> None:
    n = axis("N", None)
    x, out = Buffer("x", "f32", (n, 24)), Buffer("out", "f32", (n, 24))
    i, j = axis("i", n), axis("j", 24)
    kernel = Kernel("dynamic", (x, out, n), lower_group("m", (x, out), (Compute(out, (i, j), x[i, j] * 2.0),)).body)
    check(kernel, ("out",), schedule_map, sizes={"N": 5})
    y, z = Buffer("y", "f32", (3, n)), Buffer("z", "f32", (3, n))
    i, j = axis("i", 3), axis("j", n)
    kernel = Kernel("dynamic", (y, z, n), lower_group("m", (y, z), (Compute(z, (i, j), y[i, j] * 2.0),)).body)
    check(kernel, ("z",), schedule_map, sizes={"N": 37})


def test_no_horizontal_operations() -> None:
    x, out = Buffer("x", "f32", (8, 64)), Buffer("out", "f32", (8, 64))
    k = check(one_map(out, (x,), lambda *i: x[i] + 1.0), ("out",), schedule_map)
    assert lanes(k) == {1, 16}, "only the constant is scalar"
    assert not any(isinstance(e, HReduce) for s in walk_block(k.body) if isinstance(s, Store) for e in walk(s.value))
