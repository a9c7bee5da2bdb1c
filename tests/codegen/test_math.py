"""Accuracy of the vector functions against f64, in units in the last place, over all of f32."""

from __future__ import annotations

import math

import numpy as np
import pytest
from codegen.native import run_native
from tilewright.codegen.machine import parse_machine
from tilewright.codegen.math import legalize_math
from tilewright.ir.expr import Call, Fma, Load, Type, call, const
from tilewright.ir.kernel import Buffer, For, Kernel, Store, axis, walk_block
from tilewright.ir.traverse import walk
from tilewright.targets.cpu.host import host_machine

COUNT = 1 << 16


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


REFERENCE = {
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "tanh": np.tanh, "sigmoid": _sigmoid,
    "erf": np.vectorize(math.erf, otypes=[float]),
}
# Documented bounds: see codegen/math.py.
LIMIT = {"exp": 1.1, "exp2": 2.2, "log": 1.1, "erf": 1.4, "tanh": 1.9, "sigmoid": 2.4}
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.17549435e-38, 88.72, 88.73, -87.4, -103.9, -104.1, 3.4e38]


def arguments() -> np.ndarray:
    """Edge cases, random bit patterns, and values where the functions bend."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**32, COUNT, dtype=np.uint64).astype(np.uint32).view(np.float32)
    half = COUNT // 2
    x[half:] = rng.standard_normal(half) * np.exp(rng.uniform(-10, 4.5, half))
    x[: len(EDGES)] = EDGES
    return x


def elementwise(fn: str, dtype: str, lanes: int) -> Kernel:
    x, y, i = Buffer("X", dtype, (COUNT,)), Buffer("Y", dtype, (COUNT,)), axis("i", COUNT // lanes)
    value = call(fn, Load.of(x, (i * lanes,), Type(dtype, lanes)))
    return Kernel(fn, (x, y), (For(i, (Store(y, (i * lanes,), value),), "parallel"),))


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units in the last place of the rounded result; 0 where both are the same infinity or NaN."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(got.dtype)
        spacing = np.spacing(np.abs(rounded)).astype(np.float64)
        error = np.abs(got.astype(np.float64) - exact) / np.maximum(spacing, 1e-45)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(same, 0.0, error)


@pytest.mark.parametrize("machine", ["host", "x86-64-v3", "x86-64-v2"])
@pytest.mark.parametrize("fn", list(REFERENCE))
def test_accuracy(fn: str, machine: str) -> None:
    x = arguments()
    arrays = {"X": x, "Y": np.zeros_like(x)}
    run_native(elementwise(fn, "f32", 16), arrays, machine=None if machine == "host" else parse_machine("cpu:" + machine))
    with np.errstate(all="ignore"):
        error = ulps(arrays["Y"], REFERENCE[fn](x.astype(np.float64)))
    worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
    assert error[worst] <= LIMIT[fn], f"{fn}({x[worst]!r}) = {arrays['Y'][worst]!r}: {error[worst]} ulp"


@pytest.mark.parametrize("machine", ["host", "x86-64-v2"])
def test_x_times_sigmoid_is_one_function(machine: str) -> None:
    x = arguments()
    a, y, i = Buffer("X", "f32", (COUNT,)), Buffer("Y", "f32", (COUNT,)), axis("i", COUNT // 16)
    value = Load.of(a, (i * 16,), Type("f32", 16))
    arrays = {"X": x, "Y": np.zeros_like(x)}
    kernel = Kernel("silu", (a, y), (For(i, (Store(y, (i * 16,), value * call("sigmoid", value)),), "parallel"),))
    run_native(kernel, arrays, machine=None if machine == "host" else parse_machine("cpu:" + machine))
    with np.errstate(all="ignore"):
        exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    special = ~np.isfinite(x)
    np.testing.assert_array_equal(arrays["Y"][special], exact[special])
    normal = (x > -88) & ~special
    error = np.abs(arrays["Y"][normal] - exact[normal])
    assert (error <= np.abs(exact[normal]) * 1e-7 * np.maximum(4, 2 - x[normal]) + 1e-44).all()
    low = (x <= -88) & np.isfinite(x)
    assert np.abs(arrays["Y"][low]).max() < 1e-35


@pytest.mark.parametrize("fn", list(REFERENCE))
def test_lanes_agree_with_scalars(fn: str) -> None:
    """A tail computed with fewer lanes gives the same bits."""
    x = arguments()
    results = []
    for lanes in (1, 4, 16, 2):
        arrays = {"X": x, "Y": np.zeros_like(x)}
        run_native(elementwise(fn, "f32", lanes), arrays)
        results.append(arrays["Y"].view(np.int32))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@pytest.mark.parametrize("fn", list(REFERENCE))
def test_f64(fn: str) -> None:
    x = np.linspace(-9, 9, COUNT)
    arrays = {"X": x, "Y": np.zeros_like(x)}
    run_native(elementwise(fn, "f64", 4), arrays)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(arrays["Y"], REFERENCE[fn](x), rtol=4e-15)


@pytest.mark.parametrize("fn", ["exp", "sigmoid", "tanh"])
def test_f16_is_computed_in_f32(fn: str) -> None:
    x = np.linspace(-9, 9, COUNT).astype(np.float16)
    arrays = {"X": x, "Y": np.zeros_like(x)}
    run_native(elementwise(fn, "f16", 8), arrays)
    assert ulps(arrays["Y"], REFERENCE[fn](x.astype(np.float64))).max() <= 0.51


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64", "riscv64"])
def test_legal_kernels_have_only_what_the_machine_has(name: str) -> None:
    machine = parse_machine("cpu:" + name)
    for fn in REFERENCE:
        kernel = legalize_math(elementwise(fn, "f32", 4), machine)
        stores = [s for s in walk_block(kernel.body) if isinstance(s, Store)]
        nodes = [e for s in stores for e in walk(s.value)]
        assert {e.fn for e in nodes if isinstance(e, Call)} <= {"bitcast", "copysign"} | machine.calls
        assert machine.fma or not any(isinstance(e, Fma) for e in nodes)


@pytest.mark.parametrize("machine", ["host", "x86-64-v3", "x86-64-v2"])
def test_power(machine: str) -> None:
    """All pairs of special values, and ordinary ones whose power is neither 0 nor infinite."""
    special = np.array([*EDGES[:7], 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1e9, -1e9, 2.0**24, 2.0**25 + 4, 1e-40], np.float32)
    pairs = np.array([(a, b) for a in special for b in special], np.float32)
    rng = np.random.default_rng(0)
    base = np.exp(rng.uniform(-20, 20, COUNT)).astype(np.float32)
    exponent = (rng.uniform(-88, 88, COUNT) / np.log(base.astype(np.float64))).astype(np.float32)
    base[: len(pairs)], exponent[: len(pairs)] = pairs.T
    x, p, y = (Buffer(name, "f32", (COUNT,)) for name in "XPY")
    i = axis("i", COUNT // 16)
    value = call("pow", *(Load.of(buf, (i * 16,), Type("f32", 16)) for buf in (x, p)))
    kernel = Kernel("power", (x, p, y), (For(i, (Store(y, (i * 16,), value),)),))
    arrays = {"X": base, "P": exponent, "Y": np.zeros_like(base)}
    run_native(kernel, arrays, machine=None if machine == "host" else parse_machine("cpu:" + machine))
    with np.errstate(all="ignore"):
        want = np.power(base.astype(np.float64), exponent.astype(np.float64))
        error = ulps(arrays["Y"], want)
    worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
    assert error[worst] <= 0.6, f"pow({base[worst]!r}, {exponent[worst]!r}) = {arrays['Y'][worst]!r}: {error[worst]} ulp"
    zeros = np.abs(want) < 1e-46
    np.testing.assert_array_equal(np.signbit(arrays["Y"][zeros]), np.signbit(want[zeros]))


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 4.0, -1.0])
def test_power_of_a_constant_is_a_product(exponent: float) -> None:
    x, y, i = Buffer("X", "f32", (64,)), Buffer("Y", "f32", (64,)), axis("i", 8)
    value = call("pow", Load.of(x, (i * 8,), Type("f32", 8)), const(exponent, "f32"))
    kernel = Kernel("power", (x, y), (For(i, (Store(y, (i * 8,), value),)),))
    arrays = {"X": np.linspace(-3, 3, 64).astype(np.float32), "Y": np.zeros(64, np.float32)}
    run_native(kernel, arrays)
    np.testing.assert_allclose(arrays["Y"], arrays["X"].astype(np.float64) ** exponent, rtol=2e-7)
    assert "f64" not in str(legalize_math(kernel, host_machine()))


def test_scalef_without_the_instruction() -> None:
    n = 64
    a, b, y = (Buffer(name, "f32", (n,)) for name in "aby")
    i = axis("i", n // 8)
    value = call("scalef", *(Load.of(buf, (i * 8,), Type("f32", 8)) for buf in (a, b)))
    rng = np.random.default_rng(0)
    powers = np.concatenate([rng.uniform(-40, 40, n - 4), [-250.0, 250.0, -150.0, 127.5]]).astype(np.float32)
    arrays = {"a": rng.standard_normal(n).astype(np.float32), "b": powers, "y": np.zeros(n, np.float32)}
    run_native(Kernel("k", (a, b, y), (For(i, (Store(y, (i * 8,), value),)),)), arrays, machine=parse_machine("cpu:x86-64-v3"))
    with np.errstate(over="ignore"):
        want = np.ldexp(arrays["a"], np.floor(powers).astype(np.int32))
    np.testing.assert_array_equal(arrays["y"], want)


def test_host_machine_is_a_named_level() -> None:
    assert host_machine().cpu in host_machine().name


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)), otypes=[float])(x)


@pytest.mark.parametrize("machine", ["host", "x86-64-v3", "x86-64-v2"])
@pytest.mark.parametrize("order", ["half first", "half last", "no half"])
def test_gelu_is_one_function(order: str, machine: str) -> None:
    """As an operator expands it, as exporters write it, and with the half folded into what follows."""
    x, y, i = Buffer("X", "f32", (COUNT,)), Buffer("Y", "f32", (COUNT,)), axis("i", COUNT // 16)
    v = Load.of(x, (i * 16,), Type("f32", 16)) + 0.0
    normal = call("erf", v / math.sqrt(2) if order == "half last" else v * math.sqrt(0.5)) + 1.0
    value = {"half first": v * 0.5 * normal, "half last": v * (normal * 0.5), "no half": v * normal}[order]
    kernel = Kernel("gelu", (x, y), (For(i, (Store(y, (i * 16,), value),), "parallel"),))
    target = host_machine() if machine == "host" else parse_machine("cpu:" + machine)
    calls = [e for s in walk_block(legalize_math(kernel, target).body) if isinstance(s, Store) for e in walk(s.value)]
    assert sum(isinstance(e, Call) and e.fn == "copysign" for e in calls) == 0  # of erf
    a = arguments()
    a = np.where(np.abs(a) < 1e30, a, np.float32(1.0)).astype(np.float32)
    got = np.empty(COUNT, np.float32)
    run_native(kernel, {"X": a, "Y": got}, machine=target)
    exact = _gelu(a.astype(np.float64)) * (2 if order == "no half" else 1)
    with np.errstate(all="ignore"):
        error = np.abs(got - exact)
        relative = error / np.abs(exact)
    assert ulps(got, exact)[(a > -1) & (np.abs(a) > 1e-30)].max() <= 5.0
    assert relative[(a > -3) & (a < -1)].max() < 1e-6
    assert relative[(a > -5) & (a <= -3)].max() < 5e-6
    assert error[a <= -5].max() < 2e-9


@pytest.mark.parametrize("machine", ["host", "x86-64-v3"])
def test_gelu_of_special_values(machine: str) -> None:
    x, y = Buffer("X", "f32", (16,)), Buffer("Y", "f32", (16,))
    v = Load.of(x, (const(0),), Type("f32", 16))
    kernel = Kernel("gelu", (x, y), (Store(y, (const(0),), v * 0.5 * (call("erf", v * math.sqrt(0.5)) + 1.0)),))
    a = np.resize(np.array([np.nan, np.inf, -np.inf, 0.0, -1e30, 1e30, -100.0, 3e38], np.float32), 16)
    got = np.empty(16, np.float32)
    run_native(kernel, {"X": a, "Y": got}, machine=host_machine() if machine == "host" else parse_machine("cpu:" + machine))
    np.testing.assert_array_equal(got[:8], np.array([np.nan, np.inf, 0, 0, 0, 1e30, 0, 3e38], np.float32))
