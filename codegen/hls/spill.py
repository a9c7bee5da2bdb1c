"""FIFOs that do not fit on the chip, kept in the board's memory.

    a -> FIFO of 600,000 x 16 bits -> b      becomes      a -> pack -> spill (memory) -> unpack -> b

A `Spill` is a delay line: it writes bursts of packets to memory and, `ahead` bursts later, reads them back, in a fixed order
of iterations.  So the event simulation treats it like any process: whatever delay it has, the FIFOs around it are found as
deep as they must be, and the delay only decides how much of the waiting is done in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

import numpy as np

from .design import Cost, Memory, Process, Timing
from .route import Regroup
from .tensor import Tensor

WORD = 64  # bits of a word of memory
BURST, LEAST_BURST = 128, 8  # words that are moved at a time
ANSWER = 64  # cycles between the request of a burst and its first word
_MARGIN = 3  # bursts by which the delay is shorter than the FIFO was deep


@dataclass(frozen=True, eq=False, kw_only=True)
class Spill(Process):
    """burst: packets that are moved at a time; ahead: bursts that are in memory at once."""

    kind: ClassVar[str] = "spill"

    burst: int
    ahead: int

    @property
    def words(self) -> int:
        """Of one packet."""
        return ceil(self.lanes_out * self.inputs[0].type.bits / WORD)

    @property
    def bursts(self) -> int:
        return self.inputs[0].size // self.lanes_out // self.burst

    @property
    def memory(self) -> int:
        return self.bursts * self.burst * self.words

    @property
    def traffic(self) -> int:
        return 2 * self.memory * WORD // 8

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (arrays[0],)

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return lanes, lanes[0]

    @property
    def _step(self) -> int:
        return self.burst * self.words + ANSWER

    @property
    def cycles(self) -> int:
        return 2 * self.bursts * self._step

    def timing(self) -> Timing:
        """Step b writes burst b, then reads burst b - ahead."""
        n, b = self.bursts, np.arange(self.bursts, dtype=np.int64)
        inside = ANSWER + np.arange(self.burst) * self.words
        into = (b + np.maximum(0, b - self.ahead)) * self._step
        out = (np.minimum(b + self.ahead + 1, n) + b) * self._step
        return Timing(self.cycles, ((into[:, None] + inside).ravel(),), ((out[:, None] + inside).ravel(),), 4)

    def cost(self) -> Cost:
        return Cost((), 900, (Memory(512, WORD), Memory(512, WORD)))  # the adapter of a port and its two buffers

    def about(self) -> str:
        return (f"keeps {self.inputs[0].size // self.lanes_out} packets of {self.lanes_out} in memory, bursts of {self.burst}, "
                f"{self.ahead} ahead")

    def code(self) -> str:
        t, w = self.inputs[0].type, self.words
        each = f"        for (int l = 0; l < {self.lanes_out}; ++l) {{\n#pragma HLS UNROLL\n"
        mask = f"{hex(2**t.bits - 1)}ULL"
        sign = f"(long long)(code ^ {hex(2**(t.bits - 1))}ULL) - {2**(t.bits - 1)}LL" if t.signed else "(long long)code"
        per = WORD // t.bits
        put = f"          words[l / {per}] |= ((unsigned long long)(long long)x.v[l] & {mask}) << (l % {per} * {t.bits});\n"
        get = (f"          const unsigned long long code = (words[l / {per}] >> (l % {per} * {t.bits})) & {mask};\n"
               f"          y.v[l] = {t.cpp}({sign});\n")
        return f"""{self.opening()}
  for (int b = 0; b < {self.bursts + self.ahead}; ++b) {{
    if (b < {self.bursts}) {{
      for (int i = 0; i < {self.burst}; ++i) {{
#pragma HLS PIPELINE II={w}
        const auto x = x0.read();
        unsigned long long words[{w}] = {{}};
{each}{put}        }}
        for (int k = 0; k < {w}; ++k) {{
#pragma HLS UNROLL
          memory[(b * {self.burst} + i) * {w} + k] = words[k];
        }}
      }}
    }}
    if (b >= {self.ahead}) {{
      for (int i = 0; i < {self.burst}; ++i) {{
#pragma HLS PIPELINE II={w}
        unsigned long long words[{w}];
        for (int k = 0; k < {w}; ++k) {{
#pragma HLS UNROLL
          words[k] = memory[((b - {self.ahead}) * {self.burst} + i) * {w} + k];
        }}
        {self.packet(0, True)} y;
{each}{get}        }}
        y0.write(y);
      }}
    }}
  }}
}}
"""


def spill(
    processes: Sequence[Process], outputs: Sequence[Tensor], depths: Mapping[Tensor, int], chosen: frozenset[Tensor]
) -> tuple[Process, ...]:
    """Wired processes with the FIFOs of chosen streams in memory."""
    lanes = {t: n for p in processes for t, n in zip(p.outputs, p.widths, strict=True)}
    renamed: dict[Tensor, Tensor] = {}
    done: list[Process] = []
    for p in processes:
        operands = (renamed[t.stream].reshaped(t.shape) if t.stream in renamed else t for t in p.inputs)
        done.append(replace(p, inputs=tuple(operands)))
        for t in p.outputs:
            if t in chosen:
                renamed[t] = _spilled(done, t, lanes[t], depths[t])
    return tuple(done)


def packing(t: Tensor, lanes: int) -> tuple[int, int] | None:
    """Packets that are moved together as one, and bursts of those; None if the sizes have no such divisors."""
    packets = t.size // lanes
    room = max(1, WORD // (lanes * t.type.bits))
    times = max((k for k in range(1, room + 1) if packets % k == 0), default=1)
    if lanes * times > 1 and lanes * times > WORD // t.type.bits and (lanes * times) % (WORD // t.type.bits):
        return None
    burst = max((k for k in range(1, BURST + 1) if packets // times % k == 0), default=1)
    return (times, burst) if burst >= LEAST_BURST else None


def _spilled(done: list[Process], t: Tensor, lanes: int, depth: int) -> Tensor:
    found = packing(t, lanes)
    assert found is not None
    times, burst = found
    wide = lanes * times
    ahead = max(2, depth // times // burst - _MARGIN)
    ahead = min(ahead, t.size // wide // burst - 1)
    source, name = t, f"spill_{len(done)}"
    if times > 1:
        source = Tensor(f"{t.name}_packed", t.shape, t.type)
        done.append(Regroup(name=f"gather_{len(done)}", inputs=(t,), outputs=(source,), lanes_in=(lanes,), lanes_out=wide,
                            target=wide))
    back = Tensor(f"{t.name}_back", t.shape, t.type)
    done.append(Spill(name=name, inputs=(source,), outputs=(back,), lanes_in=(wide,), lanes_out=wide, burst=burst, ahead=ahead))
    if times == 1:
        return back
    result = Tensor(f"{t.name}_unpacked", t.shape, t.type)
    done.append(Regroup(name=f"scatter_{len(done)}", inputs=(back,), outputs=(result,), lanes_in=(wide,), lanes_out=lanes,
                        target=lanes))
    return result
