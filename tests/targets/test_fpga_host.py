"""What stands beside the kernel: host programs run against stand-ins of PYNQ and XRT, scripts are read as their tools do.

The stand-ins run the C simulation on the addresses that they are given, so a driver that forgets a buffer, a flush or a
register gives other numbers than `tilewright.load`."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewright.targets.artifact import Artifact
from tilewright.targets.fpga.build import build
from tilewright.targets.fpga.csim import FLAGS, find_compiler
from tilewright.targets.fpga.host import resolve_machine
from tilewright.targets.fpga.options import make_fpga_options
from tilewright.targets.fpga.ranges import random_samples

from .fpga_graphs import conv_relu, graph_of, softmax, wide_convs

STUBS = Path(__file__).parent / "fpga_stubs"
GRAPH = graph_of(conv_relu, softmax)
SAMPLE = random_samples(GRAPH, (-4.0, 4.0), 1)[0]


@cache
def project(board: str = "zcu104", interface: str = "m_axi", memory: bool = False) -> Artifact:
    options = make_fpga_options({"interface": interface, "max_bram": 0.06 if memory else 0.8})
    machine = resolve_machine(f"fpga:{'pynq-z2' if memory else board}")
    return build(graph_of(wide_convs) if memory else GRAPH, machine, name="kernel", fpga=options)


@cache
def expected() -> list[np.ndarray]:
    module = project().load()
    found = module(*SAMPLE)
    module.close()
    return list(found)


def library(place: Path, *sources: str) -> ctypes.CDLL:
    command = [find_compiler(), *FLAGS, "-shared", "-fPIC", "-o", "kernel.so", "src/kernel.cpp", *sources]
    subprocess.run(command, cwd=place, check=True)
    return ctypes.CDLL(str(place / "kernel.so"))


def driver(place: Path, monkeypatch: pytest.MonkeyPatch, **modules: dict[str, Any]) -> Any:
    """`host/driver.py`, imported with these modules in place of those of the board."""
    for name, members in modules.items():
        fake = types.ModuleType(name)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, name, fake)
    spec = importlib.util.spec_from_file_location("driver", place / "host" / "driver.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(place)
    return module


class Buffer(np.ndarray):
    """Host and device see each other's writes after `flush` and `invalidate` only."""

    shadow: np.ndarray

    @property
    def device_address(self) -> int:
        return self.shadow.ctypes.data

    def flush(self) -> None:
        self.shadow[:] = np.asarray(self)

    def invalidate(self) -> None:
        np.asarray(self)[:] = self.shadow


def allocate(shape: tuple[int, ...], dtype: Any) -> Buffer:
    made = np.zeros(shape, dtype).view(Buffer)
    made.shadow = np.zeros(shape, dtype)
    return made


class Control:
    """The registers of a kernel: AP_START runs it on the addresses that were written."""

    AP_DONE = 1
    _start: tuple[Callable[[dict[str, int]], None], dict[str, int]]

    def __init__(self, run: Callable[[dict[str, int]], None], registers: dict[str, int]) -> None:
        object.__setattr__(self, "_start", (run, registers))

    def __setattr__(self, name: str, value: int) -> None:
        run, registers = self._start
        if name == "AP_START" and value:
            run(registers)


class Registers:
    values: dict[str, int]

    def __init__(self, run: Callable[[dict[str, int]], None]) -> None:
        object.__setattr__(self, "values", {})
        object.__setattr__(self, "CTRL", Control(run, self.values))

    def __setattr__(self, name: str, value: int) -> None:
        self.values[name] = int(value)


@pytest.mark.parametrize("memory", [False, True])
def test_the_driver_runs_the_kernel_of_a_zynq_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: bool) -> None:
    artifact = project(memory=memory)
    place = artifact.save(tmp_path / "project")
    run = library(place).kernel
    ports = artifact.manifest["ports"]
    names = [p["port"] for p in ports["inputs"] + ports["outputs"] + ports["memories"]]
    assert memory == bool(ports["memories"])

    def start(registers: dict[str, int]) -> None:
        run(*(ctypes.c_void_p(registers[f"{n}_1"] | registers[f"{n}_2"] << 32) for n in names))

    kernel = types.SimpleNamespace(register_map=Registers(start))
    overlay = lambda path: types.SimpleNamespace(kernel_1=kernel)  # noqa: E731
    host = driver(place, monkeypatch, pynq={"Overlay": overlay, "allocate": allocate})
    sample = random_samples(graph_of(wide_convs), (-4.0, 4.0), 1)[0] if memory else SAMPLE
    module = artifact.load()
    for y, wanted in zip(host.Kernel("kernel.bit")(*sample), module(*sample), strict=True):
        np.testing.assert_array_equal(y, wanted)
    module.close()


