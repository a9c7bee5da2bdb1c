"""Finding a CUDA compiler: nvcc, or NVRTC, which needs no host compiler.

Order: nvcc of CUDA_HOME or CUDA_PATH, nvcc on the PATH, /usr/local/cuda, the nvcc wheel; then the NVRTC library of its
wheel or of the system.  nvcc runs the host's C++ compiler as its preprocessor: without one it is passed over.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...ir.errors import TargetError

INSTALL = "pip install tilewright[cuda]"
_NVRTC = ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12")


@dataclass(frozen=True)
class CudaToolchain:
    """kind: "nvcc" or "nvrtc".  path: the program or the library.  include: folders with CUDA's headers (NVRTC).
    description: what it is and where it was found, without a path."""

    kind: str
    path: str
    include: tuple[str, ...]
    description: str


@functools.cache
def find_cuda_toolchain() -> CudaToolchain:
    """The CUDA compiler to use.  Raises TargetError, with the line that installs one, if there is none."""
    tried = []
    for where, path in _nvcc_places():
        if not (shutil.which("g++") or shutil.which("cl") or shutil.which("clang++")):
            tried.append("nvcc, which needs a C++ compiler and there is none")
            break
        version = _nvcc_version(path)
        if version:
            return CudaToolchain("nvcc", path, (), f"nvcc {version} ({where})")
        tried.append(f"nvcc of {where}, which does not run")
    for where, library in _nvrtc_places():
        version = _nvrtc_version(library)
        if version:
            return CudaToolchain("nvrtc", library, _headers(library), f"NVRTC {version} ({where})")
        tried.append(f"NVRTC of {where}, which cannot be loaded")
    found = f"; found {', '.join(tried)}" if tried else ""
    raise TargetError(
        f"target cuda: expected nvcc on the PATH or in CUDA_HOME, or the CUDA wheels{found}; run `{INSTALL}`, or install the "
        f"CUDA toolkit 12 or newer"
    )


def _wheels() -> list[Path]:
    """The folders of NVIDIA's wheels."""
    spec = importlib.util.find_spec("nvidia")
    return [] if spec is None else [Path(p) for p in spec.submodule_search_locations or ()]


def _nvcc_places() -> Iterator[tuple[str, str]]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(variable)
        if home:
            yield variable, str(Path(home) / "bin" / "nvcc")
    on_path = shutil.which("nvcc")
    if on_path:
        yield "on the PATH", on_path
    if os.path.exists("/usr/local/cuda/bin/nvcc"):
        yield "/usr/local/cuda", "/usr/local/cuda/bin/nvcc"
    for wheel in _wheels():
        for program in sorted([*wheel.glob("cu1*/bin/nvcc"), *wheel.glob("cuda_nvcc/bin/nvcc")]):
            yield "pip wheel", str(program)


def _nvcc_version(path: str) -> str:
    try:
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"V(\d+\.\d+\.\d+)", shown.stdout)
    return found[1] if found and not shown.returncode else ""


def _nvrtc_places() -> Iterator[tuple[str, str]]:
    for wheel in _wheels():
        for library in sorted([*wheel.glob("cu1*/lib/libnvrtc.so.*"), *wheel.glob("cuda_nvrtc/lib/libnvrtc.so.*")]):
            if "builtins" not in library.name:
                yield "pip wheel", str(library)
    for name in _NVRTC:
        yield "the system", name


def _nvrtc_version(library: str) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    try:
        loaded = load_nvrtc(library)
        wrong = loaded.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    except (OSError, AttributeError):
        return ""
    return "" if wrong else f"{major.value}.{minor.value}"


@functools.cache
def load_nvrtc(library: str) -> ctypes.CDLL:
    """The library.  It looks for a second one where the system does, which is not its own folder: that is loaded first.
    Raises OSError."""
    for builtins in sorted(Path(library).parent.glob("libnvrtc-builtins.so*")) if "/" in library else ():
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(library)


def _headers(library: str) -> tuple[str, ...]:
    """Folders with cuda_fp16.h, which NVRTC does not bring; that beside the library first."""
    homes = [Path(library).parent.parent / "include"] if "/" in library else []
    homes += [Path(os.environ[v]) / "include" for v in ("CUDA_HOME", "CUDA_PATH") if v in os.environ]
    homes += [Path("/usr/local/cuda/include")]
    for wheel in _wheels():
        homes += [*wheel.glob("cu1*/include"), wheel / "cuda_runtime" / "include", wheel / "cuda_cccl" / "include"]
    return tuple(str(h) for h in homes if h.is_dir())
