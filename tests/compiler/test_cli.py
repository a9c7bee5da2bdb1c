"""The command line: help that fits a screen, tables and JSON, exit codes, and one message for every error."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tilewright import InternalError, OptionError
from tilewright.compiler import commands
from tilewright.compiler.cli import INTERNAL, INTERRUPTED, OK, USER_ERROR, main, make_parser
from tilewright.compiler.commands import COMMANDS as COMMAND_TABLE
from tilewright.compiler.commands import parse_bindings, parse_dim, parse_shape
from tilewright.compiler.progress import PlainProgress
from tilewright.compiler.running import write_arrays
from tilewright.compiler.targets import TARGETS
from tilewright.targets.interrupt import Interrupted

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
COMMANDS = ("compile", "run", "check", "quantize", "inspect", "targets", "cache", "prune", "completion")
Tilewright = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cli-cache"))


@pytest.fixture
def tilewright(capsys: pytest.CaptureFixture[str]) -> Tilewright:
    """Runs a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled example model."""
    out = tmp_path_factory.mktemp("digits") / "out"
    assert main(["compile", str(DIGITS / "digits.onnx"), "-o", str(out), "--quiet", "--no-cache"]) == OK
    return out


@pytest.fixture
def image(tmp_path: Path) -> Path:
    with np.load(DIGITS / "digits.npz") as data:
        pixels = data["images"][:1].reshape(1, 1, 8, 8).astype(np.float32) / 16
    np.savez(tmp_path / "x.npz", image=pixels)
    np.save(tmp_path / "x.npy", pixels)
    return tmp_path / "x.npz"


# ---- help and usage ----


@pytest.mark.parametrize("command", ("", *COMMANDS))
def test_help_fits_a_screen_and_starts_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*([command] if command else []), "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert len(text.splitlines()) <= 60
    if command != "targets":
        examples = text.index(f"  tilewright {command}")
        assert "options:" not in text or examples < text.index("options:")


def test_every_option_is_explained() -> None:
    subparsers = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, parser in subparsers.choices.items():
        for action in parser._actions:
            if action.option_strings:
                assert action.help, f"{name} {action.option_strings}"


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["compil"], ["compile", "model.onnx"], ["cache", "empty"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert "--help` explains its arguments" in capsys.readouterr().err


def test_wrong_usage_is_one_message_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compile", "model.onnx", "-o", "out", "--shpe=x=1", "--json"])
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == "tilewright compile: unknown argument: --shpe=x=1; did you mean '--shape'?"
    assert json.loads(captured.out)["error"]["exit_code"] == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(tilewright: Tilewright, shell: str) -> None:
    code, out, _ = tilewright("completion", shell)
    assert code == OK
    for word in ("compile", "--check-passes" if shell != "tcsh" else "check-passes"):
        assert word in out


# ---- parsing of bindings ----


def test_bindings() -> None:
    assert parse_bindings("dim", ["a=1", "b::x=2", "c=d=3"]) == {"a": "1", "b::x": "2", "c=d": "3"}
    assert parse_shape("x", "1x3x224x224") == (1, 3, 224, 224)
    assert parse_shape("x", "batch,3,max") == ("batch", 3, "max")
    assert parse_shape("x", "7") == (7,)
    assert parse_shape("x", "scalar") == ()
    assert parse_dim("n", "0") == 0


@pytest.mark.parametrize("text", ["batch", "=4", "batch=", ""])
def test_a_binding_without_name_or_value_is_an_error(text: str) -> None:
    with pytest.raises(OptionError, match="expected NAME=VALUE"):
        parse_bindings("dim", [text])


def test_contradicting_bindings_are_an_error() -> None:
    assert parse_bindings("dim", ["a=1", "a=1"]) == {"a": "1"}
    with pytest.raises(OptionError, match="'a' is given twice"):
        parse_bindings("dim", ["a=1", "a=2"])


@pytest.mark.parametrize("text", ["1xx3", "x", ",", "1,,2"])
def test_a_shape_with_holes_is_an_error(text: str) -> None:
    with pytest.raises(OptionError, match=r"--shape x=.*expected dimensions"):
        parse_shape("x", text)


@pytest.mark.parametrize("text", ["-1", "four", "1.5", "٣x"])
def test_a_dimension_is_a_number(text: str) -> None:
    with pytest.raises(OptionError, match=r"--dim n=.*expected a size"):
        parse_dim("n", text)


# ---- commands ----


def test_compile_says_what_it_made(tilewright: Tilewright, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "report.html"
    code, text, progress = tilewright("compile", DIGITS / "digits.onnx", "-o", out, "--report", report, "--no-cache")
    assert code == OK
    for words in ("operators", "kernels", "multiply-accumulates", "weights", "arena", "linked by", "time",
                  f"{out}/digits.h", f"{out}/manifest.json", str(report)):
        assert words in text
    assert "lower" in progress
    assert {p.name for p in out.iterdir()} == {"digits.h", "digits.hpp", "libdigits.so", "manifest.json"}
    assert "Memory plan" in report.read_text()


def test_compile_with_json(tilewright: Tilewright, tmp_path: Path) -> None:
    code, text, err = tilewright("compile", DIGITS / "digits.onnx", "-o", tmp_path / "out", "--json")
    assert code == OK
    assert err == ""
    told = json.loads(text)
    assert told["summary"]["kernels"] > 0
    assert told["files"]["digits.h"] == (tmp_path / "out" / "digits.h").stat().st_size
    again = json.loads(tilewright("compile", DIGITS / "digits.onnx", "-o", tmp_path / "again", "--json")[1])
    assert again["cached"]
    assert again["summary"] == told["summary"]
    for name in told["files"]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_quiet_is_quiet(tilewright: Tilewright, tmp_path: Path) -> None:
    assert tilewright("compile", DIGITS / "digits.onnx", "-o", tmp_path / "out", "--quiet") == (OK, "", "")


def test_print_after_prints_the_graph(tilewright: Tilewright, tmp_path: Path) -> None:
    code, text, _ = tilewright(
        "compile", DIGITS / "digits.onnx", "-o", tmp_path / "out", "--print-after", "import,fuse", "--quiet"
    )
    assert code == OK
    assert "---- after import ----" in text
    assert "---- after fuse ----" in text
    assert "Fused" in text


def test_check_passes_is_content_with_the_example(tilewright: Tilewright, tmp_path: Path) -> None:
    code, _, err = tilewright("compile", DIGITS / "digits.onnx", "-o", tmp_path / "out", "--check-passes", "--quiet")
    assert (code, err) == (OK, "")


def test_run_shows_and_keeps_the_outputs(tilewright: Tilewright, digits: Path, image: Path, tmp_path: Path) -> None:
    with np.load(DIGITS / "digits.npz") as data:
        label = int(data["labels"][0])
    code, text, _ = tilewright("run", digits, "--input", image, "--output", tmp_path / "y.npz", "--repeat", 3)
    assert code == OK
    assert "scores" in text
    assert f"[0, {label}]" in text
    assert "median" in text
    with np.load(tmp_path / "y.npz") as kept:
        scores = kept["scores"]
    told = json.loads(tilewright("run", digits, "--input", image.with_suffix(".npy"), "--json")[1])
    assert told["outputs"]["scores"]["argmax"] == [0, label]
    assert told["outputs"]["scores"]["first"] == pytest.approx(scores[0, :6].tolist())


def test_run_says_which_arrays_are_missing(tilewright: Tilewright, digits: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "wrong.npz", picture=np.zeros(3))
    code, _, err = tilewright("run", digits, "--input", tmp_path / "wrong.npz")
    assert code == USER_ERROR
    assert "'image'" in err
    assert "picture" in err
    code, _, err = tilewright("run", digits)
    assert code == USER_ERROR
    assert "image" in err


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off", b"\x93NUMPY\x01\x00"])
def test_run_refuses_files_that_hold_no_arrays(
    tilewright: Tilewright, digits: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    code, _, err = tilewright("run", digits, "--input", tmp_path / "x.npz")
    assert code == USER_ERROR
    assert "x.npz" in err
    assert "Traceback" not in err


def test_outputs_may_have_any_name(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "a/b": np.zeros((2, 0), np.float32), "../up": np.float64(1)}
    write_arrays(tmp_path / "y.npz", arrays)
    with np.load(tmp_path / "y.npz") as kept:
        for name, array in arrays.items():
            assert np.array_equal(kept[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["y.npz"]


def test_check_lists_the_operators(tilewright: Tilewright) -> None:
    code, text, _ = tilewright("check", DIGITS / "digits.onnx")
    assert code == OK
    for words in ("ai.onnx opset", "image: f32[1, 1, 8, 8]", "ai.onnx:Conv", "This model can be compiled."):
        assert words in text
    told = json.loads(tilewright("check", DIGITS / "digits.onnx", "--json")[1])
    assert told["compiles"]
    assert {t: facts["compiles"] for t, facts in told["targets"].items()} == dict.fromkeys(TARGETS, True)
    assert {o["operator"]: o["nodes"] for o in told["operators"]}["ai.onnx:Conv"] == 4


def test_check_says_what_targets_lack(tilewright: Tilewright, tmp_path: Path) -> None:
    text, flags = (helper.make_tensor_value_info(n, t, [3]) for n, t in (("x", TensorProto.STRING), ("f", TensorProto.BOOL)))
    nodes = [
        helper.make_node("StringConcat", ["x", "x"], ["twice"], "join"),
        helper.make_node("Compress", ["f", "f"], ["kept"], "keep", axis=0),
    ]
    made = (("twice", TensorProto.STRING), ("kept", TensorProto.BOOL))
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in made]
    graph = helper.make_graph(nodes, "strings", [text, flags], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "m.onnx")
    told = json.loads(tilewright("check", tmp_path / "m.onnx", "--json")[1])["targets"]
    assert told["cpu"]["compiles"]
    assert set(told["cuda"]["reasons"]) == {"ai.onnx:StringConcat"}  # its results may be sized by data
    for target in ("xla", "tpu", "tvm", "fpga"):
        assert set(told[target]["reasons"]) == {"ai.onnx:StringConcat", "ai.onnx:Compress"}
    _, words, _ = tilewright("check", tmp_path / "m.onnx")
    assert "not on cuda, xla, tpu, tvm, fpga: ai.onnx:StringConcat: strings are for processors' libraries" in words


def test_check_takes_open_sizes_at_which_the_model_fits(tilewright: Tilewright, tmp_path: Path) -> None:
    """A window of 7 x 7 has no place in an image of 1 x 1."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    weights = numpy_helper.from_array(np.ones((4, 3, 7, 7), np.float32), "k")
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Conv", ["x", "k"], ["y"])], "windows", [image], [result], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "m.onnx")
    told = json.loads(tilewright("check", tmp_path / "m.onnx", "--json")[1])
    assert told["open_sizes"] == ["h", "n", "w"]
    assert {t: facts["reasons"] for t, facts in told["targets"].items()} == {t: {} for t in TARGETS}