def test_the_driver_runs_the_kernel_of_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = project().save(tmp_path / "project")
    run = library(place).kernel

    class Bo:
        normal = 0

        def __init__(self, device: object, size: int, flags: int, group: int) -> None:
            self.host, self.device = np.zeros(size, np.uint8), np.zeros(size, np.uint8)

        def map(self) -> np.ndarray:
            return self.host

        def sync(self, direction: int) -> None:
            (self.device if direction else self.host)[:] = self.host if direction else self.device

    class Kernel:
        shared = 0

        def __init__(self, *arguments: object) -> None:
            pass

        def group_id(self, n: int) -> int:
            return n

        def __call__(self, *objects: Bo) -> Any:
            run(*(ctypes.c_void_p(o.device.ctypes.data) for o in objects))
            return types.SimpleNamespace(wait=lambda: None)

    direction = types.SimpleNamespace(XCL_BO_SYNC_BO_TO_DEVICE=1, XCL_BO_SYNC_BO_FROM_DEVICE=0)
    host = driver(place, monkeypatch, pyxrt={
        "device": lambda n: types.SimpleNamespace(load_xclbin=lambda x: "uuid"), "xclbin": str, "kernel": Kernel, "bo": Bo,
        "xclBOSyncDirection": direction,
    })
    for y, wanted in zip(host.Kernel("kernel.xclbin")(*SAMPLE), expected(), strict=True):
        np.testing.assert_array_equal(y, wanted)


def test_the_driver_feeds_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = project(interface="axis").save(tmp_path / "project")
    run = library(place, "tb/kernel_arrays.cpp").kernel_arrays
    sent: dict[str, Buffer] = {}
    order = ["axi_dma_0.send", "axi_dma_1.send", "axi_dma_0.recv", "axi_dma_1.recv"]

    class Channel:
        def __init__(self, name: str) -> None:
            self.name = name

        def transfer(self, buffer: Buffer) -> None:
            assert self.name not in sent and ("send" not in self.name or len([n for n in sent if "recv" in n]) == 2)
            sent[self.name] = buffer

        def wait(self) -> None:
            if self.name == order[-1]:
                run(*(ctypes.c_void_p(sent[n].ctypes.data) for n in order))

    dmas = {name: types.SimpleNamespace(sendchannel=Channel(f"{name}.send"), recvchannel=Channel(f"{name}.recv"))
            for name in ("axi_dma_0", "axi_dma_1")}
    host = driver(place, monkeypatch, pynq={"Overlay": lambda path: types.SimpleNamespace(**dmas), "allocate": allocate})
    for y, wanted in zip(host.Kernel("kernel.bit")(*SAMPLE), expected(), strict=True):
        np.testing.assert_array_equal(y, wanted)


def test_the_cpp_host_runs_the_kernel(tmp_path: Path) -> None:
    """Compiled with warnings as errors; every output file is the golden one."""
    artifact = project()
    place = artifact.save(tmp_path / "project")
    ports = artifact.manifest["ports"]
    (place / "glue.cpp").write_text(
        'extern "C" void kernel(char*, char*, char*, char*);\n'
        'extern "C" void kernel_on_pointers(char** p) { kernel(p[0], p[1], p[2], p[3]); }\n')
    compiler = find_compiler()
    build_command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", f"-I{STUBS}", "-c"]
    subprocess.run([*build_command, "host/host.cpp", "-o", "host.o"], cwd=place, check=True)
    subprocess.run([compiler, *FLAGS, "-o", "host_program", "host.o", "glue.cpp", "src/kernel.cpp"], cwd=place, check=True)
    for n, p in enumerate(ports["inputs"]):
        codes = np.array((place / f"tb/input{n}.dat").read_text().splitlines()[0].split(), p["dtype"])
        codes.tofile(place / f"in{n}.bin")
    files = [f"in{n}.bin" for n in range(len(ports["inputs"]))] + [f"out{n}.bin" for n in range(len(ports["outputs"]))]
    assert subprocess.run(["./host_program", "kernel.xclbin", *files], cwd=place, check=False).returncode == 0
    for n, p in enumerate(ports["outputs"]):
        wanted = np.array((place / f"tb/expected{n}.dat").read_text().splitlines()[0].split(), p["dtype"])
        np.testing.assert_array_equal(np.fromfile(place / f"out{n}.bin", p["dtype"]), wanted)
    short = subprocess.run(["./host_program", "kernel.xclbin"], cwd=place, capture_output=True, text=True, check=False)
    assert short.returncode == 2 and "usage" in short.stderr


TCL = {  # commands of the vendor's Tcl, and the options that they take
    "open_project": ["-reset"], "set_top": [], "add_files": ["-tb", "-cflags"], "open_solution": ["-reset", "-flow_target"],
    "set_part": [], "create_clock": ["-period"], "set_clock_uncertainty": [], "csim_design": ["-argv"], "csynth_design": [],
    "export_design": ["-format"], "exit": [],
}


