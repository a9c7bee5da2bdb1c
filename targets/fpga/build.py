"""From a graph to a checked HLS project.

calibrate -> choose types -> lower -> fold -> simulate -> emit -> lint -> compare with f32 -> C simulation
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...codegen.hls.design import Design
from ...codegen.hls.wire import connect
from ...ir.errors import InternalError, ModelError, OptionError
from ...ir.graph import Graph
from ...ir.ops.base import Op
from ...ir.ops.norm import Attention, LayerNorm, RmsNorm, Softmax
from ...ir.ops.quantize import Dequantize, Quantize
from ...ir.types import TensorType, is_float
from ..artifact import Artifact
from ..cpu.naming import c_prefix
from ..cpu.packaging import timed
from ..loader import ABI_VERSION, FORMAT, FORMAT_VERSION
from .c_names import kernel_name
from .clang_lint import available, clang_lint
from .csim import Csim, run_csim
from .designing import Made, make_design
from .elementwise import MARGIN, RANDOM_MARGIN
from .host import FpgaMachine
from .lint import lint
from .lower import Lowered, lower_graph
from .options import AUTOMATIC, MAX_BITS, FpgaOptions
from .page import page
from .project import memory_facts, project_files
from .ranges import Range, Ranges, Samples, random_samples, read_samples
from .report import Accuracy, make_report

DEFAULT_RANGE: Range = (-4.0, 4.0)
_SAMPLES, _GOLDEN = 16, 4
_LARGE_WORK = 20_000_000  # elements of a run beyond which fewer samples are taken
_RELATIVE_BOUND = 0.02
_ASSUMED = "inputs are taken to lie in {:g}..{:g}, and saturate beyond: give --input-range or --calibration"
_NATIVE = (Softmax, LayerNorm, RmsNorm, Attention, Quantize, Dequantize)


def is_native(machine: FpgaMachine, op: Op, types: tuple[TensorType, ...]) -> bool:
    """Composites that have a process of their own, and quantization whose parameters are not in blocks."""
    if isinstance(op, (Quantize, Dequantize)) and op.block:
        return False
    return isinstance(op, _NATIVE) and (not isinstance(op, Softmax) or op.axis == types[0].rank - 1)


def build(
    graph: Graph, machine: FpgaMachine, *, name: str, model_sha256: str = "", options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None, fpga: FpgaOptions | None = None, **unused: Any,
) -> Artifact:
    """The project of an optimized graph.

    Raises ModelError for operators without hardware, OptionError for a precision or a budget that cannot be met (with
    what would fit), TargetError without a C++ compiler, InternalError if the C simulation is not the integer interpreter.
    """
    settings = fpga or FpgaOptions()
    say = progress or (lambda stage: None)
    seconds: dict[str, float] = {}
    require_ports(graph)
    say("calibration")
    with timed(seconds, "calibration"):
        samples = _samples(graph, settings)
        declared = settings.input_range or (None if settings.calibration else DEFAULT_RANGE)
        ranges = Ranges(graph, samples, declared)
    assumed = declared == DEFAULT_RANGE and settings.input_range is None
    notes = (_ASSUMED.format(*DEFAULT_RANGE),) if assumed else ()
    say("types")
    with timed(seconds, "types"):
        lowered, accuracy = _choose_bits(graph, ranges, samples, settings)
    lowered = replace(lowered, notes=(*notes, *lowered.notes))
    say("folding")
    with timed(seconds, "folding"):
        made = make_design(lowered, machine, settings, kernel_name(c_prefix(name)))
    say("sources")
    frames = [_encoded(made.design, s) for s in samples[: _GOLDEN if len(samples) > 2 else 1]]
    with timed(seconds, "sources"):
        expected = [made.design.run(f) for f in frames]
        files = project_files(made.design, machine, frames, expected)
        faults = lint(files[f"src/{made.design.name}.cpp"].decode(), made.design.name)
        faults += clang_lint(files, made.design.name) if available() else []
    if faults:
        raise InternalError("fpga: the generated kernel breaks the rules of synthesis:\n" + "\n".join(faults[:20]))
    say("C simulation")
    with timed(seconds, "C simulation"):
        csim = run_csim(files, made.design.name)
    if csim.wrong or csim.faults:
        raise InternalError(f"fpga: the C simulation gave {csim.wrong} wrong integers and {csim.faults} faults")
    return _package(graph, made, machine, accuracy, csim, files, settings, model_sha256, options or {}, seconds)


def require_ports(graph: Graph) -> None:
    """Raises ModelError for inputs and outputs that no design has, of unknown size or of other types, and for values
    without elements."""
    for v in graph.inputs:
        if not v.type.is_static:
            raise ModelError(f"fpga: input {v.name!r} is {v.type}; hardware needs every size: bind it with --dim or --shape")
        if not is_float(v.type.dtype):
            raise ModelError(f"fpga: input {v.name!r} is {v.type.dtype}; expected floats, which the host quantizes")
    for v in (*graph.inputs, *graph.outputs):
        if v.type.dtype == "bf16":
            raise ModelError(f"fpga: {v.name!r} is bf16, which the host programs do not read; make it f32 or f16")
    for v in (*graph.inputs, *graph.constants, *(v for n in graph.nodes for v in n.outputs)):
        if v.type.is_static and v.type.size == 0:
            raise ModelError(f"fpga: {v.name!r} is {v.type}, without elements; a stream has one or more")


def _samples(graph: Graph, settings: FpgaOptions) -> Samples:
    if settings.calibration:
        return read_samples(Path(settings.calibration), graph)
    work = sum(v.type.size for n in graph.nodes for v in n.outputs if v.type.is_static)
    count = max(2, min(_SAMPLES, _LARGE_WORK // max(work, 1)))
    return random_samples(graph, settings.input_range or DEFAULT_RANGE, count)


def _encoded(design: Design, sample: list[np.ndarray]) -> list[np.ndarray]:
    return [port.encode(a, t) for t, a, port in zip(design.inputs, sample, design.in_ports, strict=True)]


def _unwired(lowered: Lowered) -> Design:
    """For the interpreter only: no widths, no FIFOs."""
    processes, outputs = connect(lowered.processes, lowered.inputs, lowered.outputs)
    return Design("interpreter", processes, lowered.inputs, outputs, lowered.in_ports, lowered.out_ports)


def _choose_bits(graph: Graph, ranges: Ranges, samples: Samples, settings: FpgaOptions) -> tuple[Lowered, Accuracy]:
    """The asked precision, or the fewest bits that keep the bound."""
    tried = [settings.bits] if settings.bits != AUTOMATIC else list(range(4, MAX_BITS + 1))
    reach = tuple(max(float(np.abs(r[n]).max(initial=0)) for r in ranges.outputs) for n in range(len(graph.outputs)))
    bound = tuple(settings.max_error or _RELATIVE_BOUND * max(r, 1e-6) for r in reach)
    worst: Accuracy | None = None
    for bits in tried:
        lowered = lower_graph(graph, ranges, bits, MARGIN if settings.calibration else RANDOM_MARGIN, settings.reloadable)
        error = _errors(_unwired(lowered), samples, ranges.outputs)
        worst = Accuracy(bits, len(samples), error, reach, bound)
        if all(e <= b for e, b in zip(error, bound, strict=True)):
            return lowered, worst
    assert worst is not None
    rows = ", ".join(f"{n}: {e:.3g} where at most {b:.3g} is allowed"
                     for n, e, b in zip(graph.output_names, worst.error, worst.bound, strict=True))
    raise OptionError(
        f"fpga: with {worst.bits} bits the largest error against f32 is {rows}; allow more (--max-error), take more bits "
        "(--bits, at most 18, or auto), or calibrate on data like those of use (--calibration)"
    )


def _errors(design: Design, samples: Samples, outputs: list[list[np.ndarray]]) -> tuple[float, ...]:
    found = np.zeros(len(design.outputs))
    for sample, wanted in zip(samples, outputs, strict=True):
        codes = design.run(_encoded(design, sample))
        for n, (t, q, w) in enumerate(zip(design.outputs, codes, wanted, strict=True)):
            if w.size:
                y = design.out_ports[n].decode(q, t).astype(np.float64)
                found[n] = max(found[n], float(np.abs(y - w.astype(np.float64)).max()))
    return tuple(found.tolist())


def _package(
    graph: Graph, made: Made, machine: FpgaMachine, accuracy: Accuracy, csim: Csim, files: dict[str, bytes],
    settings: FpgaOptions, model_sha256: str, options: Mapping[str, Any], seconds: dict[str, float],
) -> Artifact:
    design = made.design
    report = make_report(design, machine, made.simulation, accuracy, made.limits, made.folding.stopped, made.lowered.notes)
    report["csim"] = {"frames": csim.frames, "equal": True}
    report["lint"] = "syntax tree" if available() else "patterns; pip install tilewright[fpga] for the syntax tree"
    files = {**files, "report.json": (json.dumps(report, indent=1) + "\n").encode(),
             "report.html": page(report, f"{design.name} on {machine.name}").encode()}
    given = {v.name: v.type.dtype for v in graph.inputs}
    manifest = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "abi_version": ABI_VERSION, "runtime": "fpga",
        "name": design.name, "model_name": graph.name.encode("ascii", "replace").decode(), "model_sha256": model_sha256,
        "versions": {"tilewright": __version__}, "target": f"fpga:{machine.name}",
        "machine": {"required": [], "arch": "fpga", "part": machine.board.part, "mhz": machine.mhz}, "options": dict(options),
        "inputs": [_spec(t.name, given.get(t.name, "f32"), p.shape)
                   for t, p in zip(design.inputs, design.in_ports, strict=True)],
        "outputs": [_spec(n, v.type.dtype, v.type.static_shape)
                    for n, v in zip(graph.output_names, graph.outputs, strict=True)],
        "library": f"src/{design.name}.cpp",
        "ports": {"interface": design.interface, "inputs": report["inputs"], "outputs": report["outputs"],
                  "memories": memory_facts(design)},
        "sizes": {"code": len(files[f"src/{design.name}.cpp"]), "weights": len(files["weights/weights.h"]), "arena": 0,
                  "scratch_per_thread": 0},
        "operations": len(design.processes), "operation_kind": " processes",
        "estimate": {"rows": _summary(report, accuracy)}, "kernels": [],
    }
    notes = tuple(made.lowered.notes)
    return Artifact(f"fpga:{machine.name}", design.name, files, manifest, seconds, notes)


def _spec(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name.encode("utf-8", "backslashreplace").decode(), "dtype": dtype, "shape": list(shape)}


def _summary(report: dict[str, Any], accuracy: Accuracy) -> list[tuple[str, str]]:
    """What the command line prints."""
    usage = ", ".join(f"{u['used']:,} of {u['board']:,} {r.upper()}" for r, u in report["usage"].items() if u["used"])
    ports = report["memory"]["ports"]
    errors = ", ".join(f"{e:.3g} (allowed {b:.3g})" for e, b in zip(accuracy.error, accuracy.bound, strict=True))
    return [
        ("precision", f"{accuracy.bits} bits; largest error against f32 on {accuracy.samples} samples: {errors}"),
        ("C simulation", f"{report['csim']['frames']} frames, every bit as the integer interpreter"),
        ("lint", f"nothing that synthesis refuses ({report['lint']})"),
        ("throughput", f"{report['fps']:,.0f} frames a second at {report['clock_mhz']:g} MHz, "
                       f"{report['interval_cycles']:,} cycles ({report['bottleneck']}); "
                       f"latency {report['latency_us']:,.1f} us"),
        ("limited by", report["limited_by"]),
        *([("memory", f"{len(ports)} ports, {report['memory']['gbs']:.2g} GB/s"
            + "; one frame at a time" * report["memory"]["one_frame"])] if ports else []),
        ("resources", f"{usage} (estimates; not synthesized)"),
    ]
