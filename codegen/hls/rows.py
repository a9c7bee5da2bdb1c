"""Processes that need a whole row before they can answer: reductions, softmax, normalisation.

All divisions are by integers that are computed once per row or once per element, exact in the interpreter and in C++.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import numpy as np

from ...ir.errors import ModelError
from .body import Body, divide
from .design import Cost, Memory, Process, Rom, Timing, every
from .dot import vector_arguments, vector_roms
from .fixed import Fixed, holding
from .table import Table

_MORE = {"sum": "old + x.v[l]", "max": "old > x.v[l] ? {0}(old) : {0}(x.v[l])", "min": "old < x.v[l] ? {0}(old) : {0}(x.v[l])"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Reduce(Process):
    """x[A, R, C] over R by sum, max or min; the body works on each result, its vectors of period C."""

    kind: ClassVar[str] = "reduce"

    fn: str
    outer: int
    count: int
    inner: int
    body: Body

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0].reshape(self.outer, self.count, self.inner)
        acc = {"sum": np.sum, "max": np.max, "min": np.min}[self.fn](x, axis=1)
        return (self.body.run(acc.ravel()).reshape(self.outputs[0].shape),)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        width = gcd(lanes[0], self.inner)
        return (width,), width

    @property
    def cycles(self) -> int:
        return self.inputs[0].size // self.lanes_out

    def timing(self) -> Timing:
        c = self.inner // self.lanes_out
        last = every(self.outer, self.count * c, (self.count - 1) * c)
        writes = (last[:, None] + np.arange(c)).ravel()
        return Timing(self.cycles, (every(self.cycles, 1),), (writes,), 4)

    def roms(self) -> tuple[Rom, ...]:
        return vector_roms(self.name, self.body, self.lanes_out)

    def cost(self) -> Cost:
        acc = self.body.inputs[0].bits
        return Cost(((self.lanes_out * self.body.products, 18, 18),), self.lanes_out * (acc + self.body.adder_bits),
                    (Memory(self.inner // self.lanes_out, acc * self.lanes_out),))

    def about(self) -> str:
        return f"{self.fn} over {self.count} of {self.outer} x {self.count} x {self.inner}"

    def code(self) -> str:
        acc, n, c = self.body.inputs[0].cpp, self.name, self.inner // self.lanes_out
        return f"""{self.body.code(n + "_body")}
{self.opening()}
  {acc} acc[{c}][{self.lanes_out}];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=2
  for (int a = 0; a < {self.outer}; ++a)
    for (int r = 0; r < {self.count}; ++r)
      for (int c = 0; c < {c}; ++c) {{
#pragma HLS PIPELINE II=1
        const auto x = x0.read();
        {self.packet(0, True)} y;
        for (int l = 0; l < {self.lanes_out}; ++l) {{
#pragma HLS UNROLL
          const {acc} old = acc[c][l];
          {acc} sum = {acc}(x.v[l]);
          if (r > 0) sum = {_MORE[self.fn].format(acc)};
          acc[c][l] = sum;
          y.v[l] = {n}_body(sum{vector_arguments(n, self.body, 'c', 'l')});
        }}
        if (r == {self.count - 1}) y0.write(y);
      }}
}}
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class RowProcess(Process):
    """Rows of n elements, read once, kept, and written in the last of `passes` passes."""

    passes: ClassVar[int] = 3

    @property
    def length(self) -> int:
        return self.inputs[0].shape[-1]

    @property
    def rows(self) -> int:
        return self.inputs[0].size // self.length

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return (1,), 1

    @property
    def cycles(self) -> int:
        return self.passes * self.inputs[0].size

    def timing(self) -> Timing:
        n = self.length
        starts = every(self.rows, self.passes * n)
        reads = (starts[:, None] + np.arange(n)).ravel()
        return Timing(self.cycles, (reads,), (reads + (self.passes - 1) * n,), 40)


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(RowProcess):
    """exp(x - max) / sum over the last axis.  table: of max - x, clipped to its operand, to exp; the result is unsigned."""

    kind: ClassVar[str] = "softmax"

    table: Table

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (softmax_rows(arrays[0], self.table, self.outputs[0].type),)

    @property
    def sum_type(self) -> Fixed:
        return holding(0, self.length * self.table.result.high)

    def cost(self) -> Cost:
        bits = self.inputs[0].type.bits
        t = self.table
        memories = (Memory(self.length, bits), Memory(self.length, t.result.bits),
                    Memory(len(t.start), t.start_type.bits + t.slope_type.bits, True))
        return Cost(((1, 18, 18),), 40 * self.outputs[0].type.bits, memories)

    def about(self) -> str:
        return f"softmax of {self.rows} rows of {self.length}"

    def code(self) -> str:
        return f"""{self.opening()}
  {self.inputs[0].type.cpp} row[{self.length}];
  {self.table.result.cpp} power[{self.length}];
  for (int r = 0; r < {self.rows}; ++r) {{
    {self.inputs[0].type.cpp} top = 0;
    for (int i = 0; i < {self.length}; ++i) {{
#pragma HLS PIPELINE II=1
      const auto x = x0.read().v[0];
      row[i] = x;
      if (i == 0 || x > top) top = x;
    }}
{softmax_code('row', 'power', str(self.length), self.table, self.sum_type, '    ')}
    for (int i = 0; i < {self.length}; ++i) {{
#pragma HLS PIPELINE II=1
      {self.packet(0, True)} y;
      y.v[0] = {share_code('power[i]', self.table, self.outputs[0].type)};
      y0.write(y);
    }}
  }}
}}
"""


