"""What a compilation tells while it runs: which stage, how far, and how long each stage took.

A `Progress` is a function of (stage, done, total); total 0 means that the stage is one step.  The driver calls it
before every step, so the last call names what is running now.  `Stages` collects the times.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The progress of a caller who asked for none."""


class Stages:
    """Seconds per stage, in the order of first use.  notes: what the user should know and is no error."""

    def __init__(self, progress: Progress = silent) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.progress = progress

    @contextmanager
    def stage(self, name: str, done: int = 0, total: int = 0) -> Iterator[None]:
        """Announce and time what runs inside; a stage that is entered again adds up."""
        self.progress(name, done, total)
        with self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time what runs inside without announcing it."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


QUIET = 1.0  # seconds without a line in a log, after which the next of many steps gets one


class PlainProgress:
    """One line when a stage begins that is not the same as before; for logs and pipes.  Of stages that are one of many, such
    as passes, only those that come when the last line is QUIET seconds old."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.perf_counter) -> None:
        self.stream, self.clock = stream, clock
        self.start, self.last, self.printed = clock(), "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        elapsed = self.clock() - self.start
        if stage == self.last or (total and elapsed - self.printed < QUIET):
            return
        self.last, self.printed = stage, elapsed
        print(f"[{elapsed:6.1f} s] {stage}", file=self.stream, flush=True)


@contextmanager
def show_progress(quiet: bool, stream: TextIO | None = None) -> Iterator[Progress]:
    """Progress for people, on standard error: a bar on a terminal, plain lines elsewhere, nothing when quiet."""
    terminal = stream or sys.stderr
    if quiet:
        yield silent
    elif not terminal.isatty():
        yield PlainProgress(terminal)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        name = TextColumn("{task.description:<24}", markup=False)
        columns = (SpinnerColumn(), name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bar(*columns, console=Console(file=terminal), transient=True) as bar:
            task = bar.add_task("start", total=None)

            def update(stage: str, done: int, total: int) -> None:
                bar.update(task, description=stage, completed=done, total=total or None)

            yield update
