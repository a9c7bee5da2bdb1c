"""Products that a tuning file gives to cuBLASLt: the calls, the numbers, what is missing is said; on a cuBLASLt of ours."""

from __future__ import annotations

import ctypes
import shutil
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
from tilewright.ir.errors import TilewrightError
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.elementwise import Unary
from tilewright.ir.ops.movement import Transpose
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact
from tilewright.targets.cuda.emulator.run import EmulatedProgram
from tilewright.targets.cuda.loader import load_on

from .driven import MACHINE, driven_artifact, fake_driver

RNG = np.random.default_rng(3)
X, W = RNG.standard_normal((3, 20, 24)).astype("f4"), RNG.standard_normal((24, 36)).astype("f4")
V = RNG.standard_normal((3, 16, 36)).astype("f4")
EXPECTED = np.tanh((X @ W) @ V.transpose(0, 2, 1))


def graph() -> Graph:
    """tanh((x @ w) @ transposed v): weights, batches, an operand in rows of k."""
    b = Builder("two products")
    x, v = b.input("x", TensorType("f32", X.shape)), b.input("v", TensorType("f32", V.shape))
    y = b.add(MatMul(), b.add(MatMul(), x, b.constant(W)), b.add(Transpose((0, 2, 1)), v))
    return b.graph([b.add(Unary("tanh"), b.add(Unary("neg"), b.add(Unary("neg"), y)))])


def tuned(given: Graph) -> Program:
    """The program with every product given to the library that it makes."""
    calls = all_calls(lower(fused(given), MACHINE).steps)
    return lower(fused(given), MACHINE, choices={c.cost.key: Choice(library=1) for c in calls if c.cost.choice.to_json()})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cublaslt") / "fake_cublaslt.so"
    source = Path(__file__).with_name("fake_cublaslt.cpp")
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror", "-Wl,-soname,libcublasLt.so.13"]
    subprocess.run(["g++", *flags, source, "-o", path], check=True)
    return path


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return driven_artifact(tuned(graph()), name="products")


@pytest.fixture(scope="module")
def place(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.save(tmp_path_factory.mktemp("products") / "products")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, compiled: Path) -> Iterator[Any]:
    monkeypatch.setenv("TILEWRIGHT_CUBLASLT", str(compiled))
    driver = fake_driver()
    monkeypatch.setenv("TILEWRIGHT_CUDA_DRIVER", driver.path)
    driver.fake_reset()
    yield ctypes.CDLL(str(compiled))
    driver.fake_reset()


def test_the_emulator_multiplies_too() -> None:
    program = tuned(graph())
    notes = [c.cost.schedule for c in all_calls(program.steps)]
    assert any("20 x 36 x 24" in n or "60 x 36 x 24" in n for n in notes if "by cuBLASLt" in n)
    source = print_program(program, MACHINE)
    assert "// By cuBLASLt instead of a function here" in source.text
    (got,) = EmulatedProgram(program, source).run([X, V])
    np.testing.assert_allclose(got, EXPECTED, rtol=0, atol=1e-5)


def test_a_library_calls_cublaslt(library: Any, artifact: Artifact, place: Path) -> None:
    chosen = [k["choice"] for k in artifact.manifest["kernels"]]
    assert {"library": 1} in chosen
    for with_graph in (True, False):
        before = library.fake_products()
        with load_on(place, 0, graph=with_graph) as module:
            (got,) = module(X, V)
            np.testing.assert_allclose(got, EXPECTED, rtol=0, atol=1e-5)
            assert library.fake_products() == before + chosen.count({"library": 1})
        assert library.fake_objects() == 0


def test_without_the_library_the_message_says_what_to_do(
    library: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWRIGHT_CUBLASLT", str(tmp_path / "none.so"))
    with pytest.raises(TilewrightError, match=r"cuBLASLt .* cannot be loaded.*compile without that file"):
        load_on(place, 0)
    monkeypatch.setenv("TILEWRIGHT_CUBLASLT", fake_driver().path)
    with pytest.raises(TilewrightError, match="cuBLASLt has no cublasLtCreate"):
        load_on(place, 0)


def test_the_wheel_is_found(
    library: Any, compiled: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "site" / "nvidia" / "cu13" / "lib"
    wheel.mkdir(parents=True)
    shutil.copy(compiled, wheel / "libcublasLt.so.13")
    monkeypatch.delenv("TILEWRIGHT_CUBLASLT")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with load_on(place, 0) as module:
        np.testing.assert_allclose(module(X, V)[0], EXPECTED, rtol=0, atol=1e-5)


def test_products_with_more_to_do_stay_with_us() -> None:
    b = Builder("epilogue")
    x = b.input("x", TensorType("f32", X.shape))
    y = b.add(Unary("tanh"), b.add(MatMul(), x, b.constant(W)))
    (call,) = all_calls(tuned(b.graph([y])).steps)
    assert "by cuBLASLt" not in call.cost.schedule and "tile_rows" in call.cost.choice.to_json()
