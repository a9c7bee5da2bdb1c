"""Sparse against dense: single products, and whole models with zeros in their weights, beside ONNX Runtime and OpenVINO.

    python benchmarks/sparsity.py                                     products of this processor's sparse and dense kernels
    python benchmarks/sparsity.py --int8                              the same with u8 x i8
    python benchmarks/sparsity.py --sweep [--int8] [--shape 128x768x768]     one product at 0 to 99 % zeros, as chosen
    python benchmarks/sparsity.py MODEL.onnx [--inputs X.npz] [--pattern 8x1] [--sparsity 0.8] [--threads 1] [--beside F.onnx]

Of a model every product and convolution of at least 32 x 32 weights gets zeros by magnitude (speed does not depend on which
ones; accuracy is what `tilewright prune` is for), also the integers of a QDQ file.  Timed in turns in one process, the lower
quartile of each: Tilewright on the dense and the sparse file; where they are installed, ONNX Runtime and OpenVINO (in f32) on
both.  Large dense products of floats are seven of half the size; the speed beside the product itself (`--accuracy strict`)
stands in brackets.  Quote ratios.  Products include the copy of the input and the output's way back; each runs with its
operands as the run before left them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tilewright
from onnx import TensorProto, helper, numpy_helper
from tilewright.compiler.onnx_edit import OnnxEdit
from tilewright.compiler.prune.layers import find_layers
from tilewright.compiler.prune.patterns import parse_pattern

SHAPES = ((128, 768, 768), (128, 768, 3072), (128, 3072, 768), (256, 384, 1536), (784, 256, 64), (196, 1024, 256))
PATTERNS = ("8x1", "4x1", "2x1", "unstructured")
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
SMALLEST = 1024
SECONDS = 1.0  # of one comparison
MOST_SECONDS = 6.0
SWEEP = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def zeroed(model: onnx.ModelProto, pattern: str, sparsity: float) -> onnx.ModelProto:
    """The model with the smallest blocks of every layer set to zero."""
    edit = OnnxEdit(model)
    chosen = parse_pattern(pattern)
    for layer in find_layers(edit, SMALLEST)[0]:
        w = layer.matrix(edit)
        if chosen.fits(*w.shape):
            layer.store(edit, np.where(chosen.select(np.abs(w), 1 - sparsity), w, 0))
    for constant, is_conv, turned in integer_weights(edit):
        w = edit.constants[constant]
        matrix = w.reshape(len(w), -1).T if is_conv or turned else w
        if matrix.size >= SMALLEST and chosen.fits(*matrix.shape):
            kept = chosen.select(np.abs(matrix.astype(np.float32)), 1 - sparsity)
            made = np.where(kept, matrix, 0).astype(w.dtype)
            edit.constants[constant] = np.ascontiguousarray(made.T).reshape(w.shape) if is_conv or turned else made
    return edit.finish()


def integer_weights(edit: OnnxEdit) -> list[tuple[str, bool, bool]]:
    """(constant, whether of a convolution, whether it has outputs first) of products that read dequantized i8."""
    makers, found = edit.producers(), {}
    for node in edit.nodes:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        maker = makers.get(node.input[1])
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        w = edit.constants.get(maker.input[0])
        grouped = any(a.name == "group" and a.i != 1 for a in node.attribute)
        if w is not None and w.dtype == np.int8 and w.ndim >= 2 and not grouped:
            turned = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
            found[maker.input[0]] = maker.input[0], node.op_type == "Conv", turned
    return list(found.values())


def product(rows: int, depth: int, outputs: int) -> onnx.ModelProto:
    rng = np.random.default_rng([rows, depth, outputs])
    w = rng.standard_normal((depth, outputs)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [rows, depth]), ("y", [rows, outputs])))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [numpy_helper.from_array(w, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def integer_product(rows: int, depth: int, outputs: int) -> onnx.ModelProto:
    """u8 x i8, bias, u8."""
    rng = np.random.default_rng([rows, depth, outputs])
    constants = {
        "w": rng.integers(-127, 128, (depth, outputs)).astype(np.int8), "t": np.full(outputs, 0.01, np.float32),
        "s": np.float32(0.02), "z": np.uint8(120), "r": np.float32(2.0), "b": rng.standard_normal(outputs).astype(np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "t"], ["wf"], axis=1), helper.make_node("MatMul", ["xf", "wf"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]), helper.make_node("QuantizeLinear", ["a", "r", "z"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.UINT8, s) for n, s in (("x", [rows, depth]), ("y", [rows, outputs])))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def race(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of one call of each, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.monotonic() + min(SECONDS * len(runs), MOST_SECONDS)
    while time.monotonic() < end or len(next(iter(times.values()))) < 8:
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: sorted(found)[len(found) // 4] for name, found in times.items()}


def ours(
    model: onnx.ModelProto, inputs: dict[str, np.ndarray], threads: int, accuracy: str = "default"
) -> tuple[Callable[[], Any], int]:
    """(one run, bytes of weights)"""
    artifact = tilewright.compile(model, name="model", shapes={n: a.shape for n, a in inputs.items()}, accuracy=accuracy)
    module = artifact.load(threads)
    bound = module.bind(inputs, module(inputs))
    return bound, int(artifact.manifest["sizes"]["weights"])


def peers(model: onnx.ModelProto, inputs: dict[str, np.ndarray], threads: int) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found["ONNX Runtime"] = lambda: session.run(None, inputs)
    except ImportError:
        print("ONNX Runtime is not installed: no column of it")
    try:
        import openvino

        core = openvino.Core()
        config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(core.read_model(model.SerializeToString()), "CPU", config).create_infer_request()
        found["OpenVINO"] = lambda: request.infer(inputs)
    except ImportError:
        print("OpenVINO is not installed: no column of it")
    return found


def operand(shape: tuple[int, ...], integers: bool) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).integers(0, 256, shape[:2]).astype(np.uint8)
    return {"x": x if integers else x.astype(np.float32) / 128 - 1}


def products(integers: bool) -> None:
    print("one thread, times the speed of the dense kernel" + ("" if integers else " (of the plain one)"))
    print(f"{'rows x depth x outputs':>24}  {'pattern':13}" + "".join(f"{100 * s:12.0f} %" for s in SPARSITIES))
    for shape in SHAPES:
        dense = (integer_product if integers else product)(*shape)
        inputs = operand(shape, integers)
        for pattern in ("8x4", *PATTERNS) if integers else PATTERNS:
            runs = {"dense": ours(dense, inputs, 1)[0]}
            runs |= {} if integers else {"plain": ours(dense, inputs, 1, "strict")[0]}
            runs |= {str(s): ours(zeroed(dense, pattern, s), inputs, 1)[0] for s in SPARSITIES}
            times = race(runs)
            cells = ""
            for s in map(str, SPARSITIES):
                plain = "" if integers else f" ({times['plain'] / times[s]:.2f})"
                cells += (f"{times['dense'] / times[s]:.2f}" + plain).rjust(14)
            print(f"{' x '.join(map(str, shape)):>24}  {pattern:13}{cells}", flush=True)


def sweep(shape: tuple[int, ...], integers: bool) -> None:
    """One product with every share of zeros: what the compiler chooses beside the dense kernel; how slow it is at worst."""
    dense, inputs, worst = (integer_product if integers else product)(*shape), operand(shape, integers), 9.0
    print(f"{' x '.join(map(str, shape))}, one thread, times the speed of the dense kernel")
    print(f"{'':13}" + "".join(f"{100 * s:6.0f} %" for s in SWEEP))
    for pattern in ("8x4", *PATTERNS) if integers else PATTERNS:
        runs = {"dense": ours(dense, inputs, 1)[0]} | {str(s): ours(zeroed(dense, pattern, s), inputs, 1)[0] for s in SWEEP}
        times = race(runs)
        ratios = [times["dense"] / times[str(s)] for s in SWEEP]
        worst = min(worst, *ratios)
        print(f"{pattern:13}" + "".join(f"{r:8.2f}" for r in ratios), flush=True)
    print(f"at worst {worst:.3f} times as fast as dense")


def whole(path: Path, inputs: Path | None, pattern: str, sparsity: float, threads: int, beside: Path | None) -> None:
    model = onnx.load(path)
    with np.load(inputs or path.with_suffix(".inputs.npz")) as data:
        values = {n: data[n] for n in data.files}
    sparse = zeroed(model, pattern, sparsity)
    (dense_run, dense_bytes), (sparse_run, sparse_bytes) = (ours(m, values, threads) for m in (model, sparse))
    runs = {"Tilewright, dense": dense_run, f"Tilewright, {pattern} {100 * sparsity:g} %": sparse_run}
    for name, m in (("dense", model), ("sparse", sparse)):
        runs |= {f"{peer}, {name} file": run for peer, run in peers(m, values, threads).items()}
    if beside is not None:
        other = onnx.load(beside)
        runs |= {f"Tilewright, {beside.stem}": ours(other, values, threads)[0]}
        runs |= {f"{peer}, {beside.stem}": run for peer, run in peers(other, values, threads).items()}
    times = race(runs)
    print(f"{path.stem}, {threads} thread(s); weights {dense_bytes / 1e6:.1f} MB dense, {sparse_bytes / 1e6:.1f} MB sparse")
    best = times[f"Tilewright, {pattern} {100 * sparsity:g} %"]
    for name, seconds in sorted(times.items(), key=lambda item: item[1]):
        print(f"  {name:32} {1e3 * seconds:9.3f} ms   {seconds / best:5.2f} times the sparse model's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--inputs", type=Path, help="arrays by input name (default: MODEL.inputs.npz)")
    parser.add_argument("--pattern", default="8x1")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--sweep", action="store_true", help="one product at 0 to 99 %% zeros")
    parser.add_argument("--shape", default="128x768x768", help="rows, depth and outputs of that product")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--int8", action="store_true", help="products of integers")
    parser.add_argument("--beside", type=Path, help="another model of the same inputs, as it is")
    a = parser.parse_args()
    if a.sweep:
        sweep(tuple(map(int, a.shape.split("x"))), a.int8)
    elif a.model is None:
        products(a.int8)
    else:
        whole(a.model, a.inputs, a.pattern, a.sparsity, a.threads, a.beside)


if __name__ == "__main__":
    main()
