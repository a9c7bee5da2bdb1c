"""Tuning: the search never keeps what is not faster, the file is read strictly, and compilations depend on it."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tilewright
from codegen.native_program import optimise
from frontend.onnx_models import model, node, value
from tilewright.codegen.kernels import group_hash
from tilewright.codegen.machine import parse_machine
from tilewright.codegen.strategies.candidates import Space, imbalance, space_of
from tilewright.codegen.strategies.choices import BY_MODEL, Choice
from tilewright.codegen.strategies.scheduled import Group
from tilewright.codegen.strategies.select import schedule_group
from tilewright.compiler import tuning
from tilewright.compiler.cli import OK, USER_ERROR, main
from tilewright.compiler.tuning import Tunable, search, search_engine, tunable_groups, tune
from tilewright.compiler.tuning_file import Found, add_entry, digest_of, read_tuning
from tilewright.frontend.onnx import import_model
from tilewright.ir.compute import Compute
from tilewright.ir.errors import InternalError, OptionError, TargetError
from tilewright.ir.kernel import Buffer, For, Kernel, axis, store
from tilewright.targets.cpu.host import host_machine
from tilewright.targets.cpu.timing import TimedKernel, close, operands

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
NARROW = parse_machine("cpu:x86-64-v2")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))


def product(rows: int = 24, depth: int = 12, columns: int = 32) -> Group:
    a, b, y = Buffer("x0", "f32", (rows, depth)), Buffer("x1", "f32", (depth, columns)), Buffer("y0", "f32", (rows, columns))
    i, j, k = axis("i", rows), axis("j", columns), axis("k", depth)
    compute = Compute(y, (i, j), a[i, k] * b[k, j], (k,), "add")
    return Group("contract", (compute,), (y, a, b), constants=frozenset({"x1"}))


def tunable(group: Group) -> Tunable:
    machine = host_machine()
    space = space_of(group, machine, "default")
    assert space is not None
    return Tunable(group_hash(group, "default"), group, space, 1)


# ---- choices ----

@pytest.mark.parametrize("choice", [
    Choice(rows=3, vectors=1), Choice(unroll=1), Choice(unroll=6), Choice(chunks=4), Choice(chunks=1, rows=1, vectors=2),
    Choice(rows=5, vectors=2, chunks=8, unroll=3), Choice(halved=1), Choice(rows=4, vectors=1, unroll=3, halved=1),
])
def test_choices_change_the_schedule_and_not_the_result(choice: Choice) -> None:
    group, machine = product(), host_machine()
    plain = TimedKernel(group, schedule_group(group, machine), machine)
    made = schedule_group(replace(group, choice=choice), machine)
    assert made.note != schedule_group(group, machine).note or choice.chunks == 1
    assert close(TimedKernel(group, made, machine).results(), plain.results())
    arrays = operands(group)
    np.testing.assert_allclose(plain.results()["y0"], arrays["x0"] @ arrays["x1"], rtol=1e-4, atol=1e-4)


def test_a_choice_that_does_not_fit_is_refused() -> None:
    for choice, says in (
        (Choice(rows=20, vectors=8), "20 rows and 8 vectors does not fit the registers"),
        (Choice(chunks=5), "chunks = 5 does not divide 24"), (Choice(unroll=5), "unroll = 5 does not divide 12"),
    ):
        with pytest.raises(OptionError, match=says):
            schedule_group(replace(product(), choice=choice), host_machine())


@pytest.mark.parametrize("machine", [NARROW, host_machine()], ids=["narrow", "here"])
def test_spaces_offer_only_what_fits(machine: Any) -> None:
    group = product()
    space = space_of(group, machine, "default")
    assert space is not None
    assert len(space.tiles) > 2
    for n in range(max(len(space.tiles), len(space.chunks), len(space.unrolls))):
        choice = space.choose(lambda name, values, n=n: values[n % len(values)])
        schedule_group(replace(group, choice=choice), machine)  # raises for numbers that do not fit
    assert space_of(Group("map", (), ()), machine, "default") is None


def test_imbalance_counts_the_longest_thread() -> None:
    y = Buffer("y", "f32", (6,))
    i = axis("i", 6)
    kernel = Kernel("k", (y,), (For(i, (store(y, (i,), 1.0),), "parallel"),))
    assert imbalance(kernel) == (1.0, 1.0, 8 / 6, 8 / 6)  # on 2, 3, 4, 8 threads


# ---- the search ----

def test_the_search_keeps_the_default_unless_it_is_beaten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are made up: everything takes as long as the default, then rows of 5 half as long."""
    speed = {"half": False}

    class Timed(TimedKernel):
        def __init__(self, group: Group, made: Any, *others: Any) -> None:
            self.note = made.note
            super().__init__(group, made, *others)

        def seconds(self) -> float:
            return 0.5 if speed["half"] and "tile 5 x" in self.note else 1.0

    monkeypatch.setattr("tilewright.targets.cpu.timing.TimedKernel", Timed)
    t, machine = tunable(product()), host_machine()
    found = search(t, machine, "default", time.monotonic() + 4, search_engine())
    assert (found.choice, found.gain) == (BY_MODEL, 0.0)
    speed["half"] = True
    monkeypatch.setattr(tuning, "TRIALS", 200)
    space = Space(t.space.sides, (None, "5x1", "5x2"), (None,), (None,), (None,), (None,))
    found = search(replace(t, space=space), machine, "default", time.monotonic() + 4, search_engine())
    assert found.choice.rows == 5
    assert found.gain == 0.5
    assert "tile 5 x" in found.about


