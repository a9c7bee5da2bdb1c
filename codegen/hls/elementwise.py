"""Element-by-element work on streams of one shape: a `Body` per element, residual additions among it."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import numpy as np

from .body import Body
from .design import Cost, Memory, Process, Rom, Timing, every
from .dot import rom_memories, vector_arguments, vector_roms


@dataclass(frozen=True, eq=False, kw_only=True)
class Map(Process):
    """The body on corresponding elements of all operands; the period of its vectors divides the number of elements."""

    kind: ClassVar[str] = "map"

    body: Body

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (self.body.run(*(a.ravel() for a in arrays)).reshape(self.outputs[0].shape),)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        width = gcd(*lanes, self.body.period) if self.body.vectors else gcd(*lanes)
        return (width,) * len(lanes), width

    @property
    def cycles(self) -> int:
        return self.outputs[0].size // self.lanes_out

    def timing(self) -> Timing:
        packets = every(self.cycles, 1)
        return Timing(self.cycles, (packets,) * len(self.inputs), (packets,), 3 + 4 * len(self.body.tables))

    def roms(self) -> tuple[Rom, ...]:
        return vector_roms(self.name, self.body, self.lanes_out)

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
        n, total = self.name, self.outputs[0].size // self.lanes_out
        rows = self.body.period // self.lanes_out if self.body.vectors else 1
        reads = "\n".join(f"      const auto v{i} = x{i}.read();" for i in range(len(self.inputs)))
        values = ", ".join(f"v{i}.v[l]" for i in range(len(self.inputs)))
        return f"""{self.body.code(n + "_body")}
{self.opening()}
  for (int i = 0; i < {total // rows}; ++i)
    for (int c = 0; c < {rows}; ++c) {{
#pragma HLS PIPELINE II=1
{reads}
      {self.packet(0, True)} y;
      for (int l = 0; l < {self.lanes_out}; ++l) {{
#pragma HLS UNROLL
        y.v[l] = {n}_body({values}{vector_arguments(n, self.body, 'c', 'l')});
      }}
      y0.write(y);
    }}
}}
"""
