"""Products of two streams: batched matrix products, and attention with its softmax."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from .body import Body
from .design import Cost, Memory, Process, Rom, Timing, divisors, every
from .dot import MAX_UNROLL, exact_product
from .fixed import Fixed, holding
from .rows import share_code, softmax_code, softmax_rows
from .table import Table


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Process):
    """a[G, M, K] times b[G, K, N]: b is kept, then every row of a is answered.  simd: products a cycle, divides N."""

    kind: ClassVar[str] = "product"
    buffer: ClassVar[str] = "b"

    body: Body
    simd: int = 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """G, M, K, N."""
        a, b = (t.shape for t in self.inputs)
        return prod(a[:-2]), a[-2], a[-1], b[-1]

    @property
    def work(self) -> int:
        return prod(self.sizes)

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        g, m, k, n = self.sizes
        a, b = arrays[0].reshape(g, m, k), arrays[1].reshape(g, k, n)
        acc = np.stack([exact_product(x, y) for x, y in zip(a, b, strict=True)])
        return (self.body.run(acc.ravel()).reshape(self.outputs[0].shape),)

    def foldings(self) -> tuple[Process, ...]:
        return tuple(replace(self, simd=s) for s in divisors(self.sizes[3]) if s <= MAX_UNROLL)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return (1, self.simd), self.simd

    @property
    def cycles(self) -> int:
        g, m, k, n = self.sizes
        return g * (k + m * k) * (n // self.simd) + g * m * (n // self.simd)

    def timing(self) -> Timing:
        g, m, k, n = self.sizes
        c = n // self.simd
        row = k * c + c  # the packets of a row of results follow its products
        frame = every(g, k * c + m * row)[:, None]
        rows = (frame + k * c + every(m, row))[:, :, None]
        return Timing(self.cycles, ((rows + every(k, c)).ravel(), (frame + np.arange(k * c)).ravel()),
                      ((rows + k * c + np.arange(c)).ravel(),), 6)

    def cost(self) -> Cost:
        _, _, k, n = self.sizes
        a, b = self.inputs[0].type.bits, self.inputs[1].type.bits
        acc = self.body.inputs[0].bits
        return Cost(((self.simd, a, b), (self.simd * self.body.products, 18, 18)),
                    self.simd * (acc + self.body.adder_bits),
                    (Memory(k * n // self.simd, self.simd * b), Memory(n // self.simd, acc * self.simd)))

    def about(self) -> str:
        g, m, k, n = self.sizes
        return f"{g} x ({m} x {k}) times ({k} x {n}), {self.simd} products a cycle"

    def code(self) -> str:
        g, m, k, n = self.sizes
        c, acc, name = n // self.simd, self.body.inputs[0].cpp, self.name
        return f"""{self.body.code(name + "_body")}
{self.opening()}
  static {self.packet(1)} b[{k * c}];
