"""Models on the GPU of this machine: right against the CPU target, timed beside PyTorch and JAX, the table last.

    python benchmarks/gpu.py MODEL.onnx ... [--batch 1 64] [--precision f32 bf16] [--arch sm_90] [--runs 50]
                             [--shape NAME=1x3x224x224] [--kernels] [--products 4096x4096x4096] [--sanitize]

Each model is compiled for the GPU and, in f32, for the processor, run on the same random inputs, and compared.  Times are of
runs on device arrays, medians over --runs runs after warming up, by the clock around a run with a synchronisation.  With
PyTorch and onnx2torch the same model is timed there too, in the same precision, as it is and with
torch.compile(mode="max-autotune"), which uses CUDA graphs; with JAX for CUDA as StableHLO through XLA.  --batch sets the
first dimension of every input whose model leaves it open.

--kernels also prints the launches of each model: time by events, and the share of what the machine could do at most (its
arithmetic or its memory, whichever is slower).  --products times single products against PyTorch's (cuBLAS).  --sanitize
runs each model once under compute-sanitizer, for accesses out of bounds and races.  --tune FILE compiles each model with the
tiles that the cost model puts first to fourth, and with cuBLASLt and cuDNN where they make such products and convolutions,
times every kernel, and writes what wins by more than 3 % to the file: text, a line each, for `--tuning-file FILE` of
`tilewright compile`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import tilewright
from tilewright.codegen.machine_gpu import ARCHITECTURES, parse_gpu_machine
from tilewright.codegen.program import Cost
from tilewright.codegen.roofline import limit_of
from tilewright.codegen.strategies.choices import Choice
from tilewright.compiler.tuning_file import Found, add_entry
from tilewright.ir.errors import TilewrightError
from tilewright.targets.safetensors import read_safetensors
from tilewright.targets.xla.client import Executable, from_portable

WARM_UP = 5
VARIANTS = 4  # tiles that are timed for each product


@dataclass(frozen=True)
class Row:
    """error: largest difference from the CPU target, over its largest element.  Times in milliseconds; None: not measured."""

    model: str
    batch: int
    precision: str
    error: float
    ours: float
    host: float
    eager: float | None
    compiled: float | None
    jax: float | None
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
    if arch + "a" in ARCHITECTURES:  # with the instructions of this generation alone
        return arch + "a"
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


def device_arrays(module: Any, arrays: Sequence[np.ndarray]) -> tuple[list[Any], list[Any], Any]:
    """(inputs, outputs, stream) in device memory: PyTorch's where it is there, else our own, without the numbers."""
    torch = torch_with_cuda()
    if torch is None:
        return ([module._empty(s, 0) for s in module.inputs], [module._empty(s, 0) for s in module.outputs], None)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        inputs = [torch.from_numpy(a).cuda() for a in arrays]
        outputs = [torch.empty(s.shape, dtype=getattr(torch, str(s.numpy)), device="cuda") for s in module.outputs]
    stream.synchronize()
    return inputs, outputs, stream


def time_on_device(module: Any, arrays: Sequence[np.ndarray], runs: int) -> float:
    """Runs on device arrays, each waited for; without PyTorch by runs on host memory."""
    inputs, outputs, stream = device_arrays(module, arrays)
    if stream is None:
        places = [np.empty(s.shape, s.numpy) for s in module.outputs]
        return milliseconds(module.bind(list(arrays), places), lambda: None, runs)
    return milliseconds(module.bind_device(inputs, outputs, stream.cuda_stream), stream.synchronize, runs)


