"""Running an XLA artifact: the same interface as that of a native module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import TargetError
from ..host_module import HostModule
from ..loader import Module
from ..safetensors import read_safetensors
from .client import Executable, from_portable


def open_module(directory: Path, threads: int | None) -> Module:
    """The artifact in a folder on the device that it was made for.  Raises TargetError where XLA has none of these."""
    return XlaModule(directory)


def open_size(directory: Path, weights: dict[str, Any]) -> XlaModule:
    """One of several sizes.  weights: those on the device by name, which is added to."""
    return XlaModule(directory, weights)


class XlaModule(HostModule):
    """A module that XLA compiled when it was loaded, its weights on the device.  XLA chooses its own threads."""

    _executable: Executable | None = None

    def __init__(self, directory: Path, shared: dict[str, Any] | None = None) -> None:
        super().__init__(directory)
        manifest = self.manifest
        if not manifest["library"].endswith(".stablehlo"):
            raise TargetError(f"load {directory}: it was compiled without jaxlib and has no portable module; compile again")
        if manifest["machine"].get("chips", 1) != 1:
            raise TargetError(f"load {directory}: compiled for {manifest['machine']['chips']} chips; use its run.py there")
        arrays = {**read_safetensors(directory / manifest["weights_file"]), **(shared or {})}
        names = [entry["name"] for entry in manifest["weights"]]
        module = from_portable((directory / manifest["library"]).read_bytes())
        self._executable = Executable(module, [arrays[n] for n in names], manifest["machine"]["platform"])
        if shared is not None:
            shared.update(zip(names, self._executable.weights, strict=True))

    @property
    def is_open(self) -> bool:
        return self._executable is not None

    def _execute(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        assert self._executable is not None
        return self._executable.run(arrays)

    def close(self) -> None:
        self._executable = None
