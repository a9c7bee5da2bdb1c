"""Which strategy schedules a group: by the form of its computations, never by the operator's name.

    a product or convolution with a constant of many zeros              sparse, where the cost model expects a gain, or tuning
                                                                        measured one
    a 3 x 3 convolution of stride 1 or 2, constant weights               winograd, where the cost model expects a gain
    a large product with a constant right operand                       strassen, where the cost model expects a gain
    a sum of products of two operands that the output walks alone       contract
    a depthwise convolution of bytes with constant weights              depthwise_rows (windows of few rows) or depthwise, where
                                                                        a dot instruction is at hand
    a reduction of a window or of both operands along the vector axis   window, which also takes the means of its rows
    any other single reduction                                          reduce
    one map                                                             maps
    maps and reductions over shared rows                                rows
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from ...ir.compute import Compute, lower_group
from ...ir.kernel import Buffer, Kernel, coefficient
from ...ir.ops.base import Op
from ...ir.ops.block_product import BlockMatMul
from ...ir.ops.contract import MatMul
from ...ir.ops.norm import Attention
from ...ir.ops.quantize import Lookup
from ...ir.ops.quantized_attention import QuantizedAttention
from ...ir.ops.recurrent import Recurrent
from ...ir.types import TensorType
from ..machine import Machine
from ..math import legalize_math
from .attention import schedule_attention, takes_attention
from .axes import simplify_axes, size_of, without_empty_sum
from .block_product import schedule_block_product, takes_block_product
from .contract import schedule_product
from .depthwise import find_depthwise, schedule_depthwise
from .depthwise_rows import find_rows, schedule_depthwise_rows
from .join import join_kernels
from .maps import schedule_map
from .nests import parallel_top
from .open_axes import fewest, is_open
from .product import PAIRS, Product, find_dot, find_product, operands
from .quantized_attention import schedule_quantized_attention, takes_quantized_attention
from .recurrent import schedule_recurrent
from .reduce import schedule_reduce
from .rows import schedule_rows
from .scheduled import Group, Scheduled
from .sparse import schedule_sparse
from .sparse_choice import at_height, plan_sparse
from .strassen import schedule_large_product
from .strassen_plan import halved_product, rows_worth_halving
from .window import is_window, schedule_window
from .winograd import schedule_winograd
from .winograd_open import schedule_open_winograd
from .winograd_plan import is_transformable, winograd_tile

SHARED_ROWS = 8  # of a border's side
SKINNY = 4  # products with fewer columns are reductions along the contiguous axis


def schedule_group(group: Group, machine: Machine, accuracy: str = "default") -> Scheduled:
    """A scheduled kernel for a fused group."""
    if isinstance(group.op, Attention):
        return schedule_attention(group, machine)
    if isinstance(group.op, QuantizedAttention):
        return schedule_quantized_attention(group, machine)
    if group.sparse is not None and _skips_zeros(group):
        plan = at_height(group.sparse, group.choice.sparse, machine) if group.choice.sparse else group.sparse
        dense = plan.least > fewest(plan.product.rows, group.symbols)
        return schedule_sparse(group, plan, machine, _few_rows(group, plan.least, machine, accuracy) if dense else None)
    if group.kind == "border":
        strips = [_strip(group, c, machine) for c in group.computes]
        return Scheduled(join_kernels("border", strips), note="strips of the border")
    if group.kind == "means":
        return schedule_window(group, group.computes[0], machine, group.computes[1])
    if len(group.computes) > 1:
        kernel = lower_group("rows", group.params, group.computes)
        return Scheduled(schedule_rows(kernel, machine), note="rows in parallel")
    (c,) = map(without_empty_sum, group.computes)
    if c.is_map:
        kernel = lower_group("map", group.params, (simplify_axes(c),))
        return Scheduled(schedule_map(kernel, machine), note="vectors along the contiguous axis")
    pair = operands(c)
    winograd = pair is not None and pair[1].buf.name in group.constants and accuracy != "strict"
    if winograd and not any(map(is_open, (*c.axes[3:], *c.reduce))):
        tile = winograd_tile(c, machine, group.symbols) if group.choice.winograd is None else group.choice.winograd
        if tile and is_transformable(c):
            schedule = schedule_open_winograd if any(map(is_open, c.axes[1:])) else schedule_winograd
            return schedule(group, c, tile, machine)
    p = find_product(c)
    halved = halved_product(group, c, machine) if accuracy != "strict" else None
    large = None if halved is None else schedule_large_product(group, halved, machine)
    if large is not None:
        return large
    if p is not None and not is_open(p.columns) and size_of(p.columns) >= SKINNY and not _is_rows_by_vector(group, p):
        return schedule_product(group, p, machine)
    opened = any(map(is_open, (*c.axes, *c.reduce)))
    depthwise = None if opened else find_depthwise(group, c, machine)
    if depthwise is not None and (depthwise.dot != PAIRS or accuracy != "strict"):
        rows = find_rows(depthwise, machine)
        if rows is not None:
            return schedule_depthwise_rows(group, rows, machine)
        return schedule_depthwise(group, depthwise, machine)
    if is_window(c):
        return schedule_window(group, c, machine)
    kernel = lower_group("reduce", group.params, (simplify_axes(c),))
    return Scheduled(schedule_reduce(kernel, machine), note="reduction")


def _strip(group: Group, c: Compute, machine: Machine) -> Kernel:
    """One side of a border.  Those beside the inside are shared by rows, as the inside is: each thread writes lines that it
    has in its cache."""
    kernel = schedule_map(lower_group("border", group.params, (simplify_axes(c),)), machine)
    beside = len(c.axes) > 2 and not is_open(c.axes[1]) and size_of(c.axes[1]) >= SHARED_ROWS
    return parallel_top(kernel) if beside else kernel


def with_sparsity(
    group: Group, arrays: Mapping[str, np.ndarray], machine: Machine, accuracy: str = "default"
) -> Group:
    """The group with a plan for the zeros of its constant, where that is expected to pay.  arrays: its constants."""
    return replace(group, sparse=plan_sparse(group, arrays, machine, accuracy))


def _skips_zeros(group: Group) -> bool:
    return group.sparse is not None and (group.sparse.pays if group.choice.sparse is None else group.choice.sparse > 0)


def _few_rows(group: Group, least: int, machine: Machine, accuracy: str) -> Scheduled:
    """The dense kernel of a group for fewer rows than `least`: not halved, if so few rows are not worth it."""
    c = without_empty_sum(group.computes[0])
    halved = halved_product(group, c, machine) if accuracy != "strict" else None
    worth = None if halved is None else rows_worth_halving(halved, machine, group.choice)
    choice = group.choice if worth is not None and worth < least else replace(group.choice, halved=0)
    return schedule_group(replace(group, sparse=None, choice=choice), machine, accuracy)


def _is_rows_by_vector(group: Group, p: Product) -> bool:
    """A computed matrix times very few vectors, each row of the matrix contiguous: a sum along every row, as it lies."""
    many = any(map(is_open, p.rows)) or prod(size_of(v) for v in p.rows) >= SKINNY
    if p.right.buf.name in group.constants or len(p.reduce) != 1 or many:
        return False
    return coefficient(p.right.buf, p.right.idx, p.reduce[0]) == 1 != coefficient(p.right.buf, p.right.idx, p.columns)


def is_native(machine: Machine, op: Op, types: tuple[TensorType, ...]) -> bool:
    """Whether a composite operator has a strategy of its own for operands of these types; for products of integers,
    whether an instruction multiplies several neighbours; for tables of bytes, whether one reads them."""
    if isinstance(op, Lookup):
        return "vpermi2b" in machine.calls
    if isinstance(op, MatMul):
        return find_dot(types[0].dtype, types[1].dtype, op.to, machine) is not None
    if isinstance(op, BlockMatMul):
        return takes_block_product(op, types, machine)
    if isinstance(op, QuantizedAttention):
        return takes_quantized_attention(types, machine)
    if isinstance(op, Attention):
        q, k, v = (t.shape for t in types[:3])
        return takes_attention(op, q, k, v, machine)
    return False


def schedule_irregular(op: Op, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], machine: Machine) -> Scheduled:
    """The kernel of an operator that writes its own loops."""
    if isinstance(op, Recurrent):
        return schedule_recurrent(op, outs, ins, machine)
    if isinstance(op, BlockMatMul) and takes_block_product(op, tuple(TensorType(b.dtype, b.shape) for b in ins), machine):
        return schedule_block_product(op, outs, ins, machine)
    kernel = op.kernel(outs, ins)
    return Scheduled(legalize_math(kernel, machine), note="loops of the operator")
