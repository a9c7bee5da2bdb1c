"""Checked libraries: an index that leaves its buffer fails the run, by name, and nothing is read or written there."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import tilewright
from codegen.random_graphs import random_graph
from tilewright.codegen.bounds import check_bounds
from tilewright.codegen.lower import lower
from tilewright.codegen.program import Address, Call, Program
from tilewright.compiler.options import make_options
from tilewright.compiler.pipeline import run_passes
from tilewright.compiler.progress import Stages
from tilewright.compiler.targets import find_target
from tilewright.ir.errors import InternalError, OptionError
from tilewright.ir.expr import Expr, Load, Type, as_expr, load
from tilewright.ir.graph import Graph
from tilewright.ir.interpreter import run_graph
from tilewright.ir.kernel import Alloc, Barrier, Buffer, For, Kernel, Stmt, axis, nest, store
from tilewright.ir.types import TensorType
from tilewright.targets.cpu.build import build
from tilewright.targets.cpu.host import host_machine

X, AT, Y = (Buffer(n, t, (8,), align=a) for n, t, a in (("x", "f32", 4), ("at", "i64", 8), ("y", "f32", 4)))
I = axis("i", 8)  # noqa: E741
INPUTS = np.arange(8, dtype=np.float32), np.arange(8)


def program(*body: Stmt, arena: int = 0) -> Program:
    """One kernel on inputs x and at, and the output y."""
    kernel = Kernel("planted", (X, AT, Y), body)
    args = (Address("input", index=0), Address("input", index=1), Address("output"))
    return Program(
        "planted", {"planted": kernel}, (Call("planted", args),),
        (("x", TensorType("f32", (8,))), ("at", TensorType("i64", (8,)))), (("y", TensorType("f32", (8,))),), (), 0, arena,
        scratch_bytes=1024,
    )


def loop(index: Expr, value: Expr, kind: str = "serial") -> tuple[Stmt, ...]:
    return nest((I,), (store(Y, (index,), value),), kind)


def wide_load(buf: Buffer, index: Expr, lanes: int) -> Expr:
    """Elements side by side."""
    return Load.of(buf, (index,), Type(buf.dtype, lanes))


def run(made: Program, *, threads: int = 1, at: np.ndarray = INPUTS[1]) -> np.ndarray:
    module = build(check_bounds(made), host_machine(), jobs=1).load(threads)
    try:
        return module(INPUTS[0], at)[0]
    finally:
        module.close()


def message(made: Program, **options: object) -> str:
    with pytest.raises(OptionError) as error:
        run(made, **options)  # type: ignore[arg-type]
    return re.sub(r"\s+", " ", str(error.value))


@pytest.mark.parametrize(("index", "value", "says"), [
    (as_expr(I), X[I + 1], "load of buffer x (f32[8]): elements 8 to 8, the buffer has 8"),
    (as_expr(I), X[I - 1], "load of buffer x (f32[8]): elements -1 to -1, the buffer has 8"),
    (I * 3, X[I], "store of buffer y (f32[8]): elements 9 to 9, the buffer has 8"),
])  # fmt: skip
def test_planted_index(index: Expr, value: Expr, says: str) -> None:
    said = message(program(*loop(index, value)))
    assert "kernel planted, " + says in said and "out of bounds" in said


def test_the_same_with_threads() -> None:
    """The other threads go on; nobody waits for one that has stopped."""
    body = (*loop(as_expr(I), X[I + 1], "parallel"), Barrier("pool"), *loop(as_expr(I), X[I], "parallel"))
    assert "load of buffer x" in message(program(*body), threads=3)


def test_vectors_are_checked_from_the_first_lane_to_the_last() -> None:
    wide = wide_load(X, as_expr(5), 4)
    assert "elements 5 to 8, the buffer has 8" in message(program(store(Y, (as_expr(0),), wide)))
    assert run(program(*loop(as_expr(I), X[I]), store(Y, (as_expr(0),), wide_load(X, as_expr(4), 4))))[0] == 4


def test_indices_from_data() -> None:
    """Gathered by a loaded index, alone and as a vector; right ones pass."""
    gathered = program(*loop(as_expr(I), X[AT[I]]))
    np.testing.assert_array_equal(run(gathered, at=INPUTS[1][::-1].copy()), INPUTS[0][::-1])
    wrong = INPUTS[1].copy()
    wrong[3] = 2**40
    assert f"load of buffer x (f32[8]): elements {2**40} to {2**40}" in message(gathered, at=wrong)
    vector = program(store(Y, (as_expr(0),), load(X, wide_load(AT, as_expr(0), 8))))
    assert f"elements 0 to {2**40}, the buffer has 8" in message(vector, at=wrong)
    np.testing.assert_array_equal(run(vector), INPUTS[0])


def test_an_index_through_an_index_out_of_bounds() -> None:
    """The outer load is not made when the inner one is wrong."""
    assert "load of buffer at (i64[8])" in message(program(*loop(as_expr(I), X[AT[I + 1]])))


def test_local_memory() -> None:
    local = Buffer("local", "f32", (8,), "stack")
    body = (Alloc(local), For(I, (store(local, (I,), X[I]),)), *loop(as_expr(I), local[I * 2]))
    assert "load of buffer local" in message(program(*body))


def test_a_run_after_a_failed_one() -> None:
    module = build(check_bounds(program(*loop(as_expr(I), X[AT[I]]))), host_machine(), jobs=1).load()
    for at, right in ((INPUTS[1], True), (INPUTS[1] + 1, False), (INPUTS[1], True)):
        if right:
            np.testing.assert_array_equal(module(INPUTS[0], at)[0], INPUTS[0])
        else:
            with pytest.raises(OptionError, match="out of bounds"):
                module(INPUTS[0], at)


def test_buffers_lie_inside_of_the_memory() -> None:
    made = program(*loop(as_expr(I), X[I]), arena=64)
    inside = replace(made, steps=(Call("planted", (Address("input"), Address("input", index=1), Address("arena", 32))),))
    check_bounds(inside)
    outside = replace(made, steps=(Call("planted", (Address("input"), Address("input", index=1), Address("arena", 36))),))
    with pytest.raises(InternalError, match="y at bytes 36 to 68 of the 64 bytes of arena"):
        check_bounds(outside)


def fused(graph: Graph) -> Graph:
    target, options = find_target("cpu"), make_options("cpu")
    machine = target.machine("cpu")
    passes, native = target.passes_for(options), target.native(machine)
    return run_passes(graph, options, Stages(lambda *_: None), lambda *_: None, passes, native)


@pytest.mark.parametrize("seed", range(6))
def test_random_graphs_stay_inside(seed: int) -> None:
    graph, arrays = random_graph(seed)
    made = check_bounds(lower(fused(graph), host_machine(), "random"))
    assert made.sites or not made.kernels
    module = build(made, host_machine(), jobs=1).load(threads=2)
    for got, want in zip(module(*arrays), run_graph(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_only_the_processor_has_checks() -> None:
    with pytest.raises(OptionError, match="debug_bounds: target fpga"):
        tilewright.compile(b"", target="fpga:u250", debug_bounds=True)


