"""Where a processor says which instruction sets it has; the library checks these bits before it runs any code.

x86: bits of cpuid registers, from the processor manuals (Intel SDM volume 2, CPUID; AMD APM volume 3).  Wider registers
must also be saved by the system, which the bits of XCR0 tell.  Elsewhere: bits of the auxiliary vector (Linux hwcaps).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...codegen.machine import Machine
from ...ir.errors import TargetError

_EAX, _EBX, _ECX, _EDX = range(4)
_YMM, _ZMM = 0x06, 0xE6  # XCR0: SSE and AVX state; these and the three AVX-512 states
_HWCAP, _HWCAP2 = 16, 26  # auxiliary vector entries AT_HWCAP, AT_HWCAP2


@dataclass(frozen=True)
class FeatureBit:
    """x86: `bit` of register `reg` of cpuid `leaf`, `subleaf`, and the XCR0 mask `state`.  Elsewhere: `bit` of the
    auxiliary vector entry `leaf`."""

    leaf: int
    subleaf: int
    reg: int
    bit: int
    state: int = 0


_X86: dict[str, FeatureBit] = {
    "sse3": FeatureBit(1, 0, _ECX, 0),
    "ssse3": FeatureBit(1, 0, _ECX, 9),
    "fma": FeatureBit(1, 0, _ECX, 12, _YMM),
    "cx16": FeatureBit(1, 0, _ECX, 13),
    "sse4.1": FeatureBit(1, 0, _ECX, 19),
    "sse4.2": FeatureBit(1, 0, _ECX, 20),
    "movbe": FeatureBit(1, 0, _ECX, 22),
    "popcnt": FeatureBit(1, 0, _ECX, 23),
    "avx": FeatureBit(1, 0, _ECX, 28, _YMM),
    "f16c": FeatureBit(1, 0, _ECX, 29, _YMM),
    "bmi": FeatureBit(7, 0, _EBX, 3),
    "avx2": FeatureBit(7, 0, _EBX, 5, _YMM),
    "bmi2": FeatureBit(7, 0, _EBX, 8),
    "avx512f": FeatureBit(7, 0, _EBX, 16, _ZMM),
    "avx512dq": FeatureBit(7, 0, _EBX, 17, _ZMM),
    "avx512cd": FeatureBit(7, 0, _EBX, 28, _ZMM),
    "avx512bw": FeatureBit(7, 0, _EBX, 30, _ZMM),
    "avx512vl": FeatureBit(7, 0, _EBX, 31, _ZMM),
    "avx512vbmi": FeatureBit(7, 0, _ECX, 1, _ZMM),
    "gfni": FeatureBit(7, 0, _ECX, 8),
    "avx512vnni": FeatureBit(7, 0, _ECX, 11, _ZMM),
    "avx512fp16": FeatureBit(7, 0, _EDX, 23, _ZMM),
    "avxvnni": FeatureBit(7, 1, _EAX, 4, _YMM),
    "avx512bf16": FeatureBit(7, 1, _EAX, 5, _ZMM),
    "lzcnt": FeatureBit(0x80000001, 0, _ECX, 5),
}
_AARCH64: dict[str, FeatureBit] = {
    "neon": FeatureBit(_HWCAP, 0, 0, 1),
    "lse": FeatureBit(_HWCAP, 0, 0, 8),
    "fullfp16": FeatureBit(_HWCAP, 0, 0, 10),
    "dotprod": FeatureBit(_HWCAP, 0, 0, 20),
    "sve": FeatureBit(_HWCAP, 0, 0, 22),
    "i8mm": FeatureBit(_HWCAP2, 0, 0, 13),
    "bf16": FeatureBit(_HWCAP2, 0, 0, 14),
}
_RISCV64: dict[str, FeatureBit] = {letter: FeatureBit(_HWCAP, 0, 0, ord(letter) - ord("a")) for letter in "mafdcv"}
_TABLES = {"x86_64": _X86, "aarch64": _AARCH64, "riscv64": _RISCV64}


def feature_bits(machine: Machine) -> list[tuple[str, FeatureBit]]:
    """What to check at run time for a machine, each feature once.  Raises TargetError for one that no bit tells."""
    table = _TABLES.get(machine.arch, {})
    unknown = [name for name in machine.required if name not in table]
    if unknown:
        raise TargetError(
            f"machine {machine.name}: no run-time check is known for {', '.join(unknown)}; leave these features out"
        )
    return [(name, table[name]) for name in dict.fromkeys(machine.required)]
