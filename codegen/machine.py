"""Facts about the processor that code is generated for.

A `Machine` says what strategies and emitters need: how wide vectors are and how many registers hold them, cache sizes,
which instruction calls are legal, and what LLVM must be told.  All of it follows from the instruction-set level and the
extra features, so that a machine can be written as text: `cpu:x86-64-v3+avxvnni`.  Features have LLVM's names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..ir.errors import OptionError
from ..ir.types import DTYPES

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Machine:
    """One processor type.

    triple, cpu, features: what LLVM is told (cpu is the base level, features come on top of it).
    vector_bits, vector_registers: width and number of the vector registers.
    l1, l2, l3: bytes of data cache per core, l3 of the whole last level.
    fma: whether a fused multiply-add is one instruction.
    calls: names of `Call`s that are one instruction here; all others must be rewritten before printing.
    required: features that must be checked at run time before any of the code runs, beyond the architecture's baseline.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    vector_registers: int
    l1: int
    l2: int
    l3: int
    fma: bool
    calls: frozenset[str]
    required: tuple[str, ...]

    @property
    def arch(self) -> str:
        """The first part of the triple: x86_64, aarch64 or riscv64."""
        return self.triple.partition("-")[0]

    @property
    def io_align(self) -> int:
        """Bytes of which the addresses of inputs and outputs are multiples, beside those of the element size."""
        return 1

    @property
    def feature_string(self) -> str:
        """The features in the form LLVM takes: +a,+b."""
        return ",".join("+" + f for f in self.features)

    def lanes(self, dtype: str) -> int:
        """Elements of this type in one vector register, at least 1."""
        return max(1, self.vector_bits // (8 * DTYPES[dtype].size))

    def has(self, feature: str) -> bool:
        """Whether code may use a feature, from the base level or on top of it."""
        return feature in self.required or feature in self.features


@dataclass(frozen=True)
class Level:
    """A base instruction-set level: what `cpu` in LLVM implies, and default cache sizes."""

    triple: str
    cpu: str
    implied: tuple[str, ...]
    l1: int
    l2: int
    l3: int
    features: tuple[str, ...] = ()


_V2 = ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_X86, _ARM, _RISCV = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "riscv64-unknown-linux-gnu"

LEVELS: dict[str, Level] = {
    "x86-64-v2": Level(_X86, "x86-64-v2", _V2, 32 * KIB, 256 * KIB, 8 * MIB),
    "x86-64-v3": Level(_X86, "x86-64-v3", _V3, 32 * KIB, 512 * KIB, 16 * MIB),
    "x86-64-v4": Level(_X86, "x86-64-v4", _V4, 48 * KIB, 1 * MIB, 32 * MIB),
    "aarch64": Level(_ARM, "generic", (), 64 * KIB, 512 * KIB, 4 * MIB, ("neon",)),
    "riscv64": Level(_RISCV, "generic-rv64", (), 32 * KIB, 512 * KIB, 2 * MIB, ("m", "a", "f", "d", "c")),
}

_ARM82 = ("fullfp16", "dotprod", "lse")
_SERVER512 = ("avx512vnni", "avx512vbmi", "gfni")
# Processors by name: base level, features on top of it, and (l1, l2, l3).
PROCESSORS: dict[str, tuple[str, tuple[str, ...], tuple[int, int, int]]] = {
    "haswell": ("x86-64-v3", (), (32 * KIB, 256 * KIB, 8 * MIB)),
    "skylake": ("x86-64-v3", (), (32 * KIB, 256 * KIB, 8 * MIB)),
    "alderlake": ("x86-64-v3", ("avxvnni", "gfni"), (48 * KIB, 1280 * KIB, 30 * MIB)),
    "znver2": ("x86-64-v3", (), (32 * KIB, 512 * KIB, 16 * MIB)),
    "znver3": ("x86-64-v3", (), (32 * KIB, 512 * KIB, 32 * MIB)),
    "skylake-avx512": ("x86-64-v4", (), (32 * KIB, 1 * MIB, 24 * MIB)),
    "cascadelake": ("x86-64-v4", ("avx512vnni",), (32 * KIB, 1 * MIB, 24 * MIB)),
    "icelake-server": ("x86-64-v4", _SERVER512, (48 * KIB, 1280 * KIB, 48 * MIB)),
    "sapphirerapids": ("x86-64-v4", (*_SERVER512, "avx512bf16", "avxvnni"), (48 * KIB, 2 * MIB, 60 * MIB)),
    "znver4": ("x86-64-v4", (*_SERVER512, "avx512bf16"), (32 * KIB, 1 * MIB, 32 * MIB)),
    "znver5": ("x86-64-v4", (*_SERVER512, "avx512bf16", "avxvnni"), (48 * KIB, 1 * MIB, 32 * MIB)),
    "cortex-a53": ("aarch64", (), (32 * KIB, 512 * KIB, 0)),
    "cortex-a72": ("aarch64", (), (32 * KIB, 1 * MIB, 0)),
    "cortex-a76": ("aarch64", _ARM82, (64 * KIB, 512 * KIB, 2 * MIB)),
    "neoverse-n1": ("aarch64", _ARM82, (64 * KIB, 1 * MIB, 32 * MIB)),
    "neoverse-v1": ("aarch64", (*_ARM82, "i8mm", "bf16"), (64 * KIB, 1 * MIB, 32 * MIB)),
    "apple-m1": ("aarch64", _ARM82, (128 * KIB, 4 * MIB, 8 * MIB)),
}

# Instruction calls: alternatives of features, one of which must be present.  Their meaning is in codegen/llvm_calls.py.
CALL_FEATURES: dict[str, tuple[frozenset[str], ...]] = {
    "scalef": (frozenset({"avx512f", "avx512vl"}),),
    "vpdpbusd": (frozenset({"avx512vnni", "avx512vl"}), frozenset({"avxvnni"})),
    "vdpbf16ps": (frozenset({"avx512bf16", "avx512vl"}),),
    "pmaddwd": (frozenset({"ssse3"}),),
    "vpermi2b": (frozenset({"avx512vbmi", "avx512vl"}),),
    "sdot": (frozenset({"dotprod"}),),
    "udot": (frozenset({"dotprod"}),),
    "usdot": (frozenset({"i8mm"}),),
}

# What may follow a `+`: everything that adds a call, changes a conversion, or is named above.
EXTENSIONS: tuple[str, ...] = tuple(sorted({
    "avx512vnni", "avx512bf16", "avx512vbmi", "avx512fp16", "avxvnni", "f16c", "fma", "gfni", "fullfp16", "dotprod",
    "i8mm", "bf16", "lse", *_V4,
}))


def machine_names() -> tuple[str, ...]:
    """Every name that may follow `cpu:`."""
    return (*LEVELS, *PROCESSORS)


def make_machine(
    level_name: str, extra: tuple[str, ...] = (), caches: tuple[int, int, int] | None = None, name: str = ""
) -> Machine:
    """The machine of a base level with extra features; the order of the features does not matter."""
    level = LEVELS[level_name]
    added = tuple(sorted(set(extra) - set(level.implied) - set(level.features)))
    present = {*level.implied, *level.features, *added}
    l1, l2, l3 = caches or (level.l1, level.l2, level.l3)
    bits, registers = _vectors(level.triple, present)
    calls = frozenset(c for c, ways in CALL_FEATURES.items() if any(way <= present for way in ways))
    return Machine(
        name=name or "+".join((level_name, *added)), triple=level.triple, cpu=level.cpu,
        features=(*level.features, *added), vector_bits=bits, vector_registers=registers, l1=l1, l2=l2, l3=l3,
        fma=level.triple != _X86 or "fma" in present, calls=calls, required=(*level.implied, *added),
    )


def _vectors(triple: str, present: set[str]) -> tuple[int, int]:
    """Width and number of vector registers."""
    if triple == _ARM:
        return 128, 32
    if triple == _RISCV:  # scalar: a "vector" of 128 bits is four of the 32 float registers
        return 128, 8
    if {"avx512f", "avx512vl"} <= present:
        return 512, 32
    return (256, 16) if "avx" in present else (128, 16)


def parse_machine(spec: str, host: Callable[[], Machine] | None = None) -> Machine:
    """The machine that a text names: `cpu:NAME`, followed by any number of `+feature`.

    `cpu` alone is the processor this program runs on, as `host` finds it.  Raises OptionError for an unknown name or
    feature, listing the known ones.
    """
    target, _, rest = spec.partition(":")
    if target.partition("+")[0] != "cpu":
        raise OptionError(f"target {spec!r}: expected cpu or cpu:NAME with NAME one of {', '.join(machine_names())}")
    name, *extra = (rest or target.replace("cpu", "", 1)).split("+")
    for feature in extra:
        if feature not in EXTENSIONS:
            raise OptionError(f"target {spec!r}: unknown feature {feature!r}; known are {', '.join(EXTENSIONS)}")
    if not name:
        if host is None:
            raise OptionError(f"target {spec!r}: name the machine, one of {', '.join(machine_names())}")
        found = host()
        return make_machine(found.cpu if found.cpu in LEVELS else found.arch, (*found.features, *extra),
                            (found.l1, found.l2, found.l3), "+".join((found.name, *extra)))
    if name in LEVELS:
        return make_machine(name, tuple(extra))
    if name in PROCESSORS:
        level, features, caches = PROCESSORS[name]
        return make_machine(level, (*features, *extra), caches, "+".join((name, *extra)))
    raise OptionError(f"target {spec!r}: unknown machine {name!r}; known are {', '.join(machine_names())}")
