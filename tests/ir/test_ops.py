"""Every row of the suite: the types that `infer` gives, and each lowering against the NumPy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from suites import rows_a, rows_b, rows_c, rows_q
from suites.lowered import by_loops, by_lowering
from suites.row import Row, check, type_of
from tilewright.ir.ops.base import form_of

ROWS = rows_a.ROWS + rows_b.ROWS + rows_c.ROWS + rows_q.ROWS


def by_id(rows: tuple[Row, ...]) -> list[object]:
    return [pytest.param(r, id=r.id) for r in rows]


def test_ids_are_unique() -> None:
    assert len({r.id for r in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", by_id(ROWS))
def test_row(row: Row) -> None:
    arrays = row.arrays()
    expected = row.op.evaluate(*arrays)
    assert row.op.infer(*map(type_of, arrays)) == tuple(map(type_of, expected))
    got = by_lowering(row.op, arrays)
    for a, e in zip(got, expected, strict=True):
        check(a, e, row.tolerance)


@pytest.mark.parametrize("row", by_id(tuple(r for r in ROWS if form_of(r.op) == "kernel")))
def test_threads(row: Row) -> None:
    """Kernels written as loops share their work among threads without changing a bit."""
    arrays = row.arrays()
    for a, e in zip(by_loops(row.op, arrays, threads=3), by_loops(row.op, arrays), strict=True):
        np.testing.assert_array_equal(a, e)
