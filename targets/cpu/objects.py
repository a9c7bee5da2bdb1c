"""LLVM IR text to object files through llvmlite, in several processes where that pays.

One module of many kernels is cheaper than many modules, and LLVM does not run faster on threads, so a module is the unit
of parallel work.  The bytes of an object depend on its text and machine only, not on the number of processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from ...codegen.machine import Machine
from ...ir.errors import InternalError
from . import object_worker
from .object_worker import Settings

# Text that one process compiles in the time that a second one needs to start.
_WORTH_A_PROCESS = 400_000

Progress = Callable[[int, int], None]


def compile_objects(
    modules: Sequence[str],
    machine: Machine,
    jobs: int | None = None,
    progress: Progress | None = None,
    passes: int = 0,
) -> list[bytes]:
    """One object file (position independent) per module text, in order.

    jobs: processes at most, default the number of processors.  progress: called with (modules done, of how many).
    passes: level of LLVM's module optimisations, 0 for kernels whose vectors are explicit.
    Raises InternalError, with the module's text, for text that LLVM does not accept.
    """
    settings = _settings(machine, passes, assembly=False)
    work = sum(map(len, modules))
    count = min(jobs or os.cpu_count() or 1, len(modules), max(1, work // _WORTH_A_PROCESS))
    report = _Counter(len(modules), progress)
    if count <= 1:
        return [report(_here(text, settings)) for text in modules]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    workers = [_Worker() for _ in range(count)]
    try:
        for worker in workers:
            idle.put(worker)

        def one(text: str) -> bytes:
            worker = idle.get()
            try:
                return report(worker.compile(text, settings))
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(count) as pool:
            try:
                return list(pool.map(one, modules))
            except BaseException:  # Ctrl-C or a rejected module: nobody waits for what is still running
                for worker in workers:
                    worker.process.kill()
                raise
    finally:
        for worker in workers:
            worker.close()


def compile_asm(module: str, machine: Machine, passes: int = 0) -> str:
    """The assembly of one module, for reading and for tests."""
    return _here(module, _settings(machine, passes, assembly=True)).decode()


def _settings(machine: Machine, passes: int, assembly: bool) -> Settings:
    return Settings(
        triple=machine.triple, cpu=machine.cpu, features=machine.feature_string, passes=passes, assembly=assembly
    )


def _here(text: str, settings: Settings) -> bytes:
    try:
        return object_worker.compile_module(text, settings)
    except RuntimeError as error:
        raise _rejected(str(error), text) from error


def _rejected(message: str, text: str) -> InternalError:
    return InternalError(f"LLVM does not accept the generated code: {message.strip()}", text)


class _Counter:
    """Reports how many modules are done, and passes results through."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress, self.done = total, progress, 0

    def __call__(self, result: bytes) -> bytes:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)
        return result


class _Worker:
    """A process that compiles one module after the other."""

    def __init__(self) -> None:
        # Modules beside the script must not hide those that LLVM's binding imports.
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        self.process = subprocess.Popen(
            [sys.executable, object_worker.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def compile(self, text: str, settings: Settings) -> bytes:
        """Raises InternalError for rejected text, also when LLVM ends the process."""
        requests, answers = self.process.stdin, self.process.stdout
        if requests is None or answers is None:
            raise InternalError("the compilation process has no pipes")
        encoded = text.encode()
        header = json.dumps({"settings": settings, "size": len(encoded)}).encode()
        try:
            requests.write(header + b"\n" + encoded)
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise _rejected(f"its process ended with status {self.process.wait()}", text)
        answer = json.loads(line)
        result = answers.read(answer["size"])
        if not answer["ok"]:
            raise _rejected(result.decode(), text)
        return result

    def close(self) -> None:
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):  # it was killed with a request in the pipe
                self.process.stdin.close()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
