"""Linking a CUDA library: run-time support, descriptor, machine code for the GPUs, manifest and weights, by a C compiler.

Nothing of CUDA is linked: the driver is opened at run time.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ...codegen.cuda_program import CudaSource
from ...codegen.machine import Machine, make_machine
from ...codegen.machine_gpu import GpuMachine
from ...codegen.program import Program
from ...ir.errors import TargetError
from ..artifact import ConstantFile
from ..cpu.link import LINK, Linked, compiler_command, library_name, run_compiler, weights_name
from ..cpu.sources import CONSTANTS_FILE, MANIFEST_FILE, data_assembly
from ..cpu.toolchain import Toolchain, host_arch
from ..temporary import TemporaryFolder
from .images import Image
from .sources import (
    RUNTIME_SOURCES,
    SHARED_SOURCES,
    cuda_header,
    descriptor_source,
    image_assembly,
    image_file,
    runtime_texts,
)

_LEVELS = {"x86_64": "x86-64-v2", "aarch64": "aarch64", "riscv64": "riscv64"}


def host_level() -> Machine:
    """The processor of this machine, as far as the C compiler must know: its architecture.  Raises TargetError for one that
    is not supported."""
    arch = host_arch()
    if arch not in _LEVELS:
        raise TargetError(f"target cuda: libraries are made for {', '.join(_LEVELS)}, this machine is {arch}")
    return make_machine(_LEVELS[arch])


def link_cuda(
    program: Program,
    source: CudaSource,
    modules: Sequence[Sequence[str]],
    images: Sequence[Sequence[Image]],
    machine: GpuMachine,
    prefix: str,
    *,
    toolchain: Toolchain,
    manifest: str,
    constants_digest: bytes,
    embedded: bool,
) -> Linked:
    """The shared library of a program.  modules: names of the functions of each module; images: of each module.

    The other arguments are those of `targets.cpu.link.link`.  Raises TargetError with the compiler's words when it fails.
    """
    owner = TemporaryFolder("tilewright-link-")
    folder = owner.path
    weights_file = None if embedded else weights_name(prefix)
    texts = {
        **runtime_texts(), f"{prefix}.h": cuda_header(prefix, program, machine), "data.s": data_assembly(embedded and
        program.constant_bytes > 0), "images.s": image_assembly(images), MANIFEST_FILE: manifest,
        "descriptor.c": descriptor_source(prefix, program, source, modules, images, machine, constants_digest, weights_file),
    }
    library = library_name(prefix)
    try:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for m, made in enumerate(images):
            for n, image in enumerate(made):
                (folder / image_file(m, n)).write_bytes(image.data)
        if embedded and program.constant_bytes:
            ConstantFile(program.constants, program.constant_bytes).write_to(folder / CONSTANTS_FILE)
        sources = ["descriptor.c", *RUNTIME_SOURCES, *SHARED_SOURCES, "data.s", "images.s"]
        command = [*compiler_command(toolchain, host_arch()), *sources, *LINK, f"-Wl,-soname,{library}", "-o", library]
        run_compiler(command, folder, toolchain)
        for entry in folder.iterdir():
            if entry.name != library:
                entry.unlink()
    except OSError as error:
        raise TargetError(f"link {prefix}: cannot write {folder}: {error.strerror or error}; free space there, or set "
                          f"TMPDIR to a folder with more") from error
    weights = None if embedded else ConstantFile(program.constants, program.constant_bytes, constants_digest)
    return Linked(folder / library, weights, shlex.join(command), owner)
