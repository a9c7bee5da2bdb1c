"""Convolutions that a tuning file gives to cuDNN: which ones, the calls, the numbers, what is missing; on a cuDNN of ours."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites.test_cuda import fused
from tilewright.codegen.cuda_program import print_program
from tilewright.codegen.lower import lower
from tilewright.codegen.program import Program, all_calls
from tilewright.codegen.strategies.choices import Choice
from tilewright.codegen.strategies.gpu.library_conv import _is_border
from tilewright.ir.errors import TilewrightError
from tilewright.ir.expr import Load, Type, all_of, as_expr, binary
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.kernel import Buffer, axis
from tilewright.ir.ops.contract import Conv
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact
from tilewright.targets.cuda.emulator.run import EmulatedProgram
from tilewright.targets.cuda.loader import load_on

from .driven import MACHINE, driven_artifact, fake_driver

RNG = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


X, Z = floats(2, 9, 11, 8), floats(2, 5, 6, 16)


def graph() -> Graph:
    """tanh of: a convolution with stride and border, bias, residual and relu; then one with dilation and nothing behind it."""
    b = Builder("convolutions")
    x, z = b.input("x", TensorType("f32", X.shape)), b.input("z", TensorType("f32", Z.shape))
    y = b.add(Conv((2, 2), (1, 1, 1, 1), (1, 1), 1), x, b.constant(floats(3, 3, 8, 16)), b.constant(floats(16)))
    y = _relu(b, b.add(Binary("add"), y, z))
    return b.graph([y, b.add(Conv((1, 1), (0, 2, 1, 0), (2, 1), 1), y, b.constant(floats(3, 2, 16, 24)))])


def _relu(b: Builder, x: Value) -> Value:
    return b.add(Binary("max"), x, b.constant(np.array(0, np.float32)))


def tuned(given: Graph) -> Program:
    """The program with everything given to the library that it makes."""
    calls = all_calls(lower(fused(given), MACHINE).steps)
    return lower(fused(given), MACHINE, choices={c.cost.key: Choice(library=1) for c in calls if c.cost.choice.to_json()})


GRAPH = graph()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cudnn") / "fake_cudnn.so"
    source = Path(__file__).with_name("fake_cudnn.cpp")
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror", "-Wl,-soname,libcudnn.so.9"]
    subprocess.run(["g++", *flags, source, "-o", path], check=True)
    return path


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return driven_artifact(tuned(GRAPH), name="convolutions")


@pytest.fixture(scope="module")
def place(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.save(tmp_path_factory.mktemp("convolutions") / "convolutions")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, compiled: Path) -> Iterator[Any]:
    monkeypatch.setenv("TILEWRIGHT_CUDNN", str(compiled))
    driver = fake_driver()
    monkeypatch.setenv("TILEWRIGHT_CUDA_DRIVER", driver.path)
    driver.fake_reset()
    yield ctypes.CDLL(str(compiled))
    driver.fake_reset()


def test_the_emulator_convolves_too() -> None:
    program = tuned(GRAPH)
    notes = [c.cost.schedule for c in all_calls(program.steps)]
    assert any("convolution 3 x 3 of 2 x 9 x 11 x 8 to 16 + bias + residual, relu by cuDNN" in n for n in notes)
    source = print_program(program, MACHINE)
    assert "// By cuDNN instead of a function here" in source.text and not source.functions
    for got, expected in zip(EmulatedProgram(program, source).run([X, Z]), run_graph(GRAPH, [X, Z]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_a_library_calls_cudnn(library: Any, artifact: Artifact, place: Path) -> None:
    assert [k["launches"][0]["library"] for k in artifact.manifest["kernels"]] == ["cuDNN"] * 2
    for with_graph in (True, False):
        before, fused_before = library.fake_convolutions(), library.fake_fused()
        with load_on(place, 0, graph=with_graph) as module:
            for got, expected in zip(module(X, Z), run_graph(GRAPH, [X, Z]), strict=True):
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
        assert library.fake_convolutions() == before + 2 and library.fake_fused() == fused_before + 3
        assert library.fake_objects() == 0


def test_without_the_library_the_message_says_what_to_do(
    library: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWRIGHT_CUDNN", str(tmp_path / "none.so"))
    with pytest.raises(TilewrightError, match=r"cuDNN .* cannot be loaded.*compile without that file"):
        load_on(place, 0)
    monkeypatch.setenv("TILEWRIGHT_CUDNN", fake_driver().path)
    with pytest.raises(TilewrightError, match="cuDNN has no cudnnCreate"):
        load_on(place, 0)


@pytest.mark.parametrize("what", ["two groups", "tanh behind it", "weights from a run"])
def test_other_convolutions_stay_with_us(what: str) -> None:
    b = Builder("others")
    x = b.input("x", TensorType("f32", X.shape))
    w = floats(3, 3, 4 if what == "two groups" else 8, 16)
    given = b.input("w", TensorType("f32", w.shape)) if what == "weights from a run" else b.constant(w)
    y = b.add(Conv((1, 1), (1, 1, 1, 1), (1, 1), 2 if what == "two groups" else 1), x, given)
    y = b.add(Unary("tanh"), y) if what == "tanh behind it" else y
    program = tuned(b.graph([y]))
    assert not any("by cuDNN" in c.cost.schedule for c in all_calls(program.steps))


def test_zeros_that_are_no_border() -> None:
    x = Buffer("x", "f32", (1, 8, 8, 4))
    o, k, p, q = axis("o", 8), axis("k", 3), axis("p", 6), axis("q", 3)
    line = o + k - 1
    read = Load.of(x, (as_expr(0), line, p + q, as_expr(0)), Type("f32"))
    below, above = binary("le", as_expr(0), line), binary("lt", line, 8)
    pairs = ((o, k), (p, q))
    assert _is_border(all_of([below, above]), read, pairs)
    assert not _is_border(below, read, pairs)
    assert not _is_border(None, read, pairs)
    assert not _is_border(all_of([below, above, binary("lt", p, 3)]), read, pairs)
