"""Products of bf16: pairs of neighbours where the machine has the instruction, conversions elsewhere."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from codegen.scheduled_ops import Operand, run_scheduled, schedule_op
from tilewright.codegen.machine import parse_machine
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.contract import Conv, MatMul

PAIRED, PLAIN = parse_machine("cpu:znver5"), parse_machine("cpu:x86-64-v3")
CASES = [
    (MatMul(), [(5, 8), (8, 70)]), (MatMul(), [(1, 16), (16, 40)]), (MatMul(), [(2, 9, 6), (2, 6, 20)]),
    (Conv((1, 1), (0, 0, 0, 0), (1, 1), 1), [(1, 6, 6, 4), (3, 3, 4, 17)]),
    (Conv((2, 2), (0, 0, 0, 0), (1, 1), 1), [(1, 7, 9, 6), (3, 3, 6, 33)]),
]


@pytest.mark.parametrize(("op", "shapes"), CASES, ids=[f"{o.name}{s}" for o, s in CASES])
@pytest.mark.parametrize("machine", [PAIRED, PLAIN], ids=lambda m: m.name)
def test_products_of_bf16(op: Op, shapes: list[tuple[int, ...]], machine) -> None:
    rng = np.random.default_rng(7)
    arrays = [rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in shapes]
    made, operands, outs = schedule_op(op, [Operand(a) for a in arrays], machine)
    assert ("vdpbf16ps" in str(made.kernel)) == (machine is PAIRED)
    (got,) = run_scheduled(made, operands, outs)
    (expected,) = op.evaluate(*(a.astype(np.float32) for a in arrays))
    np.testing.assert_allclose(got.astype(np.float32), expected, rtol=1e-2, atol=1e-2)


def test_an_odd_run_is_not_paired() -> None:
    rng = np.random.default_rng(7)
    arrays = [rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in [(4, 7), (7, 32)]]
    made, _, _ = schedule_op(MatMul(), [Operand(a) for a in arrays], PAIRED)
    assert "vdpbf16ps" not in str(made.kernel)
