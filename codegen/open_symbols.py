"""Which dimensions of a graph a program takes at run time."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.errors import TargetError
from ..ir.expr import Var
from ..ir.graph import Graph
from ..ir.ops.bounded import Sized
from ..ir.ops.data_sized import DataSized
from .machine_gpu import GpuMachine
from .sizing import Symbol, symbols_of
from .strategies.by_machine import AnyMachine


def open_symbols(
    graph: Graph, machine: AnyMachine, ranges: Mapping[str, tuple[int, int | None]]
) -> tuple[Symbol, ...]:
    """The symbols whose sizes the program is given when it runs.  Raises TargetError where that cannot be."""
    for node in graph.nodes:
        if isinstance(node.op, DataSized):
            raise TargetError(
                f"target {machine.name}: {node.op.name} at {node.where!r} gives {node.outputs[0].type}: how large that is, "
                "is only known when it runs; make its operands constants, or run the model with the interpreter"
            )
    sized = {v for v in graph.outputs if v in graph.producers and isinstance(graph.producers[v].op, Sized)}
    found = symbols_of(graph, sized)
    if isinstance(machine, GpuMachine):
        for v in (*graph.inputs, *graph.outputs):
            if not v.type.is_static and v not in sized:
                raise TargetError(
                    f"target {machine.name}: {v.name!r} has the shape {v.type}; every dimension must be a number. "
                    f"Bind it with dims={{...}} or shapes={{...}} (--dim NAME=N, --shape {v.name}=...)."
                )
    given = {d for v in graph.inputs for d in v.type.shape if isinstance(d, Var)}
    for v in found:
        if v not in given:
            raise TargetError(
                f"target {machine.name}: the size of dimension {v.name!r} is no dimension of an input as it is, so that it "
                f"would be unknown when the model runs; bind it with dims={{...}} (--dim {v.name}=N)"
            )
    return tuple(Symbol(v, *ranges.get(v.name, (1, None))) for v in found)
