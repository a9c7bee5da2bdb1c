"""The page about a pruning: what was tried, as a picture and as a table; the layers of the model that was kept."""

from __future__ import annotations

from dataclasses import dataclass

from ..page import render_page
from .trials import Contest, Trial

WIDTH, HEIGHT, MARGIN = 640, 300, 46


@dataclass(frozen=True)
class Point:
    """best: nothing that was tried is both faster and nearer to the original."""

    x: float
    y: float
    title: str
    best: bool


def points(contest: Contest) -> list[Point]:
    """Speed against agreement with the original, which is at (1, 1)."""
    found = [(1.0, 1.0, "original"), *(
        (contest.seconds / t.seconds, t.pruned.agreement.cosine, t.title) for t in contest.trials)]
    fastest, least = max(s for s, _, _ in found), min(c for _, c, _ in found)
    low = min(1.0, min(s for s, _, _ in found))
    across, up = max(fastest - low, 1e-9), max(1 - least, 1e-9)
    return [
        Point(MARGIN + (s - low) / across * (WIDTH - 3 * MARGIN), HEIGHT - MARGIN - (c - least) / up * (HEIGHT - 2 * MARGIN),
              title, not any(s2 >= s and c2 >= c and (s2, c2) != (s, c) for s2, c2, _ in found))
        for s, c, title in found
    ]


def _row(t: Trial, before: float) -> tuple[object, ...]:
    p, g = t.pruned, t.pruned.agreement
    top, right = (("" if share is None else f"{100 * share:.2f} %") for share in (g.top1, g.accuracy and g.accuracy[0]))
    return (t.title, p.importance, f"{100 * p.reached:.1f} %", f"{g.cosine:.4f}", f"{g.least_cosine:.4f}", top, right, t.bytes,
            t.seconds, f"{before / t.seconds:.2f}")


def render(contest: Contest, chosen: Trial) -> str:
    rows = [(*_row(t, contest.seconds), t is chosen) for t in contest.trials]
    layers = [
        (r.name, f"{r.depth} x {r.outputs}", f"{100 * r.density:.1f} %", f"{100 * r.before:.2f} %", f"{100 * r.error:.2f} %")
        for r in chosen.pruned.layers
    ]
    return render_page(
        "prune.html.j2", title=f"Pruned: {contest.name}", contest=contest, chosen=chosen, rows=rows, layers=layers,
        points=points(contest), width=WIDTH, height=HEIGHT, margin=MARGIN, skipped=sorted(chosen.pruned.skipped.items()),
    )
