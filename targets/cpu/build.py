"""From a program to an artifact: LLVM text in modules of similar size, machine code, packaging.

How kernels are put into modules depends on the program alone, so that the bytes do not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...codegen.llvm import emit_main, emit_module
from ...codegen.machine import Machine
from ...codegen.program import Program
from ...codegen.strategies.select import is_native
from ...ir.kernel import Kernel, walk_block
from ..artifact import Artifact
from .link import EMBED_LIMIT
from .naming import c_prefix
from .objects import Progress, compile_asm, compile_objects
from .packaging import package, timed

__all__ = ["build", "is_native"]

# Statements of one module: large enough that LLVM's start does not count, small enough for several processes.
_MODULE_STATEMENTS = 400


def build(
    program: Program,
    machine: Machine,
    *,
    name: str | None = None,
    emit: Sequence[str] = (),
    cc: str | None = None,
    embed_limit: int | None = None,
    jobs: int | None = None,
    model_sha256: str = "",
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """The artifact of a lowered program for a machine.

    emit: what the artifact also holds, of "object", "llvm-ir" and "asm": one file per module, PREFIX.NUMBER.o, .ll, .s.
    jobs: processes for machine code, default one per core.  progress: called with (modules done, of how many).
    The other arguments are those of `package`.

    Raises TargetError without a working C compiler, InternalError for code that LLVM does not accept.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "print"):
        texts = [emit_main(program, machine)]
        texts += [emit_module(kernels, machine) for kernels in _modules(list(program.kernels.values()))]
    with timed(seconds, "machine code"):
        objects = compile_objects(texts, machine, jobs, progress)
    prefix = c_prefix(name if name is not None else program.name)
    extra: dict[str, bytes] = {}
    for number, (text, data) in enumerate(zip(texts, objects, strict=True)):
        if "object" in emit:
            extra[f"{prefix}.{number}.o"] = data
        if "llvm-ir" in emit:
            extra[f"{prefix}.{number}.ll"] = text.encode()
        if "asm" in emit:
            extra[f"{prefix}.{number}.s"] = compile_asm(text, machine).encode()
    return package(
        objects, program, machine, name=name, cc=cc, embed_limit=EMBED_LIMIT if embed_limit is None else embed_limit,
        model_sha256=model_sha256, options=options, extra_files=extra, timings=seconds,
    )


def _modules(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """The kernels in order, cut where a module is full."""
    modules: list[list[Kernel]] = []
    room = 0
    for kernel in kernels:
        size = sum(1 for _ in walk_block(kernel.body))
        if room < size:
            modules.append([])
            room = _MODULE_STATEMENTS
        modules[-1].append(kernel)
        room -= size
    return modules
