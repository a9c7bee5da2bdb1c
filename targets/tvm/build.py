"""From a graph to an artifact that TVM's runtime loads: a library, the Relax module as text, and the weights."""

# pyright: reportMissingImports=false
# TVM is optional, and not for every Python: checked against where it is installed.

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from ... import __version__
from ...ir.errors import TargetError
from ...ir.graph import Graph
from ...ir.ops.base import Op
from ...ir.ops.norm import Softmax
from ...ir.types import DTYPES, TensorType, dtype_of
from ..artifact import Artifact, FileContent
from ..cpu.naming import c_prefix
from ..cpu.packaging import timed
from ..loader import ABI_VERSION, FORMAT, FORMAT_VERSION
from ..safetensors import safetensors
from ..temporary import TemporaryFolder
from .host import TvmMachine


def is_native(machine: object, op: Op, types: tuple[TensorType, ...]) -> bool:
    """Composites that Relax has with the same meaning."""
    return isinstance(op, Softmax) and types[0].dtype == "f32"


def require_tvm() -> ModuleType:
    """The module tvm.  Raises TargetError where it is not installed."""
    try:
        import tvm
    except ImportError as error:
        raise TargetError(
            f"TVM: the Python package apache-tvm is missing ({error}); install it with: pip install 'tilewright[tvm]'"
        ) from error
    return tvm


def build(
    graph: Graph, machine: TvmMachine, *, name: str, model_sha256: str = "", options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None, **unused: Any,
) -> Artifact:
    """The artifact of an optimized graph.  Raises TargetError without TVM, for a target that its build does not have, and
    for a graph that it does not take."""
    tvm = require_tvm()
    from .relax import to_tvm

    seconds: dict[str, float] = {}
    prefix = c_prefix(name)
    with timed(seconds, "Relax"):
        module, weights = to_tvm(graph)
        text = str(module)
    if progress:
        progress(f"TVM for {machine.kind}")
    with timed(seconds, "TVM"), TemporaryFolder("tilewright-tvm-") as folder:
        path = folder / f"{prefix}.so"
        try:
            tvm.compile(module, _target(tvm, machine)).export_library(str(path))
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            raise TargetError(f"tvm:{machine.name}: TVM {machine.tvm} cannot compile the module: {_reason(error)}") from error
        library = path.read_bytes()
    named = [(f"weight_{i}", dtype_of(a), a) for i, a in enumerate(weights)]
    files: dict[str, FileContent] = {
        f"{prefix}.so": library, f"{prefix}.relax.py": text.encode(), f"{prefix}.safetensors": safetensors(named),
    }
    manifest = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "abi_version": ABI_VERSION, "runtime": "tvm",
        "name": prefix, "model_name": graph.name.encode("utf-8", "backslashreplace").decode(),
        "model_sha256": model_sha256, "versions": {"tilewright": __version__, "tvm": machine.tvm},
        "target": f"tvm:{machine.name}", "machine": {"arch": "tvm", "device": machine.kind, "required": []},
        "options": dict(options or {}), "library": f"{prefix}.so", "weights_file": f"{prefix}.safetensors",
        "inputs": [_spec(v.name, v.type) for v in graph.inputs],
        "outputs": [_spec(n, v.type) for n, v in zip(graph.output_names, graph.outputs, strict=True)],
        "weights": [n for n, _, _ in named],
        "sizes": {"code": len(library), "weights": sum(a.nbytes for a in weights), "arena": 0, "scratch_per_thread": 0},
        "sha256": {"code": hashlib.sha256(text.encode()).hexdigest()}, "operations": text.count(" = R."),
        "estimate": {}, "kernels": [],
    }
    return Artifact(f"tvm:{machine.name}", prefix, files, manifest, dict(seconds))


def _reason(error: Exception) -> str:
    """The first line of TVM's message that is no part of a trace; programs and notes follow it."""
    lines = (line.strip() for line in str(error).splitlines())
    said = (line for line in lines if line and not line.startswith(("Traceback", "File ", "at ", "(...")))
    return next(said, type(error).__name__)


def _target(tvm: ModuleType, machine: TvmMachine) -> Any:
    """The target, its options in the form that TVM takes: `-name=value` words become entries."""
    described: dict[str, Any] = {"kind": machine.kind}
    for word in machine.name.split()[1:]:
        key, _, value = word.lstrip("-").partition("=")
        described[key] = value.split(",") if key in ("mattr", "keys", "libs") else int(value) if value.isdigit() else value
    if machine.kind == "cuda":
        limits = {"max_threads_per_block": 1024, "max_shared_memory_per_block": 49152, "thread_warp_size": 32}
        described = {**limits, "arch": "sm_80", **described}
    try:
        return tvm.target.Target(described)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TargetError(f"tvm:{machine.name}: TVM refuses the target: {str(error).splitlines()[-1]}") from error


def _spec(name: str, t: TensorType) -> dict[str, Any]:
    plain = name.encode("utf-8", "backslashreplace").decode()
    size = t.size * DTYPES[t.dtype].size
    return {"name": plain, "dtype": t.dtype, "shape": list(t.static_shape), "bytes": size}
