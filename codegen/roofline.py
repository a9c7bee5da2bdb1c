"""The least time a kernel can take on a machine, from its arithmetic and its traffic.

The limit is the larger of two times: multiply-accumulates over what the vector units can do, and bytes over what the
memory (or, for a working set that fits it, the second-level cache) can move.  `Machine` has no clock, so the figures
are nominal, those of a fast machine: a limit must not be beaten.  Shares between kernels do not depend on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .machine import Machine
from .machine_gpu import GpuMachine
from .program import Cost

NOMINAL_HZ = 4.0e9
VECTOR_UNITS = 2  # multiply-add pipes per core, on every supported level with 128 bits or more
CACHE_BYTES_PER_CYCLE = 32
MEMORY_BYTES_PER_SECOND = 40e9
TENSOR_CORES = re.compile(r"\b(?:wg)?mma_m\d+n\d+k\d+_(\w+)")  # the instruction, which schedules that use it name
TENSOR_RATES = {"tf32": 0.5, "s8": 2.0, "u8s8": 2.0}  # of that of 16 bits


@dataclass(frozen=True)
class Figures:
    """Of one core of a processor: multiply-accumulates a second, bytes a second of a working set of at most `near_bytes`, and
    of a larger one."""

    macs_per_second: float
    near_bytes: int
    near_bytes_per_second: float
    bytes_per_second: float


def figures_of(machine: Machine) -> Figures:
    return Figures(
        machine.lanes("f32") * VECTOR_UNITS * NOMINAL_HZ, machine.l2, CACHE_BYTES_PER_CYCLE * NOMINAL_HZ,
        MEMORY_BYTES_PER_SECOND,
    )


@dataclass(frozen=True)
class Limit:
    """seconds on one core, or on a GPU; bound: "compute", "cache" or "memory"."""

    seconds: float
    bound: str


def limit_of(cost: Cost, machine: Machine | GpuMachine) -> Limit:
    """The machine's limit for one call, in f32 arithmetic; of a GPU, the whole of it, with tensor cores where the call
    uses them."""
    traffic = cost.bytes_read + cost.bytes_written
    if isinstance(machine, GpuMachine):
        found = TENSOR_CORES.search(cost.schedule)
        rate = machine.simt_macs if found is None else machine.tensor_macs * TENSOR_RATES.get(found[1], 1.0)
        compute, memory = cost.macs / rate, traffic / machine.bandwidth
        return Limit(compute, "compute") if compute >= memory else Limit(memory, "memory")
    figures = figures_of(machine)
    compute = cost.macs / figures.macs_per_second
    near = traffic <= figures.near_bytes
    speed = figures.near_bytes_per_second if near else figures.bytes_per_second
    if compute >= traffic / speed:
        return Limit(compute, "compute")
    return Limit(traffic / speed, "cache" if near else "memory")


def assumptions(machine: Machine | GpuMachine) -> str:
    """The figures behind the limits, for the reader of a report."""
    if isinstance(machine, GpuMachine):
        return (f"{machine.name}: {machine.newest.board}, {2 * machine.simt_macs / 1e12:g} TFLOP/s of f32 outside of tensor "
                f"cores, {2 * machine.tensor_macs / 1e12:g} of 16 bits in them, {machine.bandwidth / 1e9:g} GB/s from memory")
    flops = 2 * machine.lanes("f32") * VECTOR_UNITS * NOMINAL_HZ / 1e9
    return (
        f"{machine.name}: {machine.vector_bits}-bit vectors, {VECTOR_UNITS} multiply-add units, nominal "
        f"{NOMINAL_HZ / 1e9:g} GHz = {flops:g} GFLOP/s of one core; {CACHE_BYTES_PER_CYCLE} bytes a cycle from the "
        f"cache, {MEMORY_BYTES_PER_SECOND / 1e9:g} GB/s from memory"
    )
