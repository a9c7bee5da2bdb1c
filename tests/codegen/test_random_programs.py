"""Random graphs through all passes, the lowering and the machine code, compared with the interpreter on the original."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from codegen.native_program import NativeProgram, compile_texts, lower_graph, optimise, program_text
from codegen.random_graphs import random_graph
from tilewright.codegen.lower import lower
from tilewright.codegen.program import Program
from tilewright.ir.interpreter import run_graph
from tilewright.targets.cpu.host import host_machine

SEEDS = range(60)


def same(got: np.ndarray, expected: np.ndarray) -> None:
    """Within f32 rounding of the largest magnitude; integers exactly."""
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected)
        return
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(finite.max(initial=0.0))))


def programs(seeds: Sequence[int]) -> dict[int, list[Program | Exception]]:
    """For each seed the program without and with the passes on the graph."""
    found: dict[int, list[Program | Exception]] = {}
    for seed in seeds:
        graph, _ = random_graph(seed)
        found[seed] = []
        for make in (lower_graph, lambda g: lower(optimise(g), host_machine())):
            try:
                found[seed].append(make(graph))
            except Exception as error:
                found[seed].append(error)
    return found


@functools.cache
def compiled() -> tuple[dict[int, list[Program | Exception]], Any]:
    """All programs in one module."""
    found = programs(SEEDS)
    texts = [
        program_text(p, f"p{seed}.{n}", host_machine())
        for seed, made in found.items() for n, p in enumerate(made) if isinstance(p, Program)
    ]
    return found, compile_texts(texts, host_machine())


@pytest.mark.parametrize("seed", SEEDS)
def test_machine_code_gives_what_the_graph_means(seed: int) -> None:
    found, engine = compiled()
    graph, inputs = random_graph(seed)
    expected = run_graph(graph, inputs)
    for n, program in enumerate(found[seed]):
        if isinstance(program, Exception):
            raise program
        native = NativeProgram(program, engine, f"p{seed}.{n}.tw_main")
        for threads in (1, 2):
            for a, b in zip(native.run(inputs, threads), expected, strict=True):
                same(a, b)
