"""Running an XLA artifact: the same interface as that of a native module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import OptionError, TargetError
from ..arrays import TensorSpec, as_input, as_output
from ..loader import Arrays, Module, check_files, ordered, read_manifest
from .client import Executable, from_portable
from .weights import read_safetensors


def open_module(directory: Path, threads: int | None) -> Module:
    """The artifact in a folder on the device that it was made for.  Raises TargetError where XLA has none of these."""
    return XlaModule(directory, threads)


class XlaModule(Module):
    """A module that XLA compiled when it was loaded, its weights on the device.  XLA chooses its own threads."""

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        manifest = read_manifest(directory)
        check_files(directory, manifest)
        self.manifest: Mapping[str, Any] = manifest
        self.inputs = tuple(map(TensorSpec.from_json, manifest["inputs"]))
        self.outputs = tuple(map(TensorSpec.from_json, manifest["outputs"]))
        self._prefix = str(manifest["name"])
        if not manifest["library"].endswith(".stablehlo"):
            raise TargetError(f"load {directory}: it was compiled without jaxlib and has no portable module; compile again")
        if manifest["machine"].get("chips", 1) != 1:
            raise TargetError(f"load {directory}: compiled for {manifest['machine']['chips']} chips; use its run.py there")
        arrays = read_safetensors(directory / manifest["weights_file"])
        weights = [arrays[entry["name"]] for entry in manifest["weights"]]
        module = from_portable((directory / manifest["library"]).read_bytes())
        self._executable: Executable | None = Executable(module, weights, manifest["machine"]["platform"])

    @property
    def threads(self) -> int:
        """1 while it is open: XLA's own pool is not counted."""
        return int(self._executable is not None)

    def __call__(self, *arrays: Any) -> list[np.ndarray]:
        given = ordered("input", self.inputs, arrays)
        return self._run([as_input(spec, value) for spec, value in zip(self.inputs, given, strict=True)])

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        sources = ordered("input", self.inputs, [inputs] if isinstance(inputs, Mapping) else inputs)
        ready = [as_input(spec, value, copy=False) for spec, value in zip(self.inputs, sources, strict=True)]
        places = ordered("output", self.outputs, [outputs] if isinstance(outputs, Mapping) else outputs)
        results = [as_output(spec, value) for spec, value in zip(self.outputs, places, strict=True)]

        def step() -> None:
            for place, array in zip(results, self._run(ready), strict=True):
                place[...] = array

        return step

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        if self._executable is None:
            raise OptionError(f"module {self._prefix} is closed; load it again")
        return self._executable.run(arrays)

    def close(self) -> None:
        self._executable = None

    def __del__(self) -> None:
        self._executable = None
