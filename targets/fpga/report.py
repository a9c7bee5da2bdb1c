"""`report.json`: processes, streams, cycles, resources against the board, errors, and what is not known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...codegen.hls.design import Design
from ...codegen.hls.emit import stream_names
from ...codegen.hls.simulate import Simulation
from .boards import RESOURCES
from .estimate import Usage, design_usage, total
from .host import FpgaMachine
from .memory import bandwidth
from .project import memory_facts, port_facts

CAVEATS = (
    "resources and cycles are estimates by counting and simulation; nothing was synthesized or run on a board",
    "the clock is a planning value",
    "equality of the C simulation does not prove the interval of a loop, timing closure or the behaviour of the RTL",
)


@dataclass(frozen=True)
class Accuracy:
    """bits: of values and weights.  error, reach: largest absolute error and value of each output, on the calibration data;
    bound: the declared or default bound of the error."""

    bits: int
    samples: int
    error: tuple[float, ...]
    reach: tuple[float, ...]
    bound: tuple[float, ...]


def make_report(
    design: Design, machine: FpgaMachine, simulation: Simulation, accuracy: Accuracy, limits: dict[str, float], stopped: str,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """JSON values."""
    board, usage = machine.board, design_usage(design, machine.board)
    used = total(usage.values())
    names, lanes = stream_names(design), design.lanes
    hertz = machine.mhz * 1e6
    return {
        "board": {**asdict(board), "from_memory": list(board.from_memory)},
        "clock_mhz": machine.mhz,
        "latency_cycles": simulation.latency, "latency_us": simulation.latency / machine.mhz,
        "interval_cycles": simulation.interval, "fps": hertz / simulation.interval,
        "bottleneck": simulation.bottleneck, "limited_by": stopped,
        "macs": sum(p.work for p in design.processes),
        "usage": {r: {"used": getattr(used, r), "board": getattr(board, r), "allowed": int(getattr(board, r) * limits[r])}
                  for r in RESOURCES},
        "interface": design.interface, "inputs": port_facts(design, True), "outputs": port_facts(design, False),
        "memory": {"ports": memory_facts(design), "gbs": bandwidth(design, simulation, machine), "board_gbs": board.gbs,
                   "one_frame": not design.overlap},
        "accuracy": asdict(accuracy),
        "processes": [
            {"name": p.name, "kind": p.kind, "about": p.about(), "where": p.where, "cycles": simulation.busy[p.name], "ii": 1,
             "macs": p.work, "inputs": [names[t.stream] for t in p.inputs], "outputs": [names[t] for t in p.outputs],
             "usage": _counts(usage[p.name])}
            for p in design.processes
        ],
        "streams": [
            {"name": names[t], "value": t.name, "type": str(t.type), "shape": list(t.shape), "lanes": lanes[t],
             "depth": design.depths.get(t, 2), "bits": design.depths.get(t, 2) * lanes[t] * t.type.bits}
            for t in names
        ],
        "fifos": _counts(usage["fifos"]),
        "notes": list(notes), "caveats": list(CAVEATS),
    }


def _counts(u: Usage) -> dict[str, int]:
    return {r: getattr(u, r) for r in RESOURCES}
