"""The interpreter of the loop IR against NumPy, node by node."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from tilewright.ir.compute import Compute, lower_group
from tilewright.ir.errors import InternalError
from tilewright.ir.expr import (
    I64,
    Expr,
    HReduce,
    Load,
    Ramp,
    Shuffle,
    Splat,
    Type,
    as_expr,
    binary,
    call,
    cast,
    const,
    fma,
    select,
    unary,
)
from tilewright.ir.kernel import Alloc, Barrier, Buffer, For, If, Kernel, Read, Stmt, Store, Write, axis, store
from tilewright.ir.kernel_functions import fma as fma_function
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.types import DTYPES, NUMBERS

RNG = np.random.default_rng(7)


def elementwise(fn, dtypes: tuple[str, ...], result: str, arrays: list[np.ndarray], lanes: int = 1) -> np.ndarray:
    """out[i] = fn(*ins[i]) by a kernel, one or `lanes` elements at a time."""
    size = arrays[0].size
    ins = [Buffer(f"x{n}", d, (size,)) for n, d in enumerate(dtypes)]
    out = Buffer("out", result, (size,))
    i = axis("i", size // lanes)
    values = [Load.of(b, (i * lanes,), Type(b.dtype, lanes)) for b in ins]
    kernel = Kernel("test", (*ins, out), (For(i, (Store(out, (i * lanes,), fn(*values)),)),))
    got = np.zeros(size, DTYPES[result].numpy)
    run_kernel(kernel, {"out": got, **{b.name: a for b, a in zip(ins, arrays, strict=True)}})
    return got


def sample(dtype: str, size: int = 24) -> np.ndarray:
    info = DTYPES[dtype]
    if info.kind == "f":
        return RNG.standard_normal(size).astype(info.numpy)
    if info.kind == "b":
        return RNG.integers(0, 2, size).astype(bool)
    return RNG.integers(0 if info.kind == "u" else -100, 100, size).astype(info.numpy)


NUMERIC = [d for d in NUMBERS if d != "bool"]


@pytest.mark.parametrize("lanes", [1, 6])
@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("op", ["add", "sub", "mul", "min", "max", "lt", "le", "eq", "ne", "div", "mod"])
def test_binary(op: str, dtype: str, lanes: int) -> None:
    a, b = sample(dtype), sample(dtype)
    b[b == 0] = 3
    by_name = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum, "lt": np.less,
        "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "mod": np.mod,
        "div": np.divide if DTYPES[dtype].kind == "f" else np.floor_divide,
    }
    result = "bool" if op in ("lt", "le", "eq", "ne") else dtype
    got = elementwise(lambda x, y: binary(op, x, y), (dtype, dtype), result, [a, b], lanes)
    np.testing.assert_array_equal(got, by_name[op](a, b))


@pytest.mark.parametrize("lanes", [1, 6])
@pytest.mark.parametrize("dtype", ["i8", "i32", "i64", "u8", "u64"])
def test_truncating_division(dtype: str, lanes: int) -> None:
    a, b = sample(dtype), sample(dtype)
    b[b == 0] = 3
    quotient = np.trunc(a.astype(float) / b.astype(float)).astype(a.dtype)
    got = elementwise(lambda x, y: binary("tdiv", x, y), (dtype, dtype), dtype, [a, b], lanes)
    np.testing.assert_array_equal(got, quotient)
    got = elementwise(lambda x, y: binary("tmod", x, y), (dtype, dtype), dtype, [a, b], lanes)
    np.testing.assert_array_equal(got, np.fmod(a, b))


@pytest.mark.parametrize("lanes", [1, 6])
@pytest.mark.parametrize("source", list(NUMBERS))
@pytest.mark.parametrize("target", list(NUMBERS))
def test_cast(source: str, target: str, lanes: int) -> None:
    a = np.abs(sample(source)) if source != "bool" else sample(source)
    got = elementwise(lambda x: cast(x, target), (source,), target, [a], lanes)
    np.testing.assert_array_equal(got, a.astype(DTYPES[target].numpy))


@pytest.mark.parametrize("lanes", [1, 6])
def test_min_and_max_of_nan(lanes: int) -> None:
    a, b = sample("f32"), sample("f32")
    a[::3] = np.nan
    b[1::3] = np.nan
    got = elementwise(lambda x, y: binary("max", x, y), ("f32", "f32"), "f32", [a, b], lanes)
    np.testing.assert_array_equal(got, np.where(np.isnan(a), np.nan, np.where(np.isnan(b), a, np.maximum(a, b))))


@pytest.mark.parametrize("lanes", [1, 6])
def test_functions_are_rounded_once(lanes: int) -> None:
    a = np.abs(sample("f32"))
    for name, reference in (("exp", np.exp), ("log", np.log), ("tanh", np.tanh), ("sin", np.sin)):
        got = elementwise(lambda x, name=name: call(name, x), ("f32",), "f32", [a], lanes)
        np.testing.assert_array_equal(got, reference(a.astype(np.float64)).astype(np.float32))
    got = elementwise(lambda x, y: call("scalef", x, y), ("f32", "f32"), "f32", [a, a * 3], lanes)
    np.testing.assert_array_equal(got, np.ldexp(a, np.floor(a * 3).astype(int)))


@pytest.mark.parametrize("dtype, bits", [("f32", 24), ("f64", 53)])
def test_fma_has_one_rounding(dtype: str, bits: int) -> None:
    made = DTYPES[dtype].numpy.type
    one = fma_function(dtype, 1)
    many = fma_function(dtype, 64)
    a = RNG.standard_normal(64).astype(made)
    b = RNG.standard_normal(64).astype(made)
    c = (-(a * b) + RNG.standard_normal(64) * 2.0 ** -bits).astype(made)
    c[::2] = (RNG.standard_normal(32) * 2.0**bits).astype(made)
    got = many(a, b, c)
    for x, y, z, r in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        near = [made(r), np.nextafter(made(r), made(np.inf)), np.nextafter(made(r), made(-np.inf))]
        errors = [abs(Fraction(float(n)) - exact) for n in near]
        assert errors[0] == min(errors)
        assert one(x, y, z) == r


def test_fma_of_halfway_cases() -> None:
    """p + c lies just beside a midpoint of two f32 values: rounding the f64 sum again would be wrong."""
    one = fma_function("f32", 1)
    a, b = np.float32(1 + 2.0**-12), np.float32(1 + 2.0**-12)  # the product ends in 2**-24, half an ulp of 1
    assert one(a, b, np.float32(2.0**-80)) == np.nextafter(np.float32(a * b), np.float32(2))


def vector_kernel(make) -> np.ndarray:
    """out[0:8] (f32) of an expression over x[0:16] = 0..15."""
    x, out = Buffer("x", "f32", (16,)), Buffer("out", "f32", (8,))
    value = make(x)
    got = np.zeros(8, np.float32)
    kernel = Kernel("v", (x, out), (Store(out, (as_expr(0),), value),))
    run_kernel(kernel, {"x": np.arange(16, dtype=np.float32), "out": got})
    return got


def vec(buf: Buffer, at: int, lanes: int) -> Expr:
    return Load.of(buf, (as_expr(at),), Type(buf.dtype, lanes))


def test_vector_nodes() -> None:
    x = np.arange(16.0)
    np.testing.assert_array_equal(vector_kernel(lambda b: vec(b, 5, 8)), x[5:13])
    mask = (0, 8, 1, 9, 2, 10, 3, 15)
    np.testing.assert_array_equal(
        vector_kernel(lambda b: Shuffle.of(vec(b, 0, 8), vec(b, 8, 8), mask, Type("f32", 8))), x[list(mask)])
    ramp = Ramp.of(Type("i64", 8))
    np.testing.assert_array_equal(vector_kernel(lambda b: Load.of(b, (ramp * 2,), Type("f32", 8))), x[::2])
    np.testing.assert_array_equal(vector_kernel(lambda b: cast(ramp * 3 + 1, "f32")), np.arange(8) * 3 + 1)
    total = vector_kernel(lambda b: Splat.of(HReduce.of("add", vec(b, 0, 16), Type("f32")), Type("f32", 8)))
    np.testing.assert_array_equal(total, np.full(8, 120.0))
    np.testing.assert_array_equal(
        vector_kernel(lambda b: select(binary("lt", vec(b, 0, 8), const(3, "f32")), vec(b, 8, 8), const(-1, "f32"))),
        np.where(x[:8] < 3, x[8:], -1))
    np.testing.assert_array_equal(vector_kernel(lambda b: unary("neg", vec(b, 0, 8))), -x[:8])
    np.testing.assert_array_equal(vector_kernel(lambda b: fma(vec(b, 0, 8), vec(b, 1, 8), vec(b, 2, 8))),
                                  x[:8] * x[1:9] + x[2:10])


def test_scatter_and_reinterpreted_load() -> None:
    x, out = Buffer("x", "u8", (4, 8)), Buffer("out", "i32", (16,))
    i = axis("i", 1)
    quads = Load.of(x, (as_expr(0), as_expr(0)), Type("i32", 8))
    ramp = Ramp.of(Type("i64", 8))
    one = Load.of(x, (i + 1, as_expr(4)), Type("i32"))
    body: tuple[Stmt, ...] = (
        For(i, (Store(out, (ramp * 2,), quads), Store(out, (as_expr(1),), one))),
    )
    data = RNG.integers(0, 255, (4, 8)).astype(np.uint8)
    got = np.zeros(16, np.int32)
    run_kernel(Kernel("r", (x, out), body), {"x": data, "out": got})
    np.testing.assert_array_equal(got[::2], data.reshape(-1).view(np.int32))
    assert got[1] == data[1, 4:].view(np.int32)[0]


def test_dot_instruction() -> None:
    acc, a, b = (sample("i32", 8) for _ in range(3))
    got = elementwise(lambda x, y, z: call("vpdpbusd", x, y, z), ("i32",) * 3, "i32", [acc, a, b], 8)
    products = a.view(np.uint8).astype(np.int32) * b.view(np.int8)
    np.testing.assert_array_equal(got, acc + products.reshape(8, 4).sum(1))


def test_strides_and_run_time_sizes() -> None:
    n = axis("N", None)
    x = Buffer("x", "f32", (n, 3), strides=(5, 1))
    out = Buffer("out", "f32", (3, n))
    i, j = axis("i", n), axis("j", 3)
    kernel = Kernel("t", (x, out, n), (For(i, (For(j, (Store(out, (j, i), x[i, j]),)),)),))
    data = np.arange(20, dtype=np.float32)
    got = np.zeros((3, 4), np.float32)
    run_kernel(kernel, {"x": data, "out": got}, {"N": 4})
    np.testing.assert_array_equal(got, data.reshape(4, 5)[:, :3].T)
    with pytest.raises(InternalError, match="reach 23 elements, got 20"):
        run_kernel(kernel, {"x": data, "out": got}, {"N": 5})
    with pytest.raises(InternalError, match="no value for the size 'N'"):
        run_kernel(kernel, {"x": data, "out": got})


def test_threads_share_a_loop_and_meet_at_barriers() -> None:
    x, y, out = (Buffer(name, "f32", (10,)) for name in ("x", "y", "out"))
    i, j = axis("i", 10), axis("j", 10)

    def kernel(*between: Stmt) -> Kernel:
        first = For(i, (Store(y, (i,), x[i] * 2),), "parallel")
        second = For(j, (Store(out, (j,), y[9 - j]),), "parallel")
        return Kernel("p", (x, y, out), (first, *between, second))

    data = np.arange(10, dtype=np.float32)
    for threads in (1, 3, 16):
        got, middle = np.zeros(10, np.float32), np.full(10, np.nan, np.float32)
        run_kernel(kernel(Barrier()), {"x": data, "y": middle, "out": got}, threads=threads)
        np.testing.assert_array_equal(got, data[::-1] * 2)
    got, middle = np.zeros(10, np.float32), np.full(10, np.nan, np.float32)
    run_kernel(kernel(), {"x": data, "y": middle, "out": got}, threads=2)
    assert np.isnan(got).any(), "a missing barrier must show"


def test_conditions_and_integer_wrap() -> None:
    x, out = Buffer("x", "i64", (4,)), Buffer("out", "i64", (4,))
    i = axis("i", 4)
    body = If(binary("lt", i, as_expr(2)), (Store(out, (i,), x[i] * x[i]),), (Store(out, (i,), -x[i]),))
    data = np.array([2**40, -3, 5, -(2**63)], np.int64)
    got = np.zeros(4, np.int64)
    run_kernel(Kernel("w", (x, out), (For(i, (body,)),)), {"x": data, "out": got})
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, [0, 9, -5, -(2**63)])


def test_streams() -> None:
    s, t = Buffer("s", "f32", (4,), "stream"), Buffer("t", "f32", (4,), "stream")
    cell = Buffer("c", "f32", (), "register")
    i = axis("i", 4)
    kernel = Kernel("s", (s, t), (For(i, (Alloc(cell), Read(s, cell, ()), Write(t, cell[()] + 1.0))),))
    got = np.zeros(4, np.float32)
    run_kernel(kernel, {"s": np.arange(4, dtype=np.float32), "t": got})
    np.testing.assert_array_equal(got, [1, 2, 3, 4])


def test_fresh_buffers_are_poisoned() -> None:
    x, temp, out = Buffer("x", "f32", (3,)), Buffer("temp", "f32", (3,)), Buffer("out", "f32", (3,))
    i = axis("i", 3)
    kernel = Kernel("n", (x, out), (Alloc(temp), store(temp, (0,), x[0]), For(i, (Store(out, (i,), temp[i]),))))
    got = np.zeros(3, np.float32)
    run_kernel(kernel, {"x": np.ones(3, np.float32), "out": got})
    np.testing.assert_array_equal(np.isnan(got), [False, True, True])


def test_an_index_out_of_bounds_is_named() -> None:
    x, at, out = Buffer("x", "f32", (4,)), Buffer("at", "i64", (3,)), Buffer("out", "f32", (3,))
    i = axis("i", 3)
    kernel = lower_group("gather", (x, at, out), (Compute(out, (i,), x[at[i]]),))
    arrays = {"x": np.arange(4, dtype=np.float32), "at": np.array([3, 0, 4]), "out": np.zeros(3, np.float32)}
    with pytest.raises(InternalError, match=r"index 4 of dimension 0 of x is outside 0\.\.3"):
        run_kernel(kernel, arrays)
    arrays["at"][2] = -1
    with pytest.raises(InternalError, match=r"index -1 of dimension 0"):
        run_kernel(kernel, arrays)
    guarded = select(binary("lt", at[i], const(4, I64)), x[at[i]], const(0, "f32"))
    with pytest.raises(InternalError, match="must be clamped"):
        arrays["at"][2] = 4
        run_kernel(lower_group("gather", (x, at, out), (Compute(out, (i,), guarded),)), arrays)


def test_wrong_arguments_are_refused() -> None:
    x = Buffer("x", "f32", (4,))
    kernel = Kernel("a", (x,), (store(x, (0,), 1.0),))
    with pytest.raises(InternalError, match="no array given"):
        run_kernel(kernel, {})
    with pytest.raises(InternalError, match="expected a C-contiguous array of f32, got float64"):
        run_kernel(kernel, {"x": np.zeros(4)})
    with pytest.raises(InternalError, match="expected 4 elements"):
        run_kernel(kernel, {"x": np.zeros(5, np.float32)})
