"""The graph verifier finds each kind of malformed graph and names the pass and the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tilewright.ir.errors import InternalError
from tilewright.ir.graph import Builder, Graph, Node, Value
from tilewright.ir.ops.control import Fused
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.types import TensorType
from tilewright.ir.verify import verify_graph

F = TensorType("f32", (2, 3))


def valid() -> Graph:
    b = Builder("model")
    x = b.input("x", F)
    y = b.add(Unary("exp"), x, name="y", where="first")
    z = b.add(Binary("add"), y, b.constant(np.ones((2, 3), np.float32), "one"), name="z", where="second")
    return b.graph([z], ["out"])


def swapped_nodes() -> Graph:
    graph = valid()
    return replace(graph, nodes=graph.nodes[::-1])


def wrong_type() -> Graph:
    graph = valid()
    first = graph.nodes[0]
    y = Value("y", TensorType("f32", (3, 2)))
    return replace(graph, nodes=(replace(first, outputs=(y,)),), outputs=(y,))


def wrong_operand() -> Graph:
    graph = valid()
    node = Node(Unary("not"), graph.inputs, (Value("n", F),), "third")
    return replace(graph, nodes=(*graph.nodes, node))


def wrong_constant() -> Graph:
    graph = valid()
    return replace(graph, constants={v: a[:1] for v, a in graph.constants.items()})


def defined_twice() -> Graph:
    graph = valid()
    return replace(graph, nodes=(graph.nodes[0], *graph.nodes))


def missing_output() -> Graph:
    graph = valid()
    return replace(graph, outputs=(Value("nowhere", F),))


def same_output_names() -> Graph:
    graph = valid()
    return replace(graph, outputs=graph.outputs * 2, output_names=("out", "out"))


def repeated_input() -> Graph:
    graph = valid()
    return replace(graph, inputs=graph.inputs * 2)


def broken_body() -> Graph:
    b = Builder("outer")
    body = swapped_nodes()
    return b.graph([b.add(Fused(body, "map"), b.input("x", F))])


def test_a_valid_graph_passes() -> None:
    verify_graph(valid(), "import_model")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (swapped_nodes, r"node Binary \(z\) of second reads .*y.*not defined before"),
        (wrong_type, r"node Unary \(y\) of first declares f32\[3, 2\], its operands give f32\[2, 3\]"),
        (wrong_operand, r"node Unary \(n\) of third refuses its operands: "),
        (wrong_constant, r"constant .*one.* holds an array of type f32\[1, 3\]"),
        (defined_twice, r"node Unary \(y\) of first defines .*y.* already"),
        (missing_output, r"output .*nowhere.* is not defined"),
        (same_output_names, r"2 outputs have the names out, out"),
        (repeated_input, r"input .*x.* listed twice"),
        (broken_body, r"node Fused \(.*\): graph model: node Binary \(z\) of second reads"),
    ],
)
def test_a_malformed_graph_is_refused(make: Callable[[], Graph], message: str) -> None:
    with pytest.raises(InternalError, match="after some_pass: graph .*" + message) as caught:
        verify_graph(make(), "some_pass")
    assert caught.value.ir
