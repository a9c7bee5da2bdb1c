"""Running an artifact of several sizes: each call by the smallest compiled size that holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import OptionError
from .arrays import as_input, as_output
from .host_module import HostModule
from .loader import RUNTIMES, Arrays, Module, ordered, read_manifest
from .xla.scripts.buckets import run_in_buckets


def open_module(directory: Path, threads: int | None) -> Module:
    """All sizes of the artifact in a folder, ready to run."""
    return BucketModule(directory)


class BucketModule(HostModule):
    """The modules of all sizes, with one copy of the weights on the device."""

    def __init__(self, directory: Path) -> None:
        self._modules: list[Any] = []
        super().__init__(directory)
        weights: dict[str, Any] = {}
        for bucket in self.manifest["buckets"]["sizes"]:
            folder = directory / bucket["folder"]
            runtime = import_module(RUNTIMES[read_manifest(folder)["runtime"]], __package__)
            self._modules.append(runtime.open_size(folder, weights))

    @property
    def is_open(self) -> bool:
        return bool(self._modules)

    def __call__(self, *arrays: Any) -> list[np.ndarray]:
        """As `Module`; dimensions of several sizes may have any size that they make up: rows that are independent are
        filled up with zeros, or computed in parts."""
        return self._outputs(self._checked(ordered("input", self.inputs, arrays), copy=True))

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        sources = ordered("input", self.inputs, [inputs] if isinstance(inputs, Mapping) else inputs)
        ready = self._checked(sources, copy=False)
        places = ordered("output", self.outputs, [outputs] if isinstance(outputs, Mapping) else outputs)
        shapes = [a.shape for a in self._outputs(ready)]
        rows = zip(self.outputs, shapes, places, strict=True)
        results = [as_output(replace(spec, shape=shape), value) for spec, shape, value in rows]

        def step() -> None:
            for place, array in zip(results, self._outputs(ready), strict=True):
                place[...] = array

        return step

    def _checked(self, values: Any, copy: bool) -> list[np.ndarray]:
        """Element types are checked here, sizes by the choice of a bucket."""
        specs = [replace(spec, shape=np.shape(value)) for spec, value in zip(self.inputs, values, strict=True)]
        return [as_input(spec, value, copy=copy) for spec, value in zip(specs, values, strict=True)]

    def _execute(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        try:
            return run_in_buckets(self.manifest["buckets"], arrays, lambda n, given: self._modules[n](*given))
        except ValueError as error:
            raise OptionError(f"module {self._prefix}: {error}; compile the model for this size too") from error

    def close(self) -> None:
        for module in self._modules:
            module.close()
        self._modules = []
