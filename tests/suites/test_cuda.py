"""Rows of the suites as CUDA C++ in the emulator: a sample by default, all of them in the nightly set."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import pytest
from tilewright.codegen.cuda_program import CudaSource, module_text, print_program
from tilewright.codegen.lower import lower
from tilewright.codegen.machine_gpu import GpuMachine, parse_gpu_machine
from tilewright.codegen.program import Program
from tilewright.codegen.strategies.gpu.select import is_native
from tilewright.compiler.options import Options
from tilewright.compiler.pipeline import GRAPH_PASSES, run_passes
from tilewright.compiler.progress import Stages
from tilewright.ir.graph import Graph
from tilewright.targets.cuda.emulator.run import EmulatedProgram, Emulator

from suites.row import Row, check
from suites.test_cpu import CASES, graph_of

MACHINE = parse_gpu_machine("cuda:sm_80+sm_90")
SKIPPED: dict[str, str] = {}
"""Row -> why the CUDA target cannot run it.  A row that runs all the same is an error."""

NAMES = list(CASES)
SAMPLE = NAMES[::7]
REST = [name for name in NAMES if name not in set(SAMPLE)]


def fused(graph: Graph, machine: GpuMachine = MACHINE) -> Graph:
    """A graph without any optimisation: composites expanded, nodes fused."""
    passes = tuple(step for step in GRAPH_PASSES if step[0] in ("expand_composites", "fuse"))
    native = functools.partial(is_native, machine)
    return run_passes(graph, Options(), Stages(), lambda *_: None, passes, native)


def lower_graph(graph: Graph, machine: GpuMachine = MACHINE) -> Program:
    """The program of such a graph."""
    return lower(fused(graph, machine), machine)


@functools.cache
def compiled(sample: bool) -> tuple[dict[str, tuple[Program, CudaSource] | Exception], Emulator]:
    """The programs of many rows, their kernels as one library."""
    made: dict[str, tuple[Program, CudaSource] | Exception] = {}
    functions: dict[str, str] = {}
    for n, name in enumerate(SAMPLE if sample else REST):
        row, weights = CASES[name]
        try:
            program = lower_graph(graph_of(row, weights))
            source = print_program(program, MACHINE)
        except Exception as error:
            made[name] = error
            continue
        new = {old: f"p{n}_{old}" for old in source.functions}
        functions.update((new[old], re.sub(rf"\b{old}\b", new[old], text)) for old, text in source.functions.items())
        launches = {k: tuple(replace(x, function=new[x.function]) for x in xs) for k, xs in source.launches.items()}
        made[name] = program, replace(source, launches=launches)
    return made, Emulator(module_text("", functions, functions), list(functions))


def run_row(name: str, sample: bool) -> None:
    row, weights = CASES[name]
    made, emulator = compiled(sample)
    found = made[name]
    if row.id in SKIPPED:
        assert isinstance(found, Exception), f"{name} runs: take it off the list"
        pytest.skip(SKIPPED[row.id])
    if isinstance(found, Exception):
        raise found
    _check_row(row, weights, EmulatedProgram(*found, emulator=emulator))


def _check_row(row: Row, weights: bool, program: EmulatedProgram) -> None:
    arrays = row.arrays()
    for got, expected in zip(program.run(arrays[:1] if weights else arrays), row.op.evaluate(*arrays), strict=True):
        check(got, expected, row.tolerance)


@pytest.mark.parametrize("name", SAMPLE)
def test_row(name: str) -> None:
    run_row(name, True)


@pytest.mark.nightly
@pytest.mark.parametrize("name", REST)
def test_other_row(name: str) -> None:
    run_row(name, False)


def test_the_skip_list_names_rows() -> None:
    assert set(SKIPPED) <= {row.id for row, _ in CASES.values()}
