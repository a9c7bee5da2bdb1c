"""A library in programs of every kind: memory that ends, small stacks, other floating-point environments, signals, other
libraries beside it, coming and going."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tilewright
from frontend.onnx_models import model, node, value
from native_toy import HERE
from onnx import ModelProto, TensorProto
from tilewright.targets.cpu import link

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def network(seed: int) -> ModelProto:
    """Open rows, a product, a softmax, and strings, which need memory while they run."""
    w = np.random.default_rng(seed).standard_normal((64, 48)).astype(np.float32) / 4
    nodes = [
        node("MatMul", ["x", "w"], ["a"]), node("Softmax", ["a"], ["p"], axis=1), node("Add", ["a", "p"], ["y"]),
        node("StringConcat", ["s", "s"], ["t"]),
    ]
    texts = [value(name, "n", dtype=TensorProto.STRING) for name in "st"]
    return model(nodes, [value("x", "n", 64), texts[0]], ["y", texts[1]], {"w": w})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a profile build, which asks for the most memory."""
    return tilewright.compile(network(0), name="net", profile=True, cache=False, jobs=1).save(
        tmp_path_factory.mktemp("embedding") / "net"
    )


def built(source: str, library: Path, *linked: str) -> Path:
    program = library.parent / source
    command = ["cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{library}", HERE / f"{source}.c", *linked,
               "-pthread", "-lm", "-ldl", "-o", program]  # fmt: skip
    subprocess.run([str(c) for c in command], check=True)
    return program


@pytest.fixture(scope="module")
def program(library: Path) -> Path:
    return built("embedding", library, f"-L{library}", "-lnet", f"-Wl,-rpath,{library}")


@pytest.mark.parametrize("part", ["memory", "limits", "stack", "environment", "signals"])
def test_surroundings(program: Path, part: str) -> None:
    done = subprocess.run([program, part], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the same names and another run-time support, as another version of the compiler would make it."""

    def changed(name: str) -> str:
        return text(name).replace("#define TW_CACHE_LINE 64", "#define TW_CACHE_LINE 128")

    text = link.runtime_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link, "runtime_file", changed)
        link._runtime_objects.cache_clear()
        made = tilewright.compile(network(1), name="net", cache=False, jobs=1)
        link._runtime_objects.cache_clear()
    return made.save(tmp_path_factory.mktemp("other") / "net")


@pytest.mark.parametrize("times", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_libraries_come_and_go(library: Path, other: Path, times: int) -> None:
    files = [folder / "libnet.so" for folder in (library, other)]
    done = subprocess.run([built("reload", library), *files, str(times)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_a_library_exports_the_functions_of_its_header_alone(library: Path) -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", library / "libnet.so"], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    header = (library / "net.h").read_text()
    assert len(names) > 10
    assert all(name.startswith("net_") and f"{name}(" in header for name in names)
