"""Sizes that a run determines stay in device memory: the host reads them when it is asked for the shape of an output.

    call sized(y -> output 0, shape -> output 1 (told))   ->   call sized(y -> output 0, shape -> arena + what is behind it)

A run on a GPU is over for the caller before it has begun, so nothing can be written to the host's memory on the way.
"""

from __future__ import annotations

from dataclasses import replace

from .arena import ALIGNMENT
from .program import Address, Call, Program, map_calls


def keep_sizes(program: Program) -> Program:
    """The program with the shapes of outputs of a size that data tells behind its arena."""
    kept: dict[int, int] = {}
    end = -(-program.arena_bytes // ALIGNMENT) * ALIGNMENT
    for s in program.sized:
        kept[s.told] = end
        end += -(-max(len(s.dims), 1) * 8 // ALIGNMENT) * ALIGNMENT
    if not kept:
        return program

    def at(a: Address) -> Address:
        return Address("arena", kept[a.index]) if a.space == "output" and a.index in kept else a

    def rule(call: Call) -> Call:
        return replace(call, args=tuple(map(at, call.args)))

    sized = tuple(replace(s, kept=kept[s.told]) for s in program.sized)
    return replace(program, steps=map_calls(program.steps, rule), sized=sized, arena_bytes=end)
