"""Running an FPGA project without the board: its C simulation as a shared library."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import OptionError, TargetError
from ..arrays import TensorSpec, as_input, as_output
from ..loader import Arrays, Module, check_files, ordered, read_manifest
from .csim import FLAGS, find_compiler


def open_module(directory: Path, threads: int | None) -> Module:
    """The project in a folder.  Raises TargetError without a C++ compiler."""
    return CsimModule(directory)


class CsimModule(Module):
    """The kernel compiled for this processor; floats are quantized as the host program does it."""

    def __init__(self, directory: Path) -> None:
        manifest = read_manifest(directory)
        check_files(directory, manifest)
        self.manifest: Mapping[str, Any] = manifest
        self.inputs = tuple(map(TensorSpec.from_json, manifest["inputs"]))
        self.outputs = tuple(map(TensorSpec.from_json, manifest["outputs"]))
        self._prefix = str(manifest["name"])
        self._ports = manifest["ports"]
        self._folder: str | None = tempfile.mkdtemp(prefix="tilewright-csim-")
        library = Path(self._folder) / "csim.so"
        command = [find_compiler(), *FLAGS, "-shared", "-fPIC", "-o", str(library), f"src/{self._prefix}.cpp"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            self.close()
            raise TargetError(f"load {directory}: the kernel does not compile: {done.stderr[-1000:]}")
        self._kernel = getattr(ctypes.CDLL(str(library)), self._prefix)
        self._kernel.restype = None

    @property
    def threads(self) -> int:
        return int(self._folder is not None)

    def __call__(self, *arrays: Any) -> list[np.ndarray]:
        given = ordered("input", self.inputs, arrays)
        return self._simulate([as_input(spec, value) for spec, value in zip(self.inputs, given, strict=True)])

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        sources = ordered("input", self.inputs, [inputs] if isinstance(inputs, Mapping) else inputs)
        ready = [as_input(spec, value, copy=False) for spec, value in zip(self.inputs, sources, strict=True)]
        places = ordered("output", self.outputs, [outputs] if isinstance(outputs, Mapping) else outputs)
        results = [as_output(spec, value) for spec, value in zip(self.outputs, places, strict=True)]

        def step() -> None:
            for place, array in zip(results, self._simulate(ready), strict=True):
                place[...] = array

        return step

    def _simulate(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        if self._folder is None:
            raise OptionError(f"module {self._prefix} is closed; load it again")
        ins = [encode(a, port) for a, port in zip(arrays, self._ports["inputs"], strict=True)]
        outs = [np.zeros(port["kernel_shape"], port["dtype"]) for port in self._ports["outputs"]]
        self._kernel(*(ctypes.c_void_p(a.ctypes.data) for a in (*ins, *outs)))
        rows = zip(outs, self._ports["outputs"], self.outputs, strict=True)
        return [decode(a, port).reshape(spec.shape) for a, port, spec in rows]

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __del__(self) -> None:
        if getattr(self, "_folder", None) is not None:
            self.close()


def encode(x: np.ndarray, port: Mapping[str, Any]) -> np.ndarray:
    """Floats of the model's shape as codes of a port, in the kernel's order."""
    x = x.astype(np.float64)
    if port["perm"]:
        x = x.transpose(port["perm"])
    low, high = port["range"]
    return np.ascontiguousarray(np.clip(np.floor(x * 2.0 ** port["frac"] + 0.5), low, high).astype(port["dtype"]))


def decode(codes: np.ndarray, port: Mapping[str, Any]) -> np.ndarray:
    """Codes of a port as floats of the model's shape."""
    y = (codes.astype(np.float64) * 2.0 ** -port["frac"]).astype(np.float32)
    return y.transpose(port["perm"]) if port["perm"] else y
