"""Which strategy schedules a group on a graphics processor: by the form of its computations, never by the operator's name.

    attention in 16 bits                                               attention: one kernel, running maxima
    attention in f32                                                   plain_attention: the same without tensor cores
    attention of a few queries                                         token_attention: keys in parts, joined in order
    a sum of products of two operands, enough of rows, columns and k   contract: tiles in shared memory, tensor cores
    the same with few rows and weights                                 skinny: a warp per output, along lines of the weights
    maps and reductions over shared rows                               rows: a warp or block per row
    a reduction along another axis than the contiguous one             columns: lines of outputs, parts of the reduction
    a map that reads along another axis than it writes                 transposes: tiles in shared memory
    any other map or window                                            maps: a vector of outputs per thread
    few rows by weights of 4 or 8 bits                                 block_product: columns by lanes, k in parts
    recurrent cells                                                    recurrent: a block per sequence
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from ....ir.compute import Compute
from ....ir.kernel import Barrier, Block, Buffer, Kernel, coefficient
from ....ir.ops.base import Op
from ....ir.ops.block_product import BlockMatMul
from ....ir.ops.contract import MatMul
from ....ir.ops.norm import Attention
from ....ir.ops.recurrent import Recurrent
from ....ir.ops.reduce import ArgReduce
from ....ir.types import DTYPES, TensorType
from ...machine_gpu import GpuMachine
from ...schedule.rewrite import replace_accesses
from ..axes import simplify_axes, without_empty_sum
from ..scheduled import Group, Scheduled
from .attention import schedule_attention, takes_attention
from .block_product import schedule_block_product, takes_block_product
from .columns import column_nest, is_column_reduction
from .contract import schedule_matrix_product
from .direct import schedule_loops
from .legalize import legalize
from .maps import contiguous_axis, extents, map_nest
from .operand import MatrixProduct, find_matrix_product
from .paired import takes_pairs
from .plain_attention import schedule_plain_attention, takes_plain_attention
from .positions import schedule_positions, takes_positions
from .recurrent import schedule_recurrent
from .rows import schedule_row_groups
from .skinny import skinny_product
from .token_attention import schedule_token_attention, takes_token_attention
from .transposes import find_transposed, transpose_nest

SHORT_ROW = 16  # elements of a row that one thread reduces alone


def schedule_group(group: Group, machine: GpuMachine, accuracy: str = "default") -> Scheduled:
    """A scheduled kernel for a fused group."""
    if isinstance(group.op, Attention):
        q, _, v = (x.static_shape for x in group.operands[:3])
        return _attention(group.op, q, v, group.operands[0].dtype, machine)(group, machine)  # type: ignore[misc]
    computes = tuple(map(without_empty_sum, group.computes))
    if len(computes) == 1 and computes[0].combine == "add":
        product = find_matrix_product(computes[0], group.constants)
        if product is not None and is_worth_tiles(product):
            return schedule_matrix_product(replace(group, computes=computes), product, machine)
        few = None if product is None else _schedule_skinny(group, product)
        if few is not None:
            return few
    if len(computes) > 1 or (computes and _is_row_reduction(computes[0])):
        made = schedule_row_groups(computes, group.params)
        if made is not None:
            return Scheduled(legalize(Kernel(group.kind, group.params, made[0])), note=made[1])
    return _schedule_nests(group, computes, machine)


def _attention(
    op: Attention, q: tuple[int, ...], v: tuple[int, ...], dtype: str, machine: GpuMachine
) -> Callable[[Group, GpuMachine], Scheduled] | None:
    """The strategy for attention of these shapes, None where it is expanded."""
    if takes_attention(op, q, v, dtype, machine):
        return schedule_attention
    if takes_plain_attention(q, v, dtype, machine):
        return schedule_plain_attention
    return schedule_token_attention if takes_token_attention(q, v, dtype) else None


def _schedule_skinny(group: Group, product: MatrixProduct) -> Scheduled | None:
    found = skinny_product(product)
    made = None if found is None else schedule_row_groups((found[0],), group.params)
    if found is None or made is None:
        return None
    kernel = Kernel(group.kind, (*group.params, found[1]), made[0])
    return Scheduled(legalize(kernel), ((found[1].name, found[2]),), made[1])


def is_worth_tiles(p: MatrixProduct) -> bool:
    """Enough rows, columns and k that a tile is not mostly empty."""
    _, rows, columns, k = p.sizes
    return rows >= 8 and columns >= 8 and k >= 8


def _is_row_reduction(c: Compute) -> bool:
    """A reduction over enough elements that some operand holds as a line."""
    if c.is_map or not c.reduce or not all(isinstance(v.extent, int) for v in (*c.axes, *c.reduce)):
        return False
    c = simplify_axes(c)
    if not c.reduce or prod(extents(c.reduce)) < SHORT_ROW:
        return False
    return any(coefficient(r.buf, r.idx, c.reduce[-1]) == 1 for r in c.reads()) and not _is_window(c)


def _is_window(c: Compute) -> bool:
    """Operands and output run along the same axis: threads beside each other read neighbours."""
    v = contiguous_axis(c)
    return v is not None and any(coefficient(r.buf, r.idx, v) == 1 for r in c.reads())


def _schedule_nests(group: Group, computes: tuple[Compute, ...], machine: GpuMachine) -> Scheduled:
    """A nest for every computation; one that reads what another one writes is a launch of its own."""
    body: Block = ()
    temporaries: dict[Buffer, Buffer] = {}
    read: set[Buffer] = set()
    written: set[Buffer] = set()
    plain = True
    notes: list[str] = []
    for n, c in enumerate(map(simplify_axes, computes)):
        own = {r.buf for r in c.reads()}
        made, note, simple = _nest(c, machine, str(n))
        if body and made and (own & written or c.out in read or not (plain and simple)):
            body += (Barrier("pool"),)
            read, written = set(), set()
        plain = simple
        read |= own
        written.add(c.out)
        body += made
        notes.append(note)
        if c.out not in group.params:
            temporaries.setdefault(c.out, replace(c.out, space="global"))
    for old, new in temporaries.items():
        body = replace_accesses(body, old, new, lambda *idx: idx)
    kernel = legalize(Kernel(group.kind, (*group.params, *temporaries.values()), body))
    sizes = tuple((b.name, b.size * DTYPES[b.dtype].size) for b in temporaries.values())
    return Scheduled(kernel, note="; ".join(dict.fromkeys(notes)), temporaries=sizes)


def _nest(c: Compute, machine: GpuMachine, number: str) -> tuple[Block, str, bool]:
    """(loops, the schedule in words, whether other nests of this kind can share its launch)."""
    if any(v.extent == 0 for v in c.axes):
        return (), "nothing", True
    transposed = find_transposed(c)
    if transposed is not None:
        return transpose_nest(c, transposed, number), "tiles of 32 x 32 through shared memory", False
    if is_column_reduction(c, machine):
        return (*column_nest(c, machine, number), False)
    return (*map_nest(c, machine, number), True)


def schedule_irregular(op: Op, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], machine: GpuMachine) -> Scheduled:
    """The kernel of an operator that writes its own loops."""
    if isinstance(op, ArgReduce) and takes_positions(op, ins[0]):
        return schedule_positions(op, outs[0], ins[0])
    if isinstance(op, BlockMatMul) and takes_block_product(op, tuple(TensorType(b.dtype, b.shape) for b in ins)):
        return schedule_block_product(op, outs[0], ins, machine)
    kernel = op.kernel(outs, ins)
    made = schedule_recurrent(kernel, machine) if isinstance(op, Recurrent) else None
    return made or schedule_loops(kernel)


def is_native(machine: GpuMachine, op: Op, types: tuple[TensorType, ...]) -> bool:
    """Whether a composite operator has a strategy of its own for operands of these types; for products of integers, whether
    tensor cores multiply them."""
    if isinstance(op, MatMul):
        return op.to == "i32" and (types[0].dtype, types[1].dtype) in (("i8", "i8"), ("u8", "i8")) and machine.has("mma_s8")
    if isinstance(op, BlockMatMul):
        return takes_block_product(op, types)
    if isinstance(op, Attention) and all(t.is_static for t in types):
        q, v, dtype = types[0].static_shape, types[2].static_shape, types[0].dtype
        return _attention(op, q, v, dtype, machine) is not None
    return False


def with_sparsity(group: Group, arrays: Mapping[str, np.ndarray], machine: GpuMachine, accuracy: str = "default") -> Group:
    """The group, told if sparse tensor cores multiply its weights; no other zeros are skipped."""
    if len(group.computes) != 1 or not arrays or not machine.has("mma_sp"):
        return group
    c = without_empty_sum(group.computes[0])
    product = find_matrix_product(c, group.constants) if c.combine == "add" else None
    fits = product is not None and is_worth_tiles(product) and takes_pairs(product, arrays, machine)
    return replace(group, paired=True) if fits else group
