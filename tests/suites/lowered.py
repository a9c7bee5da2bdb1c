"""One operator run by each of its lowerings: the naive kernel on the kernel interpreter, the expansion as a graph."""

from __future__ import annotations

import numpy as np
from tilewright.ir.compute import lower_group
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.interpreter import run_graph
from tilewright.ir.kernel import Buffer, Kernel
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.ops.base import Op, form_of
from tilewright.ir.types import DTYPES, TensorType

from suites.row import type_of

Arrays = tuple[np.ndarray, ...]


def buffers(prefix: str, types: tuple[TensorType, ...]) -> tuple[Buffer, ...]:
    return tuple(Buffer(f"{prefix}{i}", t.dtype, t.shape) for i, t in enumerate(types))


def naive_kernel(op: Op, types: tuple[TensorType, ...]) -> Kernel:
    """The unscheduled kernel of an operator in "compute" or "kernel" form, parameters out0.., in0..."""
    outs, ins = buffers("out", op.infer(*types)), buffers("in", types)
    if form_of(op) == "kernel":
        return op.kernel(outs, ins)
    return lower_group(op.name.lower(), (*outs, *ins), (op.compute(outs[0], *ins),))


def by_loops(op: Op, arrays: Arrays, threads: int = 1) -> Arrays:
    """The outputs of the naive kernel."""
    types = tuple(map(type_of, arrays))
    outs = [np.zeros(t.static_shape, DTYPES[t.dtype].numpy) for t in op.infer(*types)]
    named = {f"in{i}": np.ascontiguousarray(a) for i, a in enumerate(arrays)}
    named.update({f"out{i}": a for i, a in enumerate(outs)})
    run_kernel(naive_kernel(op, types), named, threads=threads)
    return tuple(outs)


def expanded(op: Op, types: tuple[TensorType, ...]) -> Graph:
    b = Builder(op.name.lower())
    outputs = op.expand(b, *(b.input(f"in{i}", t) for i, t in enumerate(types)))
    return b.graph(outputs)


def by_expansion(op: Op, arrays: Arrays) -> Arrays:
    """The outputs of the operators that it expands into."""
    return tuple(run_graph(expanded(op, tuple(map(type_of, arrays))), list(arrays)))


def by_lowering(op: Op, arrays: Arrays) -> Arrays:
    return by_expansion(op, arrays) if form_of(op) == "expand" else by_loops(op, arrays)
