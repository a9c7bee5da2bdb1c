"""Pruning in one shot: zeros into the weights of a trained ONNX model, with the model itself as the teacher.

    pruned = prune("model.onnx", "samples/", pattern="8x1", sparsity=0.5)
    pruned.save("model-pruned.onnx");  artifact = tilewright.compile(pruned.model)

Layers are taken in the order of execution, in stages (`walk`).  For each stage samples run through the original and through
what has been pruned so far; then, layer by layer: the mask is chosen, the weights that stay and the bias are fitted to the
original's outputs.  At the end normalisations are re-estimated, and kept if that helps.  Every fourth batch is held out, to
judge; of 16 and more every eighth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto

from ...ir.errors import ModelError, OptionError
from ..onnx_edit import Model, OnnxEdit
from ..options import one_of
from ..quantize.activations import ActivationRunner
from ..quantize.samples import Samples, Source, as_samples
from ..writing import write_whole
from .allocate import allocate, cost_curve
from .budget import densities_for
from .judge import Agreement, agreement
from .layers import Layer, find_layers
from .moments import Moments
from .norms import find_norms, refit_norms
from .patterns import Pattern, parse_pattern
from .reconstruct import IMPORTANCES, choose, refit, relative_error, scores
from .sensitivity import output_costs
from .walk import Walk

ALLOCATIONS = ("auto", "uniform")
CUT = 1 / 16  # of the channels of a group nobody reads: fewer are not worth an uneven size
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LayerReport:
    """error: of its outputs, relative to their power, on the inputs that it has in the pruned model; before: of the same mask
    without fitted weights."""

    name: str
    depth: int
    outputs: int
    density: float
    before: float
    error: float


@dataclass(frozen=True)
class Pruned:
    """model: a standard ONNX file with zeros, or with fewer channels.  skipped: layers that stay as they are -> why.
    cut: channels that nothing read any more and that left the graph."""

    model: ModelProto
    pattern: str
    sparsity: float
    importance: str
    layers: tuple[LayerReport, ...]
    agreement: Agreement
    skipped: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0

    def save(self, path: str | Path) -> None:
        write_whole(Path(path), self.model.SerializeToString())

    @property
    def reached(self) -> float:
        """Share of the weights of all pruned layers that are zero, or gone."""
        total = sum(r.depth * r.outputs for r in self.layers)
        return 1 - sum(r.density * r.depth * r.outputs for r in self.layers) / max(total, 1)

    def to_json(self) -> dict[str, object]:
        return {
            "pattern": self.pattern, "sparsity": self.sparsity, "importance": self.importance, "reached": self.reached,
            "agreement": self.agreement.to_json(), "layers": [asdict(r) for r in self.layers],
            "skipped": dict(self.skipped), "cut": self.cut,
        }


def prune(
    model: Model, data: Source | Samples, *, pattern: str = "unstructured", sparsity: float = 0.5, importance: str = "obs",
    allocation: str = "auto", reconstruct: bool = True, exclude: Sequence[str] = (), seconds: float = 0.0,
    base_dir: Path | None = None, progress: Progress = lambda what, done, total: None,
) -> Pruned:
    """data: samples (see `read_samples`); no labels are needed, but accuracy is reported where they are given.
    pattern: "unstructured", "8x1" (R x 1: neighbouring outputs together), "2:4" (N:M along the depth), or "channels", which
    takes whole channels out of the graph.  sparsity: share of weights to lose; N:M says it itself.
    importance: of IMPORTANCES.  allocation: "auto" (layers that matter less lose more) or "uniform".
    reconstruct: fit what stays to the original's outputs.  exclude: names of nodes to leave alone.  seconds: that a run on one
    thread shall take, instead of a sparsity (`budget`); 0: by sparsity.

    Raises OptionError for wrong options or samples that do not fit, ModelError for a model with nothing to prune.
    """
    chosen = parse_pattern(pattern)
    one_of("importance", importance, IMPORTANCES)
    one_of("allocation", allocation, ALLOCATIONS)
    if seconds < 0 or (seconds and (chosen.of or chosen.name == "channels")):
        raise OptionError(f"seconds: {pattern} has no sparsity to choose by time; expected unstructured or R x 1 blocks")
    if not 0 < sparsity < 1:
        raise OptionError(f"sparsity: expected a share between 0 and 1, got {sparsity!r}")
    if chosen.name == "channels":
        from .channels import prune_channels

        return prune_channels(model, data, sparsity, importance, allocation, reconstruct, exclude, base_dir, progress)
    job = _Job(OnnxEdit(model, base_dir), chosen, 1 - sparsity, importance, reconstruct, progress, seconds)
    return job.run(data, exclude, allocation)


class _Job:
    def __init__(
        self, edit: OnnxEdit, pattern: Pattern, density: float, importance: str, reconstruct: bool, progress: Progress,
        seconds: float,
    ) -> None:
        self.seconds = seconds
        self.edit, self.pattern, self.importance, self.reconstruct = edit, pattern, importance, reconstruct
        self.density = pattern.density or density
        self.progress = progress
        self.original = edit.finish()
        self.reports: list[LayerReport] = []
        self.cut = 0

    def run(self, data: Source | Samples, exclude: Sequence[str], allocation: str) -> Pruned:
        edit, pattern = self.edit, self.pattern
        found, skipped = find_layers(edit)
        layers: list[Layer] = []
        for layer in found:
            depth, outputs = layer.matrix(edit).shape
            if layer.name in exclude:
                skipped[layer.name] = "excluded"
            elif not pattern.fits(depth, outputs):
                skipped[layer.name] = f"{depth} x {outputs} weights are no multiple of {pattern.name}"
            else:
                layers.append(layer)
        unknown = set(exclude) - set(skipped)
        if unknown:
            raise OptionError(f"exclude: no layer is called {', '.join(sorted(unknown))}; there are "
                              f"{', '.join([layer.name for layer in layers][:8])}")
        if not layers:
            raise ModelError(f"{edit.name}: no layer can be pruned to {pattern.name}: " + "; ".join(
                f"{n}: {why}" for n, why in list(skipped.items())[:5]))
        judge_runner = ActivationRunner(self.original)
        samples = as_samples(data, judge_runner.inputs)
        learn, judge = samples.divided()
        self._prune(layers, learn, allocation)
        if self.reconstruct:
            self._norms(learn)
        from .channels import remove_unread_channels

        if pattern.name == "unstructured":  # others lie on a grid, which cutting would shift
            self.cut = remove_unread_channels(edit, CUT)
        pruned = edit.finish()
        result = agreement(judge_runner, ActivationRunner(pruned), judge)
        return Pruned(pruned, pattern.name, 1 - self.density, self.importance, tuple(self.reports), result, skipped, self.cut)

    def _prune(self, layers: list[Layer], samples: Samples, allocation: str) -> None:
        densities = self._densities(layers, samples, allocation)
        for stage in Walk(self.edit, layers, samples, follow=self.reconstruct):
            for layer in stage.layers:
                self.progress("prune", len(self.reports), len(layers))
                self._layer(layer, stage.moments[layer.name], densities[layer.name])

    def _densities(self, layers: list[Layer], samples: Samples, allocation: str) -> dict[str, float]:
        if not self.seconds and (allocation == "uniform" or self.pattern.of):
            return {layer.name: self.density for layer in layers}
        moments = Walk(self.edit, layers, samples, follow=False).everything()
        costs = output_costs(self.edit, layers, moments, self.pattern, self.density, samples, self.progress)
        curves, sizes = {}, {}
        for layer in layers:
            w = layer.matrix(self.edit)
            own, _ = moments[layer.name].normal(bool(layer.bias))
            curve = cost_curve(scores(w, own, "obd"), self.pattern, 1.0)
            at = np.interp(self.density, np.linspace(0, 1, len(curve)), curve)
            curves[layer.name] = curve * (costs[layer.name] / max(float(at), 1e-30))
            sizes[layer.name] = w.size
        if self.seconds:
            found = densities_for(
                self.seconds, self.edit, layers, curves, self.pattern, next(iter(samples)), self.progress)
            self.density = sum(sizes[n] * d for n, d in found.items()) / sum(sizes.values())
            return found
        return allocate(curves, sizes, self.density)

    def _layer(self, layer: Layer, moments: Moments, density: float) -> None:
        original = layer.matrix(self.edit)
        own, cross = moments.normal(bool(layer.bias) and self.reconstruct)
        target = moments.target(original, bool(layer.bias) and self.reconstruct)
        mask, made = choose(original, own, target, self.pattern, density, self.importance)
        before = relative_error(made, original, own, cross, own)
        if self.reconstruct:
            made = refit(original, mask, own, target, made)
        layer.store(self.edit, made)
        if self.reconstruct and layer.bias:
            bias = self.edit.constants[layer.bias]
            self.edit.constants[layer.bias] = (bias + moments.offset(original, made).reshape(bias.shape)).astype(bias.dtype)
        after = relative_error(made, original, own, cross, own)
        depth, outputs = original.shape
        self.reports.append(LayerReport(layer.name, depth, outputs, float(mask.mean()), before, after))

    def _norms(self, samples: Samples) -> None:
        """Kept only if the outputs come nearer to the original's."""
        norms = find_norms(self.edit)
        if not norms:
            return
        names = [n.output[0] for n in norms]
        pruned = self.edit.finish()
        before = agreement(ActivationRunner(self.original), ActivationRunner(pruned, cache=False), samples).error
        old = {n: self.edit.constants[n] for node in norms for n in node.input[1:3]}
        teacher, student = ActivationRunner(self.original, names), ActivationRunner(pruned, names, cache=False)
        refit_norms(self.edit, norms, teacher, student, samples)
        after = agreement(ActivationRunner(self.original), ActivationRunner(self.edit.finish(), cache=False), samples).error
        if after >= before:
            self.edit.constants.update(old)


__all__ = ["LayerReport", "Pruned", "prune"]