def launch_table(module: Any, arrays: Sequence[np.ndarray], arch: str, runs: int = 10) -> str:
    """The kernels of a model, the slowest first: launches, time, share of the whole, share of the machine's limit."""
    inputs, outputs, stream = device_arrays(module, arrays)
    handle = 0 if stream is None else stream.cuda_stream
    samples = [module.time_launches(inputs, outputs, handle) for _ in range(runs + 2)][2:]
    machine = parse_gpu_machine(f"cuda:{arch}")
    groups: dict[str, list[Any]] = {}
    limits: dict[str, float] = {}
    seen: set[tuple[str, str]] = set()
    for launches in zip(*samples, strict=True):
        first = launches[0]
        name = first.function.rstrip("0123456789").rstrip("_") if first.function[-2:-1] == "_" else first.function
        groups.setdefault(name, []).append((statistics.median(x.milliseconds for x in launches), first))
        if (name, first.where) not in seen:  # macs and bytes are those of the whole call
            seen.add((name, first.where))
            cost = Cost(first.macs, first.bytes, 0, first.schedule)
            limits[name] = limits.get(name, 0.0) + limit_of(cost, machine).seconds * 1e3
    total = sum(time for rows in groups.values() for time, _ in rows)
    lines = [f"{'kernel':<24}{'launches':>9}{'ms':>10}{'share':>8}{'of limit':>10}  schedule"]
    for name, rows in sorted(groups.items(), key=lambda item: -sum(time for time, _ in item[1])):
        time = sum(t for t, _ in rows)
        lines.append(f"{name:<24}{len(rows):>9}{time:>10.4f}{time / total:>8.1%}{limits[name] / time:>10.1%}  "
                     f"{rows[0][1].schedule[:90]}")
    return "\n".join(lines)


TORCH_TYPES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32", "tf32": "float32"}


def time_torch(path: str, arrays: Sequence[np.ndarray], runs: int, compiled: bool, precision: str) -> float | None:
    """The model in PyTorch; None where it, or what converts the model, is not installed or does not take it."""
    torch = torch_with_cuda()
    try:
        from onnx2torch import convert
    except ImportError:
        return None
    if torch is None:
        return None
    try:
        dtype = getattr(torch, TORCH_TYPES[precision])
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        model = convert(path).eval().cuda().to(dtype)
        if compiled:
            model = torch.compile(model, mode="max-autotune")
        inputs = [torch.from_numpy(a).cuda() for a in arrays]
        inputs = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
        with torch.inference_mode():
            return milliseconds(lambda: model(*inputs), torch.cuda.synchronize, runs)
    except Exception as error:  # a peer that does not take the model is a gap in the table, not the end of it
        print(f"{path}: PyTorch: {type(error).__name__}: {str(error)[:200]}")
        return None


def time_jax(
    path: str, shapes: Mapping[str, Sequence[int]], arrays: Sequence[np.ndarray], runs: int, precision: str,
    platform: str = "cuda",
) -> float | None:
    """The model as StableHLO, compiled and run by XLA through JAX, everything on the device; None where JAX has no such device
    or XLA no such precision.  XLA rounds f32 to tf32 where it likes to."""
    if precision not in ("f32", "bf16", "f16"):
        return None
    try:
        artifact = tilewright.compile(path, target="xla", shapes=shapes, precision=precision, cache=False)
        manifest = artifact.manifest
        with TemporaryDirectory() as folder:
            place = artifact.save(folder)
            weights = read_safetensors(place / manifest["weights_file"])
            module = from_portable((place / manifest["library"]).read_bytes())
        executable = Executable(module, [weights[w["name"]] for w in manifest["weights"]], platform)
    except (TilewrightError, RuntimeError) as error:
        print(f"{path}: JAX: {str(error)[:200]}")
        return None
    inputs = [executable.put(a) for a in arrays]

    def run() -> None:
        for result in executable.start(inputs):
            result.block_until_ready()

    return milliseconds(run, lambda: None, runs)


def measure(
    path: str, batch: int, precision: str, arch: str, given: Mapping[str, Sequence[int]], runs: int, kernels: bool,
    tuning: Path | None = None,
) -> Row:
    shapes = input_shapes(path, batch, given)
    start = time.perf_counter()
    tuned = tuning if tuning is not None and tuning.is_file() else None
    artifact = tilewright.compile(path, target=f"cuda:{arch}", shapes=shapes, precision=precision, cache=False,
                                  tuning_file=tuned)
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
        if kernels:
            print(f"\n{path}, batch {batch}, {precision}\n{launch_table(module, arrays, arch)}")
    eager, compiled = (time_torch(path, arrays, runs, compiled, precision) for compiled in (False, True))
    jax = time_jax(path, shapes, arrays, runs, precision)
    return Row(path.rsplit("/", 1)[-1], batch, precision, error, ours, host, eager, compiled, jax, build)


