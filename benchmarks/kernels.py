"""Single kernels against the multiply-add peak of this processor, measured in the same seconds.

    python benchmarks/kernels.py [NAME...]      only the rows whose name contains one of these

Prints the best time of a call on one thread and, for products and convolutions, per cent of the peak; for the others,
nanoseconds per element.  Results are checked against NumPy in f64 before they are timed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from codegen.native import NativeKernel, aligned, aligned_copy, compile_native
from tilewright.codegen.machine import Machine
from tilewright.codegen.strategies.scheduled import Group, Scheduled
from tilewright.codegen.strategies.select import schedule_group
from tilewright.ir.compute import Compute, acc_var
from tilewright.ir.expr import Load, Type, binary, call, const, fma, splat
from tilewright.ir.kernel import Alloc, Buffer, For, Kernel, Store, axis
from tilewright.ir.ops.norm import Attention
from tilewright.targets.cpu.host import host_machine

ACCUMULATORS, PEAK_STEPS, PEAK_ITERATIONS = 16, 4, 10_000
TRIALS = 40


@dataclass(frozen=True)
class Case:
    """group: what is scheduled.  reference: the output from the input arrays, in f64.  flops: 2 per multiply-add, 0 for
    kernels that are measured per element."""

    name: str
    group: Group
    reference: Callable[..., np.ndarray]
    flops: int


def matmul(m: int, k: int, n: int) -> Case:
    a, b, c = Buffer("A", "f32", (m, k)), Buffer("B", "f32", (k, n)), Buffer("y", "f32", (m, n))
    i, j, r = axis("m", m), axis("n", n), axis("k", k)
    compute = Compute(c, (i, j), a[i, r] * b[r, j], (r,), "add")
    return Case(f"matmul {m}x{k}x{n}", Group("product", (compute,), (a, b, c)), np.matmul, 2 * m * k * n)


def conv(size: int, channels: int, outputs: int, window: int = 3, stride: int = 1) -> Case:
    """size: of the output; the input is physically padded."""
    side = (size - 1) * stride + window
    x, w = Buffer("A", "f32", (side, side, channels)), Buffer("B", "f32", (window, window, channels, outputs))
    y, bias = Buffer("y", "f32", (size, size, outputs)), Buffer("bias", "f32", (outputs,))
    oh, ow, n = axis("oh", size), axis("ow", size), axis("n", outputs)
    kh, kw, ic = axis("kh", window), axis("kw", window), axis("ic", channels)
    body = x[oh * stride + kh, ow * stride + kw, ic] * w[kh, kw, ic, n]
    finish = binary("max", acc_var("f32") + bias[n], const(0.0, "f32"))
    compute = Compute(y, (oh, ow, n), body, (kh, kw, ic), "add", finish)

    def reference(image: np.ndarray, weights: np.ndarray, offset: np.ndarray) -> np.ndarray:
        taps = np.lib.stride_tricks.sliding_window_view(image, (window, window), (0, 1))[::stride, ::stride]
        return np.maximum(np.einsum("hwcij,ijco->hwo", taps, weights, optimize=True) + offset, 0)

    name = f"conv {window}x{window} s{stride} {size}x{size} {channels}->{outputs}"
    flops = 2 * size * size * outputs * channels * window * window
    return Case(name, Group("product", (compute,), (x, w, bias, y)), reference, flops)


def softmax(rows: int, columns: int) -> Case:
    x, y, e = (Buffer(name, "f32", (rows, columns)) for name in ("A", "y", "e"))
    most, total = Buffer("most", "f32", (rows,)), Buffer("total", "f32", (rows,))
    i, j = axis("i", rows), axis("j", columns)
    computes = (
        Compute(most, (i,), x[i, j], (j,), "max"),
        Compute(e, (i, j), call("exp", x[i, j] - most[i])),
        Compute(total, (i,), e[i, j], (j,), "add"),
        Compute(y, (i, j), e[i, j] * (const(1.0, "f32") / total[i])),
    )

    def reference(values: np.ndarray) -> np.ndarray:
        powers = np.exp(values - values.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    return Case(f"softmax {rows}x{columns}", Group("rows", computes, (x, y)), reference, 0)


def attention(heads: int, rows: int, depth: int) -> Case:
    q, k, v, y = (Buffer(name, "f32", (1, heads, rows, depth)) for name in ("q", "k", "v", "y"))
    op = Attention(depth**-0.5, False)

    def reference(*operands: np.ndarray) -> np.ndarray:
        return op.evaluate(*operands)[0]

    group = Group("attention", (), (y, q, k, v), op, (q, k, v))
    return Case(f"attention {heads} heads {rows}x{depth}", group, reference, 4 * heads * rows * rows * depth)


def unary(fn: str, reference: Callable[..., np.ndarray], count: int = 4096) -> Case:
    x, y, i = Buffer("A", "f32", (count,)), Buffer("y", "f32", (count,)), axis("i", count)
    return Case(fn, Group("map", (Compute(y, (i,), call(fn, x[i])),), (x, y)), reference, 0)


CASES = (
    matmul(128, 768, 768), matmul(128, 3072, 768), matmul(128, 768, 3072), matmul(112, 256, 256), matmul(1, 768, 768),
    conv(56, 64, 64), conv(28, 128, 128), conv(14, 256, 256), conv(7, 512, 512), conv(28, 128, 128, stride=2),
    conv(112, 3, 64, window=7, stride=2), conv(56, 64, 256, window=1),
    softmax(128, 128), softmax(64, 1000), attention(12, 128, 64), attention(12, 128, 32),
    unary("exp", np.exp), unary("tanh", np.tanh), unary("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
)


def peak_kernel(machine: Machine) -> Kernel:
    """Independent chains of multiply-adds on registers."""
    lanes = machine.lanes("f32")
    y, acc = Buffer("Y", "f32", (ACCUMULATORS, lanes)), Buffer("acc", "f32", (ACCUMULATORS, lanes), "register")
    n, i, t = axis("n", ACCUMULATORS), axis("i", ACCUMULATORS), axis("t", PEAK_ITERATIONS)
    step = axis("step", PEAK_STEPS)
    vector = Type("f32", lanes)
    total = Load.of(acc, (i, const(0)), vector)
    factor = splat(const(0.5, "f32"), lanes)
    return Kernel("peak", (y,), (
        Alloc(acc),
        For(i, (Store(acc, (i, const(0)), Load.of(y, (i, const(0)), vector)),), "unroll"),
        For(t, (For(step, (For(i, (Store(acc, (i, const(0)), fma(total, factor, factor)),), "unroll"),), "unroll"),)),
        For(n, (Store(y, (n, const(0)), Load.of(acc, (n, const(0)), vector)),), "unroll"),
    ))


def repeated(kernel: Kernel, times: int) -> Kernel:
    """The kernel several times over in one call, for those that are short against the call."""
    return Kernel(kernel.name, kernel.params, (For(axis("repetition", times), kernel.body),))


def bind(native: NativeKernel, arrays: dict[str, np.ndarray]) -> tuple[Callable[[], None], object]:
    """A call without arguments on one thread, and what it needs to stay alive."""
    scratch = aligned(max(64, native.scratch), np.uint8)
    arguments = native.arguments(arrays, {})
    return partial(native.function(), *arguments, scratch.ctypes.data, None, 0, 1), (native, arrays, scratch)


def arrays_of(group: Group, scheduled: Scheduled) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Random arrays for the parameters, packed ones made from their source, and the inputs in order."""
    rng = np.random.default_rng(0)
    arrays = {b.name: aligned_copy(rng.standard_normal(b.shape).astype(np.float32)) for b in group.params}
    inputs = [a.astype(np.float64) for name, a in arrays.items() if name != "y"]
    for name, pack in scheduled.packs:
        arrays[name] = aligned_copy(pack.apply(arrays[pack.source]))
    return arrays, inputs


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure(case: Case, machine: Machine, peak: Callable[[], None], peak_flops: float) -> str:
    scheduled = schedule_group(case.group, machine)
    arrays, inputs = arrays_of(case.group, scheduled)
    keep: list[object] = []
    run, alive = bind(compile_native(scheduled.kernel, machine), arrays)
    keep.append(alive)
    run()
    want = case.reference(*inputs)
    error = float(np.abs(arrays["y"] - want).max() / np.abs(want).max())
    if not error < 1e-5:
        raise SystemExit(f"{case.name}: wrong result, relative error {error:.2g}")
    times = max(1, int(0.002 / max(seconds(run), 1e-6)))
    run, alive = bind(compile_native(repeated(scheduled.kernel, times), machine), arrays)
    keep.append(alive)
    best, best_peak = float("inf"), float("inf")
    for _ in range(TRIALS):
        best, best_peak = min(best, seconds(run) / times), min(best_peak, seconds(peak))
    if case.flops:
        share = 100 * case.flops / best / (peak_flops / best_peak)
        return f"{best * 1e6:9.1f} us  {share:5.1f} % of {peak_flops / best_peak * 1e-9:.0f} GFLOP/s   {scheduled.note}"
    return f"{best * 1e6:9.2f} us  {best / arrays['C'].size * 1e9:5.3f} ns per element   {scheduled.note}"


def main() -> None:
    machine = host_machine()
    peak_flops = 2.0 * ACCUMULATORS * machine.lanes("f32") * PEAK_STEPS * PEAK_ITERATIONS
    result = {"Y": aligned_copy(np.zeros((ACCUMULATORS, machine.lanes("f32")), np.float32))}
    peak, _alive = bind(compile_native(peak_kernel(machine), machine), result)
    print(machine.name)
    for case in CASES:
        if len(sys.argv) < 2 or any(part in case.name for part in sys.argv[1:]):
            print(f"{case.name:32s}{measure(case, machine, peak, peak_flops)}", flush=True)


if __name__ == "__main__":
    main()
