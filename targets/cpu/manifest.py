"""The manifest: what an artifact is and what it was made from.  No times and no paths: equal input, equal text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import llvmlite.binding as llvm

from ... import __version__
from ...codegen.machine import Machine
from ...codegen.program import Call, Program, SizedOutput, Step, all_calls
from ...codegen.roofline import figures_of, limit_of
from ...codegen.threads import recommended_threads
from ...codegen.versions import version_facts
from ...ir.expr import Bin, Const, Var
from ...ir.types import Dim, TensorType
from ..loader import ABI_VERSION, FORMAT, FORMAT_VERSION
from .link import library_name, weights_name
from .toolchain import Toolchain


def make_manifest(
    program: Program, machine: Machine, prefix: str, objects: Sequence[bytes], *, toolchain: Toolchain, embedded: bool,
    constants_digest: bytes, model_sha256: str, options: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything but the list of files, which the artifact adds.  options: JSON values.

    In it, dims: of open dimensions, whose shapes are names and expressions, with memory and costs for typical sizes;
    threads.best: more are not expected to be faster, 0: no such number; limit_ns: what the machine's nominal
    figures allow on one core.  Of a profile build with open dimensions, by_size: costs of a kernel at the sizes of a run, as
    `targets/profile.py` computes them; figures: the nominal ones of a core."""
    code = hashlib.sha256()
    for data in objects:
        code.update(data)
    return {
        "format": FORMAT, "format_version": FORMAT_VERSION, "abi_version": ABI_VERSION,
        "name": prefix, "model_name": _plain(program.name), "model_sha256": model_sha256,
        "versions": {"tilewright": __version__, "llvm": ".".join(map(str, llvm.llvm_version_info)),
                     "linker": toolchain.description},
        "target": f"cpu:{machine.name}",
        "machine": {"arch": machine.arch, "triple": machine.triple, "cpu": machine.cpu,
                    "features": list(machine.features), "required": list(machine.required)},
        "options": dict(options),
        "inputs": _specs(program.inputs), "outputs": _specs(program.outputs, program.sized),
        "library": library_name(prefix), "weights_file": None if embedded else weights_name(prefix),
        "sizes": {"code": sum(map(len, objects)), "weights": program.constant_bytes, "arena": program.largest_arena,
                  "scratch_per_thread": program.largest_scratch},
        "threads": {"best": recommended_threads(program, machine)}, "profile": program.profile,
        "sha256": {"code": code.hexdigest(), "weights": constants_digest.hex()},
        "kernels": _kernels(program, program.shown_steps, machine),
        **_open_dims(program, machine), **_versions(program, machine),
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The JSON text that the library carries."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"))


def _plain(text: str) -> str:
    """Text that every JSON reader takes: lone surrogates are written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _specs(tensors: Sequence[tuple[str, TensorType]], sized: Sequence[SizedOutput] = ()) -> list[dict[str, Any]]:
    """run_time_axes: the dimensions that are known after a run only; shape has the largest that they can be."""
    specs: list[dict[str, Any]] = [
        {"name": _plain(name), "dtype": t.dtype, "shape": [d if isinstance(d, int) else _plain(str(d)) for d in t.shape],
         "bytes": t.nbytes if t.is_static else None} for name, t in tensors
    ]
    for s in sized:
        specs[s.output]["run_time_axes"] = [n for n, d in enumerate(s.dims) if not isinstance(d, int)]
    return specs


def _open_dims(program: Program, machine: Machine) -> dict[str, Any]:
    """What the sizes of open dimensions may be; null: unbounded."""
    if program.sizing is None:
        return {}
    dims = {_plain(s.var.name): [s.low, s.high] for s in program.sizing.symbols}
    return {"dims": dims, **({"figures": asdict(figures_of(machine))} if program.profile else {})}


def _versions(program: Program, machine: Machine) -> dict[str, Any]:
    """Bytes of each version: weights that it reads, own_weights that nothing else reads.  any_size: whether there is code for
    other sizes; "kernels" stand for the first version where there is none.  Of a profile build, the kernels of each version."""
    facts = version_facts(program)
    if not facts:
        return {}
    made: list[dict[str, Any]] = [
        {"dims": {_plain(n): size for n, size in v.dims.items()}, "calls": v.calls, "arena": v.arena,
         "scratch_per_thread": v.scratch, "weights": v.weights, "own_weights": v.own} for v in facts
    ]
    if program.profile:
        for entry, version in zip(made, program.versions, strict=True):
            entry["kernels"] = _kernels(program, version.steps, machine)
    return {"specialized": made, "any_size": bool(program.steps)}


def _kernels(program: Program, steps: Iterable[Step], machine: Machine) -> list[dict[str, Any]]:
    return [_kernel(call, machine, program.profile) for call in all_calls(steps)]


def _kernel(call: Call, machine: Machine, profile: bool) -> dict[str, Any]:
    cost = call.cost
    trees = [_size_tree(d) for d in cost.by_size] if profile and cost.by_size is not None else [None]
    return {
        "kernel": call.kernel, "where": _plain(call.where), "ops": list(call.ops), "schedule": cost.schedule,
        "macs": cost.macs, "bytes_read": cost.bytes_read, "bytes_written": cost.bytes_written,
        "limit_ns": round(limit_of(cost, machine).seconds * 1e9),
        **({} if None in trees else {"by_size": trees}),
    }


def _size_tree(d: Dim) -> Any:
    """A size as JSON: a number, the name of a dimension, or [operation, a, b]; None for what has other parts."""
    match d:
        case int():
            return d
        case Const():
            return int(d.value)
        case Var():
            return _plain(d.name)
        case Bin(op="add" | "sub" | "mul" | "div" | "mod" | "min" | "max" | "tdiv"):
            parts = [_size_tree(d.a), _size_tree(d.b)]
            return None if None in parts else [d.op, *parts]
    return None
