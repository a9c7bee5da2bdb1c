"""`tilewright run --profile`: the times that a profile build recorded, as a table, a trace, a page and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ir.errors import OptionError
from ..targets.loader import Module
from ..targets.profile import ANY_SIZE, ProfileRow, last_version, trace
from .summary import bytes_text, count_text, printable, seconds_text, table
from .writing import check_writable, write_whole

HEADING = ("step", "time", "of all", "GFLOP/s", "of limit", "mean", "MACs", "bytes", "kernel", "from", "schedule")
NUMBERS = 8  # columns at the left that are aligned to the right
_WIDEST = 40  # characters of a text on a terminal


@dataclass(frozen=True)
class Profiling:
    """What `run` shall do with the times.  trace, report: files to write, or None."""

    trace: str | None = None
    report: str | None = None

    def check(self) -> None:
        """Raises OptionError, before anything runs, for files that cannot be written."""
        for option, path in (("--trace", self.trace), ("--report", self.report)):
            if path:
                check_writable(Path(path), option)

    def written(self) -> list[str]:
        return [path for path in (self.trace, self.report) if path]

    def write(self, module: Module, rows: Sequence[ProfileRow], seconds: float) -> None:
        """seconds: median of the whole runs."""
        if self.trace:
            name = str(module.manifest["model_name"])
            write_whole(Path(self.trace), json.dumps(trace(name, rows), separators=(",", ":")).encode())
        if self.report:
            write_whole(Path(self.report), _page(module.manifest, rows, module.threads, seconds).encode())


def profiling(wanted: bool, trace: str | None, report: str | None) -> Profiling | None:
    """From the arguments of the command.  Raises OptionError for files that only a profile fills."""
    if not wanted and (trace or report):
        raise OptionError(f"{'--trace' if trace else '--report'}: needs --profile")
    return Profiling(trace, report) if wanted else None


def rows_that_ran(rows: Sequence[ProfileRow]) -> list[ProfileRow]:
    """Of a program with versions, those of the one that ran last; all of any other."""
    version = last_version(rows)
    return [row for row in rows if row.version == version]


def profile_rows(rows: Sequence[ProfileRow], threads: int) -> list[tuple[str, ...]]:
    """The cells under `HEADING`, the slowest step first; times are those of the fastest execution."""
    total = sum(row.fastest for row in rows) or 1.0
    return [
        (str(row.step), seconds_text(row.fastest), f"{100 * row.fastest / total:.1f} %",
         f"{row.gflops:.1f}" if row.macs else "", f"{100 * row.share(threads):.0f} %", seconds_text(row.mean),
         count_text(row.macs) if row.macs else "", bytes_text(row.bytes), row.kernel, row.where, row.schedule)
        for row in sorted(rows, key=lambda row: -row.fastest)
    ]


def summary_line(rows: Sequence[ProfileRow], threads: int, seconds: float) -> str:
    """What the steps take together, beside the whole run of so many seconds, and the version whose steps these are."""
    version = rows[0].version if rows else ""
    which = "" if not version else "code for any size: " if version == ANY_SIZE else f"version {printable(version)}: "
    inside = sum(row.fastest for row in rows)
    return (f"{which}{len(rows)} steps, {seconds_text(inside)} in them at their fastest, {seconds_text(seconds)} the median "
            f"run on {threads} thread{'s' if threads != 1 else ''}; the limit is nominal, "
            f"{seconds_text(_limit(rows, threads))}")


def _limit(rows: Sequence[ProfileRow], threads: int) -> float:
    return sum(row.limit for row in rows) / threads


def show_profile(rows: Sequence[ProfileRow], threads: int, seconds: float) -> None:
    """The table on standard output: with colour where that is a terminal, plain text elsewhere."""
    cells = profile_rows(rows, threads)
    if sys.stdout.isatty():
        _show_on_terminal(cells)
    else:
        print(table(cells, HEADING))
    print(summary_line(rows, threads, seconds))


def _show_on_terminal(cells: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for n, name in enumerate(HEADING):
        side, width = ("right", None) if n < NUMBERS else ("left", _WIDEST)
        shown.add_column(name, justify=side, no_wrap=True, overflow="ellipsis", max_width=width)
    for line in cells:
        shown.add_row(*(Text(printable(cell)) for cell in line))  # Text: brackets in names are no markup
    Console().print(shown)


def _page(manifest: Mapping[str, Any], rows: Sequence[ProfileRow], threads: int, seconds: float) -> str:
    from .page import render_page  # the template engine is imported for pages only

    ordered = sorted(rows, key=lambda row: -row.fastest)
    lines = zip(profile_rows(ordered, threads), ordered, strict=True)
    return render_page(
        "profile.html.j2", title=f"Tilewright profile: {manifest['model_name']}", manifest=manifest, heading=HEADING,
        numbers=NUMBERS, line=summary_line(rows, threads, seconds),
        rows=[(cells, min(1.0, row.share(threads))) for cells, row in lines],
    )


def profile_json(rows: Sequence[ProfileRow], threads: int) -> list[dict[str, Any]]:
    return [
        {"version": row.version, "step": row.step, "kernel": row.kernel, "where": row.where, "ops": list(row.ops),
         "schedule": row.schedule, "macs": row.macs, "bytes": row.bytes, "count": row.count, "mean": row.mean,
         "fastest": row.fastest, "gflops": row.gflops, "limit": row.limit, "share": row.share(threads)}
        for row in rows
    ]
