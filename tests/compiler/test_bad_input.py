"""Bad input through the command line: exit code 1, one clear message, no traceback, and nothing left behind."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto, helper, numpy_helper
from tilewright.compiler.cli import INTERRUPTED, OK, USER_ERROR, main

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
FLOAT = TensorProto.FLOAT


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))


def value(name: str, *shape: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def model(*nodes: onnx.NodeProto, inputs=None, outputs=None, initializers=()) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes), "g", inputs or [value("x", 2, 3)], outputs or [value("y", None, None)], list(initializers)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def external(location: str, offset: str = "0", length: str = "8") -> onnx.ModelProto:
    """x + w, where w lies in another file."""
    made = model(helper.make_node("Add", ["x", "w"], ["y"]), inputs=[value("x", 2)], outputs=[value("y", 2)])
    w = made.graph.initializer.add(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        w.external_data.add(key=key, value=text)
    return made


class Runner:
    """Compiles models into `out` of a folder and holds every failure to the rules."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def write(self, source: onnx.ModelProto | bytes, name: str = "model.onnx") -> Path:
        path = self.folder / name
        path.write_bytes(source if isinstance(source, bytes) else source.SerializeToString())
        return path

    def compile(self, source: onnx.ModelProto | bytes | Path, *options: str) -> tuple[int, str]:
        path = source if isinstance(source, Path) else self.write(source)
        code = main(["compile", str(path), "-o", str(self.folder / "out"), "--quiet", *options])
        return code, self.capsys.readouterr().err

    def refuse(self, source: onnx.ModelProto | bytes | Path, *words: str, options: tuple[str, ...] = ()) -> str:
        before = {p for p in self.folder.rglob("*") if "cache" not in p.parts}
        code, message = self.compile(source, *options)
        assert code == USER_ERROR, message
        assert "Traceback" not in message
        assert message.startswith("tilewright compile: ")
        for word in words:
            assert word in message
        left = {p for p in self.folder.rglob("*") if "cache" not in p.parts} - before
        assert {p.name for p in left} <= {"model.onnx"}
        assert not list((self.folder / "cache").rglob("entry.json"))
        return message


@pytest.fixture
def runner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capsys)


# ---- bytes that are no model ----


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"hello", b"{}", random.Random(1).randbytes(5000)])
def test_random_bytes(runner: Runner, content: bytes) -> None:
    runner.refuse(content, "model.onnx", "not an ONNX model" if content else "empty")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95, 0.9999])
def test_truncated_models(runner: Runner, share: float) -> None:
    data = DIGITS.read_bytes()
    runner.refuse(data[: int(len(data) * share)], "model.onnx")


def test_flipped_bytes_never_crash(runner: Runner) -> None:
    """Many damages are still a valid model; none may be a traceback."""
    rng, data = random.Random(7), DIGITS.read_bytes()
    for _ in range(25):
        damaged = bytearray(data)
        for _ in range(4):
            damaged[rng.randrange(2000)] = rng.randrange(256)
        path = runner.write(bytes(damaged))
        code = main(["check", str(path)])
        captured = runner.capsys.readouterr()
        assert code in (OK, USER_ERROR), captured.err
        assert "Traceback" not in captured.err


def test_a_folder_and_a_missing_file(runner: Runner) -> None:
    runner.refuse(runner.folder, "not a file")
    runner.refuse(runner.folder / "nowhere.onnx", "nowhere.onnx", "No such file")


# ---- models that contradict themselves ----


def test_a_cycle(runner: Runner) -> None:
    a, b = helper.make_node("Add", ["x", "v"], ["u"], name="first"), helper.make_node("Relu", ["u"], ["v"], name="second")
    runner.refuse(model(a, b, outputs=[value("v", 2, 3)]), "cycle", "first", "second")


def test_a_missing_initializer(runner: Runner) -> None:
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], name="dense")
    runner.refuse(model(node), "dense", "'weight'")


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Transpose", ["x"], ["y"], name="t", perm=[0, 0]), ["'t'", "perm"]),
        (helper.make_node("Transpose", ["x"], ["y"], name="t", perm=[0, 5]), ["'t'", "perm"]),
        (helper.make_node("Softmax", ["x"], ["y"], name="s", axis=7), ["'s'", "axis", "7"]),
        (helper.make_node("Softmax", ["x"], ["y"], name="s", axes=1), ["'s'", "axes"]),
        (helper.make_node("Softmax", ["x"], ["y"], name="s", axis="one"), ["'s'", "axis"]),
        (helper.make_node("Concat", ["x", "x"], ["y"], name="c"), ["'c'", "axis"]),
        (helper.make_node("Add", ["x"], ["y"], name="a"), ["'a'", "input"]),
        (helper.make_node("Relu", ["x", "x", "x"], ["y"], name="r"), ["'r'", "input"]),
    ],
)
def test_wrong_attributes_and_operands(runner: Runner, node: onnx.NodeProto, words: list[str]) -> None:
    runner.refuse(model(node), *words)


