"""What a profile build recorded: one row per step of the program, and the last run as a Chrome or Perfetto trace.

The threads of a step work at the same time, so the time of a step is that of its slowest thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.errors import OptionError

NO_PROFILE = 17


class StepTime(ctypes.Structure):
    """tw_step_time of the C header."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("count", "total_ns", "min_ns", "start_ns", "last_ns")]


@dataclass(frozen=True)
class ThreadTime:
    """One thread in one step: mean, fastest and last time in seconds; when the last one began, by a clock that all threads
    share."""

    mean: float
    fastest: float
    last: float
    began: float


@dataclass(frozen=True)
class ProfileRow:
    """One step.  where: model nodes it comes from; ops: operators; schedule: in words.  macs and bytes: of one execution.
    count: executions.  mean, fastest: seconds, of the slowest thread.  limit: seconds that the machine's nominal figures
    allow on one core.  threads: by number; one that had nothing to do spent next to nothing."""

    step: int
    kernel: str
    where: str
    ops: tuple[str, ...]
    schedule: str
    macs: int
    bytes: int
    count: int
    mean: float
    fastest: float
    limit: float
    threads: Mapping[int, ThreadTime]

    @property
    def gflops(self) -> float:
        """Nominal 1e9 floating-point operations a second, two per multiply-add, in the fastest execution."""
        return 2e-9 * self.macs / self.fastest if self.fastest else 0.0

    def share(self, threads: int) -> float:
        """Of what this number of cores could do by the nominal figures, 0..1; above 1 where the kernel saves
        arithmetic that the figures count, the clock is above the nominal one, or data stayed in a nearer cache."""
        return self.limit / threads / self.fastest if self.fastest else 0.0


def read_profile(
    kernels: Sequence[Mapping[str, Any]], threads: int, read: Callable[[int, Any, int], None]
) -> list[ProfileRow]:
    """kernels: those of the manifest.  read(thread, records, count) fills an array of `StepTime`."""
    times = []
    for thread in range(threads):
        times.append((StepTime * max(1, len(kernels)))())
        read(thread, times[-1], len(kernels))
    return [_row(n, kernel, [t[n] for t in times]) for n, kernel in enumerate(kernels)]


def _row(step: int, kernel: Mapping[str, Any], times: Sequence[StepTime]) -> ProfileRow:
    threads = {
        n: ThreadTime(t.total_ns / t.count * 1e-9, t.min_ns * 1e-9, t.last_ns * 1e-9, t.start_ns * 1e-9)
        for n, t in enumerate(times) if t.count
    }
    return ProfileRow(
        step, kernel["kernel"], kernel["where"], tuple(kernel["ops"]), kernel["schedule"], kernel["macs"],
        kernel["bytes_read"] + kernel["bytes_written"], max((t.count for t in times), default=0),
        max((t.mean for t in threads.values()), default=0.0), max((t.fastest for t in threads.values()), default=0.0),
        kernel["limit_ns"] * 1e-9, threads,
    )


def no_profile(name: str) -> OptionError:
    return OptionError(
        f"module {name}: it records no times; compile with profile=True (tilewright compile --profile), and run it again"
    )


def trace(name: str, rows: Sequence[ProfileRow]) -> dict[str, Any]:
    """The last run in Chrome's trace format, one track per thread, times in microseconds from its first step.  A step
    that ran several times in it, in a loop, appears once."""
    ran = [row for row in rows if row.threads]
    start = min((t.began for row in ran for t in row.threads.values()), default=0.0)
    tracks = sorted({n for row in ran for n in row.threads})
    events: list[dict[str, Any]] = [{"ph": "M", "pid": 0, "name": "process_name", "args": {"name": name}}]
    events += [{"ph": "M", "pid": 0, "tid": n, "name": "thread_name", "args": {"name": f"thread {n}"}} for n in tracks]
    for row in ran:
        facts = {
            "from": row.where, "operators": ", ".join(row.ops), "schedule": row.schedule, "macs": row.macs,
            "bytes": row.bytes,
        }
        events += [
            {"ph": "X", "pid": 0, "tid": n, "name": row.kernel, "cat": "kernel", "ts": (t.began - start) * 1e6,
             "dur": t.last * 1e6, "args": facts}
            for n, t in row.threads.items()
        ]
    return {"displayTimeUnit": "ns", "traceEvents": events}
