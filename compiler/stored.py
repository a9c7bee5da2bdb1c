"""Compilations in the cache: what they are found by, and how they become files and artifacts again."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..codegen.machine import Machine
from ..ir.errors import TilewrightError
from ..targets.artifact import Artifact
from ..targets.loader import MANIFEST_NAME
from .cache import Cache, hash_of
from .options import Options
from .summary import Summary, summary_from_json, summary_json

_SOURCES = (".py", ".c", ".h", ".hpp")
_ARTIFACT, _SUMMARY = "artifact", "summary.json"


def store(cache: Cache, key: str, artifact: Artifact, summary: Summary, notes: Sequence[str]) -> str:
    """Keep a compilation.  What went wrong, as a note for the user: the artifact itself is whole."""

    def write(folder: Path) -> None:
        artifact.save(folder / _ARTIFACT)
        (folder / _SUMMARY).write_text(json.dumps({"summary": summary_json(summary), "notes": list(notes)}))

    try:
        cache.put(key, write)
    except (OSError, TilewrightError) as error:
        return f"not kept in the cache {cache.directory}: {error}"
    return ""


def load_stored(cache: Cache, key: str) -> tuple[Artifact, Summary, tuple[str, ...]] | None:
    """What `store` kept, or None."""
    held = cache.get(key)
    if held is None:
        return None
    folder = held.folder / _ARTIFACT
    manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    files = {name: folder / name for name in manifest.pop("files")}
    told = json.loads((held.folder / _SUMMARY).read_text())
    artifact = Artifact(manifest["target"], manifest["name"], files, manifest, owner=held.owner)
    return artifact, summary_from_json(told["summary"]), tuple(told["notes"])


def cache_key(name: str, content: Iterable[bytes | memoryview], options: Options, machine: Machine) -> str:
    """The key of one compilation: the model and its name, the options that matter, the machine, and the compiler."""
    tools = (compiler_hash(), version("llvmlite"), np.__version__)
    request = (name, repr(options.result_key()), repr(machine_key(machine)))
    return hash_of([*tools, *request, *(hash_of([part]) for part in content)])


def machine_key(machine: Machine) -> list[tuple[str, object]]:
    """The machine's facts in an order that does not vary from run to run, as that of a set does."""
    facts = sorted(vars(machine).items())
    return [(name, sorted(value) if isinstance(value, frozenset) else value) for name, value in facts]


@functools.cache
def compiler_hash() -> str:
    """The hash of the compiler's own sources, so that a changed compiler never answers with what an older one made."""
    root = Path(__file__).parent.parent
    return hash_of(part for path in _source_files(root) for part in (str(path.relative_to(root)), path.read_bytes()))


def _source_files(root: Path) -> Iterator[Path]:
    for folder in ("codegen", "compiler", "frontend", "ir", "targets"):
        yield from sorted(p for p in (root / folder).rglob("*") if p.suffix in _SOURCES)
