"""The parts of the FPGA target on their own: numbers, tables, boards, estimates, lint, the event simulation."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewright.codegen.hls.body import BodyBuilder
from tilewright.codegen.hls.design import Design, Memory
from tilewright.codegen.hls.dot import Dot, accumulator
from tilewright.codegen.hls.emit import kernel_source
from tilewright.codegen.hls.fixed import Fixed, covering, exact_constant, holding, round_shift
from tilewright.codegen.hls.shift_add import digits, shift_add
from tilewright.codegen.hls.simulate import simulate
from tilewright.codegen.hls.sliding import SlidingWindow
from tilewright.codegen.hls.table import make_table
from tilewright.codegen.hls.tensor import Tensor
from tilewright.codegen.hls.wire import connect, pack_deep, wire
from tilewright.ir.errors import ModelError, OptionError
from tilewright.targets.fpga.boards import BOARDS, USABLE, find_board
from tilewright.targets.fpga.build import build
from tilewright.targets.fpga.c_names import kernel_name
from tilewright.targets.fpga.csim import Csim, run_csim
from tilewright.targets.fpga.estimate import memory_usage, product_usage
from tilewright.targets.fpga.host import resolve_machine
from tilewright.targets.fpga.lint import lint
from tilewright.targets.fpga.lower import lower_graph
from tilewright.targets.fpga.project import project_files
from tilewright.targets.fpga.ranges import Ranges, random_samples

from .fpga_graphs import (
    attention,
    conv_1d,
    conv_relu,
    depthwise_prelu,
    dilated_conv,
    graph_of,
    pools,
    residual,
    strided_conv,
)


def design_of(*branches: object, fastest: bool = False) -> Design:
    graph = graph_of(*branches)  # type: ignore[arg-type]
    lowered = lower_graph(graph, Ranges(graph, random_samples(graph, (-4.0, 4.0), 2), (-4.0, 4.0)), 12)
    processes, outputs = connect(lowered.processes, lowered.inputs, lowered.outputs)
    if fastest:
        processes = tuple(p.foldings()[-1] for p in processes)
    names = tuple(f"in_{n}" for n in range(len(lowered.inputs))), tuple(f"out_{n}" for n in range(len(outputs)))
    design = Design("top", wire(processes, lowered.inputs), lowered.inputs, outputs, lowered.in_ports,
                    lowered.out_ports, *names)
    return replace(design, depths=simulate(design).depths)


@pytest.mark.parametrize(("low", "high", "bits"), [
    (-1.0, 1.0, 8), (0.0, 1.0, 8), (-0.3, 0.1, 4), (0.0, 1000.0, 6), (-4.0, 4.0, 16),
])
def test_a_type_covers_its_range_and_is_as_fine_as_can_be(low: float, high: float, bits: int) -> None:
    t = covering(low, high, bits)
    assert t.low * t.step <= low
    assert high <= t.high * t.step + t.step
    finer = Fixed(bits, t.frac + 1, t.signed)
    assert finer.low * finer.step > low or finer.high * finer.step < high


def test_rounding_is_to_nearest_halves_up() -> None:
    np.testing.assert_array_equal(round_shift(np.array([-6, -5, -2, 1, 2, 3, 5]), 2), [-1, -1, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(Fixed(4, 1).quantize(np.array([-9.0, -0.25, 0.24, 0.25, 3.4, 9.0])), [-8, 0, 0, 1, 7, 7])


def test_constants_lose_the_zeros_that_all_have() -> None:
    q, t = exact_constant(np.array([6.0, -2.0, 0.0]), 16)
    np.testing.assert_array_equal(t.real(q), [6.0, -2.0, 0.0])
    assert t.bits == 3


def test_accumulators_hold_every_partial_sum_and_no_more() -> None:
    rng = np.random.default_rng(0)
    w, bias = rng.integers(-50, 50, (4, 9)), rng.integers(-500, 500, 4)
    t = accumulator(w, bias, -128, 127, 0)
    top = int((np.maximum(w * -128, w * 127).sum(1) + bias).max())
    assert t.high >= top
    assert t.bits <= holding(-2 * top - 1000, 2 * top + 1000).bits
    with pytest.raises(ModelError, match="62 bits"):
        accumulator(np.full((1, 4), 2**40), np.zeros(1, np.int64), -(2**30), 2**30, 0)


@pytest.mark.parametrize(("f", "operand", "result"), [
    (np.tanh, Fixed(16, 12), Fixed(16, 15)), (np.exp, Fixed(8, 4), Fixed(12, 3, False)),
    (np.sqrt, Fixed(10, 4, False), Fixed(10, 6)),
])
def test_the_stated_error_of_a_table_is_the_largest(f: object, operand: Fixed, result: Fixed) -> None:
    table = make_table("t", f, operand, result)  # type: ignore[arg-type]
    codes = np.arange(operand.low, operand.high + 1)
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = np.clip(np.nan_to_num(f(operand.real(codes))), result.low * result.step, result.high * result.step)  # type: ignore
    assert np.abs(result.real(table.run(codes)) - wanted).max() == pytest.approx(table.error)
    assert table.error <= 4 * result.step


def test_registers_know_their_range() -> None:
    b = BodyBuilder()
    x, y = b.input(Fixed(8, 4)), b.input(Fixed(6, 2, False))
    z = b.round(b.binary("add", b.binary("mul", x, y), b.constant(np.array(1.5), 8)), Fixed(10, 4))
    body = b.body(z)
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, 500), rng.integers(0, 64, 500)
    out = body.run(*codes)
    assert body.result.low <= out.min()
    assert out.max() <= body.result.high
    exact = codes[0] / 16 * (codes[1] / 4) + 1.5
    assert np.abs(out / 16 - np.clip(exact, -32, 511 / 16)).max() <= 1 / 32


@pytest.mark.parametrize(("shape", "reach", "density"), [((8, 9), 127, 1.0), ((16, 12), 7, 0.4), ((12, 9), 1, 0.6)])
def test_constant_products_as_additions(shape: tuple[int, int], reach: int, density: float) -> None:
    """The same integers, in the widths that the adders state, with fewer adders than digits."""
    rng = np.random.default_rng(1)
    m = rng.integers(-reach, reach + 1, shape) * (rng.random(shape) < density)
    m[0] = 0
    adders, x = shift_add(m, Fixed(8)), rng.integers(-128, 128, (300, shape[1]))
    np.testing.assert_array_equal(adders.run(x), x @ m.T)
    assert len(adders.adders) < sum(max(0, sum(len(digits(n)) for n in row) - 1) for row in m.tolist())
    assert adders.sums[0] is None


@pytest.mark.parametrize("n", [0, 1, -1, 7, -93, 127, 2**20 - 1])
def test_signed_digits(n: int) -> None:
    found = digits(n)
    assert sum(sign << shift for shift, sign in found) == n
    assert all(b[0] - a[0] > 1 for a, b in pairwise(found))


def self_timed(design: Design, frames: int = 3) -> int:
    """Cycle by cycle with bounded FIFOs; the cycle of the last write.  Fails when nothing moves.

    What a process has in its pipeline is not in the FIFO yet: so many more packets may be on their way."""
    lanes = design.lanes
    room = {t: design.depths[t] for t in lanes}
    for p in design.processes:
        for t in p.outputs:
            room[t] += p.timing().latency
    ready: dict[Tensor, list[int]] = {t: [] for t in lanes}  # cycle from which each packet can be read
    held = dict.fromkeys(lanes, 0)
    plans: list[list[Any]] = []
    for p in design.processes:
        timing = p.timing()
        events: dict[int, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for n, t in enumerate(p.inputs):
            for i in timing.reads[n].tolist():
                events[i][0].append(t.stream)
        for n, t in enumerate(p.outputs):
            for i in timing.writes[n].tolist():
                events[i][1].append(t)
        plans.append([timing, events, 0, frames])
    feeds = {t: frames * t.size // lanes[t] for t in design.inputs}
    drains = {t.stream: frames * t.size // lanes[t.stream] for t in design.outputs}
    cycle, last = 0, 0
    while any(plan[3] for plan in plans) or any(drains.values()):
        for t in feeds:
            if feeds[t] and held[t] < room[t]:
                held[t] += 1
                feeds[t] -= 1
                ready[t].append(cycle + 1)
                last = cycle
        for plan in plans:
            timing, events, at, left = plan
            if not left:
                continue
            reads, writes = events[at]
            if any(not ready[t] or ready[t][0] > cycle for t in reads) or any(held[t] >= room[t] for t in writes):
                continue
            for t in reads:
                ready[t].pop(0)
                held[t] -= 1
            for t in writes:
                held[t] += 1
                ready[t].append(cycle + 1 + timing.latency)
            plan[2] = (at + 1) % timing.iterations
            plan[3] -= plan[2] == 0
            last = cycle
        for t in drains:
            if drains[t] and ready[t] and ready[t][0] <= cycle and cycle % lanes[t] == 0:
                ready[t].pop(0)
                held[t] -= 1
                drains[t] -= 1
                last = cycle
        assert cycle - last < 2000, "the design is stuck"
        cycle += 1
    return cycle


@pytest.mark.parametrize("branches", [(residual,), (pools,), (attention, depthwise_prelu)])
def test_the_depths_never_stop_the_design(branches: tuple) -> None:
    design = design_of(*branches)
    found = simulate(design)
    bounded = self_timed(design)
    unbounded = self_timed(replace(design, depths=dict.fromkeys(design.lanes, 10**9)))
    assert bounded <= unbounded * 1.01 + 200
    assert found.interval == max(found.busy.values())
    assert found.latency <= bounded


def test_whole_windows_leave_in_one_packet() -> None:
    """A pixel a cycle: the windows of convolutions and pools with strides, dilation and one dimension never wait."""
    branches = conv_relu, strided_conv, dilated_conv, conv_1d, pools, depthwise_prelu
    slow, fast = design_of(*branches), design_of(*branches, fastest=True)
    windows = [p for p in fast.processes if p.kind == "sliding_window"]
    assert len(windows) == 8 and not any(p.kind == "window" for p in fast.processes)
    for p in windows:
        assert isinstance(p, SlidingWindow)
        n, h, w, c = p.image
        assert p.cycles <= n * (h + 3) * (w + 3)
        assert p.lanes_out == p.kernel[0] * p.kernel[1] * c
    rng = np.random.default_rng(0)
    codes = [rng.integers(t.type.low, t.type.high + 1, t.shape) for t in slow.inputs]
    wanted = slow.run(codes)
    for one, other in zip(wanted, fast.run(codes), strict=True):
        np.testing.assert_array_equal(one, other)
    self_timed(fast)
    files = project_files(fast, resolve_machine("fpga:zcu104"), [codes], [wanted])
    assert lint(files["src/top.cpp"].decode(), "top") == []
    assert run_csim(files, "top") == Csim(1, 0, 0)


def test_products_with_zero_have_no_hardware() -> None:
    """Unrolled products name the weights that are not zero, and cost as many multipliers."""
    rng = np.random.default_rng(3)
    w = rng.integers(20_000, 30_000, (4, 30)) * (rng.random((4, 30)) < 0.4)
    b = BodyBuilder()
    body = b.body(b.input(accumulator(w, np.zeros(4, np.int64), -128, 127, 0)))
    x, y = Tensor("x", (5, 30), Fixed(8)), Tensor("y", (5, 4), body.result.type)
    p = Dot(name="dot", inputs=(x,), outputs=(y,), weights=w, weight_type=Fixed(16), bias=np.zeros(4, np.int64), body=body,
            run_length=30, pe=4, simd=30).wired((30,))
    assert p.cost().products[0][0] == np.count_nonzero(w)
    code = p.code()
    assert [len(re.findall(rf"\* {v}\b", code)) for v in set(w[w != 0].tolist())] == [1] * len(set(w[w != 0].tolist()))
    assert code.count(" * ") == np.count_nonzero(w)
    assert not any(r.name == "dot_w" for r in p.roms())


def test_deep_fifos_are_packed_and_nothing_else_changes() -> None:
    design = design_of(residual)
    packed = replace(design, processes=pack_deep(design.processes, design.outputs, design.depths, 72, 16))
    assert len(packed.processes) > len(design.processes)
    rng = np.random.default_rng(0)
    codes = [rng.integers(t.type.low, t.type.high + 1, t.shape) for t in design.inputs]
    np.testing.assert_array_equal(packed.run(codes)[0], design.run(codes)[0])
    assert simulate(packed).interval == simulate(design).interval
    assert lint(kernel_source(replace(packed, depths=simulate(packed).depths)), "top") == []


def test_a_residual_without_room_is_stuck() -> None:
    design = design_of(residual)
    fork = next(p for p in design.processes if p.kind == "fork")
    with pytest.raises(AssertionError, match="stuck"):
        self_timed(replace(design, depths={**design.depths, **dict.fromkeys(fork.outputs, 2)}))


def test_boards() -> None:
    assert {"pynq-z2", "arty-a7-100t", "ultra96-v2", "kv260", "zcu102", "zcu104", "zcu111", "u50", "u200", "u250", "u280",
            "vck190"} == set(BOARDS)
    assert resolve_machine("fpga:kv260@150").mhz == 150
    assert resolve_machine("fpga").board.name == "pynq-z2"
    assert "dsp" not in BOARDS["pynq-z2"].from_memory
    assert "dsp" in BOARDS["arty-a7-100t"].from_memory
    for wrong in ("fpga:pynq", "fpga:kv260@fast", "fpga:kv260@0", "fpga:absent.toml"):
        with pytest.raises(OptionError):
            resolve_machine(wrong)


def test_a_board_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\npart = "xc7z010clg400-1"\nlut = 17600\ndsp = 80\nbram18 = 120\nmhz = 90\n'
                    'family = "7-series"\n')
    machine = resolve_machine(f"fpga:{path}")
    assert (machine.board.dsp, machine.mhz, machine.board.ff) == (80, 90, 35200)
    artifact = build(graph_of(residual), machine, name="k")
    assert b"part=xc7z010clg400-1" in artifact.read("hls_config.cfg")
    for wrong in ("lut = -1", 'part = "a b; rm"', 'family = "none"', "colour = 3"):
        key = wrong.split(" =")[0]
        text = "\n".join(x for x in path.read_text().splitlines() if not x.startswith(key + " ")) + f"\n{wrong}\n"
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(OptionError):
            find_board(str(tmp_path / "bad.toml"))


def test_estimates_of_products_and_memories() -> None:
    zynq, versal = BOARDS["pynq-z2"], BOARDS["vck190"]
    assert product_usage(3, 16, 16, zynq).dsp == 3
    assert product_usage(1, 24, 18, zynq).dsp == 1
    assert product_usage(1, 24, 24, zynq).dsp == 2
    assert product_usage(1, 24, 24, versal).dsp == 1
    assert product_usage(5, 3, 4, zynq).dsp == 0
    assert memory_usage(Memory(1024, 18)).bram18 == 1
    assert memory_usage(Memory(4096, 72), ultra=True).uram == 1
    assert memory_usage(Memory(4096, 72, True), ultra=True).uram == 0
    assert memory_usage(Memory(32, 16, True)).lut == 16


FAULTS = {
    "dynamic memory": ("kept[", "int* q = new int[3]; kept["),
    "a loop without constant bounds": ("for (int k = 0; k < 27;", "for (int k = 0; k < n;"),
    "a loop without": ("for (int p = 0;", "while (x) for (int p = 0;"),
    "a call of the system": ("  for (int p = 0;", '  printf("x");\n  for (int p = 0;'),
    "floating point": ("  for (int p = 0;", "  double d;\n  for (int p = 0;"),
    "an unknown pragma": ("#pragma HLS PIPELINE II=1", "#pragma HLS FASTER II=1"),
    "arguments that the pragma does not take": ("#pragma HLS PIPELINE II=1", "#pragma HLS PIPELINE II=x"),
    "is not at the top of a loop": ("#pragma HLS DATAFLOW", "#pragma HLS DATAFLOW\n#pragma HLS PIPELINE II=1"),
    "calls itself": ("#pragma HLS INLINE\n", "#pragma HLS INLINE\n  dot_1_body(acc);\n"),
    "an array of variable size": ("  for (int p = 0;", "  int buffer[size];\n  for (int p = 0;"),
    "expected one writer and one reader": ("  fork_", "  fork_2(a, b);\n  fork_"),
    "a standard library": ("  for (int p = 0;", "  std::vector<int> z;\n  for (int p = 0;"),
}


def test_generated_kernels_are_clean() -> None:
    assert lint(kernel_source(design_of(residual, pools, attention, depthwise_prelu)), "top") == []


@pytest.mark.parametrize("fault", FAULTS)
def test_every_seeded_fault_is_found(fault: str) -> None:
    source = kernel_source(design_of(residual))
    old, new = FAULTS[fault]
    if fault == "expected one writer and one reader":
        name = next(line.split("(")[0].strip() for line in source.splitlines() if line.startswith("  fork_"))
        old, new = f"  {name}(", f"  {name}(s_again, "
        again = "#pragma HLS DATAFLOW\n  static tw::stream<tw::vec<tw::sint<4>, 1>> s_again;\n"
        source = source.replace("#pragma HLS DATAFLOW\n", again)
    if fault == "dynamic memory" and old not in source:
        old, new = "  for (int p = 0;", "  int* q = new int[3];\n  for (int p = 0;"
    if fault == "a loop without constant bounds":
        old = next(f"for (int k = 0; k < {n};" for n in range(1, 100) if f"for (int k = 0; k < {n};" in source)
    assert old in source
    assert any(fault in found for found in lint(source.replace(old, new, 1), "top")), lint(source.replace(old, new, 1), "top")


def test_budgets_are_parts() -> None:
    assert all(0 < part <= 1 for part in USABLE.values())


@pytest.mark.parametrize("name", ["random", "main", "int", "weights", "window_0", "in_x", "size_t", "write"])
def test_names_that_the_sources_have_already(name: str) -> None:
    assert kernel_name(name) == f"{name}_kernel"
    assert kernel_name(f"my_{name.replace('_', '')}") == f"my_{name.replace('_', '')}"
