"""Runs the kernel that a strategy makes for one operator, on the kernel interpreter, with operands lying anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from suites.row import check
from tilewright.codegen.machine import Machine, parse_machine
from tilewright.codegen.strategies.recurrent import schedule_recurrent
from tilewright.codegen.strategies.scheduled import Group, Scheduled
from tilewright.codegen.strategies.select import schedule_group
from tilewright.ir.compute import Compute
from tilewright.ir.kernel import Buffer
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.norm import Attention
from tilewright.ir.ops.quantized_attention import QuantizedAttention
from tilewright.ir.ops.recurrent import Recurrent
from tilewright.ir.types import DTYPES, TensorType, dtype_of

MACHINES: dict[str, Machine] = {name: parse_machine(f"cpu:{name}") for name in ("x86-64-v4", "x86-64-v3", "aarch64")}

Finish = Callable[[Compute, Mapping[str, Buffer]], Compute]


class Operand:
    """An array lying in flat memory by some strides, as views make them; perm: the order of its dimensions in memory, the
    outermost first; gap: elements after each row of the innermost one."""

    def __init__(self, array: np.ndarray, perm: Sequence[int] | None = None, gap: int = 0) -> None:
        order = list(perm) if perm is not None else list(range(array.ndim))
        shape = [array.shape[p] for p in order]
        room = [*shape[:-1], shape[-1] + gap] if shape else []
        self.memory = np.full(room, 77, array.dtype)
        self.array = self.memory[..., : shape[-1]] if shape else self.memory
        self.array = self.array.transpose([order.index(d) for d in range(array.ndim)])
        self.array[...] = array
        self.strides = tuple(s // array.itemsize for s in self.array.strides)

    def buffer(self, name: str) -> Buffer:
        dense = self.array.flags.c_contiguous
        return Buffer(name, dtype_of(self.array), self.array.shape, strides=None if dense else self.strides)


def packed(made: Scheduled, operands: Mapping[str, Operand]) -> dict[str, np.ndarray]:
    """The packed operands, as a copy from the operand's own memory fills them."""
    result: dict[str, np.ndarray] = {}
    for name, pack in made.packs:
        source = operands[pack.source]
        offset, steps = pack.strides_over(source.strides)
        item = source.memory.itemsize
        view = np.lib.stride_tricks.as_strided(
            source.memory.reshape(-1)[offset:], pack.shape, tuple(s * item for s in steps), writeable=False
        )
        result[name] = np.ascontiguousarray(view)
        np.testing.assert_array_equal(result[name], pack.apply(source.array))
    return result


def run_scheduled(made: Scheduled, operands: Mapping[str, Operand], outs: Mapping[str, TensorType]) -> list[np.ndarray]:
    """The outputs for one thread; raises AssertionError if two threads, or two runs, give others."""
    verify_kernel(made.kernel, scheduled=True)
    arrays = {name: o.memory for name, o in operands.items()} | packed(made, operands)
    results = []
    for threads in (1, 2):
        fresh = {n: np.full(t.static_shape, 99, DTYPES[t.dtype].numpy) for n, t in outs.items()}
        given = {p.name: fresh[p.name] if p.name in fresh else arrays[p.name] for p in made.kernel.buffers}
        run_kernel(made.kernel, given, threads=threads)
        results.append([fresh[n] for n in outs])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    return results[0]


def schedule_op(
    op: Op, operands: Sequence[Operand], machine: Machine, finish: Finish | None = None, extra: Sequence[Operand] = ()
) -> tuple[Scheduled, dict[str, Operand], dict[str, TensorType]]:
    """The kernel for an operator alone, or with an epilogue over the buffers e0.. of `extra`."""
    types = op.infer(*(TensorType(dtype_of(o.array), o.array.shape) for o in operands))
    named = {f"x{n}": o for n, o in enumerate(operands)} | {f"e{n}": o for n, o in enumerate(extra)}
    buffers = {name: o.buffer(name) for name, o in named.items()}
    ins = tuple(buffers[f"x{n}"] for n in range(len(operands)))
    outs = tuple(Buffer(f"y{n}", t.dtype, t.shape) for n, t in enumerate(types))
    if isinstance(op, Recurrent):
        made = schedule_recurrent(op, outs, ins, machine)
    elif isinstance(op, (Attention, QuantizedAttention)):
        made = schedule_group(Group("attention", (), (*outs, *ins), op, ins), machine)
    else:
        c = op.compute(outs[0], *ins)
        if finish is not None:
            c = finish(c, buffers)
        made = schedule_group(Group("contract", (c,), (*outs, *buffers.values())), machine)
    return made, named, {b.name: t for b, t in zip(outs, types, strict=True)}


def run_op(
    op: Op, *arrays: np.ndarray | Operand, machine: str = "x86-64-v4", tolerance: float | None = None
) -> Scheduled:
    """Schedules and runs an operator, and compares with its meaning: the same bits unless a tolerance is given."""
    operands = [a if isinstance(a, Operand) else Operand(a) for a in arrays]
    made, named, outs = schedule_op(op, operands, parse_machine(f"cpu:{machine}"))
    got = run_scheduled(made, named, outs)
    for a, b in zip(got, op.evaluate(*(o.array for o in operands)), strict=True):
        check(a, b, tolerance)
    return made
