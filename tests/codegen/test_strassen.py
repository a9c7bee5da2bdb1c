"""Products of half the size: the combinations are exact, kernels are right on every shape, the error is bounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from codegen.scheduled_ops import MACHINES
from tilewright.codegen.kernels import size_params
from tilewright.codegen.sizing import Symbol
from tilewright.codegen.strategies.choices import Choice
from tilewright.codegen.strategies.scheduled import Group, Scheduled
from tilewright.codegen.strategies.select import schedule_group
from tilewright.codegen.strategies.strassen import (
    direct_from_parts,
    left_combinations,
    quarters,
    schedule_halved,
    schedule_large_product,
    schedule_open_halves,
)
from tilewright.codegen.strategies.strassen_plan import halved_product, is_worth_halving
from tilewright.codegen.strategies.strassen_weights import BOTH, halved_weights_kernel, right_combinations
from tilewright.ir.compute import Compute, acc_var
from tilewright.ir.expr import Var, binary
from tilewright.ir.kernel import Buffer, Kernel, axis
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.types import Dim

# Relative to the largest output; docs/performance.md states it.
BOUND = 3e-6
CONSTANTS = frozenset(["x1", "x2"])
HALVED = Choice(halved=1)


def test_seven_products_make_a_product() -> None:
    a, b = np.random.default_rng(0).integers(-9, 9, (2, 2, 2, 3, 3))
    lefts, rights = left_combinations(*a.reshape(4, 3, 3)), right_combinations(*b.reshape(4, 3, 3))
    products = [x @ y for x, y in zip(lefts, rights, strict=True)]
    np.testing.assert_array_equal(np.block([list(r) for r in np.reshape(quarters(*products), (2, 2, 3, 3))]), np.block([
        [a[0, 0] @ b[0, 0] + a[0, 1] @ b[1, 0], a[0, 0] @ b[0, 1] + a[0, 1] @ b[1, 1]],
        [a[1, 0] @ b[0, 0] + a[1, 1] @ b[1, 0], a[1, 0] @ b[0, 1] + a[1, 1] @ b[1, 1]],
    ]))


def _group(rows: Dim, depth: int, columns: int, transposed: bool = False, choice: Choice = HALVED) -> Group:
    """relu(x0 x1 + x2), x1 perhaps transposed."""
    x, bias, y = Buffer("x0", "f32", (rows, depth)), Buffer("x2", "f32", (columns,)), Buffer("y0", "f32", (rows, columns))
    w = Buffer("x1", "f32", (columns, depth) if transposed else (depth, columns))
    i, j, k = axis("i", rows), axis("j", columns), axis("k", depth)
    finish = binary("max", acc_var("f32") + bias[j], 0.0)
    c = Compute(y, (i, j), x[i, k] * (w[j, k] if transposed else w[k, j]), (k,), "add", finish)
    return Group("product", (c,), (y, x, w, bias), constants=CONSTANTS, choice=choice)


def _run(
    made: Scheduled, arrays: dict[str, np.ndarray], shape: tuple[int, ...], threads: int, sizes: dict[Var, int] | None = None
) -> np.ndarray:
    kernel = Kernel(made.kernel.name, (*made.kernel.params, *size_params(made.kernel)), made.kernel.body)
    verify_kernel(kernel, scheduled=True)
    given = {**arrays, "y0": np.full(shape, np.nan, np.float32)}
    for name, pack in made.packs:
        given[name] = pack.apply(arrays[pack.source])
    named = {v.name: n for v, n in (sizes or {}).items()}
    run_kernel(kernel, {b.name: given[b.name] for b in kernel.buffers}, named, threads=threads)
    return given["y0"]


@pytest.mark.parametrize("machine", ["x86-64-v4", "x86-64-v3", "aarch64"])
@pytest.mark.parametrize(
    ("shape", "transposed"),
    [((8, 16, 96), False), ((7, 12, 64), True), ((2, 6, 32), False), ((256, 8, 32), False), ((257, 4, 32), False),
     ((128, 4, 64), False), ((130, 4, 64), False), ((197, 4, 96), False)], ids=str,
)
def test_kernels_equal_the_direct_product(shape: tuple[int, int, int], transposed: bool, machine: str) -> None:
    group = _group(*shape, transposed)
    p = halved_product(group, group.computes[0], MACHINES[machine])
    assert p is not None
    made = schedule_halved(group, p, MACHINES[machine])
    rng = np.random.default_rng(sum(shape))
    arrays = {b.name: rng.standard_normal(b.static_shape).astype(np.float32) for b in group.params[1:]}
    x, w, bias = (arrays[f"x{n}"].astype(np.float64) for n in range(3))
    expected = np.maximum(x @ (w.T if transposed else w) + bias, 0)
    alone, *shared = (_run(made, arrays, expected.shape, threads) for threads in (1, 2, 3))
    error = np.abs(alone - expected).max() / np.abs(expected).max()
    assert error < BOUND, f"{made.note}: {error}"
    for got in shared:
        np.testing.assert_array_equal(got, alone)


def _weights_and_rows(group: Group, rows: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Operands, and what relu(x0 x1 + x2) is."""
    rng = np.random.default_rng(seed)
    (depth, columns) = group.params[2].static_shape
    arrays = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("x0", (rows, depth)), ("x1", (depth, columns)), ("x2", (columns,)))
    }
    x, w, bias = (arrays[f"x{n}"].astype(np.float64) for n in range(3))
    return arrays, np.maximum(x @ w + bias, 0)


