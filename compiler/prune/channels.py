"""Structured pruning: whole channels, hidden features and attention heads leave the graph.

    1. dependency groups (`spaces.py`), the importance of each unit to everything that reads it
    2. what reads a unit that goes gets zeros in its place, and its other weights fitted to the original's outputs
    3. weights, biases, scales and shapes are cut: exact, since nobody reads what is cut away

The result is a smaller dense model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import helper

from ...ir.errors import ModelError
from ..onnx_edit import Model, OnnxEdit
from ..quantize.activations import ActivationRunner
from ..quantize.samples import Samples, Source, as_samples
from .allocate import allocate, cost_curve
from .api import LayerReport, Pruned
from .judge import agreement
from .layers import Layer, find_layers
from .moments import Moments
from .patterns import Pattern
from .reconstruct import damped, refit, relative_error
from .spaces import Analysis, Carried, Follower, Space
from .walk import Walk

Progress = Callable[[str, int, int], None]
LEAST_UNITS = 1


def prune_channels(
    model: Model, data: Source | Samples, sparsity: float, importance: str, allocation: str, reconstruct: bool,
    exclude: Sequence[str], base_dir: Path | None, progress: Progress,
) -> Pruned:
    """sparsity: share of the units of all groups that may lose some.  exclude: nodes whose inputs stay whole."""
    edit = OnnxEdit(model, base_dir)
    original = edit.finish()
    found = Follower(edit).run()
    layers = {layer.name: layer for layer in find_layers(edit, smallest=0)[0]}
    for name, carried in found.readers.items():
        if name not in layers or name in exclude:
            _lock(carried, f"{name} is excluded" if name in exclude else f"{name} cannot be fitted")
    spaces = _free(found)
    if not spaces:
        raise ModelError(f"{edit.name}: no channels can be removed: " + "; ".join(
            dict.fromkeys(f"{s.name}: {s.locked}" for s in found.spaces if s.locked)))
    readers = [layers[n] for n in found.readers if n in layers]
    teacher = ActivationRunner(original)
    samples = as_samples(data, teacher.inputs)
    learn, judge = samples.divided()
    moments = Walk(edit, readers, learn, follow=False).everything()
    kept = _select(found, spaces, readers, edit, moments, sparsity, importance, allocation)
    reports = _fit(edit, found, readers, kept, learn, reconstruct, progress)
    cut_channels(edit, found, kept)
    pruned = edit.finish()
    skipped = {s.name: s.locked for s in found.spaces if s.parent is None and s.locked}
    result = agreement(teacher, ActivationRunner(pruned, cache=False), judge)
    return Pruned(pruned, "channels", sparsity, importance, tuple(reports), result, skipped)


def _lock(carried: Carried, why: str) -> None:
    for run in carried.runs:
        space = run.resolved().space
        space.locked = space.locked or why


def _free(found: Analysis) -> list[Space]:
    """Groups that may lose units: not locked, and something reads them."""
    read = {r.resolved().space for c in found.readers.values() for r in c.runs}
    return [s for s in found.spaces if s.parent is None and not s.locked and s in read and s.size > LEAST_UNITS]


def remove_unread_channels(edit: OnnxEdit, least: float = 0.0) -> int:
    """Cut the units that every reader multiplies by zeros: exact, and without samples.  -> how many.
    least: share of a group's units below which it stays whole: sizes that vectors do not divide cost more than few units."""
    found = Follower(edit).run()
    layers = {layer.name: layer for layer in find_layers(edit, smallest=0)[0]}
    for name, carried in found.readers.items():
        if name not in layers:
            _lock(carried, f"{name} cannot be looked into")
    read = {s: np.zeros(s.size, bool) for s in _free(found)}
    for name, carried in found.readers.items():
        if name not in layers:
            continue
        used = (layers[name].matrix(edit) != 0).any(axis=1)
        for space, rows in _rows_of(carried, len(used)):
            if space in read:
                read[space] |= used[rows].any(axis=1)
    kept = {
        s: np.flatnonzero(r) if r.any() else np.arange(LEAST_UNITS)
        for s, r in read.items() if not r.all() and (~r).mean() >= least
    }
    cut_channels(edit, found, kept)
    return sum(s.size - len(k) for s, k in kept.items())


# ---- importance ----------------------------------------------------------------------------------------------------


def _select(
    found: Analysis, spaces: list[Space], readers: Sequence[Layer], edit: OnnxEdit, moments: Mapping[str, Moments],
    sparsity: float, importance: str, allocation: str,
) -> dict[Space, np.ndarray]:
    """Which units stay, by space."""
    scores = {s: np.zeros(s.size) for s in spaces}
    weights = dict.fromkeys(spaces, 0)
    for layer in readers:
        w = layer.matrix(edit)
        own, _ = moments[layer.name].normal(bool(layer.bias))
        power = max(float((w * (own @ w)).sum()), 1e-30)
        for space, units in _rows_of(found.readers[layer.name], len(w)):
            if space in scores:
                scores[space] += _unit_costs(w, own, units, importance) / (1.0 if importance == "magnitude" else power)
                weights[space] += w.size
    density = 1 - sparsity
    if allocation == "uniform" or importance == "magnitude":
        shares = {s.name: density for s in spaces}
    else:
        curves = {s.name: cost_curve(scores[s][:, None], Pattern("units"), 1.0) for s in spaces}
        shares = allocate(curves, {s.name: weights[s] for s in spaces}, density)
    kept = {}
    for s in spaces:
        count = max(LEAST_UNITS, round(shares[s.name] * s.size))
        kept[s] = np.sort(np.argsort(-scores[s], kind="stable")[:count])
    return kept


