"""Running an FPGA project without the board: its C simulation as a shared library."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import TargetError, TilewrightError
from ..arrays import TensorSpec
from ..host_module import HostModule
from ..loader import Module
from .csim import FLAGS, find_compiler, kernel_object, run_compiler


def open_module(directory: Path, threads: int | None) -> Module:
    """The project in a folder.  Raises TargetError without a C++ compiler."""
    return CsimModule(directory)


def _memory(directory: Path, facts: Mapping[str, Any]) -> np.ndarray:
    if not facts["file"]:
        return np.zeros(facts["words"], np.uint64)
    return np.fromfile(directory / "weights" / facts["file"], "<u8")


class CsimModule(HostModule):
    """The kernel compiled for this processor; floats are quantized as the host program does it."""

    _folder: str | None = None

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ports = self.manifest["ports"]
        self._folder = tempfile.mkdtemp(prefix="tilewright-csim-")
        self._memories = [_memory(directory, m) for m in self._ports.get("memories", ())]
        library = Path(self._folder) / "csim.so"
        streams = self._ports.get("interface") == "axis"
        linked = Path(self._folder) / "kernel.o"
        try:
            linked.write_bytes(kernel_object(directory, self._prefix))
            sources = [str(linked), *([f"tb/{self._prefix}_arrays.cpp"] if streams else [])]
            command = [find_compiler(), *FLAGS, "-shared", "-fPIC", "-o", str(library), *sources]
            run_compiler(command, directory)
        except (TilewrightError, OSError) as error:
            self.close()
            raise TargetError(f"load {directory}: the kernel does not compile: {error}") from error
        self._kernel = getattr(ctypes.CDLL(str(library)), self._prefix + "_arrays" * streams)
        self._kernel.restype = None

    @property
    def is_open(self) -> bool:
        return self._folder is not None

    def _execute(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        ins = [encode(a, port) for a, port in zip(arrays, self._ports["inputs"], strict=True)]
        outs = [np.zeros(port["kernel_shape"], port["dtype"]) for port in self._ports["outputs"]]
        self._kernel(*(ctypes.c_void_p(a.ctypes.data) for a in (*ins, *outs, *self._memories)))
        rows = zip(outs, self._ports["outputs"], self.outputs, strict=True)
        return [_typed(decode(a, port), spec).reshape(spec.shape) for a, port, spec in rows]

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _typed(y: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Floats in the type of the model's output; integers to the nearest."""
    return (y if spec.numpy.kind == "f" else np.rint(y)).astype(spec.numpy, copy=False)


_STEPS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum}


def encode(x: np.ndarray, port: Mapping[str, Any]) -> np.ndarray:
    """Floats of the model's shape as codes of a port, in the kernel's order."""
    if port["perm"]:
        x = x.transpose(port["perm"])
    if "quantizer" in port:
        scale, zero, low, high = port["quantizer"]
        x = x.astype(np.float32)
        for op, number in port["steps"]:
            x = _STEPS[op](x, np.float32(number))
        codes = np.rint(x / np.float32(scale)) + np.float32(zero)
    else:
        low, high = port["range"]
        codes = np.floor(x.astype(np.float64) * 2.0 ** port["frac"] + 0.5)
    return np.ascontiguousarray(np.clip(codes, low, high).astype(port["dtype"]))


def decode(codes: np.ndarray, port: Mapping[str, Any]) -> np.ndarray:
    """Codes of a port as floats of the model's shape."""
    scale, offset = np.asarray(port.get("scale", 2.0 ** -port["frac"])), np.asarray(port.get("offset", 0.0))
    y = (codes.astype(np.float64) * scale + offset).astype(np.float32)
    for op, numbers in port.get("steps", ()):
        y = _STEPS[op](y, np.asarray(numbers, np.float32))
    return y.transpose(port["perm"]) if port["perm"] else y