#pragma HLS AGGREGATE variable=b
  {acc} acc[{c}][{self.simd}];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=2
  {self.inputs[0].type.cpp} a = 0;
  for (int g = 0; g < {g}; ++g) {{
    for (int i = 0; i < {k * c}; ++i) {{
#pragma HLS PIPELINE II=1
      b[i] = x1.read();
    }}
    for (int m = 0; m < {m}; ++m) {{
      for (int k = 0; k < {k}; ++k)
        for (int c = 0; c < {c}; ++c) {{
#pragma HLS PIPELINE II=1
          if (c == 0) a = x0.read().v[0];
          for (int l = 0; l < {self.simd}; ++l) {{
#pragma HLS UNROLL
            acc[c][l] = {acc}(a * b[k * {c} + c].v[l]) + (k == 0 ? {acc}(0) : acc[c][l]);
          }}
        }}
      for (int c = 0; c < {c}; ++c) {{
#pragma HLS PIPELINE II=1
        {self.packet(0, True)} y;
        for (int l = 0; l < {self.simd}; ++l) {{
#pragma HLS UNROLL
          y.v[l] = {name}_body(acc[c][l]);
        }}
        y0.write(y);
      }}
    }}
  }}
}}
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention(Process):
    """softmax(q k^T) v per head: q[B, H, M, D], k[B, G, S, D], v[B, G, S, E]; H / G heads read the same k and v.

    score: from the accumulator of q k^T (the scale is in it) to the codes that the softmax reads; table: as in `Softmax`;
    share: the type of its result; body: from the accumulator of share * v.  mask: codes added to the scores, [M, S], or None;
    one packet is a row of D or E."""

    kind: ClassVar[str] = "attention"

    score: Body
    table: Table
    share: Fixed
    body: Body
    mask: np.ndarray | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int, int]:
        """B, H, M, D, G, S, E."""
        (b, h, m, d), (_, g, s, _), (_, _, _, e) = (t.shape for t in self.inputs)
        return b, h, m, d, g, s, e

    @property
    def work(self) -> int:
        b, h, m, d, _, s, e = self.sizes
        return b * h * m * s * (d + e)

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        _, h, _, _, g, _, _ = self.sizes
        q, k, v = arrays
        k, v = (np.repeat(x, h // g, axis=1) for x in (k, v))
        acc = np.einsum("bhmd,bhsd->bhms", q, k)
        score = self.score.run(acc.ravel()).reshape(acc.shape)
        if self.mask is not None:
            score = score + self.mask
        share = softmax_rows(score, self.table, self.share)
        out = np.einsum("bhms,bhse->bhme", share, v)
        return (self.body.run(out.ravel()).reshape(self.outputs[0].shape),)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        _, _, _, d, _, _, e = self.sizes
        return (d, d, e), e

    @property
    def cycles(self) -> int:
        b, h, m, _, g, s, _ = self.sizes
        return b * g * s + b * h * m * (3 * s + 1)

    def timing(self) -> Timing:
        b, h, m, _, g, s, _ = self.sizes
        row, group = 3 * s + 1, s + h // g * m * (3 * s + 1)
        starts = every(b * g, group)[:, None]
        keys = (starts + np.arange(s)).ravel()
        rows = (starts + s + every(h // g * m, row)).ravel()
        return Timing(b * g * group, (rows, keys, keys), (rows + 3 * s,), 60)

    def roms(self) -> tuple[Rom, ...]:
        if self.mask is None:
            return ()
        return (Rom(f"{self.name}_mask", self.mask, holding(int(self.mask.min()), int(self.mask.max()))),)

    def cost(self) -> Cost:
        _, _, _, d, _, s, e = self.sizes
        bits = [t.type.bits for t in self.inputs]
        products = ((d, bits[0], bits[1]), (e, self.share.bits, bits[2]), (1 + e * self.body.products, 18, 18))
        memories = (Memory(s, d * bits[1]), Memory(s, e * bits[2]),
                    Memory(len(self.table.start), self.table.start_type.bits + self.table.slope_type.bits, True))
        return Cost(products, d * 32 + e * 40 + 40 * self.share.bits, memories)

    def about(self) -> str:
        b, h, m, d, _, s, e = self.sizes
        return f"attention of {b} x {h} heads, {m} queries and {s} keys of {d}, values of {e}"

    def code(self) -> str:
        b, h, m, d, g, s, e = self.sizes
        n, acc, out, score = self.name, self.score.inputs[0].cpp, self.body.inputs[0].cpp, self.score_type
        total = self.total
        mask = f" + {n}_mask[m][s]" if self.mask is not None else ""
        return f"""{self.score.code(n + "_score")}
{self.body.code(n + "_body")}
{self.opening()}
  static {self.packet(1)} keys[{s}];
#pragma HLS AGGREGATE variable=keys
  static {self.packet(2)} values[{s}];
#pragma HLS AGGREGATE variable=values
  {score} row[{s}];
  {self.table.result.cpp} power[{s}];
  for (int g = 0; g < {b * g}; ++g) {{
    for (int s = 0; s < {s}; ++s) {{
#pragma HLS PIPELINE II=1
      keys[s] = x1.read();
      values[s] = x2.read();
    }}
    for (int h = 0; h < {h // g}; ++h)
      for (int m = 0; m < {m}; ++m) {{
        const auto q = x0.read();
        {score} top = 0;
        for (int s = 0; s < {s}; ++s) {{
#pragma HLS PIPELINE II=1
          {acc} sum = 0;
          for (int i = 0; i < {d}; ++i) {{
#pragma HLS UNROLL
            sum += q.v[i] * keys[s].v[i];
          }}
          const {score} x = {n}_score(sum){mask};
          row[s] = x;
          if (s == 0 || x > top) top = x;
        }}
{softmax_code('row', 'power', str(s), self.table, total, '        ')}
        {out} sum[{e}];
#pragma HLS ARRAY_PARTITION variable=sum complete
        for (int s = 0; s < {s}; ++s) {{
#pragma HLS PIPELINE II=1
          const {self.share.cpp} share = {share_code('power[s]', self.table, self.share)};
          for (int i = 0; i < {e}; ++i) {{
#pragma HLS UNROLL
            sum[i] = {out}(share * values[s].v[i]) + (s == 0 ? {out}(0) : sum[i]);
          }}
        }}
        {self.packet(0, True)} y;
        for (int i = 0; i < {e}; ++i) {{
#pragma HLS UNROLL
          y.v[i] = {n}_body(sum[i]);
        }}
        y0.write(y);
      }}
  }}
}}
"""

    @property
    def total(self) -> Fixed:
        return Fixed((self.sizes[5] * self.table.result.high).bit_length(), 0, False)

    @property
    def score_type(self) -> str:
        """Holds a score and its mask."""
        extra = 0 if self.mask is None else 2 + max(0, int(np.abs(self.mask).max()).bit_length() - self.score.result.type.bits)
        return Fixed(self.score.result.type.bits + 1 + extra).cpp
