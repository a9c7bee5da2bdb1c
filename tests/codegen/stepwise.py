"""Runs a kernel after every step of a strategy and compares it with the naive one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tilewright.ir.expr import Var
from tilewright.ir.kernel import Buffer, For, Kernel
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.types import DTYPES

Arrays = dict[str, np.ndarray]


def sample(buf: Buffer, sizes: Mapping[str, int], seed: int = 0) -> np.ndarray:
    """Random contents of a parameter; floats are multiples of 1/8 of few bits, so that sums of products are exact in
    any order."""
    rng = np.random.default_rng(seed)
    info = DTYPES[buf.dtype]
    shape = [d if isinstance(d, int) else sizes[d.name] for d in buf.shape]  # type: ignore[attr-defined]
    if buf.strides is not None:
        shape = [1 + sum((n - 1) * s for n, s in zip(shape, buf.strides, strict=True))]
    if info.kind == "b":
        return np.asarray(rng.integers(0, 2, shape)).astype(bool)
    if info.kind == "f":
        return np.asarray(rng.integers(-16, 17, shape) / 8).astype(info.numpy, copy=True).reshape(shape)
    return np.asarray(rng.integers(0 if info.kind == "u" else -9, 10, shape)).astype(info.numpy)


class Stepwise:
    """Applies schedules one by one.

    outputs: parameters that are compared; the others are inputs.  packs: how an input is rearranged once a schedule has
    given its parameter another shape, from its array to the new one; it may also make new parameters.
    """

    def __init__(
        self,
        kernel: Kernel,
        outputs: tuple[str, ...],
        packs: Mapping[str, Callable[[Arrays], np.ndarray]] | None = None,
        sizes: Mapping[str, int] | None = None,
        exact: bool = True,
        threads: int = 1,
        inputs: Arrays | None = None,
    ) -> None:
        self.kernel, self.outputs, self.packs, self.sizes = kernel, outputs, packs or {}, sizes or {}
        self.exact, self.threads = exact, threads
        self.inputs = {b.name: sample(b, self.sizes, n) for n, b in enumerate(kernel.buffers) if b.name not in outputs}
        self.inputs.update(inputs or {})
        self.shapes = {b.name: b.shape for b in kernel.buffers}
        self.steps = 0
        self.expected = self.run()

    def run(self) -> Arrays:
        verify_kernel(self.kernel)
        arrays: Arrays = {}
        for b in self.kernel.buffers:
            if b.name in self.outputs:
                arrays[b.name] = np.zeros_like(sample(b, self.sizes))
            elif b.shape != self.shapes.get(b.name):
                arrays[b.name] = np.ascontiguousarray(self.packs[b.name](self.inputs))
            else:
                arrays[b.name] = self.inputs[b.name]
        sizes = {p.name: self.sizes[p.name] for p in self.kernel.params if isinstance(p, Var)}
        run_kernel(self.kernel, arrays, sizes, self.threads)
        return {name: arrays[name] for name in self.outputs}

    def __call__(self, schedule: Callable[..., Kernel], *args: Any, **named: Any) -> Kernel:
        made = schedule(self.kernel, *args, **named)
        self.kernel = made[0] if isinstance(made, tuple) else made
        self.steps += 1
        for name, array in self.run().items():
            expected, where = self.expected[name], f"{name} after step {self.steps}, {schedule.__name__}"
            if self.exact:
                np.testing.assert_array_equal(array, expected, where)
            else:
                np.testing.assert_allclose(
                    array.astype(np.float64), expected.astype(np.float64), rtol=1e-5, atol=1e-6, err_msg=where)
        return made

    def finish(self) -> None:
        """The kernel is what printers take."""
        verify_kernel(self.kernel, scheduled=True)


def run_steps(kernel: Kernel, outputs: tuple[str, ...], *steps: Callable[[Kernel], Kernel], **options: Any) -> Kernel:
    """Apply steps given as functions of the kernel alone."""
    at = Stepwise(kernel, outputs, **options)
    for step in steps:
        at(step)
    return at.kernel


def loop_names(kernel: Kernel) -> list[str]:
    """The names of the loops along the first path inward, outermost first."""
    names: list[str] = []
    block = kernel.body
    while inner := next((s for s in block if isinstance(s, For)), None):
        names.append(inner.var.name)
        block = inner.body
    return names
