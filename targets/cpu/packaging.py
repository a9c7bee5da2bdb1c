"""From machine code to the artifact: link, describe, name the files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ...codegen.machine import Machine
from ...codegen.program import Program
from ..artifact import Artifact, ConstantFile, FileContent
from .link import EMBED_LIMIT, is_embedded, library_name, link, weights_name
from .manifest import make_manifest, manifest_text
from .naming import c_prefix
from .sources import c_header, cpp_header
from .toolchain import find_toolchain


def package(
    objects: Sequence[bytes],
    program: Program,
    machine: Machine,
    *,
    name: str | None = None,
    cc: str | None = None,
    embed_limit: int = EMBED_LIMIT,
    model_sha256: str = "",
    options: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    timings: dict[str, float] | None = None,
) -> Artifact:
    """The artifact of a compiled program.

    objects: relocatable files for the machine, one of which defines `tw_main`.  name: the C prefix, made from the
    program's name if None.  cc: the C compiler to link with.  embed_limit: bytes of constants above which they go to a
    file beside the library.  model_sha256 and options (JSON values) are recorded.  extra_files are shipped as they are.
    timings: stages already timed; the stages here are added.

    Raises TargetError without a working C compiler, OptionError for a wrong option.
    """
    seconds = {} if timings is None else timings
    prefix = c_prefix(name if name is not None else program.name)
    with timed(seconds, "describe"):
        toolchain = find_toolchain(machine, cc)
        digest = ConstantFile(program.constants, program.constant_bytes).digest()
        manifest = make_manifest(
            program, machine, prefix, objects, toolchain=toolchain, embedded=is_embedded(program, embed_limit),
            constants_digest=digest, model_sha256=model_sha256, options=options or {},
        )
    with timed(seconds, "link"):
        linked = link(
            objects, program, machine, prefix, toolchain=toolchain, manifest=manifest_text(manifest),
            constants_digest=digest, embed_limit=embed_limit,
        )
    files: dict[str, FileContent] = {
        library_name(prefix): linked.library,
        f"{prefix}.h": c_header(prefix, program, machine).encode(),
        f"{prefix}.hpp": cpp_header(prefix, program, machine).encode(),
        **(extra_files or {}),
    }
    if linked.weights is not None:
        files[weights_name(prefix)] = linked.weights
    return Artifact(f"cpu:{machine.name}", prefix, files, manifest, timings=seconds, owner=linked.owner)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the time spent inside to seconds[stage]."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
