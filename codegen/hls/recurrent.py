"""LSTM, GRU and RNN cells: the state stays in registers, one step is h @ r and the gates.

All pre-activations share one type, so one sigmoid and one tanh table serve a cell; the state h and the cell c have types
of their own.  A step costs H * gates * H / simd cycles of products and H of updates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from .body import Body
from .design import Cost, Memory, Process, Rom, Timing, divisors, every
from .dot import exact_product
from .fixed import Fixed, holding

GATES = {"lstm": 4, "gru": 3, "gru_linear": 3, "rnn": 1}


@dataclass(frozen=True, eq=False, kw_only=True)
class Recurrent(Process):
    """xw[T, B, G * H] to y[T, B, H] and the last states [B, H].  cell: a row of GATES.

    weights: r as [G * H, H] integers; bias [G * H] (the recurrent bias of a linear GRU) in the accumulator's units;
    gather: (xw, sum of the products) to the pre-activation; product: sum alone to the GRU's inner value; update: the new
    states, one body each, of the operands that `step` names; first: initial codes of the states [B, H]."""

    kind: ClassVar[str] = "recurrent"

    cell: str
    reverse: bool
    weights: np.ndarray
    weight_type: Fixed
    bias: np.ndarray
    accumulator: Fixed
    gather: Body
    product: Body
    reset: Body | None
    update: tuple[Body, ...]
    first: tuple[np.ndarray, ...]
    simd: int = 1

    @property
    def units(self) -> int:
        return self.weights.shape[1]

    @property
    def steps(self) -> int:
        return self.inputs[0].shape[0]

    @property
    def batch(self) -> int:
        return self.inputs[0].shape[1]

    @property
    def gates(self) -> int:
        return GATES[self.cell]

    @property
    def work(self) -> int:
        return self.steps * self.batch * self.weights.size

    @property
    def state_types(self) -> tuple[Fixed, ...]:
        return tuple(t.type for t in self.outputs[1:])

    def _sum(self, h: np.ndarray, rows: slice) -> np.ndarray:
        return exact_product(h, self.weights[rows].T) + self.bias[rows]

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (xw,) = arrays
        states = [s.copy() for s in self.first]
        y = np.zeros((self.steps, self.batch, self.units), np.int64)
        for n in range(self.steps):
            t = self.steps - 1 - n if self.reverse else n
            states = self._step(xw[t], states)
            y[t] = states[0]
        return (y, *states)

    def _step(self, x: np.ndarray, states: list[np.ndarray]) -> list[np.ndarray]:
        n, h = self.units, states[0]
        shape = h.shape

        def gate(i: int, source: np.ndarray) -> np.ndarray:
            rows = slice(i * n, (i + 1) * n)
            return self.gather.run(x[:, rows].ravel(), self._sum(source, rows).ravel())

        flat = [s.ravel() for s in states]
        if self.cell == "gru_linear":
            inner = self.product.run(self._sum(h, slice(2 * n, 3 * n)).ravel())
            operands = [gate(0, h), gate(1, h), x[:, 2 * n:].ravel(), inner, *flat]
        elif self.cell == "gru":
            assert self.reset is not None
            scaled = self.reset.run(gate(1, h), flat[0]).reshape(shape)
            operands = [gate(0, h), gate(2, scaled), *flat]
        else:
            operands = [*(gate(i, h) for i in range(self.gates)), *flat]
        new: list[np.ndarray] = []
        for body in reversed(self.update):  # c first: h reads the new c, which is its last operand
            new.insert(0, body.run(*operands, *new[:1]))
        return [v.reshape(shape) for v in new]

    def foldings(self) -> tuple[Process, ...]:
        return tuple(replace(self, simd=s) for s in divisors(self.units))

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return (1,), 1

    @property
    def _step_cycles(self) -> int:
        products = self.gates * self.units * (self.units // self.simd)
        return self.gates * self.units + products + 2 * self.units

    @property
    def cycles(self) -> int:
        kept = self.inputs[0].size + self.outputs[0].size if self.reverse else 0
        return self.steps * self.batch * self._step_cycles + len(self.first) * self.batch * self.units + kept

    def timing(self) -> Timing:
        rows, per, h = self.steps * self.batch, self._step_cycles, self.units
        lead, tail = (self.inputs[0].size, self.outputs[0].size) if self.reverse else (0, 0)
        starts = every(rows, per)[:, None]
        reads = np.arange(lead) if self.reverse else (starts + np.arange(self.gates * h)).ravel()
        y = lead + rows * per + np.arange(tail) if self.reverse else (starts + per - h + np.arange(h)).ravel()
        state, after = np.arange(self.batch * h), lead + rows * per + tail
        ends = [after + n * self.batch * h + state for n in range(len(self.first))]
        return Timing(self.cycles, (reads,), (y, *ends), 8)

    def roms(self) -> tuple[Rom, ...]:
        n = self.name
        bias = holding(int(self.bias.min()), int(self.bias.max()))
        firsts = tuple(Rom(f"{n}_s{i}", f, t) for i, (f, t) in enumerate(zip(self.first, self.state_types, strict=True)))
        w = self.weights.reshape(-1, self.simd)
        return (Rom(f"{n}_w", w, self.weight_type), Rom(f"{n}_b", self.bias[:, None], bias), *firsts)

    def cost(self) -> Cost:
        h, acc = self.units, self.accumulator.bits
        bodies = [self.gather, self.product, *self.update, *([self.reset] if self.reset else [])]
        tables = tuple(Memory(len(t.start), t.start_type.bits + t.slope_type.bits, True) for b in bodies for t in b.tables)
        kept = (Memory(self.gates * h, self.inputs[0].type.bits), Memory(2 * h // self.simd, self.simd * acc))
        if self.reverse:
            kept += (Memory(self.inputs[0].size, self.inputs[0].type.bits),)
        roms = tuple(Memory(r.values.shape[0], r.values.shape[1] * r.type.bits, True) for r in self.roms())
        return Cost(((self.simd, self.state_types[0].bits, self.weight_type.bits),
                     (sum(b.products for b in bodies), 18, 18)),
                    self.simd * acc + sum(b.adder_bits for b in bodies), (*roms, *tables, *kept))

    def about(self) -> str:
        return f"{self.cell} of {self.units} units, {self.steps} steps, {self.simd} products a cycle"

    def code(self) -> str:
        bodies = [("gather", self.gather), ("inner", self.product)]
        bodies += [("scale", self.reset)] if self.reset else []
        bodies += [(f"new{i}", b) for i, b in enumerate(self.update)]
        used = "".join(b.code(f"{self.name}_{n}") for n, b in bodies if n != "inner" or self.cell == "gru_linear")
        return used + self._function()

    def _function(self) -> str:
        h, b, t, n, g = self.units, self.batch, self.steps, self.name, self.gates
        states = len(self.first)
        own = "\n".join(
            f"  static {s.cpp} s{i}[{b}][{h}];\n  static {s.cpp} next{i}[{h}];" for i, s in enumerate(self.state_types)
        )
        load = "\n".join(f"      s{i}[k][u] = {n}_s{i}[k][u];" for i in range(states))
        back = "\n".join(f"        s{i}[k][u] = next{i}[u];" for i in range(states))
        read = "x0.read().v[0]" if not self.reverse else f"all[({t - 1} - t) * {b * g * h} + k * {g * h} + i]"
        write = "y0.write(y);" if not self.reverse else f"result[({t - 1} - t) * {b * h} + k * {h} + u] = next0[u];"
        return f"""
{self.opening()}
{own}
  {self.inputs[0].type.cpp} x[{g * h}];
  {self.accumulator.cpp} sums[{g * h}];
{self._buffers()}  for (int k = 0; k < {b}; ++k)
    for (int u = 0; u < {h}; ++u) {{
#pragma HLS PIPELINE II=1
{load}
    }}
  for (int t = 0; t < {t}; ++t)
    for (int k = 0; k < {b}; ++k) {{
      for (int i = 0; i < {g * h}; ++i) {{
#pragma HLS PIPELINE II=1
        x[i] = {read};
      }}
{self._sums_code()}
      for (int u = 0; u < {h}; ++u) {{
#pragma HLS PIPELINE II=1
{self._update_code()}
      }}
      for (int u = 0; u < {h}; ++u) {{
#pragma HLS PIPELINE II=1
        tw::vec<{self.outputs[0].type.cpp}, 1> y;
        y.v[0] = next0[u];
{back}
        {write}
      }}
    }}
{self._last_code()}}}
"""

    def _buffers(self) -> str:
        size, out = self.inputs[0].size, self.outputs[0].size
        scaled = f"  {self.state_types[0].cpp} scaled[{self.units}];\n" if self.cell == "gru" else ""
        if not self.reverse:
            return scaled
        return scaled + f"""  static {self.inputs[0].type.cpp} all[{size}];
  static {self.outputs[0].type.cpp} result[{out}];
  for (int i = 0; i < {size}; ++i) {{
#pragma HLS PIPELINE II=1
    all[i] = x0.read().v[0];
  }}
