"""Recurrent cells: the product with the state as panels of vectors, the gates as vectors over the units.

The loops are the operator's own (`ir/ops/recurrent.py`): per sequence and step, columns of h @ r into scratch memory, then
one loop over the units.  The recurrent weights are packed [panel][k][columns of the panel]; eight accumulators per panel
read them at the speed of the second-level cache.
"""

from __future__ import annotations

from ...ir.kernel import Buffer, Kernel
from ...ir.ops.recurrent import Recurrent
from ..machine import Machine
from ..math import legalize_math
from ..schedule import cut, extent, fma_contract, has_loop, loops, relayout, sink, split, unroll, vectorize
from ..schedule.rewrite import replace_buffer
from .recurrent_shared import schedule_shared, shares_units
from .scheduled import Pack, Scheduled

PANEL_VECTORS = 8
STEPS = 2  # at most sixteen vector loads per iteration


def schedule_recurrent(op: Recurrent, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], machine: Machine) -> Scheduled:
    if shares_units(op, ins, machine):
        return schedule_shared(op, outs, ins, machine)
    kernel = op.kernel(outs, ins)
    weights = ins[1]
    units, columns = weights.static_shape
    lanes = machine.lanes("f64" if weights.dtype == "f64" else "f32")
    panel = next((n * lanes for n in range(PANEL_VECTORS, 0, -1) if units % (n * lanes) == 0), 0)
    packs: tuple[tuple[str, Pack], ...] = ()
    if panel:
        kernel, packs = _pack(kernel, weights, units, columns, panel)
        kernel = sink(split(kernel, "column", panel, "panel", "column"), ["column"])
        kernel = unroll(split(kernel, "column", lanes, "vector", "lane"), "vector")
        if units % STEPS == 0:
            kernel = unroll(split(kernel, "k", STEPS, "k", "step_k"), "step_k")
    elif len({s.var.extent for s in loops(kernel, "column")}) == 1:  # a GRU has two: its few units stay scalar
        kernel = _by_lanes(kernel, "column", lanes)
    kernel = legalize_math(_by_lanes(kernel, "unit", lanes, "unit_lane"), machine)
    for name in ("lane", "lane_tail", "unit_lane", "unit_lane_tail"):
        if has_loop(kernel, name):
            kernel = vectorize(kernel if panel and name == "lane" else sink(kernel, [name]), name)
    kernel = fma_contract(kernel) if machine.fma else kernel
    note = f"panels of {panel} columns" if panel else "vectors along the columns"
    return Scheduled(kernel, packs, f"sequences in parallel, {note}")


def _pack(
    kernel: Kernel, weights: Buffer, units: int, columns: int, panel: int
) -> tuple[Kernel, tuple[tuple[str, Pack], ...]]:
    """The weights under another name, so that the caller packs them."""
    packed = Buffer("w", weights.dtype, (columns // panel, units, panel))
    pack = Pack(weights.name, packed.static_shape, (0, 0), ((0, panel), (1, 0), (0, 1)))
    kernel = relayout(kernel, weights.name, packed.shape, lambda k, n: (n // panel, k, n % panel), packed=True)
    return replace_buffer(kernel, kernel.param(weights.name), packed, lambda *idx: idx), (("w", pack),)


def _by_lanes(kernel: Kernel, name: str, lanes: int, lane: str = "lane") -> Kernel:
    """The loops of an axis as whole vectors (`lane`) and a shorter one (`lane`_tail)."""
    n = extent(kernel, name)
    whole = n // lanes * lanes
    if not whole:
        return split(kernel, name, n, name, lane + "_tail")
    if whole < n:
        kernel = split(cut(kernel, name, whole, name, name + "_tail"), name + "_tail", n - whole, name + "_t", lane + "_tail")
    return split(kernel, name, lanes, name, lane)
