"""Random graphs through all passes, the lowering and the machine code, compared with the interpreter on the original."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from codegen.native_program import NativeProgram, compile_texts, lower_graph, optimise, program_text
from codegen.random_graphs import random_graph
from tilewright.codegen.lower import lower
from tilewright.codegen.program import Program
from tilewright.ir.graph import Graph
from tilewright.ir.interpreter import run_graph
from tilewright.targets.cpu.host import host_machine

SEEDS = range(60)
NARROW_SEEDS = range(20)
TOLERANCE = {"f32": 1e-4, "f16": 4e-3, "bf16": 4e-2}

Way = Callable[[Graph], Program]
WAYS: dict[str, tuple[range, float, Way]] = {
    "plain": (SEEDS, TOLERANCE["f32"], lower_graph),
    "passes": (SEEDS, TOLERANCE["f32"], lambda g: lower(optimise(g), host_machine())),
    "f16": (NARROW_SEEDS, TOLERANCE["f16"], lambda g: lower(optimise(g, precision="f16"), host_machine())),
    "bf16": (NARROW_SEEDS, TOLERANCE["bf16"], lambda g: lower(optimise(g, precision="bf16"), host_machine())),
}
"""How a graph becomes a program: without passes on the graph, with all of them, with narrow storage; seeds; tolerance."""

CASES = {f"{name}_{seed}": (name, seed) for name, (seeds, _, _) in WAYS.items() for seed in seeds}


def same(got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Within rounding of the largest magnitude; integers exactly."""
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected)
        return
    most = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * float(most))


@functools.cache
def compiled() -> tuple[dict[str, Program | Exception], Any]:
    """The programs of all cases, or why there is none, and one module with all of them."""
    found: dict[str, Program | Exception] = {}
    texts = []
    for case, (name, seed) in CASES.items():
        try:
            program = WAYS[name][2](random_graph(seed)[0])
            texts.append(program_text(program, case, host_machine()))
            found[case] = program
        except Exception as error:
            found[case] = error
    return found, compile_texts(texts, host_machine())


@pytest.mark.parametrize("case", CASES)
def test_machine_code_gives_what_the_graph_means(case: str) -> None:
    found, engine = compiled()
    program = found[case]
    if isinstance(program, Exception):
        raise program
    name, seed = CASES[case]
    graph, inputs = random_graph(seed)
    native, expected = NativeProgram(program, engine, f"{case}.tw_main"), run_graph(graph, inputs)
    for threads in (1, 2):
        for a, b in zip(native.run(inputs, threads), expected, strict=True):
            same(a, b, WAYS[name][1])
