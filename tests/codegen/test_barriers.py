"""Barriers: they stay wherever threads could race, and go where nothing that follows has to wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from codegen.native_program import compile_program
from tilewright.codegen.barriers import Span, footprint, span, synchronize
from tilewright.codegen.machine import parse_machine
from tilewright.codegen.program import Address, Branch, Call, Cost, Program, Repeat, Step, all_calls
from tilewright.ir.kernel import Barrier, Buffer, Do, For, Kernel, axis, store
from tilewright.ir.types import TensorType

MACHINE = parse_machine("cpu:x86-64-v3")
N = 64
WORK = Cost(macs=10**6)  # worth several threads
PLACES = tuple(Address("arena", 256 * n) for n in range(5))
A, B, C, D, E = PLACES
X, OUT = Address("input", 0, 0), Address("output", 0, 0)


def kernel(name: str, kind: str = "parallel", strides: tuple[int, ...] | None = None, extra: tuple[object, ...] = ()) -> Kernel:
    """y = x reversed + 1."""
    y, x = Buffer("y", "f32", (N,), strides=strides, align=4), Buffer("x", "f32", (N,), align=4)
    i = axis("i", N)
    return Kernel(name, (y, x), (For(i, (store(y, (i,), x[N - 1 - i] + 1.0),), kind), *extra))  # type: ignore[arg-type]


KERNELS = {k.name: k for k in (
    kernel("par"), kernel("one", "serial"), kernel("pair", strides=(2,)), kernel("back", strides=(-1,)),
    kernel("inside", extra=(Barrier(),)), kernel("odd", extra=(Do("instruction"),)),
)}


def call(name: str, y: Address, x: Address, cost: Cost = WORK) -> Call:
    return Call(name, (y, x), cost=cost)


def program(*steps: Step) -> Program:
    kind = TensorType("f32", (N,))
    return Program("p", KERNELS, steps, (("x", kind),), (("y", kind),), (), 0, 2048)


def meets(*steps: Step) -> list[bool]:
    return [c.meet for c in all_calls(synchronize(program(*steps), MACHINE).steps)]


@pytest.mark.parametrize("steps, expected", [
    ((call("par", A, X), call("par", B, A)), [True, False]),  # the second reads what the first writes
    ((call("par", B, A), call("par", A, X)), [True, False]),  # overwrites what the first reads
    ((call("par", A, X), call("par", A, C)), [True, False]),  # both write
    ((call("par", A, X), call("par", B, X)), [False, False]),  # both read
    ((call("par", A, X), call("par", B, X), call("par", C, B)), [False, True, False]),  # one barrier for both
    ((call("par", A, X), call("par", B, X), call("par", C, A)), [False, True, False]),  # waits for the first of them
    ((call("one", A, X), call("one", B, A)), [False, False]),  # thread 0 in its own order
    ((call("one", A, X), call("par", B, A)), [True, False]),
    ((call("par", A, X), call("one", B, A)), [True, False]),
    ((call("one", A, X), call("one", B, A), call("par", C, A)), [False, True, False]),
    ((call("par", A, X), call("one", B, C), call("one", D, B), call("par", E, X)), [False, False, False, False]),
    ((call("par", A, X), call("inside", C, B)), [False, False]),
    ((call("par", OUT, X), call("par", A, OUT)), [True, False]),
    ((call("odd", A, B), call("par", C, B)), [True, False]),  # what is not understood writes all it is given
])
def test_meetings(steps: Sequence[Step], expected: list[bool]) -> None:
    assert meets(*steps) == expected


def test_arrays_count_with_their_gaps() -> None:
    assert span(KERNELS["pair"].buffers[0], A) == Span("arena", 0, 0, (2 * (N - 1) + 1) * 4)
    assert span(KERNELS["back"].buffers[0], Address("arena", 1000)) == Span("arena", 0, 1000 - 4 * (N - 1), 1004)
    assert meets(call("pair", A, X), call("par", C, B)) == [True, False]  # B lies in the second half of the first's output
    assert meets(call("pair", A, X), call("par", E, C)) == [False, False]


def test_control_flow_is_surrounded_by_barriers() -> None:
    condition = Address("arena", 2000)
    inner = (call("par", C, X), call("par", D, X))
    assert meets(call("par", A, X), Branch(condition, inner, inner[:1]), call("par", B, X)) == [True, False, True, True, False]
    assert meets(call("one", A, X), Repeat(inner, condition, None, None)) == [True, False, True]


def test_little_work_goes_to_one_thread() -> None:
    little = Cost(macs=100, bytes_read=256, bytes_written=256)
    done = synchronize(program(call("par", A, X, little), call("par", B, A, little), call("inside", C, B, little)), MACHINE)
    assert footprint(done.steps[0], done.kernels["par"]).alone  # type: ignore[arg-type]
    assert not footprint(done.steps[2], done.kernels["inside"]).alone  # type: ignore[arg-type]
    assert [c.meet for c in all_calls(done.steps)] == [False, True, False]
    both = synchronize(program(call("par", A, X, little), call("par", B, A)), MACHINE)
    assert not footprint(both.steps[0], both.kernels["par"]).alone  # type: ignore[arg-type]  # one call is worth it


@pytest.mark.parametrize("seed", range(4))
def test_random_programs_give_the_same_with_fewer_barriers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at = [Address("arena", 256 * n) for n in range(8)]
    steps: list[Call] = [call("par", a, X) for a in at]
    for _ in range(60):
        y, x = (at[i] for i in rng.permutation(8)[:2])
        steps.append(call(("par", "one")[int(rng.integers(2))], y, x))
    plain = program(*steps, call("par", OUT, at[3]))
    plain = replace(plain, kernels={n: KERNELS[n] for n in ("par", "one")})
    value = rng.standard_normal(N).astype(np.float32)
    (want,) = compile_program(plain).run([value])
    native = compile_program(synchronize(plain, MACHINE))
    for _ in range(10):
        np.testing.assert_array_equal(native.run([value], threads=3)[0], want)
