"""Runs a graph with NumPy: the meaning that every pass and every target is compared with.

Symbolic dimensions get their values from the shapes of the inputs, and from the results of nodes whose output sizes
depend on data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Union

import numpy as np

from .bind import bind_op, bind_type
from .errors import InternalError, OptionError
from .expr import Var
from .graph import Graph, Node, Value
from .types import DTYPES, TensorType

Inputs = Union[Sequence[np.ndarray], Mapping[str, np.ndarray]]
Observer = Callable[[Node, tuple[np.ndarray, ...]], None]


def run_graph(graph: Graph, inputs: Inputs, observe: Observer | None = None) -> list[np.ndarray]:
    """The outputs of a graph, for inputs in order or by name.  observe is told each node and its results, in order.

    Raises OptionError for inputs that do not fit the graph, InternalError for a result that is not of its node's type.
    """
    sizes: dict[Var, int] = {}
    env: dict[Value, np.ndarray] = {}
    for v, array in zip(graph.inputs, _in_order(graph, inputs), strict=True):
        problem = _mismatch(array, v.type, sizes)
        if problem:
            raise OptionError(f"input {v.name!r} of {graph.name}: {problem}")
        env[v] = array
    env.update(graph.constants)
    uses = Counter(v for node in graph.nodes for v in node.inputs)
    uses.update(graph.outputs)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = _run_node(node, [env[v] for v in node.inputs], sizes)
            if observe:
                observe(node, results)
            env.update(zip(node.outputs, results, strict=True))
            uses.subtract(node.inputs)
            for v in (*node.inputs, *node.outputs):
                if not uses[v]:
                    env.pop(v, None)
    return [env[v] for v in graph.outputs]


def _run_node(node: Node, arrays: list[np.ndarray], sizes: dict[Var, int]) -> tuple[np.ndarray, ...]:
    results = tuple(np.asarray(a) for a in bind_op(node.op, sizes).evaluate(*arrays))
    if len(results) != len(node.outputs):
        raise InternalError(f"{node.op} gave {len(results)} results for {len(node.outputs)} outputs")
    for v, array in zip(node.outputs, results, strict=True):
        problem = _mismatch(array, v.type, sizes)
        if problem:
            raise InternalError(f"{node.op} at {node.where!r}, output {v.name!r}: {problem}")
    return results


def _in_order(graph: Graph, inputs: Inputs) -> list[np.ndarray]:
    names = [v.name for v in graph.inputs]
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(names):
            raise OptionError(f"{graph.name} has {len(names)} inputs, got {len(inputs)}; expected {', '.join(names)}")
        return [_as_array(a) for a in inputs]
    if set(inputs) != set(names):
        raise OptionError(f"{graph.name} has the inputs {', '.join(names)}, got {', '.join(inputs)}")
    return [_as_array(inputs[n]) for n in names]


def _as_array(value: object) -> np.ndarray:
    """NumPy's own strings become Python's."""
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "UT" else array


def _mismatch(array: np.ndarray, type: TensorType, sizes: dict[Var, int]) -> str:
    """What is wrong with an array of this type, or nothing; variables that have no value yet take it from the array."""
    if array.dtype != DTYPES[type.dtype].numpy or array.ndim != type.rank:
        return f"expected {type}, got an array of {array.dtype} with shape {array.shape}"
    for d, n in zip(type.shape, array.shape, strict=True):
        if isinstance(d, Var):
            sizes.setdefault(d, n)
    expected = bind_type(type, sizes)
    if expected.is_static and expected.shape != array.shape:
        return f"expected {type}, which is {expected.shape} here, got an array with shape {array.shape}"
    return ""
