"""The report: one page that shows everything, loads nothing, and takes hostile names for what they are: text."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tilewright import InternalError
from tilewright.codegen.machine import parse_machine
from tilewright.codegen.program import Address, Call, Cost, Placement, Program
from tilewright.codegen.roofline import limit_of
from tilewright.compiler.driver import Compilation
from tilewright.compiler.options import Options
from tilewright.compiler.report import launch_rows, render_report, write_report
from tilewright.compiler.summary import Summary, open_text, options_text
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.kernel import Buffer, Kernel
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact

HOSTILE = "</title><script>document.title='taken'</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"
SHAPE = TensorType("f32", (4, 8))
MACHINE = parse_machine("cpu:x86-64-v3")


def chain(length: int, where: str = "layer") -> Graph:
    """A graph with a long spine and side branches."""
    b = Builder(where)
    x = side = b.input(where, SHAPE)
    for n in range(length):
        x = b.add(Binary("add"), x, side, where=f"{where}/{n}")
        if n % 5 == 0:
            side = b.add(Unary("tanh"), x, where=where)
    return b.graph([x], [where])


def compilation(graph: Graph, calls: int = 3, name: str = "net") -> Compilation:
    """A compilation as the driver would give it, of a made-up program with two kinds of kernels."""
    x, y, w = (Buffer(n, "f32", (4, 8)) for n in ("x", "y", "w"))
    kernels = {"k_add": Kernel("k_add", (y, x), ()), "k_mat": Kernel("k_mat", (y, x, w), ())}
    arena, constants = Address("arena"), Address("constants")
    steps = tuple(
        Call("k_mat", (arena, arena, constants), f"{name}/{n}", ("MatMul", "Binary"), Cost(4096, 256, 128, "tile 8x3"))
        if n % 2 else Call("k_add", (arena, arena), f"{name}/{n}", ("Binary",), Cost(0, 256, 128, "rows"))
        for n in range(calls)
    )
    placements = tuple(Placement(f"{name}{n}", 128 * (n % 3), 128, n, n + 1) for n in range(calls - 1))
    program = Program(name, kernels, steps, ((name, SHAPE),), (("y", SHAPE),), ((0, np.zeros(4)),), 32, 384, 0, placements)
    summary = Summary(len(graph.nodes), (("Binary", len(graph.nodes)),), 2, calls, 4096, 32, 384, 0, 1000, "cc 1.0")
    artifact = Artifact("cpu", "net", {}, {"target": "cpu:test", "options": {}})
    seconds = {"import": 0.01, "fuse": 0.002, "build": 0.3}
    return Compilation(artifact, summary, Options(), MACHINE, seconds, imported=graph, fused=graph, program=program)


def test_it_shows_graphs_kernels_memory_sizes_and_times() -> None:
    page = html.unescape(render_report(compilation(chain(13))))
    for words in (
        "Imported graph", "Fused graph", "16 nodes", "Binary add", "Unary tanh", "layer/3",          # graphs
        "tile 8x3", "MatMul, Binary", "4.1 k", "x f32[4, 8]", "w* f32[4, 8]", "x86-64-v3",            # kernels
        "384 B", "net0: 128 bytes at 0, steps 0 to 1", "2 allocations over 3 steps",                  # memory
        "300 ms", "import", "cc 1.0", "1 kB",                                                         # sizes and times
    ):
        assert words in page, words
    assert page.count('class="slab') == 2


def test_hostile_names_are_text() -> None:
    page = render_report(compilation(chain(3, HOSTILE), name=HOSTILE))
    assert "<script" not in page
    assert "<img" not in page
    assert "49" not in re.sub(r"<style>.*?</style>", "", page.split("<body>")[0], flags=re.DOTALL)
    assert html.escape("{{ 7*7 }}") in page


def test_it_loads_nothing_and_allows_nothing() -> None:
    page = render_report(compilation(chain(5)))
    assert re.search(r"default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]{44}'", html.unescape(page))
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert not re.search(r"url\(|@import|\sstyle=|\son\w+=", page)


def test_large_graphs_stay_of_a_bounded_width() -> None:
    page = render_report(compilation(chain(900), calls=700))
    widths = [float(w) for w in re.findall(r'<svg[^>]* width="([\d.]+)"', page)]
    assert len(widths) == 2
    assert max(widths) < 2000
    assert len(page) < 3_000_000


def test_empty_graphs_and_programs_are_no_special_case() -> None:
    b = Builder("empty")
    x = b.input("x", SHAPE)
    empty = b.graph([x])
    done = compilation(empty, calls=1)
    done = replace(done, program=replace(done.program, steps=(), placements=(), arena_bytes=0))
    assert "0 nodes" in render_report(done)


def test_a_cached_artifact_has_no_report() -> None:
    with pytest.raises(InternalError, match="cache"):
        render_report(replace(compilation(chain(2)), imported=None))


def test_the_limit_is_the_larger_of_arithmetic_and_traffic() -> None:
    assert limit_of(Cost(10**9, 100, 100), MACHINE).bound == "compute"
    assert limit_of(Cost(10, 10_000, 10_000), MACHINE).bound == "cache"
    assert limit_of(Cost(10, 10**9, 0), MACHINE).bound == "memory"
    assert limit_of(Cost(4 * 8 * 2 * 10**9, 0, 0), MACHINE).seconds == pytest.approx(1.0)


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(OSError):
        write_report(compilation(chain(2)), tmp_path / "file" / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine; on Debian: apt install chromium")
def test_a_browser_shows_it(tmp_path: Path) -> None:
    """Headless, with the policy in force: the page is laid out, styled, and the hostile name ran nothing."""
    write_report(compilation(chain(40, HOSTILE), calls=30, name=HOSTILE), tmp_path / "report.html")
    browser = [str(chromium()), "--headless", "--disable-gpu", "--no-sandbox", "--disable-dev-shm-usage",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2400"]
    page = (tmp_path / "report.html").as_uri()
    environment = {**os.environ, "HOME": str(tmp_path)}
    dump = subprocess.run([*browser, "--dump-dom", page], capture_output=True, text=True, env=environment, timeout=90)
    assert dump.returncode == 0, dump.stderr
    assert "<title>Tilewright report: &lt;/title&gt;" in dump.stdout
    assert "tile 8x3" in dump.stdout
    assert dump.stdout.count('class="slab') == 29
    assert "Refused to" not in dump.stderr
    shot = tmp_path / "shot.png"
    subprocess.run([*browser, f"--screenshot={shot}", page], capture_output=True, env=environment, timeout=90, check=True)
    assert shot.stat().st_size > 20_000  # an unstyled or empty page compresses to less


def test_functions_of_a_gpu_show_what_they_use() -> None:
    used = {"registers": 168, "stack": 0, "spill_stores": 8, "spill_loads": 4}
    launch = {"function": "k0_product", "grid": [132, 1, 1], "block": [32, 9, 1], "shared_bytes": 196672,
              "resources": {"sm_90": {**used, "spill_stores": 0, "spill_loads": 0}, "sm_80": used}}
    done = compilation(chain(3))
    (first, second) = launch_rows([{"launches": [launch]}, {"launches": [launch]}, {}])
    assert (first.arch, first.spills, second.arch, second.spills) == ("sm_80", 12, "sm_90", 0)
    assert (first.grid, first.block, first.registers, first.shared) == ("132", "32 x 9", 168, 196672)
    artifact = replace(done.artifact, manifest={**done.artifact.manifest, "kernels": [{"launches": [launch]}]})
    page = render_report(replace(done, artifact=artifact))
    assert "launch-table" in page and "1 of 2 spill registers" in page
    assert "launch-table" not in render_report(done)


def test_figures_of_open_sizes_say_for_which_they_are() -> None:
    open_dims = {"dims": {"batch": [1, None], "seq": [2, 16]}}
    assert open_text(open_dims) == "batch (1 or more), seq (2 to 16); work and memory are those of batch=64, seq=16"
    only = {"any_size": False, "specialized": [{"dims": {"batch": 1}}, {"dims": {"batch": 8}}], **open_dims}
    assert open_text(only) == "batch=1 or batch=8; work is that of batch=1, memory that of the largest"
    assert open_text({}) == ""


def test_options_are_told_in_words() -> None:
    options = {"ranges": {"n": [1, None]}, "specialize": {"batch": [1, 8]}, "profile": True, "accuracy": "strict"}
    assert options_text(options) == "accuracy strict, profile on, ranges n=1.., specialize batch=1,8"
