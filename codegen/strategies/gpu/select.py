"""Which strategy schedules a group on a graphics processor."""

from __future__ import annotations

from ....ir.kernel import Buffer
from ....ir.ops.base import Op
from ....ir.types import TensorType
from ...machine_gpu import GpuMachine
from ..scheduled import Group, Scheduled
from .direct import schedule_loops, schedule_per_element


def schedule_group(group: Group, machine: GpuMachine, accuracy: str = "default") -> Scheduled:
    """A scheduled kernel for a fused group."""
    return schedule_per_element(group)


def schedule_irregular(op: Op, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], machine: GpuMachine) -> Scheduled:
    """The kernel of an operator that writes its own loops."""
    return schedule_loops(op.kernel(outs, ins))


def is_native(machine: GpuMachine, op: Op, types: tuple[TensorType, ...]) -> bool:
    """Whether a composite operator has a strategy of its own for operands of these types."""
    return False