def test_inspect_prints_the_manifest(tilewright: Tilewright, digits: Path) -> None:
    code, text, _ = tilewright("inspect", digits)
    assert code == OK
    for words in ("image: f32[1, 1, 8, 8]", "scores: f32[1, 10]", "weights", "libdigits.so", "SHA-256"):
        assert words in text
    assert json.loads(tilewright("inspect", digits, "--json")[1])["name"] == "digits"
    assert tilewright("inspect", digits.parent)[0] == USER_ERROR


def test_targets_lists_the_machines(tilewright: Tilewright) -> None:
    code, text, _ = tilewright("targets")
    assert code == OK
    assert "cpu:x86-64-v3" in text
    assert "cpu:aarch64" in text
    assert "tpu:v5e-4" in text
    assert all(not line.endswith(("with +: ", ":")) for line in text.splitlines())
    assert "x86-64-v4" in json.loads(tilewright("targets", "--json")[1])["targets"]["cpu"]["machines"]


def test_cache_shows_and_clears(tilewright: Tilewright, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    assert json.loads(tilewright("cache", "stats", "--json")[1])["entries"] == 0
    tilewright("compile", DIGITS / "digits.onnx", "-o", tmp_path / "out", "--quiet")
    assert json.loads(tilewright("cache", "stats", "--json")[1])["entries"] == 1
    assert "entries" in tilewright("cache", "stats")[1]
    assert "removed 1" in tilewright("cache", "clear")[1]
    tilewright("compile", DIGITS / "digits.onnx", "-o", tmp_path / "out", "--quiet", "--no-cache")
    assert json.loads(tilewright("cache", "stats", "--json")[1])["entries"] == 0


# ---- errors ----


def test_a_users_error_is_one_message(tilewright: Tilewright) -> None:
    code, out, err = tilewright("check", "nowhere.onnx")
    assert (code, out) == (USER_ERROR, "")
    assert err.startswith("tilewright check: nowhere.onnx")
    assert len(err.splitlines()) == 1


def test_an_error_as_json(tilewright: Tilewright) -> None:
    code, out, _ = tilewright("check", "nowhere.onnx", "--json")
    assert code == USER_ERROR
    told = json.loads(out)["error"]
    assert (told["kind"], told["exit_code"]) == ("ModelError", USER_ERROR)


@pytest.mark.parametrize("error", [InternalError("pass x: lost an axis", ir="the graph"), KeyError("axis")])
def test_a_bug_leaves_a_file_that_repeats_it(
    tilewright: Tilewright, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setitem(commands.COMMANDS, "targets", fail)
    monkeypatch.setattr("platformdirs.user_log_dir", lambda *_, **__: str(tmp_path))
    code, out, err = tilewright("targets")
    assert (code, out) == (INTERNAL, "")
    assert "Traceback" not in err
    (written,) = tmp_path.iterdir()
    assert str(written) in err
    text = written.read_text()
    assert "Traceback" in text
    assert "axis" in text
    if isinstance(error, InternalError):
        assert "the graph" in text


def test_debug_shows_the_traceback(tilewright: Tilewright) -> None:
    assert "Traceback" in tilewright("check", "nowhere.onnx", "--debug")[2]


def test_ctrl_c_is_one_line(tilewright: Tilewright, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, "targets", interrupt)
    assert tilewright("targets") == (INTERRUPTED, "", "interrupted\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "tilewright.compiler.cli", "targets"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (OK, "")


def test_an_interrupt_that_became_another_error_is_one(tilewright: Tilewright, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 and older make a RuntimeError of what __set_name__ raises, while modules are imported."""

    class Name:
        def __set_name__(self, owner: type, name: str) -> None:
            raise Interrupted

    def stopped(arguments: object) -> int:
        type("Owner", (), {"name": Name()})
        return OK

    monkeypatch.setitem(COMMAND_TABLE, "targets", stopped)
    assert tilewright("targets") == (130, "", "interrupted\n")


def test_progress_in_a_log_has_a_line_for_what_takes_time() -> None:
    seconds, text = iter((0.0, 0.0, 0.5, 0.6, 0.7, 1.6, 3.0, 3.1, 5.0, 5.1)), io.StringIO()
    progress = PlainProgress(text, lambda: next(seconds))
    for stage, total in (("read", 0), ("import", 0), ("fold", 3), ("layout", 3), ("fuse", 3), ("lower", 0), ("code", 0)):
        progress(stage, 0, total)
    progress("code", 1, 2)
    progress("code", 2, 2)
    lines = [line.split("] ")[1] for line in text.getvalue().splitlines()]
    assert lines == ["read", "import", "fuse", "lower", "code"]
    assert text.getvalue().splitlines()[2] == "[   1.6 s] fuse"