def test_wrong_convolution_attributes(runner: Runner) -> None:
    for attributes in ({"strides": [0, 1]}, {"group": 3}, {"pads": [1, 1]}, {"dilations": [-1, 1]}, {"auto_pad": "SOME"}):
        node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)
        wrong = model(node, inputs=[value("x", 1, 4, 8, 8)], initializers=[weight("w", 4, 4, 3, 3)])
        runner.refuse(wrong, "conv")


def test_conflicting_shapes(runner: Runner) -> None:
    runner.refuse(model(helper.make_node("Add", ["x", "w"], ["y"], name="sum"), initializers=[weight("w", 4)]), "sum")
    wrong = model(helper.make_node("MatMul", ["x", "w"], ["y"], name="dense"), initializers=[weight("w", 4, 5)])
    runner.refuse(wrong, "dense", "3", "4")


def test_unsupported_operators_are_listed_at_once(runner: Runner) -> None:
    strange = [helper.make_node(f"Op{n}", ["x"], [f"y{n}"], name=f"node{n}", domain="com.acme") for n in range(3)]
    wrong = model(*strange, outputs=[value("y0", None)])
    wrong.opset_import.append(helper.make_opsetid("com.acme", 1))
    runner.refuse(wrong, "com.acme:Op0", "com.acme:Op1", "com.acme:Op2", "node2")


def test_names_cannot_control_the_terminal(runner: Runner) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\r"
    wrong = model(helper.make_node("Softmax", ["x"], ["y"], name=hostile, axis=7))
    message = runner.refuse(wrong, "\\x1b[2J")
    assert not set(message) & {"\x1b", "\x07", "\r"}
    fine = model(helper.make_node("Relu", [hostile], ["y"], name=hostile), inputs=[value(hostile, hostile, 3)])
    assert main(["check", str(runner.write(fine))]) == OK
    assert not set(runner.capsys.readouterr().out) & {"\x1b", "\x07", "\r"}


def test_no_outputs_and_no_nodes(runner: Runner) -> None:
    wrong = model(helper.make_node("Relu", ["x"], ["y"]))
    del wrong.graph.output[:]
    runner.refuse(wrong, "no outputs")


# ---- sizes ----


@pytest.mark.parametrize("shape", [(-3, 3), (2, -(2**40))])
def test_negative_dimensions(runner: Runner, shape: tuple[int, int]) -> None:
    runner.refuse(model(helper.make_node("Relu", ["x"], ["y"]), inputs=[value("x", *shape)]), "'x'", str(min(shape)))


def test_a_negative_initializer_dimension(runner: Runner) -> None:
    wrong = model(helper.make_node("Add", ["x", "w"], ["y"]), initializers=[weight("w", 3)])
    wrong.graph.initializer[0].dims[0] = -3
    runner.refuse(wrong, "'w'", "negative")


def test_an_initializer_larger_than_its_data(runner: Runner) -> None:
    wrong = model(helper.make_node("Add", ["x", "w"], ["y"]), initializers=[weight("w", 3)])
    wrong.graph.initializer[0].dims[0] = 10**12
    runner.refuse(wrong, "'w'", "bytes")


def test_tensors_of_ten_to_the_twelve_elements(runner: Runner) -> None:
    size = numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "size")
    runner.refuse(model(
        helper.make_node("ConstantOfShape", ["size"], ["c"], name="fill"), helper.make_node("Add", ["c", "s"], ["y"]),
        inputs=[value("s", 1)], initializers=[size],
    ))
    runner.refuse(model(
        helper.make_node("Expand", ["x", "size"], ["e"], name="grow"), helper.make_node("Relu", ["e"], ["y"]),
        inputs=[value("x", 1)], initializers=[size],
    ))
    runner.refuse(model(helper.make_node("Relu", ["x"], ["y"]), inputs=[value("x", 10**6, 10**6)]))
    runner.refuse(model(helper.make_node("Relu", ["x"], ["y"]), inputs=[value("x", 2**31, 2**31, 4)]))


def test_zero_sizes_are_correct_work(runner: Runner, tmp_path: Path) -> None:
    empty = model(
        helper.make_node("Relu", ["x"], ["r"]), helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        inputs=[value("x", 0, 3)], outputs=[value("r", 0, 3), value("s")],
    )
    code, message = runner.compile(empty)
    assert (code, message) == (OK, "")
    np.savez(tmp_path / "x.npz", x=np.zeros((0, 3), np.float32))
    assert main(["run", str(tmp_path / "out"), "--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")]) == OK
    with np.load(tmp_path / "y.npz") as results:
        assert results["r"].shape == (0, 3)
        assert results["s"] == 0


