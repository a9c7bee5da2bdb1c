"""Tilewright: an ahead-of-time compiler from ONNX models to deployable artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compiler.api import compile as compile
    from .compiler.quantize.api import quantize
    from .ir.errors import InternalError, ModelError, OptionError, TargetError, TilewrightError
    from .targets.artifact import Artifact
    from .targets.loader import Module, load

__version__ = "0.1.0"
__all__ = [
    "Artifact", "InternalError", "ModelError", "Module", "OptionError", "TargetError", "TilewrightError", "compile", "load",
    "quantize",
]

# Loading an artifact must import NumPy and ctypes only, so every public name is resolved on first use.
_HOMES = {
    "quantize": ".compiler.quantize.api",
    "compile": ".compiler.api", "Artifact": ".targets.artifact", "Module": ".targets.loader", "load": ".targets.loader",
    "TilewrightError": ".ir.errors", "ModelError": ".ir.errors", "TargetError": ".ir.errors",
    "OptionError": ".ir.errors", "InternalError": ".ir.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
