"""Every schedule of every strategy leaves the meaning of the kernel as it was: the kernel is run after each step.

The schedules that a strategy module imports are wrapped for the time of one call, so a new step, or a new strategy in
`CASES`, is covered without a line here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from codegen.scheduled_ops import MACHINES, Operand, schedule_op
from tilewright.codegen.strategies import (
    attention,
    contract,
    maps,
    nests,
    recurrent,
    recurrent_shared,
    reduce,
    rows,
    window,
    winograd,
)
from tilewright.codegen.strategies.scheduled import Group, Scheduled
from tilewright.codegen.strategies.select import schedule_group
from tilewright.codegen.strategies.winograd import schedule_winograd
from tilewright.ir.compute import Compute
from tilewright.ir.expr import call
from tilewright.ir.kernel import Buffer, Kernel, axis
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.norm import Attention
from tilewright.ir.ops.recurrent import Gru, Lstm
from tilewright.ir.ops.window import Pool

MODULES: tuple[ModuleType, ...] = (
    attention, contract, maps, nests, recurrent, recurrent_shared, reduce, rows, window, winograd,
)
Make = Callable[[], tuple[Scheduled, dict[str, np.ndarray], tuple[str, ...]]]


def _is_schedule(value: Any) -> bool:
    if not inspect.isfunction(value):
        return False
    home = value.__module__
    named = home.startswith("tilewright.codegen.schedule") or value.__name__ == "legalize_math"
    return named and "Kernel" in str(inspect.signature(value).return_annotation)


@contextmanager
def _watched(check: Callable[[str, Kernel], None]) -> Iterator[None]:
    """Every schedule called by a strategy module is followed by check(name, kernel)."""
    saved: list[tuple[ModuleType, str, Any]] = []

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            made = function(*args, **kwargs)
            check(function.__name__, made[0] if isinstance(made, tuple) else made)
            return made

        return run

    for module in MODULES:
        for name, value in list(vars(module).items()):
            if _is_schedule(value):
                saved.append((module, name, value))
                setattr(module, name, wrap(value))
    try:
        yield
    finally:
        for module, name, value in saved:
            setattr(module, name, value)


def _op(op: Op, *shapes: tuple[int, ...], machine: str = "x86-64-v4") -> Make:
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]

    def make() -> tuple[Scheduled, dict[str, np.ndarray], tuple[str, ...]]:
        made, _, outs = schedule_op(op, [Operand(a) for a in arrays], MACHINES[machine])
        return made, {f"x{n}": a for n, a in enumerate(arrays)}, tuple(outs)

    return make


def _winograd() -> tuple[Scheduled, dict[str, np.ndarray], tuple[str, ...]]:
    op, shapes = Conv((1, 1), (0, 0, 0, 0), (1, 1), 1), [(1, 6, 7, 16), (3, 3, 16, 17)]
    rng = np.random.default_rng(5)
    ins, out = [Buffer(f"x{n}", "f32", s) for n, s in enumerate(shapes)], Buffer("y0", "f32", (1, 4, 5, 17))
    c = op.compute(out, *ins)
    group = Group("contract", (c,), (out, *ins), constants=frozenset(["x1"]))
    made = schedule_winograd(group, c, 4, MACHINES["x86-64-v4"])
    return made, {b.name: rng.standard_normal(b.static_shape).astype(np.float32) for b in ins}, ("y0",)


def _softmax() -> tuple[Scheduled, dict[str, np.ndarray], tuple[str, ...]]:
    """Rows of 37: whole vectors and a tail."""
    x, y = Buffer("x0", "f32", (3, 37)), Buffer("y0", "f32", (3, 37))
    most, total = (Buffer(name, "f32", (3,), "stack") for name in ("t0", "t2"))
    e = Buffer("t1", "f32", (3, 37), "stack")
    i, j = axis("i", 3), axis("j", 37)
    group = Group("rows", (
        Compute(most, (i,), x[i, j], (j,), "max"), Compute(e, (i, j), call("exp", x[i, j] - most[i])),
        Compute(total, (i,), e[i, j], (j,), "add"), Compute(y, (i, j), e[i, j] / total[i]),
    ), (y, x))
    made = schedule_group(group, MACHINES["x86-64-v4"])
    return made, {"x0": np.random.default_rng(1).standard_normal((3, 37)).astype(np.float32)}, ("y0",)


def _transpose() -> tuple[Scheduled, dict[str, np.ndarray], tuple[str, ...]]:
    x, y, i, j = Buffer("x0", "f32", (35, 20)), Buffer("y0", "f32", (20, 35)), axis("i", 20), axis("j", 35)
    made = schedule_group(Group("map", (Compute(y, (i, j), x[j, i] + 1.0),), (y, x)), MACHINES["x86-64-v4"])
    return made, {"x0": np.random.default_rng(1).standard_normal((35, 20)).astype(np.float32)}, ("y0",)


def _sum() -> tuple[Scheduled, dict[str, np.ndarray], tuple[str, ...]]:
    x, y, i, j = Buffer("x0", "f32", (5, 39)), Buffer("y0", "f32", (5,)), axis("i", 5), axis("j", 39)
    made = schedule_group(Group("reduce", (Compute(y, (i,), x[i, j], (j,), "add"),), (y, x)), MACHINES["x86-64-v4"])
    return made, {"x0": np.random.default_rng(1).standard_normal((5, 39)).astype(np.float32)}, ("y0",)


CONV = Conv((1, 1), (0, 0, 0, 0), (1, 1), 1)
CASES: dict[str, Make] = {
    "product": _op(MatMul(), (9, 8), (8, 70)),
    "product-neon": _op(MatMul(), (7, 8), (8, 18), machine="aarch64"),
    "batched product": _op(MatMul(), (2, 5, 6), (2, 6, 20)),
    "convolution": _op(CONV, (1, 6, 9, 4), (3, 3, 4, 33)),
    "short rows": _op(CONV, (1, 6, 6, 3), (3, 3, 3, 16)),
    "depthwise": _op(Conv((1, 1), (0, 0, 0, 0), (1, 1), 20), (1, 5, 11, 20), (3, 3, 1, 20)),
    "pool": _op(Pool("max", (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False), (1, 6, 6, 19)),
    "attention": _op(Attention(0.25, True), (1, 2, 9, 16), (1, 2, 20, 16), (1, 2, 20, 16)),
    "lstm": _op(Lstm(), (2, 2, 80), (20, 80), (2, 20), (2, 20)),
    "lstm shared": _op(Lstm(), (3, 1, 256), (64, 256), (1, 64), (1, 64)),
    "gru": _op(Gru(), (2, 1, 48), (16, 48), (1, 16)),
    "winograd": _winograd, "softmax": _softmax, "transpose": _transpose, "sum": _sum,
}


def _outputs(kernel: Kernel, made: Scheduled, arrays: dict[str, np.ndarray], outs: tuple[str, ...]) -> list[np.ndarray]:
    given = dict(arrays)
    for name, pack in made.packs:
        given[name] = pack.apply(arrays[pack.source])
    for name, size in made.temporaries:
        given[name] = np.full(size // 4, np.nan, np.float32).reshape(made.kernel.param(name).static_shape)
    results = {b.name: np.full(b.static_shape, np.nan, np.float32) for b in kernel.buffers if b.name in outs}
    given.update(results)
    run_kernel(kernel, {b.name: given[b.name] for b in kernel.buffers})
    return list(results.values())


@pytest.mark.parametrize("case", list(CASES))
def test_every_step_keeps_the_meaning(case: str) -> None:
    make = CASES[case]
    made, arrays, outs = make()
    written_names = [b.name for b in made.kernel.buffers if b.name in outs]
    expected = dict(zip(written_names, _outputs(made.kernel, made, arrays, outs), strict=True))
    steps: list[str] = []

    def check(step: str, kernel: Kernel) -> None:
        names = [b.name for b in kernel.buffers if b.name in outs]
        known = {b.name for b in made.kernel.buffers} | set(arrays)
        if not {b.name for b in kernel.buffers} <= known or not _same_shapes(kernel, made, arrays):
            return  # an operand under its old name and layout, or a part of a kernel that is joined later
        steps.append(step)
        for name, got in zip(names, _outputs(kernel, made, arrays, outs), strict=True):
            written = ~np.isnan(got)  # parts of a kernel write parts of the output
            assert written.any(), f"step {len(steps)}, {step}: {name} is not written"
            np.testing.assert_allclose(
                got[written], expected[name][written], rtol=2e-5, atol=2e-5, err_msg=f"step {len(steps)}, {step}"
            )

    with _watched(check):
        make()
    assert len(steps) >= 3, f"only {steps} were checked"


def _same_shapes(kernel: Kernel, made: Scheduled, arrays: dict[str, np.ndarray]) -> bool:
    """The parameters have the layouts that the given arrays have."""
    final = {b.name: b.shape for b in made.kernel.buffers}
    return all(b.shape == (arrays[b.name].shape if b.name in arrays else final[b.name]) for b in kernel.buffers)
