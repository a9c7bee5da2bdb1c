"""CUDA targets without a GPU: a model compiled as for a GPU, its kernels run by this machine's processor.

Slow (some 10 million multiply-accumulates a second) and strict: an access out of bounds, a race or a divergent barrier is an
`EmulationError`.  What runs is the emitted CUDA C++ itself, and the launches of the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..codegen.cuda_program import print_program
from ..codegen.lower import lower
from ..codegen.machine_gpu import GpuMachine
from ..codegen.program import Program
from ..frontend.onnx.importer import import_graph
from ..frontend.onnx.reader import read_model
from ..ir.errors import OptionError
from ..targets.cuda.emulator import EmulatedProgram
from .options import Options, Shapes, make_options
from .pipeline import run_passes
from .progress import Stages
from .targets import find_target

TARGET = "cuda:sm_80+sm_90"


@dataclass(frozen=True)
class EmulatedModule:
    """A model whose kernels run in the emulator: called with arrays in the order of the model's inputs."""

    program: Program
    emulated: EmulatedProgram

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        return self.emulated.run(arrays)


def cuda_program(model: Any, options: Options) -> tuple[Program, GpuMachine]:
    """The program of a model (a path, bytes or a ModelProto) for a CUDA target.  Raises what `compile` raises."""
    target = find_target(options.target)
    if target.name != "cuda":
        raise OptionError(f"target: expected cuda or cuda:ARCHITECTURE, got {options.target!r}")
    machine: Any = target.machine_for(options)
    source = read_model(model, None)
    graph = import_graph(source, dict(options.shapes), dict(options.dims))
    native = target.native(machine)
    fused = run_passes(graph, options, Stages(), lambda *_: None, target.passes_for(options), native)
    return lower(fused, machine, source.name, accuracy=options.accuracy), machine


def emulate(
    model: Any, *, target: str = TARGET, shapes: Shapes | None = None, dims: Mapping[str, int] | None = None,
    optimise: bool = False, **options: Any,
) -> EmulatedModule:
    """A model compiled for a CUDA target, ready to run here.  optimise: compile its kernels for longer, to run them
    faster.  The other arguments are those of `compile`.

    Raises TargetError without g++ or clang++, and what `compile` raises."""
    program, machine = cuda_program(model, make_options(target, shapes=shapes, dims=dims, **options))
    return EmulatedModule(program, EmulatedProgram(program, print_program(program, machine), optimise=optimise))
