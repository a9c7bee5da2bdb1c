"""How each layer is quantized: the range of what it reads, its integers, its corrected bias, and how well that works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..onnx_edit import OnnxEdit
from .layers import Layer, Unit
from .products import Products, layer_products, products
from .ranges import Range, choose, output_error
from .rounding import curvature, refine, sweep
from .statistics import Statistics
from .weights import channel_scales, nearest

_WEIGHT_SHARE = 0.25  # of the error that must come from the weights before they are rounded with care
_CHOICE_ROWS, _CHOICE_COLUMNS = 384, 256  # of the products by which ranges are compared
_MOST_INPUTS = 4608  # of a layer whose H is inverted


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """integers: i8 in the shape of the weights; scales: one per output channel; correction: what is added to the bias, per
    channel, or None.  error: the squared error of the outputs on the sample, relative to them; plain: that of min-max
    ranges and nearest rounding; from_weights: that of the weights alone; saturated: the share of inputs outside the range."""

    layer: Layer
    integers: np.ndarray
    scales: np.ndarray
    correction: np.ndarray | None
    rounding: str
    error: float
    plain: float
    from_weights: float
    saturated: float

    @property
    def snr(self) -> float:
        """Signal to noise of the outputs, dB."""
        return decibels(self.error)


@dataclass(frozen=True, eq=False)
class UnitPlan:
    unit: Unit
    range: Range
    layers: tuple[LayerPlan, ...]
    errors: Mapping[str, float] = field(default_factory=dict)


def decibels(error: float) -> float:
    return float(-10 * np.log10(max(error, 1e-20)))


def plan_unit(edit: OnnxEdit, unit: Unit, found: Statistics, *, rounding: str = "auto", correct: bool = True) -> UnitPlan:
    """rounding: "nearest", "gptq", or "auto": with care where the weights make a quarter of the error.  correct: bias."""
    h = found.tensors[unit.tensor].histogram
    whole = [layer_products(layer, edit.constants[layer.weight], found.rows_of(layer)) for layer in unit.layers]
    some = [p.some(_CHOICE_ROWS, _CHOICE_COLUMNS) for p in whole]
    r, errors = choose(h, lambda r: output_error(r, some))
    plain = errors["min-max"]
    care: list[_Care] = []
    layers = tuple(
        _plan_layer(edit, layer, p, r, plain / len(unit.layers), rounding, correct, care)
        for layer, p in zip(unit.layers, whole, strict=True)
    )
    return UnitPlan(unit, r, layers, errors)


def _plan_layer(
    edit: OnnxEdit, layer: Layer, p: Products, r: Range, plain: float, rounding: str, correct: bool,
    care: list[_Care],
) -> LayerPlan:
    x, m = p.x, p.m
    scales = channel_scales(m, 8)
    q = nearest(m, scales, 8)
    xq = r.fake(x)
    from_weights = p.error(x, q * scales)
    error, how = p.error(xq, q * scales), "nearest"
    plain += from_weights
    careful = rounding == "gptq" or (rounding == "auto" and from_weights > _WEIGHT_SHARE * error)
    if careful and m.shape[1] <= _MOST_INPUTS and layer.groups == 1 and x.shape[1] > 3:
        if not care or layer.is_conv:  # layers of one tensor that are no convolutions read the same rows
            care[:] = [_Care(xq)]
        better = care[0].rounded(m, scales)
        if better is not None:
            q, how = better, "gptq"
            error = p.error(xq, q * scales)
    low, high = r.bounds
    step = r.scale / 2
    saturated = float(np.mean((x < low - step) | (x > high + step)))
    made = q * scales
    correction = _mean_error(p, xq, made) if correct else None
    if correction is not None:
        error = p.error(xq, made, correction)
    shape = edit.constants[layer.weight].shape
    return LayerPlan(
        layer, layer.unmatrix(q, shape).astype(np.int8), scales.transpose(0, 2, 1).reshape(-1), correction, how, error,
        plain, from_weights, saturated,
    )


class _Care:
    """Rounding by three quarters of the rows, if it is better on the others.  One for all layers that read the tensor."""

    def __init__(self, x: np.ndarray) -> None:
        """x: the quantized rows [1, R, K]."""
        fit = np.arange(x.shape[1]) % 4 != 3
        self.test = x[:, ~fit]
        self.curvature = curvature(x[0, fit])

    def rounded(self, m: np.ndarray, scales: np.ndarray) -> np.ndarray | None:
        """Integers of weights [1, K, N], or None if the nearest are as good."""
        q = sweep(m[0], self.curvature, scales[0], 8)
        q = refine(q, m[0], self.curvature, scales[0], 8)[None]
        test = products(self.test, m)
        old, new = (test.error(self.test, a * scales) for a in (nearest(m, scales, 8), q))
        return q if new < old else None


def _mean_error(p: Products, xq: np.ndarray, made: np.ndarray) -> np.ndarray | None:
    """What the products are off on average, per channel, where that is more than chance; negated."""
    off = p.y - np.matmul(xq, made)  # [g, R, N]
    mean, spread = off.mean(axis=1, dtype=np.float64), off.std(axis=1, dtype=np.float64)
    sure = np.abs(mean) > 3 * spread / np.sqrt(off.shape[1])
    correction = np.where(sure, mean, 0.0).reshape(-1)
    return correction.astype(np.float32) if correction.any() else None


def plan_all(
    edit: OnnxEdit, units: Sequence[Unit], found: Statistics, *, rounding: str = "auto", correct: bool = True
) -> dict[str, UnitPlan]:
    """By the tensor of the unit.  Units whose tensor calibration never saw, or that is all strange numbers, are left out."""
    plans = {}
    for unit in units:
        statistics = found.tensors.get(unit.tensor)
        if statistics is not None and np.isfinite(statistics.histogram.min) and not statistics.histogram.strange:
            plans[unit.tensor] = plan_unit(edit, unit, found, rounding=rounding, correct=correct)
    return plans
