"""The ONNX importer: `import_model` makes a Graph, `check_model` says what a model uses and what of it is supported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import ValueInfoProto

from ...ir.graph import Graph
from .builder import NotConstantError
from .importer import import_graph
from .inputs import Shapes
from .reader import ModelSource, read_model
from .support import ModelSummary, OperatorUse, node_operators, operators_used, require_supported
from .tensors import DTYPE_OF_ONNX, NARROW

__all__ = [
    "ModelSource", "ModelSummary", "NotConstantError", "OperatorUse", "check_model", "check_supported", "import_model",
    "operators_of_nodes",
]


def import_model(
    model: ModelSource,
    *,
    shapes: Shapes | None = None,
    dims: Mapping[str, int] | None = None,
    base_dir: Path | None = None,
) -> Graph:
    """The graph of an ONNX model.

    model: a path, the bytes of a file, or a ModelProto.  shapes: dimensions of inputs, sizes or names, by input name;
    dims: sizes by the name of a symbolic dimension; what stays open is symbolic.  base_dir: the folder of external data,
    default that of the file.

    Raises ModelError for a model that is invalid or uses what is not supported (all such operators at once), OptionError
    for shapes and dims that do not fit the model.
    """
    return import_graph(read_model(model, base_dir), shapes, dims)


def check_model(model: ModelSource, *, base_dir: Path | None = None) -> ModelSummary:
    """What a model takes, gives and uses, without importing it.  Raises ModelError if it is not an ONNX model."""
    file = read_model(model, base_dir)
    graph = file.proto.graph
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = tuple((v.name, _declared(v)) for v in graph.input if v.name not in constants)
    outputs = tuple((v.name, _declared(v)) for v in graph.output)
    return ModelSummary(file.name, file.opsets, inputs, outputs, operators_used(file))


def operators_of_nodes(model: ModelSource) -> dict[str, str]:
    """Node -> its operator."""
    return node_operators(read_model(model))


def check_supported(model: ModelSource) -> None:
    """Raises ModelError, with all of them in a table, if the model uses operators that are not supported."""
    require_supported(read_model(model))


def _declared(v: ValueInfoProto) -> str:
    kind = v.type.WhichOneof("value")
    if kind != "tensor_type":
        return (kind or "unknown").removesuffix("_type")
    t = v.type.tensor_type
    dims = ", ".join(d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in t.shape.dim)
    name = DTYPE_OF_ONNX.get(t.elem_type) or NARROW.get(t.elem_type, ("", f"type {t.elem_type}"))[1]
    return f"{name}[{dims if t.HasField('shape') else '...'}]"
