"""Random graphs through the passes of the CUDA target, its strategies and the emulator, compared with the interpreter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from codegen.random_graphs import random_graph
from codegen.test_random_programs import TOLERANCE, same
from tilewright.codegen.cuda_program import print_program
from tilewright.codegen.lower import lower
from tilewright.codegen.machine_gpu import parse_gpu_machine
from tilewright.codegen.strategies.gpu.select import is_native
from tilewright.compiler.options import Options
from tilewright.compiler.pipeline import GPU_PASSES, run_passes
from tilewright.compiler.progress import Stages
from tilewright.ir.interpreter import run_graph
from tilewright.targets.cuda.emulator.run import EmulatedProgram

MACHINES = {"f32": "cuda:sm_80+sm_90", "f16": "cuda:sm_90a", "bf16": "cuda:sm_80+sm_90", "tf32": "cuda:sm_80+sm_90"}
FEW = [("f32", seed) for seed in (3, 11, 19, 23, 27)] + [("f16", 6), ("bf16", 12), ("tf32", 15)]
MANY = [(precision, seed) for precision in MACHINES for seed in range(60) if (precision, seed) not in FEW]


def check(precision: str, seed: int) -> None:
    machine = replace(parse_gpu_machine(MACHINES[precision]), precision=precision)
    graph, inputs = random_graph(seed)
    native = partial(is_native, machine)
    fused = run_passes(graph, Options(precision=precision), Stages(), lambda *_: None, GPU_PASSES, native)
    program = lower(fused, machine)
    outputs = EmulatedProgram(program, print_program(program, machine)).run(inputs)
    for got, expected in zip(outputs, run_graph(graph, inputs), strict=True):
        same(got, expected, {**TOLERANCE, "tf32": 1e-2}[precision])


@pytest.mark.parametrize("precision, seed", FEW)
def test_some_random_graphs(precision: str, seed: int) -> None:
    check(precision, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("precision, seed", MANY)
def test_random_graphs(precision: str, seed: int) -> None:
    check(precision, seed)
