"""Products of few rows with narrow weights, beside the same product in f32, on this processor.

    python benchmarks/narrow_weights.py [K N [ROWS,...]]        # default 8192 8192 1: more than the caches hold

GB/s counts the bytes of weights and scales.  `level` is MatMulNBits' accuracy_level: 0 floats, 4 bytes.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tilewright.compiler.quantize.activations import load_compiled
from tilewright.targets.loader import Module


def narrow(rows: int, k: int, n: int, bits: int, group: int, level: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """The model and its weights in f32."""
    r = np.random.default_rng(0)
    packed = r.integers(0, 256, (n, k // group, group * bits // 8)).astype(np.uint8)
    scales = r.uniform(0.005, 0.01, n * (k // group)).astype(np.float32)
    node = helper.make_node(
        "MatMulNBits", ["x", "q", "s"], ["y"], K=k, N=n, bits=bits, block_size=group, accuracy_level=level,
        domain="com.microsoft",
    )
    q = packed if bits == 8 else np.stack([packed & 15, packed >> 4], -1)
    w = (q.reshape(n, k // group, group).astype(np.float32) - 2 ** (bits - 1)) * scales.reshape(n, -1, 1)
    return model(node, rows, k, n, {"q": packed, "s": scales}), w.reshape(n, k).T


def model(node: onnx.NodeProto, rows: int, k: int, n: int, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    values = [[helper.make_tensor_value_info(name, 1, [rows, d])] for name, d in (("x", k), ("y", n))]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items()]
    graph = helper.make_graph([node], "g", *values, initializer=tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def seconds(module: Module, x: np.ndarray) -> float:
    """The 10th percentile of runs during 0.6 s."""
    module(x)
    found, start = [], time.perf_counter()
    while time.perf_counter() - start < 0.6:
        begin = time.perf_counter()
        module(x)
        found.append(time.perf_counter() - begin)
    return sorted(found)[len(found) // 10]


def main(k: int, n: int, rows: list[int]) -> None:
    for count in rows:
        x = np.random.default_rng(1).normal(size=(count, k)).astype(np.float32)
        _, w = narrow(count, k, n, 4, 32, 0)
        plain = model(helper.make_node("MatMul", ["x", "w"], ["y"]), count, k, n, {"w": w})
        base = seconds(load_compiled(plain, threads=1, cache=False), x)
        print(f"{count} x {k} x {n}, one thread; f32 {1e6 * base:.0f} us, {w.nbytes / base / 1e9:.1f} GB/s")
        for bits, group, level in ((4, 32, 0), (4, 32, 4), (4, 128, 4), (8, 128, 0), (8, 128, 4)):
            made, w = narrow(count, k, n, bits, group, level)
            module = load_compiled(made, threads=1, cache=False)
            expected, time_ = x @ w, seconds(module, x)
            error = np.abs(module(x)[0] - expected).max() / np.abs(expected).max()
            size = w.size * (bits / 8 + 4 / group)
            print(f"  int{bits} blocks of {group}, level {level}: {1e6 * time_:.0f} us, {size / time_ / 1e9:.1f} GB/s, "
                  f"{base / time_:.1f} x f32, error {error:.1e}")


if __name__ == "__main__":
    words = sys.argv[1:] or ["8192", "8192"]
    main(int(words[0]), int(words[1]), [int(v) for v in (words[2] if len(words) > 2 else "1").split(",")])
