"""Models on the GPU of this machine: right against the CPU target, timed beside PyTorch, the table last.

    python benchmarks/gpu.py MODEL.onnx ... [--batch 1 64] [--arch sm_90] [--shape NAME=1x3x224x224] [--runs 50]

Each model is compiled for the GPU and for the processor, run on the same random inputs, and compared.  Times are of runs on
device arrays, medians over --runs runs after warming up, by CUDA events where PyTorch is installed and by the clock around
a run with a synchronisation otherwise.  With PyTorch and onnx2torch the same model is timed there too, as it is and with
torch.compile(mode="max-autotune").  --batch sets the first dimension of every input whose model leaves it open.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import tilewright
from tilewright.codegen.machine_gpu import ARCHITECTURES
from tilewright.ir.errors import TilewrightError

WARM_UP = 5


@dataclass(frozen=True)
class Row:
    """error: largest difference from the CPU target, over its largest element.  Times in milliseconds; None: not measured."""

    model: str
    batch: int
    error: float
    ours: float
    host: float
    eager: float | None
    compiled: float | None
    build: float


def device_architecture() -> str:
    """The architecture of GPU 0 as nvidia-smi tells it.  Exits with a message if there is none."""
    try:
        query = ["nvidia-smi", "--query-gpu=compute_cap,name", "--format=csv,noheader"]
        shown = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        sys.exit(f"no GPU here (nvidia-smi: {error}); docs/cuda.md says how to check a model without one")
    capability, name = shown.split(",", 1)
    arch = "sm_" + capability.strip().replace(".", "")
    print(f"GPU: {name.strip()}, {arch}")
    return arch if arch in ARCHITECTURES else max((a for a in ARCHITECTURES if a <= arch), default="sm_80")


def input_shapes(path: str, batch: int, given: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The shape of every input; open dimensions become the batch, if first, else 1."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {t.name for t in graph.initializer}
    shapes = {}
    for v in graph.input:
        if v.name not in constants:
            dims = v.type.tensor_type.shape.dim
            free = [d.dim_value or (batch if n == 0 else 1) for n, d in enumerate(dims)]
            shapes[v.name] = tuple(given.get(v.name, free))
    return shapes


def random_inputs(module: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = []
    for spec in module.inputs:
        floating = spec.numpy.kind not in "iub"
        drawn = rng.standard_normal(spec.shape) if floating else rng.integers(0, 2, spec.shape)
        arrays.append(drawn.astype(spec.numpy))
    return arrays


def milliseconds(run: Callable[[], object], wait: Callable[[], object], runs: int) -> float:
    """The median time of a run, each waited for."""
    for _ in range(WARM_UP):
        run()
    wait()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def torch_with_cuda() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def time_on_device(module: Any, arrays: Sequence[np.ndarray], runs: int) -> float:
    """Runs on device arrays: PyTorch's where it is there, else our own copies."""
    torch = torch_with_cuda()
    if torch is None:
        outputs = [np.empty(s.shape, s.numpy) for s in module.outputs]
        return milliseconds(module.bind(list(arrays), outputs), lambda: None, runs)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        inputs = [torch.from_numpy(a).cuda() for a in arrays]
        outputs = [torch.empty(s.shape, dtype=getattr(torch, str(s.numpy)), device="cuda") for s in module.outputs]
        step = module.bind_device(inputs, outputs, stream.cuda_stream)
        return milliseconds(step, stream.synchronize, runs)


def time_torch(path: str, arrays: Sequence[np.ndarray], runs: int, compiled: bool) -> float | None:
    """The model in PyTorch; None where it, or what converts the model, is not installed or does not take it."""
    torch = torch_with_cuda()
    try:
        from onnx2torch import convert
    except ImportError:
        return None
    if torch is None:
        return None
    try:
        model = convert(path).eval().cuda()
        if compiled:
            model = torch.compile(model, mode="max-autotune")
        inputs = [torch.from_numpy(a).cuda() for a in arrays]
        with torch.inference_mode():
            return milliseconds(lambda: model(*inputs), torch.cuda.synchronize, runs)
    except Exception as error:  # a peer that does not take the model is a gap in the table, not the end of it
        print(f"{path}: PyTorch: {type(error).__name__}: {str(error)[:200]}")
        return None


def measure(path: str, batch: int, arch: str, given: Mapping[str, Sequence[int]], runs: int) -> Row:
    shapes = input_shapes(path, batch, given)
    start = time.perf_counter()
    artifact = tilewright.compile(path, target=f"cuda:{arch}", shapes=shapes, cache=False)
    build = time.perf_counter() - start
    with artifact.load() as module, tilewright.compile(path, shapes=shapes).load() as reference:
        arrays = random_inputs(module)
        error = 0.0
        for got, wanted in zip(module(*arrays), reference(*arrays), strict=True):
            wide, expected = got.astype(np.float64), wanted.astype(np.float64)
            if wide.size:
                error = max(error, float(np.abs(wide - expected).max() / (np.abs(expected).max() + 1e-30)))
        ours = time_on_device(module, arrays, runs)
        places = [np.empty(s.shape, s.numpy) for s in module.outputs]
        host = milliseconds(module.bind(arrays, places), lambda: None, runs)
    peers = [time_torch(path, arrays, runs, compiled) for compiled in (False, True)]
    return Row(path.rsplit("/", 1)[-1], batch, error, ours, host, *peers, build)


def table(rows: Sequence[Row]) -> str:
    heading = ("model", "batch", "error", "on device, ms", "from host, ms", "torch, ms", "torch.compile, ms", "build, s")
    shown = [heading] + [
        (r.model, str(r.batch), f"{r.error:.1e}", f"{r.ours:.3f}", f"{r.host:.3f}",
         *("-" if t is None else f"{t:.3f}" for t in (r.eager, r.compiled)), f"{r.build:.1f}")
        for r in rows
    ]
    widths = [max(len(line[c]) for line in shown) for c in range(len(heading))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in shown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--arch", default="", help="architecture to compile for (default: that of the GPU)")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1x3x224x224")
    parser.add_argument("--runs", type=int, default=50)
    arguments = parser.parse_args()
    arch = arguments.arch or device_architecture()
    given = {name: [int(d) for d in dims.split("x")] for name, _, dims in (s.partition("=") for s in arguments.shape)}
    rows, failed = [], 0
    for path in arguments.models:
        for batch in arguments.batch:
            try:
                rows.append(measure(path, batch, arch, given, arguments.runs))
            except TilewrightError as error:
                failed += 1
                print(f"{path}, batch {batch}: {error}")
    print(table(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
