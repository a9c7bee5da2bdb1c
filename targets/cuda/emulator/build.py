"""From emitted CUDA C++ to a library that this processor runs."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from importlib import import_module, resources
from pathlib import Path

import platformdirs

from ....codegen.plain_cpp import HALVES
from ....ir.errors import TargetError
from ...temporary import TemporaryFolder

_COMPILERS = ("g++", "clang++")
_RUNTIME = ("emulator.cpp", "memory_check.cpp", "instructions.cpp", "bulk.cpp")
_HEADERS = ("cuda_emulator.h", "emulator.h")
_LIBRARIES = "libraries.so"
_CLUSTER = re.compile(r"__cluster_dims__\((\d+), 1, 1\)[^\n]*\n(\w+)\(")
_ALWAYS = ("-std=c++17", "-g0", "-fPIC", "-ffp-contract=off", "-w")
# The checks' calls without the libraries that usually answer them: ours do.  Fused multiply-adds are one instruction.
_KERNELS = ("-fsanitize=thread", "-fsanitize=bounds", "-fno-sanitize-recover=bounds")


@functools.cache
def find_compiler() -> tuple[str, ...]:
    """The C++ compiler as a command: the environment variable CXX, then g++ and clang++ on the PATH.

    Raises TargetError without one."""
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in (*([asked] if asked else []), *([c] for c in _COMPILERS)):
        if shutil.which(command[0]):
            return tuple(command)
    raise TargetError("CUDA emulator: expected g++ or clang++ on the PATH or in CXX, found none; install g++")


def _kernel_flags(optimise: bool) -> tuple[str, ...]:
    return (*_ALWAYS, "-O1" if optimise else "-O0", *_machine_flags(), *_KERNELS)


@functools.cache
def _runtime_folder() -> Path:
    """A folder with the headers, the compiled run time and the libraries, made once for a version of its sources and compiler.

    What most kernels would spend their time on is done here: the header is precompiled (g++ takes it where the flags are the
    same), and a library that has nothing but the names of the C++ libraries spares the linker their tables of symbols."""
    package = import_module("..emulator", __package__)  # not at the top: the package imports this module
    sources = {name: (resources.files(package) / name).read_text(encoding="utf-8") for name in (*_HEADERS, *_RUNTIME)}
    sources["halves.h"] = f"/* Conversions of 16-bit floats. */\n#include <math.h>\n#include <string.h>\n{HALVES}"
    state = hashlib.sha256(repr((sorted(sources.items()), find_compiler(), _kernel_flags(False))).encode())
    base = Path(platformdirs.user_cache_dir("tilewright", appauthor=False)) / "cuda-emulator"
    folder = base / state.hexdigest()[:24]
    if folder.is_dir():
        return folder
    base.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="new-", dir=base))
    try:
        for name, text in sources.items():
            (aside / name).write_text(text, encoding="utf-8")
        _run([*find_compiler(), *_ALWAYS, "-O2", "-r", "-nostdlib", "-o", "runtime.o", *_RUNTIME], aside)
        _run([*find_compiler(), "-shared", "-o", _LIBRARIES, "-Wl,--no-as-needed", "-lm"], aside)
        precompiled = aside / f"{_HEADERS[0]}.gch"
        precompiled.mkdir()
        precompile = ("-x", "c++-header", _HEADERS[0], "-o", f"{precompiled.name}/plain")
        _run([*find_compiler(), *_kernel_flags(False), *precompile], aside)
        try:
            aside.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def build_library(text: str, kernels: Iterable[str], optimise: bool = False) -> ctypes.CDLL:
    """The loaded library of an emitted file.  kernels: the names of its functions.  optimise: spend more on compiling.

    Raises TargetError without a C++ compiler, or with its words when it refuses the text."""
    runtime = _runtime_folder()
    with TemporaryFolder("tilewright-emulator-") as folder:
        clusters = {name: n for n, name in _CLUSTER.findall(text)}
        lines = [text, "", *(f"EMULATED_KERNEL({kernel}, {clusters.get(kernel, 1)})" for kernel in kernels), ""]
        (folder / "kernels.cpp").write_text("\n".join(lines), encoding="utf-8")
        compiler = find_compiler()
        _run([*compiler, *_kernel_flags(optimise), f"-I{runtime}", "-c", "kernels.cpp", "-o", "kernels.o"], folder)
        linked = ["kernels.o", str(runtime / "runtime.o"), str(runtime / _LIBRARIES), _builtins()]
        _run([*compiler, "-shared", "-nodefaultlibs", "-Wl,--no-as-needed", "-o", "kernels.so", *linked], folder)
        return ctypes.CDLL(str(folder / "kernels.so"))


@functools.cache
def _machine_flags() -> tuple[str, ...]:
    """Native fused multiply-adds where the processor has them; without, libm computes the same, slowly."""
    try:
        has = "fma" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        has = False
    return ("-mfma",) if has else ()


@functools.cache
def _builtins() -> str:
    """The compiler's own library: what it calls where the processor has no instruction."""
    return _run([*find_compiler(), "-print-libgcc-file-name"], Path.cwd()).strip()


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[:3000]
        raise TargetError(f"CUDA emulator: {shlex.join(command)} failed\n{words}")
    return done.stdout
