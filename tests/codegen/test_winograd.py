"""Winograd convolution: the transforms are exact, kernels are right on every shape, the error is bounded, strict is direct."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from codegen.scheduled_ops import MACHINES
from tilewright.codegen.machine import Machine
from tilewright.codegen.strategies.scheduled import Group, Scheduled
from tilewright.codegen.strategies.select import schedule_group
from tilewright.codegen.strategies.winograd import schedule_winograd
from tilewright.codegen.strategies.winograd_plan import winograd_tile
from tilewright.codegen.strategies.winograd_transforms import FORMS, Form, WinogradWeights
from tilewright.ir.compute import Compute, acc_var
from tilewright.ir.expr import Expr, binary, const
from tilewright.ir.kernel import Buffer
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.contract import Conv
from tilewright.ir.traverse import walk
from tilewright.ir.types import TensorType

# Relative to the largest output: the bound that docs/performance.md states for one layer, and what f32 itself needs.
LAYER_BOUND = {2: 3e-6, 4: 1e-5}
ALL = pytest.mark.parametrize("form", FORMS.values(), ids=lambda f: f"F{f.m}-stride{f.stride}")


def _conv(stride: int) -> Conv:
    return Conv((stride, stride), (0, 0, 0, 0), (1, 1), 1)


def _matrices(transform: Callable[[list[Expr]], Sequence[list[Expr]]], size: int) -> list[np.ndarray]:
    """The matrices of transforms of constants, column by column."""
    columns = []
    for i in range(size):
        unit = [const(float(i == j), "f64") for j in range(size)]
        columns.append([[_value(e) for e in part] for part in transform(unit)])
    return [np.array([c[p] for c in columns]).T for p in range(len(columns[0]))]


def _value(e) -> float:
    values: dict[object, float] = {}
    for x in walk(e):
        if hasattr(x, "value"):
            values[x] = x.value
        elif hasattr(x, "b"):
            a, b = values[x.a], values[x.b]
            values[x] = {"add": a + b, "sub": a - b, "mul": a * b}[x.op]
        else:
            values[x] = -values[x.a]
    return values[e]


@ALL
def test_the_transforms_compute_a_correlation(form: Form) -> None:
    rng = np.random.default_rng(form.m)
    inputs = _matrices(lambda d: form.inputs(d), form.span)
    (a,) = _matrices(lambda y: [form.outputs(y)], form.n)
    d, w = rng.standard_normal(form.span), rng.standard_normal(3)
    products = np.zeros(form.n)
    for phase, b in enumerate(inputs):
        products[: len(b)] += (np.array(form.taps(phase)) @ w) * (b @ d)
    expected = [d[form.stride * i : form.stride * i + 3] @ w for i in range(form.m)]
    np.testing.assert_allclose(a @ products, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("m", "stride", "products"), [(2, 1, 16), (4, 1, 36), (2, 2, 25), (4, 2, 81)])
def test_how_many_products_a_tile_takes(m: int, stride: int, products: int) -> None:
    assert FORMS[m, stride].products == products


@ALL
def test_weights_are_transformed_on_both_sides(form: Form) -> None:
    w = np.random.default_rng(0).standard_normal((3, 3, 70, 5)).astype(np.float32)
    for number, group in enumerate(form.groups):
        made = WinogradWeights(form, number)(w).reshape(len(group.places), group.depth, 70, 5)
        for plane, ((i, j), slots) in enumerate(zip(group.places, group.slots, strict=True)):
            for slot, (p, q) in enumerate(slots):
                rows, columns = form.taps(p)[i], form.taps(q)[j]
                expected = np.einsum("k,klco,l->co", rows, w.astype(np.float64), columns)
                np.testing.assert_allclose(made[plane, slot], expected, rtol=1e-6, atol=1e-7)


def _computation(
    images: int, rows: int, columns: int, channels: int, outputs: int, stride: int = 1
) -> tuple[Compute, list[Buffer], Buffer]:
    """A convolution with so many rows and columns of outputs."""
    conv = _conv(stride)
    sides = [stride * (n - 1) + 3 for n in (rows, columns)]
    shapes = [(images, *sides, channels), (3, 3, channels, outputs), (outputs,)]
    ins = [Buffer(f"x{n}", "f32", s) for n, s in enumerate(shapes)]
    out = Buffer("y0", "f32", conv.infer(*(TensorType("f32", s) for s in shapes))[0].static_shape)
    c = conv.compute(out, *ins)
    relu = binary("max", c.finish if c.finish is not None else acc_var("f32"), 0.0)
    return Compute(out, c.axes, c.body, c.reduce, c.combine, relu), ins, out


def _run(made: Scheduled, ins: list[Buffer], out: Buffer, arrays: list[np.ndarray], threads: int) -> np.ndarray:
    verify_kernel(made.kernel, scheduled=True)
    given = {b.name: a for b, a in zip(ins, arrays, strict=True)}
    for name, pack in made.packs:
        given[name] = pack.apply(given[pack.source])
    for name, size in made.temporaries:
        given[name] = np.full(size // 4, np.nan, np.float32).reshape(made.kernel.param(name).shape)
    given["y0"] = np.full(out.shape, np.nan, np.float32)
    run_kernel(made.kernel, {b.name: given[b.name] for b in made.kernel.buffers}, threads=threads)
    return given["y0"]


SHAPES = [(1, 4, 4, 16, 16), (1, 9, 6, 16, 20), (2, 5, 7, 17, 16), (1, 48, 45, 16, 16)]


@pytest.mark.parametrize("machine", ["x86-64-v4", "aarch64"])
@ALL
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_equal_the_direct_convolution(shape: tuple[int, ...], form: Form, machine: str) -> None:
    if machine == "aarch64" and shape[1] > 10:
        pytest.skip("the larger shapes differ only in the blocks of tiles, which do not depend on the machine")
    c, ins, out = _computation(*shape, stride=form.stride)
    rng = np.random.default_rng(sum(shape))
    arrays = [rng.standard_normal(b.shape).astype(np.float32) for b in ins]  # type: ignore[arg-type]
    group = Group("contract", (c,), (out, *ins), constants=frozenset(["x1", "x2"]))
    made = schedule_winograd(group, c, form.m, MACHINES[machine])
    expected = np.maximum(_conv(form.stride).evaluate(*(a.astype(np.float64) for a in arrays))[0], 0)
    for threads in (1, 2):
        error = np.abs(_run(made, ins, out, arrays, threads) - expected).max() / np.abs(expected).max()
        assert error < LAYER_BOUND[form.m], f"{made.note}: {error}"


def _chosen(machine: Machine, accuracy: str, constants: frozenset[str], shape: tuple[int, ...]) -> str:
    c, ins, out = _computation(*shape)
    return schedule_group(Group("contract", (c,), (out, *ins), constants=constants), machine, accuracy).note


def test_strict_accuracy_and_weights_that_are_no_constants_are_computed_directly() -> None:
    machine, shape, weights = MACHINES["x86-64-v4"], (1, 28, 28, 64, 64), frozenset(["x1", "x2"])
    assert "Winograd" in _chosen(machine, "default", weights, shape)
    assert "Winograd" not in _chosen(machine, "strict", weights, shape)
    assert "Winograd" not in _chosen(machine, "default", frozenset(), shape)


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (Conv((3, 3), (0, 0, 0, 0), (1, 1), 1), [(1, 60, 60, 32), (3, 3, 32, 32)]),
        (Conv((2, 1), (0, 0, 0, 0), (1, 1), 1), [(1, 57, 30, 32), (3, 3, 32, 32)]),
        (Conv((1, 1), (0, 0, 0, 0), (2, 2), 1), [(1, 60, 60, 32), (3, 3, 32, 32)]),
        (Conv((1, 1), (0, 0, 0, 0), (1, 1), 1), [(1, 60, 60, 32), (5, 5, 32, 32)]),
        (Conv((1, 1), (0, 0, 0, 0), (1, 1), 2), [(1, 58, 58, 32), (3, 3, 16, 32)]),
        (Conv((1, 1), (0, 0, 0, 0), (1, 1), 1), [(1, 58, 58, 3), (3, 3, 3, 32)]),
    ],
    ids=["stride 3", "two strides", "dilation", "5x5", "groups", "few channels"],
)
def test_other_convolutions_have_no_tile(op: Conv, shapes: list[tuple[int, ...]]) -> None:
    out = op.infer(*(TensorType("f32", s) for s in shapes))[0]
    ins = [Buffer(f"x{n}", "f32", s) for n, s in enumerate(shapes)]
    assert winograd_tile(op.compute(Buffer("y0", "f32", out.static_shape), *ins), MACHINES["x86-64-v4"]) == 0
