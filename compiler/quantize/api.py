"""`quantize`: from a float ONNX model and samples to integers, by measurement, with an accuracy that is checked.

    result = quantize("model.onnx", "samples/")          # zero flags
    result.save("out")                                   # out/model.int8.onnx and the artifact

1. calibrate   statistics of what the products read (`statistics`), from compiled runs (`activations`)
2. equalize    outlier channels are evened out where that helps (`equalize`)
3. plan        ranges, integers and corrected biases of every layer, compared on sampled rows (`plan`)
4. check       the quantized model against the original on held-out samples (`judge`)
5. blame       what each unit alone costs at the model's outputs (`sensitivity`)
6. mend        where the contract does not hold: the fewest units back in floats
7. time        units that integers make slower go back to floats (`timing`)
8. write       a standard QDQ file (`write_qdq`), compiled as any other model

The samples are split: three quarters calibrate, one quarter is held out and decides.  Keep your own test samples aside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from ...ir.errors import OptionError
from ...targets.artifact import Artifact
from ..onnx_edit import Model, OnnxEdit
from ..options import one_of
from .activations import MEMORY, Signature, compile_as, declared_inputs, load_compiled
from .calibrate import calibrated
from .equalize import Equalized, equalize
from .judge import DEFAULT_DROPS, SHARES, Judge, Metric, Outputs, Verdict, make_judge
from .layers import Layer, Unit, find_layers, units_of
from .plan import UnitPlan, plan_all
from .prepare import prepared
from .samples import Batch, Samples, Source, as_samples
from .sensitivity import Step, Switched, judged, losses, search
from .statistics import Statistics
from .timing import Point, UnitTime, measure, race, slower, unit_times
from .write_qdq import write_qdq, write_switched

ROUNDINGS = ("auto", "nearest", "gptq")
_HELD_OUT = 4  # every n-th batch
_LOSS_RUNS = 4  # batches on which the cost of each unit is measured


@dataclass(frozen=True)
class Settings:
    """max_drop: of the metric (`judge`), None: by metric.  rounding: of ROUNDINGS.  equalize, bias_correction, search, blame,
    timing: whether those steps are taken.  keep: names of layers that stay in floats."""

    max_drop: float | None = None
    metric: Metric = None
    rounding: str = "auto"
    equalize: bool = True
    bias_correction: bool = True
    search: bool = True
    blame: bool = True
    timing: bool = True
    keep: tuple[str, ...] = ()
    memory: int = MEMORY
    threads: int | None = None


@dataclass(eq=False)
class Quantized:
    """model: the QDQ file.  verdict: on the held-out samples.  met: whether the drop is within max_drop.
    plans: of all units by tensor; quantized: the units that are integers; losses: what each unit alone costs, if measured;
    refused: products that are no layers, with the reason; steps: what the search tried.  bytes: of the files' weights,
    before and after.  times, speed: of units and of the whole, if measured; unpaid: units that are floats because integers
    are slower; outweighed: units that are slower in integers while the whole is not: the whole's times with them in floats,
    in integers.  front: every model that was timed.
    seconds: by step."""

    name: str
    model: ModelProto
    verdict: Verdict
    max_drop: float
    plans: Mapping[str, UnitPlan]
    quantized: frozenset[str]
    equalized: Mapping[str, Equalized]
    losses: Mapping[str, float]
    refused: Mapping[str, str]
    steps: Sequence[Step]
    statistics: Statistics
    signature: Signature
    bytes: tuple[int, int] = (0, 0)
    times: Mapping[str, UnitTime] = field(default_factory=dict)
    speed: UnitTime | None = None
    unpaid: frozenset[str] = frozenset()
    outweighed: Mapping[str, UnitTime] = field(default_factory=dict)
    front: list[Point] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def met(self) -> bool:
        return self.verdict.drop <= self.max_drop + 1e-12

    @property
    def floats(self) -> list[Unit]:
        return [p.unit for x, p in self.plans.items() if x not in self.quantized]

    def compile(self, target: str = "cpu", **options: Any) -> Artifact:
        """The artifact; options: those of `tilewright.compile`.  Open dimensions stay open where the target takes any size;
        for the others they are those of the samples."""
        return compile_as(self.model, self.name, self.signature, target, options, any_size=True)

    def save(self, directory: str | os.PathLike[str], target: str = "cpu", **options: Any) -> Path:
        """Write the ONNX file and the artifact, in a folder `artifact`."""
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        onnx.save_model(self.model, place / f"{self.name}.int8.onnx")
        self.compile(target, **options).save(place / "artifact")
        return place


def quantize(
    model: Model, data: Source | Samples, *, max_drop: float | None = None, metric: Metric = None, rounding: str = "auto",
    equalize: bool = True, bias_correction: bool = True, search: bool = True, blame: bool = True,
    timing: bool = True, keep: Sequence[str] = (), memory: int = MEMORY, threads: int | None = None,
    base_dir: Path | None = None,
) -> Quantized:
    """model: a float ONNX model.  data: samples (`samples`).  max_drop: what the metric may lose on the held-out samples, as a
    share: 0.005 is half a percent; default by metric, `judge.DEFAULT_DROPS`.  keep: names of layers to leave in floats.

    Raises ModelError and OptionError as `tilewright.compile` does, and OptionError for samples that do not fit or a model
    that has nothing to quantize.  A contract that cannot be kept raises nothing: see `met`.
    """
    one_of("rounding", rounding, ROUNDINGS)
    if max_drop is not None and not 0 <= max_drop < 1:
        raise OptionError(f"max_drop: expected a share from 0 to 1, got {max_drop!r}")
    settings = Settings(
        max_drop, metric, rounding, equalize, bias_correction, search, blame, timing, tuple(keep), memory, threads
    )
    return _Run(model, data, settings, base_dir).run()


class _Run:
    def __init__(self, model: Model, data: Source | Samples, settings: Settings, base_dir: Path | None) -> None:
        self.settings, self.seconds, self.notes = settings, {}, []
        self.edit = prepared(model, base_dir)
        self.layers, self.refused = self._layers(self.edit)
        self.samples = as_samples(data, declared_inputs(self.edit.finish()))
        self.calibration, held = self.samples.split(_HELD_OUT)
        if self.calibration is self.samples:
            self.notes.append("one batch only: it calibrates and judges; give more samples for an honest figure")
        self.held: list[Batch] = list(held)
        if not self.held:
            raise OptionError("data: no samples; give a folder of .npz files, one per sample or batch")

    def _layers(self, edit: OnnxEdit) -> tuple[list[Layer], dict[str, str]]:
        layers, refused = find_layers(edit)
        unknown = set(self.settings.keep) - {layer.name for layer in layers}
        if unknown:
            raise OptionError(f"keep: no layer is called {', '.join(sorted(unknown))}; layers: "
                              f"{', '.join(layer.name for layer in layers[:20])}")
        refused.update(dict.fromkeys(self.settings.keep, "it is kept in floats as asked"))
        left = [layer for layer in layers if layer.name not in self.settings.keep]
        if not left:
            reasons = "; ".join(sorted(set(refused.values()))) or "it has no Conv, Gemm or MatMul"
            raise OptionError(f"quantize: {edit.name} has nothing to quantize: {reasons}")
        return left, refused

    def _timed(self, stage: str, start: float) -> float:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - start
        return now

    def run(self) -> Quantized:
        s, start = self.settings, time.perf_counter()
        judge = self._judge()
        start = self._timed("original", start)
        found = calibrated(self.edit, self.layers, self.calibration, s.memory, s.threads)
        start = self._timed("calibrate", start)
        equalized: dict[str, Equalized] = {}
        if s.equalize:
            equalized = equalize(self.edit, units_of(self.layers), self.layers, found)
            start = self._timed("equalize", start)
        if equalized:
            self.layers, _ = self._layers(self.edit)
        plans = plan_all(self.edit, units_of(self.layers), found, rounding=s.rounding, correct=s.bias_correction)
        start = self._timed("plan", start)
        images = frozenset(x for x in plans if found.tensors[x].rank == 4)
        model = write_qdq(self.edit, plans, images)
        verdict = self._verdict(judge, model)
        self._timed("check", start)
        done = Quantized(
            self.edit.name, model, verdict, self._max_drop(judge), plans, frozenset(plans), equalized, {}, self.refused, [],
            found, self.held[0].signature, seconds=self.seconds, notes=self.notes,
        )
        if s.blame or (s.search and not done.met):
            self._mend(done, judge, images)
        if s.timing:
            self._leave_out_slow(done, judge, images)
        done.bytes = _constant_bytes(self.edit.finish()), _constant_bytes(done.model)
        return done

    def _max_drop(self, judge: Judge) -> float:
        if self.settings.max_drop is not None:
            return self.settings.max_drop
        one_row = 1 / max(1, sum(len(o[0]) for o in judge.expected if o[0].ndim))  # a single row proves nothing
        return max(DEFAULT_DROPS.get(judge.name, 0.005), one_row if judge.name in SHARES else 0.0)

    def _judge(self) -> Judge:
        return make_judge(self.held, self._outputs(self.edit.finish()), self.settings.metric)

    def _outputs(self, model: ModelProto) -> Outputs:
        modules = {}
        results = []
        for b in self.held:
            if b.signature not in modules:
                modules[b.signature] = load_compiled(model, b.signature, threads=self.settings.threads)
            results.append(modules[b.signature](b.inputs))
        for m in modules.values():
            m.close()
        return results

    def _verdict(self, judge: Judge, model: ModelProto) -> Verdict:
        return judge.verdict(self._outputs(model))

    def _mend(self, done: Quantized, judge: Judge, images: frozenset[str]) -> None:
        """Measure what each unit costs, and put units back where the contract does not hold."""
        start = time.perf_counter()
        model, switches = write_switched(self.edit, done.plans, images)
        switched = Switched(model, switches, self.settings.threads)
        sampled = [b for _, b in zip(range(_LOSS_RUNS), self.calibration, strict=False)]
        done.losses = losses(switched, sampled)
        start = self._timed("blame", start)
        if done.met or not self.settings.search:
            return
        macs = {x: _macs(p, done.statistics) for x, p in done.plans.items()}
        order = sorted(done.plans, key=lambda x: -done.losses[x] / macs[x])
        total = sum(macs.values())

        def cost(kept: frozenset[str]) -> float:
            return sum(m / (4 if x in kept else 1) for x, m in macs.items()) / total

        kept, done.steps = search(order, judged(judge, switched), lambda v: v.drop <= done.max_drop, cost)
        while True:  # the artifact decides: its integers differ from those of the switched one by rounding
            self._select(done, kept, judge, images)
            if done.met or not kept:
                break
            back = len(order) - len(kept)
            done.steps = [*done.steps, Step(back, done.verdict, cost(kept), False)]
            kept = frozenset(order[back + max(1, back // 3) :])
        self._timed("search", start)

    def _select(self, done: Quantized, kept: frozenset[str], judge: Judge, images: frozenset[str]) -> None:
        done.quantized = kept
        done.model = write_qdq(self.edit, {x: p for x, p in done.plans.items() if x in kept}, images & kept)
        done.verdict = self._verdict(judge, done.model)

    def _leave_out_slow(self, done: Quantized, judge: Judge, images: frozenset[str]) -> None:
        """Measured on one thread."""
        start = time.perf_counter()
        batch = self.held[0]
        plain, steps = measure(self.edit.finish(), batch)
        whole, quantized_steps = measure(done.model, batch)
        done.times = unit_times(done.plans, steps, quantized_steps)
        done.speed = UnitTime(plain, whole)
        floats = len(done.plans) - len(done.quantized)
        done.front = [Point("original", plain, 0.0),
                      Point(f"integers, {floats} units in floats" if floats else "integers", whole, done.verdict.drop)]
        for units in slower(done.times, done.quantized):
            if units <= done.quantized:
                self._try_in_floats(done, units, judge, images)
        if done.speed.quantized > done.speed.original:
            done.notes.append("the quantized model is no faster than the original here")
        self._timed("time", start)


    def _try_in_floats(self, done: Quantized, units: frozenset[str], judge: Judge, images: frozenset[str]) -> None:
        """Keeps them so if the whole is no slower and no less accurate than the contract."""
        before = done.quantized, done.model, done.verdict
        self._select(done, done.quantized - units, judge, images)
        floats, integers = race([done.model, before[1]], self.held[0])
        assert done.speed is not None
        done.front.append(Point(f"{', '.join(sorted(units))} in floats", floats, done.verdict.drop))
        if floats <= integers and (done.met or before[2].drop > done.max_drop):
            done.speed, done.unpaid = UnitTime(done.speed.original, floats), done.unpaid | units
            done.outweighed = {x: t for x, t in done.outweighed.items() if x not in units}
        else:
            done.quantized, done.model, done.verdict = before
            done.outweighed = {**done.outweighed, **dict.fromkeys(units, UnitTime(floats, integers))}


def _constant_bytes(model: ModelProto) -> int:
    return sum(len(t.raw_data) for t in model.graph.initializer)


def _macs(plan: UnitPlan, found: Statistics) -> float:
    """Products of a unit in one run, from the sizes of what it reads and of its weights."""
    values = found.tensors[plan.unit.tensor].values
    total = 0.0
    for p in plan.layers:
        layer = p.layer
        m = layer.matrix(p.integers)
        if layer.is_conv:
            taps = m.shape[1] * m.shape[0]
            total += values / (taps / _taps(layer)) * m.size / _strides(layer)
        else:
            total += values / m.shape[1] * m.size
    return max(total, 1.0)


def _taps(layer: Layer) -> int:
    n = 1
    for k in layer.kernel:
        n *= k
    return n


def _strides(layer: Layer) -> int:
    n = 1
    for k in layer.strides:
        n *= k
    return n
