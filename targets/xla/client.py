"""What XLA does for us through jaxlib: verify a module, make it portable, compile and run it on the processor.

jaxlib and jax are imported on first use: emitting StableHLO needs neither.
"""

# pyright: reportMissingImports=false
# jax is optional, and not for every Python: checked against where it is installed.

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ...ir.errors import InternalError, TargetError
from .host import installed

PORTABLE_VERSION = "1.9.0"
"""The StableHLO version of portable artifacts: read by every XLA since March 2025."""


def require_jax() -> ModuleType:
    """The module jax.  Raises TargetError where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import jax
    except ImportError as error:
        raise TargetError(
            f"XLA: the Python package jax is missing ({error}); install it with: pip install 'tilewright[tpu]'"
        ) from error
    return jax


@functools.cache
def _context() -> Any:
    """An MLIR context that knows StableHLO, functions and shardings."""
    require_jax()
    from jaxlib.mlir import ir
    from jaxlib.mlir._mlir_libs import _jax_mlir_ext
    from jaxlib.mlir.dialects import sdy, stablehlo

    context = ir.Context()
    registry = ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    context.append_dialect_registry(registry)
    context.load_all_available_dialects()
    for dialect in (stablehlo, sdy):
        dialect.register_dialect(context)
    return context


def parse(text: str) -> Any:
    """The module, checked by MLIR's verifier.  Raises InternalError: we wrote it."""
    context = _context()
    from jaxlib.mlir import ir

    try:
        with context, ir.Location.unknown():
            module = ir.Module.parse(text)
            module.operation.verify()
    except ir.MLIRError as error:
        raise InternalError(f"StableHLO: MLIR refuses the module: {error}", text) from error
    return module


def portable(text: str, version: str = PORTABLE_VERSION) -> bytes:
    """The module as bytes that every XLA from `version` on reads.  Splits over chips are of another dialect, which has
    no versions.  Raises InternalError for a module that MLIR refuses or that the version cannot say."""
    module = parse(text)
    from jaxlib.mlir.dialects import stablehlo

    try:
        with _context():
            return stablehlo.serialize_portable_artifact(module, version, allow_other_dialects="sdy.mesh" in text)
    except ValueError as error:
        raise InternalError(f"StableHLO {version}: the module cannot be serialized: {error}", text) from error


def from_portable(data: bytes) -> Any:
    context = _context()
    from jaxlib.mlir.dialects import stablehlo

    with context:
        return stablehlo.deserialize_portable_artifact(context, data)


def jax_versions() -> dict[str, str]:
    """The versions that a manifest records."""
    require_jax()
    return {"jaxlib": installed("jaxlib"), "stablehlo": PORTABLE_VERSION}


@functools.cache
def _device(platform: str) -> Any:
    """The first device of a platform; the processor without asking whether there are others."""
    jax = require_jax()
    from jaxlib import xla_client

    return xla_client.make_cpu_client().local_devices()[0] if platform == "cpu" else jax.devices(platform)[0]


class Executable:
    """A module compiled for a device of this machine, its weights on that device."""

    def __init__(self, module: Any, weights: Sequence[Any], platform: str = "cpu") -> None:
        """module: text or what `from_portable` gives.  weights: arrays, those that are on the device already included.
        Raises TargetError when XLA has no such device or refuses the module."""
        require_jax()
        from jaxlib import xla_client

        try:
            self._device = _device(platform)
            devices = xla_client.DeviceList((self._device,))
            self._loaded = self._device.client.compile_and_load(module, devices, xla_client.CompileOptions())
        except (RuntimeError, ValueError) as error:
            raise TargetError(f"XLA cannot compile the module for {platform}: {error}") from error
        self.weights = [self.put(a) for a in weights]

    def put(self, array: Any) -> Any:
        """The array on the device, in its own element type; the same if it is there."""
        jax = require_jax()
        with jax.enable_x64(True):
            return jax.device_put(array, self._device)

    def start(self, arrays: Sequence[Any]) -> list[Any]:
        """The results on the device, perhaps not computed yet.  arrays: from `put`."""
        results = self._loaded.execute_sharded([*arrays, *self.weights])
        return [parts[0] for parts in results.disassemble_into_single_device_arrays()]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(part) for part in self.start(list(map(self.put, arrays)))]
