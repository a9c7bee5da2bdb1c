"""The machine that this program runs on."""

from __future__ import annotations

import functools
from pathlib import Path

import llvmlite.binding as llvm

from ...codegen.machine import EXTENSIONS, LEVELS, PROCESSORS, Machine, make_machine, parse_machine
from ...ir.errors import TargetError

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_ARCH_LEVELS = {
    "x86_64": ("x86-64-v4", "x86-64-v3", "x86-64-v2"), "aarch64": ("aarch64",), "arm64": ("aarch64",),
    "riscv64": ("riscv64",),
}


@functools.cache
def host_machine() -> Machine:
    """The best base level and the extra features that this processor has.  Raises TargetError where it has no level."""
    arch = llvm.get_process_triple().partition("-")[0]
    features = {name for name, present in llvm.get_host_cpu_features().items() if present}
    for level in _ARCH_LEVELS.get(arch, ()):
        if features.issuperset(LEVELS[level].implied):
            known = PROCESSORS.get(llvm.get_host_cpu_name())
            default = known[2] if known else (LEVELS[level].l1, LEVELS[level].l2, LEVELS[level].l3)
            extra = tuple(sorted(features.intersection(EXTENSIONS) - set(LEVELS[level].implied)))
            return make_machine(level, extra, _cache_sizes(default))
    raise TargetError(
        f"this processor ({arch}) is below every supported level ({', '.join(LEVELS)}); name a target machine instead"
    )


def resolve_machine(spec: str) -> Machine:
    """`parse_machine` in which `cpu` alone means this processor."""
    return parse_machine(spec, host_machine)


def _cache_sizes(default: tuple[int, int, int]) -> tuple[int, int, int]:
    """Bytes of the data caches of levels 1 to 3, with defaults for what the system does not tell."""
    sizes = list(default)
    for entry in sorted(_CACHES.glob("index*")) if _CACHES.is_dir() else []:
        try:
            if (entry / "type").read_text().strip() != "Instruction":
                text = (entry / "size").read_text().strip()
                unit = 1 << 20 if text.endswith("M") else 1 << 10
                sizes[int((entry / "level").read_text()) - 1] = int(text.rstrip("KM")) * unit
        except (OSError, ValueError, IndexError):
            continue  # a level without these files keeps its default
    return sizes[0], sizes[1], sizes[2]
