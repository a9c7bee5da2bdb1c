"""Ahead-of-time compilation by libtpu in another process, with a time-out: a crash there is an error message here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir.errors import OptionError, TargetError
from ..temporary import TemporaryFolder
from . import worker
from .host import TpuMachine

TIMEOUT_VARIABLE = "TILEWRIGHT_TPU_TIMEOUT"
_TIMEOUT = 1800.0  # seconds; the largest models take minutes on a small machine
_LAST_LINES = 12


@dataclass(frozen=True)
class TpuExecutable:
    """data: the serialized executable.  facts: what the compiler says about it (`worker.facts`)."""

    data: bytes
    facts: dict[str, Any]


def timeout() -> float:
    """Seconds that a compilation may take.  Raises OptionError for a wrong value in the environment."""
    text = os.environ.get(TIMEOUT_VARIABLE, str(_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not seconds > 0:
        raise OptionError(f"{TIMEOUT_VARIABLE}: expected a number of seconds, got {text!r}")
    return seconds


def compile_ahead(
    portable: bytes, machine: TpuMachine, devices: int, *, effort: float = 0.0, program: Path = Path(worker.__file__)
) -> TpuExecutable:
    """The executable of a portable module for the first devices of a machine.  effort: -1 (fast to compile) to 1.

    Raises TargetError, with the last lines that libtpu printed, when it refuses the module, crashes or takes too long.
    """
    kind = "v5litepod" if machine.generation == "v5e" else machine.generation
    job = {"topology": machine.topology, "devices": devices, "accelerator": f"{kind}-{machine.chips}", "effort": effort}
    seconds = timeout()
    with TemporaryFolder("tilewright-tpu-") as folder:
        (folder / "job.json").write_text(json.dumps(job))
        (folder / "module.stablehlo").write_bytes(portable)
        log = folder / "log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, os.fspath(program), os.fspath(folder)], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise TargetError(
                    f"TPU {machine.name}: libtpu did not finish within {seconds:g} s; set {TIMEOUT_VARIABLE} to more seconds, "
                    "or compile a smaller batch"
                ) from None
            finally:
                process.kill()
                process.wait()
        result = folder / "result.json"
        if status != 0 or not result.is_file():
            raise TargetError(f"TPU {machine.name}: libtpu {_ending(status)}; the last it said:\n{_tail(log)}")
        return TpuExecutable((folder / "executable.bin").read_bytes(), json.loads(result.read_text()))


def _ending(status: int) -> str:
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return f"refused the module (exit code {status})"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(line[:400] for line in lines[-_LAST_LINES:]) or "nothing"
