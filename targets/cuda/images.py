"""Emitted CUDA C++ to machine code: one image per module and architecture, in several processes at once.

Every image is the function of the text, the architecture and the compiler alone.  Multiply-adds are contracted only where
the loop IR says so (-fmad=false), so that results do not depend on the compiler's choice.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ...ir.errors import InternalError, TargetError
from ..temporary import TemporaryFolder
from .toolchain import INSTALL, CudaToolchain, load_nvrtc

Progress = Callable[[int, int], None]
_COMMON = ("-std=c++17", "-fmad=false")


@dataclass(frozen=True)
class Resources:
    """What one function uses on one architecture: registers of a thread, bytes of stack and of spills of a thread, bytes of
    static shared memory of a block."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


@dataclass(frozen=True)
class Image:
    """arch: sm_80; is_ptx: text for the driver's compiler instead of machine code.  resources: by function; warnings: what
    the compiler said beside them."""

    arch: str
    is_ptx: bool
    data: bytes
    resources: Mapping[str, Resources]
    warnings: str = ""


def compile_images(
    texts: Sequence[str], architectures: Sequence[str], toolchain: CudaToolchain, jobs: int | None = None,
    progress: Progress | None = None,
) -> list[list[Image]]:
    """For each text its images: machine code for every architecture, and PTX for the last one, for GPUs yet to come.

    Raises TargetError for an architecture that the compiler does not know, InternalError for text that it does not accept.
    """
    wanted = [(arch, False) for arch in architectures]
    if not architectures[-1].endswith("a"):
        wanted.append((architectures[-1], True))
    work = [(n, text, arch, ptx) for n, text in enumerate(texts) for arch, ptx in wanted]
    done = 0
    compile_one = _with_nvcc if toolchain.kind == "nvcc" else _with_nvrtc
    images: list[list[Image]] = [[] for _ in texts]
    with ThreadPoolExecutor(max(1, jobs or os.cpu_count() or 1)) as pool:
        made = pool.map(lambda item: compile_one(item[1], item[2], item[3], toolchain), work)
        for (n, *_), image in zip(work, made, strict=True):
            images[n].append(image)
            done += 1
            if progress is not None:
                progress(done, len(work))
    return images


def _with_nvcc(text: str, arch: str, is_ptx: bool, toolchain: CudaToolchain) -> Image:
    with TemporaryFolder("tilewright-cuda-") as folder:
        (folder / "kernels.cu").write_text(text, encoding="utf-8")
        target = arch.replace("sm_", "compute_") if is_ptx else arch
        command = [toolchain.path, *_COMMON, "-Wno-deprecated-gpu-targets", "-ptx" if is_ptx else "-cubin", f"-arch={target}",
                   *(() if is_ptx else ("-Xptxas", "-v")), "-o", "kernels.out", "kernels.cu"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise TargetError(f"target cuda: {toolchain.description} cannot be run: {error}") from error
        if done.returncode:
            raise _refused(toolchain, arch, done.stdout + done.stderr)
        resources, warnings = _read_log(done.stdout + done.stderr)
        return Image(arch, is_ptx, (folder / "kernels.out").read_bytes(), resources, warnings)


def _with_nvrtc(text: str, arch: str, is_ptx: bool, toolchain: CudaToolchain) -> Image:
    library = load_nvrtc(toolchain.path)
    program = ctypes.c_void_p()
    target = arch.replace("sm_", "compute_") if is_ptx else arch
    options = [*_COMMON, f"--gpu-architecture={target}", *(f"-I{folder}" for folder in toolchain.include)]
    options += [] if is_ptx else ["--ptxas-options=-v"]
    encoded = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    wrong = library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    if wrong:
        raise InternalError(f"NVRTC: nvrtcCreateProgram failed with {wrong}")
    try:
        wrong = library.nvrtcCompileProgram(program, len(options), encoded)
        log = _nvrtc_bytes(library, "ProgramLog", program).rstrip(b"\0").decode(errors="replace")
        if wrong:
            raise _refused(toolchain, arch, log)
        resources, warnings = _read_log(log)
        return Image(arch, is_ptx, _nvrtc_bytes(library, "PTX" if is_ptx else "CUBIN", program), resources, warnings)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _nvrtc_bytes(library: Any, what: str, program: ctypes.c_void_p) -> bytes:
    """nvrtcGetX of a size that nvrtcGetXSize tells."""
    size = ctypes.c_size_t()
    library[f"nvrtcGet{what}Size"](program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    library[f"nvrtcGet{what}"](program, buffer)
    return buffer.raw


_MIXED_VERSIONS = re.compile(r"Unsupported \.version|unsupported toolchain")
_UNKNOWN_ARCHITECTURE = re.compile(r"(?i)(unsupported|invalid|is not defined).*(architecture|compute_|sm_)")


def _refused(toolchain: CudaToolchain, arch: str, log: str) -> Exception:
    if _MIXED_VERSIONS.search(log):
        return TargetError(f"target cuda: the parts of {toolchain.description} are of different versions; run `{INSTALL}`\n"
                           f"{log.strip()[:600]}")
    if _UNKNOWN_ARCHITECTURE.search(log):
        return TargetError(f"target cuda:{arch}: {toolchain.description} does not know this architecture; install a newer CUDA "
                           f"toolkit, or leave the architecture out\n{log.strip()[:600]}")
    return InternalError(f"{toolchain.description} refuses the emitted code for {arch}", log.strip()[:4000])


_FUNCTION = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
_NOISE = re.compile(r"ptxas info(?!.*Performance Loss)|bytes stack frame|Compile time|^\s*$")


def _read_log(log: str) -> tuple[dict[str, Resources], str]:
    """The resources of each function from what ptxas prints, and every other line."""
    found: dict[str, Resources] = {}
    name, spills = "", (0, 0, 0)
    others = []
    for line in log.splitlines():
        entry, used = _FUNCTION.search(line), _USED.search(line)
        sizes = _SPILLS.search(line)
        if entry:
            name = entry[1]
        elif sizes:
            spills = int(sizes[1]), int(sizes[2]), int(sizes[3])
        elif used and name:
            found[name] = Resources(int(used[1]), *spills, int(used[2] or 0))
            name, spills = "", (0, 0, 0)
        elif not _NOISE.search(line):
            others.append(line)
    return found, "\n".join(others)