def tcl_calls(script: str) -> Iterator[list[str]]:
    """The commands that a Tcl interpreter makes of a script."""
    tkinter = pytest.importorskip("tkinter", reason="needs Python's Tcl")
    interpreter = tkinter.Tcl()
    calls: list[list[str]] = []
    for name in TCL:
        interpreter.createcommand(name, lambda *words, name=name: calls.append([name, *words]))
    interpreter.eval(script)
    yield from calls


@pytest.mark.parametrize(("board", "flow", "output"), [("u50", "vitis", "xo"), ("zcu104", "vivado", "ip_catalog")])
def test_the_scripts_of_the_vendors_tools(tmp_path: Path, board: str, flow: str, output: str) -> None:
    place = project(board).save(tmp_path / "project")
    calls = list(tcl_calls((place / "run_hls.tcl").read_text()))
    assert [c[0] for c in calls][-4:] == ["csim_design", "csynth_design", "export_design", "exit"]
    for name, *words in calls:
        assert all(w in TCL[name] for w in words if w.startswith("-") and not w.startswith("-I")), (name, words)
        files = [w for w in words if name == "add_files" and not w.startswith("-")]
        assert all((place / f).is_file() for f in files)
    assert ["export_design", "-format", output] in calls and ["set_top", "kernel"] in calls
    head, section, *rows = [line for line in (place / "hls_config.cfg").read_text().splitlines() if line]
    assert head.startswith("part=xc") and section == "[hls]"
    values: dict[str, list[str]] = {}
    for row in rows:
        key, _, value = row.partition("=")
        values.setdefault(key, []).append(value)
    known = {"clock", "clock_uncertainty", "flow_target", "syn.top", "syn.file", "syn.cflags", "tb.file", "tb.cflags",
             "csim.code_analyzer", "syn.output.format", "package.output.format"}
    assert set(values) == known
    assert all((place / f).is_file() for f in values["syn.file"] + values["tb.file"])
    assert values["flow_target"] == [flow] and values["package.output.format"] == [output]
    assert re.fullmatch(r"\d+\.\d{3}ns", values["clock"][0])


@pytest.mark.parametrize("board", ["u50", "zcu104"])
def test_every_target_of_the_makefile(tmp_path: Path, board: str) -> None:
    """make says what it would do; csim is done."""
    place = project(board).save(tmp_path / "project")
    wanted = {"csim": "src/kernel.cpp", "vitis-csim": "--csim", "csynth": "v++ -c --mode hls", "cosim": "--cosim",
              "package": "--package", "legacy": "run_hls.tcl", "clean": "rm",
              "link": "link.cfg" if board == "u50" else "Vivado"}
    for target, word in wanted.items():
        done = subprocess.run(["make", "-n", target, "PLATFORM=p.xpfm"], cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and word in done.stdout, (target, done.stdout, done.stderr)
        assert "hls_config.cfg" not in done.stdout or (place / "hls_config.cfg").is_file()


def test_memory_banks_of_a_card(tmp_path: Path) -> None:
    rows = project("u50").read("link.cfg").decode().splitlines()
    source = project("u50").read("src/kernel.cpp").decode()
    bundles = re.findall(r"bundle=(gmem\d+)", source)
    assert rows[0] == "[connectivity]" and rows[1] == "nk=kernel:1:kernel_1"
    assert [re.fullmatch(r"sp=kernel_1\.m_axi_(gmem\d+):HBM\[\d+\]", r).group(1) for r in rows[2:]] == bundles  # type: ignore[union-attr]


def vendor_integers() -> Path | None:
    """The folder of the open ap_int.h, which some wheels carry."""
    for package, inner in (("hls4ml", "templates/vivado/ap_types"), ("da4ml", "codegen/hls/source/ap_types/include")):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(root) / inner / "ap_int.h").is_file():
                return Path(root) / inner
    return None


@pytest.mark.slow
@pytest.mark.parametrize("interface", ["m_axi", "axis"])
@pytest.mark.skipif(vendor_integers() is None, reason="needs the open ap_int.h: pip install --no-deps hls4ml")
def test_the_kernel_means_the_same_in_the_vendors_integers(tmp_path: Path, interface: str) -> None:
    """With -DTW_VITIS every value is an ap_int, whose arithmetic widens where C's does not."""
    place = project(interface=interface).save(tmp_path / "project")
    command = [find_compiler(), "-std=c++14", "-O0", "-w", "-DTW_VITIS", "-Isrc", "-Iweights", f"-I{vendor_integers()}",
               f"-I{STUBS}", "-o", "vendor", "src/kernel.cpp", "tb/kernel_tb.cpp"]
    subprocess.run(command, cwd=place, check=True)
    done = subprocess.run(["./vendor", "tb"], cwd=place, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["wrong"] == 0
