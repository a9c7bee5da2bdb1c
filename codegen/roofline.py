"""The least time a kernel can take on a machine, from its arithmetic and its traffic.

The limit is the larger of two times: multiply-accumulates over what the vector units can do, and bytes over what the
memory (or, for a working set that fits it, the second-level cache) can move.  `Machine` has no clock, so the figures
are for the nominal one below; shares between kernels do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .machine import Machine
from .program import Cost

NOMINAL_HZ = 3.0e9
VECTOR_UNITS = 2  # multiply-add pipes per core, on every supported level with 128 bits or more
CACHE_BYTES_PER_CYCLE = 32
MEMORY_BYTES_PER_SECOND = 20e9


@dataclass(frozen=True)
class Limit:
    """seconds on one core; bound: "compute", "cache" or "memory"."""

    seconds: float
    bound: str


def limit_of(cost: Cost, machine: Machine) -> Limit:
    """The machine's limit for one call, in f32 arithmetic."""
    compute = cost.macs / (machine.lanes("f32") * VECTOR_UNITS * NOMINAL_HZ)
    traffic = cost.bytes_read + cost.bytes_written
    near = traffic <= machine.l2
    speed = CACHE_BYTES_PER_CYCLE * NOMINAL_HZ if near else MEMORY_BYTES_PER_SECOND
    if compute >= traffic / speed:
        return Limit(compute, "compute")
    return Limit(traffic / speed, "cache" if near else "memory")


def assumptions(machine: Machine) -> str:
    """The figures behind the limits, for the reader of a report."""
    flops = 2 * machine.lanes("f32") * VECTOR_UNITS * NOMINAL_HZ / 1e9
    return (
        f"{machine.name}: {machine.vector_bits}-bit vectors, {VECTOR_UNITS} multiply-add units, nominal "
        f"{NOMINAL_HZ / 1e9:g} GHz = {flops:g} GFLOP/s of one core; {CACHE_BYTES_PER_CYCLE} bytes a cycle from the "
        f"cache, {MEMORY_BYTES_PER_SECOND / 1e9:g} GB/s from memory"
    )