@pytest.mark.parametrize("machine", ["x86-64-v4", "x86-64-v3", "aarch64"])
@pytest.mark.parametrize("least", [0, 6])
def test_any_number_of_rows(machine: str, least: int) -> None:
    """Few rows as one product, more as seven, many in several blocks."""
    s = Var.of("s", None)
    group = _group(s, 8, 64)
    p = halved_product(group, group.computes[0], MACHINES[machine])
    assert p is not None
    made = schedule_open_halves(group, p, MACHINES[machine], least)
    assert ("below 6 rows" in made.note) == bool(least)
    for rows in (1, 5, 6, 7, 33, 227):
        arrays, expected = _weights_and_rows(group, rows, rows)
        for threads in (1, 3):
            error = np.abs(_run(made, arrays, expected.shape, threads, {s: rows}) - expected).max() / np.abs(expected).max()
            assert error < BOUND, f"{rows} rows: {error}"


@pytest.mark.parametrize("rows", [1, 3, 24])
def test_direct_products_read_the_same_weights(rows: int) -> None:
    """A version for few rows, beside code for any number."""
    machine, s = MACHINES["x86-64-v4"], Var.of("s", None)
    general = _group(s, 8, 64)
    p = halved_product(general, general.computes[0], machine)
    assert p is not None
    ((_, shared),) = schedule_open_halves(general, p, machine, 6).packs
    group = _group(rows, 8, 64, choice=Choice(panel=shared.shape[-1], parts=BOTH))  # type: ignore[arg-type]
    p = halved_product(group, group.computes[0], machine)
    assert p is not None
    made = schedule_group(group, machine)
    assert made.packs == (("w0", shared),) and "half" not in made.note
    assert made.note == direct_from_parts(group, p, machine).note
    arrays, expected = _weights_and_rows(group, rows, rows)
    np.testing.assert_allclose(_run(made, arrays, expected.shape, 2), expected, rtol=1e-5, atol=1e-5)


def test_ranges_decide_between_the_two() -> None:
    machine, n, m = MACHINES["x86-64-v4"], Var.of("n", None), Var.of("m", None)

    def note(*known: Symbol) -> str:
        group = replace(_group(n * m, 768, 768, choice=Choice()), symbols=known)
        p = halved_product(group, group.computes[0], machine)
        assert p is not None
        made = schedule_large_product(group, p, machine)
        return "" if made is None else made.note

    assert "below 48 rows" in note() and "below 48 rows" in note(Symbol(n, 1, 8), Symbol(m))
    assert note(Symbol(n, 1, 8), Symbol(m, 1, 5)) == ""
    alone = note(Symbol(n, 1, 8), Symbol(m, 64, 512))
    assert "half the size" in alone and "below" not in alone


def test_the_error_stays_near_that_of_the_direct_sum() -> None:
    """In NumPy, at the size of a layer of BERT: below twice and a half the error of a sum of f32 in order."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((64, 3072), np.float32), rng.standard_normal((3072, 64), np.float32)
    expected = x.astype(np.float64) @ w.astype(np.float64)

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        total = np.zeros((a.shape[0], b.shape[1]), np.float32)
        for k in range(a.shape[1]):
            total += a[:, k : k + 1] * b[k]
        return total

    split = lambda m: [h for half in np.split(m, 2, 0) for h in np.split(half, 2, 1)]  # noqa: E731
    parts = quarters(*map(product, left_combinations(*split(x)), right_combinations(*split(w))))
    made = np.block([[parts[0], parts[1]], [parts[2], parts[3]]])
    error, direct = (np.abs(y - expected).max() for y in (made, product(x, w)))
    assert error < 2.5 * direct
    assert error < 2 * BOUND * np.abs(expected).max()


def test_when_it_is_chosen() -> None:
    machine = MACHINES["x86-64-v4"]
    layer = _group(128, 768, 3072, choice=Choice())
    assert "half the size" in schedule_group(layer, machine).note
    assert "half the size" not in schedule_group(layer, machine, "strict").note
    computed = Group("product", layer.computes, layer.params)
    assert "half the size" not in schedule_group(computed, machine).note
    for few in ((1, 768, 3072), (16, 768, 3072), (3136, 64, 256), (128, 768, 1000), (128, 767, 768)):
        assert "half the size" not in schedule_group(_group(*few, choice=Choice()), machine).note, few


def test_weights_made_at_create_time_are_those_of_compile_time() -> None:
    for transposed in (False, True):
        group = _group(64, 12, 96, transposed)
        for machine in (MACHINES["x86-64-v4"], MACHINES["aarch64"]):
            p = halved_product(group, group.computes[0], machine)
            assert p is not None and not is_worth_halving(p, machine)
            ((_, pack),) = schedule_halved(group, p, machine).packs
            w = np.random.default_rng(0).standard_normal(group.params[2].static_shape).astype(np.float32)
            made = np.full(pack.shape, np.nan, np.float32)
            source, target = Buffer("x0", "f32", w.shape), Buffer("y0", "f32", pack.shape)
            kernel = halved_weights_kernel(pack, pack.transform, source, target, machine)  # type: ignore[arg-type]
            verify_kernel(kernel, scheduled=True)
            run_kernel(kernel, {"y0": made, "x0": w})
            np.testing.assert_allclose(made, pack.apply(w), rtol=1e-6, atol=1e-6)
