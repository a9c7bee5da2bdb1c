"""Modules that another runtime than a native library executes: XLA, TVM's virtual machine, a simulation.

    class Mine(HostModule):
        def __init__(self, directory: Path) -> None:
            super().__init__(directory)           # manifest, inputs, outputs; the files are those of the manifest
            self._runtime = ...
        def _execute(self, arrays): ...           # checked arrays in, new arrays out
        is_open = property(lambda self: ...)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import OptionError
from .arrays import TensorSpec, as_input, as_output
from .loader import Arrays, Module, check_files, ordered, read_manifest
from .profile import ProfileRow, no_profile


class HostModule(Module, ABC):
    """A `Module` without a handle of the C interface: arrays are checked here and executed by `_execute`."""

    def __init__(self, directory: Path) -> None:
        """Raises OptionError for a folder that is no artifact, or not all of one."""
        manifest = read_manifest(directory)
        check_files(directory, manifest)
        self.manifest: Mapping[str, Any] = manifest
        self.inputs = tuple(map(TensorSpec.from_json, manifest["inputs"]))
        self.outputs = tuple(map(TensorSpec.from_json, manifest["outputs"]))
        self._prefix = str(manifest["name"])

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the module can run."""

    @abstractmethod
    def _execute(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs for dense inputs of the right types and shapes."""

    @property
    def threads(self) -> int:
        """1 while it is open: what the runtime has of its own is not counted."""
        return int(self.is_open)

    def __call__(self, *arrays: Any) -> list[np.ndarray]:
        given = ordered("input", self.inputs, arrays)
        return self._outputs([as_input(spec, value) for spec, value in zip(self.inputs, given, strict=True)])

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """As `Module.bind`; the runtime may copy and allocate."""
        sources = ordered("input", self.inputs, [inputs] if isinstance(inputs, Mapping) else inputs)
        ready = [as_input(spec, value, copy=False) for spec, value in zip(self.inputs, sources, strict=True)]
        places = ordered("output", self.outputs, [outputs] if isinstance(outputs, Mapping) else outputs)
        results = [as_output(spec, value) for spec, value in zip(self.outputs, places, strict=True)]

        def step() -> None:
            for place, array in zip(results, self._outputs(ready), strict=True):
                place[...] = array

        return step

    def _outputs(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        if not self.is_open:
            raise OptionError(f"module {self._prefix} is closed; load it again")
        return [a if a.flags.writeable else a.copy() for a in self._execute(arrays)]  # runtimes lend their memory

    def profile(self) -> list[ProfileRow]:
        """Raises OptionError: these runtimes record no times of steps."""
        raise no_profile(self._prefix)

    def reset_profile(self) -> None:
        raise no_profile(self._prefix)

    @abstractmethod
    def close(self) -> None:
        """Gives the memory back; later runs raise OptionError."""

    def __del__(self) -> None:
        if hasattr(self, "_prefix"):  # else the folder was refused
            self.close()
