"""What a model uses and what of it can be imported: every operator type, not only the first that is missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import FunctionProto, NodeProto

from ...ir.errors import ModelError
from .attributes import describe, find_schema
from .functions import FunctionKey, depends_on_operands, function_table, standard_body
from .reader import ModelFile, normal_domain, opset_versions
from .structure import subgraphs
from .table import find_op, oldest_version

_DEEPEST = 32  # nested function calls
_MOST_NODES = 2**17
_SHOWN = 3  # node names per operator
_REFUSED_DOMAINS = {
    "com.microsoft.nchwc": "a layout for one processor, by ONNX Runtime; take the original model, or one saved with "
    "ORT_ENABLE_EXTENDED",
}


@dataclass(frozen=True)
class OperatorUse:
    """One operator type of a model.  nodes: the names of the first few; reason: why it cannot be imported, or ""."""

    domain: str
    operator: str
    version: int
    count: int
    nodes: tuple[str, ...]
    reason: str

    @property
    def full_name(self) -> str:
        return f"{self.domain or 'ai.onnx'}:{self.operator}"


@dataclass(frozen=True)
class ModelSummary:
    """inputs, outputs: (name, type) as the model declares them; operators: by number of nodes, most first."""

    name: str
    opsets: Mapping[str, int]
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    operators: tuple[OperatorUse, ...]

    @property
    def unsupported(self) -> tuple[OperatorUse, ...]:
        return tuple(u for u in self.operators if u.reason)


def operators_used(model: ModelFile) -> tuple[OperatorUse, ...]:
    """Every operator type of the graph, its subgraphs and the functions that it calls."""
    functions = function_table(model.proto)
    uses: dict[tuple[str, str, int], OperatorUse] = {}
    _count(model.proto.graph.node, model.opsets, functions, uses, (), itertools.count(1))
    return tuple(sorted(uses.values(), key=lambda u: (-u.count, u.full_name)))


def node_operators(model: ModelFile) -> dict[str, str]:
    """The operator of every node by its name, and of nodes without one by the operator's own; those of functions too."""
    found: dict[str, str] = {}

    def collect(nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            domain = normal_domain(node.domain)
            found.setdefault(node.name or node.op_type, f"{domain or 'ai.onnx'}:{node.op_type}")
            for graph in subgraphs(node):
                collect(graph.node)

    collect(model.proto.graph.node)
    for f in model.proto.functions:
        collect(f.node)
    return found


def _count(
    nodes: Iterable[NodeProto], opsets: Mapping[str, int], functions: Mapping[FunctionKey, FunctionProto],
    uses: dict[tuple[str, str, int], OperatorUse], calls: tuple[FunctionKey, ...], numbers: Iterator[int],
) -> None:  # fmt: skip
    for node in nodes:
        require_few(next(numbers), describe(node))
        domain = normal_domain(node.domain)
        called = (domain, node.op_type, node.overload)
        if called in functions:
            if called in calls or len(calls) >= _DEEPEST:
                raise ModelError(f"{describe(node)}: the function calls itself, or calls are nested too deep")
            f = functions[called]
            versions = {**opsets, **opset_versions(f.opset_import, describe(node))}
            _count(f.node, versions, functions, uses, (*calls, called), numbers)
        else:
            _add(node, domain, opsets, uses)
        for graph in subgraphs(node):
            _count(graph.node, opsets, functions, uses, calls, numbers)


def require_few(number: int, where: str) -> None:
    """Raises ModelError when this is one node too many: functions that call functions, and loops in loops, make any number
    of nodes from a small file."""
    if number > _MOST_NODES:
        raise ModelError(f"{where}: more than {_MOST_NODES} nodes, with those of called functions and unrolled loops")


def _add(
    node: NodeProto, domain: str, opsets: Mapping[str, int], uses: dict[tuple[str, str, int], OperatorUse]
) -> None:
    opset = opsets.get(domain, 0)
    schema = find_schema(node, opset)
    version = schema.since_version if schema else opset
    name = node.name or next((o for o in node.output if o), "")
    key = (domain, node.op_type, version)
    if key in uses:
        u = uses[key]
        uses[key] = replace(u, count=u.count + 1, nodes=(*u.nodes, name)[:_SHOWN])
    else:
        uses[key] = OperatorUse(domain, node.op_type, version, 1, (name,), reason_for(node, opsets))


def reason_for(node: NodeProto, opsets: Mapping[str, int]) -> str:
    """Why an operator cannot be imported in a model of these opsets, or ""."""
    domain = normal_domain(node.domain)
    opset = opsets.get(domain)
    oldest = oldest_version(domain, node.op_type)
    if opset is None:
        if find_op(domain, node.op_type, 0) is not None:  # some exporters do not name the version of an extension
            return ""
        return "the model imports no version of this domain"
    if find_op(domain, node.op_type, opset) is not None or depends_on_operands(node, opset):
        return ""
    body = standard_body(node, opset, None)
    if body is not None:
        versions = opset_versions(body.opset_import, describe(node))
        needed = {n.op_type: reason_for(n, versions) for n in body.node}
        return next((f"it needs {name}: {reason}" for name, reason in needed.items() if reason), "")
    if oldest is not None:
        return f"opset {opset} is too old for it; supported from opset {oldest}: onnx.version_converter"
    if find_schema(node, opset) is None:
        if domain in _REFUSED_DOMAINS:
            return _REFUSED_DOMAINS[domain]
        known = domain in ("", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.preview")
        return f"no such operator in opset {opset}" if known else "an operator outside of the ONNX standard"
    return "not supported yet"


def require_supported(model: ModelFile) -> None:
    """Raises ModelError with a table of all operators that cannot be imported."""
    missing = [u for u in operators_used(model) if u.reason]
    if missing:
        raise ModelError(_table(model, missing))


def _table(model: ModelFile, uses: Sequence[OperatorUse]) -> str:
    nodes = sum(u.count for u in uses)
    rows = [("operator", "version", "nodes", "first nodes", "reason")]
    rows += [(u.full_name, str(u.version), str(u.count), ", ".join(u.nodes), u.reason) for u in uses]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)) + "  " + row[4] for row in rows]
    count = f"{len(uses)} operator{'s' if len(uses) > 1 else ''} ({nodes} node{'s' if nodes > 1 else ''})"
    return f"{model.name}: {count} cannot be imported:\n" + "\n".join(lines)
