"""Tree ensembles: times of a regressor with random trees, compiled, and in ONNX Runtime.

    python benchmarks/trees.py --model forest.onnx --depth 8            write a model
    python benchmarks/trees.py --run forest.onnx                        our times
    PYTHON benchmarks/trees.py --run forest.onnx --peer                 those of ONNX Runtime, in an environment that has it

Batch 1 goes through 1000 different rows: one row again and again would let the processor remember its branches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

FEATURES, ROWS, SECONDS = 50, 1000, 3.0


def forest(trees: int, depth: int, grown: bool) -> dict[str, Any]:
    """Full trees of a depth; grown: trees with as many leaves whose leaves were split at random, so of uneven depth."""
    rng = np.random.default_rng(0)
    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    columns: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    leaves: list[tuple[int, int]] = []
    for tree in range(trees):
        children: list[tuple[int, int] | None] = [None]
        open_ = [0]
        while len(open_) < 2**depth:
            node = open_.pop(int(rng.integers(len(open_))) if grown else 0)
            children[node] = (len(children), len(children) + 1)
            open_ += children[node] or ()
            children += [None, None]
        for node, both in enumerate(children):
            inner = both is not None
            mode = "BRANCH_LEQ" if inner else "LEAF"
            row = (tree, node, int(rng.integers(FEATURES)), mode, float(rng.normal()), *(both or (0, 0)))
            for name, entry in zip(names, row, strict=True):
                columns[f"nodes_{name}"].append(entry)
            if not inner:
                leaves.append((tree, node))
    targets = {"treeids": [t for t, _ in leaves], "nodeids": [n for _, n in leaves], "ids": [0] * len(leaves),
               "weights": rng.normal(size=len(leaves)).tolist()}  # fmt: skip
    return {**columns, **{f"target_{name}": column for name, column in targets.items()}, "n_targets": 1}


def write(path: str, trees: int, depth: int, grown: bool) -> None:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c]) for n, c in (("x", FEATURES), ("y", 1)))
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **forest(trees, depth, grown))
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(helper.make_graph([node], "forest", [x], [y]), opset_imports=versions, ir_version=8), path)


def median(run: Callable[[], object], calls: int) -> float:
    """Microseconds of one call, of a run that makes so many."""
    run()
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times) * 1e6


def runner(path: str, batch: int, peer: bool) -> Callable[[np.ndarray], object]:
    if peer:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})
    import tilewright

    return tilewright.compile(path, shapes={"x": (batch, FEATURES)}).load(threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a file to write")
    parser.add_argument("--trees", type=int, default=500)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--grown", action="store_true", help="uneven trees")
    parser.add_argument("--run", help="a file to time")
    parser.add_argument("--peer", action="store_true", help="ONNX Runtime")
    given = parser.parse_args()
    if given.model:
        write(given.model, given.trees, given.depth, given.grown)
    if given.run:
        rows = np.random.default_rng(1).normal(size=(ROWS, FEATURES)).astype(np.float32)
        for batch in (1, ROWS):
            run = runner(given.run, batch, given.peer)
            parts = [np.ascontiguousarray(rows[i : i + batch]) for i in range(0, ROWS, batch)]
            print(f"batch {batch}: {median(lambda run=run, parts=parts: [run(x) for x in parts], len(parts)):.1f} us")


if __name__ == "__main__":
    main()
