"""Every suite row through StableHLO and XLA's processor client."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from suites.row import Row
from targets.row_groups import ROWS, fails, groups, run_rows
from tilewright.codegen.stablehlo.emit import emit_module
from tilewright.ir.graph import Graph
from tilewright.targets.xla.client import Executable, parse

pytest.importorskip("jaxlib", reason="XLA runs through jaxlib: pip install 'tilewright[tpu]'")

_NAN = "XLA's maximum and minimum give NaN where an operand is NaN; the loops skip it"
SKIPPED = {"reduce-max-nan": _NAN, "reduce-min-nan": _NAN, "maxpool-nan": _NAN}


def by_xla(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    module = emit_module(graph)
    parse(module.text)
    return Executable(module.text, [a.array for a in module.weights if a.array is not None]).run(arrays)


@pytest.mark.parametrize("rows", groups(48, SKIPPED), ids=lambda rows: f"{rows[0].id}..{rows[-1].id}")
def test_rows(rows: list[Row]) -> None:
    run_rows(rows, by_xla)


@pytest.mark.parametrize("name", SKIPPED)
def test_skips_are_needed(name: str) -> None:
    fails(ROWS[name], by_xla)
