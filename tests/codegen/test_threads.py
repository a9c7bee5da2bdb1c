"""The recommended number of threads: one where waking the others costs more than they save."""

from __future__ import annotations

import pytest
from tilewright.codegen.machine import parse_machine
from tilewright.codegen.program import Address, Call, Cost, Program
from tilewright.codegen.roofline import limit_of
from tilewright.codegen.threads import recommended_threads
from tilewright.ir.kernel import Buffer, For, Kernel, axis, store

MACHINE = parse_machine("cpu:x86-64-v4")
Y, N = Buffer("y", "f32", (64,)), axis("i", 64)
KERNELS = {kind: Kernel(kind, (Y,), (For(N, (store(Y, (N,), 1.0),), kind),)) for kind in ("parallel", "serial")}


def program(seconds: float, calls: int = 1, kind: str = "parallel") -> Program:
    """So much work on one thread, at the machine's limit, in so many calls that meet."""
    macs = 10**9
    cost = Cost(macs=round(macs * seconds / limit_of(Cost(macs=macs), MACHINE).seconds / calls))
    steps = tuple(Call(kind, (Address("arena"),), cost=cost) for _ in range(calls))
    return Program("p", KERNELS, steps, (), (), (), 0, 256)


@pytest.mark.parametrize("seconds, expected", [(1e-6, 1), (5e-6, 1), (20e-6, 1), (1.0, 0)])
def test_small_and_large(seconds: float, expected: int) -> None:
    assert recommended_threads(program(seconds), MACHINE) == expected


def test_between_the_number_grows_with_the_work() -> None:
    numbers = [recommended_threads(program(t), MACHINE) for t in (40e-6, 80e-6, 160e-6)]
    assert 2 <= numbers[0] < numbers[1] < numbers[2] < 256


def test_many_meetings_and_work_of_one_thread_speak_against_threads() -> None:
    assert recommended_threads(program(100e-6, 200), MACHINE) == 1
    assert recommended_threads(program(100e-6, 200), MACHINE) < recommended_threads(program(100e-6, 5), MACHINE)
    assert recommended_threads(program(1e-3, 1, "serial"), MACHINE) == 1


def test_nothing_is_said_about_an_empty_program() -> None:
    assert recommended_threads(Program("p", {}, (), (), (), (), 0, 0), MACHINE) == 0
