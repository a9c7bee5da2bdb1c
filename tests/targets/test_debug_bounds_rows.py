"""Every row of the suites in a checked library, on two threads: no kernel leaves a buffer, and the numbers stay."""

from __future__ import annotations

import pytest
from tilewright.codegen.bounds import check_bounds
from tilewright.codegen.lower import lower
from tilewright.codegen.program import Program
from tilewright.ir.graph import Graph
from tilewright.targets.cpu.build import build
from tilewright.targets.cpu.host import host_machine

from .row_groups import Arrays, groups, run_rows
from .test_debug_bounds import fused

GROUPS = groups(24, {})


def checked(graph: Graph) -> Program:
    return check_bounds(lower(fused(graph), host_machine(), "rows"))


def run(graph: Graph, arrays: Arrays) -> list:
    made = checked(graph)
    module = build(made, host_machine(), jobs=1).load(threads=2)
    try:
        return module(*arrays)
    finally:
        module.close()


@pytest.mark.slow
@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_rows(group: int) -> None:
    run_rows(GROUPS[group], run)
