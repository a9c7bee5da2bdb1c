"""Products whose weights are read from the board's memory into memories on the chip, before every frame.

    x -> Dot -> y      becomes      Fetch (memory) -> LoadedDot <- x,   LoadedDot -> y
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from .design import Cost, Memory, Rom, Timing
from .dot import Dot
from .fetch import Fetch, fetch_of


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedDot(Dot):
    """A `Dot` that reads its weights and biases, operands 1 and 2, into memories on the chip before every frame."""

    kind: ClassVar[str] = "loaded_dot"

    @property
    def rows(self) -> int:
        groups, packets = self.sizes
        return groups * packets

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        groups, packets = self.sizes
        w = arrays[1][0].reshape(groups, packets, self.pe, self.simd).transpose(0, 2, 1, 3).reshape(self.weights.shape)
        return replace(self, weights=w, bias=arrays[2][0].ravel()).product(arrays[0])

    def product(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return Dot.run(self, x)

    @property
    def adders(self) -> None:
        return None

    @property
    def skips(self) -> bool:
        return False

    @property
    def cycles(self) -> int:
        return super().cycles + self.sizes[0] + self.rows

    def timing(self) -> Timing:
        plain, groups = super().timing(), self.sizes[0]
        front = groups + self.rows
        return Timing(self.cycles, (plain.reads[0] + front, groups + np.arange(self.rows), np.arange(groups)),
                      (plain.writes[0] + front,), plain.latency)

    def roms(self) -> tuple[Rom, ...]:
        return super().roms()[2:]

    def cost(self) -> Cost:
        plain = super().cost()
        weights = Memory(self.rows, self.pe * self.simd * self.weight_type.bits)
        biases = Memory(self.sizes[0], self.pe * self.body.inputs[0].bits)
        return replace(plain, memories=(*plain.memories, weights, biases))

    def about(self) -> str:
        return f"{super().about()}, weights loaded"

    def weight_at(self, row: str, lane: str) -> str:
        return f"w[{row}].v[{lane}]"

    def bias_at(self, group: str, lane: str) -> str:
        return f"b[{group}].v[{lane}]"

    def loading(self) -> str:
        text = ""
        for name, operand, count in (("b", 2, self.sizes[0]), ("w", 1, self.rows)):
            text += f"""  {self.packet(operand)} {name}[{count}];
#pragma HLS AGGREGATE variable={name}
  for (int r = 0; r < {count}; ++r) {{
#pragma HLS PIPELINE II=1
    {name}[r] = x{operand}.read();
  }}
"""
        return text


def loaded(p: Dot) -> tuple[Fetch, LoadedDot]:
    """A wired product that loads its weights and biases from memory before every frame."""
    fetch, biases = fetch_of(p, 1, True)
    values = {f.name: getattr(p, f.name) for f in fields(p)}
    lanes = (*p.lanes_in, p.pe * p.simd, p.pe)
    return fetch, LoadedDot(**(values | {"inputs": (*p.inputs, fetch.outputs[0], *biases), "lanes_in": lanes}))