# ---- options ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "gpu"), ["target", "'gpu'"]),
        (("--target", "cpu:z80"), ["z80", "x86-64-v3"]),
        (("--target", "cpu:x86-64-v3+warp"), ["warp"]),
        (("--accuracy", "exact"), ["accuracy", "strict"]),
        (("--emit", "exe"), ["emit", "object"]),
        (("--print-after", "fusion"), ["print_after", "did you mean 'fuse'"]),
        (("--shape", "picture=1x1x8x8"), ["picture", "image"]),
        (("--shape", "image=1x1x9x8"), ["image", "9"]),
        (("--shape", "image=1x1x8"), ["image"]),
        (("--dim", "batch=4"), ["batch"]),
        (("--cc", "no-such-compiler"), ["no-such-compiler"]),
        (("--jobs", "0"), ["jobs"]),
        (("--name", "1st"), ["name", "1st"]),
    ],
)
def test_wrong_options(runner: Runner, options: tuple[str, ...], words: list[str]) -> None:
    runner.refuse(DIGITS, *words, options=options)


def test_an_open_dimension_is_named(runner: Runner) -> None:
    opened = model(helper.make_node("Relu", ["x"], ["y"]), inputs=[value("x", "batch", 3)])
    runner.refuse(opened, "batch", "--dim", options=("--target", "cuda"))


# ---- external data ----


def test_external_data_outside_of_the_folder(runner: Runner, tmp_path: Path) -> None:
    inside = tmp_path / "models"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(8))
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "hard").hardlink_to(tmp_path / "secret")
    for location in ("../secret", "a/../../secret", str(tmp_path / "secret"), "link", "hard", "", ".", "/dev/zero"):
        path = inside / "model.onnx"
        path.write_bytes(external(location).SerializeToString())
        runner.refuse(path, "'w'", "external data")


def test_external_data_that_does_not_fit(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(8))
    runner.refuse(external("missing"), "missing")
    runner.refuse(external("data", offset="4"), "cut off")
    runner.refuse(external("data", offset="-4"), "offset")
    runner.refuse(external("data", length="99"), "length")


# ---- places that cannot be written ----


def test_an_output_path_that_cannot_be_written(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        code = main(["compile", str(DIGITS), "-o", str(place), "--quiet", "--no-cache"])
        err = runner.capsys.readouterr().err
        assert (code, (tmp_path / "file").read_text()) == (USER_ERROR, "here")
        assert str(place) in err
        assert "Traceback" not in err


def test_a_folder_with_other_files_is_left_alone(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    code, message = runner.compile(DIGITS, "--no-cache")
    assert code == USER_ERROR
    assert "out" in message
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    code = main(["compile", str(DIGITS), "-o", str(tmp_path / "closed" / "out"), "--quiet"])
    assert code == USER_ERROR
    assert "permission" in runner.capsys.readouterr().err


def test_a_cache_that_cannot_be_used_is_a_note(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "file"))
    code, message = runner.compile(DIGITS)
    assert code == OK
    assert message.startswith("note: the cache")
    assert (tmp_path / "out" / "manifest.json").is_file()


# ---- in a process of its own ----

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def run(*options: str, limit: int | None = None) -> subprocess.Popen[str]:
        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, and what they start, ignore it
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.Popen(
            [sys.executable, "-m", "tilewright.compiler.cli", "compile", str(DIGITS), "-o", str(tmp_path / "out"), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare,
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"},
        )

    (tmp_path / "tmp").mkdir()
    return run


@pytest.mark.parametrize("limit", [100, 5_000, 30_000])
def test_a_full_disk(start: Start, tmp_path: Path, limit: int) -> None:
    """A limit on the size of files fails like a full disk: in the middle of a write."""
    process = start("--quiet", "--no-cache", limit=limit)
    _, err = process.communicate(timeout=120)
    assert process.returncode == USER_ERROR, err
    assert "Traceback" not in err
    assert "cannot write" in err or "failed" in err
    assert not (tmp_path / "out").exists()
    assert [p.name for p in (tmp_path / "tmp").iterdir()] == []
    assert {p.name for p in tmp_path.iterdir()} <= {"tmp", "cache"}


@pytest.mark.parametrize("moment", ["starting", "cache", "import", "lower", "machine code", "write"])
def test_ctrl_c(start: Start, tmp_path: Path, moment: str) -> None:
    process = start()
    assert process.stderr is not None
    if moment == "starting":
        time.sleep(0.15)
    else:
        for line in process.stderr:
            if line.endswith(f"] {moment}\n"):
                break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    assert [p.name for p in (tmp_path / "tmp").iterdir()] == []
    if moment == "write" and (tmp_path / "out").exists():  # the signal came after the rename: then it is whole
        tilewright.load(tmp_path / "out")
        return
    assert process.returncode == INTERRUPTED, (out, err)
    assert out == ""
    assert err.splitlines()[-1] == "interrupted"
    assert not (tmp_path / "out").exists()
