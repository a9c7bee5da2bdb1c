"""Recurrent cells for graphics processors, in the emulator: more columns than threads, lengths, barriers that are left out."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.gpu_groups import MACHINE
from tilewright.codegen.kernels import drop_unused_params
from tilewright.codegen.strategies.gpu import recurrent
from tilewright.codegen.strategies.gpu.select import schedule_irregular
from tilewright.ir.kernel import Barrier, Buffer
from tilewright.ir.ops.recurrent import Gru, Lstm, Recurrent, Rnn
from tilewright.ir.types import TensorType
from tilewright.targets.cuda.emulator.run import EmulationError, emulate_kernel

CELLS = {
    "lstm of 1056 columns": (Lstm(), 2, 1, 264), "lstm": (Lstm(lengths=True, reverse=True), 3, 3, 20),
    "gru": (Gru(), 3, 2, 33), "rnn": (Rnn(), 2, 2, 8),
}


def operands(op: Recurrent, steps: int, batch: int, units: int) -> list[np.ndarray]:
    rng = np.random.default_rng(units)
    arrays = [rng.standard_normal((steps, batch, units * op.gates)), rng.standard_normal((units, units * op.gates)) / 16]
    arrays += [rng.standard_normal((batch, units)) for _ in range(op.states)]
    lengths = [np.arange(batch, dtype="i4") + 1] if op.lengths else []
    return [*(a.astype("f4") for a in arrays), *lengths]


def run(op: Recurrent, arrays: list[np.ndarray]) -> tuple[list[np.ndarray], str]:
    dtypes = {"f": "f32", "i": "i32"}
    ins = tuple(Buffer(f"x{n}", dtypes[a.dtype.kind], a.shape) for n, a in enumerate(arrays))
    types = op.infer(*(TensorType(b.dtype, b.static_shape) for b in ins))
    outs = tuple(Buffer(f"y{n}", t.dtype, t.static_shape) for n, t in enumerate(types))
    made = schedule_irregular(op, outs, ins, MACHINE)
    results = [np.full(b.static_shape, np.nan, "f4") for b in outs]
    data = {b.name: a for b, a in zip((*outs, *ins), (*results, *arrays), strict=True)}
    emulate_kernel(drop_unused_params(made.kernel), data)
    return results, made.note


@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str) -> None:
    op, *sizes = CELLS[name]
    arrays = operands(op, *sizes)
    got, note = run(op, arrays)
    for g, expected in zip(got, op.evaluate(*arrays), strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-5, atol=1e-5)
    assert "a block each" in note


def test_a_barrier_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cooperate = recurrent._cooperate
    monkeypatch.setattr(recurrent, "_cooperate", lambda block, thread: tuple(
        s for s in cooperate(block, thread) if not isinstance(s, Barrier)))
    op, *sizes = CELLS["lstm"]
    with pytest.raises(EmulationError, match="race"):
        run(op, operands(op, *sizes))


def test_scratch_beyond_shared_memory_stays_with_one_thread() -> None:
    op = Lstm()
    types = [TensorType("f32", s) for s in ((1, 1, 65536), (16384, 65536), (1, 16384), (1, 16384))]
    ins = tuple(Buffer(f"x{n}", t.dtype, t.shape) for n, t in enumerate(types))
    outs = tuple(Buffer(f"y{n}", t.dtype, t.shape) for n, t in enumerate(op.infer(*types)))
    assert schedule_irregular(op, outs, ins, MACHINE).note == "a thread per iteration"
