"""The manifest of a CUDA library: that of every artifact, with launches and what each function uses of a multiprocessor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ... import __version__
from ...codegen.cuda_program import CudaSource, Launch
from ...codegen.machine_gpu import GpuMachine
from ...codegen.program import Call, Program, SizedOutput, all_calls
from ...ir.types import TensorType
from ..cpu.link import library_name, weights_name
from ..cpu.toolchain import Toolchain, host_arch
from ..loader import ABI_VERSION, FORMAT, FORMAT_VERSION
from .images import Image
from .toolchain import CudaToolchain


def make_cuda_manifest(
    program: Program, source: CudaSource, machine: GpuMachine, prefix: str, images: Sequence[Sequence[Image]], *,
    toolchain: Toolchain, compiler: CudaToolchain | None, embedded: bool, constants_digest: bytes, model_sha256: str,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything but the list of files, which the artifact adds.  options: JSON values."""
    code = hashlib.sha256(source.text.encode())
    for image in (i for made in images for i in made):
        code.update(image.data)
    resources = _resources(images)
    return {
        "format": FORMAT, "format_version": FORMAT_VERSION, "abi_version": ABI_VERSION,
        "name": prefix, "model_name": _plain(program.name), "model_sha256": model_sha256,
        "versions": {"tilewright": __version__, "linker": toolchain.description,
                     "cuda": compiler.description if compiler else "none"},
        "target": f"cuda:{machine.name}", "runtime": "cuda",
        "machine": {"arch": host_arch(), "architectures": list(machine.architectures), "features": sorted(machine.features),
                    "required": list(machine.architectures)},
        "options": dict(options),
        "inputs": _specs(program.inputs), "outputs": _specs(program.outputs, program.sized),
        "library": library_name(prefix), "weights_file": None if embedded else weights_name(prefix),
        "sizes": {"code": sum(len(i.data) for made in images for i in made), "weights": program.constant_bytes,
                  "arena": program.arena_bytes, "scratch_per_thread": 0},
        "threads": {"best": 0}, "profile": False,
        "sha256": {"code": code.hexdigest(), "weights": constants_digest.hex()},
        "kernels": [_call(call, source, resources) for call in all_calls(program.steps)],
    }


def _resources(images: Sequence[Sequence[Image]]) -> dict[str, dict[str, dict[str, int]]]:
    """function -> architecture -> what it uses."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for image in (i for made in images for i in made):
        for name, r in image.resources.items():
            found.setdefault(name, {})[image.arch] = {
                "registers": r.registers, "stack": r.stack, "spill_stores": r.spill_stores, "spill_loads": r.spill_loads,
            }
    return found


def _call(call: Call, source: CudaSource, resources: Mapping[str, Any]) -> dict[str, Any]:
    cost = call.cost
    return {
        "kernel": call.kernel, "where": _plain(call.where), "ops": list(call.ops), "schedule": cost.schedule,
        "key": cost.key, "choice": cost.choice.to_json(),
        "macs": cost.macs, "bytes_read": cost.bytes_read, "bytes_written": cost.bytes_written,
        "launches": [_launch(launch, resources) for launch in source.launches[call.kernel]],
    }


def _launch(launch: Launch, resources: Mapping[str, Any]) -> dict[str, Any]:
    by = {} if launch.library is None else {"library": launch.library.library}
    return {"function": launch.function, "grid": list(launch.grid), "block": list(launch.block),
            "shared_bytes": launch.shared_bytes, "resources": resources.get(launch.function, {}), **by}


def _plain(text: str) -> str:
    """Text that every JSON reader takes: lone surrogates are written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _specs(tensors: Sequence[tuple[str, TensorType]], sized: Sequence[SizedOutput] = ()) -> list[dict[str, Any]]:
    """run_time_axes: the dimensions that are known after a run only; shape has the largest that they can be."""
    specs = [{"name": _plain(name), "dtype": t.dtype, "shape": list(t.static_shape), "bytes": t.nbytes} for name, t in tensors]
    for s in sized:
        specs[s.output]["run_time_axes"] = [n for n, d in enumerate(s.dims) if not isinstance(d, int)]
    return specs