def test_a_kernel_that_computes_something_else_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.targets.cpu.timing.close", lambda a, b: False)
    with pytest.raises(InternalError, match="computes something else"):
        search(tunable(product()), host_machine(), "default", time.monotonic() + 4, search_engine())


def test_interrupting_keeps_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [tunable(product(rows)) for rows in (8, 16, 24)]
    found = Found(Choice(unroll=2), 0.1, "s")
    answers: list[Any] = [found, KeyboardInterrupt()]

    def fake(*_: object) -> Found:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(tuning, "search", fake)
    path, machine, told = tmp_path / "t.jsonl", host_machine(), []
    got, notes = tune(groups, {}, machine, "default", path, 60.0, lambda *p: told.append(p))
    assert got == {groups[0].key: found} == read_tuning(path, machine)
    assert "interrupted after 1 of 3 kernels" in notes[0]
    assert told == [("tune", 0, 3), ("tune", 1, 3)]
    _, notes = tune(groups, got, machine, "default", path, 0.0, lambda *_: None)
    assert "0 of 2 kernels were searched" in notes[0]


def test_needs_optuna_and_a_processor_that_runs_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError, match="cannot run code for aarch64: it is"):
        tilewright.compile(DIGITS, target="cpu:aarch64", tune=1, cache=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TargetError, match=r"needs Optuna.*pip install optuna"):
        tilewright.compile(DIGITS, tune=1, cache=False)


# ---- the file ----

def test_the_last_line_of_a_machine_counts(tmp_path: Path) -> None:
    path, here = tmp_path / "deep" / "t.jsonl", host_machine()
    assert read_tuning(path, here) == {}
    for machine, rows in ((here, 4), (NARROW, 2), (here, 6)):
        add_entry(path, machine, "k", Found(Choice(rows=rows, vectors=2), 0.25, "s"))
    assert read_tuning(path, here) == {"k": Found(Choice(rows=6, vectors=2), 0.25, "s")}
    assert read_tuning(path, NARROW)["k"].choice.rows == 2


