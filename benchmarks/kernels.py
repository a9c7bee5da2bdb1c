"""Single kernels against the multiply-add peak of this processor, measured in the same seconds.

    python benchmarks/kernels.py [NAME...]      only the rows whose name contains one of these

One thread, weights from beyond the second-level cache, as in a model.  Prints the time of a call (the lower quartile, which
other programs disturb least) and, for products and convolutions, per cent of the peak: above 100 where Winograd saves
arithmetic.  For the others, nanoseconds per element.  Results are checked against NumPy before they are timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tilewright.codegen.machine import Machine
from tilewright.codegen.strategies.scheduled import Group, Scheduled
from tilewright.codegen.strategies.select import schedule_group
from tilewright.ir.compute import Compute, acc_var
from tilewright.ir.expr import Load, Type, binary, call, const, fma, splat
from tilewright.ir.kernel import Alloc, Buffer, For, Kernel, Store, axis
from tilewright.ir.ops.norm import Attention
from tilewright.targets.cpu.host import host_machine
from tilewright.targets.cpu.timing import TimedKernel, operands

ACCUMULATORS, PEAK_STEPS, PEAK_ITERATIONS = 16, 4, 2_000
TRIALS = 60
STRICT = "strict"


@dataclass(frozen=True)
class Case:
    """group: what is scheduled.  reference: the output from the input arrays, in f64.  flops: 2 per multiply-add, 0 for
    kernels that are measured per element."""

    name: str
    group: Group
    reference: Callable[..., np.ndarray]
    flops: int
    accuracy: str = "default"


def matmul(m: int, k: int, n: int) -> Case:
    a, b, c = Buffer("A", "f32", (m, k)), Buffer("B", "f32", (k, n)), Buffer("y", "f32", (m, n))
    i, j, r = axis("m", m), axis("n", n), axis("k", k)
    compute = Compute(c, (i, j), a[i, r] * b[r, j], (r,), "add")
    group = Group("product", (compute,), (a, b, c), constants=frozenset({"B"}))
    return Case(f"matmul {m}x{k}x{n}", group, np.matmul, 2 * m * k * n)


def conv(size: int, channels: int, outputs: int, window: int = 3, stride: int = 1, accuracy: str = "default") -> Case:
    """size: of the output; the input is physically padded."""
    side = (size - 1) * stride + window
    x, w = Buffer("A", "f32", (1, side, side, channels)), Buffer("B", "f32", (window, window, channels, outputs))
    y, bias = Buffer("y", "f32", (1, size, size, outputs)), Buffer("bias", "f32", (outputs,))
    image, oh, ow, n = axis("image", 1), axis("oh", size), axis("ow", size), axis("n", outputs)
    kh, kw, ic = axis("kh", window), axis("kw", window), axis("ic", channels)
    body = x[image, oh * stride + kh, ow * stride + kw, ic] * w[kh, kw, ic, n]
    finish = binary("max", acc_var("f32") + bias[n], const(0.0, "f32"))
    compute = Compute(y, (image, oh, ow, n), body, (kh, kw, ic), "add", finish)

    def reference(image: np.ndarray, weights: np.ndarray, offset: np.ndarray) -> np.ndarray:
        taps = np.lib.stride_tricks.sliding_window_view(image[0], (window, window), (0, 1))[::stride, ::stride]
        return np.maximum(np.einsum("hwcij,ijco->hwo", taps, weights, optimize=True) + offset, 0)[None]

    name = f"conv {window}x{window} s{stride} {size}x{size} {channels}->{outputs}{' direct' if accuracy == STRICT else ''}"
    flops = 2 * size * size * outputs * channels * window * window
    group = Group("product", (compute,), (x, w, bias, y), constants=frozenset({"B", "bias"}))
    return Case(name, group, reference, flops, accuracy)


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
    *(conv(size, n, n, accuracy=how) for size, n in ((56, 64), (28, 128), (14, 256), (7, 512)) for how in ("default", STRICT)),
    conv(28, 128, 128, stride=2), conv(112, 3, 64, window=7, stride=2), conv(56, 64, 256, window=1),
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


def lower_quartile(times: list[float]) -> float:
    return sorted(times)[len(times) // 4]


def measure(case: Case, machine: Machine, peak: TimedKernel, peak_flops: float) -> tuple[str, str, str, str]:
    """The time, the share of the peak, the rate, and the schedule."""
    made = schedule_group(case.group, machine, case.accuracy)
    timed = TimedKernel(case.group, made, machine)
    want = case.reference(*(a.astype(np.float64) for a in operands(case.group).values()))
    error = float(np.abs(timed.results()["y"] - want).max() / np.abs(want).max())
    if not error < 1e-4:
        raise SystemExit(f"{case.name}: wrong result, relative error {error:.2g}")
    turns = [(timed.seconds(), peak.seconds()) for _ in range(TRIALS)]
    best, best_peak = (lower_quartile(list(times)) for times in zip(*turns, strict=True))
    if case.flops:
        share = 100 * case.flops / best / (peak_flops / best_peak)
        return f"{best * 1e6:.1f} us", f"{share:.0f} %", f"{case.flops / best * 1e-9:.0f} GFLOP/s", made.note
    return f"{best * 1e6:.1f} us", "", f"{best / want.size * 1e9:.3f} ns per element", made.note


def main() -> None:
    machine = host_machine()
    peak_flops = 2.0 * ACCUMULATORS * machine.lanes("f32") * PEAK_STEPS * PEAK_ITERATIONS
    kernel = peak_kernel(machine)
    peak = TimedKernel(Group("peak", (), kernel.buffers), Scheduled(kernel), machine)
    best = lower_quartile([peak.seconds() for _ in range(TRIALS)])
    print(f"{machine.name}: peak {peak_flops / best * 1e-9:.0f} GFLOP/s of one core\n")
    print(f"{'kernel':38s}{'time':>11s}{'of peak':>10s}  {'rate':24s}schedule")
    for case in CASES:
        if len(sys.argv) < 2 or any(part in case.name for part in sys.argv[1:]):
            time, share, rate, note = measure(case, machine, peak, peak_flops)
            print(f"{case.name:38s}{time:>11s}{share:>10s}  {rate:24s}{note}", flush=True)


if __name__ == "__main__":
    main()
