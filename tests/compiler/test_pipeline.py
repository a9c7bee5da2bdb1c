"""Around every pass: verify, time, print, compare; whatever goes wrong names the pass and keeps the graph before it."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright import InternalError, ModelError
from tilewright.compiler.differential import difference, random_inputs
from tilewright.compiler.options import Options
from tilewright.compiler.pipeline import run_passes
from tilewright.compiler.progress import Stages
from tilewright.ir.graph import Builder, Graph, Node, Value, rewrite_graph
from tilewright.ir.ops.elementwise import Binary
from tilewright.ir.types import TensorType

SHAPE = TensorType("f32", (2, 3))


def small_graph() -> Graph:
    """y = (a + b) * a"""
    b = Builder("small")
    x, z = b.input("a", SHAPE), b.input("b", SHAPE)
    return b.graph([b.add(Binary("mul"), b.add(Binary("add"), x, z), x)], ["y"])


def keep(graph: Graph) -> Graph:
    return graph


def swap_operands(graph: Graph) -> Graph:
    """Changes nothing in the numbers."""

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> Value:
        return b.add(node.op, *reversed(inputs))

    return rewrite_graph(graph, rule)


def add_to_sub(graph: Graph) -> Graph:
    """A wrong rewrite that the verifier cannot see."""

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> Value | None:
        return b.add(Binary("sub"), *inputs) if node.op == Binary("add") else None

    return rewrite_graph(graph, rule)


def lose_a_node(graph: Graph) -> Graph:
    """An invalid graph."""
    return Graph(graph.name, graph.inputs, graph.outputs, graph.nodes[1:], graph.constants, graph.output_names)


def run(passes: list, **options) -> Graph:
    return run_passes(small_graph(), Options(**options), Stages(), lambda *_: None, passes)


def test_passes_run_in_order_and_are_timed() -> None:
    calls: list[tuple[str, int, int]] = []
    stages = Stages(lambda *call: calls.append(call))
    shown: list[tuple[str, str]] = []
    options = Options(print_after=("two",), verify=False)
    passes = [("one", keep), ("two", swap_operands)]
    graph = run_passes(small_graph(), options, stages, lambda *s: shown.append(s), passes)
    assert calls == [("one", 0, 2), ("two", 1, 2)]
    assert list(stages.seconds) == ["one", "two"]
    assert [(name, text) for name, text in shown] == [("two", str(graph))]


def test_an_invalid_graph_names_the_pass_and_shows_both_graphs() -> None:
    with pytest.raises(InternalError, match="lossy") as error:
        run([("first", keep), ("lossy", lose_a_node)])
    assert "before lossy" in error.value.ir
    assert "after lossy" in error.value.ir


def test_verification_can_be_turned_off() -> None:
    assert len(run([("lossy", lose_a_node)], verify=False).nodes) == 1


def test_a_failing_pass_is_our_bug_and_keeps_the_graph() -> None:
    def broken(graph: Graph) -> Graph:
        raise KeyError("axis")

    with pytest.raises(InternalError, match="pass broken: KeyError: 'axis'") as error:
        run([("broken", broken)])
    assert error.value.ir == str(small_graph())
    assert isinstance(error.value.__cause__, KeyError)


def test_what_a_pass_finds_wrong_with_the_model_stays_the_models_fault() -> None:
    def refuse(graph: Graph) -> Graph:
        raise ModelError("a loop without end")

    with pytest.raises(ModelError, match="a loop without end"):
        run([("refuse", refuse)])


def test_check_passes_names_the_first_pass_that_changes_the_numbers() -> None:
    passes = [("swap", swap_operands), ("wrong", add_to_sub), ("later", keep)]
    run(passes)  # the verifier sees nothing
    with pytest.raises(InternalError, match="pass wrong changes the results: output 'y' differs by") as error:
        run(passes, check_passes=True)
    assert "before wrong" in error.value.ir


def test_random_inputs_are_the_same_every_time() -> None:
    first, second = random_inputs(small_graph()), random_inputs(small_graph())
    assert [a.shape for a in first] == [(2, 3), (2, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_input_too_large_to_check_is_an_error_not_a_crash() -> None:
    b = Builder("huge")
    x = b.input("x", TensorType("f32", (10**6, 10**6)))
    with pytest.raises(ModelError, match="too large to check"):
        random_inputs(b.graph([x]))


@pytest.mark.parametrize(
    ("want", "have", "words"),
    [
        (np.float32([1, 2]), np.float32([1, 2.00001]), ""),
        (np.float32([1, 2]), np.float32([1, 2.1]), "differs by 0.1"),
        (np.float32([1, np.nan, np.inf]), np.float32([1, np.nan, np.inf]), ""),
        (np.float32([1, np.nan]), np.float32([1, 0]), "infinite or NaN"),
        (np.float32([np.inf]), np.float32([-np.inf]), "infinite or NaN"),
        (np.int64([1, 2]), np.int64([1, 3]), "1 of 2 elements"),
        (np.float16([1]), np.float16([1.005]), ""),
        (np.float32([1]), np.float64([1]), "was float32[1], is float64[1]"),
        (np.float32([[1]]), np.float32([1]), "[1, 1]"),
        (np.float32([]), np.float32([]), ""),
        (np.float32([0, 0]), np.float32([0, 1e-20]), "differs by 1e-20 where values reach 0"),
    ],
)
def test_difference(want: np.ndarray, have: np.ndarray, words: str) -> None:
    said = difference(want, have)
    assert (words in said) if words else said == ""
