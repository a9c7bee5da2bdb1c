"""What a profile build recorded: one row per step of the program, and the last run as a Chrome or Perfetto trace.

The threads of a step work at the same time, so the time of a step is that of its slowest thread.  A program with versions has
the rows of its code for any size, if it has that, then those of each version; the steps of each are counted from 0.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.errors import OptionError

NO_PROFILE = 17
ANY_SIZE = "any size"
Kernels = Sequence[Mapping[str, Any]]


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
    """One step.  where: model nodes it comes from; ops: operators; schedule: in words.  macs and bytes: of one execution, with
    open dimensions at the sizes of the last run.  count: executions.  mean, fastest: seconds, of the slowest thread.  limit:
    seconds that the machine's nominal figures allow on one core.  threads: by number; one that had nothing to do spent next to
    nothing.  version: the one that the step belongs to, as "batch=8, seq=128", or `ANY_SIZE`; "" in a program without
    versions."""

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
    version: str = ""

    @property
    def gflops(self) -> float:
        """Nominal 1e9 floating-point operations a second, two per multiply-add, in the fastest execution."""
        return 2e-9 * self.macs / self.fastest if self.fastest else 0.0

    def share(self, threads: int) -> float:
        """Of what this number of cores could do by the nominal figures, 0..1; above 1 where the kernel saves
        arithmetic that the figures count, the clock is above the nominal one, or data stayed in a nearer cache."""
        return self.limit / threads / self.fastest if self.fastest else 0.0


def read_profile(
    manifest: Mapping[str, Any], threads: int, read: Callable[[int, Any, int], None], sizes: Mapping[str, int]
) -> list[ProfileRow]:
    """read(thread, records, count) fills an array of `StepTime`.  sizes: of open dimensions, in the last run."""
    steps = [(title, n, kernel) for title, kernels in _programs(manifest) for n, kernel in enumerate(kernels)]
    times = []
    for thread in range(threads):
        times.append((StepTime * max(1, len(steps)))())
        read(thread, times[-1], len(steps))
    figures = manifest.get("figures", {})
    return [
        _row(title, n, _at_sizes(kernel, figures, sizes), [t[at] for t in times]) for at, (title, n, kernel) in enumerate(steps)
    ]


def _programs(manifest: Mapping[str, Any]) -> list[tuple[str, Kernels]]:
    """(title, kernels) in the order in which the library counts their steps."""
    versions = manifest.get("specialized", ())
    if not versions:
        return [("", manifest["kernels"])]
    own = [(ANY_SIZE, manifest["kernels"])] if manifest["any_size"] else []
    return own + [(version_title(v["dims"]), v.get("kernels", ())) for v in versions]


def version_title(dims: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in dims.items())


def _at_sizes(kernel: Mapping[str, Any], figures: Mapping[str, float], sizes: Mapping[str, int]) -> Mapping[str, Any]:
    """A kernel with its costs at the sizes of a run, where they depend on these."""
    if "by_size" not in kernel or not sizes:
        return kernel
    macs, read, written = (_value(tree, sizes) for tree in kernel["by_size"])
    near = read + written <= figures["near_bytes"]
    speed = figures["near_bytes_per_second" if near else "bytes_per_second"]
    limit = max(macs / figures["macs_per_second"], (read + written) / speed)
    return {**kernel, "macs": macs, "bytes_read": read, "bytes_written": written, "limit_ns": round(limit * 1e9)}


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a // b,
    "mod": lambda a, b: a % b, "min": min, "max": max, "tdiv": lambda a, b: int(a / b),
}


def _value(tree: Any, sizes: Mapping[str, int]) -> int:
    """A size: a number, the name of a dimension, or [operation, a, b]."""
    if isinstance(tree, list):
        return _OPERATIONS[tree[0]](_value(tree[1], sizes), _value(tree[2], sizes))
    return sizes[tree] if isinstance(tree, str) else tree


def _row(version: str, step: int, kernel: Mapping[str, Any], times: Sequence[StepTime]) -> ProfileRow:
    threads = {
        n: ThreadTime(t.total_ns / t.count * 1e-9, t.min_ns * 1e-9, t.last_ns * 1e-9, t.start_ns * 1e-9)
        for n, t in enumerate(times) if t.count
    }
    return ProfileRow(
        step, kernel["kernel"], kernel["where"], tuple(kernel["ops"]), kernel["schedule"], kernel["macs"],
        kernel["bytes_read"] + kernel["bytes_written"], max((t.count for t in times), default=0),
        max((t.mean for t in threads.values()), default=0.0), max((t.fastest for t in threads.values()), default=0.0),
        kernel["limit_ns"] * 1e-9, threads, version,
    )


def last_version(rows: Sequence[ProfileRow]) -> str:
    """The version that ran last; "" in a program without versions, and before the first run."""
    began: dict[str, float] = {}
    for row in rows:
        for t in row.threads.values():
            began[row.version] = max(t.began, began.get(row.version, t.began))
    return max(began, key=lambda version: began[version], default="")


def no_profile(name: str) -> OptionError:
    return OptionError(
        f"module {name}: it records no times; compile with profile=True (tilewright compile --profile), and run it again"
    )


def trace(name: str, rows: Sequence[ProfileRow]) -> dict[str, Any]:
    """The last run in Chrome's trace format, one track per thread, times in microseconds from its first step.  A step
    that ran several times in it, in a loop, appears once."""
    version = last_version(rows)
    ran = [row for row in rows if row.threads and row.version == version]
    start = min((t.began for row in ran for t in row.threads.values()), default=0.0)
    tracks = sorted({n for row in ran for n in row.threads})
    events: list[dict[str, Any]] = [{"ph": "M", "pid": 0, "name": "process_name", 
                                     "args": {"name": f"{name} ({version})" if version else name}}]
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
