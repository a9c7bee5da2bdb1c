"""One compilation from the model to the artifact: read, find in the cache, import, passes, lower, build, store.

`compile_model` is what the API and the command line share.  It returns everything that a summary or a report needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..codegen.bounds import check_bounds
from ..codegen.lower import lower
from ..codegen.machine import Machine
from ..codegen.program import Program
from ..codegen.shared_panels import SharedPanels
from ..codegen.sizing import checks_of
from ..codegen.strategies.choices import Choice
from ..frontend.onnx.fingerprint import model_content, model_sha256
from ..frontend.onnx.importer import import_graph
from ..frontend.onnx.reader import ModelFile, read_model
from ..frontend.onnx.support import operators_used
from ..ir.dims import symbols
from ..ir.errors import OptionError
from ..ir.graph import Graph
from ..ir.ops.image_file import DecodeImage
from ..targets.artifact import Artifact
from .bucketing import compile_buckets
from .cache import Cache
from .faults import guarded
from .options import Options, nearest
from .pipeline import Print, run_passes, wanted
from .progress import Progress, Stages, silent
from .specializing import bound_to, is_specialized, lower_versions, version_sizes, without_versions
from .stored import cache_key, load_stored, store
from .summary import Summary, summarize, summarize_graph
from .target_options import check_target_options
from .targets import Target, find_target
from .tuning_file import clear_gains, default_file, digest_of, read_tuning


@dataclass(frozen=True)
class Compilation:
    """seconds: per stage.  imported, fused and program are None when the artifact came from the cache.
    notes: what the user should know and is no error."""

    artifact: Artifact
    summary: Summary
    options: Options
    machine: Machine
    seconds: dict[str, float]
    imported: Graph | None = None
    fused: Graph | None = None
    program: Program | None = None
    cached: bool = False
    notes: tuple[str, ...] = ()


def compile_model(
    model: Any,
    options: Options,
    *,
    base_dir: Path | None = None,
    cache: Cache | None = None,
    reuse: bool = True,
    progress: Progress = silent,
    show: Print = lambda name, text: None,
) -> Compilation:
    """model: a path, the bytes of a file, or an onnx.ModelProto.  cache: where artifacts are kept, None: nowhere.
    reuse: take an artifact from the cache if it is there.  show(stage, text) receives what `print_after` asks for.

    Raises ModelError, TargetError, OptionError for the caller's mistakes and InternalError for ours.
    """
    stages = Stages(progress)
    target = find_target(options.target)
    check_target_options(options, target)
    job = _Job(options, target, target.machine_for(options), stages, show)
    with stages.stage("read"):
        source = read_model(model, base_dir)
        digest = model_sha256(model, source)
    job, notes = _tuned(job, source)
    options = job.options
    unusable = cache.problem() if cache is not None else ""
    if cache is None or unusable:
        done = job.run(source, digest)
        return replace(done, notes=(*notes, *done.notes, *([unusable] if unusable else [])))
    with stages.stage("cache"):
        key = cache_key(source.name, model_content(source), options, job.machine)
    with cache.building(key):
        if reuse:
            with stages.stage("cache"):
                stored = load_stored(cache, key)
            if stored is not None:
                artifact, summary, told = stored
                return Compilation(
                    artifact, summary, options, job.machine, stages.seconds, cached=True, notes=(*notes, *told)
                )
        done = job.run(source, digest)
        with stages.stage("cache"):
            note = store(cache, key, done.artifact, done.summary, done.notes)
        return replace(done, notes=(*notes, *done.notes, *([note] if note else [])))


@dataclass(frozen=True)
class _Job:
    """What a compilation needs beside the model.  choices: measured numbers; clear: see `SharedPanels`.  made: the graphs of
    programs that were needed before, by their sizes."""

    options: Options
    target: Target
    machine: Machine
    stages: Stages
    show: Print
    choices: Mapping[str, Choice] = field(default_factory=dict)
    clear: frozenset[str] = frozenset()
    panels: SharedPanels | None = None
    made: Mapping[object, tuple[Graph, Graph]] = field(default_factory=dict)

    def imported(self, source: ModelFile) -> Graph:
        options = self.options
        with self.stages.stage("import"):
            imported = import_graph(source, dict(options.shapes), dict(options.dims), dict(options.ranges))
        if wanted(options, "import"):
            self.show("import", str(imported))
        known = {v.name for x in imported.inputs for v in symbols(x.type.shape)}
        known |= {v.name for n in imported.nodes if isinstance(n.op, DecodeImage) for v in symbols(n.op.counts)}
        for name, _ in options.ranges:
            if name not in known:
                near = nearest(name, known)
                raise OptionError(f"dim {name}: it has a range, and the inputs have no open dimension of this name{near}")
        return imported

    def graphs(self, source: ModelFile) -> tuple[Graph, Graph]:
        """The model as it was imported, and after all passes."""
        options, stages = self.options, self.stages
        if _sizes(options) in self.made:
            return self.made[_sizes(options)]
        imported = self.imported(source)
        native = self.target.native(self.machine)
        return imported, run_passes(imported, options, stages, self.show, self.target.passes_for(options), native)

    def run(self, source: ModelFile, digest: str) -> Compilation:
        options, stages = self.options, self.stages
        if options.buckets and self.target.takes == "graph":
            return self.run_buckets(source, digest)
        if is_specialized(options):
            return self.run_versions(source, digest)
        imported, fused = self.graphs(source)
        if self.target.takes == "graph":
            with guarded("build", fused):
                artifact = self.target.build(fused, self.machine, options, digest, stages)
            summary = summarize_graph(operators_used(source), fused, artifact)
            return Compilation(
                artifact, summary, options, self.machine, stages.seconds, imported=imported, fused=fused,
                notes=(*stages.notes, *artifact.notes),
            )
        return self.built(source, digest, self.lowered(source, (imported, fused)), imported, fused)

    def built(self, source: ModelFile, digest: str, program: Program, imported: Graph, fused: Graph) -> Compilation:
        """The artifact of a program."""
        options, stages = self.options, self.stages
        if options.debug_bounds:
            program = check_bounds(program)
        if wanted(options, "lower"):
            self.show("lower", "\n\n".join(map(str, program.kernels.values())))
        with guarded("build", fused):
            artifact = self.target.build(program, self.machine, options, digest, stages)
        summary = summarize(operators_used(source), program, artifact)
        return Compilation(
            artifact, summary, options, self.machine, stages.seconds, imported=imported, fused=fused, program=program,
            notes=tuple(stages.notes),
        )

    def lowered(self, source: ModelFile, graphs: tuple[Graph, Graph]) -> Program:
        """The program of the graphs of a model, or of one version of it."""
        options = self.options
        imported, fused = graphs
        with self.stages.stage("lower"), guarded("lower", fused):
            program = lower(
                fused, self.machine, source.name, accuracy=options.accuracy, choices=self.choices,
                prepare_weights=options.transform_weights == "create", ranges=dict(options.ranges),
                checks=tuple(checks_of(imported)), panels=self.panels,
            )
        return replace(program, profile=options.profile)

    def run_versions(self, source: ModelFile, digest: str) -> Compilation:
        """Code for several sizes of some dimensions, in one program."""
        imported = self.imported(source)
        optimized: list[Graph] = []
        panels = SharedPanels(self.clear)

        def lower_one(one: Options) -> Program:
            job = replace(self, options=one, panels=panels)
            graphs = job.graphs(source)
            optimized.append(graphs[1])
            return job.lowered(source, graphs)

        program = replace(lower_versions(self.options, imported, lower_one), profile=self.options.profile)
        return self.built(source, digest, program, imported, optimized[0])

    def run_buckets(self, source: ModelFile, digest: str) -> Compilation:
        """Every size of the dimensions that have several."""
        options, stages = self.options, self.stages

        def compile_one(one: Options) -> tuple[Graph, Artifact]:
            _, fused = replace(self, options=one).graphs(source)
            with guarded("build", fused):
                return fused, self.target.build(fused, self.machine, one, digest, stages)

        fused, artifact = compile_buckets(options, source, compile_one)
        notes = dict.fromkeys((*stages.notes, *artifact.notes))
        return Compilation(
            artifact, summarize_graph(operators_used(source), fused, artifact), options, self.machine, stages.seconds,
            fused=fused, notes=tuple(notes),
        )


def _sizes(options: Options) -> object:
    """What differs between the programs of a compilation."""
    return options.dims, options.ranges, options.buckets, options.specialize


def _programs(job: _Job, source: ModelFile) -> list[Options]:
    """The options of every program of a compilation: one, or that for any size and those of the versions."""
    options = job.options
    if not is_specialized(options):
        return [options]
    every = version_sizes(options, job.imported(source))
    general = [] if options.buckets else [without_versions(options)]
    return general + [bound_to(options, sizes) for sizes in every]


def _tuned(job: _Job, source: ModelFile) -> tuple[_Job, tuple[str, ...]]:
    """The job with measured numbers, if they are asked for; notes."""
    options, machine = job.options, job.machine
    if not options.tune and not options.tuning_file:
        return job, ()
    if job.target.name == "cuda" and options.tune:
        raise OptionError("tune: kernels for GPUs are measured by benchmarks/gpu.py --tune FILE; give that as tuning_file")
    if job.target.name not in ("cpu", "cuda"):
        raise OptionError(f"tune: target {job.target.name} has no kernels to measure; use it with the target cpu")
    path = Path(options.tuning_file) if options.tuning_file else default_file()
    if not options.tune and not path.is_file():
        raise OptionError(f"tuning_file: {path} does not exist; give one that tune wrote, or tune as well")
    found = read_tuning(path, machine)
    made: dict[object, tuple[Graph, Graph]] = {}
    notes: tuple[str, ...] = ()
    if options.tune:
        from .tuning import check_runs_here, search_engine, tunable_groups, tune  # only here: it needs LLVM and Optuna

        search_engine()
        check_runs_here(machine, job.target.machine("cpu"))
        made = {_sizes(one): replace(job, options=one).graphs(source) for one in _programs(job, source)}
        fused = [graph for _, graph in made.values()]
        with job.stages.stage("tune"), guarded("tune", fused[0]):
            groups = tunable_groups(fused, machine, options.accuracy)
            found, notes = tune(groups, found, machine, options.accuracy, path, options.tune, job.stages.progress)
        if any(d for graph in fused for v in graph.inputs for d in symbols(v.type.shape)):
            notes = (*notes, "tuning: kernels of open size are as by default; --specialize NAME=N gives a size code of its own")
    choices = {key: f.choice for key, f in found.items() if f.choice.to_json()}
    options = replace(options, tuned=digest_of(found))
    return replace(job, options=options, choices=choices, clear=clear_gains(found), made=made), notes
