"""The targets by name.  A target spec is `NAME` or `NAME:MACHINE+FEATURE+...`; the part before `:` chooses the row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

from ..codegen.machine import EXTENSIONS, LEVELS, PROCESSORS, Machine
from ..codegen.machine_gpu import ALL, ARCHITECTURES
from ..codegen.program import Program
from ..ir.errors import OptionError
from ..ir.graph import Graph
from ..targets.artifact import Artifact
from ..targets.fpga.host import machines as fpga_machines
from ..targets.tpu.host import machines as tpu_machines
from ..targets.tvm.host import MACHINES as TVM_MACHINES
from .options import Options, nearest
from .passes.expand_composites import Native
from .pipeline import GPU_PASSES, GRAPH_PASSES, STREAM_PASSES, WHOLE_GRAPH_PASSES, Passes
from .progress import Stages


@dataclass(frozen=True)
class Target:
    """home: the package that builds for it, imported on first use because its libraries are heavy: `host` has
    `resolve_machine(spec) -> Machine`, `build` has `build(program, machine, ...) -> Artifact`
    and `is_native(machine, op, operand types) -> bool`.
    machines: (name, what it is) of everything that may follow the colon; features: what may follow a `+`.
    takes: "program" for a target that builds kernels, "graph" for one whose own compiler takes the optimized graph: its
    `build` is given that instead.  passes: what runs on the graph.  options: those of `Options` that not every target has
    and this one looks at; "buckets": its artifacts may hold several sizes of a dimension."""

    name: str
    home: str
    description: str
    machines: Mapping[str, str]
    features: tuple[str, ...] = ()
    takes: str = "program"
    passes: Passes = GRAPH_PASSES
    options: tuple[str, ...] = ()

    def _function(self, module: str, name: str) -> Callable[..., Any]:
        return getattr(import_module(f"{self.home}.{module}", __package__), name)

    def build(
        self, program: Program | Graph, machine: Machine, options: Options, digest: str, stages: Stages
    ) -> Artifact:
        """The artifact of a program, or graph if that is what it takes.  digest: SHA-256 of the model, which the manifest
        records."""
        if self.takes == "graph":
            return self._build_graph(program, machine, options, digest, stages)
        stages.progress("machine code", 0, 0)
        artifact = self._function("build", "build")(
            program, machine, name=options.name or None, emit=options.emit, cc=options.cc or None,
            embed_limit=options.embed_limit, jobs=options.jobs or None, model_sha256=digest, options=options.recorded(),
            progress=lambda done, total: stages.progress("machine code", done, total),
        )
        stages.seconds.update(artifact.timings)
        return artifact

    def _build_graph(self, graph: Any, machine: Any, options: Options, digest: str, stages: Stages) -> Artifact:
        artifact = self._function("build", "build")(
            graph, machine, name=options.name or graph.name, accuracy=options.accuracy, shard=options.shard, fpga=options.fpga,
            model_sha256=digest, options=options.recorded(),
            progress=lambda stage: stages.progress(stage, 0, 0),
        )
        stages.seconds.update(artifact.timings)
        return artifact

    def passes_for(self, options: Options) -> Passes:
        """Products whose weights are split over chips are not merged: the cuts would not be those between the parts."""
        if options.shard.startswith("model"):
            return tuple(step for step in self.passes if step[0] != "merge_products")
        return self.passes

    def native(self, machine: Machine) -> Native:
        """Which composite operators the target implements as they are."""
        return partial(self._function("build", "is_native"), machine)

    def machine_for(self, options: Options) -> Any:
        """The machine of a compilation.  Raises OptionError as `machine` does, and for a precision it does not have."""
        machine: Any = self.machine(options.target)
        if self.name == "cuda":
            return replace(machine, precision=options.precision)
        if options.precision == "tf32":
            raise OptionError(f"precision: tf32 is for GPUs with tensor cores; target {self.name} has f32, bf16 and f16")
        return machine

    def machine(self, spec: str) -> Machine:
        """Raises OptionError for an unknown machine or feature, TargetError if this one cannot be used."""
        return self._function("host", "resolve_machine")(spec)


_CPU_MACHINES = {
    **{name: f"any processor of this level, {level.triple.partition('-')[0]}" for name, level in LEVELS.items()},
    **{name: "+".join((level, *features)) for name, (level, features, _) in PROCESSORS.items()},
}

_GPUS = {
    **{name: f"{a.board} and other GPUs of this architecture" for name, a in ARCHITECTURES.items()},
    "all": f"the same as {'+'.join(ALL)}",
}

_LINKED = ("emit", "cc", "embed_limit")

TARGETS: dict[str, Target] = {
    "cpu": Target(
        "cpu", "..targets.cpu", "a shared library for a processor; cpu alone is this one", _CPU_MACHINES, EXTENSIONS,
        options=(*_LINKED, "buckets", "specialize", "precision", "transform_weights", "profile", "debug_bounds"),
    ),
    "cuda": Target(
        "cuda", "..targets.cuda", "a shared library for NVIDIA GPUs: cuda:sm_80+sm_90, cuda alone is cuda:all", _GPUS,
        passes=GPU_PASSES, options=(*_LINKED, "precision"),
    ),
    "xla": Target(
        "xla", "..targets.xla", "StableHLO that XLA compiles where it is loaded", {"cpu": "the processor, for testing"},
        takes="graph", passes=WHOLE_GRAPH_PASSES, options=("buckets", "precision"),
    ),
    "tpu": Target(
        "tpu", "..targets.tpu", "StableHLO and an executable by XLA's TPU compiler; tpu alone is tpu:v5e-1", tpu_machines(),
        takes="graph", passes=WHOLE_GRAPH_PASSES, options=("buckets", "precision", "shard"),
    ),
    "tvm": Target(
        "tvm", "..targets.tvm", "a library that TVM's runtime loads; what follows the colon is a target of TVM", TVM_MACHINES,
        takes="graph", passes=WHOLE_GRAPH_PASSES, options=("buckets", "precision"),
    ),
    "fpga": Target(
        "fpga", "..targets.fpga", "an HLS C++ project of streaming processes; fpga:BOARD@MHZ, or a board's .toml file",
        fpga_machines(), takes="graph", passes=STREAM_PASSES, options=("fpga",),
    ),
}
_OTHER_NAMES = {
    **dict.fromkeys(("gpu", "nvidia", "gpu-nvidia"), "cuda"), **dict.fromkeys(("x86", "x86-64", "x86_64", "llvm"), "cpu"),
    **dict.fromkeys(("arm", "arm64", "aarch64"), "cpu:aarch64"), **dict.fromkeys(("hls", "vitis", "vivado"), "fpga"),
}


def _meant(name: str) -> str:
    """The target that people mean by another word, or the nearest name."""
    machine = f"cpu:{name}" if name in _CPU_MACHINES else f"cuda:{name}" if name in _GPUS else None
    other = _OTHER_NAMES.get(name.lower(), machine)
    return f"; did you mean {other!r}?" if other else nearest(name, TARGETS)


def find_target(spec: str) -> Target:
    """The row of a target spec.  Raises OptionError for an unknown name."""
    name = spec.partition(":")[0].partition("+")[0] if isinstance(spec, str) else ""
    if name not in TARGETS:
        raise OptionError(f"target: expected one of {', '.join(TARGETS)}, got {spec!r}{_meant(str(name))}")
    return TARGETS[name]
