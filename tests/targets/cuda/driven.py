"""Whole CUDA libraries without a GPU: their host code as it ships, on a driver that runs the kernels in the emulator."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tilewright.codegen.cuda_program import print_program
from tilewright.codegen.machine_gpu import GpuMachine, parse_gpu_machine
from tilewright.codegen.program import Program
from tilewright.targets.artifact import Artifact
from tilewright.targets.cuda.build import build, module_names
from tilewright.targets.cuda.emulator.run import Emulator
from tilewright.targets.cuda.images import Image

MACHINE = parse_gpu_machine("cuda:sm_80+sm_90")
_KEEP: list[object] = []  # kernels stay loaded: the driver has their addresses


@functools.cache
def fake_driver() -> Any:
    """The driver; libraries find it while the environment variable TILEWRIGHT_CUDA_DRIVER is its `path`."""
    library = Path(tempfile.mkdtemp(prefix="fake-cuda-")) / "fake_driver.so"
    source = Path(__file__).with_name("fake_driver.cpp")
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror"]
    subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
    driver = ctypes.CDLL(str(library))
    driver.path = str(library)
    driver.fake_message.restype = ctypes.c_char_p
    return driver


def driven_artifact(program: Program, machine: GpuMachine = MACHINE, **options: Any) -> Artifact:
    """The artifact of a program whose machine code is empty; the driver is told to emulate its kernels."""
    source = print_program(program, machine)
    emulator = Emulator(source.text, list(source.functions))
    _KEEP.append(emulator)
    driver = fake_driver()
    driver.fake_emulator(emulator.library.emulator_launch)
    for launches in source.launches.values():
        for launch in launches:
            maps = sum(1 << m.parameter for m in launch.maps)
            driver.fake_kernel(launch.function.encode(), len(launch.params), maps)
    images = [[Image(arch, False, b"code", {}) for arch in machine.architectures] for _ in module_names(source)]
    return build(program, machine, images=images, **options)
