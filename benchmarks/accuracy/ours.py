"""Quantize the benchmark models with Tilewright: outputs on the test part, sizes, seconds.

    python benchmarks/accuracy/ours.py DIR          # DIR with data.py's and train.py's files

Writes DIR/ours.VARIANT.NAME.npz, and the quantized files for peers.py to run too.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import onnx
import tilewright
from tilewright.compiler.quantize.activations import declared_inputs, load_compiled
from tilewright.compiler.quantize.dynamic import quantize_dynamic
from tilewright.compiler.quantize.samples import BATCH, Batch
from tilewright.compiler.quantize.weight_only import quantize_weights

MODELS = {"a": "a", "b": "bc", "c": "bc", "d_wine": "d_wine", "d_cancer": "d_cancer"}


def rows(data: dict[str, np.ndarray], part: str, name: str) -> list[np.ndarray]:
    """Runs of one sample: the files have a batch of one."""
    x = data[f"{part}_x"]
    return list((x[:, :-1] if MODELS[name] == "bc" else x)[:, None])


def outputs(model: onnx.ModelProto | Path, xs: list[np.ndarray]) -> np.ndarray:
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    (name,) = declared_inputs(proto)
    with load_compiled(proto, Batch({name: xs[0]}).signature) as module:
        return np.concatenate([module(x)[0] for x in xs])


def main(place: Path) -> None:
    for name, source in MODELS.items():
        data = dict(np.load(place / f"{source}.npz"))
        path = place / f"{name}.onnx"
        calibrate, test = rows(data, "calibrate", name)[: 32 * BATCH], rows(data, "test", name)
        np.savez(place / f"ours.f32.{name}.npz", y=outputs(path, test))
        variants = {
            "int8": lambda path=path, calibrate=calibrate: tilewright.quantize(path, calibrate, timing=False, blame=False),
            "int8-unsearched": lambda path=path, calibrate=calibrate: tilewright.quantize(
                path, calibrate, timing=False, blame=False, search=False
            ),
        }
        if name != "a":
            variants["dynamic"] = lambda path=path, calibrate=calibrate: quantize_dynamic(path, calibrate, timing=False)
        if name in "bc":
            for bits, group in ((4, 32), (4, 128), (8, 128)):
                variants[f"weights-int{bits}-{group}"] = lambda bits=bits, group=group, path=path, calibrate=calibrate: (
                    quantize_weights(path, calibrate, bits=bits, group=group)
                )
            variants["weights-int4-32-nearest"] = lambda path=path: quantize_weights(path, bits=4, group=32)
        for variant, make in variants.items():
            start = time.perf_counter()
            done = make()
            seconds = time.perf_counter() - start
            onnx.save_model(done.model, place / f"ours.{variant}.{name}.onnx")
            np.savez(place / f"ours.{variant}.{name}.npz", y=outputs(done.model, test))
            print(f"{name} {variant}: {seconds:.1f} s, held out: {done.verdict}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
