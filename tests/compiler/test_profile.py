"""Profile builds: what is recorded, on how many threads, and how the command line shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tilewright
from frontend.onnx_models import model, node, value
from tilewright.compiler.cli import OK, USER_ERROR, main
from tilewright.ir.errors import OptionError
from tilewright.targets.artifact import Artifact
from tilewright.targets.loader import Module
from tilewright.targets.profile import ANY_SIZE, ProfileRow, ThreadTime, last_version, trace

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
X = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return tilewright.compile(DIGITS, profile=True, cache=False)


@pytest.fixture(scope="module")
def saved(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.save(tmp_path_factory.mktemp("profile") / "digits")


@pytest.mark.parametrize("threads", [1, 3])
def test_every_step_is_counted_on_every_thread(artifact: Artifact, threads: int) -> None:
    with artifact.load(threads) as module:
        assert all(row.count == 0 and row.mean == row.fastest == 0.0 and not row.threads for row in module.profile())
        for _ in range(5):
            module(X)
        rows = module.profile()
        assert [row.kernel for row in rows] == [k["kernel"] for k in module.manifest["kernels"]]
        for row in rows:
            assert row.count == 5
            assert sorted(row.threads) == list(range(threads))
            for t in row.threads.values():
                assert 0 <= t.fastest <= t.mean < 10.0
                assert t.fastest <= t.last <= 5 * t.mean * 1.001
        began = [row.threads[0].began for row in rows]
        assert began == sorted(began)
        assert all(a.threads[0].began + a.threads[0].last <= b.threads[0].began for a, b in pairwise(rows))
        module.reset_profile()
        assert not any(row.count for row in module.profile())


def test_an_artifact_without_profile_says_so(tmp_path: Path) -> None:
    module = tilewright.compile(DIGITS, cache=False).load()
    for call in (module.profile, module.reset_profile):
        with pytest.raises(OptionError, match=r"records no times; compile with profile=True \(tilewright compile --profile\)"):
            call()
    module.close()
    with pytest.raises(OptionError, match="closed"):
        module.profile()


def test_profile_costs_nothing_where_it_is_not_asked_for() -> None:
    plain = tilewright.compile(DIGITS, cache=False, emit="llvm-ir")
    assert b"tw_profile" not in b"".join(plain.read(n) for n in plain.files if n.endswith(".ll"))
    assert plain.manifest["profile"] is False
    assert b"_BEST_THREADS 1 " in plain.read("digits.h")
    assert plain.load().threads == 1
    with plain.load(threads=2) as asked:
        assert asked.threads == 2


def row(step: int, threads: dict[int, ThreadTime]) -> ProfileRow:
    fastest = max((t.fastest for t in threads.values()), default=0.0)
    return ProfileRow(step, f"k{step}", "a", ("MatMul",), "s", 1000, 64, 1, fastest, fastest, 1e-6, threads)


def test_numbers_of_a_row() -> None:
    slow, fast = ThreadTime(3e-6, 2e-6, 2e-6, 5.0), ThreadTime(2e-6, 1e-6, 1e-6, 5.0)
    r = row(0, {0: slow, 1: fast})
    assert r.gflops == pytest.approx(2e-9 * 1000 / 2e-6)
    assert r.share(2) == pytest.approx(0.25)
    never = row(1, {})
    assert (never.gflops, never.share(1)) == (0.0, 0.0)


def test_trace_has_a_track_per_thread() -> None:
    rows = [row(0, {0: ThreadTime(1e-6, 1e-6, 1e-6, 7.0), 1: ThreadTime(1e-6, 1e-6, 2e-6, 7.000001)}), row(1, {})]
    events = trace("net", rows)["traceEvents"]
    assert [e["args"]["name"] for e in events if e["name"] == "thread_name"] == ["thread 0", "thread 1"]
    steps = [(e["tid"], round(e["ts"], 3), round(e["dur"], 3)) for e in events if e["ph"] == "X"]
    assert steps == [(0, 0.0, 1.0), (1, 1.0, 2.0)]
    assert trace("net", [])["traceEvents"][0]["args"] == {"name": "net"}


# ---- open dimensions and versions ----


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code for any size of n, and versions for n = 4 (m open) and n = 8 at m = 5."""
    folder = tmp_path_factory.mktemp("versions")
    w = np.full((6, 40), 0.5, np.float32)
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Softmax", ["a"], ["y"], axis=2)]
    proto = model(nodes, [value("x", "n", "m", 6)], ["y"], {"w": w})
    tilewright.compile(proto, cache=False, jobs=1, name="net", profile=True, specialize={"n": (4, 8)}).save(folder / "any")
    tilewright.compile(proto, cache=False, jobs=1, name="net", profile=True, dims={"n": (4, 8), "m": 5}).save(folder / "known")
    return folder


