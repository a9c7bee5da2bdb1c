"""The windows of a convolution or a pool, cut from a stream of pixels by a buffer of a few rows.

Step u reads the next `stride` rows while it emits the windows of output row u - delay; the buffer holds kernel + stride
rows and is used round and round.  What lies outside of the image is `fill`.  One loop, one packet read and one packet
written per iteration.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import numpy as np

from .design import Cost, Memory, Process, Timing, divisors


@dataclass(frozen=True, eq=False, kw_only=True)
class Window(Process):
    """x[N, H, W, C] to windows [N, OH, OW, K]: K in the order (kh, kw, C), or, if by_channel, per packet of channels all
    taps: (C / lanes, kh, kw, lanes).  kernel, strides, dilations: (height, width); before: rows and columns of border.
    emit: lanes of the result, a divisor of C."""

    kind: ClassVar[str] = "window"
    buffer: ClassVar[str] = "rows"

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    before: tuple[int, int]
    size: tuple[int, int]
    fill: int = 0
    by_channel: bool = False
    emit: int = 1

    @property
    def image(self) -> tuple[int, int, int, int]:
        n, h, w, c = self.inputs[0].shape
        return n, h, w, c

    @property
    def reach(self) -> int:
        """Rows that a window spans."""
        return (self.kernel[0] - 1) * self.dilations[0] + 1

    @property
    def rows(self) -> int:
        """Rows that the buffer holds."""
        return self.reach + self.strides[0]

    @property
    def delay(self) -> int:
        """Steps before the first output row."""
        return -(-(self.reach - self.before[0]) // self.strides[0])

    @property
    def first(self) -> int:
        """The first row that step 0 reads; not positive."""
        return self.reach - self.before[0] - self.delay * self.strides[0]

    @property
    def steps(self) -> int:
        h, s = self.image[1], self.strides[0]
        return max(self.size[0] + self.delay, -(-(h - self.first) // s))

    def row_packets(self, lanes: int) -> tuple[int, int]:
        """Packets read per row, packets emitted per output row."""
        _, _, w, c = self.image
        return w * c // lanes, self.size[1] * self.kernel[0] * self.kernel[1] * c // self.emit

    @property
    def cycles(self) -> int:
        read, emitted = self.row_packets(self.lanes_in[0] if self.lanes_in else 1)
        return self.image[0] * self.steps * max(self.strides[0] * read, emitted)

    @property
    def bound_by_input(self) -> bool:
        """Reading takes longer than emitting."""
        read, emitted = self.row_packets(self.lanes_in[0] if self.lanes_in else 1)
        return self.strides[0] * read >= emitted

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0]
        (kh, kw), (sh, sw), (dh, dw), (oh, ow) = self.kernel, self.strides, self.dilations, self.size
        n, h, w, c = x.shape
        rows = np.arange(oh)[:, None] * sh - self.before[0] + np.arange(kh) * dh
        cols = np.arange(ow)[:, None] * sw - self.before[1] + np.arange(kw) * dw
        inside = ((rows >= 0) & (rows < h))[:, None, :, None] & ((cols >= 0) & (cols < w))[None, :, None, :]
        taken = x[:, rows.clip(0, h - 1)[:, None, :, None], cols.clip(0, w - 1)[None, :, None, :]]
        out = np.where(inside[None, ..., None], taken, self.fill)  # n, oh, ow, kh, kw, c
        if self.by_channel:  # the consumer sees taps x channels whatever the packets are
            out = out.reshape(n, oh, ow, kh * kw, c)
        return (out.reshape(self.outputs[0].shape),)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return (self._width(lanes[0]),), self.emit

    def _width(self, lanes: int) -> int:
        """Elements of a pixel that are read at once: what both have in common, or more where reading would take longest."""
        _, _, w, c = self.image
        common = gcd(lanes, c)
        most = next((d for d in divisors(c) if d >= lanes), c)
        more = [d for d in divisors(c) if common <= d <= most]
        enough = [d for d in more if self.strides[0] * w * c // d <= self.row_packets(1)[1]]
        return (enough or more[-1:])[0]

    def timing(self) -> Timing:
        n, h, _, _ = self.image
        s = self.strides[0]
        read, emitted = self.row_packets(self.lanes_in[0])
        per = max(s * read, emitted)
        u = np.arange(self.steps)
        row = self.first + u[:, None] * s + np.arange(s)
        at = (u[:, None, None] * per + np.arange(s)[:, None] * read + np.arange(read))[(row >= 0) & (row < h)].ravel()
        out = ((np.arange(self.size[0]) + self.delay)[:, None] * per + np.arange(emitted)).ravel()
        frame = np.arange(n)[:, None] * self.steps * per
        return Timing(n * self.steps * per, ((frame + at).ravel(),), ((frame + out).ravel(),), 3)

    def cost(self) -> Cost:
        _, _, w, c = self.image
        lanes = max(self.emit, self.lanes_in[0] if self.lanes_in else 1)
        bits = self.inputs[0].type.bits
        return Cost((), 120, (Memory(self.rows * w * c // lanes, bits),) * lanes)  # a bank per lane

    def about(self) -> str:
        (kh, kw), (sh, sw) = self.kernel, self.strides
        _, h, w, c = self.image
        order = ", by channel" if self.by_channel else ""
        return f"{kh}x{kw} windows, stride {sh}x{sw}, of {h}x{w}x{c}{order}, {self.emit} lanes"

    def code(self) -> str:
        n, h, w, c = self.image
        (kh, kw), (sh, sw), (dh, dw), (oh, ow) = self.kernel, self.strides, self.dilations, self.size
        lanes = self.lanes_in[0]
        read, emitted = self.row_packets(lanes)
        per = max(sh * read, emitted)
        order = [("tx", kw), ("ty", kh), ("c", c // self.emit)] if self.by_channel else [
            ("c", c // self.emit), ("tx", kw), ("ty", kh)]
        order = [*((name, extent) for name, extent in order if extent > 1), ("ox", ow)]
        live = {name for name, _ in order} | {"u", "col", "l", "out_slot"}

        def total(constant: int, *terms: tuple[str, int]) -> str:
            return sum_of(constant, *(t for t in terms if t[0] in live))

        names = ", ".join(f"{name} = 0" for name, _ in order)
        count = ""
        for depth, (name, extent) in enumerate(order[:-1]):
            count += f"{'  ' * depth}          if (++{name} == {extent}) {{\n{'  ' * depth}            {name} = 0;\n"
        count += f"{'  ' * (len(order) - 1)}          ++ox;\n"
        for depth in reversed(range(len(order) - 1)):
            count += f"{'  ' * depth}          }}\n"
        element = self.inputs[0].type.cpp
        place, banks = total(0, ("col", c), ("c", self.emit), ("l", 1)), max(lanes, self.emit)
        split = f"#pragma HLS ARRAY_PARTITION variable=rows cyclic factor={banks} dim=2\n" if banks > 1 else ""
        fixed = f"row >= 0 && row < {h} && col >= 0 && col < {w}"
        frames = f"for (int n = 0; n < {n}; ++n) {{" if n > 1 else "{"
        return f"""{self.opening()}
  static {element} rows[{self.rows}][{w * c}];
{split}  {frames}
    int in_slot = {self.first % self.rows}, out_slot = {-self.before[0] % self.rows};
    for (int u = 0; u < {self.steps}; ++u) {{
      int in_row = 0, in_at = 0, {names};
      for (int i = 0; i < {per}; ++i) {{
#pragma HLS PIPELINE II=1
#pragma HLS DEPENDENCE variable=rows inter false
        if (i < {sh * read}) {{
          const int row = {sum_of(self.first, ('u', sh), ('in_row', 1))};
          const int slot = in_slot + in_row < {self.rows} ? in_slot + in_row : in_slot + in_row - {self.rows};
          if (row >= 0 && row < {h}) {{
            const auto x = x0.read();
            for (int l = 0; l < {lanes}; ++l) {{
#pragma HLS UNROLL
              rows[slot][in_at + l] = x.v[l];
            }}
          }}
          in_at += {lanes};
          if (in_at == {w * c}) {{
            in_at = 0;
            ++in_row;
          }}
        }}
        if (u >= {self.delay} && u < {self.delay + oh} && i < {emitted}) {{
          const int row = {total(-self.delay * sh - self.before[0], ('u', sh), ('ty', dh))};
          const int col = {total(-self.before[1], ('ox', sw), ('tx', dw))};
          const int at = {total(0, ('out_slot', 1), ('ty', dh))};
          {self.packet(0, True)} y;
          for (int l = 0; l < {self.emit}; ++l) {{
#pragma HLS UNROLL
            if ({fixed})
              y.v[l] = rows[at < {self.rows} ? at : at - {self.rows}][{place}];
            else
              y.v[l] = {self.fill};
          }}
          y0.write(y);
{count}        }}
      }}
      in_slot = in_slot + {sh} < {self.rows} ? in_slot + {sh} : in_slot + {sh} - {self.rows};
      if (u >= {self.delay})
        out_slot = out_slot + {sh} < {self.rows} ? out_slot + {sh} : out_slot + {sh} - {self.rows};
    }}
  }}
}}
"""


def sum_of(constant: int, *terms: tuple[str, int]) -> str:
    """A sum of products with constants in C++, without those that add nothing."""
    text = " + ".join(name if factor == 1 else f"{name} * {factor}" for name, factor in terms)
    return f"{text} {'+' if constant > 0 else '-'} {abs(constant)}" if constant else text
