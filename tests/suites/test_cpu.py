"""Every row of the suites through the CPU target: expanded, fused, lowered, scheduled, as machine code on 1 and 2 threads."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from codegen.native_program import NativeProgram, compile_texts, lower_graph, program_text
from tilewright.codegen.program import Program
from tilewright.ir.graph import Builder, Graph
from tilewright.targets.cpu.host import host_machine

from suites import rows_a, rows_b, rows_c, rows_q
from suites.row import Row, check, type_of

ROWS: dict[str, Row] = {row.id: row for row in (*rows_a.ROWS, *rows_b.ROWS, *rows_c.ROWS, *rows_q.ROWS)}

SKIPPED: dict[str, str] = {}
"""Row -> why the CPU target cannot run it.  A row that runs all the same is an error."""


CASES: dict[str, tuple[Row, bool]] = {
    **{name: (row, False) for name, row in ROWS.items()},
    **{f"{name}-weights": (row, True) for name, row in ROWS.items() if len(row.inputs) > 1},
}
"""Case -> row, and whether the operands after the first are constants: packed, or part of the code."""


def graph_of(row: Row, weights: bool) -> Graph:
    """The operator alone."""
    b = Builder("row")
    operands = [
        b.constant(a) if weights and n else b.input(f"x{n}", type_of(a)) for n, a in enumerate(row.arrays())
    ]
    return b.graph(b.add_multi(row.op, *operands))


@functools.cache
def lowered() -> dict[str, tuple[Program, str] | Exception]:
    """Every row as a program and its text, or why there is none."""
    found: dict[str, tuple[Program, str] | Exception] = {}
    for n, (name, (row, weights)) in enumerate(CASES.items()):
        try:
            program = lower_graph(graph_of(row, weights))
            found[name] = program, program_text(program, f"p{n}", host_machine())
        except Exception as error:
            found[name] = error
    return found


@functools.cache
def engine() -> Any:
    """All programs as one module."""
    return compile_texts([made[1] for made in lowered().values() if isinstance(made, tuple)], host_machine())


@pytest.mark.parametrize("name", CASES)
def test_row(name: str) -> None:
    (row, weights), made = CASES[name], lowered()[name]
    if row.id in SKIPPED:
        assert isinstance(made, Exception), f"{name} runs: take it off the list"
        pytest.skip(SKIPPED[row.id])
    if isinstance(made, Exception):
        raise made
    native = NativeProgram(made[0], engine(), f"p{list(CASES).index(name)}.tw_main")
    arrays = row.arrays()
    expected = row.op.evaluate(*arrays)
    for threads in (1, 2):
        for a, b in zip(native.run(arrays[:1] if weights else arrays, threads), expected, strict=True):
            check(a, b, row.tolerance)


def test_the_skip_list_names_rows() -> None:
    assert set(SKIPPED) <= set(ROWS)
