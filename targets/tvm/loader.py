"""Running a TVM artifact: the same interface as that of a native module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import OptionError, TargetError
from ..arrays import TensorSpec, as_input, as_output
from ..loader import Arrays, Module, check_files, ordered, read_manifest
from ..xla.weights import read_safetensors
from .build import require_tvm


def open_module(directory: Path, threads: int | None) -> Module:
    """The artifact in a folder on the first device of its kind.  Raises TargetError where TVM has none of these."""
    return TvmModule(directory)


class TvmModule(Module):
    """A module that TVM's virtual machine runs, its weights on the device."""

    def __init__(self, directory: Path) -> None:
        self._run_main: Any = None
        manifest = read_manifest(directory)
        check_files(directory, manifest)
        tvm = require_tvm()
        from tvm import relax

        self.manifest: Mapping[str, Any] = manifest
        self.inputs = tuple(map(TensorSpec.from_json, manifest["inputs"]))
        self.outputs = tuple(map(TensorSpec.from_json, manifest["outputs"]))
        self._prefix = str(manifest["name"])
        kind = manifest["machine"]["device"]
        self._device = tvm.cpu() if kind in ("llvm", "c") else tvm.device(kind)
        if not self._device.exist:
            raise TargetError(f"load {directory}: compiled for {kind}, which TVM does not find here")
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(directory / manifest["library"])), self._device)
        arrays = read_safetensors(directory / manifest["weights_file"])
        self._tensor = tvm.runtime.tensor
        self._weights = [self._put(arrays[name]) for name in manifest["weights"]]
        self._run_main = machine["main"]

    def _put(self, array: np.ndarray) -> Any:
        return self._tensor(np.asarray(array, order="C"), self._device)

    @property
    def threads(self) -> int:
        """1 while it is open: TVM's own pool is not counted."""
        return int(self._run_main is not None)

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
        if self._run_main is None:
            raise OptionError(f"module {self._prefix} is closed; load it again")
        return [o.numpy() for o in self._run_main(*map(self._put, arrays), *self._weights)]

    def close(self) -> None:
        self._run_main = None

    def __del__(self) -> None:
        self._run_main = None
