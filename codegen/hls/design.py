"""Tensors between processes, the processes, and a whole design.

A tensor crosses the design as a stream of packets: its elements in row-major order, `lanes` of them at a time.  A
process is one hardware loop nest.  Its parts:

- `run`: what it computes, on int64 arrays of the tensors' shapes; the C simulation must give the same integers;
- `timing`: in which iteration each packet is read and written, which is all that cycle counts and FIFO depths need;
- `code`: its C++; `roms`: its constants; `cost`: what it takes of the device.

Processes are frozen; `folded` gives one that does more per cycle, `wired` one that fits the lanes of its operands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from ...ir.errors import InternalError
from .fixed import Fixed
from .ports import InPort, OutPort
from .tensor import Tensor


@dataclass(frozen=True, eq=False)
class Timing:
    """iterations: of the process's loop, one per cycle.  reads[n], writes[n]: the iteration of each packet of operand or
    result n, increasing.  latency: cycles from an iteration's read to its write."""

    iterations: int
    reads: tuple[np.ndarray, ...]
    writes: tuple[np.ndarray, ...]
    latency: int = 4


@dataclass(frozen=True)
class Rom:
    """A constant array [rows, columns]; a row is read at once.  partition: each column is a memory of its own."""

    name: str
    values: np.ndarray
    type: Fixed

    @property
    def bits(self) -> int:
        return self.values.size * self.type.bits


@dataclass(frozen=True)
class Memory:
    """`depth` words of `width` bits.  constant: it can be kept in logic when it is small."""

    depth: int
    width: int
    constant: bool = False


@dataclass(frozen=True)
class Cost:
    """products: (how many, bits of one operand, bits of the other).  adder_bits: of all adders and selectors; memories;
    register_bits: flip-flops beside those of logic."""

    products: tuple[tuple[int, int, int], ...] = ()
    adder_bits: int = 0
    memories: tuple[Memory, ...] = ()
    register_bits: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Process:
    """lanes_in, lanes_out: elements per packet of each operand and of the results; set by `wired`.
    where: the model's nodes that it comes from."""

    kind: ClassVar[str] = ""
    buffer: ClassVar[str] = ""
    """Its large working array, if it has one."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    where: str = ""
    lanes_in: tuple[int, ...] = ()
    lanes_out: int = 1

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        raise InternalError(f"{self.kind} has no run")

    def timing(self) -> Timing:
        raise InternalError(f"{self.kind} has no timing")

    def code(self) -> str:
        raise InternalError(f"{self.kind} has no code")

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Given the lanes of the producers: the lanes that it reads of each operand, and those that it writes."""
        raise InternalError(f"{self.kind} has no lanes")

    def roms(self) -> tuple[Rom, ...]:
        return ()

    def cost(self) -> Cost:
        return Cost()

    def foldings(self) -> tuple[Process, ...]:
        """The same process with every parallelism that it can have, slowest first."""
        return (self,)

    @property
    def widths(self) -> tuple[int, ...]:
        """Elements per packet of each result."""
        return (self.lanes_out,) * len(self.outputs)

    @property
    def work(self) -> int:
        """Multiply-accumulates of one frame."""
        return 0

    @property
    def cycles(self) -> int:
        """Iterations of one frame at the folding that it has; the wired process may differ by its reads."""
        return self.timing().iterations

    @property
    def memory(self) -> int:
        """Words of 64 bits that it keeps in the board's memory."""
        return 0

    @property
    def traffic(self) -> int:
        """Bytes that it moves to and from the board's memory in one frame."""
        return 0

    @property
    def contents(self) -> np.ndarray | None:
        """What its part of the board's memory holds from the start (u64); None: anything."""
        return None

    def about(self) -> str:
        """One line for the comment above its code."""
        return f"{self.kind} {list(self.inputs[0].shape)} -> {list(self.outputs[0].shape)}"

    def wired(self, lanes: tuple[int, ...]) -> Process:
        lanes_in, out = self.accepts(lanes)
        return replace(self, lanes_in=lanes_in, lanes_out=out)

    def packet(self, n: int, of_result: bool = False) -> str:
        """The C++ type of the packets of operand or result n."""
        if of_result:
            return f"tw::vec<{self.outputs[n].type.cpp}, {self.widths[n]}>"
        return f"tw::vec<{self.inputs[n].type.cpp}, {self.lanes_in[n]}>"

    def opening(self) -> str:
        """The signature, and that rows of constants are read at once."""
        lines = [f"#pragma HLS ARRAY_RESHAPE variable={r.name} complete dim=2" for r in self.roms()
                 if r.values.ndim == 2 and r.values.shape[1] > 1]
        return "\n".join([f"{self.signature()} {{", *lines])

    def signature(self) -> str:
        """The first line of its C++ function: operands x0.., results y0.."""
        ports = [f"tw::stream<{self.packet(n)}>& x{n}" for n in range(len(self.inputs))]
        ports += [f"tw::stream<{self.packet(n, True)}>& y{n}" for n in range(len(self.outputs))]
        if self.memory:
            ports.append(f"{'const ' * (self.contents is not None)}uint64_t* memory")
        return f"static void {self.name}({', '.join(ports)})"


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def every(count: int, per: int, start: int = 0) -> np.ndarray:
    """start, start + per, ... : count iterations, per apart."""
    return start + per * np.arange(count, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Design:
    """processes: in an executable order, all streams with one writer and one reader.
    depths: packets of every FIFO; ultra: processes and streams (by their C++ names) whose memory is UltraRAM.
    overlap: a frame enters while others are inside; otherwise it waits until the one before has left.
    interface: of its ports, "m_axi" or "axis"; beats: elements that a port moves at once, by its stream, otherwise 1.
    inputs, outputs: tensors of the top function; ports: what the host does with each."""

    name: str
    processes: tuple[Process, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    in_ports: tuple[InPort, ...]
    out_ports: tuple[OutPort, ...]
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    depths: Mapping[Tensor, int] = field(default_factory=dict)
    ultra: frozenset[str] = frozenset()
    overlap: bool = True
    interface: str = "m_axi"
    beats: Mapping[Tensor, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [p.name for p in self.processes]
        if len(set(names)) < len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise InternalError(f"several processes are called {', '.join(twice)}")

    def run(self, arrays: Sequence[np.ndarray], watch: dict[Tensor, np.ndarray] | None = None) -> list[np.ndarray]:
        """The integers of the outputs for those of the inputs: the integer interpreter."""
        env = dict(zip(self.inputs, arrays, strict=True))
        for p in self.processes:
            results = p.run(*(env.pop(t.stream).reshape(t.shape) for t in p.inputs))
            for t, a in zip(p.outputs, results, strict=True):
                if a.shape != t.shape or (a.size and (a.min() < t.type.low or a.max() > t.type.high)):
                    raise InternalError(f"{p.name}: {t} got {a.shape} with {a.min()}..{a.max()}")
                env[t] = a
                if watch is not None:
                    watch[t] = a
        return [env[t.stream].reshape(t.shape) for t in self.outputs]

    @property
    def memories(self) -> dict[str, Process]:
        """The ports to the board's memory, by name, beside those of inputs and outputs."""
        return {f"mem_{p.name}": p for p in self.processes if p.memory}

    @property
    def lanes(self) -> dict[Tensor, int]:
        """Elements per packet of every stream."""
        found = {t: self.beats.get(t, 1) for t in self.inputs}
        for p in self.processes:
            found.update(zip(p.outputs, p.widths, strict=True))
        return found
