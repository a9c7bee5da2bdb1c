"""Passes reach the graphs of control flow."""

import numpy as np
from passes.meaning import counts, f32, preserved
from tilewright.compiler.passes.bodies import in_bodies
from tilewright.compiler.passes.expand_composites import expand_composites
from tilewright.compiler.passes.simplify import simplify
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.control import If, Loop
from tilewright.ir.ops.elementwise import Unary
from tilewright.ir.ops.norm import Softmax
from tilewright.ir.types import TensorType


def branch(*ops: Op) -> Graph:
    b = Builder("branch")
    x = b.input("x", f32(2, 3))
    for op in ops:
        x = b.add(op, x)
    return b.graph([x])


def test_a_branch_inside_a_loop_is_reached() -> None:
    inner = Builder("body")
    inner.input("i", TensorType("i64", ()))
    go, x = inner.input("go", TensorType("bool", ())), inner.input("x", f32(2, 3))
    chosen = If(branch(Softmax(1)), branch(Unary("neg"), Unary("neg"), Unary("neg")))
    body = inner.graph([inner.add(Unary("not"), inner.add(Unary("not"), go)), inner.add(chosen, go, x)])
    b = Builder()
    y = b.add(Loop(body, 1, 0), b.constant(np.array(3)), b.constant(np.array(True)), b.input("x", f32(2, 3)))
    graph = b.graph([y])
    after = preserved(graph, lambda g: in_bodies(in_bodies(g, expand_composites), simplify), 1e-6)
    inside = after.nodes[0].op.body  # type: ignore[attr-defined]
    assert counts(inside) == {"If": 1}
    chosen = inside.nodes[0].op
    assert "Softmax" not in counts(chosen.then) and counts(chosen.other) == {"neg": 1}


def test_a_graph_without_control_flow_is_returned_as_it_is() -> None:
    graph = branch(Unary("exp"))
    assert in_bodies(graph, expand_composites) is graph
