"""Runs what the strategies for graphics processors make of one operator: printed as CUDA C++, in the emulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tilewright.codegen.kernels import drop_unused_params
from tilewright.codegen.machine_gpu import GpuMachine, parse_gpu_machine
from tilewright.codegen.strategies.gpu.select import schedule_group
from tilewright.codegen.strategies.scheduled import Group, Scheduled
from tilewright.ir.compute import Compute
from tilewright.ir.kernel import Buffer, Kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.ops.base import Op
from tilewright.ir.types import DTYPES, TensorType, dtype_of
from tilewright.targets.cuda.emulator.run import emulate_kernel

MACHINE = parse_gpu_machine("cuda:sm_80+sm_90")
Finish = Callable[[Compute, tuple[Buffer, ...]], Compute]


def aligned(array: np.ndarray) -> np.ndarray:
    """The same array at an address that is a multiple of 64, as the driver's memory."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    place = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    place[...] = array
    return place


def group_of(op: Op, arrays: Sequence[np.ndarray], constants: Sequence[int], finish: Finish | None = None) -> Group:
    """One operator as a group.  constants: which operands are weights; finish: an epilogue, given all inputs."""
    types = [TensorType(dtype_of(a), a.shape) for a in arrays]
    (out,) = op.infer(*types[: _arity(op, len(types), finish)])
    ins = tuple(Buffer(f"x{n}", t.dtype, t.shape, align=16) for n, t in enumerate(types))
    y = Buffer("y0", out.dtype, out.shape, align=16)
    c = op.compute(y, *ins[: _arity(op, len(types), finish)])
    if finish is not None:
        c = finish(c, ins)
    return Group("contract", (c,), (c.out, *ins), constants=frozenset(f"x{n}" for n in constants))


def _arity(op: Op, count: int, finish: Finish | None) -> int:
    """With an epilogue the last operand is its own."""
    return count - (finish is not None)


def schedule(op: Op, arrays: Sequence[np.ndarray], constants: Sequence[int] = (), machine: GpuMachine = MACHINE,
             finish: Finish | None = None) -> tuple[Scheduled, Kernel]:
    made = schedule_group(group_of(op, arrays, constants, finish), machine)
    kernel = drop_unused_params(made.kernel)
    verify_kernel(kernel, scheduled=True)
    return made, kernel


def run(op: Op, arrays: Sequence[np.ndarray], constants: Sequence[int] = (), machine: GpuMachine = MACHINE,
        finish: Finish | None = None, runner: Callable[..., None] = emulate_kernel) -> tuple[np.ndarray, Scheduled]:
    """The output; memory that the kernel writes holds NaN, or 99, before."""
    made, kernel = schedule(op, arrays, constants, machine, finish)
    packs, views = dict(made.packs), dict(made.views)
    data: dict[str, np.ndarray] = {}
    for b in kernel.buffers:
        info = DTYPES[b.dtype]
        source, first = views.get(b.name, (b.name, 0))
        if source in packs:
            data[b.name] = packs[source].apply(arrays[int(packs[source].source[1:])])
        elif source.startswith("x"):
            data[b.name] = arrays[int(source[1:])]
            if first:
                data[b.name] = data[b.name].reshape(-1)[first:]
        else:
            data[b.name] = np.full(b.static_shape, np.nan if info.kind == "f" else 99).astype(info.numpy)
        data[b.name] = aligned(np.ascontiguousarray(data[b.name]))
    runner(kernel, data)
    return data["y0"], made
