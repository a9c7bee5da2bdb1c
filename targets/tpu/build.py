"""From a graph to an artifact for a TPU: StableHLO, the executable that libtpu makes of it, and what it says about that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...codegen.stablehlo.emit import Module, emit_module
from ...ir.errors import OptionError, TargetError
from ...ir.graph import Graph
from ...ir.ops.base import Op
from ...ir.types import TensorType
from ..artifact import Artifact, FileContent
from ..cpu.naming import c_prefix
from ..cpu.packaging import timed
from ..xla.build import WHOLE, is_byte_product, product_precision
from ..xla.client import jax_versions, portable
from ..xla.package import donations, package
from .aot import compile_ahead
from .host import GENERATIONS, TpuMachine
from .sharding import parse_shard, shardings

_MANY_IMAGES = 32


def is_native(machine: TpuMachine, op: Op, types: tuple[TensorType, ...]) -> bool:
    """What StableHLO says as it is, and products of signed bytes where they are faster than those of bf16: matrices, and
    windows over many images.  By libtpu's estimates a 3x3 convolution of bytes takes 1.1 to 1.5 times the cycles of one in
    bf16 up to a batch of 8, about as many at 32, and 0.6 times as many at 64."""
    if isinstance(op, WHOLE):
        return True
    if not GENERATIONS[machine.generation].int8 or not is_byte_product(op, types):
        return False
    x, w = types
    is_window = any(n != 1 for n in w.shape[:-2])
    return not is_window or (w.shape[-2] != 1 and isinstance(x.shape[0], int) and x.shape[0] >= _MANY_IMAGES)


def build(
    graph: Graph, machine: TpuMachine, *, name: str, accuracy: str = "default", shard: str = "", model_sha256: str = "",
    options: Mapping[str, Any] | None = None, progress: Callable[[str], None] | None = None, **unused: Any,
) -> Artifact:
    """The artifact of an optimized graph.  shard: "data=N" or "model=N", over N devices.

    Without jaxlib or libtpu the artifact has the StableHLO only, and a note says what is missing.  Raises OptionError for
    a split that does not fit, TargetError when libtpu fails on the module.
    """
    seconds: dict[str, float] = {}
    axis, devices = parse_shard(shard)
    if devices > machine.chips * GENERATIONS[machine.generation].cores:
        raise OptionError(f"shard {shard!r}: tpu:{machine.name} has {machine.chips} chip(s); choose a larger machine")
    with timed(seconds, "StableHLO"):
        split = shardings(graph, shard)
        kept = donations([(v.name, v.type) for v in graph.inputs],
                         [(n, v.type) for n, v in zip(graph.output_names, graph.outputs, strict=True)])
        module = emit_module(
            graph, precision=product_precision(accuracy), donated=kept, shardings=split, mesh=(axis, devices)
        )
    missing = _missing(machine)
    extra: dict[str, FileContent] = {}
    versions: dict[str, str] = {}
    runtime: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    data = None
    if machine.jaxlib:
        with timed(seconds, "verify StableHLO"):
            versions, data = jax_versions(), portable(module.text)
    if data is not None and not missing:
        if progress:
            progress(f"libtpu for {machine.name}")
        with timed(seconds, "libtpu"):
            made = compile_ahead(data, machine, devices)
        runtime["executable"] = f"{c_prefix(name)}.{machine.name.replace(':', '-')}.bin"
        extra[runtime["executable"]] = made.data
        versions["libtpu"] = machine.libtpu
        facts = {**made.facts, "rows": estimate_rows(made.facts, module, machine, devices)}
        facts.pop("seconds", None)  # an artifact holds nothing that differs from run to run
        facts.pop("peak_bytes", None)
    return package(
        module, name=name, model_name=graph.name, target=f"tpu:{machine.name}",
        machine={"arch": "tpu", "platform": "tpu", "chips": devices, "topology": machine.topology, "axis": axis or "data"},
        versions=versions, model_sha256=model_sha256, options=options or {}, portable=data, extra=extra, runtime=runtime,
        estimate=facts, timings=seconds, notes=(missing,) if missing else (),
    )


def _missing(machine: TpuMachine) -> str:
    absent = [p for p, found in (("jax", machine.jaxlib), ("libtpu", machine.libtpu)) if not found]
    if not absent:
        return ""
    return (
        f"tpu:{machine.name}: {' and '.join(absent)} not installed, so the artifact has StableHLO only, neither checked nor "
        "compiled; install with: pip install 'tilewright[tpu]'"
    )


def estimate_rows(
    facts: Mapping[str, Any], module: Module, machine: TpuMachine, devices: int
) -> list[tuple[str, str]]:
    """What a person wants to see, marked as what it is: the compiler's estimate."""
    memory = facts["memory"]
    total = memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporary"] + memory["code"]
    limit = GENERATIONS[machine.generation].memory
    if total > limit:
        raise TargetError(f"tpu:{machine.name}: the model needs {total / 1e9:.1f} GB of the {limit / 1e9:.0f} GB of a chip; "
                          "split it with --shard model=N or choose a larger machine")
    each = " a chip" if devices > 1 else ""
    parts = ", ".join(f"{key} {memory[key] / 1e6:.1f}" for key in ("arguments", "outputs", "temporary", "aliased", "code"))
    rows = [
        ("XLA estimate", f"{facts['estimated_cycles']:,} cycles{each}, sum over {facts['costed']} fusions (not measured)"),
        ("XLA memory", f"{total / 1e6:.1f} MB{each}: {parts}"),
        ("XLA work", f"{facts['flops'] / 1e9:.3g} GFLOP{each}, {facts['bytes_accessed'] / 1e6:.4g} MB accessed"),
    ]
    if facts["collectives"]:
        rows.append(("collectives", ", ".join(f"{n} {kind}" for kind, n in sorted(facts["collectives"].items()))))
    return rows