def softmax_rows(x: np.ndarray, table: Table, result: Fixed) -> np.ndarray:
    """Over the last axis; codes of any type to codes of the result."""
    away = np.minimum(x.max(-1, keepdims=True) - x, table.operand.high)
    power = table.run(away)
    total = power.sum(-1, keepdims=True)
    return np.minimum(divide((power << result.frac) + (total >> 1), total), result.high)


def softmax_code(row: str, power: str, count: str, table: Table, total: Fixed, pad: str) -> str:
    """power[i] = table(top - row[i]) and their total."""
    limit = f"{table.operand.high}LL"
    return f"""{pad}{total.cpp} total = 0;
{pad}for (int i = 0; i < {count}; ++i) {{
#pragma HLS PIPELINE II=1
{pad}  const {table.result.cpp} e = {table.name}(tw::saturate<{table.operand.cpp}>(top - {row}[i], 0LL, {limit}));
{pad}  {power}[i] = e;
{pad}  total += e;
{pad}}}"""


def share_code(power: str, table: Table, result: Fixed) -> str:
    wide = Fixed(min(62, table.result.bits + result.frac + 2))
    return (f"tw::saturate<{result.cpp}>(tw::divide<{wide.cpp}>({wide.cpp}({power}) * {1 << result.frac}LL + (total >> 1), "
            f"total), 0LL, {result.high}LL)")


PART_BITS = 46  # fractional bits of the reciprocal of a root