def product_model(m: int, n: int, k: int, precision: str, transposed: bool) -> bytes:
    """y = a @ b, both computed, in 16 bits where that is the precision; transposed: y = a @ b.T, as of linear layers."""
    kinds = {"f16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
    kind = kinds.get(precision, onnx.TensorProto.FLOAT)
    info = onnx.helper.make_tensor_value_info
    turn = [onnx.helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0])] if transposed else []
    product = onnx.helper.make_node("MatMul", ["a", "c" if transposed else "b"], ["y"])
    b = info("b", kind, [n, k] if transposed else [k, n])
    graph = onnx.helper.make_graph([*turn, product], "product", [info("a", kind, [m, k]), b], [info("y", kind, [m, n])])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def measure_product(size: str, precision: str, arch: str, runs: int, transposed: bool) -> str:
    """One product against PyTorch's on the same arrays: one line."""
    m, n, k = (int(d) for d in size.split("x"))
    torch = torch_with_cuda()
    if torch is None:
        return f"product {size} {precision}: PyTorch with CUDA is not installed"
    dtype = getattr(torch, TORCH_TYPES[precision])
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    model = product_model(m, n, k, precision, transposed)
    artifact = tilewright.compile(model, target=f"cuda:{arch}", precision=precision, cache=False)
    with artifact.load() as loaded:
        module: Any = loaded
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            shape = (n, k) if transposed else (k, n)
            a, b = (torch.randn(*s, device="cuda").to(dtype) for s in ((m, k), shape))
            right = b.T if transposed else b
            y = torch.empty(m, n, device="cuda", dtype=dtype)
            step = module.bind_device([a, b], [y], stream.cuda_stream)
            ours = milliseconds(step, stream.synchronize, runs)
            theirs = milliseconds(lambda: torch.matmul(a, right), stream.synchronize, runs)
            error = float((y.float() - (a.double() @ right.double()).float()).abs().max() / y.float().abs().max())
    flop = 2e-9 * m * n * k
    return (f"product {size}{' b.T' if transposed else ''} {precision}: {ours:.4f} ms = {flop / ours:.1f} TFLOP/s, "
            f"PyTorch {theirs:.4f} ms = {flop / theirs:.1f} TFLOP/s, {theirs / ours:.1%} of it, error {error:.1e}")


def tune(path: str, batch: int, precision: str, arch: str, given: Mapping[str, Sequence[int]], file: Path) -> str:
    """Adds the tiles that win to a tuning file; what was found in words."""
    options: dict[str, Any] = {"target": f"cuda:{arch}", "shapes": input_shapes(path, batch, given), "precision": precision}
    machine = replace(parse_gpu_machine(f"cuda:{arch}"), precision=precision)
    found: dict[str, list[tuple[float, dict[str, int]]]] = {}
    with TemporaryDirectory() as folder:
        for n, tried in enumerate((*(Choice(rank=r) for r in range(VARIANTS)), Choice(library=1))):
            trial = Path(folder) / f"{n}.jsonl"
            for key in found:
                add_entry(trial, machine, key, Found(tried, 0.0, "trial"))
            artifact = tilewright.compile(path, cache=False, tuning_file=trial if found else None, **options)
            try:
                with artifact.load() as module:
                    times = times_by_key(module)
            except TilewrightError as error:
                if not tried.library:
                    raise
                print(f"{path}: {error}")  # a library is not there: it wins nothing
                continue
            for key, choice in {k["key"]: k["choice"] for k in artifact.manifest["kernels"] if k["choice"]}.items():
                if (n == 0 or key in found) and choice.get("library") == tried.library:
                    found.setdefault(key, []).append((times[key], choice))
    kept = 0
    for key, measured in found.items():
        time, choice = min(measured, key=lambda item: item[0])
        gain = 1 - time / measured[0][0]
        if gain > 0.03:
            add_entry(file, machine, key, Found(Choice.from_json(choice), gain, f"{path.rsplit('/', 1)[-1]}, batch {batch}"))
            kept += 1
    return f"{path}, batch {batch}, {precision}: {kept} of {len(found)} products have better tiles, written to {file}"


