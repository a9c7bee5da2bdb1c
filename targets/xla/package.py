"""The files of an artifact that XLA runs, and its manifest.

NAME.mlir (StableHLO to read), NAME.stablehlo (the same as portable bytes, if jaxlib is there to write them),
NAME.safetensors (the weights, which follow the inputs as arguments), manifest.json, run.py and serve.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from ...codegen.stablehlo.emit import Argument, Module
from ...ir.types import TensorType
from ..artifact import Artifact, FileContent
from ..cpu.naming import c_prefix
from ..loader import ABI_VERSION, FORMAT, FORMAT_VERSION
from ..safetensors import safetensors

_SCRIPTS = Path(__file__).parent / "scripts"


def package(
    module: Module, *, name: str, model_name: str, target: str, machine: Mapping[str, Any], versions: Mapping[str, str],
    model_sha256: str, options: Mapping[str, Any], portable: bytes | None, extra: Mapping[str, FileContent] | None = None,
    runtime: Mapping[str, Any] | None = None, estimate: Mapping[str, Any] | None = None,
    timings: Mapping[str, float] | None = None, notes: tuple[str, ...] = (),
) -> Artifact:
    """The artifact of a module.  runtime: what the loader needs beside the usual entries; estimate: what XLA's compiler
    says about the result, by JSON values."""
    prefix = c_prefix(name)
    weights = [(a.name, a.type.dtype, a.array) for a in module.weights if a.array is not None]
    files: dict[str, FileContent] = {f"{prefix}.mlir": module.text.encode()}
    if portable is not None:
        files[f"{prefix}.stablehlo"] = portable
    files[f"{prefix}.safetensors"] = safetensors(weights)
    files.update((script, (_SCRIPTS / script).read_bytes()) for script in ("run.py", "serve.py"))
    files.update(extra or {})
    manifest = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "abi_version": ABI_VERSION, "runtime": "xla",
        "name": prefix, "model_name": _plain(model_name), "model_sha256": model_sha256,
        "versions": {"tilewright": __version__, **versions},
        "target": target, "machine": {"required": [], **machine}, "options": dict(options),
        "inputs": [{**_spec(a), "donated_to": a.donated} for a in module.inputs],
        "outputs": [_spec(a) for a in module.outputs],
        "weights": [_spec(a) for a in module.weights],
        "library": f"{prefix}.stablehlo" if portable is not None else f"{prefix}.mlir",
        "weights_file": f"{prefix}.safetensors",
        "sizes": {"code": len(module.text), "weights": sum(a.type.nbytes for a in module.weights), "arena": 0,
                  "scratch_per_thread": 0},
        "sha256": {"code": hashlib.sha256(module.text.encode()).hexdigest()},
        "operations": module.operations, "estimate": dict(estimate or {}), "kernels": [], **(runtime or {}),
    }
    return Artifact(target, prefix, files, manifest, dict(timings or {}), notes)


def _plain(text: str) -> str:
    """Text that every JSON reader takes: lone surrogates are written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _spec(a: Argument) -> dict[str, Any]:
    split = {"sharding": list(a.split)} if any(a.split) else {}
    described = {"name": _plain(a.name), "dtype": a.type.dtype, "shape": list(a.type.static_shape)}
    return {**described, "bytes": a.type.nbytes, **split}


def donations(inputs: Sequence[tuple[str, TensorType]], outputs: Sequence[tuple[str, TensorType]]) -> dict[str, str]:
    """State that a caller feeds back: an input and an output of one type whose names say that they are the same.

        past_key_values.0.key -> present.0.key      cache_k_in -> cache_k_out      state -> state_out
    """
    found: dict[str, str] = {}
    free = dict(outputs)
    for name, t in inputs:
        match = next((o for o, u in free.items() if u == t and _state(o) == _state(name)), None)
        if match is not None and _state(name):
            found[name] = match
            del free[match]
    return found


_STATE_WORDS = ("past_key_values", "present_key_values", "past", "present", "updated", "next", "prev", "new", "old", "input",
                "output", "in", "out", "n")


def _state(name: str) -> str:
    """What is left of a name without the words that tell the old state from the new one; empty if it has none of them
    and no index."""
    parts = [p for p in name.lower().replace("_", ".").replace("/", ".").split(".") if p]
    words = {w for word in _STATE_WORDS for w in word.split("_")}
    kept = [p for p in parts if p not in words]
    return ".".join(kept)
