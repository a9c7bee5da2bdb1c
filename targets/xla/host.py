"""What the `xla` target can run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from ...ir.errors import OptionError

MACHINES = {"cpu": "the processor of this machine, through XLA's own compiler"}


@dataclass(frozen=True)
class XlaMachine:
    """name: as after the colon of a target.  jaxlib: the version that is installed, empty if none is."""

    name: str
    jaxlib: str


def installed(package: str) -> str:
    """The version of a package, or nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def resolve_machine(spec: str, find: Callable[[str], str] = installed) -> XlaMachine:
    """The machine of "xla" or "xla:cpu".  Raises OptionError for another one."""
    name = spec.partition(":")[2] or "cpu"
    if name not in MACHINES:
        raise OptionError(f"target {spec!r}: expected xla:{' or xla:'.join(MACHINES)}; for a TPU use tpu:v5e-1")
    return XlaMachine(name, find("jaxlib"))