@dataclass(frozen=True, eq=False, kw_only=True)
class Norm(RowProcess):
    """(x - mean) / sqrt(variance + epsilon), then the body with scale and bias; without `centre` the mean is taken as 0.

    With d = n * x - sum(x): root = isqrt(sum(d^2) / n * 2^lift + epsilon), and the body is given
    d * (2^PART_BITS / root) / 2^drop; see `norm_shape`."""

    kind: ClassVar[str] = "norm"

    body: Body
    epsilon: int
    lift: int
    drop: int
    centre: bool

    @property
    def difference(self) -> Fixed:
        reach = 2 * self.length * max(-self.inputs[0].type.low, self.inputs[0].type.high)
        return holding(-reach, reach)

    @property
    def square_sum(self) -> Fixed:
        reach = self.difference.high**2 * self.length
        return holding(0, reach)

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        n = self.length
        x = arrays[0].reshape(-1, n)
        d = n * x - x.sum(1, keepdims=True) if self.centre else n * x
        power = (d * d).sum(1, keepdims=True)
        root = isqrt(((power // n) << self.lift) + self.epsilon)
        part = (1 << PART_BITS) // np.maximum(root, 1)
        limit = self.body.inputs[0]
        y = np.clip(d * part >> self.drop, limit.low, limit.high)
        return (self.body.run(y.ravel()).reshape(self.outputs[0].shape),)

    def roms(self) -> tuple[Rom, ...]:
        return vector_roms(self.name, self.body, 1)

    def cost(self) -> Cost:
        d = self.difference.bits
        return Cost(((1, d, d), (1, d, PART_BITS), (self.body.products, 18, 18)), 64 * 4 + self.body.adder_bits,
                    (Memory(self.length, self.inputs[0].type.bits),))

    def about(self) -> str:
        return f"normalises {self.rows} rows of {self.length}"

    def code(self) -> str:
        n, d, limit = self.length, self.difference.cpp, self.body.inputs[0]
        mean = "sum" if self.centre else "0"
        return f"""{self.body.code(self.name + "_body")}
{self.opening()}
  {self.inputs[0].type.cpp} row[{n}];
  for (int r = 0; r < {self.rows}; ++r) {{
    {d} sum = 0;
    for (int i = 0; i < {n}; ++i) {{
#pragma HLS PIPELINE II=1
      const auto x = x0.read().v[0];
      row[i] = x;
      sum += x;
    }}
    {self.square_sum.cpp} power = 0;
    for (int i = 0; i < {n}; ++i) {{
#pragma HLS PIPELINE II=1
      const {d} away = {d}(row[i]) * {n} - {mean};
      power += away * away;
    }}
    const tw::uint<32> root = tw::root(tw::uint<62>(power / {n}) * {1 << self.lift}LL + {self.epsilon}LL);
    const tw::sint<48> part = {1 << PART_BITS}LL / (root > 0 ? tw::sint<33>(root) : tw::sint<33>(1));
    for (int i = 0; i < {n}; ++i) {{
#pragma HLS PIPELINE II=1
      const {d} away = {d}(row[i]) * {n} - {mean};
      const {limit.cpp} scaled = tw::saturate<{limit.cpp}>((away * part) >> {self.drop}, {limit.low}LL, {limit.high}LL);
      {self.packet(0, True)} y;
      y.v[0] = {self.name}_body(scaled{vector_arguments(self.name, self.body, 'i', '0')});
      y0.write(y);
    }}
  }}
}}
"""


def isqrt(x: np.ndarray) -> np.ndarray:
    """The integer part of the square root of non-negative int64."""
    root = np.floor(np.sqrt(x.astype(np.float64))).astype(np.int64)
    root = np.where(root * root > x, root - 1, root)
    return np.where((root + 1) * (root + 1) <= x, root + 1, root)


def norm_shape(length: int, operand: Fixed, epsilon: float, out: Fixed) -> tuple[int, int, int]:
    """lift, integer epsilon and drop of a `Norm`.

    With u = step / length: variance = V * u^2 for V = sum(d^2) / length, root = sqrt(V + epsilon / u^2) * 2^(lift / 2), so
    d * u / sqrt(variance + epsilon) = d * 2^(lift / 2) / root.  lift is the largest even number for which 62 bits do."""
    reach = 2 * length * max(-operand.low, operand.high)
    bits = (reach * reach).bit_length()
    scaled = epsilon * (length / operand.step) ** 2
    if bits > 58 or scaled >= 2.0**58:
        raise ModelError(f"fpga: normalisation of {length} elements of {operand} needs more than 62 bits; use fewer bits")
    lift = (60 - max(bits, int(scaled).bit_length())) // 2 * 2
    return lift, int(scaled * 2.0**lift + 0.5), PART_BITS - lift // 2 - out.frac
