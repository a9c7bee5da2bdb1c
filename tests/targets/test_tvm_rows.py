"""Every suite row through the Relax module and TVM on this processor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from suites import rows_control
from suites.row import Row
from targets.row_groups import ROWS, fails, groups, run_rows
from tilewright.ir.graph import Graph

tvm = pytest.importorskip("tvm", reason="TVM is not installed: pip install 'tilewright[tvm]'")

SKIPPED: dict[str, str] = {}  # row -> why it cannot pass; one that passes is an error
FIRST = {type(row.op): row for row in reversed(ROWS.values())}  # one row per operator


def by_tvm(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    from tilewright.compiler import to_tvm
    from tvm import relax

    module, weights = to_tvm(graph)
    machine = relax.VirtualMachine(tvm.compile(module, tvm.target.Target("llvm")), tvm.cpu())
    given = [tvm.runtime.tensor(np.asarray(a, order="C")) for a in (*arrays, *weights)]
    return [o.numpy() for o in machine["main"](*given)]


def test_one_row_of_every_operator() -> None:
    run_rows([row for row in FIRST.values() if row.id not in SKIPPED], by_tvm)


def test_control_flow() -> None:
    run_rows(rows_control.ROWS, by_tvm)


@pytest.mark.nightly
@pytest.mark.parametrize("rows", groups(60, SKIPPED), ids=lambda rows: f"{rows[0].id}..{rows[-1].id}")
def test_rows(rows: list[Row]) -> None:
    run_rows(rows, by_tvm)


def test_skips_are_needed() -> None:
    for name in SKIPPED:
        fails(ROWS[name], by_tvm)
