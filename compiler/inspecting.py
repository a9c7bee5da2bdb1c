"""`tilewright inspect`: the manifest of an artifact, readably."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..targets.loader import read_manifest
from .summary import bytes_text, count_text, open_text, options_text, table

_SHOWN_KERNELS = 12


def inspect(directory: Path, as_json: bool) -> int:
    """Print what an artifact holds.  Raises OptionError for a folder that is none."""
    manifest = read_manifest(directory)
    print(json.dumps(manifest) if as_json else manifest_text(directory, manifest))
    return 0


def manifest_text(directory: Path, manifest: Mapping[str, Any]) -> str:
    """The manifest as tables: what goes in and out, sizes, origin, files, and the kernels with the most work."""
    rows = [("name", f"{manifest['name']} (model {manifest['model_name']})"), ("target", manifest["target"])]
    for kind in ("input", "output"):
        rows += [(kind, f"{t['name']}: {t['dtype']}[{', '.join(map(str, t['shape']))}]") for t in manifest[f"{kind}s"]]
    rows += [("open", text)] if (text := open_text(manifest)) else []
    sizes = manifest["sizes"]
    kernels = manifest["kernels"]  # none where another compiler took the graph: what it needs is not ours to say
    rows += [(name.replace("_", " "), bytes_text(size)) for name, size in sizes.items() if size or kernels]
    rows += [(f"made by {tool}", text) for tool, text in manifest["versions"].items()]
    best = manifest.get("threads", {}).get("best")  # of targets that run on threads
    rows += [("threads", f"more than {best} are not expected to be faster")] if best else []
    rows += [("options", options_text(manifest["options"]) or "none")]
    rows += [("specialized", _version(v)) for v in manifest.get("specialized", ())]
    required = ", ".join(manifest["machine"]["required"])
    rows += [("needs", required or "the architecture's baseline")] if required or kernels else []
    rows += [("model", f"SHA-256 {manifest['model_sha256']}")]
    rows += [("file", f"{directory / n}  ({bytes_text(e['bytes'])})") for n, e in manifest["files"].items()]
    rows += [("operations", str(manifest["operations"]))] if "operations" in manifest else []
    rows += [(name, text) for name, text in manifest.get("estimate", {}).get("rows", ())]
    return table(rows) + ("\n\n" + _kernel_table(kernels) if kernels else "")


def _version(entry: Mapping[str, Any]) -> str:
    dims = ", ".join(f"{name}={size}" for name, size in entry["dims"].items())
    own, arena = bytes_text(entry["own_weights"]), bytes_text(entry["arena"])
    return f"{dims}: {entry['calls']} calls, arena {arena}, {own} of weights of its own"


def _kernel_table(kernels: list[Mapping[str, Any]]) -> str:
    most = sorted(kernels, key=lambda k: -k["macs"])[:_SHOWN_KERNELS]
    rows = [(k["kernel"], count_text(k["macs"]), k["schedule"], k["where"][:60]) for k in most]
    shown = f"{len(most)} of {len(kernels)} kernel calls, the most work first" if len(most) < len(kernels) else ""
    return table(rows, ("kernel", "MACs", "schedule", "from")) + (f"\n{shown}" if shown else "")
