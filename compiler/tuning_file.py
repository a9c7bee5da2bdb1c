"""The database of tuning: one JSON object a line, so that files are merged by joining them and shipped as they are.

    {"machine": "x86-64-v4+...", "caches": [49152, 2097152, ...], "key": "...", "choice": {"rows": 6, "vectors": 4},
     "gain": 0.08, "about": "tile 6 x 4 vectors of 16, ..."}

The key is that of a group (`codegen/kernels.py`); of several lines for one group and machine the last one counts.  An
empty choice says that nothing better than the cost model's numbers was found, so that it is not searched again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..codegen.machine import Machine
from ..codegen.machine_gpu import GpuMachine
from ..codegen.strategies.choices import Choice
from ..codegen.strategies.tiles import PANEL_LOSS
from ..ir.errors import OptionError
from .cache import open_cache

FILE_NAME = "tuning.jsonl"


@dataclass(frozen=True)
class Found:
    """What was found for a group.  gain: the part of the time that the choice saves, 0..1.  about: the schedule."""

    choice: Choice
    gain: float
    about: str


def default_file() -> Path:
    """Where it is unless the user names a file: beside the cache of artifacts."""
    return open_cache().directory.parent / FILE_NAME


def machine_text(machine: Machine | GpuMachine) -> tuple[str, list[int]]:
    """What an entry says about the machine: entries are used on machines for which this is equal."""
    if isinstance(machine, GpuMachine):
        return f"cuda:{machine.name}, {machine.precision}", [machine.shared_bytes, machine.l2]
    return machine.name, [machine.l1, machine.l2, machine.l3]


def read_tuning(path: Path, machine: Machine | GpuMachine) -> dict[str, Found]:
    """The entries of a machine, by the key of their group; none if there is no file.

    Raises OptionError, with the line, for what is not an entry."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"tuning file {path}: cannot be read: {error}; give the file that --tune wrote") from None
    found: dict[str, Found] = {}
    wanted = machine_text(machine)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            place = str(entry["machine"]), [int(size) for size in entry["caches"]]
            item = Found(Choice.from_json(entry["choice"]), float(entry["gain"]), str(entry["about"]))
            if place == wanted:
                found[str(entry["key"])] = item
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(
                f"tuning file {path}, line {number}: expected an entry of --tune, but {error!r}; remove the line"
            ) from None
        except OptionError as error:
            raise OptionError(f"tuning file {path}, line {number}: {error}") from None
    return found


def add_entry(path: Path, machine: Machine | GpuMachine, key: str, found: Found) -> None:
    """Append one entry, whole even if other processes append too.  Raises OptionError if the file cannot be written."""
    name, caches = machine_text(machine)
    entry: dict[str, Any] = {
        "machine": name, "caches": caches, "key": key, "choice": found.choice.to_json(), "gain": round(found.gain, 4),
        "about": found.about,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OptionError(f"tuning file {path}: cannot be written: {error.strerror or error}; choose another") from error


def clear_gains(found: Mapping[str, Found]) -> frozenset[str]:
    """The groups for which versions of a model may have weights of their own, as `--specialize` says."""
    return frozenset(key for key, f in found.items() if f.gain > PANEL_LOSS)


def digest_of(found: Mapping[str, Found]) -> str:
    """What the artifact and its cache key say about the choices: "" for none."""
    clear = clear_gains(found)
    chosen = sorted((key, sorted(f.choice.to_json().items()), key in clear) for key, f in found.items() if f.choice.to_json())
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest() if chosen else ""
