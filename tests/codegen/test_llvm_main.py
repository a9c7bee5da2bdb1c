"""The entry point: calls, branches and loops over steps, on one thread and several."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from codegen.native import aligned, link, set_barrier
from tilewright.codegen.llvm import emit_main, emit_module
from tilewright.codegen.machine import parse_machine
from tilewright.codegen.program import Address, Branch, Call, Program, Repeat, Step
from tilewright.ir.errors import InternalError
from tilewright.ir.expr import I64, Var, binary, cast
from tilewright.ir.kernel import Buffer, For, Kernel, axis, store
from tilewright.ir.types import TensorType
from tilewright.targets.cpu.host import host_machine
from tilewright.targets.cpu.objects import compile_objects

N = 24
X, OUT = Address("input", 0, 0), Address("output", 0, 0)
COUNTER, FLAG, VALUES, OTHER = (Address("arena", n) for n in (0, 8, 64, 64 + 4 * N))
FACTOR = Address("constants", 64)


def kernels() -> dict[str, Kernel]:
    x, y, f = Buffer("x", "f32", (N,), align=4), Buffer("y", "f32", (N,), align=4), Buffer("f", "f32", (1,))
    n, flag = Buffer("n", "i64", (1,), align=8), Buffer("flag", "bool", (1,), align=1)
    i = axis("i", N)
    shared = Kernel("scale", (y, x, f), (For(i, (store(y, (i,), x[N - 1 - i] * f[0]),), "parallel"),))
    add = Kernel("add", (y, x, n), (For(i, (store(y, (i,), x[N - 1 - i] + cast(n[0], "f32")),), "parallel"),))
    test = Kernel("below", (flag, x, f), (store(flag, (0,), binary("lt", x[0], f[0] * 100.0)),))
    return {k.name: k for k in (shared, add, test)}


def program(steps: Sequence[Step]) -> Program:
    kind = TensorType("f32", (N,))
    return Program("p", kernels(), tuple(steps), (("x", kind),), (("y", kind),), (), 128, 1024)


def run(p: Program, x: np.ndarray, threads: int) -> np.ndarray:
    machine = host_machine()
    texts = [emit_module([k], machine) for k in p.kernels.values()] + [emit_main(p, machine)]
    engine = link(compile_objects(texts, machine, jobs=1))
    main = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 6, ctypes.c_int64, ctypes.c_int64)(
        engine.get_function_address("tw_main")
    )
    arena, constants, y = aligned(1024, np.uint8), aligned(128, np.uint8), np.zeros_like(x)
    constants[64:68] = np.array([2.0], np.float32).view(np.uint8)
    ins, outs = ((ctypes.c_void_p * 1)(a.ctypes.data) for a in (x, y))
    runtime = set_barrier(threads)

    memory = (runtime, arena.ctypes.data, None, constants.ctypes.data, ctypes.addressof(ins), ctypes.addressof(outs))

    def one(tid: int) -> None:
        main(*memory, tid, threads)

    others = [threading.Thread(target=one, args=(tid,)) for tid in range(1, threads)]
    for t in others:
        t.start()
    one(0)
    for t in others:
        t.join()
    return y


def values() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 2, N).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_calls_in_order(threads: int) -> None:
    x = values()
    steps = [Call("scale", (VALUES, X, FACTOR)), Call("scale", (OUT, VALUES, FACTOR))]
    np.testing.assert_array_equal(run(program(steps), x, threads), 4 * x)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_branch(scale: float, threads: int) -> None:
    """The condition's memory is written by the first step of the branch."""
    x = values() * np.float32(scale)
    then = (Call("scale", (FLAG, X, FACTOR)), Call("scale", (OUT, FLAG, FACTOR)))
    steps = [Call("below", (FLAG, X, FACTOR)), Branch(FLAG, then, (Call("scale", (OUT, X, FACTOR)),))]
    want = 4 * x if scale == 1.0 else 2 * x[::-1]
    np.testing.assert_array_equal(run(program(steps), x, threads), want)


@pytest.mark.parametrize("threads", [1, 3])
def test_repeat_while_the_condition_holds(threads: int) -> None:
    """Doubled until the first element reaches 200, adding the number of the iteration."""
    x = values()
    test = Call("below", (FLAG, VALUES, FACTOR))
    body = (Call("scale", (OTHER, VALUES, FACTOR)), Call("add", (VALUES, OTHER, COUNTER)), test)
    steps = [
        Call("scale", (VALUES, X, FACTOR)), test, Repeat(body, COUNTER, None, FLAG), Call("scale", (OUT, VALUES, FACTOR)),
    ]
    want, count = 2 * x[::-1], 0
    while want[0] < 200:
        want, count = 2 * want + np.float32(count), count + 1
    np.testing.assert_allclose(run(program(steps), x, threads), 2 * want[::-1], rtol=1e-6)


@pytest.mark.parametrize("trips", [0, 5])
def test_repeat_counts(trips: int) -> None:
    """The trip count is in the arena: the bits of a float that holds it."""
    x = values()
    x[N - 1] = np.array([trips], np.int32).view(np.float32)[0] if trips else 0.0
    x[N - 2] = 0.0
    one = Kernel("copy", (Buffer("y", "i32", (N,), align=4), Buffer("x", "i32", (N,), align=4)), ())
    i = axis("i", N)
    one = Kernel("copy", one.params, (For(i, (store(one.buffers[0], (i,), one.buffers[1][N - 1 - i]),)),))
    p = program([Call("copy", (VALUES, X)), Call("scale", (OTHER, X, FACTOR)),
                 Repeat((Call("add", (OUT, X, COUNTER)),), COUNTER, VALUES, None)])
    p = Program(p.name, {**p.kernels, "copy": one}, p.steps, p.inputs, p.outputs, (), 128, 1024)
    want = x[::-1] + np.float32(trips - 1) if trips else np.zeros_like(x)
    np.testing.assert_array_equal(run(p, x, 1), want)


def test_calls_are_checked() -> None:
    machine = parse_machine("cpu:x86-64-v3")
    with pytest.raises(InternalError, match="unknown kernel 'none'"):
        emit_main(program([Call("none", ())]), machine)
    with pytest.raises(InternalError, match="3 parameters, called with 1"):
        emit_main(program([Call("scale", (X,))]), machine)
    with pytest.raises(InternalError, match="no memory space 'disk'"):
        emit_main(program([Call("scale", (X, X, Address("disk")))]), machine)
    sized = Kernel("sized", (Var.of("n", None, I64),), ())
    p = program([Call("sized", (X,))])
    with pytest.raises(InternalError, match="run-time sizes"):
        emit_main(Program("p", {"sized": sized}, p.steps, p.inputs, p.outputs, (), 0, 0), machine)


def test_one_module_holds_everything() -> None:
    p = program([Call("scale", (OUT, X, FACTOR))])
    text = emit_module(list(p.kernels.values()), parse_machine("cpu:aarch64"), p)
    assert text.count("define hidden void") == 4 and "declare hidden void @kernel_" not in text