"""

    def _dot_code(self, start: int, count: int, source: str) -> str:
        h, s, acc = self.units, self.simd, self.accumulator.cpp
        packets = h // s
        return f"""      for (int u = {start}; u < {start + count}; ++u)
        for (int j = 0; j < {packets}; ++j) {{
#pragma HLS PIPELINE II=1
          {acc} sum = j == 0 ? {acc}({self.name}_b[u][0]) : sums[u];
          for (int i = 0; i < {s}; ++i) {{
#pragma HLS UNROLL
            sum += {source}[j * {s} + i] * {self.name}_w[u * {packets} + j][i];
          }}
          sums[u] = sum;
        }}
"""

    def _sums_code(self) -> str:
        h = self.units
        if self.cell != "gru":
            return self._dot_code(0, self.gates * h, "s0[k]")
        n = self.name
        return self._dot_code(0, 2 * h, "s0[k]") + f"""      for (int u = 0; u < {h}; ++u) {{
#pragma HLS PIPELINE II=1
        scaled[u] = {n}_scale({n}_gather(x[{h} + u], sums[{h} + u]), s0[k][u]);
      }}
""" + self._dot_code(2 * h, h, "scaled")

    def _update_code(self) -> str:
        h, n = self.units, self.name
        gate = [f"{n}_gather(x[{i * h} + u], sums[{i * h} + u])" for i in range(self.gates)]
        states = [f"s{i}[k][u]" for i in range(len(self.first))]
        if self.cell == "gru_linear":
            operands = [gate[0], gate[1], f"x[{2 * h} + u]", f"{n}_inner(sums[{2 * h} + u])", *states]
        elif self.cell == "gru":
            operands = [gate[0], gate[2], *states]
        else:
            operands = [*gate, *states]
        lines = [f"        const auto v{i} = {text};" for i, text in enumerate(operands)]
        names = ", ".join(f"v{i}" for i in range(len(operands)))
        if len(self.update) == 2:
            lines.append(f"        next1[u] = {n}_new1({names});")
            names += ", next1[u]"
        lines.append(f"        next0[u] = {n}_new0({names});")
        return "\n".join(lines)

    def _last_code(self) -> str:
        h, b = self.units, self.batch
        text = ""
        if self.reverse:
            text += f"""  for (int i = 0; i < {self.outputs[0].size}; ++i) {{
#pragma HLS PIPELINE II=1
    tw::vec<{self.outputs[0].type.cpp}, 1> y;
    y.v[0] = result[i];
    y0.write(y);
  }}
"""
        for i, state in enumerate(self.state_types):
            text += f"""  for (int k = 0; k < {b}; ++k)
    for (int u = 0; u < {h}; ++u) {{
#pragma HLS PIPELINE II=1
      tw::vec<{state.cpp}, 1> y;
      y.v[0] = s{i}[k][u];
      y{i + 1}.write(y);
    }}
"""
        return text
