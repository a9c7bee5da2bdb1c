"""Products whose weights are in the board's memory.

    x -> Dot -> y      becomes      Fetch (memory) -> TiledDot <- x,   TiledDot -> y

`TiledDot` keeps the operands of `tile` positions and reads every packet of weights once for all of them, so the memory gives a
packet every `tile` cycles.  The weights are read anew for every tile; other weights in memory are other weights in use.  Biases
are in memory too where the weights are meant to be exchanged: a second result of `Fetch`, in front of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import ceil
from typing import ClassVar

import numpy as np

from .design import Cost, Memory, Process, Rom, Timing, divisors, every
from .dot import Dot, vector_arguments
from .spill import ANSWER, WORD
from .tensor import Tensor

TILE = 64  # positions that share a packet of weights, at most
_SHARE = 4  # the operands that are kept take at most one part in so many of what the weights took


@dataclass(frozen=True, eq=False, kw_only=True)
class Fetch(Process):
    """Rows of weights [rows, lanes], read from memory `times` times; a row is a packet in words of its own.
    bias [rows, lanes]: the same for biases, one in a word, if they are in memory."""

    kind: ClassVar[str] = "fetch"

    rows: np.ndarray
    times: int
    bias: np.ndarray | None = None

    @property
    def bias_words(self) -> int:
        return 0 if self.bias is None else self.bias.size

    @property
    def words(self) -> int:
        return ceil(self.rows.shape[1] / (WORD // self.outputs[0].type.bits))

    @property
    def memory(self) -> int:
        return self.bias_words + self.words * len(self.rows)

    @property
    def traffic(self) -> int:
        return self.memory * self.times * WORD // 8

    @property
    def contents(self) -> np.ndarray:
        bits, lanes = self.outputs[0].type.bits, self.rows.shape[1]
        per = WORD // bits
        codes = (self.rows & ((1 << bits) - 1)).astype(np.uint64)
        words = np.zeros((len(codes), self.words), np.uint64)
        for lane in range(lanes):
            words[:, lane // per] |= codes[:, lane] << np.uint64(lane % per * bits)
        front = np.zeros(0, np.uint64) if self.bias is None else self.bias.ravel().astype(np.int64).view(np.uint64)
        return np.concatenate([front, words.ravel()])

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        biases = () if self.bias is None else (np.broadcast_to(self.bias, self.outputs[1].shape),)
        return np.broadcast_to(self.rows, self.outputs[0].shape), *biases

    @property
    def first(self) -> int:
        """Cycles for the biases."""
        return ANSWER + self.bias_words if self.bias_words else 0

    @property
    def cycles(self) -> int:
        return self.times * (self.first + ANSWER + len(self.rows) * self.words)

    def timing(self) -> Timing:
        n, w, per = len(self.rows), self.words, self.cycles // self.times
        writes = [(every(self.times, per, self.first + ANSWER + w - 1)[:, None] + np.arange(n) * w).ravel()]
        if self.bias is not None:
            groups, pe = self.bias.shape
            writes.append((every(self.times, per, ANSWER + pe - 1)[:, None] + np.arange(groups) * pe).ravel())
        return Timing(self.cycles, (), tuple(writes), 4)

    def cost(self) -> Cost:
        return Cost((), 500, (Memory(512, WORD),))

    def about(self) -> str:
        biases = "" if self.bias is None else f"{self.bias.size} biases and "
        return f"{biases}{len(self.rows)} x {self.rows.shape[1]} weights from memory, {self.times} times"

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.lanes_out,) if self.bias is None else (self.lanes_out, self.bias.shape[1])

    def _bias_code(self) -> str:
        if self.bias is None:
            return ""
        groups, pe = self.bias.shape
        return f"""
    for (int g = 0; g < {groups}; ++g) {{
#pragma HLS PIPELINE II={pe}
      {self.packet(1, True)} y;
      for (int l = 0; l < {pe}; ++l) {{
#pragma HLS UNROLL
        y.v[l] = {self.outputs[1].type.cpp}((long long)memory[g * {pe} + l]);
      }}
      y1.write(y);
    }}"""

    def code(self) -> str:
        t, lanes, w = self.outputs[0].type, self.rows.shape[1], self.words
        per = WORD // t.bits
        return f"""{self.opening()}
  for (int a = 0; a < {self.times}; ++a) {{{self._bias_code()}
    for (int r = 0; r < {len(self.rows)}; ++r) {{
#pragma HLS PIPELINE II={w}
      unsigned long long words[{w}];
      for (int k = 0; k < {w}; ++k) {{
#pragma HLS UNROLL
        words[k] = memory[{f'{self.bias_words} + ' if self.bias_words else ''}r * {w} + k];
      }}
      {self.packet(0, True)} y;
      for (int l = 0; l < {lanes}; ++l) {{
#pragma HLS UNROLL
        const unsigned long long code = (words[l / {per}] >> (l % {per} * {t.bits})) & {hex(2**t.bits - 1)}ULL;
        y.v[l] = {t.cpp}({f'(long long)(code ^ {hex(2**(t.bits - 1))}ULL) - {2**(t.bits - 1)}LL' if t.signed else 'code'});
      }}
      y0.write(y);
    }}
  }}
}}
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class TiledDot(Dot):
    """A `Dot` whose second operand is its weights, the third its biases if they are in memory; tile: positions at a time."""

    kind: ClassVar[str] = "tiled_dot"

    tile: int

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        groups, packets = self.sizes
        w = arrays[1][0].reshape(groups, packets, self.pe, self.simd).transpose(0, 2, 1, 3).reshape(self.weights.shape)
        bias = arrays[2][0].ravel() if self.loads_bias else self.bias
        return replace(self, weights=w, bias=bias).product(arrays[0])

    def product(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return Dot.run(self, x)

    @property
    def loads_bias(self) -> bool:
        return len(self.inputs) > 2

    @property
    def adders(self) -> None:
        return None

    @property
    def unrolled(self) -> bool:
        return False

    @property
    def cycles(self) -> int:
        groups, packets = self.sizes
        return self.positions * (packets + groups * packets + groups) + self.positions // self.tile * groups * self.loads_bias

    def timing(self) -> Timing:
        groups, packets = self.sizes
        t, front = self.tile, groups * self.loads_bias
        per = front + t * (packets + groups * packets + groups)
        starts = every(self.positions // t, per, front)[:, None]
        biases = ((starts - front + np.arange(groups)).ravel(),) if front else ()
        reads = (starts + np.arange(t * packets)).ravel()
        weights = (starts + t * packets + np.arange(groups * packets) * t).ravel()
        writes = (starts + t * packets * (1 + groups) + np.arange(t * groups)).ravel()
        return Timing(self.cycles, (reads, weights, *biases), (writes,), 6 + len(self.body.tables) * 4)

    def roms(self) -> tuple[Rom, ...]:
        return super().roms()[1 + self.loads_bias:]

    def cost(self) -> Cost:
        groups, packets = self.sizes
        plain, acc = super().cost(), self.body.inputs[0].bits
        biases = (Memory(groups, self.pe * acc),) * self.loads_bias
        buffers = (Memory(self.tile * packets, self.simd * self.inputs[0].type.bits), Memory(self.tile, self.pe * acc),
                   Memory(self.tile * groups, self.pe * self.outputs[0].type.bits))
        rest = tuple(Memory(r.values.shape[0], r.values.shape[1] * r.type.bits, True) for r in self.roms())
        return Cost(plain.products, plain.adder_bits, (*rest, *biases, *buffers, *self._tables))

    def about(self) -> str:
        return f"{super().about()}, weights from memory for {self.tile} positions"

    def code(self) -> str:
        groups, packets = self.sizes
        acc, n, t = self.body.inputs[0].cpp, self.name, self.tile
        bias, keep, load = f"{n}_b[g][o]", "", ""
        if self.loads_bias:
            bias, keep = "bias[g].v[o]", f"  {self.packet(2)} bias[{groups}];\n#pragma HLS AGGREGATE variable=bias\n"
            load = f"""
    for (int g = 0; g < {groups}; ++g) {{
#pragma HLS PIPELINE II=1
      bias[g] = x2.read();
    }}"""
        return f"""{self.body.code(n + "_body")}
{self.opening()}
{keep}  {self.packet(0)} kept[{t * packets}];
#pragma HLS AGGREGATE variable=kept
  {self.packet(0, True)} made[{t * groups}];
#pragma HLS AGGREGATE variable=made
  {acc} acc[{t}][{self.pe}];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=2
  {self.packet(1)} w;
  for (int a = 0; a < {self.positions // t}; ++a) {{{load}
    for (int i = 0; i < {t * packets}; ++i) {{
#pragma HLS PIPELINE II=1
      kept[i] = x0.read();
    }}
    for (int g = 0; g < {groups}; ++g)
      for (int k = 0; k < {packets}; ++k)
        for (int t = 0; t < {t}; ++t) {{
#pragma HLS PIPELINE II=1
          if (t == 0) w = x1.read();
          const {self.packet(0)} x = kept[t * {packets} + k];
          {self.packet(0, True)} y;
          for (int o = 0; o < {self.pe}; ++o) {{
#pragma HLS UNROLL
            {acc} sum = k == 0 ? {acc}({bias}) : acc[t][o];
            for (int i = 0; i < {self.simd}; ++i) {{
#pragma HLS UNROLL
              sum += x.v[i] * w.v[o * {self.simd} + i];
            }}
            acc[t][o] = sum;
            y.v[o] = {n}_body(sum{vector_arguments(n, self.body, 'g', 'o')});
          }}
          if (k == {packets - 1}) made[t * {groups} + g] = y;
        }}
    for (int i = 0; i < {t * groups}; ++i) {{
#pragma HLS PIPELINE II=1
      y0.write(made[i]);
    }}
  }}
}}
"""


def fetch_of(p: Dot, times: int, with_bias: bool) -> tuple[Fetch, tuple[Tensor, ...]]:
    """The process that reads the weights, and the tensor of the biases if there is one."""
    groups, packets = p.sizes
    w = p.weights.reshape(groups, p.pe, packets, p.simd).transpose(0, 2, 1, 3).reshape(groups * packets, p.pe * p.simd)
    stream = Tensor(f"{p.name}_weights", (times, *w.shape), p.weight_type)
    bias = p.bias.reshape(groups, p.pe) if with_bias else None
    biases = (Tensor(f"{p.name}_biases", (times, groups, p.pe), p.body.inputs[0]),) * with_bias
    return Fetch(name=f"fetch_{p.name}", inputs=(), outputs=(stream, *biases), where=p.where, lanes_out=w.shape[1], rows=w,
                 times=times, bias=bias), biases


def fetched(p: Dot, with_bias: bool = False) -> tuple[Fetch, TiledDot]:
    """A wired product with its weights in memory, and its biases if asked."""
    room = p.weights.size * p.weight_type.bits // (_SHARE * p.weights.shape[1] * p.inputs[0].type.bits)
    tile = max(d for d in divisors(p.positions) if d <= max(1, min(TILE, room)))
    fetch, biases = fetch_of(p, p.positions // tile, with_bias)
    lanes = (*p.lanes_in, p.pe * p.simd, *((p.pe,) * with_bias))
    values = {f.name: getattr(p, f.name) for f in fields(p)}
    return fetch, TiledDot(**(values | {"inputs": (*p.inputs, fetch.outputs[0], *biases), "lanes_in": lanes, "tile": tile}))