def run_sizes(module: Module, *shape: int) -> list[ProfileRow]:
    module.reset_profile()
    module(np.ones((*shape, 6), np.float32))
    rows = module.profile()
    version = last_version(rows)
    assert all((row.count == 1) == (row.version == version) for row in rows)
    return [row for row in rows if row.version == version]


def test_the_version_that_ran_is_profiled_at_its_sizes(versions: Path) -> None:
    with tilewright.load(versions / "any", threads=2) as module:
        assert last_version(module.profile()) == ""
        for shape, version in (((3, 7), ANY_SIZE), ((4, 7), "n=4"), ((8, 2), "n=8"), ((30, 7), ANY_SIZE)):
            rows = run_sizes(module, *shape)
            assert [(row.version, row.step) for row in rows] == [(version, n) for n in range(len(rows))]
            assert sum(row.macs for row in rows) == shape[0] * shape[1] * 6 * 40
            assert rows[0].bytes == 4 * (shape[0] * shape[1] * 46 + 6 * 40)
        small, large = run_sizes(module, 3, 7)[0].limit, run_sizes(module, 300, 700)[0].limit
        assert large > 100 * small
    with tilewright.load(versions / "known", threads=2) as module:
        assert {row.version for row in module.profile()} == {"n=4", "n=8"}
        assert run_sizes(module, 8, 5)[0].version == "n=8"


def test_a_trace_holds_the_version_that_ran_last() -> None:
    early, late = ({0: ThreadTime(1e-6, 1e-6, 1e-6, began)} for began in (1.0, 2.0))
    rows = [replace(row(0, early), version="n=4"), replace(row(0, late), version="n=8")]
    events = trace("net", rows)["traceEvents"]
    assert events[0]["args"]["name"] == "net (n=8)"
    assert len([e for e in events if e["ph"] == "X"]) == 1


def test_the_command_names_the_version(versions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, events = tmp_path / "p.html", tmp_path / "t.json"
    for shape, said in (((8, 5), "version n=8: "), ((9, 5), "code for any size: ")):
        np.save(tmp_path / "x.npy", np.ones((*shape, 6), np.float32))
        run = ["run", str(versions / "any"), "--input", str(tmp_path / "x.npy"), "--profile", "--repeat", "2"]
        assert main([*run, "--trace", str(events), "--report", str(page)]) == OK
        assert said in capsys.readouterr().out
        assert said in page.read_text()
        assert main([*run, "--json"]) == OK
        told = json.loads(capsys.readouterr().out)["profile"]
        assert {(s["version"], s["count"]) for s in told} == {("n=8" if shape[0] == 8 else ANY_SIZE, 2)}
        assert len([e for e in json.loads(events.read_text())["traceEvents"] if e["ph"] == "X"]) >= len(told)


def test_the_command_shows_and_writes_everything(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", X)
    page, events = tmp_path / "p.html", tmp_path / "t.json"
    run = ["run", str(saved), "--input", str(tmp_path / "x.npy"), "--profile", "--repeat", "3"]
    assert main([*run, "--trace", str(events), "--report", str(page)]) == OK
    shown = capsys.readouterr().out
    assert "GFLOP/s" in shown and "the median run on 1 thread" in shown and f"wrote {page}" in shown
    names = [k["kernel"] for k in tilewright.load(saved).manifest["kernels"]]
    assert all(name in shown for name in names)
    assert [e["name"] for e in json.loads(events.read_text())["traceEvents"] if e["ph"] == "X"] == names
    text = page.read_text()
    assert "Content-Security-Policy" in text and "@policy@" not in text and "<script" not in text
    assert text.count("<meter") == len(names)
    assert main([*run, "--json"]) == OK
    told = json.loads(capsys.readouterr().out)["profile"]
    assert [(s["kernel"], s["count"]) for s in told] == [(name, 3) for name in names]


def test_wrong_use_of_the_command(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", X)
    run = ["run", str(saved), "--input", str(tmp_path / "x.npy")]
    assert main([*run, "--trace", str(tmp_path / "t.json")]) == USER_ERROR
    assert "--trace: needs --profile" in capsys.readouterr().err
    assert main([*run, "--profile", "--trace", str(tmp_path)]) == USER_ERROR
    assert "expected a file" in capsys.readouterr().err


def test_only_the_processor_records_times() -> None:
    with pytest.raises(OptionError, match=r"target .* records no times"):
        tilewright.compile(DIGITS, target="tpu", profile=True, cache=False)