@pytest.mark.parametrize("line, says", [
    ("{", "line 2: expected an entry"), ("[]", "line 2: expected an entry"), ('{"machine": 1}', "line 2: expected an entry"),
    ('{"rows": 4}', "rows and vectors together"), ('{"rows": 4, "vectors": 99}', "vectors: expected a whole number from 1"),
    ('{"speed": 4}', "unknown number 'speed'"), ('{"winograd": 3}', "expected 0, 2 or 4"),
    ('{"unroll": true}', "unroll: expected a whole number"),
])
def test_damaged_files_are_refused(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "t.jsonl"
    if says.startswith("line"):
        path.write_text("\n" + line)
    else:
        entry = {"machine": "m", "caches": [1, 2, 3], "key": "k", "choice": json.loads(line), "gain": 0, "about": ""}
        path.write_text("\n" + json.dumps(entry))
    with pytest.raises(OptionError, match=says):
        read_tuning(path, host_machine())


def test_the_digest_is_that_of_the_choices_in_use() -> None:
    a, b = Found(Choice(unroll=2), 0.1, "s"), Found(BY_MODEL, 0.0, "s")
    assert digest_of({}) == digest_of({"k": b}) == ""
    assert digest_of({"k": a, "l": b}) == digest_of({"k": Found(Choice(unroll=2), 0.3, "t")}) != digest_of({"l": a})


# ---- whole compilations ----

def test_a_file_decides_the_bytes_and_the_cache_key(tmp_path: Path) -> None:
    machine = host_machine()
    graph = optimise(import_model(DIGITS))
    (*_, last) = tunable_groups([graph], machine, "default")
    plain = tilewright.compile(DIGITS)
    path = tmp_path / "t.jsonl"
    with pytest.raises(OptionError, match=r"t\.jsonl does not exist"):
        tilewright.compile(DIGITS, tuning_file=path)
    add_entry(path, machine, last.key, Found(Choice(unroll=1), 0.1, "s"))
    tuned = tilewright.compile(DIGITS, tuning_file=path)
    assert sum("measured: " in k["schedule"] for k in tuned.manifest["kernels"]) == 1
    assert "measured" not in plain.manifest_text
    assert tuned.manifest["options"]["tuned"] != ""
    assert tilewright.compile(DIGITS, tuning_file=path, cache=False).manifest_text == tuned.manifest_text
    x = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    np.testing.assert_allclose(tuned.load()(x)[0], plain.load()(x)[0], rtol=1e-5, atol=1e-5)


def tall(rows: int | str) -> Any:
    w = np.random.default_rng(2).random((48, 96), np.float32)
    return model([node("MatMul", ["x", "w"], ["y"])], [value("x", rows, 48)], ["y"], {"w": w})


def test_versions_take_measured_numbers(tmp_path: Path) -> None:
    """Another layout of weights is worth a clear gain only."""
    machine, path = host_machine(), tmp_path / "t.jsonl"
    (group,) = tunable_groups([optimise(import_model(tall(64)))], machine, "default")
    for gain, measured in ((0.04, 0), (0.2, 1)):
        add_entry(path, machine, group.key, Found(Choice(rows=4, vectors=1), gain, "s"))
        done = tilewright.compile(tall("n"), specialize={"n": (64, 3)}, profile=True, jobs=1, tuning_file=path, cache=False)
        small, large = done.manifest["specialized"]
        assert [small["dims"], large["dims"]] == [{"n": 3}, {"n": 64}]
        assert "measured" not in str(done.manifest["kernels"]) + str(small["kernels"])
        assert sum("measured" in k["schedule"] for k in large["kernels"]) == measured
        assert (large["own_weights"] > 0) == bool(measured)
    x = np.random.default_rng(3).random((64, 48), np.float32)
    with done.load() as module:
        np.testing.assert_allclose(module(x)[0], tilewright.compile(tall(64), cache=False).load()(x)[0], rtol=1e-5)


def test_versions_are_tuned_in_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tunable] = []

    def fake(t: Tunable, *_: object) -> Found:
        asked.append(t)
        return Found(BY_MODEL, 0.0, "s")

    monkeypatch.setattr(tuning, "search", fake)
    options: dict[str, Any] = {"tune": 5, "tuning_file": tmp_path / "t.jsonl", "cache": False, "jobs": 1}
    with pytest.warns(UserWarning, match="kernels of open size are as by default"):
        tilewright.compile(tall("n"), specialize={"n": (64, 3)}, **options)
    assert [t.work for t in asked] == [1.0, 1.0]
    tilewright.compile(tall("n"), dims={"n": (64, 5)}, **options)  # 64 is in the file
    assert len(asked) == 3 == len((tmp_path / "t.jsonl").read_text().splitlines())


def test_wrong_options() -> None:
    for wrong in (0, -1, True, "fast"):
        with pytest.raises(OptionError, match="tune: expected a number of seconds"):
            tilewright.compile(DIGITS, tune=wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no kernels to measure"):
        tilewright.compile(DIGITS, target="tpu", tune=1)


def test_tuning_once_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.warns(UserWarning, match="kernels were searched in"):
        tilewright.compile(DIGITS, tune=0.6, tuning_file=path, cache=False)
    lines = path.read_text().splitlines()
    assert 1 <= len(lines) <= 3
    assert len({json.loads(line)["key"] for line in lines}) == len(lines)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "t.jsonl", tmp_path / "out"
    arguments = ["compile", str(DIGITS), "-o", str(out), "--quiet", "--no-cache", "--tuning-file", str(path)]
    assert main([*arguments, "--tune=0.4"]) == OK
    assert "note: tuning: " in capsys.readouterr().err
    assert main(arguments) == OK
    path.write_text("{")
    assert main(arguments) == USER_ERROR
    assert "t.jsonl, line 1" in capsys.readouterr().err
