"""The machine of a CUDA target: it is named, never looked for, since compiling needs no GPU."""

from __future__ import annotations

from ...codegen.machine_gpu import GpuMachine, parse_gpu_machine


def resolve_machine(spec: str) -> GpuMachine:
    """`cuda:sm_90`, several architectures with `+`, `cuda:all`; `cuda` alone is all."""
    return parse_gpu_machine(spec)
