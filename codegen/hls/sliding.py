"""Whole windows, one a cycle: the registers of a window slide over lines of pixels.

Every iteration takes one pixel of the image with its border, whose outside is `fill`; the lines keep the pixels of the rows
above, the registers the columns before.  Where a window is complete, all of its values leave in one packet, in the order
(kh, kw, C), which is both orders of `Window` when a packet has all channels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from .design import Cost, Memory, Timing
from .window import Window

_REGISTERS = 16  # columns up to which the lines are registers


@dataclass(frozen=True, eq=False, kw_only=True)
class SlidingWindow(Window):
    """A `Window` whose packets hold a whole window."""

    kind: ClassVar[str] = "sliding_window"
    buffer: ClassVar[str] = "lines"

    @property
    def reaches(self) -> tuple[int, int]:
        """Rows and columns that a window spans."""
        return self.reach, (self.kernel[1] - 1) * self.dilations[1] + 1

    @property
    def walked(self) -> tuple[int, int]:
        """Rows and columns of the image with as much border as is needed."""
        _, h, w, _ = self.image
        needed = [(n - 1) * s + r for n, s, r in zip(self.size, self.strides, self.reaches, strict=True)]
        return max(needed[0], self.before[0] + h), max(needed[1], self.before[1] + w)

    @property
    def cycles(self) -> int:
        rows, columns = self.walked
        return self.image[0] * rows * columns

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        c = self.image[3]
        return (c,), self.kernel[0] * self.kernel[1] * c

    def timing(self) -> Timing:
        n, h, w, _ = self.image
        rows, columns = self.walked
        frame = np.arange(n)[:, None] * rows * columns

        def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
            return (frame + (row[:, None] * columns + column).ravel()).ravel()

        reads = at(self.before[0] + np.arange(h), self.before[1] + np.arange(w))
        writes = at(*(np.arange(m) * s + r - 1 for m, s, r in zip(self.size, self.strides, self.reaches, strict=True)))
        return Timing(self.cycles, (reads,), (writes,), 3)

    def cost(self) -> Cost:
        c, bits = self.image[3], self.inputs[0].type.bits
        lines, columns = self.reach - 1, self.walked[1]
        registers = self.kernel[0] * self.reaches[1] * c * bits
        if columns <= _REGISTERS:
            return Cost((), 120, (), registers + lines * columns * c * bits)
        return Cost((), 120, (Memory(columns, c * bits),) * lines, registers)

    def about(self) -> str:
        (kh, kw), (sh, sw) = self.kernel, self.strides
        _, h, w, c = self.image
        return f"{kh}x{kw} windows, stride {sh}x{sw}, of {h}x{w}x{c}, whole"

    def code(self) -> str:
        n, h, w, c = self.image
        (kh, kw), (sh, sw), (dh, dw), (_, ow) = self.kernel, self.strides, self.dilations, self.size
        (top, left), (rows, columns), (high, wide) = self.before, self.walked, self.reaches
        pixel = self.packet(0)
        frames = f"  for (int n = 0; n < {n}; ++n) {{" if n > 1 else "  {"
        keep, above, shift = "", "", ""
        if high > 1:
            where = "complete dim=0" if columns <= _REGISTERS else "complete dim=1"
            keep = f"  static {pixel} lines[{high - 1}][{columns}];\n#pragma HLS AGGREGATE variable=lines\n"
            keep += f"#pragma HLS ARRAY_PARTITION variable=lines {where}\n"
            keep += "#pragma HLS DEPENDENCE variable=lines inter false\n" * (columns > _REGISTERS)
            above = f"""
        for (int t = 0; t < {high - 1}; ++t) {{
#pragma HLS UNROLL
          column[t] = lines[t][col];
        }}"""
            shift = f"""
        for (int t = 0; t < {high - 1}; ++t) {{
#pragma HLS UNROLL
          lines[t][col] = column[t + 1];
        }}"""
        inside = f"row >= {top} && row < {top + h} && col >= {left} && col < {left + w}"
        return f"""{self.opening()}
{keep}  {pixel} taps[{kh}][{wide}];
#pragma HLS ARRAY_PARTITION variable=taps complete dim=0
{frames}
    int next_row = {high - 1}, next_col = {wide - 1};
    for (int row = 0; row < {rows}; ++row)
      for (int col = 0; col < {columns}; ++col) {{
#pragma HLS PIPELINE II=1
        {pixel} x;
        for (int l = 0; l < {c}; ++l) {{
#pragma HLS UNROLL
          x.v[l] = {self.fill};
        }}
        if ({inside}) x = x0.read();
        {pixel} column[{high}];
#pragma HLS ARRAY_PARTITION variable=column complete{above}
        column[{high - 1}] = x;{shift}
        for (int ty = 0; ty < {kh}; ++ty) {{
#pragma HLS UNROLL
          for (int tx = 0; tx < {wide - 1}; ++tx) {{
#pragma HLS UNROLL
            taps[ty][tx] = taps[ty][tx + 1];
          }}
          taps[ty][{wide - 1}] = column[{_times('ty', dh)}];
        }}
        if (row == next_row && col == next_col) {{
          {self.packet(0, True)} y;
          for (int ty = 0; ty < {kh}; ++ty) {{
#pragma HLS UNROLL
            for (int tx = 0; tx < {kw}; ++tx) {{
#pragma HLS UNROLL
              for (int l = 0; l < {c}; ++l) {{
#pragma HLS UNROLL
                y.v[(ty * {kw} + tx) * {c} + l] = taps[ty][{_times('tx', dw)}].v[l];
              }}
            }}
          }}
          y0.write(y);
          next_col = next_col < {(ow - 1) * sw + wide - 1} ? next_col + {sw} : {columns};
        }}
        if (col == {columns - 1}) {{
          if (row == next_row) next_row = row < {(self.size[0] - 1) * sh + high - 1} ? row + {sh} : {rows};
          next_col = {wide - 1};
        }}
      }}
  }}
}}
"""


def _times(name: str, factor: int) -> str:
    return name if factor == 1 else f"{name} * {factor}"


def sliding(p: Window) -> SlidingWindow:
    return SlidingWindow(**{f.name: getattr(p, f.name) for f in fields(p)})
