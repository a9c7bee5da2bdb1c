"""Suite rows through a target, many rows as one graph, so that the cost of a compilation is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from suites import rows_a, rows_b, rows_control, rows_q
from suites.row import Row, check, type_of
from tilewright.ir.graph import Builder, Graph

Arrays = Sequence[np.ndarray]
ROWS = {row.id: row for row in (*rows_a.ROWS, *rows_b.ROWS, *rows_q.ROWS, *rows_control.ROWS)}
Run = Callable[[Graph, Arrays], Sequence[np.ndarray]]


def groups(size: int, skipped: Mapping[str, str]) -> list[list[Row]]:
    """All rows that are not skipped, size at a time."""
    rows = [row for row in ROWS.values() if row.id not in skipped]
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def run_rows(rows: Sequence[Row], run: Run) -> None:
    """Run the rows as one graph and compare; every row that fails is named."""
    b = Builder("rows")
    arrays: list[np.ndarray] = []
    outputs, expected = [], []
    for row in rows:
        given = row.arrays()
        arrays += given
        values = [b.input(f"{row.id}.{i}", type_of(a)) for i, a in enumerate(given)]
        outputs += b.add_multi(row.op, *values)
        expected += [(row, np.asarray(a)) for a in row.op.evaluate(*given)]
    names = [f"out{i}" for i in range(len(outputs))]
    wrong = []
    for got, (row, want) in zip(run(b.graph(outputs, names), arrays), expected, strict=True):
        try:
            check(got, want, row.tolerance)
        except AssertionError as error:
            wrong.append(f"{row.id}: {error}")
    assert not wrong, "\n".join(wrong)


def fails(row: Row, run: Run) -> None:
    """A row that is skipped must fail: a skip that is not needed any more is an error."""
    try:
        run_rows([row], run)
    except Exception:
        return
    pytest.fail(f"{row.id} is on the skip list, but it passes")
