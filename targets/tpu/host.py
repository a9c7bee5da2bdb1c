"""TPU machines by name.

    tpu:v5e-4        an accelerator type as Google Cloud names it
    tpu:v5e:4x4      a generation and a topology, any that libtpu knows

Cloud counts chips from v5e on where a chip is one device (v5e, v6e), and cores, two of them a chip, elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ...ir.errors import OptionError
from ..xla.host import installed


@dataclass(frozen=True)
class Generation:
    """cores: what one chip counts as in names.  dimensions: of a topology.  int8: whether products of bytes are faster
    than those of bf16.  memory: bytes of a chip."""

    cores: int
    dimensions: int
    int8: bool
    memory: int
    about: str


_GB = 1 << 30
GENERATIONS = {
    "v2": Generation(2, 2, False, 16 * _GB, "TPU v2"),
    "v3": Generation(2, 2, False, 32 * _GB, "TPU v3"),
    "v4": Generation(2, 3, False, 32 * _GB, "TPU v4"),
    "v5e": Generation(1, 2, True, 16 * _GB, "TPU v5e"),
    "v5p": Generation(2, 3, True, 95 * _GB, "TPU v5p"),
    "v6e": Generation(1, 2, True, 32 * _GB, "TPU v6e (Trillium)"),
    "tpu7x": Generation(2, 3, False, 192 * _GB, "TPU7x (Ironwood)"),
}
_FLAT = {1: "1x1", 2: "2x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}
_NOT_MADE = {("v2", 1), ("v2", 2), ("v3", 1), ("v3", 2), ("v5e", 2)}
_EXPLICIT = re.compile(r"[1-9]\d*(x[1-9]\d*){1,2}")


@dataclass(frozen=True)
class TpuMachine:
    """name: v5e-4, or v5e:2x2 where a topology was asked for.  topology: as libtpu names it.  chips: how many.
    libtpu, jaxlib: the installed versions, empty if there is none."""

    name: str
    generation: str
    topology: str
    chips: int
    libtpu: str
    jaxlib: str


def machines() -> dict[str, str]:
    """Every accelerator type and what it is."""
    return {
        name: f"{GENERATIONS[g].about}, {chips} chip{'s' if chips > 1 else ''}, topology {shape}"
        for name, (g, shape, chips) in _by_name().items()
    }


def _by_name() -> dict[str, tuple[str, str, int]]:
    found = {}
    for g, generation in GENERATIONS.items():
        for chips, shape in (_FLAT if generation.dimensions == 2 else _CUBES).items():
            if (g, chips) not in _NOT_MADE:
                found[f"{g}-{chips * generation.cores}"] = (g, shape, chips)
    return found


def resolve_machine(spec: str, find: Callable[[str], str] = installed) -> TpuMachine:
    """The machine of a target spec; tpu alone is one v5e chip.  Raises OptionError for one that is not made."""
    name = spec.partition(":")[2] or "v5e-1"
    versions = find("libtpu"), find("jaxlib")
    generation, colon, shape = name.partition(":")
    if colon:
        known = GENERATIONS.get(generation)
        if known is None or not _EXPLICIT.fullmatch(shape) or shape.count("x") + 1 != known.dimensions:
            raise OptionError(f"target {spec!r}: expected a generation and a topology such as v5e:4x4 or v4:2x2x1")
        chips = 1
        for n in shape.split("x"):
            chips *= int(n)
        return TpuMachine(name, generation, f"{generation}:{shape}", chips, *versions)
    table = _by_name()
    if name not in table:
        family = [n for n in table if n.startswith(f"{generation.partition('-')[0]}-")] or [f"{g}-N" for g in GENERATIONS]
        raise OptionError(f"target {spec!r}: no such TPU; expected one of {', '.join(family)}, or GENERATION:TOPOLOGY")
    generation, shape, chips = table[name]
    return TpuMachine(name, generation, f"{generation}:{shape}", chips, *versions)
