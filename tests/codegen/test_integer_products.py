"""Products of narrow integers: groups of neighbours where the machine has an instruction, exact on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.scheduled_ops import Operand, run_scheduled, schedule_op
from tilewright.codegen.machine import parse_machine
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.contract import Conv, MatMul

MACHINES = {
    "znver5": ("u8", "i8", "vpdpbusd"), "alderlake": ("u8", "i8", "vpdpbusd"), "haswell": ("i16", "i16", "pmaddwd"),
    "skylake-avx512": ("i16", "i16", "pmaddwd"), "neoverse-v1": ("u8", "i8", "usdot"), "cortex-a76": ("i8", "i8", "sdot"),
    "cortex-a72": ("u8", "i8", ""),
}
CASES: list[tuple[Op, tuple[int, ...], tuple[int, ...]]] = [
    (MatMul("i32"), (9, 64), (64, 70)), (MatMul("i32"), (1, 32), (32, 33)), (MatMul("i32"), (2, 3, 8), (2, 8, 20)),
    (Conv((1, 1), (0, 0, 0, 0), (1, 1), 1, "i32"), (1, 6, 6, 4), (3, 3, 4, 17)),
    (Conv((2, 1), (0, 0, 0, 0), (1, 1), 1, "i32"), (1, 7, 9, 8), (2, 3, 8, 33)),
]
EXTREMES = {"u8": (0, 255), "i8": (-128, 127), "i16": (-255, 255)}


def _draw(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A quarter of the elements are the extremes, which overflow whatever is too narrow."""
    low, high = EXTREMES[dtype]
    array = rng.integers(low, high, shape, endpoint=True)
    kind = rng.integers(0, 8, shape)
    return np.where(kind == 0, low, np.where(kind == 1, high, array)).astype({"u8": "u1", "i8": "i1", "i16": "i2"}[dtype])


@pytest.mark.parametrize(("op", "x", "w"), CASES, ids=[f"{o.name}{x}{w}" for o, x, w in CASES])
@pytest.mark.parametrize("name", MACHINES)
def test_products(name: str, op: Op, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    left, right, call = MACHINES[name]
    rng = np.random.default_rng(5)
    arrays = [_draw(rng, left, x), _draw(rng, right, w)]
    made, operands, outs = schedule_op(op, [Operand(a) for a in arrays], parse_machine(f"cpu:{name}"))
    assert call in str(made.kernel) if call else "dot(" not in str(made.kernel)
    (got,) = run_scheduled(made, operands, outs)
    np.testing.assert_array_equal(got, op.evaluate(*arrays)[0])


def test_a_reduction_of_no_whole_groups_is_exact_too() -> None:
    rng = np.random.default_rng(5)
    arrays = [_draw(rng, "u8", (4, 7)), _draw(rng, "i8", (7, 32))]
    made, operands, outs = schedule_op(MatMul("i32"), [Operand(a) for a in arrays], parse_machine("cpu:znver5"))
    assert "vpdpbusd" not in str(made.kernel)
    np.testing.assert_array_equal(run_scheduled(made, operands, outs)[0], MatMul("i32").evaluate(*arrays)[0])
