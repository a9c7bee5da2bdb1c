"""Which strategy schedules a group on a graphics processor."""

from __future__ import annotations

from ....ir.kernel import Buffer
from ....ir.ops.base import Op
from ....ir.ops.contract import MatMul
from ....ir.types import TensorType
from ...machine_gpu import GpuMachine
from ..scheduled import Group, Scheduled
from .contract import schedule_matrix_product
from .direct import schedule_loops, schedule_per_element
from .operand import MatrixProduct, find_matrix_product


def schedule_group(group: Group, machine: GpuMachine, accuracy: str = "default") -> Scheduled:
    """A scheduled kernel for a fused group."""
    if len(group.computes) == 1:
        (c,) = group.computes
        product = find_matrix_product(c, group.constants) if c.combine == "add" else None
        if product is not None and is_worth_tiles(product):
            return schedule_matrix_product(group, product, machine)
    return schedule_per_element(group)


def is_worth_tiles(p: MatrixProduct) -> bool:
    """Enough rows, columns and k that a tile is not mostly empty."""
    _, rows, columns, k = p.sizes
    return rows >= 8 and columns >= 8 and k >= 8


def schedule_irregular(op: Op, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], machine: GpuMachine) -> Scheduled:
    """The kernel of an operator that writes its own loops."""
    return schedule_loops(op.kernel(outs, ins))


def is_native(machine: GpuMachine, op: Op, types: tuple[TensorType, ...]) -> bool:
    """Whether a composite operator has a strategy of its own for operands of these types; for products of integers, whether
    tensor cores multiply them."""
    if isinstance(op, MatMul):
        return op.to == "i32" and (types[0].dtype, types[1].dtype) in (("i8", "i8"), ("u8", "i8")) and machine.has("mma_s8")
    return False
