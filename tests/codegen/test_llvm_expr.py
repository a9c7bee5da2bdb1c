"""Every expression: machine code gives what the kernel interpreter gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from codegen.native import run_native
from tilewright.codegen.machine import parse_machine
from tilewright.ir.expr import (
    BOOL,
    Bin,
    Call,
    Expr,
    Fma,
    HReduce,
    Load,
    Ramp,
    Shuffle,
    Type,
    Un,
    Var,
    binary,
    call,
    cast,
    const,
    fma,
    select,
    splat,
)
from tilewright.ir.kernel import Alloc, Buffer, For, Kernel, Stmt, Store, axis
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.types import DTYPES, NUMBERS, is_integer

ARITHMETIC = ("add", "sub", "mul", "min", "max", "lt", "le", "eq", "ne")
BINARY = {
    "f": (*ARITHMETIC, "div"),
    "i": (*ARITHMETIC, "div", "mod", "tdiv", "tmod", "and", "or", "xor", "shl", "shr"),
    "u": (*ARITHMETIC, "div", "mod", "and", "or", "xor", "shl", "shr"),
    "b": ("and", "or", "xor", "eq", "ne"),
}
UNARY = {"f": ("neg", "abs", "rint", "floor", "ceil", "trunc", "sqrt"), "i": ("neg", "abs"), "u": (), "b": ("not",)}
DTYPE_LIST = [d for d in NUMBERS if d not in ("f16", "bf16")]
LENGTH = 240


def vector(buf: Buffer, i: Var, lanes: int) -> Expr:
    return Load.of(buf, (i * lanes,), Type(buf.dtype, lanes))


def samples(dtype: str, seed: int = 0) -> np.ndarray:
    """Ordinary values, and all pairs of special ones when two of different seeds are taken."""
    rng, info = np.random.default_rng(seed), DTYPES[dtype]
    if info.kind == "b":
        return rng.integers(0, 2, LENGTH).astype(bool)
    if info.kind == "f":
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, 1.5, -2.5]
        values = rng.standard_normal(LENGTH) * np.exp(rng.uniform(-2, 2, LENGTH))
    else:
        limits = np.iinfo(info.numpy)
        special = [0, 1, 2, 7, limits.max, limits.min, limits.max - 1, 3]
        values = rng.integers(limits.min // 2, limits.max // 2, LENGTH)
    pairs = list(itertools.product(special, special))
    values = np.array(values, dtype=info.numpy)
    for n, pair in enumerate(pairs):
        values[n] = pair[seed % 2]
    return values


def check(outs: dict[str, Expr], ins: dict[str, np.ndarray], params: list[Buffer], loop: Var, lanes: int,
          machine: str = "", exact: bool = True) -> None:
    """Store every expression to an array of its own, run both ways, compare bits."""
    body: list[Stmt] = []
    results: dict[str, np.ndarray] = {}
    for name, e in outs.items():
        out = Buffer(name, e.type.dtype, (LENGTH // lanes * e.type.lanes,))
        results[name] = np.zeros(out.size, DTYPES[e.type.dtype].numpy)
        body.append(Store(out, (loop * e.type.lanes,), e))
        params = [*params, out]
    kernel = Kernel("k", tuple(params), (For(loop, tuple(body)),))
    expected = {**ins, **{k: v.copy() for k, v in results.items()}}
    run_kernel(kernel, expected)
    run_native(kernel, {**ins, **results}, machine=parse_machine("cpu:" + machine) if machine else None)
    for name, got in results.items():
        want = expected[name]
        if want.dtype == "bfloat16":  # NumPy does not know its NaN
            got, want = got.astype(np.float32), want.astype(np.float32)
        if exact:
            np.testing.assert_array_equal(got, want, err_msg=name)
        else:
            np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=3e-6, err_msg=name)


@pytest.mark.parametrize("lanes", [1, 5, 8])
@pytest.mark.parametrize("dtype", DTYPE_LIST)
def test_operations(dtype: str, lanes: int) -> None:
    kind, i = DTYPES[dtype].kind, axis("i", LENGTH // lanes)
    bufs = [Buffer(n, dtype, (LENGTH,)) for n in "ab"]
    a, b = (vector(buf, i, lanes) for buf in bufs)
    amount = binary("and", b, 127) if kind in "iu" else b  # the interpreter refuses negative shifts of i64
    outs: dict[str, Expr] = {op: binary(op, a, amount if op in ("shl", "shr") else b) for op in BINARY[kind]}
    outs |= {f"{op}_one": Un.of(op, a, a.type) for op in UNARY[kind]}
    outs["pick"] = select(binary("ne", a, b), a, b)
    outs["both"] = binary("and", binary("ne", a, b), binary("eq", a, a))
    check(outs, {"a": samples(dtype, 0), "b": samples(dtype, 1)}, bufs, i, lanes)


@pytest.mark.parametrize("dtype", ["i8", "i64", "u16", "i32"])
def test_division_by_constants(dtype: str) -> None:
    i, buf = axis("i", LENGTH // 4), Buffer("a", dtype, (LENGTH,))
    a = vector(buf, i, 4)
    divisors = [1, 3, 8, 100] + ([-1, -3] if dtype[0] == "i" else [])
    outs = {
        f"{op}{n}".replace("-", "m"): Bin.of(op, a, splat(const(n, dtype), 4), a.type)
        for op in ("div", "mod") for n in divisors
    }
    check(outs, {"a": samples(dtype)}, [buf], i, 4)


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("machine", ["", "x86-64-v2"])
@pytest.mark.parametrize("dtype", list(NUMBERS))
def test_casts(dtype: str, machine: str, lanes: int) -> None:
    i, buf = axis("i", LENGTH // lanes), Buffer("a", dtype, (LENGTH,))
    values = samples(dtype)
    if DTYPES[dtype].kind == "f":  # what does not fit an integer is tested below: NumPy leaves it open
        values = np.nan_to_num(values.astype(np.float64), nan=9.75, posinf=100.5, neginf=0.0).clip(0, 120)
        values = values.astype(DTYPES[dtype].numpy)
    a = vector(buf, i, lanes)
    check({f"to_{to}": cast(a, to) for to in NUMBERS}, {"a": values}, [buf], i, lanes, machine)


@pytest.mark.parametrize("machine", ["", "x86-64-v2"])
def test_float_casts_special_values(machine: str) -> None:
    """Halves round to nearest even from f32 and from f64, and keep infinities, NaN and subnormal values."""
    i, lanes = axis("i", LENGTH // 8), 8
    rng = np.random.default_rng(3)
    wide = rng.standard_normal(LENGTH) * np.exp(rng.uniform(-18, 13, LENGTH))
    wide[:10] = [np.inf, -np.inf, np.nan, 65519.99, 65520.0, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 3.4e38, 1 + 2**-11]
    wide[10:14] = [1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-8 + 2.0**-40, 1e-310, 2.0**-25 + 2.0**-60]
    halves = rng.integers(0, 2**16, LENGTH).astype(np.uint16)
    halves[:4] = [0x7C00, 0xFC00, 0x0001, 0x83FF]
    bufs = [Buffer("d", "f64", (LENGTH,)), Buffer("f", "f32", (LENGTH,)), Buffer("h", "f16", (LENGTH,))]
    loads = [vector(b, i, lanes) for b in bufs]
    outs = {f"{b.name}_{to}": cast(x, to) for b, x in zip(bufs, loads, strict=True) for to in ("f16", "bf16", "f32", "f64")}
    outs.pop("h_f16")
    outs.pop("d_f64")
    outs.pop("f_f32")
    with np.errstate(over="ignore"):
        ins = {"d": wide, "f": wide.astype(np.float32), "h": halves.view(np.float16)}
    check(outs, ins, bufs, i, lanes, machine)


@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize("source", ["f32", "f64"])
@pytest.mark.parametrize("machine", ["", "x86-64-v3"])
def test_float_to_integer_saturates(machine: str, source: str, lanes: int) -> None:
    """Towards zero, to the nearest value of the type; NaN gives 0."""
    limits = [2.0**n * s for n in (7, 8, 15, 16, 31, 32, 63, 64) for s in (1, -1)]
    near = [np.nextafter(DTYPES[source].numpy.type(x), 0) for x in limits]
    values = np.array([np.nan, np.inf, -np.inf, 1e30, -0.9, 255.9, -128.5, *limits, *near, *range(-50, 155)][:LENGTH])
    values = values.astype(DTYPES[source].numpy)
    buf, i = Buffer("a", source, (LENGTH,)), axis("i", LENGTH // lanes)
    integers = [d for d in NUMBERS if is_integer(d)]
    stores = tuple(Store(Buffer(d, d, (LENGTH,)), (i * lanes,), cast(vector(buf, i, lanes), d)) for d in integers)
    kernel = Kernel("k", (buf, *(s.buf for s in stores)), (For(i, stores),))
    got = {d: np.zeros(LENGTH, DTYPES[d].numpy) for d in integers}
    run_native(kernel, {"a": values, **got}, machine=parse_machine("cpu:" + machine) if machine else None)
    for dtype, result in got.items():
        low, high = np.iinfo(result.dtype).min, np.iinfo(result.dtype).max
        want = [0 if v != v else low if v < low else high if v > high else int(v) for v in values.tolist()]
        assert result.tolist() == want, dtype


def test_clamped_float_to_integer_is_one_conversion() -> None:
    """A clamp with the bound first excludes NaN; the result is exact all the same."""
    i, buf = axis("i", LENGTH // 16), Buffer("a", "f32", (LENGTH,))
    a = vector(buf, i, 16)
    low = binary("max", splat(const(-128.0, "f32"), 16), Un.of("rint", a * 50.0, a.type))
    clamped = binary("min", splat(const(127.0, "f32"), 16), low)
    check({"q": cast(clamped, "i8")}, {"a": samples("f32")}, [buf], i, 16)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_fma_rounds_once(dtype: str) -> None:
    i, buf = axis("i", LENGTH // 5), Buffer("a", dtype, (LENGTH,))
    a = vector(buf, i, 5)
    check({"y": fma(a, a + 1.0, -a)}, {"a": samples(dtype)}, [buf], i, 5)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_arithmetic_is_done_in_f32(dtype: str) -> None:
    i, bufs = axis("i", LENGTH // 8), [Buffer(n, dtype, (LENGTH,)) for n in "ab"]
    a, b = (vector(buf, i, 8) for buf in bufs)
    with np.errstate(all="ignore"):
        ins = {n: samples("f32", k).astype(DTYPES[dtype].numpy) for k, n in enumerate("ab")}
    outs: dict[str, Expr] = {op: binary(op, a, b) for op in ("add", "mul", "max", "lt")}
    outs["neg"] = Un.of("neg", a, a.type)
    outs["pick"] = select(binary("lt", a, b), a, b)
    check(outs, ins, bufs, i, 8)


@pytest.mark.parametrize("lanes", [2, 7, 16])
@pytest.mark.parametrize("dtype", ["f32", "f64", "i32", "u8", "i64"])
def test_horizontal_reductions(dtype: str, lanes: int) -> None:
    i, buf = axis("i", LENGTH // lanes), Buffer("a", dtype, (LENGTH,))
    a = vector(buf, i, lanes)
    values = np.random.default_rng(1).integers(1, 5, LENGTH).astype(DTYPES[dtype].numpy)
    outs = {op: HReduce.of(op, a, Type(dtype)) for op in ("add", "mul", "max", "min")}
    check(outs, {"a": values}, [buf], i, lanes)


def test_shuffles_and_ramps() -> None:
    i, buf = axis("i", LENGTH // 4), Buffer("a", "i32", (LENGTH,))
    a = vector(buf, i, 4)
    outs: dict[str, Expr] = {
        "ramp": a + Ramp.of(Type("i32", 4)),
        "framp": Ramp.of(Type("f32", 4)),
        "turned": Shuffle.of(a, a, (3, 2, 1, 0), Type("i32", 4)),
        "longer": Shuffle.of(a, a * 2, (0, 4, 1, 5, 2, 6), Type("i32", 6)),
        "single": Shuffle.of(a, a * 2, (6,), Type("i32", 1)),
    }
    check(outs, {"a": samples("i32")}, [buf], i, 4)


LIBM = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "exp2", "log1p")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_library_functions(dtype: str) -> None:
    i, bufs = axis("i", LENGTH // 3), [Buffer(n, dtype, (LENGTH,)) for n in "ab"]
    a, b = (vector(buf, i, 3) for buf in bufs)
    outs: dict[str, Expr] = {fn: call(fn, a) for fn in (*LIBM, "exp", "log", "tanh", "erf", "sigmoid")}
    outs |= {fn: call(fn, a, b) for fn in ("pow", "atan2")}
    rng = np.random.default_rng(5)
    ins = {n: rng.uniform(0.1, 2.0, LENGTH).astype(DTYPES[dtype].numpy) for n in "ab"}
    check(outs, ins, bufs, i, 3, exact=False)


def test_float_remainders() -> None:
    i, bufs = axis("i", LENGTH // 4), [Buffer(n, "f32", (LENGTH,)) for n in "ab"]
    a, b = (vector(buf, i, 4) for buf in bufs)
    outs = {op: binary(op, a, b) for op in ("mod", "tmod")}
    check(outs, {"a": samples("f32", 0), "b": samples("f32", 1)}, bufs, i, 4)


@pytest.mark.parametrize("lanes", [1, 3, 16, 20])
def test_vnni_dot(lanes: int) -> None:
    from tilewright.targets.cpu.host import host_machine

    if "vpdpbusd" not in host_machine().calls:
        pytest.skip("this processor has no vpdpbusd")
    i, bufs = axis("i", LENGTH // lanes), [Buffer(n, "i32", (LENGTH,)) for n in "cab"]
    c, a, b = (vector(buf, i, lanes) for buf in bufs)
    rng = np.random.default_rng(2)
    ins = {n: rng.integers(-(2**31), 2**31, LENGTH).astype(np.int32) // (1 if n != "c" else 4096) for n in "cab"}
    check({"y": Call.of("vpdpbusd", (c, a, b), c.type)}, ins, bufs, i, lanes)


def test_shared_expressions_are_printed_once() -> None:
    """Twenty doublings of one value: exponential without sharing."""
    from tilewright.codegen.llvm import emit_kernel

    a, i = Buffer("a", "f32", (4,)), axis("i", 4)
    value: Expr = a[i]
    for _ in range(40):
        value = binary("mul", value, value)
    kernel = Kernel("k", (a,), (For(i, (Store(a, (i,), value),)),))
    assert emit_kernel(kernel, parse_machine("cpu:x86-64-v3")).count("fmul") == 40


def test_register_arrays_need_constant_indices() -> None:
    from tilewright.codegen.llvm import emit_kernel
    from tilewright.ir.errors import InternalError

    r, i = Buffer("r", "f32", (4,), "register"), axis("i", 4)
    kernel = Kernel("k", (), (Alloc(r), For(i, (Store(r, (i,), const(0.0, "f32")),))))
    with pytest.raises(InternalError, match=r"kernel k: .*register array r is indexed by a loop that is not unrolled"):
        emit_kernel(kernel, parse_machine("cpu:x86-64-v3"))


def test_unknown_function_is_named() -> None:
    from tilewright.codegen.llvm import emit_kernel
    from tilewright.ir.errors import InternalError

    a = Buffer("a", "f32", (4,))
    kernel = Kernel("k", (a,), (Store(a, (const(0),), call("gamma", a[0])),))
    with pytest.raises(InternalError, match="no function gamma on f32"):
        emit_kernel(kernel, parse_machine("cpu:x86-64-v3"))


def test_boolean_constants_fold() -> None:
    from tilewright.codegen.llvm import emit_kernel

    a, i = Buffer("a", "i32", (4,)), axis("i", 4)
    cond = binary("and", binary("lt", i, 2), const(True, BOOL))
    body = Store(a, (i,), select(cond, const(1, "i32"), const(2, "i32")))
    text = emit_kernel(Kernel("k", (a,), (For(i, (body,), "unroll"),)), parse_machine("cpu:x86-64-v3"))
    assert "select" not in text and text.count("store i32 1") == 2 and text.count("store i32 2") == 2


def test_fma_of_halves_is_legalized() -> None:
    i, buf = axis("i", LENGTH // 8), Buffer("a", "f16", (LENGTH,))
    a = vector(buf, i, 8)
    values = np.random.default_rng(0).uniform(-4, 4, LENGTH).astype(np.float16)
    check({"y": Fma.of(a, a, a, a.type)}, {"a": values}, [buf], i, 8)
