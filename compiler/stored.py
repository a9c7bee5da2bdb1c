"""Compilations in the cache: what they are found by, and how they become files and artifacts again."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..codegen.machine import Machine
from ..targets.artifact import Artifact
from .cache import Cache, hash_of
from .options import Options
from .summary import Summary, summary_from_json, summary_json

_SOURCES = (".py", ".c", ".h", ".hpp")
_SUMMARY = "summary.json"


def cache_key(content: Iterable[bytes | memoryview], options: Options, machine: Machine) -> str:
    """The key of one compilation: the model, the options that matter, the machine, and the compiler itself."""
    tools = (compiler_hash(), version("llvmlite"), np.__version__)
    return hash_of([*tools, repr(options.result_key()), repr(machine_key(machine)), *(hash_of([c]) for c in content)])


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
