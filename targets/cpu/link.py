"""Linking: generated objects, run-time support, descriptor and constants become one shared library.

The C compiler runs in a folder of its own, with relative names only, so that the same input gives the same bytes
wherever it runs.  The constants reach the library by `.incbin` from a file that is written once.  The run-time support is
the same for every model: a process compiles it once.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ...codegen.machine import Machine
from ...codegen.program import Program
from ...ir.errors import OptionError, TargetError
from ..artifact import ConstantFile
from ..temporary import TemporaryFolder
from .sources import (
    CONSTANTS_FILE,
    MANIFEST_FILE,
    PART_SOURCES,
    RUNTIME_HEADERS,
    RUNTIME_SOURCES,
    SUPPORT_SOURCES,
    c_header,
    data_assembly,
    descriptor_source,
    runtime_file,
)
from .toolchain import Toolchain

# Above this, constants go to a file beside the library: x86-64 code reaches 2 GiB around itself.
EMBED_LIMIT = 1 << 30
_MAX_EMBED_LIMIT = 3 << 29
_COMPILE = (
    "-std=c11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-fno-ident", "-fno-plt", "-Wall", "-Wextra",
    "-ffile-prefix-map=.=tilewright", "-pthread",
)
LINK = (
    "-shared", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,defs",
    "-Wl,--as-needed", "-Wl,--gc-sections", "-Wl,--strip-debug", "-lm", "-ldl",
)
_BASELINE = {"x86_64": ("-march=x86-64",)}  # the library must reach its own check of the processor


@dataclass(frozen=True)
class Linked:
    """library: the file, in a folder that lives as long as `owner`.  weights: the file to ship beside it, or None when
    the constants are embedded.  command: what was run, for people."""

    library: Path
    weights: ConstantFile | None
    command: str
    owner: object


def library_name(prefix: str) -> str:
    return f"lib{prefix}.so"


def weights_name(prefix: str) -> str:
    return f"{prefix}.weights"


def is_embedded(program: Program, embed_limit: int) -> bool:
    """Whether the constants go into the library.  Raises OptionError for a limit that code cannot address."""
    if not 0 <= embed_limit <= _MAX_EMBED_LIMIT:
        raise OptionError(f"embed_limit: expected 0 to {_MAX_EMBED_LIMIT} bytes, got {embed_limit}")
    return program.constant_bytes <= embed_limit


def link(
    objects: Sequence[bytes],
    program: Program,
    machine: Machine,
    prefix: str,
    *,
    toolchain: Toolchain,
    manifest: str,
    constants_digest: bytes,
    embed_limit: int = EMBED_LIMIT,
) -> Linked:
    """The shared library of a program.

    objects: relocatable ELF files, one of which defines tw_main.  prefix: of the exported functions, a C identifier.
    manifest: the text that PREFIX_manifest returns.  constants_digest: SHA-256 of the constants, which ties a weights
    file to its library.  Raises TargetError with the compiler's words when it fails, and for a full disk.
    """
    embedded = is_embedded(program, embed_limit)
    owner = TemporaryFolder("tilewright-link-")
    folder = owner.path
    try:
        used = [PART_SOURCES[part] for part in program.support_parts]
        parts = (RUNTIME_SOURCES, SUPPORT_SOURCES, *used) if used else (RUNTIME_SOURCES,)
        sources = [source for part in parts for source in part]
        runtime = [data for part in parts for data in _runtime_objects(toolchain, machine.arch, part)]
        names = write_model_sources(folder, program, machine, prefix, manifest, None if embedded else constants_digest)
        named = [*zip(sources, runtime, strict=True), *((f"kernels{i:03d}.c", o) for i, o in enumerate(objects))]
        for source, data in named:
            names.append(source.removesuffix(".c") + ".o")
            (folder / names[-1]).write_bytes(data)
        command = [
            *compiler_command(toolchain, machine.arch), *names, *LINK, f"-Wl,-soname,{library_name(prefix)}", "-o",
            library_name(prefix),
        ]
        run_compiler(command, folder, toolchain)
        for entry in folder.iterdir():
            if entry.name != library_name(prefix):
                entry.unlink()
    except OSError as error:
        raise TargetError(f"link {prefix}: cannot write {folder}: {error.strerror or error}; free space there, or set "
                          f"TMPDIR to a folder with more") from error
    weights = None if embedded else ConstantFile(program.constants, program.constant_bytes, constants_digest)
    return Linked(folder / library_name(prefix), weights, shlex.join(command), owner)


def write_runtime_sources(folder: Path, sources: Sequence[str] = RUNTIME_SOURCES) -> list[str]:
    """Writes the run-time support into a folder; the names of the files to compile."""
    for name in (*RUNTIME_HEADERS, *sources):
        (folder / name).write_text(runtime_file(name), encoding="utf-8")
    return list(sources)


def write_model_sources(
    folder: Path, program: Program, machine: Machine, prefix: str, manifest: str, weights_id: bytes | None
) -> list[str]:
    """Writes what describes one model, beside the headers of the run-time support; the names of the files to compile.

    weights_id: what ends the weights file, or None to embed the constants."""
    embedded = weights_id is None and program.constant_bytes > 0
    texts = {
        **{name: runtime_file(name) for name in RUNTIME_HEADERS},
        f"{prefix}.h": c_header(prefix, program, machine),
        "descriptor.c": descriptor_source(
            prefix, program, machine, weights_id or b"", None if weights_id is None else weights_name(prefix)
        ),
        "data.s": data_assembly(embedded),
        MANIFEST_FILE: manifest,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if embedded:
        ConstantFile(program.constants, program.constant_bytes).write_to(folder / CONSTANTS_FILE)
    return ["descriptor.c", "data.s"]


def compiler_command(toolchain: Toolchain, arch: str) -> list[str]:
    """The command up to the files.  zig is told the baseline processor by its target."""
    return [*toolchain.command, *_COMPILE, *(() if toolchain.is_zig else _BASELINE.get(arch, ()))]


@functools.cache
def _runtime_objects(toolchain: Toolchain, arch: str, sources: tuple[str, ...]) -> tuple[bytes, ...]:
    """The object files of a part of the run-time support, in the order of its sources."""
    with TemporaryFolder("tilewright-link-") as folder:
        command = compiler_command(toolchain, arch)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done in [
                pool.submit(run_compiler, [*command, "-c", source, "-o", f"{source}.o"], folder, toolchain)
                for source in write_runtime_sources(folder, sources)
            ]:
                done.result()
        return tuple((folder / f"{source}.o").read_bytes() for source in sources)


def run_compiler(command: Sequence[str], folder: Path, toolchain: Toolchain) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "LC_ALL": "C"}
    if toolchain.is_zig:
        cache = Path(platformdirs.user_cache_dir("tilewright", appauthor=False)) / "zig"
        environment |= {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise TargetError(f"link: {toolchain.description} cannot be run: {error}; name another with the option cc") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-3000:]
        raise TargetError(f"link: {toolchain.description} failed with status {done.returncode}; name another compiler "
                          f"with the option cc\n  {shlex.join(command)}\n{words}")
