"""Which weights and FIFOs a design keeps in the board's memory, because the chip has no room for them."""

from __future__ import annotations

from dataclasses import replace

from ...codegen.hls.design import Design, Process
from ...codegen.hls.dot import Dot
from ...codegen.hls.fetch import fetched
from ...codegen.hls.loaded import loaded
from ...codegen.hls.simulate import Simulation, simulate
from ...codegen.hls.spill import packing, spill
from ...codegen.hls.tensor import Tensor
from .boards import Board
from .estimate import design_usage, over, place_memories, total
from .host import FpgaMachine

_BLOCK, _ULTRA = 18 * 1024, 288 * 1024  # bits
_LEAST = 48 * 1024  # bits of a FIFO that is worth a port to memory
_MOST = 16  # ports
_BANDWIDTH = 0.5  # the part of the memory's bandwidth that a design may take
_PORT_BITS = 512
_ROUNDS = 4


def place(design: Design, board: Board, limits: dict[str, float]) -> tuple[Design, list[str]]:
    """The design with its memories in block RAM and UltraRAM, and what it takes beyond the limits."""
    design = replace(design, ultra=place_memories(design, board, limits))
    return design, over(total(design_usage(design, board).values()), board, limits)


def port_bits(machine: FpgaMachine, ports: int) -> int:
    """Bits that a port moves in a cycle, at most: a power of two for which the memory is fast enough."""
    bits, share = 8, machine.board.gbs * 1000 * _BANDWIDTH / machine.mhz * 8 / max(ports + 1, 2)
    while 2 * bits <= min(share, _PORT_BITS):
        bits *= 2
    return bits


def fifo_bits(design: Design) -> dict[Tensor, int]:
    return {t: design.depths.get(t, 2) * n * t.type.bits for t, n in design.lanes.items()}


def hopeless(design: Design, board: Board, limits: dict[str, float]) -> bool:
    """Whether the FIFOs alone are larger than what the chip may use, so that no folding will help."""
    room = board.bram18 * limits["bram18"] * _BLOCK + board.uram * limits["uram"] * _ULTRA
    return sum(fifo_bits(design).values()) > room / 2


def into_memory(design: Design, machine: FpgaMachine, limits: dict[str, float]) -> tuple[Design, Simulation, list[str]]:
    """The design for one frame at a time, with as many of its deepest FIFOs, then of its weights, in memory as it takes to fit.

    A frame that waits inside would need as much memory again.  The third part is what is still too much: resources, or the
    bandwidth of the memory."""
    board = machine.board
    best = _spilled(replace(design, overlap=False), frozenset(), machine, limits)
    single, wanted = best[0], 0.0
    kept = {t.stream for t in (*design.inputs, *design.outputs)}
    bits = {t: n for t, n in fifo_bits(single).items() if n >= _LEAST and t not in kept and packing(t, single.lanes[t])}
    order = sorted(bits, key=lambda t: -bits[t])[:_MOST]
    for _ in range(_ROUNDS):
        if not best[2] or not order:
            break
        wanted += max(_excess(best[0], board, limits) * 1.1, _LEAST)
        chosen, saved = [], 0
        for t in order:
            if saved < wanted:
                chosen.append(t)
                saved += bits[t]
        best = _spilled(single, frozenset(chosen), machine, limits)
        if len(chosen) == len(order):
            break
    return _fetching(best[0], machine, limits) if best[2] else best


def _fetching(design: Design, machine: FpgaMachine, limits: dict[str, float]) -> tuple[Design, Simulation, list[str]]:
    """The largest weights in memory, as many as it takes to fit; none if there are none of some size."""
    sizes = {p: p.weights.size * p.weight_type.bits for p in design.processes if type(p) is Dot and not p.adders}
    order = sorted((p for p in sizes if sizes[p] >= _LEAST), key=lambda p: -sizes[p])[:_MOST]
    wanted, chosen = _excess(design, machine.board, limits), set[Process]()
    for p in order:
        if wanted > 0:
            chosen.add(p)
            wanted -= sizes[p]
    made = [q for p in design.processes for q in (fetched(p) if p in chosen and isinstance(p, Dot) else (p,))]
    return _spilled(replace(design, processes=tuple(made)), frozenset(), machine, limits)


def reloadable(processes: tuple[Process, ...], on_chip: bool) -> tuple[Process, ...]:
    """Wired processes with the weights and biases of all products from memory: once a frame if the chip has room for them."""
    def changed(p: Process) -> tuple[Process, ...]:
        if type(p) is not Dot:
            return (p,)
        return loaded(p) if on_chip else fetched(p, with_bias=True)

    return tuple(q for p in processes for q in changed(p))


def _excess(design: Design, board: Board, limits: dict[str, float]) -> float:
    used = total(design_usage(design, board).values())
    return (used.bram18 - board.bram18 * limits["bram18"]) * _BLOCK


def _spilled(
    design: Design, chosen: frozenset[Tensor], machine: FpgaMachine, limits: dict[str, float]
) -> tuple[Design, Simulation, list[str]]:
    made = replace(design, processes=spill(design.processes, design.outputs, design.depths, chosen), ultra=frozenset())
    simulation = simulate(made)
    made, spent = place(replace(made, depths=simulation.depths), machine.board, limits)
    return made, simulation, spent + too_much_traffic(made, simulation, machine)


def bandwidth(design: Design, simulation: Simulation, machine: FpgaMachine) -> float:
    """Gigabytes a second that the design moves to and from memory, its inputs and outputs aside."""
    return sum(p.traffic for p in design.processes) * machine.mhz / simulation.interval / 1000


def too_much_traffic(design: Design, simulation: Simulation, machine: FpgaMachine) -> list[str]:
    needed, allowed = bandwidth(design, simulation, machine), machine.board.gbs * _BANDWIDTH
    return [f"{needed:.2g} GB/s of memory of {allowed:.2g} allowed"] if needed > allowed else []
