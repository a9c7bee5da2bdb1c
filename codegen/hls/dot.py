"""Products with constant weights: the part of convolutions and matrix products behind the window.

`Dot` reads the K values of each of P positions, once, and writes O results: folded over O / pe groups of outputs and
K / simd packets of inputs, one packet a cycle.  Where every product has hardware of its own, zeros have none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ...ir.errors import ModelError
from .body import Body
from .design import Cost, Memory, Process, Rom, Timing, divisors, every
from .fixed import Fixed, holding
from .shift_add import Adders, adders_code, shift_add, sum_code

MAX_UNROLL = 1024  # multipliers of one process
ADDED_BITS = 10  # bits of weights up to which shifts and additions are tried
SPARSE = 0.1  # the part of zeros from which on products are written one by one, without those of zeros
TERMS = 6  # products in a line
LUTS_PER_PRODUCT = 40  # of adders for each product, up to which they are cheaper than multipliers


def vector_roms(name: str, body: Body, lanes: int) -> tuple[Rom, ...]:
    """The vectors of a body as memories with one row per packet."""
    period = body.period
    roms = []
    for n, i in enumerate(body.vectors):
        assert i.vector is not None
        values = np.resize(i.vector, max(period, 1)).reshape(-1, lanes)
        roms.append(Rom(f"{name}_c{n}", values, i.out.type))
    return tuple(roms)


def vector_arguments(name: str, body: Body, row: str, lane: str) -> str:
    return "".join(f", {name}_c{n}[{row}][{lane}]" for n in range(len(body.vectors)))


def rom_memories(roms: tuple[Rom, ...]) -> tuple[Memory, ...]:
    return tuple(Memory(r.values.shape[0], r.values.shape[1] * r.type.bits, True) for r in roms)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dot(Process):
    """weights [O, K], bias [O]: integers; body: from the accumulator to the result, its vectors of period O.
    run_length: how many inputs lie side by side in the stream; simd divides it, or is all K of a window."""

    kind: ClassVar[str] = "dot"

    weights: np.ndarray
    weight_type: Fixed
    bias: np.ndarray
    body: Body
    run_length: int
    pe: int = 1
    simd: int = 1

    @property
    def positions(self) -> int:
        return self.inputs[0].size // self.weights.shape[1]

    @property
    def work(self) -> int:
        return self.positions * self.weights.size

    @property
    def sizes(self) -> tuple[int, int]:
        """Groups of outputs, packets of inputs."""
        return self.weights.shape[0] // self.pe, self.weights.shape[1] // self.simd

    @property
    def cycles(self) -> int:
        groups, packets = self.sizes
        return self.positions * groups * packets

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0].reshape(-1, self.weights.shape[1])
        acc = exact_product(x, self.weights.T) + self.bias
        return (self.body.run(acc.ravel()).reshape(self.outputs[0].shape),)

    def foldings(self) -> tuple[Process, ...]:
        outputs, k = self.weights.shape
        best: dict[int, tuple[int, int]] = {}
        for pe in divisors(outputs):
            for simd in divisors(self.run_length):
                if pe * simd <= MAX_UNROLL:
                    old = best.get(pe * simd)
                    if old is None or abs(pe - simd) < abs(old[0] - old[1]):
                        best[pe * simd] = (pe, simd)
        for pe in divisors(outputs):  # whole windows, once single taps are not enough
            if outputs * self.run_length < pe * k <= MAX_UNROLL:
                best[pe * k] = (pe, k)
        return tuple(replace(self, pe=pe, simd=simd) for _, (pe, simd) in sorted(best.items()))

    def accepts(self, lanes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return (self.simd,), self.pe

    def timing(self) -> Timing:
        groups, packets = self.sizes
        total = self.positions * groups * packets
        starts = every(self.positions, groups * packets)
        reads = (starts[:, None] + np.arange(packets)).ravel()
        writes = every(self.positions * groups, packets, packets - 1)
        return Timing(total, (reads,), (writes,), 6 + len(self.body.tables) * 4)

    @property
    def whole(self) -> bool:
        """It reads a window at once."""
        return self.simd > self.run_length

    @property
    def adders(self) -> Adders | None:
        """All products as shifts and additions, where every one has a multiplier of its own and this is cheaper."""
        if self.sizes != (1, 1) or self.weight_type.bits > ADDED_BITS:
            return None
        found = shift_add(self.weights, self.inputs[0].type)
        return found if found.bits <= LUTS_PER_PRODUCT * np.count_nonzero(self.weights) else None

    @property
    def unrolled(self) -> bool:
        """Every product has hardware of its own."""
        return self.sizes == (1, 1)

    @property
    def skips(self) -> bool:
        """Products with zero are left out."""
        return self.unrolled and int(np.count_nonzero(self.weights)) <= (1 - SPARSE) * self.weights.size

    def roms(self) -> tuple[Rom, ...]:
        groups, packets = self.sizes
        w = self.weights.reshape(groups, self.pe, packets, self.simd).transpose(0, 2, 1, 3)
        weights = Rom(f"{self.name}_w", w.reshape(groups * packets, self.pe * self.simd), self.weight_type)
        bias = Rom(f"{self.name}_b", self.bias.reshape(groups, self.pe), holding(int(self.bias.min()), int(self.bias.max())))
        return (*(() if self.adders or self.skips else (weights,)), bias, *vector_roms(self.name, self.body, self.pe))

    def cost(self) -> Cost:
        groups, packets = self.sizes
        lanes = self.pe * self.simd
        if self.adders:
            bits = self.adders.bits + self.pe * (self.body.inputs[0].bits + self.body.adder_bits)
            return Cost(((self.pe * self.body.products, 18, 18),), bits, (*rom_memories(self.roms()), *self._tables))
        acc = self.body.inputs[0].bits
        buffered = (Memory(packets, self.simd * self.inputs[0].type.bits),) if groups > 1 else ()
        kept = int(np.count_nonzero(self.weights)) if self.skips else lanes
        products = ((kept, self.inputs[0].type.bits, self.weight_type.bits), (self.pe * self.body.products, 18, 18))
        return Cost(products, acc * kept + self.pe * self.body.adder_bits,
                    (*rom_memories(self.roms()), *buffered, *self._tables))

    @property
    def _tables(self) -> tuple[Memory, ...]:
        return tuple(Memory(len(t.start), t.start_type.bits + t.slope_type.bits, True)
                     for t in self.body.tables for _ in range(self.pe))

    def about(self) -> str:
        outputs, k = self.weights.shape
        if self.adders:
            return (f"{self.positions} x ({k} -> {outputs}), weights {self.weight_type}, all products in "
                    f"{len(self.adders.adders)} adders")
        return (f"{self.positions} x ({k} -> {outputs}), weights {self.weight_type}, accumulator {self.body.inputs[0]}, "
                f"{self.pe} x {self.simd} products a cycle"
                + f", {np.count_nonzero(self.weights == 0)} of them with zero left out" * self.skips)

    def _added(self, a: Adders) -> list[str]:
        n, acc = self.name, self.body.inputs[0].cpp
        names = [f"x.v[{i}]" for i in range(self.simd)]
        lines = adders_code(a, names, "a", "    ")
        for o, t in enumerate(a.sums):
            total = f"{acc}({n}_b[0][{o}] + {sum_code(t, names)})"
            lines.append(f"    y.v[{o}] = {n}_body({total}{vector_arguments(n, self.body, '0', str(o))});")
        return lines

    def weight_at(self, row: str, lane: str) -> str:
        """A weight in C++."""
        return f"{self.name}_w[{row}][{lane}]"

    def bias_at(self, group: str, lane: str) -> str:
        return f"{self.name}_b[{group}][{lane}]"

    def loading(self) -> str:
        """What happens before the first position of a frame."""
        return ""

    def _without_zeros(self) -> list[str]:
        n, acc = self.name, self.body.inputs[0].cpp
        lines = []
        for o, row in enumerate(self.weights):
            terms = [f"x.v[{i}] * {w}" for i, w in enumerate(row.tolist()) if w]
            lines.append(f"    {acc} sum{o} = {n}_b[0][{o}];")
            lines += [f"    sum{o} += {' + '.join(terms[i:i + TERMS])};" for i in range(0, len(terms), TERMS)]
            lines.append(f"    y.v[{o}] = {n}_body(sum{o}{vector_arguments(n, self.body, '0', str(o))});")
        return lines

    def _in_loops(self) -> list[str]:
        n, acc = self.name, self.body.inputs[0].cpp
        return f"""    for (int o = 0; o < {self.pe}; ++o) {{
#pragma HLS UNROLL
      {acc} sum = {self.bias_at('0', 'o')};
      for (int i = 0; i < {self.simd}; ++i) {{
#pragma HLS UNROLL
        sum += x.v[i] * {self.weight_at('0', f'o * {self.simd} + i')};
      }}
      y.v[o] = {n}_body(sum{vector_arguments(n, self.body, '0', 'o')});
    }}""".splitlines()

    def _unrolled_code(self) -> str:
        adders, n = self.adders, self.name
        text = "\n".join(self._added(adders) if adders else self._without_zeros() if self.skips else self._in_loops())
        return f"""{self.body.code(n + "_body")}
{self.opening()}
{self.loading()}  for (int p = 0; p < {self.positions}; ++p) {{
#pragma HLS PIPELINE II=1
    const auto x = x0.read();
    {self.packet(0, True)} y;
{text}
    y0.write(y);
  }}
}}
"""

    def code(self) -> str:
        if self.unrolled:
            return self._unrolled_code()
        groups, packets = self.sizes
        acc, n = self.body.inputs[0].cpp, self.name
        read = "const auto x = x0.read();"
        keep = ""
        if groups > 1:
            keep = f"  {self.packet(0)} kept[{packets}];\n#pragma HLS AGGREGATE variable=kept\n"
            read = f"""{self.packet(0)} x;
        if (g == 0) {{
          x = x0.read();
          kept[k] = x;
        }} else {{
          x = kept[k];
        }}"""
        row = "k" if groups == 1 else f"g * {packets} + k" if packets > 1 else "g"
        body = f"{n}_body(sum{vector_arguments(n, self.body, 'g', 'o')})"
        return f"""{self.body.code(n + "_body")}
{self.opening()}
{keep}  {acc} acc[{self.pe}];
#pragma HLS ARRAY_PARTITION variable=acc complete
{self.loading()}  for (int p = 0; p < {self.positions}; ++p)
    for (int g = 0; g < {groups}; ++g)
      for (int k = 0; k < {packets}; ++k) {{
#pragma HLS PIPELINE II=1
        {read}
        {self.packet(0, True)} y;
        for (int o = 0; o < {self.pe}; ++o) {{
#pragma HLS UNROLL
          {acc} sum = k == 0 ? {acc}({self.bias_at('g', 'o')}) : acc[o];
          for (int i = 0; i < {self.simd}; ++i) {{
#pragma HLS UNROLL
            sum += x.v[i] * {self.weight_at(row, f'o * {self.simd} + i' if self.simd > 1 else 'o')};
          }}
          acc[o] = sum;
          y.v[o] = {body};
        }}
        if (k == {packets - 1}) y0.write(y);
      }}
}}
"""


def exact_product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """An integer matrix product, through floats when they are exact, since NumPy has no fast integer one."""
    reach = int(np.abs(x).max(initial=0)) * int(np.abs(w).sum(0).max(initial=0))
    if reach < 2**53:
        return np.rint(x.astype(np.float64) @ w.astype(np.float64)).astype(np.int64)
    return x @ w


def sum_range(weights: np.ndarray, bias: np.ndarray, x: Fixed) -> tuple[int, int]:
    """The least and the greatest sum of weights [O, K] times codes of a type, and bias [O]."""
    w = weights.astype(object)
    top, bottom = np.maximum(w * x.low, w * x.high).sum(1) + bias, np.minimum(w * x.low, w * x.high).sum(1) + bias
    return int(bottom.min()), int(top.max())


def accumulator(weights: np.ndarray, bias: np.ndarray, low: int, high: int, frac: int) -> Fixed:
    """The narrowest accumulator for these weights [O, K] and operands from low to high.  It holds every partial sum."""
    w = weights.astype(object)
    top = np.maximum(w * low, w * high).clip(0).sum(1) + bias.clip(0)
    bottom = np.minimum(w * low, w * high).clip(None, 0).sum(1) + bias.clip(None, 0)
    if max(int(top.max()), -int(bottom.min())) >= 2**61:
        raise ModelError("fpga: an accumulator of more than 62 bits; use fewer bits")
    return holding(int(bottom.min()), int(top.max()), frac)
