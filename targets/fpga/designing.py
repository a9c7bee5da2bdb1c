"""The design of a lowered graph for a board: folded, its FIFOs sized, its memories placed.

FIFOs are known after folding, so there are attempts: each leaves them more room or is a little slower, until all fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...codegen.hls.design import Design, Process
from ...codegen.hls.emit import identifier
from ...codegen.hls.simulate import Simulation, simulate
from ...codegen.hls.tensor import Tensor
from ...codegen.hls.wire import connect, pack_deep
from ...ir.errors import OptionError
from .boards import BOARDS, USABLE, Board
from .estimate import URAM_WORD, design_usage
from .fold import Folding, fold
from .host import FpgaMachine
from .lower import Lowered
from .memory import hopeless, into_memory, place, port_bits, reloadable
from .options import FpgaOptions

_DEEP = 8192  # packets from which on a FIFO is packed into words
_ULTRA_BLOCKS = 3  # blocks that an UltraRAM replaces, as folding counts it
_SLOWER = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 3.0)
_ATTEMPTS = (*((0.9, True, n) for n in _SLOWER), (0.5, True, 1.0), (0.0, True, 1.0), (0.9, False, 1.0), (0.5, False, 1.0),
             (0.0, False, 1.0))
"""The part of the budget that processes may take, whether all weights and FIFOs stay on the chip, and how much slower than the
first attempt it may be."""
_ANY = 1e6  # times the block RAM of a board


@dataclass(frozen=True)
class Made:
    """A design with everything that is known about it."""

    design: Design
    folding: Folding
    simulation: Simulation
    limits: dict[str, float]
    lowered: Lowered


def make_design(lowered: Lowered, machine: FpgaMachine, settings: FpgaOptions, top: str) -> Made:
    """Raises OptionError with what would fit, if the frame rate or the board cannot be met."""
    if settings.interface == "axis" and machine.board.kind == "alveo":
        raise OptionError(f"fpga: {machine.name} is a card whose host reaches memory only: take --interface m_axi")
    limits = {**USABLE, "dsp": settings.max_dsp, "lut": settings.max_lut, "bram18": settings.max_bram}
    target = int(machine.mhz * 1e6 / settings.fps) if settings.fps else 0
    processes, outputs = connect(lowered.processes, lowered.inputs, lowered.outputs)
    first, far, spent = 0, False, []
    for reserve, on_chip, slower in _ATTEMPTS:
        if slower > 1 and (settings.fps or far):
            continue
        # FIFOs are known after folding: what processes may take shrinks until both fit
        budget = {r: part * reserve for r, part in limits.items()}
        budget["bram18"] += reserve * _ULTRA_BLOCKS * machine.board.uram * limits["uram"] / machine.board.bram18
        if not on_chip:
            budget["bram18"] = _ANY
        wanted = target if slower == 1 else int(first * slower)
        folding = fold(processes, lowered.inputs, outputs, machine.board, budget, wanted, port_bits(machine, len(outputs)))
        first = first or folding.interval
        if slower > 1:
            folding = replace(folding, stopped=f"a faster design would need {', '.join(spent)}")
        if settings.reloadable:
            folding = replace(folding, processes=reloadable(folding.processes, on_chip))
        design, simulation = _sized(top, machine.board, folding, lowered, outputs, settings.interface)
        design, spent = place(design, machine.board, limits)
        far = hopeless(design, machine.board, limits)
        if spent and (far or not on_chip):
            design, simulation, spent = into_memory(design, machine, limits)
        if not spent or (far and reserve == 0):
            break
    if spent:
        raise OptionError(_does_not_fit(design, machine, spent, limits))
    if target and simulation.interval > target:
        raise OptionError(_too_slow(machine, settings.fps, folding, simulation))
    return Made(design, folding, simulation, limits, lowered)


def _sized(
    top: str, board: Board, folding: Folding, lowered: Lowered, outputs: tuple[Tensor, ...], interface: str
) -> tuple[Design, Simulation]:
    """The design with the depth of every FIFO; deep ones are as wide as UltraRAM."""
    taken: set[str] = set()
    design = Design(
        top, folding.processes, lowered.inputs, outputs, lowered.in_ports, lowered.out_ports,
        tuple(identifier("in_" + t.name, taken) for t in lowered.inputs),
        tuple(identifier("out_" + t.name, taken) for t in lowered.outputs),
        interface=interface, beats=folding.beats,
    )
    simulation = simulate(design)
    packed = _packed(design, simulation, board)
    if len(packed) > len(design.processes):
        design = replace(design, processes=packed)
        simulation = simulate(design)
    return replace(design, depths=simulation.depths), simulation


def _packed(design: Design, simulation: Simulation, board: Board) -> tuple[Process, ...]:
    if not board.uram:
        return design.processes
    return pack_deep(design.processes, design.outputs, simulation.depths, URAM_WORD, _DEEP)


def _too_slow(machine: FpgaMachine, fps: float, folding: Folding, simulation: Simulation) -> str:
    return (f"fpga: {machine.name} does not reach {fps:g} frames a second: {folding.stopped}; what fits is "
            f"{machine.mhz * 1e6 / simulation.interval:,.1f} frames a second ({simulation.bottleneck} takes "
            f"{simulation.interval:,} cycles a frame); ask for that, a faster clock, fewer bits or a larger board")


def _does_not_fit(design: Design, machine: FpgaMachine, spent: list[str], limits: dict[str, float]) -> str:
    usage = design_usage(design, machine.board)
    largest = sorted(usage, key=lambda n: (usage[n].bram18, usage[n].lut), reverse=True)[:3]
    where = ", ".join(f"{n} ({usage[n].bram18} BRAM18, {usage[n].lut} LUT)" for n in largest)
    fitting = [b.name for b in BOARDS.values() if b.name != machine.board.name and _fits(design, b, limits)]
    boards = f"it would fit on {', '.join(fitting)}" if fitting else "it fits on no board that is known"
    return (f"fpga: the smallest design for {machine.name} needs {', '.join(spent)}; the largest parts are {where}; {boards}; "
            "or take fewer bits (--bits)")


def _fits(design: Design, board: Board, limits: dict[str, float]) -> bool:
    return not place(design, board, limits)[1]
