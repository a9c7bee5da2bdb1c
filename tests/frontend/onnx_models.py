"""Small ONNX models for the tests, and ways to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import Graph
from tilewright.ir.interpreter import run_graph

F32, F64, I64, BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL

node = helper.make_node


def value(name: str, *shape: int | str | None, dtype: int = F32) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def unknown(name: str, dtype: int = F32) -> ValueInfoProto:
    """A value of unknown rank."""
    return helper.make_tensor_value_info(name, dtype, None)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto | str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 21,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """outputs: names stand for f32 values of unknown rank."""
    initializers = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    results = [unknown(o) if isinstance(o, str) else o for o in outputs]
    graph = helper.make_graph(list(nodes), "test", list(inputs), results, initializers)
    versions = {"": opset, **(domains or {})}
    imports = [helper.make_opsetid(d, v) for d, v in versions.items()]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def run(m: onnx.ModelProto | Graph, *arrays: np.ndarray, **options: Any) -> list[np.ndarray]:
    """The outputs of the imported model in the interpreter."""
    graph = m if isinstance(m, Graph) else import_model(m, **options)
    return run_graph(graph, arrays)


def check_reference(m: onnx.ModelProto, *arrays: np.ndarray, rtol: float = 1e-5, atol: float = 1e-6) -> Graph:
    """Compare with ONNX's reference evaluator, all outputs; gives the imported graph."""
    graph = import_model(m)
    expected = ReferenceEvaluator(m).run(None, dict(zip((v.name for v in graph.inputs), arrays, strict=True)))
    for got, wanted in zip(run_graph(graph, arrays), expected, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol, atol)
    return graph


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
