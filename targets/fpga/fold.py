"""How much every process does per cycle: found for a frame rate, or for what the board allows.

All processes begin at one product a cycle.  The slowest one is given its next parallelism until the frame rate is
reached, the budget is spent, or the slowest has nothing left to unfold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...codegen.hls.design import Process
from ...codegen.hls.interface import word_bits
from ...codegen.hls.route import Regroup
from ...codegen.hls.sliding import SlidingWindow
from ...codegen.hls.tensor import Tensor
from ...codegen.hls.window import Window
from ...codegen.hls.wire import wire
from .boards import Board
from .estimate import Usage, over, process_usage, total

_STEPS = 4000


@dataclass(frozen=True)
class Folding:
    """processes: wired.  interval: cycles per frame.  stopped: why it is not faster.
    beats: elements that the ports of inputs and outputs move at once, by their streams."""

    processes: tuple[Process, ...]
    interval: int
    stopped: str
    beats: dict[Tensor, int]


def fold(
    connected: Sequence[Process], inputs: Sequence[Tensor], outputs: Sequence[Tensor], board: Board, budget: dict[str, float],
    target: int, port_bits: int,
) -> Folding:
    """budget: the part of each resource that processes may take, without FIFOs.  target: cycles per frame that are enough;
    0: as few as possible.  port_bits: that a port moves at once, at most.  The caller checks whether the target was reached."""
    current = list(connected)
    beats = dict.fromkeys(inputs, 1)

    def stop(interval: int, why: str) -> Folding:
        return Folding(wired, interval, why, beats | {t.stream: _narrowest(t, n, interval) for t, n in leaving.items()})

    foldings = {p.name: list(p.foldings()) for p in current}
    at = dict.fromkeys(foldings, 0)
    wired = wire(current, inputs)
    usage = {p.name: process_usage(p, board) for p in wired}
    for _ in range(_STEPS):
        leaving = {t: _widest(t, wired, port_bits) for t in outputs}
        moves = {t: t.size // n for t, n in (beats | leaving).items()}
        port = max(moves, key=lambda t: moves[t])
        if not wired:
            return stop(moves[port], "nothing is computed")
        slowest = max(wired, key=lambda p: p.cycles)
        interval = max(slowest.cycles, moves[port])
        if interval <= target:
            return stop(interval, "the frame rate is reached")
        if moves[port] < slowest.cycles:
            name = _unfoldable(slowest, wired, foldings, at, beats)
        elif port in leaving and 2 * leaving[port] * word_bits(port.type) <= port_bits:  # as narrow as what comes
            maker = next((p for p in wired if port.stream in p.outputs), slowest)
            name = _unfoldable(maker, wired, foldings, at, beats) or port
        else:
            name = port
        trial = dict(beats)
        if name is None:
            return stop(interval, f"{slowest.name} cannot be made faster")
        if isinstance(name, Tensor):
            n = (beats | leaving)[name]
            if name in leaving or not _can_double(name, n, port_bits):
                return stop(interval, f"the port of {name.name} moves {n} element{'s' * (n > 1)} a cycle")
            trial[name], name = 2 * n, f"port of {name.name}"
        else:
            at[name] += 1
            current = [_at(p, foldings[name][at[name]]) if p.name == name else p for p in current]
        faster = wire(current, inputs, trial)
        more = _usage(faster, wired, usage, board)
        spent = over(total(more.values()), board, budget)
        if spent:
            return stop(interval, f"a faster {name} would need {', '.join(spent)}")
        wired, usage, beats = faster, more, trial
    return stop(interval, "the search was cut")


def _can_double(t: Tensor, beat: int, bits: int) -> bool:
    return t.size % (2 * beat) == 0 and 2 * beat * word_bits(t.type) <= bits


def _widest(t: Tensor, wired: Sequence[Process], bits: int) -> int:
    """Elements of an output that its port can move at once: a part of the packets that come, and a power of two."""
    lanes, beat = next((p.lanes_out for p in wired if t.stream in p.outputs), 1), 1
    while lanes % (2 * beat) == 0 and 2 * beat * word_bits(t.type) <= bits:
        beat *= 2
    return beat


def _narrowest(t: Tensor, widest: int, interval: int) -> int:
    """The fewest that are fast enough."""
    beat = widest
    while beat > 1 and t.size // (beat // 2) <= interval:
        beat //= 2
    return beat


def _at(p: Process, folded: Process) -> Process:
    return replace(folded, inputs=p.inputs, outputs=p.outputs)


def _unfoldable(
    p: Process, wired: Sequence[Process], foldings: dict[str, list[Process]], at: dict[str, int], beats: dict[Tensor, int]
) -> str | Tensor | None:
    """The process to unfold when p is the slowest: p itself, or the one, or the input, that makes p's packets narrow."""
    makers = {t: q for q in wired for t in q.outputs}
    readers = {t.stream: q for q in wired for t in q.inputs}
    here = p
    while here.inputs:
        steps = foldings.get(here.name, [])
        if at.get(here.name, 0) + 1 < len(steps):
            return here.name
        if len(steps) > 1 or isinstance(here, SlidingWindow):
            return None
        narrows = isinstance(here, Regroup) and here.lanes_in[0] > here.lanes_out  # what comes is wide enough
        if narrows or (isinstance(here, Window) and not here.bound_by_input):
            reader = readers.get(here.outputs[0])
            return reader.name if reader and at.get(reader.name, 0) + 1 < len(foldings.get(reader.name, ())) else None
        slow = min((t.stream for t in here.inputs), key=lambda t: makers[t].lanes_out if t in makers else beats[t])
        if slow not in makers:
            return slow
        here = makers[slow]
    return None


def _usage(
    wired: Sequence[Process], before: Sequence[Process], known: dict[str, Usage], board: Board
) -> dict[str, Usage]:
    """Only processes that changed are counted again."""
    same = {p.name: _shape(p) for p in before}
    return {p.name: known[p.name] if same.get(p.name) == _shape(p) and p.name in known else process_usage(p, board)
            for p in wired}


def _shape(p: Process) -> tuple[object, ...]:
    """What decides the resources of a process, its kind and constants aside."""
    return p.lanes_in, p.lanes_out, *(getattr(p, name, 0) for name in ("pe", "simd", "emit", "whole"))
