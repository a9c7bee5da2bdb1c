"""What the `tvm` target compiles for: whatever the installed build of TVM does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.errors import OptionError
from ..xla.host import installed

MACHINES = {
    "llvm": "this processor; llvm -mcpu=NAME another one", "cuda -arch=sm_90": "an NVIDIA GPU, as source that is compiled",
    "opencl": "a GPU with OpenCL", "metal": "a GPU of Apple", "vulkan": "a GPU with Vulkan, where the build has it",
    "rocm": "an AMD GPU", "webgpu": "a browser",
}
DEVICES = ("llvm", "c", "cuda", "rocm", "metal", "opencl", "vulkan", "webgpu", "nvptx", "hexagon")


@dataclass(frozen=True)
class TvmMachine:
    """name: the TVM target as it was given.  kind: its first word.  tvm: the installed version, empty if none is."""

    name: str
    kind: str
    tvm: str


def resolve_machine(spec: str, find: Callable[[str], str] = installed) -> TvmMachine:
    """The machine of "tvm:<tvm target>"; tvm alone is llvm.  Raises OptionError for a kind that TVM does not have."""
    name = spec.partition(":")[2].strip() or "llvm"
    kind = name.split()[0]
    if kind not in DEVICES:
        raise OptionError(f"target {spec!r}: expected a TVM target such as llvm or 'cuda -arch=sm_90', which begins with one "
                          f"of {', '.join(DEVICES)}")
    return TvmMachine(name, kind, find("apache-tvm"))
