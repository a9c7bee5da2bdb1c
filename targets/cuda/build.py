"""From a program to a CUDA artifact: CUDA C++, machine code for every architecture, one library.

How functions are put into modules depends on the program alone, so that the bytes do not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...codegen.cuda_program import CudaSource, module_text, print_program
from ...codegen.machine_gpu import GpuMachine
from ...codegen.program import Program
from ...codegen.strategies.gpu.select import is_native
from ...ir.errors import InternalError, OptionError
from ..artifact import Artifact, ConstantFile, FileContent
from ..cpu.link import EMBED_LIMIT, is_embedded, library_name, weights_name
from ..cpu.manifest import manifest_text
from ..cpu.naming import c_prefix
from ..cpu.packaging import timed
from ..cpu.sources import cpp_header
from ..cpu.toolchain import find_toolchain
from .images import Image, Progress, compile_images
from .link import host_level, link_cuda
from .manifest import make_cuda_manifest
from .sources import cuda_header
from .toolchain import CudaToolchain, find_cuda_toolchain

__all__ = ["build", "is_native"]

# Characters of one module: enough work for one run of the compiler, small enough to keep several busy.
_MODULE_CHARACTERS = 40_000


def build(
    program: Program,
    machine: GpuMachine,
    *,
    name: str | None = None,
    emit: Sequence[str] = (),
    cc: str | None = None,
    embed_limit: int | None = None,
    jobs: int | None = None,
    model_sha256: str = "",
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    images: Sequence[Sequence[Image]] | None = None,
) -> Artifact:
    """The artifact of a lowered program: library, headers, and the kernels as PREFIX.cu.

    emit: what the artifact also holds, of "object" (PREFIX.MODULE.ARCH.cubin) and "asm" (.ptx).  jobs: compilers at a time.
    images: machine code made elsewhere, one sequence per module; None compiles it here.  The other arguments are those of
    `targets.cpu.build.build`.

    Raises TargetError without a CUDA compiler or a C compiler, OptionError for what a GPU does not have.
    """
    if "llvm-ir" in emit:
        raise OptionError("emit: a CUDA target has no llvm-ir; the artifact always holds the CUDA C++ text")
    if program.profile:
        raise OptionError("profile: a CUDA library needs no option for it; time_launches of the module gives the times")
    seconds: dict[str, float] = {}
    with timed(seconds, "print"):
        source = print_program(program, machine)
    modules = module_names(source)
    compiler: CudaToolchain | None = None
    if images is None:
        with timed(seconds, "machine code"):
            compiler = find_cuda_toolchain()
            texts = [module_text(source.title, source.functions, names) for names in modules]
            images = compile_images(texts, machine.architectures, compiler, jobs, progress)
            _check_warnings(images)
    prefix = c_prefix(name if name is not None else program.name)
    with timed(seconds, "describe"):
        toolchain = find_toolchain(host_level(), cc)
        digest = ConstantFile(program.constants, program.constant_bytes).digest()
        embedded = is_embedded(program, EMBED_LIMIT if embed_limit is None else embed_limit)
        manifest = make_cuda_manifest(
            program, source, machine, prefix, images, toolchain=toolchain, compiler=compiler, embedded=embedded,
            constants_digest=digest, model_sha256=model_sha256, options=options or {},
        )
    with timed(seconds, "link"):
        linked = link_cuda(program, source, modules, images, machine, prefix, toolchain=toolchain,
                           manifest=manifest_text(manifest), constants_digest=digest, embedded=embedded)
    files: dict[str, FileContent] = {
        library_name(prefix): linked.library, f"{prefix}.h": cuda_header(prefix, program, machine).encode(),
        f"{prefix}.hpp": cpp_header(prefix, program, machine).encode(), f"{prefix}.cu": source.text.encode(),
        **_extra_files(prefix, images, emit),
    }
    if linked.weights is not None:
        files[weights_name(prefix)] = linked.weights
    return Artifact(f"cuda:{machine.name}", prefix, files, manifest, seconds, owner=linked.owner)


def module_names(source: CudaSource) -> list[list[str]]:
    """The functions in order, cut where a module is full; at least one module, which may be empty."""
    modules: list[list[str]] = [[]]
    room = _MODULE_CHARACTERS
    for name, text in source.functions.items():
        if modules[-1] and room < len(text):
            modules.append([])
            room = _MODULE_CHARACTERS
        modules[-1].append(name)
        room -= len(text)
    return modules


def _check_warnings(images: Sequence[Sequence[Image]]) -> None:
    """Emitted code compiles without a warning: one is a bug of the compiler."""
    for image in (i for made in images for i in made):
        if image.warnings:
            raise InternalError(f"the CUDA compiler warns about the emitted code for {image.arch}", image.warnings[:4000])


def _extra_files(prefix: str, images: Sequence[Sequence[Image]], emit: Sequence[str]) -> dict[str, bytes]:
    files = {}
    for number, made in enumerate(images):
        for image in made:
            kind, suffix = ("asm", "ptx") if image.is_ptx else ("object", "cubin")
            if kind in emit:
                files[f"{prefix}.{number}.{image.arch}.{suffix}"] = image.data
    return files
