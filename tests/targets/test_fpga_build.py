"""Every kind of process: the integer interpreter follows f32, and the C simulation equals it in every bit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tilewright
from tilewright.ir.errors import ModelError, OptionError
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.elementwise import Binary, Cast
from tilewright.ir.ops.reduce import ArgReduce, CumSum
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact
from tilewright.targets.fpga.build import build
from tilewright.targets.fpga.host import resolve_machine
from tilewright.targets.fpga.options import FpgaOptions, make_fpga_options
from tilewright.targets.fpga.ranges import random_samples

from .fpga_graphs import BRANCHES, centred_frame, conv_relu, graph_of, pixels, random_network, residual, softmax, wide_convs

SHARED = Path(__file__).parents[3] / "shared"
SMALL = ("cnn", "mlp_dynamo")


def made(graph: Graph, board: str = "pynq-z2", **options: object) -> Artifact:
    """The project; building it runs the C simulation and compares with f32."""
    return build(graph, resolve_machine(f"fpga:{board}"), name="kernel", fpga=make_fpga_options(options))


def report(artifact: Artifact) -> dict:
    return json.loads(artifact.read("report.json"))


@pytest.mark.parametrize("half", [0, 1])
def test_every_kind_of_process(half: int) -> None:
    graph = graph_of(*BRANCHES[half::2])
    artifact = made(graph, "u250", fps=100_000.0 if half else 0.0, max_error=0.02)
    accuracy = report(artifact)["accuracy"]
    assert max(accuracy["error"]) < 0.02
    sample = random_samples(graph, (-4.0, 4.0), 1)[0]
    module = artifact.load()
    try:
        for y, wanted in zip(module(*sample), run_graph(graph, sample), strict=True):
            assert y.shape == wanted.shape
            np.testing.assert_allclose(y, wanted, atol=0.02)
    finally:
        module.close()


@pytest.mark.parametrize("seed", [0])
def test_random_networks(seed: int) -> None:
    made(random_network(seed), "u250", max_error=0.05)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 101))
def test_a_hundred_random_networks(seed: int) -> None:
    made(random_network(seed), "u250", max_error=0.05)


@pytest.mark.parametrize("bits", [6])
def test_few_bits_are_exact_too(bits: int) -> None:
    made(graph_of(residual), bits=bits, max_error=1.0)


def test_precision_is_chosen_for_a_bound() -> None:
    chosen = report(made(graph_of(residual), bits="auto", max_error=0.05))["accuracy"]["bits"]
    assert 4 < chosen < 16
    with pytest.raises(OptionError, match="largest error against f32"):
        made(graph_of(residual), bits=chosen - 1, max_error=0.05)


def test_what_does_not_fit_is_answered_with_what_would() -> None:
    with pytest.raises(OptionError, match=r"does not reach 1e\+06 frames a second.*what fits is [\d,.]+ frames"):
        made(graph_of(residual), fps=1e6)
    with pytest.raises(OptionError, match=r"needs .* LUT of .* allowed.*it would fit on"):
        made(graph_of(residual), max_lut=0.001)


def test_fifos_that_do_not_fit_go_to_memory(tmp_path: Path) -> None:
    """The project, its C simulation and the loader know the port; what memory cannot give is refused."""
    artifact = made(graph_of(centred_frame), "pynq-z2", max_bram=0.025)
    found = report(artifact)
    (port,) = found["memory"]["ports"]
    assert port["words"] == 32 * 32 * 8 // 4
    assert [p["kind"] for p in found["processes"]].count("spill") == 1
    assert found["interval_cycles"] == found["latency_cycles"]
    assert 0 < found["memory"]["gbs"] < 1
    assert f"uint64_t* {port['port']}" in artifact.read("src/kernel.cpp").decode()
    sample = random_samples(graph_of(centred_frame), (-4.0, 4.0), 1)[0]
    module = artifact.load()
    try:
        np.testing.assert_allclose(module(*sample)[0], run_graph(graph_of(centred_frame), sample)[0], atol=0.01)
    finally:
        module.close()
    place = artifact.save(tmp_path / "project")
    assert subprocess.run(["make", "-s", "csim"], cwd=place, capture_output=True, check=False).returncode == 0
    slow = tmp_path / "slow.toml"
    slow.write_text('name = "slow"\npart = "x"\nlut = 50000\ndsp = 200\nbram18 = 8\nmhz = 100\ngbs = 0.001\n')
    with pytest.raises(OptionError, match="GB/s of memory"):
        made(graph_of(centred_frame), str(slow))


def test_weights_that_do_not_fit_are_read_from_memory() -> None:
    """They are a file beside the project, and what the memory holds is what is used."""
    graph = graph_of(wide_convs)
    artifact = made(graph, "pynq-z2", max_bram=0.06)
    found = report(artifact)
    (port,) = found["memory"]["ports"]
    weights = np.frombuffer(artifact.read(f"weights/{port['file']}"), np.uint64)
    assert len(weights) == port["words"]
    assert "tiled_dot" in [p["kind"] for p in found["processes"]]
    sample = random_samples(graph, (-4.0, 4.0), 1)[0]
    module = artifact.load()
    try:
        (y,) = module(*sample)
        np.testing.assert_allclose(y, run_graph(graph, sample)[0], atol=0.02)
        module._memories[0][:] = 0  # type: ignore[attr-defined]
        assert np.abs(module(*sample)[0] - y).max() > 0.1
    finally:
        module.close()


def test_a_frame_rate_takes_no_more_than_it_needs() -> None:
    slow, fast = (report(made(graph_of(residual), fps=fps)) for fps in (2000.0, 0.0))
    assert slow["fps"] >= 2000
    assert slow["usage"]["dsp"]["used"] < fast["usage"]["dsp"]["used"]


def test_ports_can_be_streams() -> None:
    """The same integers as through memory; TLAST is checked by the test bench; nothing has to start the kernel."""
    graph = graph_of(conv_relu, softmax)
    sample = random_samples(graph, (-4.0, 4.0), 1)[0]
    results = []
    for interface in ("axis", "m_axi"):
        artifact = made(graph, "zcu104", interface=interface)
        module = artifact.load()
        results.append(module(*sample))
        module.close()
        source = artifact.read("src/kernel.cpp").decode()
        assert ("HLS INTERFACE ap_ctrl_none port=return" in source) == (interface == "axis")
        assert ("HLS INTERFACE axis port=in_x0" in source) == (interface == "axis")
        assert ("host/host.cpp" in artifact.files) == (interface == "m_axi")
    for y, same in zip(*results, strict=True):
        np.testing.assert_array_equal(y, same)
    with pytest.raises(OptionError, match="take --interface m_axi"):
        made(graph, "u250", interface="axis")
    with pytest.raises(OptionError, match="expected m_axi or axis, got 'axi'"):
        made(graph, "zcu104", interface="axi")


def test_a_transfer_without_tlast_fails_the_simulation(tmp_path: Path) -> None:
    place = made(graph_of(conv_relu), "zcu104", interface="axis").save(tmp_path / "project")
    source = place / "src" / "kernel.cpp"
    text = source.read_text()
    source.write_text(re.sub(r"\(w, i == \d+\)", "(w, false)", text))
    assert source.read_text() != text
    done = subprocess.run(["make", "--no-print-directory", "csim"], cwd=place, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout.splitlines()[-1])["wrong"] == 4


def test_ports_are_as_wide_as_the_frame_rate_needs() -> None:
    """Several elements a transfer, in both interfaces, where one a cycle would be the slowest part."""
    for interface in ("axis", "m_axi"):
        slow, fast = (report(made(graph_of(pixels), "zcu104", interface=interface, fps=fps)) for fps in (2e5, 1e6))
        assert [p["beat"] for p in slow["inputs"] + slow["outputs"]] == [1, 1]
        assert [p["beat"] for p in fast["inputs"] + fast["outputs"]] == [4, 4]
        assert fast["fps"] >= 1e6


def test_unsupported_operators_are_listed() -> None:
    b = Builder()
    x = b.input("x", TensorType("f32", (1, 4)))
    y = b.add(CumSum(1, False, False), x, where="here")
    graph = b.graph([y, b.add(ArgReduce("max", 1, True, False), y, where="there")])
    with pytest.raises(ModelError, match=r"(?s)2 operation.*ArgReduce.*CumSum"):
        made(graph)


def test_the_project_has_what_its_users_expect(tmp_path: Path) -> None:
    artifact = made(graph_of(conv_relu, softmax), "u50")
    place = artifact.save(tmp_path / "project")
    for name in ("src/kernel.cpp", "src/kernel.h", "src/tw_hls.h", "weights/weights.h", "tb/kernel_tb.cpp", "tb/input0.dat",
                 "hls_config.cfg", "run_hls.tcl", "link.cfg", "Makefile", "host/driver.py", "host/host.cpp", "report.json",
                 "report.html", "manifest.json"):
        assert (place / name).is_file(), name
    assert "flow_target=vitis" in (place / "hls_config.cfg").read_text()
    compile((place / "host/driver.py").read_text(), "driver.py", "exec")
    done = subprocess.run(["make", "--no-print-directory", "csim"], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["wrong"] == 0
    artifact.save(tmp_path / "again")


def test_a_wrong_golden_frame_fails_the_simulation(tmp_path: Path) -> None:
    place = made(graph_of(conv_relu)).save(tmp_path / "project")
    expected = place / "tb" / "expected0.dat"
    first, rest = expected.read_text().split(" ", 1)
    expected.write_text(f"{int(first) + 1} {rest}")
    done = subprocess.run(["make", "--no-print-directory", "csim"], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_the_same_model_gives_the_same_bytes() -> None:
    one, two = (made(graph_of(residual, softmax)) for _ in range(2))
    assert {n: one.read(n) for n in one.files} == {n: two.read(n) for n in two.files}


def test_names_of_a_model_cannot_reach_the_sources() -> None:
    b = Builder()
    x = b.input('x"; system("rm");//\n#include', TensorType("f32", (1, 4)))
    y = b.add(Binary("mul"), x, b.constant(np.float32(2.0)), name="*/ evil \\", where="\\\nint main() {}")
    artifact = made(b.graph([y]))
    lines = (artifact.read("src/kernel.cpp") + artifact.read("src/kernel.h")).decode().splitlines()
    assert all(line.startswith("//") for line in lines if "system(" in line or "evil \\" in line)
    assert not any(line.startswith(("int main", "#include \"rm")) or line.endswith("\\") for line in lines)


def test_options_are_checked() -> None:
    assert make_fpga_options({"bits": "auto", "max_dsp": "80%"}) == FpgaOptions(bits=0, max_dsp=0.8)
    for wrong in ({"bits": 99}, {"bit": 8}, {"max_dsp": "eight"}, {"fps": -1}, {"input_range": (1, 0)}, {"calibration": "/no"}):
        with pytest.raises(OptionError):
            make_fpga_options(wrong)


def test_calibration_data_give_the_ranges(tmp_path: Path) -> None:
    graph = graph_of(conv_relu)
    np.savez(tmp_path / "c.npz", x0=np.full((5, 1, 7, 6, 3), 100.0, np.float32))
    port = report(made(graph, calibration=str(tmp_path / "c.npz")))["inputs"][0]
    assert port["range"][1] * 2.0 ** -port["frac"] >= 100
    np.savez(tmp_path / "d.npz", other=np.zeros(3))
    with pytest.raises(OptionError, match="expected the input 'x0'"):
        made(graph, calibration=str(tmp_path / "d.npz"))


def shared_models() -> list:
    folder = SHARED / "models-fpga"
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    rows = [pytest.param(n, marks=[] if n in SMALL else [pytest.mark.slow]) for n in names]
    return rows or [pytest.param("", marks=pytest.mark.skip(reason=f"{folder} is absent"))]


@pytest.mark.parametrize("name", shared_models())
def test_ordinary_networks_need_no_preparation(name: str) -> None:
    folder = SHARED / "models-fpga" / name
    artifact = tilewright.compile(folder / "model.onnx", "fpga:pynq-z2", cache=False)
    data = np.load(folder / "io.npz")
    module = artifact.load()
    (y,) = module(data["input_0"])
    module.close()
    assert np.abs(y - data["output_0"]).max() < 0.001
    lines = sum(artifact.read(f).count(b"\n") for f in artifact.files if f.endswith((".cpp", ".h", ".py", ".cfg", ".tcl")))
    assert lines <= 2000


def test_the_command_line_builds_a_project(tmp_path: Path) -> None:
    folder = SHARED / "models-fpga" / "mlp"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    command = [sys.executable, "-m", "tilewright.compiler.cli", "compile", str(folder / "model.onnx"), "--no-cache", "-o",
               str(tmp_path / "out"), "--target", "fpga:arty-a7-100t@120", "--bits", "12", "--fps", "1000", "--max-dsp", "50%",
               "--input-range", "-3.5,4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    assert "frames a second at 120 MHz" in done.stdout
    assert (tmp_path / "out" / "src" / "model.cpp").is_file()


def test_outputs_have_the_types_of_the_model() -> None:
    """The kernel's codes come back as what the model declares: integers, bools, floats of 16 bits."""
    b = Builder("types")
    x = b.input("x", TensorType("f32", (4, 6)))
    less = b.add(Binary("lt"), x, b.constant(np.float32(0.25)))
    outputs = [b.add(Cast("i32"), less), less, b.add(Cast("f16"), b.add(Binary("add"), x, x))]
    graph = b.graph(outputs, ["whole", "choice", "half"])
    module = made(graph, "u250", max_error=1.0).load()
    try:
        sample = random_samples(graph, (-4.0, 4.0), 1)[0]
        for y, wanted in zip(module(*sample), run_graph(graph, sample), strict=True):
            assert (y.dtype, y.shape) == (wanted.dtype, wanted.shape)
    finally:
        module.close()