def times_by_key(module: Any) -> dict[str, float]:
    """Milliseconds of the kernels of each group, the median of ten runs."""
    inputs, outputs, stream = device_arrays(module, random_inputs(module))
    handle = 0 if stream is None else stream.cuda_stream
    samples = [module.time_launches(inputs, outputs, handle) for _ in range(12)][2:]
    keys = [k["key"] for k in module.manifest["kernels"] for _ in k["launches"]]
    found: dict[str, float] = {}
    for key, launches in zip(keys, zip(*samples, strict=True), strict=True):
        found[key] = found.get(key, 0.0) + statistics.median(x.milliseconds for x in launches)
    return found


def sanitize(path: str, arch: str) -> bool:
    """One run under compute-sanitizer's memcheck and racecheck; whether both found nothing."""
    code = (f"import tilewright, numpy as np; m = tilewright.compile({path!r}, target='cuda:{arch}').load(); "
            "m(*[np.ones(s.shape, s.numpy) for s in m.inputs])")
    clean = True
    for tool in ("memcheck", "racecheck"):
        done = subprocess.run(["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", code],
                              capture_output=True, text=True, check=False)
        clean &= done.returncode == 0
        print(f"{path}: {tool}: {'clean' if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-500:]}")
    return clean


def table(rows: Sequence[Row]) -> str:
    heading = ("model", "batch", "precision", "error", "on device, ms", "from host, ms", "torch, ms", "torch.compile, ms",
               "JAX, ms", "build, s")
    shown = [heading] + [
        (r.model, str(r.batch), r.precision, f"{r.error:.1e}", f"{r.ours:.3f}", f"{r.host:.3f}",
         *("-" if t is None else f"{t:.3f}" for t in (r.eager, r.compiled, r.jax)), f"{r.build:.1f}")
        for r in rows
    ]
    widths = [max(len(line[c]) for line in shown) for c in range(len(heading))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in shown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL.onnx")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--precision", nargs="+", default=["f32"], choices=tuple(TORCH_TYPES))
    parser.add_argument("--kernels", action="store_true", help="print the launches of each model")
    parser.add_argument("--products", nargs="*", default=[], metavar="MxNxK", help="time single products against cuBLAS")
    parser.add_argument("--sanitize", action="store_true", help="also run each model under compute-sanitizer")
    parser.add_argument("--tune", type=Path, metavar="FILE", help="time other tiles, keep what wins in this file")
    parser.add_argument("--arch", default="", help="architecture to compile for (default: that of the GPU)")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1x3x224x224")
    parser.add_argument("--runs", type=int, default=50)
    arguments = parser.parse_args()
    arch = arguments.arch or device_architecture()
    given = {name: [int(d) for d in dims.split("x")] for name, _, dims in (s.partition("=") for s in arguments.shape)}
    rows, failed = [], 0
    for size in arguments.products:
        for precision in arguments.precision:
            for transposed in (False, True):
                print(measure_product(size, precision, arch, arguments.runs, transposed))
    for path in arguments.models:
        if arguments.sanitize:
            failed += not sanitize(path, arch)
        for batch, precision in ((b, p) for b in arguments.batch for p in arguments.precision):
            try:
                if arguments.tune:
                    print(tune(path, batch, precision, arch, given, arguments.tune))
                rows.append(measure(path, batch, precision, arch, given, arguments.runs, arguments.kernels, arguments.tune))
            except TilewrightError as error:
                failed += 1
                print(f"{path}, batch {batch}, {precision}: {error}")
    if rows:
        print(table(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
