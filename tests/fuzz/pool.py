"""Cases in forked processes with limits: what a case does to its process (a crash, a hang, too much memory) is a result.

Processes are forked from one that has imported everything, so a case costs what it does itself.  A process takes case after
case; when one ends it, the next case starts in a new process.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_START, _DONE = 0, 1
_HEADER = struct.Struct("<BqI")  # kind, case, bytes that follow
_CASES_PER_PROCESS = 500  # then a new one, so that growth of a process is bounded


@dataclass(frozen=True)
class Limits:
    """seconds: a case may take, by the clock.  memory: bytes of address space beyond what the process starts with."""

    seconds: float = 20.0
    memory: int = 3 << 30


@dataclass(frozen=True)
class Outcome:
    """kind: "done" (value: what the task returned), "raised" (value: the traceback), "crash" (the signal), "hang"."""

    case: int
    kind: str
    value: Any
    seconds: float


Task = Callable[[int], Any]


@dataclass
class _Worker:
    pid: int
    pipe: int
    cases: list[int]
    running: int | None = None
    since: float = field(default_factory=time.monotonic)
    unread: bytes = b""


def run_cases(task: Task, cases: Iterable[int], *, workers: int = 1, limits: Limits = Limits()) -> Iterator[Outcome]:
    """Every case's outcome, in the order in which they end.  The task runs in a forked process; what it returns is pickled."""
    waiting = list(cases)[::-1]
    active: list[_Worker] = []
    try:
        while waiting or active:
            while waiting and len(active) < workers:
                share = -(-len(waiting) // (workers - len(active)))
                chunk = [waiting.pop() for _ in range(min(_CASES_PER_PROCESS, share))]
                active.append(_fork(task, chunk, limits))
            ready, _, _ = select.select([w.pipe for w in active], [], [], 0.25)
            for w in list(active):
                ended = w.pipe in ready and not (yield from _read(w))
                late = not ended and w.running is not None and time.monotonic() - w.since > limits.seconds
                if not ended and not late:
                    continue
                active.remove(w)
                if w.running is not None:
                    yield _ended(w, late)
                    w.cases.remove(w.running)
                _reap(w)
                waiting += w.cases[::-1]
    finally:
        for w in active:
            _reap(w)


def _fork(task: Task, cases: list[int], limits: Limits) -> _Worker:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return _Worker(pid, ours, cases)
    try:
        os.close(ours)
        faulthandler.disable()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _limit(limits)
        for case in cases:
            os.write(theirs, _HEADER.pack(_START, case, 0))
            try:
                answer = ("done", task(case))
            except BaseException:
                answer = ("raised", traceback.format_exc())
            data = pickle.dumps(answer)
            _write(theirs, _HEADER.pack(_DONE, case, len(data)) + data)
    finally:
        os._exit(0)


def _limit(limits: Limits) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _read(w: _Worker) -> Iterator[Outcome]:
    """Takes what the process wrote; the value is whether it may write more."""
    data = os.read(w.pipe, 1 << 20)
    w.unread += data
    while len(w.unread) >= _HEADER.size:
        kind, case, size = _HEADER.unpack_from(w.unread)
        if len(w.unread) < _HEADER.size + size:
            break
        body, w.unread = w.unread[_HEADER.size : _HEADER.size + size], w.unread[_HEADER.size + size :]
        now = time.monotonic()
        if kind == _START:
            w.running = case
        else:
            outcome, value = pickle.loads(body)
            yield Outcome(case, outcome, value, now - w.since)
            w.cases.remove(case)
            w.running = None
        w.since = now
    return bool(data)


def _ended(w: _Worker, late: bool) -> Outcome:
    seconds = time.monotonic() - w.since
    assert w.running is not None
    if late:
        return Outcome(w.running, "hang", f"no answer after {seconds:.0f} s", seconds)
    _, status = os.waitpid(w.pid, 0)
    w.pid = 0
    cause = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
    return Outcome(w.running, "crash", cause, seconds)


def _reap(w: _Worker) -> None:
    os.close(w.pipe)
    if w.pid:
        os.kill(w.pid, signal.SIGKILL)
        os.waitpid(w.pid, 0)
