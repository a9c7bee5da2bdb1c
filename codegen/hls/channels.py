"""Products and pools that keep channels apart: depthwise convolution, maximum, sum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from .body import Body
from .design import Cost, Memory, Process, Rom, Timing, divisors, every
from .dot import MAX_UNROLL, rom_memories, vector_arguments, vector_roms
from .fixed import Fixed, holding

MAX_WHOLE = 2048  # values of a window that is read at once


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelDot(Process):
    """Windows of `taps` values per channel to one value per channel: fn "dot" (weights [taps, C] and bias [C]), "max" or
    "sum".  It reads, for each position and each packet of channels, the taps in order, or, if whole, all values at once.

    A vector of the body has period C, or positions * C (averages whose windows are cut by the border)."""

    kind: ClassVar[str] = "channels"

    fn: str
    taps: int
    body: Body
    weights: np.ndarray | None = None
    weight_type: Fixed | None = None
    bias: np.ndarray | None = None
    pe: int = 1
    whole: bool = False

    @property
    def channels(self) -> int:
        return self.outputs[0].shape[-1]

    @property
    def positions(self) -> int:
        return self.outputs[0].size // self.channels

    @property
    def work(self) -> int:
        return self.inputs[0].size if self.fn == "dot" else 0

    @property
    def cycles(self) -> int:
        return self.outputs[0].size // self.pe * (1 if self.whole else self.taps)

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0].reshape(-1, self.taps, self.channels)
        if self.fn == "dot":
            assert self.weights is not None and self.bias is not None
            acc = (x * self.weights).sum(1) + self.bias
        else:
            acc = x.max(1) if self.fn == "max" else x.sum(1)
        return (self.body.run(acc.ravel()).reshape(self.outputs[0].shape),)

    def foldings(self) -> tuple[Process, ...]:
        c = self.channels
        at_once = [replace(self, pe=c, whole=True)] if 1 < self.taps <= MAX_WHOLE // c else []
        return (*(replace(self, pe=pe) for pe in divisors(c) if pe <= MAX_UNROLL), *at_once)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return (self.pe * (self.taps if self.whole else 1),), self.pe

    def timing(self) -> Timing:
        total = self.cycles
        if self.whole:
            return Timing(total, (every(total, 1),), (every(total, 1),), 8)
        return Timing(total, (every(total, 1),), (every(total // self.taps, self.taps, self.taps - 1),), 6)

    def roms(self) -> tuple[Rom, ...]:
        vectors = vector_roms(self.name, self.body, self.pe)
        if self.weights is None or self.bias is None or self.weight_type is None:
            return vectors
        w = self.weights.reshape(self.taps, -1, self.pe).transpose(1, 0, 2).reshape(-1, self._values)
        bias = Rom(f"{self.name}_b", self.bias.reshape(-1, self.pe), holding(int(self.bias.min()), int(self.bias.max())))
        return (Rom(f"{self.name}_w", w, self.weight_type), bias, *vectors)

    def cost(self) -> Cost:
        bits, taps = self.inputs[0].type.bits, self._values // self.pe
        products = ((self._values, bits, self.weight_type.bits),) if self.weight_type else ()
        products += ((self.pe * self.body.products, 18, 18),)
        tables = tuple(Memory(len(t.start), t.start_type.bits + t.slope_type.bits, True)
                       for t in self.body.tables for _ in range(self.pe))
        return Cost(products, self.pe * (self.body.inputs[0].bits * taps + self.body.adder_bits),
                    (*rom_memories(self.roms()), *tables))

    @property
    def _values(self) -> int:
        """Elements that it reads in a cycle."""
        return self.pe * (self.taps if self.whole else 1)

    def about(self) -> str:
        at_once = " of whole windows" * self.whole
        return f"{self.fn} over windows of {self.taps}, {self.positions} x {self.channels}, {self.pe} channels{at_once} a cycle"

    def _whole_code(self) -> str:
        acc, n, c = self.body.inputs[0].cpp, self.name, self.channels
        value = f"x.v[t * {c} + o]"
        first, start, step = f"{acc}(x.v[o])", 1, f"sum += {value};"
        if self.fn == "dot":
            first, start, step = f"{n}_b[0][o]", 0, f"sum += {value} * {n}_w[0][t * {c} + o];"
        elif self.fn == "max":
            step = f"if ({value} > sum) sum = {value};"
        row = "0" if self.body.period == c or not self.body.vectors else "p"
        return f"""{self.body.code(n + "_body")}
{self.opening()}
  for (int p = 0; p < {self.positions}; ++p) {{
#pragma HLS PIPELINE II=1
    const auto x = x0.read();
    {self.packet(0, True)} y;
    for (int o = 0; o < {c}; ++o) {{
#pragma HLS UNROLL
      {acc} sum = {first};
      for (int t = {start}; t < {self.taps}; ++t) {{
#pragma HLS UNROLL
        {step}
      }}
      y.v[o] = {n}_body(sum{vector_arguments(n, self.body, row, 'o')});
    }}
    y0.write(y);
  }}
}}
"""

    def code(self) -> str:
        if self.whole:
            return self._whole_code()
        acc, n, groups = self.body.inputs[0].cpp, self.name, self.channels // self.pe
        value = "x.v[o]"
        if self.fn == "dot":
            first = f"{acc}({n}_b[c][o]) + x.v[o] * {n}_w[c * {self.taps} + t][o]"
            more = f"acc[o] + x.v[o] * {n}_w[c * {self.taps} + t][o]"
        elif self.fn == "sum":
            first, more = f"{acc}({value})", f"acc[o] + {value}"
        else:
            first, more = f"{acc}({value})", f"acc[o] > {value} ? {acc}(acc[o]) : {acc}({value})"
        row = "c" if self.body.period == self.channels or not self.body.vectors else f"p * {groups} + c"
        return f"""{self.body.code(n + "_body")}
{self.opening()}
  {acc} acc[{self.pe}];
#pragma HLS ARRAY_PARTITION variable=acc complete
  for (int p = 0; p < {self.positions}; ++p)
    for (int c = 0; c < {groups}; ++c)
      for (int t = 0; t < {self.taps}; ++t) {{
#pragma HLS PIPELINE II=1
        const auto x = x0.read();
        {self.packet(0, True)} y;
        for (int o = 0; o < {self.pe}; ++o) {{
#pragma HLS UNROLL
          {acc} sum;
          if (t == 0)
            sum = {first};
          else
            sum = {more};
          acc[o] = sum;
          y.v[o] = {n}_body(sum{vector_arguments(n, self.body, row, 'o')});
        }}
        if (t == {self.taps - 1}) y0.write(y);
      }}
}}
"""

