"""A program of which only the interface matters, with hand-written C in the place of generated code."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tilewright.codegen.machine import Machine, make_machine
from tilewright.codegen.program import Call, Program
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact
from tilewright.targets.cpu import host_machine
from tilewright.targets.cpu.link import write_model_sources, write_runtime_sources
from tilewright.targets.cpu.packaging import package

HERE = Path(__file__).parent
WEIGHTS = np.arange(8, dtype=np.float32)
ARENA_BYTES, SCRATCH_BYTES, CONSTANT_BYTES = 128 + 16, 32, 64 + 32
Tensors = Sequence[tuple[str, TensorType]]
INPUTS: Tensors = (("x", TensorType("f32", (4, 8))), ("k", TensorType("i64", ())))
OUTPUTS: Tensors = (("y", TensorType("f32", (4, 8))), ("n", TensorType("i64", ())))


def toy_program(
    name: str = "toy", inputs: Tensors = INPUTS, outputs: Tensors = OUTPUTS, profile: bool = False
) -> Program:
    """profile: for an entry point compiled with -DPROFILE, which says that it has two steps and notes times of the first."""
    steps = (Call("doubled", ()), Call("other", ())) if profile else ()
    return Program(
        name=name, kernels={}, steps=steps, profile=profile, inputs=tuple(inputs), outputs=tuple(outputs),
        constants=((0, np.full(3, 7, np.int8)), (64, WEIGHTS)), constant_bytes=CONSTANT_BYTES, arena_bytes=ARENA_BYTES,
        scratch_bytes=SCRATCH_BYTES,
    )


@cache
def toy_object(*flags: str, command: tuple[str, ...] = ("cc",)) -> bytes:
    """The hand-written entry point as a relocatable file."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "toy.o"
        compile_it = [*command, "-std=c11", "-O2", "-fPIC", *flags, "-c", str(HERE / "toy.c"), "-o", str(output)]
        subprocess.run(compile_it, check=True)
        return output.read_bytes()


def toy_machine() -> Machine:
    """This machine's architecture without any feature."""
    return make_machine({"x86_64": "x86-64-v2"}.get(host_machine().arch, host_machine().arch))


def toy_artifact(name: str = "toy", **options: object) -> Artifact:
    return package([toy_object()], toy_program(name), toy_machine(), **options)  # type: ignore[arg-type]


def toy_inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).integers(-4, 5, (4, 8)).astype(np.float32)
    return x, np.array(100, np.int64)


def toy_outputs(x: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the program means."""
    return 2 * x[::-1] + WEIGHTS, k + x.sum().astype(np.int64)


def write_sources(folder: Path, machine: Machine | None = None, profile: bool = False) -> list[str]:
    """Everything but the entry point as sources; the names of the files to compile."""
    manifest = '{"format":"tilewright"}'
    model = write_model_sources(folder, toy_program(profile=profile), machine or toy_machine(), "toy", manifest, None)
    return model + write_runtime_sources(folder)
