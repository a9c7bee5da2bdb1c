"""The blame report: what every layer adds to the error, why, and what was done about it; as a table, a page, and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ..page import render_page
from ..summary import printable, seconds_text, table
from ..writing import write_whole
from .api import Quantized
from .plan import LayerPlan, UnitPlan, decibels

_OUTLIER = 8.0  # times the median channel
_CLIPPED = 1e-3
_TAIL = 24.0  # times the standard deviation
HEADING = ("share of loss", "layer", "type", "now", "SNR plain", "SNR now", "range", "cause", "tried", "f32", "int8", "KiB")


@dataclass(frozen=True)
class Blame:
    """One layer.  share: of the loss of the outputs when every unit alone is quantized, 0..1; estimated from the layer's own
    error where it was not measured.  plain, now: signal to noise of its outputs in dB with min-max ranges and nearest
    rounding, and as planned.  seconds: of its unit, original and quantized, if measured.  bytes: of its weights, before and
    after."""

    layer: str
    kind: str
    quantized: bool
    share: float
    plain: float
    now: float
    range: str
    cause: str
    tried: str
    seconds: tuple[float, float] | None
    bytes: tuple[int, int]


def blame(q: Quantized) -> list[Blame]:
    """The layers, those first that cost most."""
    losses = q.losses or {x: sum(p.error for p in u.layers) for x, u in q.plans.items()}
    total = sum(losses.values()) or 1.0
    rows = []
    for x, unit in q.plans.items():
        own = sum(p.error for p in unit.layers) or 1.0
        for p in unit.layers:
            rows.append(_row(q, x, unit, p, losses[x] / total * p.error / own))
    return sorted(rows, key=lambda b: -b.share)


def _row(q: Quantized, x: str, unit: UnitPlan, p: LayerPlan, share: float) -> Blame:
    times = q.times.get(x)
    shown = times is not None and (x in q.quantized or x in q.unpaid)
    seconds = (times.original, times.quantized) if times is not None and shown else None
    return Blame(
        p.layer.name, p.layer.kind, x in q.quantized, share, decibels(p.plain), p.snr, unit.range.method,
        cause(q, x, unit, p), tried(q, x, unit, p), seconds, _bytes(p, x in q.quantized),
    )


def _bytes(p: LayerPlan, quantized: bool) -> tuple[int, int]:
    before = 4 * p.integers.size
    return before, p.integers.nbytes + 4 * p.scales.size if quantized else before


def cause(q: Quantized, x: str, unit: UnitPlan, p: LayerPlan) -> str:
    """What makes the error of a layer, by what calibration saw of its operands."""
    statistics = q.statistics.tensors[x]
    peak = statistics.peak
    median = float(np.median(peak[peak > 0])) if (peak > 0).any() else 0.0
    if p.from_weights > 0.5 * p.error:
        spread = np.abs(p.integers.astype(np.int32)).reshape(-1)
        return "weights with outliers" if np.median(spread) < 6 else "rounding of weights"
    if median and peak.max() > _OUTLIER * median:
        return f"outlier channel {int(peak.argmax())}: {peak.max() / median:.0f} times the median"
    if p.saturated > _CLIPPED:
        return f"{100 * p.saturated:.2g} % clipped"
    low, high = unit.range.bounds
    h = statistics.histogram
    mean = float((h.counts * h.centres).sum() / max(h.counts.sum(), 1))
    deviation = float(np.sqrt((h.counts * (h.centres - mean) ** 2).sum() / max(h.counts.sum(), 1)))
    if deviation and high - low > _TAIL * deviation:
        return f"long tail: range {(high - low) / deviation:.0f} deviations"
    return "rounding of activations"


def tried(q: Quantized, x: str, unit: UnitPlan, p: LayerPlan) -> str:
    done = []
    e = q.equalized.get(x)
    if e is not None:
        done.append((f"equalized {e.alpha:g} into {e.where}" if e.alpha else "")
                    + (", " if e.alpha and e.split else "") + (f"{e.split} channels split" if e.split else ""))
    if unit.range.method != "min-max":
        done.append(f"clipped by {unit.range.method}")
    if p.rounding != "nearest":
        done.append(f"{p.rounding} rounding")
    if p.correction is not None:
        done.append("bias corrected")
    if x not in q.quantized:
        done.append("back in floats: " + ("integers are slower" if x in q.unpaid else "accuracy"))
    if x in q.outweighed:
        t = q.outweighed[x]
        done.append(f"floats are faster here, not as a whole: {seconds_text(t.original)} against {seconds_text(t.quantized)}")
    return ", ".join(done) or "nothing needed"


def _cells(b: Blame) -> tuple[str, ...]:
    times = tuple(map(seconds_text, b.seconds)) if b.seconds else ("", "")
    return (f"{100 * b.share:.1f} %", b.layer, b.kind, "int8" if b.quantized else "f32", f"{b.plain:.1f}", f"{b.now:.1f}",
            b.range, b.cause, b.tried, *times, " -> ".join(f"{n / 1024:.1f}" for n in b.bytes))


def summary_lines(q: Quantized) -> list[tuple[str, str]]:
    v = q.verdict
    layers = sum(len(p.layers) for p in q.plans.values())
    whole = sum(len(p.layers) for x, p in q.plans.items() if x in q.quantized)
    around = f" +- {100 * v.interval:.1f}" if v.interval else ""
    rows = [
        ("layers", f"{whole} of {layers} in int8" + (f", {len(q.refused)} products not possible" if q.refused else "")),
        (v.metric, f"{100 * v.value:.2f} %{around}, original {100 * v.reference:.2f} % ({v.rows} held-out rows)"),
        ("contract", f"drop {100 * v.drop:.2f} %, allowed {100 * q.max_drop:.2f} %: {'met' if q.met else 'NOT met'}"),
        ("cosine", f"{v.cosine_mean:.5f} mean, {v.cosine_min:.5f} least; {v.snr:.1f} dB"),
    ]
    if q.speed is not None:
        ratio = q.speed.original / q.speed.quantized
        rows.append(("one thread", f"{seconds_text(q.speed.original)} -> {seconds_text(q.speed.quantized)} ({ratio:.2f} x)"))
    rows.append(("weights", f"{q.bytes[0] / 2**20:.2f} -> {q.bytes[1] / 2**20:.2f} MiB"))
    rows.append(("took", ", ".join(f"{k} {s:.1f} s" for k, s in q.seconds.items())))
    return rows


def as_text(q: Quantized, most: int = 20) -> str:
    """The summary and the layers that cost most."""
    rows = blame(q)
    lines = [table([(printable(a), printable(b)) for a, b in summary_lines(q)]), ""]
    lines.append(table([tuple(map(printable, _cells(b))) for b in rows[:most]], HEADING))
    if len(rows) > most:
        lines.append(f"... and {len(rows) - most} more (--report, --json)")
    lines += [f"not quantized: {printable(name)}: {printable(why)}" for name, why in list(q.refused.items())[:10]]
    return "\n".join(lines)


def as_json(q: Quantized) -> dict[str, Any]:
    v = q.verdict
    return {
        "model": q.name, "met": q.met, "max_drop": q.max_drop, "metric": v.metric, "reference": v.reference, "value": v.value,
        "rows": v.rows, "interval": v.interval, "cosine_mean": v.cosine_mean, "cosine_min": v.cosine_min, "snr": v.snr,
        "speed": None if q.speed is None else asdict(q.speed), "bytes": list(q.bytes),
        "layers": [asdict(b) for b in blame(q)], "refused": dict(q.refused), "seconds": q.seconds, "notes": q.notes,
        "front": [asdict(p) for p in q.front],
        "tried": [
            {"floats": s.floats, "drop": s.verdict.drop, "snr": s.verdict.snr, "cost": s.cost, "fits": s.fits} for s in q.steps
        ],
    }


def write_page(q: Quantized, path: Path) -> None:
    """The report as a page that loads nothing.  Raises OSError."""
    rows = blame(q)
    page = render_page(
        "quantize.html.j2", title=f"Tilewright quantization: {q.name}", name=q.name, version=__version__,
        summary=summary_lines(q), heading=HEADING, rows=[(_cells(b), b.share) for b in rows], refused=dict(q.refused),
        points=_points(q), front=_front(q), notes=q.notes,
    )
    write_whole(path, page.encode())


def _points(q: Quantized) -> list[Mapping[str, Any]]:
    """What the search tried, for a plot of drop over cost: coordinates in 0..1."""
    if not q.steps:
        return []
    most = max(max(abs(s.verdict.drop) for s in q.steps), q.max_drop, 1e-9)
    return [
        {"x": s.cost, "y": max(0.0, s.verdict.drop) / most, "fits": s.fits, "floats": s.floats,
         "drop": f"{100 * s.verdict.drop:.2f} %", "cost": f"{s.cost:.2f}"}
        for s in q.steps
    ]


def _front(q: Quantized) -> list[Mapping[str, Any]]:
    """What was timed, for a plot of drop over time: coordinates in 0..1; best: nothing is faster and loses less."""
    slowest = max((p.seconds for p in q.front), default=1.0)
    most = max([abs(p.drop) for p in q.front] + [q.max_drop, 1e-9])
    return [
        {"x": p.seconds / slowest, "y": max(0.0, p.drop) / most, "what": p.what, "drop": f"{100 * p.drop:.2f} %",
         "time": seconds_text(p.seconds),
         "fits": not any(o.seconds < p.seconds and o.drop <= p.drop for o in q.front)}
        for p in q.front
    ]
