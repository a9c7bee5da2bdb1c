"""Attributes of a node, checked against ONNX's own schema of the operator and turned into Python values.

An operator outside of the standard has no schema: the signature of the function that imports it stands for one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto
from onnx.defs import OpSchema

from ...ir.errors import ModelError
from .tensors import TensorReader, read_sparse

_SPARSE_LIMIT = 2**30  # bytes of a sparse tensor once it is dense

# AttributeProto type -> its value.  Names of strings stay bytes where they are not text.
_VALUES: dict[int, Callable[[AttributeProto, TensorReader, str], Any]] = {
    AttributeProto.FLOAT: lambda a, r, w: a.f,
    AttributeProto.INT: lambda a, r, w: a.i,
    AttributeProto.STRING: lambda a, r, w: _text(a.s, w),
    AttributeProto.TENSOR: lambda a, r, w: r.read(a.t, w),
    AttributeProto.SPARSE_TENSOR: lambda a, r, w: read_sparse(r, a.sparse_tensor, w, _SPARSE_LIMIT),
    AttributeProto.GRAPH: lambda a, r, w: a.g,
    AttributeProto.FLOATS: lambda a, r, w: tuple(a.floats),
    AttributeProto.INTS: lambda a, r, w: tuple(a.ints),
    AttributeProto.STRINGS: lambda a, r, w: tuple(_text(s, w) for s in a.strings),
    AttributeProto.TYPE_PROTO: lambda a, r, w: a.tp,
}


def describe(node: NodeProto) -> str:
    """How messages call a node."""
    domain = f"{node.domain}:" if node.domain else ""
    if node.name:
        return f"node {node.name!r} ({domain}{node.op_type})"
    outputs = ", ".join(o for o in node.output if o)
    return f"node that makes {outputs!r} ({domain}{node.op_type})"


def read_attributes(node: NodeProto, schema: OpSchema, tensors: TensorReader) -> dict[str, Any]:
    """The node's attributes and the defaults of the others.  Raises ModelError for one that is unknown, given twice, of
    another type, or required and missing."""
    where = describe(node)
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if name not in schema.attributes:
            known = ", ".join(sorted(schema.attributes)) or "none"
            raise ModelError(f"{where}: unknown attribute {name!r}; {schema.name} since {schema.since_version} has: {known}")
        if name in values:
            raise ModelError(f"{where}: attribute {name!r} is given twice")
        expected = _type_name(schema.attributes[name])
        got = AttributeProto.AttributeType.Name(attribute.type) if attribute.type else "no type"
        if got != expected:
            raise ModelError(f"{where}: attribute {name!r} must be {expected}, got {got}")
        values[name] = attribute_value(attribute, tensors, f"{where}, attribute {name!r}")
    for name, facts in schema.attributes.items():
        if name in values:
            continue
        if facts.required:
            raise ModelError(f"{where}: attribute {name!r} ({_type_name(facts)}) is required and missing")
        if facts.default_value.type:
            values[name] = attribute_value(facts.default_value, tensors, where)
    return values


# Annotation of a parameter -> the type of attribute that it takes.
_ANNOTATIONS = {
    "int": "INT", "int | None": "INT", "float": "FLOAT", "float | None": "FLOAT", "str": "STRING",
    "tuple[int, ...]": "INTS", "tuple[int, ...] | None": "INTS",
    "tuple[float, ...]": "FLOATS", "tuple[float, ...] | None": "FLOATS", "tuple[str, ...] | None": "STRINGS",
}


def read_extension_attributes(node: NodeProto, function: Callable[..., Any], tensors: TensorReader) -> dict[str, Any]:
    """As `read_attributes`, for a function whose keyword-only parameters are the attributes."""
    where = describe(node)
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if name not in known:
            raise ModelError(f"{where}: unknown attribute {name!r}; it has: {', '.join(sorted(known)) or 'none'}")
        if name in values:
            raise ModelError(f"{where}: attribute {name!r} is given twice")
        expected = _ANNOTATIONS[known[name].annotation]
        got = AttributeProto.AttributeType.Name(attribute.type) if attribute.type else "no type"
        if got != expected:
            raise ModelError(f"{where}: attribute {name!r} must be {expected}, got {got}")
        values[name] = attribute_value(attribute, tensors, f"{where}, attribute {name!r}")
    missing = [n for n, p in known.items() if p.default is p.empty and n not in values]
    if missing:
        raise ModelError(f"{where}: attribute {missing[0]!r} is required and missing")
    return values


def check_extension_counts(node: NodeProto, function: Callable[..., Any]) -> None:
    """Raises ModelError unless the function takes as many operands as the node has, and those that it needs are there."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    plain = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    low = sum(p.default is p.empty for p in plain)
    high = 2**31 if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(plain)
    if not low <= len(node.input) <= high:
        raise ModelError(f"{describe(node)}: expected {low} to {min(high, 99)} inputs, got {len(node.input)}")
    for n, p in enumerate(plain):
        if n < len(node.input) and not node.input[n] and p.default is p.empty and "None" not in str(p.annotation):
            raise ModelError(f"{describe(node)}: input {n} ({p.name}) is missing")


def _type_name(facts: Any) -> str:
    return facts.type.name


def attribute_value(attribute: AttributeProto, tensors: TensorReader, where: str) -> Any:
    if attribute.type not in _VALUES:
        raise ModelError(f"{where}: attributes of type {attribute.type} are not supported")
    return _VALUES[attribute.type](attribute, tensors, where)


def check_counts(node: NodeProto, schema: OpSchema) -> None:
    """Raises ModelError unless the node has as many inputs and outputs as its operator takes."""
    for what, count, low, high in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    ):
        if not low <= count <= high:
            bounds = str(low) if low == high else f"{low} or more" if high >= 2**31 - 1 else f"{low} to {high}"
            raise ModelError(f"{describe(node)}: expected {bounds} {what}, got {count}")
    for n, formal in enumerate(schema.inputs):
        absent = n >= len(node.input) or not node.input[n]
        if absent and formal.option == OpSchema.FormalParameterOption.Single:
            raise ModelError(f"{describe(node)}: input {n} ({formal.name}) is missing")


def with_references(node: NodeProto, given: Mapping[str, AttributeProto]) -> NodeProto:
    """A node of a function body with its attribute references replaced by the call's attributes; a reference to one that
    the call does not give disappears, so that the operator's default holds.  Subgraphs are done too."""
    result = NodeProto()
    result.CopyFrom(node)
    del result.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            if attribute.ref_attr_name in given:
                copy = result.attribute.add()
                copy.CopyFrom(given[attribute.ref_attr_name])
                copy.name = attribute.name
            continue
        copy = result.attribute.add()
        copy.CopyFrom(attribute)
        for graph in (*([copy.g] if copy.HasField("g") else ()), *copy.graphs):
            nodes = [with_references(n, given) for n in graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
    return result


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ModelError(f"{where}: not UTF-8 text: {data[:40]!r}") from None


def find_schema(node: NodeProto, opset: int) -> OpSchema | None:
    """ONNX's schema of a node's operator in an opset; deprecated ones are replaced by the last that was not."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    while opset > 0:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, domain)
        except onnx.defs.SchemaError:
            return None
        if not schema.deprecated:
            return schema
        opset = schema.since_version - 1
    return None