def _rows_of(carried: Carried, depth: int) -> list[tuple[Space, np.ndarray]]:
    """(space, rows of W[depth, outputs] by unit [units, rows of each]); windows repeat the channels."""
    taps = depth // carried.length
    found, start = [], 0
    for run in carried.runs:
        r = run.resolved()
        rows = start + np.arange(r.length).reshape(r.space.size, r.repeat)
        every = rows[:, None, :] + (np.arange(taps) * carried.length)[None, :, None]
        found.append((r.space, every.reshape(r.space.size, -1)))
        start += r.length
    return found


def _unit_costs(w: np.ndarray, own: np.ndarray, units: np.ndarray, importance: str) -> np.ndarray:
    """What it costs a reader to lose each unit: "obs" after its other weights have made up for it."""
    if importance == "magnitude":
        return (w[units] ** 2).sum(axis=(1, 2))
    if importance in ("wanda", "obd"):
        return (w[units] ** 2 * np.diag(own)[units][..., None]).sum(axis=(1, 2))
    inverse = np.linalg.inv(damped(own))
    return np.array([float((w[u] * np.linalg.solve(inverse[np.ix_(u, u)], w[u])).sum()) for u in units])


# ---- fitting -------------------------------------------------------------------------------------------------------


def _fit(
    edit: OnnxEdit, found: Analysis, readers: Sequence[Layer], kept: Mapping[Space, np.ndarray], samples: Samples,
    reconstruct: bool, progress: Progress,
) -> list[LayerReport]:
    """Zeros for the units that go, in the order of execution."""
    reports: list[LayerReport] = []
    for stage in Walk(edit, readers, samples, follow=reconstruct):
        for layer in stage.layers:
            progress("prune", len(reports), len(readers))
            original = layer.matrix(edit)
            mask = np.ones(len(original), bool)
            for space, units in _rows_of(found.readers[layer.name], len(original)):
                if space in kept:
                    mask[np.delete(units, kept[space], axis=0).reshape(-1)] = False
            own, cross = stage.moments[layer.name].normal(bool(layer.bias) and reconstruct)
            full = np.broadcast_to(mask[:, None], original.shape)
            made = np.where(full, original, 0)
            before = relative_error(made, original, own, cross, own)
            if reconstruct:
                made = refit(original, full, own, stage.moments[layer.name].target(original, bool(layer.bias)))
                if layer.bias:
                    bias = edit.constants[layer.bias]
                    off = stage.moments[layer.name].offset(original, made)
                    edit.constants[layer.bias] = (bias + off.reshape(bias.shape)).astype(bias.dtype)
            layer.store(edit, made)
            error = relative_error(made, original, own, cross, own)
            depth, outputs = original.shape
            reports.append(LayerReport(layer.name, depth, outputs, float(mask.mean()), before, error))
    return reports


# ---- cutting -------------------------------------------------------------------------------------------------------


def cut_channels(edit: OnnxEdit, found: Analysis, kept: Mapping[Space, np.ndarray]) -> None:
    """Take all units that are not kept out of weights, biases, scales and shapes."""

    def places(carried: Carried) -> np.ndarray:
        chosen, start = [], 0
        for run in carried.runs:
            r = run.resolved()
            units = kept.get(r.space, np.arange(r.space.size))
            chosen.append(start + (units[:, None] * r.repeat + np.arange(r.repeat)).reshape(-1))
            start += r.length
        return np.concatenate(chosen)

    own: dict[tuple[str, int], str] = {}  # constants that several nodes read: each node gets its own
    for node, operand, axis, carried in found.cuts:
        chosen = places(carried)
        if len(chosen) == carried.length:
            continue
        name = node.input[operand]
        if (name, id(node)) not in own:
            own[name, id(node)] = node.input[operand] = edit.constant(edit.constants[name], f"{name}_cut")
            own[node.input[operand], id(node)] = node.input[operand]
        name = node.input[operand]
        edit.constants[name] = np.ascontiguousarray(np.take(edit.constants[name], chosen, axis=axis))
    for node, carried in found.groups:
        for a in node.attribute:
            if a.name == "group":
                a.CopyFrom(helper.make_attribute("group", len(places(carried))))
    for node, place, carried in found.shapes:
        if len(places(carried)) == carried.length:
            continue
        shape = edit.constants[node.input[1]].copy()
        shape[place] = len(places(carried))
        node.input[1] = edit.constant(shape, f"{node.input[1]}_cut")
