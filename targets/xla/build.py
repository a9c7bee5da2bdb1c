"""From a graph to an artifact that XLA runs on a processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...codegen.stablehlo.emit import emit_module
from ...ir.graph import Graph
from ...ir.ops.base import Op
from ...ir.ops.contract import ConvTranspose, MatMul
from ...ir.ops.control import Scan
from ...ir.types import TensorType
from ..artifact import Artifact
from ..cpu.packaging import timed
from .client import jax_versions, portable
from .host import XlaMachine
from .package import package

Progress = Callable[[str], None]
WHOLE = (ConvTranspose, Scan)
"""Composites with a translation of their own."""


def is_native(machine: object, op: Op, types: tuple[TensorType, ...]) -> bool:
    """What StableHLO says as it is, and products of signed bytes."""
    return isinstance(op, WHOLE) or is_byte_product(op, types)


def is_byte_product(op: Op, types: tuple[TensorType, ...]) -> bool:
    """Whether both operands are signed bytes, which StableHLO multiplies into i32."""
    return isinstance(op, MatMul) and all(t.dtype == "i8" for t in types[:2])


def build(
    graph: Graph, machine: XlaMachine, *, name: str, accuracy: str = "default", model_sha256: str = "",
    options: Mapping[str, Any] | None = None, progress: Progress | None = None, **unused: Any,
) -> Artifact:
    """The artifact of an optimized graph.  accuracy "strict": products in full f32, where a device has less.

    Raises TargetError without jaxlib and for what StableHLO cannot say, InternalError for a module that MLIR refuses.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "StableHLO"):
        module = emit_module(graph, precision=product_precision(accuracy))
    with timed(seconds, "verify StableHLO"):
        versions = jax_versions()
        data = portable(module.text)
    return package(
        module, name=name or graph.name, model_name=graph.name, target=f"xla:{machine.name}",
        machine={"arch": "xla", "platform": machine.name}, versions=versions, model_sha256=model_sha256,
        options=options or {}, portable=data, timings=seconds,
    )


def product_precision(accuracy: str) -> str:
    return "HIGHEST" if accuracy == "strict" else "DEFAULT"
