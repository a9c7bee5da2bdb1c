"""Compute the mean of an image in the loop of the depthwise convolution that makes it.

    y = Fused[contract](Conv[groups = C])                 y, m = Fused[means](Conv[groups = C], Reduce[mean, axis 2])
    r = Fused[reduce](Reduce[mean, axes 1 and 2](y))  ->  r = Fused[reduce](Reduce[mean, axis 1](m))

What squeeze-and-excitation asks for.  The mean of a row of pixels is taken while the row is in the cache; what is left to
read afterwards is a row of the image's size divided by its width.  Runs on fused graphs, on what is stored in f32.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.graph import Graph, Node, Value
from ...ir.ops.contract import Conv
from ...ir.ops.control import Fused
from ...ir.ops.reduce import Reduce
from ...ir.types import TensorType

MEAN = Reduce("mean", (1, 2), True)
MOST_TAPS = 64  # of the window: the loop of larger ones is not unrolled


def row_means(graph: Graph) -> Graph:
    makers = graph.producers
    means: dict[Node, Node] = {}  # of the convolution -> of the mean
    for node in graph.nodes:
        maker = makers.get(node.inputs[0]) if _only(node) == MEAN else None
        if maker is not None and maker not in means and _is_depthwise(maker):
            means[maker] = node
    if not means:
        return graph
    rows: dict[Node, Value] = {}  # of the mean -> what is left to reduce
    nodes: list[Node] = []
    for node in graph.nodes:
        if node in means:
            mean = means[node]
            node, rows[mean] = _with_means(node)
        elif node in rows:
            node = _of_rows(node, rows[node])
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _only(node: Node) -> object:
    """The operator of a group of one."""
    return node.op.body.nodes[0].op if isinstance(node.op, Fused) and len(node.op.body.nodes) == 1 else None


def _is_depthwise(node: Node) -> bool:
    """A group around a depthwise convolution of an image of known size, with one result."""
    if not isinstance(node.op, Fused) or node.op.kind != "contract" or len(node.outputs) != 1:
        return False
    found = [n for n in node.op.body.nodes if isinstance(n.op, Conv)]
    shape = node.outputs[0].type.shape
    if len(found) != 1 or len(shape) != 4 or not all(isinstance(n, int) and n > 1 for n in shape[1:]):
        return False
    (conv,) = found
    x, w = (v.type for v in conv.inputs[:2])
    kept = (x.dtype, w.dtype, node.outputs[0].type.dtype) == ("f32",) * 3 and conv.outputs[0].type.shape == shape
    return kept and conv.op.groups == x.shape[-1] == w.shape[-1] and prod(w.static_shape[:-1]) <= MOST_TAPS  # type: ignore


def _with_means(node: Node) -> tuple[Node, Value]:
    assert isinstance(node.op, Fused)
    body, (y,) = node.op.body, node.op.body.outputs
    batch, height, _, channels = y.type.shape
    type = TensorType(y.type.dtype, (batch, height, 1, channels))
    inner, outer = (Value(f"{name}.rows", type) for name in (y.name, node.outputs[0].name))
    last = Node(Reduce("mean", (2,), True), (y,), (inner,), body.nodes[-1].where)
    op = Fused(Graph("means", body.inputs, (y, inner), (*body.nodes, last), body.constants), "means")
    return Node(op, node.inputs, (*node.outputs, outer), node.where), outer


def _of_rows(node: Node, rows: Value) -> Node:
    assert isinstance(node.op, Fused)
    body = node.op.body
    (mean,) = body.nodes
    read = Value(rows.name, rows.type)
    left = Node(Reduce("mean", (1,), True), (read,), mean.outputs, mean.where)
    return Node(replace(node.op, body=replace(body, inputs=(read,), nodes=(left,))), (rows,), node.outputs, node.where)
