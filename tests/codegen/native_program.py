"""Runs whole programs as machine code in the test process: as an artifact does, on memory that shows mistakes.

Inputs and outputs lie at addresses aligned to their elements only; the arena and the scratch memory hold NaNs at first;
everything that is written is surrounded by bytes that must not change.
"""

from __future__ import annotations

import ctypes
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from codegen.native import link, set_barrier
from tilewright.codegen.llvm import emit_module
from tilewright.codegen.lower import lower
from tilewright.codegen.machine import Machine
from tilewright.codegen.program import Program
from tilewright.codegen.strategies.select import is_native
from tilewright.compiler.options import Options
from tilewright.compiler.pipeline import GRAPH_PASSES, run_passes
from tilewright.compiler.progress import Stages
from tilewright.ir.graph import Graph
from tilewright.ir.types import DTYPES
from tilewright.targets.cpu.host import host_machine
from tilewright.targets.cpu.objects import compile_objects

GUARD = 128  # bytes before and after each piece of memory
_MAIN = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 6, ctypes.c_int64, ctypes.c_int64)


class Memory:
    """Bytes at an address that is a multiple of 64 plus `misaligned`, filled with ones (floats: NaN)."""

    def __init__(self, nbytes: int, misaligned: int = 0) -> None:
        self.raw = np.full(nbytes + 2 * GUARD + 64, 0xFF, np.uint8)
        start = -self.raw.ctypes.data % 64 + GUARD // 64 * 64 + misaligned
        self.bytes = self.raw[start : start + nbytes]
        self.before, self.after = self.raw[:start], self.raw[start + nbytes :]

    @property
    def address(self) -> int:
        return int(self.bytes.ctypes.data)

    def check(self, what: str) -> None:
        for side, guard in (("before", self.before), ("after", self.after)):
            assert (guard == 0xFF).all(), f"something was written {side} the {what}"


@dataclass
class NativeProgram:
    """A compiled program; the engine owns the code."""

    program: Program
    engine: Any
    symbol: str

    def run(self, inputs: Sequence[np.ndarray], threads: int = 1) -> list[np.ndarray]:
        """The outputs for inputs in the program's order."""
        p = self.program
        arena, constants = Memory(p.arena_bytes), Memory(p.constant_bytes)
        scratch = [Memory(p.scratch_bytes) for _ in range(threads)]
        for offset, array in p.constants:
            constants.bytes[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)
        ins, outs = [], []
        for (_, type), array in zip(p.inputs, inputs, strict=True):
            ins.append(Memory(type.nbytes, DTYPES[type.dtype].size))
            ins[-1].bytes[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        outs = [Memory(type.nbytes, DTYPES[type.dtype].size) for _, type in p.outputs]
        told = [Memory(8 * len(sized.dims), 8) for sized in p.sized]
        given = (ins, [*outs, *told])
        pointers = [(ctypes.c_void_p * (len(ms) + 1))(*(m.address for m in ms)) for ms in given]
        main, runtime = _MAIN(self.engine.get_function_address(self.symbol)), set_barrier(threads)

        def one(tid: int) -> None:
            main(runtime, arena.address, scratch[tid].address, constants.address, pointers[0], pointers[1], tid, threads)

        others = [threading.Thread(target=one, args=(tid,)) for tid in range(1, threads)]
        for t in others:
            t.start()
        one(0)
        for t in others:
            t.join()
        for what, memories in (("arena", [arena]), ("constants", [constants]), ("scratch", scratch), ("inputs", ins),
                               ("outputs", outs), ("shapes", told)):
            for m in memories:
                m.check(what)
        results = [m.bytes.view(DTYPES[t.dtype].numpy) for m, (_, t) in zip(outs, p.outputs, strict=True)]
        shapes = [t.static_shape for _, t in p.outputs]
        for sized, m in zip(p.sized, told, strict=True):
            shapes[sized.output] = tuple(m.bytes.view(np.int64).tolist())
        return [a[: math.prod(shape)].reshape(shape) for a, shape in zip(results, shapes, strict=True)]


def program_text(program: Program, prefix: str, machine: Machine) -> str:
    """One program's module, with the prefix before its own symbols so that modules can be joined."""
    text = emit_module(list(program.kernels.values()), machine, main=program)
    return re.sub(r"@(kernel_|tw_main\b)", rf"@{prefix}.\1", text)


def compile_texts(texts: Sequence[str], machine: Machine) -> Any:
    """An engine with all these modules, compiled as one, which is much faster than one by one."""
    declares: dict[str, None] = {}
    functions: list[str] = []
    for text in texts:
        head, _, body = text.partition("\ndefine ")
        declares.update(dict.fromkeys(head.splitlines()))
        functions.append("define " + body)
    return link(compile_objects(["\n".join([*declares, *functions])], machine, jobs=1))


def compile_program(program: Program, machine: Machine | None = None) -> NativeProgram:
    machine = machine or host_machine()
    return NativeProgram(program, compile_texts([program_text(program, "p", machine)], machine), "p.tw_main")


def optimise(
    graph: Graph, machine: Machine | None = None, only: Sequence[str] = (), precision: str = "f32"
) -> Graph:
    """The graph after the compiler's passes, or some of them, each verified."""
    machine = machine or host_machine()
    passes = tuple(step for step in GRAPH_PASSES if not only or step[0] in only)
    return run_passes(graph, Options(precision=precision), Stages(), lambda *_: None, passes, partial(is_native, machine))


def lower_graph(graph: Graph, machine: Machine | None = None) -> Program:
    """The program of a graph without any optimisation of the graph: composites expanded, nodes fused."""
    machine = machine or host_machine()
    return lower(optimise(graph, machine, ("expand_composites", "fuse")), machine)
