"""Processes that move elements: copies, packet widths, picks along an axis, permutations, concatenation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import gcd, prod
from typing import ClassVar

import numpy as np

from .design import Cost, Memory, Process, Rom, Timing, every
from .fixed import Fixed


@dataclass(frozen=True, eq=False, kw_only=True)
class Fork(Process):
    """One stream to several readers."""

    kind: ClassVar[str] = "fork"

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(arrays[0].reshape(t.shape) for t in self.outputs)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return lanes, lanes[0]

    def timing(self) -> Timing:
        packets = every(self.inputs[0].size // self.lanes_in[0], 1)
        return Timing(len(packets), (packets,), (packets,) * len(self.outputs), 1)

    def cost(self) -> Cost:
        return Cost((), 16)

    def code(self) -> str:
        writes = "\n".join(f"    y{n}.write(x);" for n in range(len(self.outputs)))
        return f"""{self.opening()}
  for (int i = 0; i < {self.inputs[0].size // self.lanes_in[0]}; ++i) {{
#pragma HLS PIPELINE II=1
    const auto x = x0.read();
{writes}
  }}
}}
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Drop(Process):
    """Reads a stream that nothing needs, so that its writer is not stopped."""

    kind: ClassVar[str] = "drop"

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return ()

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return lanes, 1

    def timing(self) -> Timing:
        packets = every(self.inputs[0].size // self.lanes_in[0], 1)
        return Timing(len(packets), (packets,), (), 1)

    def about(self) -> str:
        return f"drops {list(self.inputs[0].shape)}"

    def code(self) -> str:
        return f"""{self.opening()}
  for (int i = 0; i < {self.inputs[0].size // self.lanes_in[0]}; ++i) {{
#pragma HLS PIPELINE II=1
    x0.read();
  }}
}}
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Regroup(Process):
    """Packets of another width; one width divides the other.  target: lanes of the result."""

    kind: ClassVar[str] = "regroup"

    target: int = 1

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (arrays[0],)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return lanes, self.target

    def timing(self) -> Timing:
        a, b = self.lanes_in[0], self.target
        total = self.inputs[0].size // min(a, b)
        reads = every(self.inputs[0].size // a, max(1, a // b))
        writes = every(self.inputs[0].size // b, max(1, b // a), max(1, b // a) - 1)
        return Timing(total, (reads,), (writes,), 2)

    def cost(self) -> Cost:
        return Cost((), 2 * max(self.lanes_in[0], self.target) * self.inputs[0].type.bits)

    def code(self) -> str:
        a, b, total = self.lanes_in[0], self.target, self.inputs[0].size
        step = f"""    for (int p = 0; p < {max(a, b) // min(a, b)}; ++p) {{
#pragma HLS PIPELINE II=1"""
        copy = f"""      for (int l = 0; l < {min(a, b)}; ++l) {{
#pragma HLS UNROLL"""
        if a > b:
            return f"""{self.opening()}
  {self.packet(0)} x;
  for (int i = 0; i < {total // a}; ++i)
{step}
      if (p == 0) x = x0.read();
      {self.packet(0, True)} y;
{copy}
        y.v[l] = x.v[p * {b} + l];
      }}
      y0.write(y);
    }}
}}
"""
        return f"""{self.opening()}
  {self.packet(0, True)} y;
  for (int i = 0; i < {total // b}; ++i)
{step}
      const auto x = x0.read();
{copy}
        y.v[p * {a} + l] = x.v[l];
      }}
      if (p == {b // a - 1}) y0.write(y);
    }}
}}
"""


READ, EMIT, FILL = 1, 2, 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Pick(Process):
    """x[A, N, C] to y[A, M, C]: y[:, m] = x[:, index[m]], or `fill` where index[m] is -1.

    Slices, paddings, repetitions, nearest resampling, gathers by constants.  An index that never goes back needs a buffer
    of one row of C; otherwise N rows are kept."""

    kind: ClassVar[str] = "pick"
    buffer: ClassVar[str] = "row"

    outer: int
    count: int
    inner: int
    index: tuple[int, ...]
    fill: int = 0

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0].reshape(self.outer, self.count, self.inner)
        index = np.array(self.index)
        y = np.where((index >= 0)[:, None], x[:, index.clip(0)], self.fill)
        return (y.reshape(self.outputs[0].shape),)

    @property
    def ordered(self) -> bool:
        return is_ordered(self.index)

    @property
    def steps(self) -> np.ndarray:
        """What is done per row of C packets: READ, EMIT, FILL flags."""
        return pick_steps(self.index, self.count)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        width = gcd(lanes[0], self.inner)
        return (width,), width

    @property
    def packets(self) -> int:
        return self.inner // (self.lanes_in[0] if self.lanes_in else 1)

    @property
    def cycles(self) -> int:
        return self.outer * len(self.steps) * self.packets

    def timing(self) -> Timing:
        per, c = len(self.steps), self.packets
        at = (np.arange(self.outer)[:, None, None] * per + np.arange(per)[:, None]) * c + np.arange(c)
        return Timing(self.cycles, (at[:, (self.steps & READ) > 0].ravel(),), (at[:, (self.steps & EMIT) > 0].ravel(),), 2)

    def roms(self) -> tuple[Rom, ...]:
        roms = [Rom(f"{self.name}_step", self.steps[:, None], Fixed(3, 0, False))]
        if not self.ordered:
            at = np.array([0] * self.count + [max(i, 0) for i in self.index], np.int64)
            roms.append(Rom(f"{self.name}_from", at[:, None], Fixed(max(1, self.count.bit_length()), 0, False)))
        return tuple(roms)

    def cost(self) -> Cost:
        rows = 1 if self.ordered else self.count
        lanes = self.lanes_in[0] if self.lanes_in else 1
        roms = tuple(Memory(len(r.values), r.type.bits, True) for r in self.roms())
        return Cost((), 40, (Memory(rows * self.inner // lanes, lanes * self.inputs[0].type.bits), *roms))

    def about(self) -> str:
        return f"rows {self.count} -> {len(self.index)} of {self.outer} x {self.inner}"

    def code(self) -> str:
        element, c, n = self.inputs[0].type.cpp, self.packets, self.name
        into = "c" if self.ordered else f"s * {c} + c"
        out = "c" if self.ordered else f"int({n}_from[s][0]) * {c} + c"
        rows = 1 if self.ordered else self.count
        packet = self.packet(0)
        keep = f"static {packet} row[{rows * c}];\n#pragma HLS AGGREGATE variable=row"
        fill = f"""        {packet} y;
        for (int l = 0; l < {self.lanes_out}; ++l) {{
#pragma HLS UNROLL
          y.v[l] = {element}({self.fill});
        }}
"""
        return f"""{self.opening()}
  {keep}
  for (int a = 0; a < {self.outer}; ++a)
    for (int s = 0; s < {len(self.steps)}; ++s)
      for (int c = 0; c < {c}; ++c) {{
#pragma HLS PIPELINE II=1
        const int step = {n}_step[s][0];
        {packet} x;
        if (step & {READ}) {{
          x = x0.read();
          row[{into}] = x;
        }} else {{
          x = row[{out}];
        }}
{fill}        if (step & {EMIT}) y0.write(step & {FILL} ? y : x);
      }}
}}
"""


@cache
def is_ordered(index: tuple[int, ...]) -> bool:
    """Whether rows are picked in the order in which they come."""
    return all(a <= b for a, b in pairwise(i for i in index if i >= 0))


@cache
def pick_steps(index: tuple[int, ...], count: int) -> np.ndarray:
    """Flags of every step of a `Pick`; not to be modified."""
    if not is_ordered(index):
        return np.array([READ] * count + [EMIT | (FILL if i < 0 else 0) for i in index], np.int64)
    found, read = [], 0
    for i in index:
        while read < i:
            found.append(READ)
            read += 1
        found.append(EMIT | FILL if i < 0 else EMIT if i < read else READ | EMIT)
        read = max(read, i + 1)
    return np.array(found + [READ] * (count - read), np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Permute(Process):
    """x[A, *block, C] with the axes of the block permuted, through a buffer of one block."""

    kind: ClassVar[str] = "permute"
    buffer: ClassVar[str] = "block"

    outer: int
    block: tuple[int, ...]
    perm: tuple[int, ...]
    inner: int

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0].reshape(self.outer, *self.block, self.inner)
        y = x.transpose(0, *(p + 1 for p in self.perm), len(self.perm) + 1)
        return (np.ascontiguousarray(y).reshape(self.outputs[0].shape),)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        width = gcd(lanes[0], self.inner)
        return (width,), width

    @property
    def packets(self) -> int:
        """Of one block."""
        return prod(self.block) * self.inner // self.lanes_out

    @property
    def cycles(self) -> int:
        return 2 * self.outer * self.packets

    def timing(self) -> Timing:
        n = self.packets
        at = (every(self.outer, 2 * n)[:, None] + np.arange(n)).ravel()
        return Timing(self.cycles, (at,), (at + n,), 2)

    def cost(self) -> Cost:
        return Cost((), 60, (Memory(self.packets, self.lanes_out * self.inputs[0].type.bits),))

    def about(self) -> str:
        return f"{self.outer} blocks {list(self.block)} of {self.inner}, axes permuted by {list(self.perm)}"

    def code(self) -> str:
        c = self.inner // self.lanes_out
        shape = [*self.block, c]
        strides = [prod(shape[d + 1:]) for d in range(len(shape))]
        axes = [d for d in (*self.perm, len(self.block)) if shape[d] > 1] or [0]
        loops = "\n".join(f"{'  ' * (n + 2)}for (int i{d} = 0; i{d} < {shape[d]}; ++i{d})" for n, d in enumerate(axes))
        at = " + ".join(f"i{d} * {strides[d]}" if strides[d] > 1 else f"i{d}" for d in axes)
        pad = "  " * (len(axes) + 2)
        return f"""{self.opening()}
  static {self.packet(0)} block[{self.packets}];
#pragma HLS AGGREGATE variable=block
  for (int a = 0; a < {self.outer}; ++a) {{
    for (int i = 0; i < {self.packets}; ++i) {{
#pragma HLS PIPELINE II=1
      block[i] = x0.read();
    }}
{loops} {{
#pragma HLS PIPELINE II=1
{pad}y0.write(block[{at}]);
{pad[2:]}}}
  }}
}}
"""


def permutation(shape: tuple[int, ...], perm: tuple[int, ...]) -> tuple[int, tuple[int, ...], tuple[int, ...], int]:
    """outer, block, perm of the block, inner: leading and trailing axes that keep their places are taken off."""
    first, last = 0, len(shape)
    while first < last and perm[first] == first:
        first += 1
    while last > first and perm[last - 1] == last - 1:
        last -= 1
    return prod(shape[:first]), shape[first:last], tuple(p - first for p in perm[first:last]), prod(shape[last:])


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Process):
    """Operands [A, n_i] one after the other in every row."""

    kind: ClassVar[str] = "concat"

    outer: int

    @property
    def parts(self) -> list[int]:
        return [t.size // self.outer for t in self.inputs]

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.concatenate([a.reshape(self.outer, -1) for a in arrays], 1).reshape(self.outputs[0].shape),)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        width = gcd(*lanes, *self.parts)
        return (width,) * len(lanes), width

    @property
    def cycles(self) -> int:
        return self.outputs[0].size // self.lanes_out

    def timing(self) -> Timing:
        sizes = [p // self.lanes_out for p in self.parts]
        row = sum(sizes)
        starts = np.arange(self.outer)[:, None] * row
        reads = tuple((starts + sum(sizes[:n]) + np.arange(s)).ravel() for n, s in enumerate(sizes))
        return Timing(self.outer * row, reads, (every(self.outer * row, 1),), 1)

    def cost(self) -> Cost:
        return Cost((), self.lanes_out * self.outputs[0].type.bits * len(self.inputs))

    def code(self) -> str:
        sizes = [p // self.lanes_out for p in self.parts]
        lines, end = [], 0
        for n, size in enumerate(sizes):
            end += size
            test = "else " * (n > 0) + (f"if (i < {end}) " if n < len(sizes) - 1 else "")
            lines += [f"      {test}{{", f"        const auto x = x{n}.read();",
                      f"        for (int l = 0; l < {self.lanes_out}; ++l) {{", "#pragma HLS UNROLL",
                      "          y.v[l] = x.v[l];", "        }", "      }"]
        body = "\n".join(lines)
        return f"""{self.opening()}
  for (int a = 0; a < {self.outer}; ++a)
    for (int i = 0; i < {sum(sizes)}; ++i) {{
#pragma HLS PIPELINE II=1
      {self.packet(0, True)} y;
{body}
      y0.write(y);
    }}
}}
"""
