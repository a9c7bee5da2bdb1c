"""Running a TVM artifact: the same interface as that of a native module."""

# pyright: reportMissingImports=false
# TVM is optional, and not for every Python: checked against where it is installed.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import TargetError
from ..host_module import HostModule
from ..loader import Module
from ..safetensors import read_safetensors
from .build import require_tvm


def open_module(directory: Path, threads: int | None) -> Module:
    """The artifact in a folder on the first device of its kind.  Raises TargetError where TVM has none of these."""
    return TvmModule(directory)


def open_size(directory: Path, weights: dict[str, Any]) -> TvmModule:
    """One of several sizes.  weights: those on the device by name, which is added to."""
    return TvmModule(directory, weights)


class TvmModule(HostModule):
    """A module that TVM's virtual machine runs, its weights on the device."""

    _main: Any = None

    def __init__(self, directory: Path, shared: dict[str, Any] | None = None) -> None:
        super().__init__(directory)
        tvm = require_tvm()
        from tvm import relax

        manifest = self.manifest
        kind = manifest["machine"]["device"]
        self._device = tvm.cpu() if kind in ("llvm", "c") else tvm.device(kind)
        if not self._device.exist:
            raise TargetError(f"load {directory}: compiled for {kind}, which TVM does not find here")
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(directory / manifest["library"])), self._device)
        arrays = read_safetensors(directory / manifest["weights_file"])
        self._tensor = tvm.runtime.tensor
        placed = {} if shared is None else shared
        placed.update((name, self._put(arrays[name])) for name in manifest["weights"] if name not in placed)
        self._weights = [placed[name] for name in manifest["weights"]]
        self._main = machine["main"]

    def _put(self, array: np.ndarray) -> Any:
        return self._tensor(np.asarray(array, order="C"), self._device)

    @property
    def is_open(self) -> bool:
        return self._main is not None

    def _execute(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [o.numpy() for o in self._main(*map(self._put, arrays), *self._weights)]

    def close(self) -> None:
        self._main = None
