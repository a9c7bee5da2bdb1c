"""Runs kernels on NumPy arrays: the living definition of the loop IR.

A kernel is written out as one Python generator function over flat arrays (`kernel_python.py`), compiled, and run once
per thread; threads meet where the generator yields.  Every index that its bounds do not prove right is checked; both
arms of a Select are evaluated, as emitted code does.  Fresh buffers are filled with NaN (integers: a large pattern), so
that a missing initialisation or barrier shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from .errors import InternalError
from .expr import Bin, Const, Expr, Var
from .kernel import Buffer, For, Kernel, walk_block
from .kernel_functions import div64, mod64
from .kernel_launch import is_bound, launch_size, split_launches
from .kernel_python import kernel_source
from .kernel_warp import Thread, run_block
from .types import DTYPES

_NOWHERE = (0,) * 6  # the block and thread of a kernel without such loops


def run_kernel(
    kernel: Kernel, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int] | None = None, threads: int = 1
) -> None:
    """Execute a kernel in place.

    arrays: one C-contiguous array per buffer parameter, of its element type; a parameter with strides is given as the
    array of all elements that the strides reach.  sizes: values of the run-time sizes.  threads: the threads among
    which parallel loops are shared out; a kernel without one is run by one thread.  A kernel with block and thread loops
    is launched part by part, its blocks one after the other.
    Raises InternalError for a wrong argument, an index out of bounds, or a barrier that not all threads reach.
    """
    sizes = sizes or {}
    if is_bound(kernel):
        for part in split_launches(kernel):
            _run_launch(part, arrays, sizes)
        return
    program = _compile(kernel)
    values = _arguments(kernel, arrays, sizes)
    parallel = any(isinstance(s, For) and s.kind == "parallel" for s in walk_block(kernel.body))
    count = threads if parallel else 1
    done = object()
    with np.errstate(all="ignore"):
        running = [program(tid, count, _NOWHERE, {}, *values) for tid in range(count)]
        while running:
            states = [next(g, done) for g in running]
            if len({s is done for s in states}) > 1:
                raise InternalError(f"kernel {kernel.name}: a barrier is not reached by all threads", str(kernel))
            running = [] if states[0] is done else running


def _run_launch(kernel: Kernel, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> None:
    """The blocks of one launch, one after the other."""
    program, values = _compile(kernel), _arguments(kernel, arrays, sizes)
    grid, block = launch_size(kernel)
    with np.errstate(all="ignore"):
        for bz, by, bx in product(*map(range, reversed(grid))):
            shared: dict[str, np.ndarray] = {}
            places = [(bx, by, bz, tx, ty, tz) for tz, ty, tx in product(*map(range, reversed(block)))]
            run_block(kernel.name, [program(0, 1, at, shared, *values) for at in places])


def _arguments(kernel: Kernel, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> list[Any]:
    for p in kernel.params:
        if isinstance(p, Var) and p.name not in sizes:
            raise InternalError(f"kernel {kernel.name}: no value for the size {p.name!r}")
    return [int(sizes[p.name]) if isinstance(p, Var) else _flat_argument(kernel, p, arrays, sizes) for p in kernel.params]


def _flat_argument(kernel: Kernel, p: Buffer, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Any:
    where = f"kernel {kernel.name}, parameter {p.name}"
    if p.name not in arrays:
        raise InternalError(f"{where}: no array given; got {sorted(arrays)}")
    array = arrays[p.name]
    if array.dtype != DTYPES[p.dtype].numpy or not array.flags.c_contiguous:
        raise InternalError(f"{where}: expected a C-contiguous array of {p.dtype}, got {array.dtype}")
    flat = array.reshape(-1)
    if p.space == "stream":
        return iter(range(flat.size)), flat
    shape = [_evaluate(d, sizes) for d in p.shape]
    if p.strides is None:
        needed = int(np.prod(shape, dtype=np.int64))
        if flat.size != needed:
            raise InternalError(f"{where}: expected {needed} elements of shape {shape}, got an array of {array.shape}")
    elif all(shape):
        needed = 1 + sum((n - 1) * _evaluate(s, sizes) for n, s in zip(shape, p.strides, strict=True))
        if flat.size < needed:
            raise InternalError(f"{where}: strides {p.strides} reach {needed} elements, got {flat.size}")
    return flat


def _evaluate(d: int | Expr, sizes: Mapping[str, int]) -> int:
    """The value of a dimension."""
    match d:
        case int():
            return d
        case Const():
            return d.value
        case Var() if d.name in sizes:
            return int(sizes[d.name])
        case Bin():
            a, b = _evaluate(d.a, sizes), _evaluate(d.b, sizes)
            return {"add": a + b, "sub": a - b, "mul": a * b, "min": min(a, b), "max": max(a, b),
                    "div": div64(a, b), "mod": mod64(a, b)}[d.op]
    raise InternalError(f"{d} is not a dimension made of the run-time sizes {sorted(sizes)}")


@lru_cache(maxsize=256)
def _compile(kernel: Kernel) -> Callable[..., Thread]:
    source, names = kernel_source(kernel)
    exec(compile(source, f"<kernel {kernel.name}>", "exec"), names)
    return names["program"]
