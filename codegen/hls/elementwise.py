"""Element-by-element work on streams of one shape: a `Body` per element, residual additions among it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import ClassVar

import numpy as np

from .body import Body, Instr
from .design import Cost, Memory, Process, Rom, Timing, every
from .dot import rom_memories


@dataclass(frozen=True, eq=False, kw_only=True)
class Map(Process):
    """The body on corresponding elements of all operands; """

    kind: ClassVar[str] = "map"

    body: Body

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (self.body.run(*(a.ravel() for a in arrays)).reshape(self.outputs[0].shape),)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        width = gcd(*lanes, *(v.repeat if v.repeat > 1 else len(v.vector) for v in self.body.vectors if v.vector is not None))
        return (width,) * len(lanes), width

    @property
    def cycles(self) -> int:
        return self.outputs[0].size // self.lanes_out

    def timing(self) -> Timing:
        packets = every(self.cycles, 1)
        return Timing(self.cycles, (packets,) * len(self.inputs), (packets,), 3 + 4 * len(self.body.tables))

    def roms(self) -> tuple[Rom, ...]:
        found = []
        for n, i in enumerate(self.body.vectors):
            assert i.vector is not None
            lanes = 1 if i.repeat > 1 else self.lanes_out
            found.append(Rom(f"{self.name}_c{n}", i.vector.reshape(-1, lanes), i.out.type))
        return tuple(found)

    @property
    def levels(self) -> list[int]:
        """Elements at which a vector's index steps or begins again, from the whole tensor down to one packet: each
        divides the one before, since all come from trailing dimensions."""
        marks = {self.outputs[0].size, self.lanes_out}
        for i in self.body.vectors:
            assert i.vector is not None
            marks |= {max(i.repeat, self.lanes_out), i.repeat * len(i.vector)}
        return sorted(marks, reverse=True)

    def _argument(self, n: int, instr: Instr) -> str:
        """The value of vector n in the loops over the levels."""
        assert instr.vector is not None
        step, levels, terms = max(instr.repeat, self.lanes_out), self.levels, []
        for number, (outer, inner) in enumerate(pairwise(levels)):
            if step <= inner and outer <= instr.repeat * len(instr.vector):
                terms.append(f"i{number} * {inner // step}" if inner > step else f"i{number}")
        lane = "0" if instr.repeat > 1 else "l"
        return f", {self.name}_c{n}[{' + '.join(terms) or '0'}][{lane}]"

    def cost(self) -> Cost:
        lanes = self.lanes_out
        tables = tuple(Memory(len(t.start), t.start_type.bits + t.slope_type.bits, True)
                       for t in self.body.tables for _ in range(lanes))
        return Cost(((lanes * self.body.products, 18, 18),), lanes * self.body.adder_bits,
                    (*rom_memories(self.roms()), *tables))

    def about(self) -> str:
        ops = " ".join(i.op for i in self.body.instrs if i.op not in ("input", "const", "vector", "round", "scale"))
        return f"{ops or 'round'} on {list(self.outputs[0].shape)}"

    def code(self) -> str:
        n, levels = self.name, self.levels
        loops = [(number, outer // inner) for number, (outer, inner) in enumerate(pairwise(levels))] or [(0, 1)]
        head = "\n".join(f"{'  ' * (k + 1)}for (int i{number} = 0; i{number} < {count}; ++i{number})"
                         for k, (number, count) in enumerate(loops))
        constants = "".join(self._argument(k, i) for k, i in enumerate(self.body.vectors))
        reads = "\n".join(f"      const auto v{i} = x{i}.read();" for i in range(len(self.inputs)))
        values = ", ".join(f"v{i}.v[l]" for i in range(len(self.inputs)))
        return f"""{self.body.code(n + "_body")}
{self.opening()}
{head} {{
#pragma HLS PIPELINE II=1
{reads}
      {self.packet(0, True)} y;
      for (int l = 0; l < {self.lanes_out}; ++l) {{
#pragma HLS UNROLL
        y.v[l] = {n}_body({values}{constants});
      }}
      y0.write(y);
    }}
}}
"""
