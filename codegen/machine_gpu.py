"""Facts about the graphics processors that CUDA code is generated for.

One program may be for several architectures at once: `cuda:sm_80+sm_90`.  The kernels are then the same text, so a
`GpuMachine` has what all of them offer: the smallest of each limit, the instructions that all have.
Limits: CUDA C++ Programming Guide, "Compute Capabilities".  Processors, clocks and bandwidths: the vendor's data sheets of
the largest common board of each architecture; they only order choices and scale estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.errors import OptionError
from ..ir.types import DTYPES

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class GpuArchitecture:
    """board: what the estimates are for.  shared_bytes: most shared memory of one block; shared_per_processor: of all
    blocks on one multiprocessor.  bandwidth: bytes per second.  Rates in multiply-accumulates per second: `simt_macs` of
    f32 outside of tensor cores, `tensor_macs` of f16 with f32 accumulation."""

    board: str
    processors: int
    threads_per_processor: int
    shared_bytes: int
    shared_per_processor: int
    l2: int
    bandwidth: float
    simt_macs: float
    tensor_macs: float
    features: frozenset[str] = frozenset()


_TURING = frozenset({"f16"})
_AMPERE = _TURING | {"cp_async", "ldmatrix", "mma_f16", "mma_bf16", "mma_tf32", "mma_s8", "mma_sp", "bf16"}
_ADA = _AMPERE | {"mma_f8"}
_HOPPER = _ADA | {"cluster", "mbarrier"}

# The names that may follow `cuda:`.  A trailing `a` is an architecture whose code runs on exactly that generation.
ARCHITECTURES: dict[str, GpuArchitecture] = {
    "sm_75": GpuArchitecture("T4", 40, 1024, 64 * KIB, 64 * KIB, 4 * MIB, 320e9, 4.05e12, 32e12, _TURING),
    "sm_80": GpuArchitecture("A100", 108, 2048, 163 * KIB, 164 * KIB, 40 * MIB, 1.55e12, 9.75e12, 156e12, _AMPERE),
    "sm_86": GpuArchitecture("A10", 72, 1536, 99 * KIB, 100 * KIB, 6 * MIB, 600e9, 15.6e12, 62e12, _AMPERE),
    "sm_87": GpuArchitecture("Jetson Orin", 16, 1536, 163 * KIB, 164 * KIB, 4 * MIB, 204e9, 2.6e12, 21e12, _AMPERE),
    "sm_89": GpuArchitecture("L40S", 142, 1536, 99 * KIB, 100 * KIB, 96 * MIB, 864e9, 45e12, 181e12, _ADA),
    "sm_90": GpuArchitecture("H200", 132, 2048, 227 * KIB, 228 * KIB, 50 * MIB, 4.3e12, 33e12, 395e12, _HOPPER),
    "sm_90a": GpuArchitecture(
        "H200", 132, 2048, 227 * KIB, 228 * KIB, 50 * MIB, 4.3e12, 33e12, 395e12, _HOPPER | {"tma", "wgmma"}
    ),
    "sm_100": GpuArchitecture("B200", 148, 2048, 227 * KIB, 228 * KIB, 126 * MIB, 8.0e12, 40e12, 1100e12, _HOPPER),
    "sm_120": GpuArchitecture("RTX 5090", 170, 1536, 99 * KIB, 100 * KIB, 96 * MIB, 1.79e12, 52e12, 210e12, _HOPPER),
}
ALL = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

MAX_THREADS = 1024  # of one block
MAX_GRID = (2**31 - 1, 65535, 65535)  # blocks of a launch along x, y and z
REGISTERS = 65536  # of one multiprocessor, 32 bits each
STATIC_SHARED = 48 * KIB  # beyond it shared memory must be asked for at the launch
WARP = 32
MAX_RESIDENT = 16  # blocks of one multiprocessor, on every architecture


@dataclass(frozen=True)
class GpuMachine:
    """What code for all of `architectures` may use and can expect.

    shared_bytes, shared_per_processor, threads_per_processor: limits, see `GpuArchitecture`.  features: of all
    architectures.  The figures for estimates (processors, l2, bandwidth, simt_macs, tensor_macs) are those of the last
    architecture named, the one that the code is tuned for.  precision: tf32 lets products of f32 round their operands to it.
    """

    name: str
    architectures: tuple[str, ...]
    shared_bytes: int
    shared_per_processor: int
    threads_per_processor: int
    processors: int
    l2: int
    bandwidth: float
    simt_macs: float
    tensor_macs: float
    features: frozenset[str]
    fma: bool = True
    precision: str = "f32"

    def has(self, feature: str) -> bool:
        """Whether every architecture has a feature: cp_async, ldmatrix, mma_f16, mma_bf16, mma_tf32, mma_s8, wgmma, ..."""
        return feature in self.features

    @property
    def io_align(self) -> int:
        """Bytes of which the addresses of inputs and outputs are multiples; the library checks it."""
        return 16

    @property
    def newest(self) -> GpuArchitecture:
        return ARCHITECTURES[self.architectures[-1]]

    def lanes(self, dtype: str) -> int:
        """Elements of a type in the widest memory access, 16 bytes."""
        return 16 // DTYPES[dtype].size


def make_gpu_machine(*names: str, name: str = "") -> GpuMachine:
    """The machine of these architectures, in increasing order whatever the order given."""
    ordered = tuple(n for n in ARCHITECTURES if n in names)
    rows = [ARCHITECTURES[n] for n in ordered]
    last = rows[-1]
    return GpuMachine(
        name=name or "+".join(ordered), architectures=ordered, shared_bytes=min(r.shared_bytes for r in rows),
        shared_per_processor=min(r.shared_per_processor for r in rows),
        threads_per_processor=min(r.threads_per_processor for r in rows), processors=last.processors, l2=last.l2,
        bandwidth=last.bandwidth, simt_macs=last.simt_macs, tensor_macs=last.tensor_macs,
        features=frozenset.intersection(*(r.features for r in rows)),
    )


def parse_gpu_machine(spec: str) -> GpuMachine:
    """The machine that a text names: `cuda:sm_90`, several with `+`, or `cuda:all` (the same as `cuda`).

    Raises OptionError for an unknown architecture, listing the known ones.
    """
    target, _, rest = spec.partition(":")
    known = ", ".join(ARCHITECTURES)
    if target != "cuda":
        raise OptionError(f"target {spec!r}: expected cuda:ARCHITECTURE with one of {known}, several with +, or all")
    if rest in ("", "all"):
        return make_gpu_machine(*ALL, name="all")
    names = rest.split("+")
    for name in names:
        if name not in ARCHITECTURES:
            raise OptionError(f"target {spec!r}: unknown architecture {name!r}; known are {known}, and all")
    return make_gpu_machine(*names)
