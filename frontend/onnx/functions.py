"""Functions: operators that are defined by other operators, in the model or in the ONNX standard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto
from onnx.defs import OpSchema

from ...ir.errors import ModelError
from ...ir.graph import Value
from .attributes import describe, find_schema, with_references
from .builder import NarrowTensor, TensorSequence
from .reader import normal_domain, opset_versions
from .table import Imported
from .tensors import ONNX_OF_DTYPE


@dataclass(frozen=True, eq=False)
class Body:
    """A function call ready to be imported: the nodes see the inputs under `inputs` and define `outputs`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[NodeProto, ...]
    opsets: dict[str, int]


FunctionKey = tuple[str, str, str]


def function_table(model: onnx.ModelProto) -> dict[FunctionKey, FunctionProto]:
    """The model's own functions.  Raises ModelError if two have one name."""
    table: dict[FunctionKey, FunctionProto] = {}
    for f in model.functions:
        key = (normal_domain(f.domain), f.name, f.overload)
        if key in table:
            raise ModelError(f"function {f.domain}:{f.name} is defined twice")
        table[key] = f
    return table


def call_body(node: NodeProto, f: FunctionProto, opsets: Mapping[str, int]) -> Body:
    """The body of a function for one call: the call's attributes are put in, absent outputs stay absent."""
    where = describe(node)
    if len(node.input) > len(f.input) or len(node.output) > len(f.output):
        raise ModelError(
            f"{where}: the function has {len(f.input)} inputs and {len(f.output)} outputs, it is called with "
            f"{len(node.input)} and {len(node.output)}"
        )
    given: dict[str, AttributeProto] = {a.name: a for a in f.attribute_proto}
    for a in node.attribute:
        if a.name not in given and a.name not in f.attribute:
            known = ", ".join([*f.attribute, *given]) or "none"
            raise ModelError(f"{where}: unknown attribute {a.name!r}; the function has: {known}")
        given[a.name] = a
    missing = [name for name in f.attribute if name not in given and _needs(f, name)]
    if missing:
        raise ModelError(f"{where}: the function's attributes {', '.join(missing)} are missing")
    versions = {**opsets, **opset_versions(f.opset_import, where)}
    return Body(tuple(f.input), tuple(f.output), tuple(with_references(n, given) for n in f.node), versions)


def _needs(f: FunctionProto, name: str) -> bool:
    """Whether a body cannot do without an attribute: a required attribute of an operator refers to it."""
    for node in f.node:
        for a in node.attribute:
            if a.ref_attr_name == name:
                version = next((o.version for o in f.opset_import if o.domain == node.domain), 1)
                schema = find_schema(node, version)
                if schema is not None and a.name in schema.attributes and schema.attributes[a.name].required:
                    return True
    return False


def depends_on_operands(node: NodeProto, opset: int) -> bool:
    """Whether the ONNX standard defines the operator by others in a way that depends on the operands' types."""
    schema: Any = find_schema(node, opset)  # the package's stubs do not know its functions
    return schema is not None and schema.has_context_dependent_function and not schema.has_function


def standard_body(node: NodeProto, opset: int, operands: Sequence[Imported] | None) -> FunctionProto | None:
    """The standard's definition of a node's operator, for these operands if it depends on them; None if it has none."""
    schema: Any = find_schema(node, opset)
    if schema is None:
        return None
    if schema.has_function:
        version = _version(schema.function_opset_versions, opset)
        return None if version is None else _parsed(schema.get_function_with_opset_version(version), schema)
    version = _version(schema.context_dependent_function_opset_versions, opset)
    if not schema.has_context_dependent_function or version is None or operands is None:
        return None
    types = [_type_proto(v).SerializeToString() for v in operands]
    data = node.SerializeToString()
    try:
        return _parsed(schema.get_context_dependent_function_with_opset_version(version, data, types), schema)
    except (RuntimeError, ValueError) as e:
        raise ModelError(f"{describe(node)}: the standard does not define it for these operands: {e}") from None


def _version(versions: Sequence[int], opset: int) -> int | None:
    return max((v for v in versions if v <= opset), default=min(versions, default=None))


def _parsed(data: bytes, schema: OpSchema) -> FunctionProto | None:
    """The function, with the defaults of the operator's attributes."""
    if not data:
        return None
    f = FunctionProto.FromString(data)
    named = {*f.attribute, *(a.name for a in f.attribute_proto)}
    f.attribute.extend(name for name in schema.attributes if name not in named)
    for name, facts in schema.attributes.items():
        if facts.default_value.type and name not in {a.name for a in f.attribute_proto}:
            f.attribute_proto.append(facts.default_value)
    return f


def _type_proto(v: Imported) -> onnx.TypeProto:
    if isinstance(v, TensorSequence):
        return onnx.helper.make_sequence_type_proto(_type_proto(v.items[0] if v.items else None))
    if isinstance(v, NarrowTensor):
        return onnx.helper.make_tensor_type_proto(v.code, None)
    if not isinstance(v, Value):
        return onnx.TypeProto()
    dims = [d if isinstance(d, int) else str(d) for d in v.type.shape]
    return onnx.helper.make_tensor_type_proto(ONNX_OF_DTYPE[v.type.dtype], dims)
