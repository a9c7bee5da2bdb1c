"""Programs: where values lie, what is copied, branches, and that kernels and constants are shared."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.native_program import compile_program, lower_graph
from tilewright.codegen.lower import lower
from tilewright.codegen.program import Branch, Call, Program, all_calls
from tilewright.codegen.strategies.scheduled import Pack
from tilewright.compiler.passes.fuse import fuse
from tilewright.ir.errors import InternalError, TargetError
from tilewright.ir.expr import Var
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.control import If
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.movement import Broadcast, Concat, Pad, Reshape, Slice, Transpose
from tilewright.ir.ops.norm import Softmax
from tilewright.ir.ops.reduce import Reduce
from tilewright.ir.ops.sort import TopK
from tilewright.ir.types import TensorType
from tilewright.targets.cpu.host import host_machine
from tilewright.targets.cuda.host import resolve_machine


def f32(*shape: int) -> TensorType:
    return TensorType("f32", shape)


def exact(*shape: int) -> np.ndarray:
    """Multiples of 1/8 of few bits: sums and products are exact, in any order."""
    return (np.random.default_rng(1).integers(-16, 17, shape) / 8).astype(np.float32)


def sample(graph: Graph) -> list[np.ndarray]:
    return [exact(*v.type.static_shape) for v in graph.inputs]


def run(graph: Graph, *inputs: np.ndarray, tolerance: float = 1e-6) -> Program:
    """The program, after comparing it with the interpreter on one thread and on two."""
    arrays = list(inputs) or sample(graph)
    program = lower_graph(graph)
    native, expected = compile_program(program), run_graph(graph, arrays)
    for threads in (1, 2):
        for a, b in zip(native.run(arrays, threads), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    return program


def calls(program: Program) -> list[Call]:
    return list(all_calls(program.steps))


# ---- outputs


def test_outputs_that_are_inputs_constants_or_twice_the_same() -> None:
    b = Builder()
    x = b.input("x", f32(3, 5))
    y = b.add(Unary("neg"), x)
    c = b.constant(np.arange(6, dtype=np.float32).reshape(2, 3))
    program = run(b.graph([x, y, c, y, x], ["a", "b", "c", "d", "e"]))
    assert [name for name, _ in program.outputs] == ["a", "b", "c", "d", "e"]
    assert len(calls(program)) == 5


def test_an_output_that_is_read_and_viewed_later() -> None:
    b = Builder()
    y = b.add(Unary("neg"), b.input("x", f32(4, 6)))
    program = run(b.graph([y, b.add(Reshape((24,)), y), b.add(Unary("abs"), b.add(Transpose((1, 0)), y))]))
    assert program.arena_bytes == 0


def test_outputs_and_inputs_without_elements() -> None:
    b = Builder()
    x, y = b.input("x", f32(0, 5)), b.input("y", f32(2, 5))
    program = run(b.graph([b.add(Unary("neg"), x), b.add(Concat(0), x, y), b.add(Slice((0, 0), (0, 5), (1, 1)), y)]))
    assert len(calls(program)) == 1


def test_a_graph_without_inputs() -> None:
    b = Builder()
    run(b.graph([b.add(Unary("neg"), b.constant(np.ones((3, 4), np.float32)))]))


# ---- memory


def test_parts_of_a_concat_take_no_copies() -> None:
    b = Builder()
    x = b.input("x", f32(2, 9))
    w = b.constant(np.ones((9, 20), np.float32))
    program = run(b.graph([b.add(Concat(1), b.add(MatMul(), x, w), b.add(Unary("neg"), x), b.add(Unary("abs"), x))]))
    assert len(calls(program)) == 3
    assert program.arena_bytes == 0


def test_a_pad_costs_its_border() -> None:
    b = Builder()
    x = b.add(Unary("abs"), b.input("x", f32(1, 5, 5, 3)))
    padded = b.add(Pad((0, 1, 1, 0), (0, 1, 1, 0), "constant"), x, b.constant(np.float32(-7)))
    w = b.constant((np.arange(9 * 3 * 8).reshape(3, 3, 3, 8) % 5 - 2).astype(np.float32))
    program = run(b.graph([b.add(Conv((1, 1), (0,) * 4, (1, 1), 1), padded, w)]))
    assert program.arena_bytes == 7 * 7 * 3 * 4 // 64 * 64 + 64
    assert [c.ops for c in calls(program)][:1] == [("abs",)]


def test_a_pad_with_a_value_from_data_is_a_map() -> None:
    b = Builder()
    x, value = b.input("x", f32(3, 4)), b.input("value", f32())
    run(b.graph([b.add(Pad((1, 0), (0, 2), "constant"), x, value)]))


def test_buffers_that_are_not_needed_at_once_share_memory() -> None:
    b = Builder()
    x = b.input("x", f32(16, 16))
    for _ in range(6):
        x = b.add(Unary("neg"), b.add(Transpose((1, 0)), x))
        x = b.add(Binary("add"), b.add(Reduce("max", (0,), True), x), x)
    program = run(b.graph([x]))
    assert program.arena_bytes <= 4 * 16 * 16 * 4


def test_a_right_operand_made_at_run_time_is_packed_by_a_copy() -> None:
    b = Builder()
    x, y = b.input("x", f32(2, 6, 20)), b.input("y", f32(2, 9, 20))
    program = run(b.graph([b.add(MatMul(), x, b.add(Transpose((0, 2, 1)), y))]))
    assert len(calls(program)) == 2


def test_broadcast_operands_are_read_where_they_lie() -> None:
    b = Builder()
    x, y = b.input("x", f32(1, 6, 7)), b.input("y", f32(4, 7, 12))
    run(b.graph([b.add(MatMul(), b.add(Broadcast((4, 6, 7)), x), y)]))


# ---- sharing


def test_equal_groups_share_a_kernel_and_equal_weights_their_memory() -> None:
    b = Builder()
    x = b.input("x", f32(4, 32))
    w = b.constant(np.arange(1024, dtype=np.float32).reshape(32, 32) / 1024)
    for n in range(3):
        x = b.add(Binary("mul"), b.add(MatMul(), x, w), b.constant(np.full(32, 1 / (n + 2), np.float32)))
    program = run(b.graph([x]))
    assert len(program.kernels) <= 3  # the first reads an input, the last writes an output
    assert len(calls(program)) == 3
    assert sum(a.nbytes for _, a in program.constants) == w.type.nbytes + 3 * 32 * 4


def test_weights_are_stored_in_their_packed_form_only() -> None:
    b = Builder()
    w = np.arange(6 * 70, dtype=np.float32).reshape(6, 70)
    program = run(b.graph([b.add(MatMul(), b.input("x", f32(5, 6)), b.constant(w))]))
    assert program.constant_bytes <= w.nbytes + 2 * 64
    assert all(offset % 64 == 0 for offset, _ in program.constants)


def test_kernels_of_operators_with_their_own_loops_are_told_apart() -> None:
    """Their kernels are made one by one, and an earlier one may be gone when a later one takes its place in memory."""
    b = Builder()
    x = b.input("x", f32(6, 9))
    outputs: list[Value] = []
    for k in range(1, 6):
        outputs += b.add_multi(TopK(1, k, True), b.add(Slice((0, 0), (6, k + 4), (1, 1)), x))
    program = run(b.graph(outputs))
    assert len(program.kernels) >= 5


# ---- control flow


def branch(type: TensorType, *body: Op) -> Graph:
    """A chain of operators on the one value that it is given."""
    inner = Builder("branch")
    v = inner.input("c", type)
    for op in body:
        v = inner.add(op, v)
    return inner.graph([v])


@pytest.mark.parametrize("condition", [False, True])
def test_branches(condition: bool) -> None:
    b = Builder()
    go, x = b.input("go", TensorType("bool", ())), b.input("x", f32(4, 8))
    y = b.add(Unary("abs"), x)
    op = If(branch(y.type, Softmax(1), Unary("neg")), branch(y.type, Reshape((8, 4)), Reshape((4, 8))))
    z = b.add(op, go, y)
    graph = b.graph([b.add(Binary("add"), z, y), b.add(Concat(1), z, x)])
    program = run(graph, np.array(condition), exact(4, 8))
    assert any(isinstance(s, Branch) for s in program.steps)


@pytest.mark.parametrize("condition", [False, True])
def test_a_branch_that_gives_what_it_was_given_or_a_constant(condition: bool) -> None:
    b = Builder()
    go, x = b.input("go", TensorType("bool", ())), b.input("x", f32(2, 3))
    inner = Builder("constant")
    inner.input("c", x.type)
    other = inner.graph([inner.constant(np.full((2, 3), 5, np.float32))])
    y = b.add(If(branch(x.type), other), go, b.add(Transpose((1, 0)), b.add(Transpose((1, 0)), x)))
    run(b.graph([y]), np.array(condition), np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize("condition", [False, True])
def test_branches_inside_of_branches(condition: bool) -> None:
    b = Builder()
    go, x = b.input("go", TensorType("bool", ())), b.input("x", f32(3, 8))
    inner = Builder("outer")
    inner_go, inner_x = inner.input("go", go.type), inner.input("x", x.type)
    nested = inner.add(If(branch(x.type, Unary("abs")), branch(x.type, Softmax(1))), inner_go, inner_x)
    then = inner.graph([inner.add(Unary("neg"), nested)])
    rest = Builder("rest")
    rest.input("go", go.type)
    other = rest.graph([rest.add(Unary("sigmoid"), rest.input("x", x.type))])
    run(b.graph([b.add(If(then, other), go, go, x)]), np.array(condition), exact(3, 8))


# ---- what is refused


def test_symbolic_dimensions_are_refused_by_gpus() -> None:
    b = Builder()
    x = b.input("image", TensorType("f32", (Var.of("batch", None), 3)))
    with pytest.raises(TargetError, match=r"'image' has the shape .*batch.*--shape image="):
        lower(fuse(b.graph([b.add(Unary("neg"), x)])), resolve_machine("cuda"))


def test_a_dimension_that_no_input_has_is_refused() -> None:
    b = Builder()
    x = b.input("x", TensorType("f32", (3, 1)))
    wide = b.add(Broadcast((3, Var.of("hidden", None))), x)
    with pytest.raises(TargetError, match=r"dimension 'hidden' is no dimension of an input"):
        lower(fuse(b.graph([wide])), host_machine())


@pytest.mark.parametrize("op, message", [(Softmax(1), "not expanded"), (Unary("neg"), "not fused")])
def test_a_graph_that_was_not_prepared_is_an_internal_error(op: Op, message: str) -> None:
    b = Builder()
    with pytest.raises(InternalError, match=message):
        lower(b.graph([b.add(op, b.input("x", f32(2, 3)))]), host_machine())


def test_a_pack_of_a_strided_source_knows_its_strides() -> None:
    pack = Pack("x", (2, 3), (1, 0), ((0, 1), (2, 0)))
    assert pack.strides_over((10, 1)) == (10, (1, 20))
