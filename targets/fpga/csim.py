"""The C simulation: the project's own sources and golden data, compiled by a C++ compiler and run in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...ir.errors import InternalError, TargetError
from ..temporary import TemporaryFolder

COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++14", "-O1", "-w", "-Isrc", "-Iweights")
_COMPILE_SECONDS, _RUN_SECONDS = 600, 1200
_KEPT = 4
_objects: dict[str, bytes] = {}  # of the last kernels, by what they were compiled from


@dataclass(frozen=True)
class Csim:
    """wrong: integers that differ from the interpreter's; faults: values beyond their type, reads of empty streams."""

    frames: int
    wrong: int
    faults: int


def find_compiler() -> str:
    """Raises TargetError when there is none."""
    for name in COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise TargetError(f"fpga: the C simulation needs a C++ compiler; none of {', '.join(COMPILERS)} was found: install g++")


def write_project(files: Mapping[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def kernel_object(folder: Path, top: str) -> bytes:
    """The kernel of a project in a folder, compiled for this processor to be linked into programs and libraries.  The last
    ones are kept: a project that was simulated is often loaded next.

    Raises TargetError without a compiler, InternalError if the sources do not compile."""
    state = hashlib.sha256(find_compiler().encode())
    for path in sorted(p for name in ("src", "weights") for p in (folder / name).iterdir() if p.suffix != ".bin"):
        state.update(f"{path.name}:{path.stat().st_size}:".encode() + path.read_bytes())
    key = state.hexdigest()
    data = _objects.get(key)
    if data is None:
        with TemporaryFolder("tilewright-csim-") as aside:
            command = [find_compiler(), *FLAGS, "-fPIC", "-c", "-o", str(aside / "kernel.o"), f"src/{top}.cpp"]
            run_compiler(command, folder)
            data = (aside / "kernel.o").read_bytes()
        for old in list(_objects)[: -_KEPT + 1]:
            _objects.pop(old, None)
        _objects[key] = data
    return data


def run_csim(files: Mapping[str, bytes], top: str) -> Csim:
    """Raises TargetError without a compiler, InternalError if the sources do not compile or do not end."""
    compiler = find_compiler()
    with TemporaryFolder("tilewright-csim-") as folder:
        write_project({n: d for n, d in files.items() if n.split("/")[0] in ("src", "weights", "tb")}, folder)
        (folder / "kernel.o").write_bytes(kernel_object(folder, top))
        command = [compiler, *FLAGS, "-o", "csim", "kernel.o", f"tb/{top}_tb.cpp"]
        run_compiler(command, folder)
        text = _run(["./csim", "tb"], folder, "run", _RUN_SECONDS)
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise InternalError(f"fpga: the C simulation printed {text[-500:]!r}") from error
    if found["missing"]:
        raise InternalError("fpga: the C simulation ran out of golden data")
    return Csim(found["frames"], found["wrong"], found["faults"])


def run_compiler(command: list[str], folder: Path) -> None:
    """Raises TargetError when it takes too long, InternalError with its words when it refuses."""
    _run(command, folder, "compile", _COMPILE_SECONDS)


def _run(command: list[str], folder: Path, what: str, limit: int) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"fpga: the C simulation did not {what} within {limit} s; compile with fewer samples") from error
    if done.returncode and what == "compile":
        raise InternalError(f"fpga: the generated C++ does not compile:\n{done.stderr[-3000:]}")
    return done.stdout
