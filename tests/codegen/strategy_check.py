"""Compares a scheduled kernel with the naive one: in the interpreter for several machines, and as machine code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from codegen.native import run_native
from codegen.stepwise import Arrays, sample
from tilewright.codegen.machine import Machine, parse_machine
from tilewright.ir.expr import Var
from tilewright.ir.kernel import Kernel
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.types import DTYPES
from tilewright.targets.cpu.host import host_machine

WIDE, NARROW = parse_machine("cpu:x86-64-v4"), parse_machine("cpu:x86-64-v2")
Strategy = Callable[[Kernel, Machine], Kernel]


def check(
    kernel: Kernel,
    outputs: tuple[str, ...],
    strategy: Strategy,
    inputs: Arrays | None = None,
    sizes: Mapping[str, int] | None = None,
    rtol: float = 2e-6,
    interpret: bool = True,
) -> Kernel:
    """The kernel scheduled for the wide machine.  rtol: relative error of floats, plus as much of the largest value.
    interpret: also run the scheduled kernel in the interpreter (for machines of two widths)."""
    sizes = sizes or {}
    arrays = {b.name: sample(b, sizes, n) for n, b in enumerate(kernel.buffers)}
    arrays.update(inputs or {})
    expected = _run(kernel, arrays, outputs, sizes, 1)
    wide = strategy(kernel, WIDE)
    if interpret:
        for made, threads in ((wide, 1), (strategy(kernel, NARROW), 3)):
            verify_kernel(made, scheduled=True)
            _compare(_run(made, arrays, outputs, sizes, threads), expected, rtol, f"{made}")
    native = strategy(kernel, host_machine())
    verify_kernel(native, scheduled=True)
    for threads in (1, 2):
        fresh = {n: np.zeros_like(a) if n in outputs else a.copy() for n, a in arrays.items()}
        run_native(native, fresh, sizes, threads=threads)
        _compare({n: fresh[n] for n in outputs}, expected, rtol, f"machine code of {native}")
    return wide


def _run(kernel: Kernel, arrays: Arrays, outputs: tuple[str, ...], sizes: Mapping[str, int], threads: int) -> Arrays:
    fresh = {n: np.zeros_like(a) if n in outputs else a.copy() for n, a in arrays.items()}
    run_kernel(kernel, fresh, {p.name: sizes[p.name] for p in kernel.params if isinstance(p, Var)}, threads)
    return {n: fresh[n] for n in outputs}


def _compare(got: Arrays, expected: Arrays, rtol: float, message: str) -> None:
    for name, e in expected.items():
        g = got[name]
        if DTYPES[_dtype(e)].kind != "f":
            np.testing.assert_array_equal(g, e, f"{name}\n{message}")
            continue
        if e.dtype.itemsize == 2:
            rtol = max(rtol, 1e-2)
        g, e = g.astype(np.float64), e.astype(np.float64)
        finite = e[np.isfinite(e)]
        largest = np.abs(finite).max() if finite.size else 1.0
        np.testing.assert_allclose(g, e, rtol=rtol, atol=rtol * largest, err_msg=f"{name}\n{message}")


def _dtype(array: np.ndarray) -> str:
    return next(n for n, info in DTYPES.items() if info.numpy == array.dtype)
