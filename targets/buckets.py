"""Several sizes of one model in one artifact: a folder for each, the weights once.

    out/manifest.json, NAME.safetensors, run.py, buckets.py     batch-1/NAME.stablehlo, batch-8/NAME.stablehlo, ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.types import dtype_of
from .artifact import Artifact, ConstantFile, FileContent
from .loader import MANIFEST_NAME
from .safetensors import arrays_of, safetensors

_CHOICE = Path(__file__).parent / "xla" / "scripts" / "buckets.py"


@dataclass(frozen=True)
class Dimension:
    """A dimension with several sizes.  padded: whether rows along it are independent.  inputs: number -> axis; outputs:
    number -> (axis, elements a row)."""

    name: str
    padded: bool
    inputs: Mapping[int, int]
    outputs: Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class Bucket:
    """One compiled size."""

    sizes: Mapping[str, int]
    artifact: Artifact

    @property
    def folder(self) -> str:
        return "_".join(f"{name}-{size}" for name, size in sorted(self.sizes.items()))


def merge_buckets(dimensions: Sequence[Dimension], buckets: Sequence[Bucket]) -> Artifact:
    """One artifact of those of all sizes, the largest last.  Equal weights are kept once."""
    top = buckets[-1].artifact
    weights = str(top.manifest["weights_file"])
    kept: dict[str, np.ndarray] = {}
    files: dict[str, FileContent] = {n: c for n, c in top.files.items() if n.endswith(".py") and not n.endswith(".relax.py")}
    files["buckets.py"] = _CHOICE.read_bytes()
    for bucket in buckets:
        names = _keep(bucket.artifact, weights, kept)
        own = {n: c for n, c in bucket.artifact.files.items() if n != weights and n not in files}
        manifest = {**bucket.artifact.manifest, "weights_file": f"../{weights}"}
        manifest["weights"] = [_renamed(w, names) for w in manifest["weights"]]
        described = replace(bucket.artifact, files=own, manifest=manifest)
        files.update((f"{bucket.folder}/{n}", content) for n, content in own.items())
        files[f"{bucket.folder}/{MANIFEST_NAME}"] = described.manifest_text.encode()
    files[weights] = safetensors([(name, dtype_of(array), array) for name, array in kept.items()])
    manifests = [b.artifact.manifest for b in buckets]
    manifest = {
        **top.manifest, "runtime": "buckets", "library": f"{buckets[-1].folder}/{top.manifest['library']}",
        "buckets": {"dims": [_dimension(d) for d in dimensions], "sizes": [_size(b) for b in buckets]},
        "sizes": {**top.manifest["sizes"], "code": sum(m["sizes"]["code"] for m in manifests),
                  "weights": sum(a.nbytes for a in kept.values())},
        "estimate": {"rows": [row for b in buckets for row in _rows(b)]},
        **{f"{kind}s": [_spec(kind, i, dimensions, manifests) for i in range(len(top.manifest[f"{kind}s"]))]
           for kind in ("input", "output")},
    }
    timings = {stage: sum(b.artifact.timings.get(stage, 0.0) for b in buckets) for stage in top.timings}
    notes = tuple(dict.fromkeys(note for b in buckets for note in b.artifact.notes))
    return Artifact(top.target, top.name, files, manifest, timings, notes)


def _keep(artifact: Artifact, weights: str, kept: dict[str, np.ndarray]) -> dict[str, str]:
    """The new name of every weight, which is kept unless an equal one is."""
    content = artifact.files[weights]
    assert isinstance(content, ConstantFile)
    names = {}
    for name, array in arrays_of(content).items():
        digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
        names[name] = f"w{digest[:24]}"
        kept.setdefault(names[name], array)
    return names


def _renamed(weight: Any, names: Mapping[str, str]) -> Any:
    return {**weight, "name": names[weight["name"]]} if isinstance(weight, Mapping) else names[weight]


def _dimension(d: Dimension) -> dict[str, Any]:
    return {"name": d.name, "padded": d.padded, "inputs": {str(i): axis for i, axis in d.inputs.items()},
            "outputs": {str(i): list(place) for i, place in d.outputs.items()}}


def _size(b: Bucket) -> dict[str, Any]:
    inputs = [entry["shape"] for entry in b.artifact.manifest["inputs"]]
    return {"folder": b.folder, "dims": dict(b.sizes), "inputs": inputs}


def _rows(b: Bucket) -> list[tuple[str, str]]:
    label = ", ".join(f"{name} {size}" for name, size in b.sizes.items())
    rows = b.artifact.manifest["estimate"].get("rows", ()) or [("operations", str(b.artifact.manifest["operations"]))]
    return [(label, f"{key}: {text}") for key, text in rows]


def _spec(kind: str, number: int, dimensions: Sequence[Dimension], manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry of an input or output; a dimension that differs between the sizes is an expression of names, or "?"."""
    entries = [m[f"{kind}s"][number] for m in manifests]
    shape: list[Any] = [sizes[0] if len(set(sizes)) == 1 else "?" for sizes in zip(*(e["shape"] for e in entries), strict=True)]
    for d in dimensions:
        place = d.outputs.get(number) if kind == "output" else (d.inputs[number], 1) if number in d.inputs else None
        if place is not None:
            axis, inner = place
            shape[axis] = d.name if inner == 1 else f"{inner}*{d.name}"
    return {**entries[-1], "shape": shape}
