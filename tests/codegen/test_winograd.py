"""Winograd convolution: the transforms are exact, kernels are right on every shape, the error is bounded, strict is direct."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.scheduled_ops import MACHINES
from tilewright.codegen.machine import Machine
from tilewright.codegen.strategies.scheduled import Group, Scheduled
from tilewright.codegen.strategies.select import schedule_group
from tilewright.codegen.strategies.winograd import schedule_winograd, winograd_tile
from tilewright.codegen.strategies.winograd_transforms import (
    input_transform,
    output_transform,
    transform_weights,
    weight_matrix,
)
from tilewright.ir.compute import Compute, acc_var
from tilewright.ir.expr import binary, const
from tilewright.ir.kernel import Buffer
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.contract import Conv
from tilewright.ir.traverse import walk
from tilewright.ir.types import TensorType

# Relative to the largest output: the bound that docs/performance.md states for one layer, and what f32 itself needs.
LAYER_BOUND = {2: 3e-6, 4: 1e-5}
CONV = Conv((1, 1), (0, 0, 0, 0), (1, 1), 1)


def _matrix(transform, m: int, size: int) -> np.ndarray:
    """The matrix of a transform of constants, column by column."""
    columns = []
    for i in range(size):
        unit = [const(float(i == j), "f64") for j in range(size)]
        columns.append([_value(e) for e in transform(m, unit)])
    return np.array(columns).T


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


@pytest.mark.parametrize("m", [2, 4])
def test_the_transforms_compute_a_correlation(m: int) -> None:
    rng = np.random.default_rng(m)
    b, a, g = _matrix(input_transform, m, m + 2), _matrix(output_transform, m, m + 2), weight_matrix(m)
    d, w = rng.standard_normal(m + 2), rng.standard_normal(3)
    expected = [d[i : i + 3] @ w for i in range(m)]
    np.testing.assert_allclose(a @ ((g @ w) * (b @ d)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", [2, 4])
def test_weights_are_transformed_on_both_sides(m: int) -> None:
    w = np.random.default_rng(0).standard_normal((3, 3, 70, 5)).astype(np.float32)
    g = weight_matrix(m)
    expected = np.einsum("ik,klco,jl->ijco", g, w.astype(np.float64), g).reshape(-1, 70, 5)
    np.testing.assert_allclose(transform_weights(m, w), expected, rtol=1e-6, atol=1e-7)


def _computation(images: int, rows: int, columns: int, channels: int, outputs: int) -> tuple[Compute, list[Buffer], Buffer]:
    shapes = [(images, rows + 2, columns + 2, channels), (3, 3, channels, outputs), (outputs,)]
    ins = [Buffer(f"x{n}", "f32", s) for n, s in enumerate(shapes)]
    out = Buffer("y0", "f32", CONV.infer(*(TensorType("f32", s) for s in shapes))[0].static_shape)
    c = CONV.compute(out, *ins)
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
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_equal_the_direct_convolution(shape: tuple[int, ...], m: int, machine: str) -> None:
    if machine == "aarch64" and shape[1] > 10:
        pytest.skip("the larger shapes differ only in the blocks of tiles, which do not depend on the machine")
    c, ins, out = _computation(*shape)
    rng = np.random.default_rng(sum(shape))
    arrays = [rng.standard_normal(b.shape).astype(np.float32) for b in ins]  # type: ignore[arg-type]
    group = Group("contract", (c,), (out, *ins), constants=frozenset(["x1", "x2"]))
    made = schedule_winograd(group, c, m, MACHINES[machine])
    expected = np.maximum(CONV.evaluate(*(a.astype(np.float64) for a in arrays))[0], 0)
    for threads in (1, 2):
        error = np.abs(_run(made, ins, out, arrays, threads) - expected).max() / np.abs(expected).max()
        assert error < LAYER_BOUND[m], f"{made.note}: {error}"


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
        (Conv((2, 2), (0, 0, 0, 0), (1, 1), 1), [(1, 57, 57, 32), (3, 3, 32, 32)]),
        (Conv((1, 1), (0, 0, 0, 0), (2, 2), 1), [(1, 60, 60, 32), (3, 3, 32, 32)]),
        (Conv((1, 1), (0, 0, 0, 0), (1, 1), 1), [(1, 60, 60, 32), (5, 5, 32, 32)]),
        (Conv((1, 1), (0, 0, 0, 0), (1, 1), 2), [(1, 58, 58, 32), (3, 3, 16, 32)]),
        (Conv((1, 1), (0, 0, 0, 0), (1, 1), 1), [(1, 58, 58, 3), (3, 3, 3, 32)]),
    ],
    ids=["stride", "dilation", "5x5", "groups", "few channels"],
)
def test_other_convolutions_have_no_tile(op: Conv, shapes: list[tuple[int, ...]]) -> None:
    out = op.infer(*(TensorType("f32", s) for s in shapes))[0]
    ins = [Buffer(f"x{n}", "f32", s) for n, s in enumerate(shapes)]
    assert winograd_tile(op.compute(Buffer("y0", "f32", out.static_shape), *ins), MACHINES["x86-64-v4"]) == 0
